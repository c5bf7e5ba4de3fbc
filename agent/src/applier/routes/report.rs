//! What the route applier knows and did, for `cutover status`, metrics, tests and the other appliers.

use super::ObservedRoutes;
use super::refused::Refusal;
use cutover_engine::wanted::WantedRoute;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::watch;

/// The shared record. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct RouteReport {
    state: Arc<Mutex<State>>,
    known: watch::Sender<bool>,
    attempted: watch::Sender<bool>,
}

#[derive(Debug, Default)]
pub(super) struct State {
    pub(super) observed: ObservedRoutes,
    pub(super) writes: u64,
    /// Each route whose last change failed, until the kernel shows it otherwise.
    pub(super) failing: BTreeMap<WantedRoute, Refusal>,
    pub(super) settled: bool,
}

impl RouteReport {
    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        // Every change of the state is a single call, so a panic elsewhere leaves nothing half-done.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The routes of ours that exist.
    #[must_use]
    pub fn routes(&self) -> BTreeSet<WantedRoute> {
        self.lock().observed.ours.clone()
    }

    /// The routes to workload interfaces that exist, whoever made them.
    #[must_use]
    pub fn all_routes(&self) -> BTreeSet<WantedRoute> {
        let state = self.lock();
        state.observed.ours.union(&state.observed.others).copied().collect()
    }

    /// Waits until a full read of the kernel has been taken in, so that a route that is not there is absent.
    pub async fn known(&self) {
        let mut known = self.known.subscribe();
        // The sender lives in `self`.
        let _ = known.wait_for(|known| *known).await;
    }

    /// How many changes have been sent to the kernel.
    #[must_use]
    pub fn writes(&self) -> u64 {
        self.lock().writes
    }

    /// Routes whose last change failed, with the `errno`.
    #[must_use]
    pub fn failing(&self) -> BTreeMap<WantedRoute, i32> {
        self.lock().failing.iter().map(|(route, refusal)| (*route, refusal.errno)).collect()
    }

    /// The same for people: what the kernel refuses and why. `name` is that of an interface.
    #[must_use]
    pub fn refused(&self, name: impl Fn(u32) -> Option<String>) -> BTreeMap<String, String> {
        let failing = self.lock().failing.clone();
        failing.iter().map(|(route, refusal)| refusal.describe(route, name(route.ifindex))).collect()
    }

    /// Whether the kernel holds what is wanted, as far as is known.
    #[must_use]
    pub fn settled(&self) -> bool {
        self.lock().settled
    }

    /// Says that a full read has been taken in.
    pub(super) fn note_known(&self) {
        self.known.send_replace(true);
    }

    /// Says that everything that is wanted has been tried.
    pub(super) fn note_attempted(&self) {
        self.attempted.send_if_modified(|attempted| !std::mem::replace(attempted, true));
    }

    /// Turns true once everything that was wanted at first has been tried: routes come before whatever can wait.
    #[must_use]
    pub fn attempted(&self) -> watch::Receiver<bool> {
        self.attempted.subscribe()
    }
}
