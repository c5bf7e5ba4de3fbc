//! What the route appliers know and did, for `cutover status`, metrics, tests and the other appliers.

use super::ObservedRoutes;
use super::refused::Refusal;
use crate::netlink::{ByFamily, Family};
use cutover_engine::wanted::WantedRoute;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::watch;

/// The shared record of both families. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct RouteReport {
    states: Arc<ByFamily<Mutex<State>>>,
    known: watch::Sender<bool>,
    attempted: watch::Sender<bool>,
}

/// What the applier of one family knows and did. Nobody keeps it locked while the kernel is busy.
#[derive(Debug, Default)]
pub(super) struct State {
    pub(super) observed: ObservedRoutes,
    pub(super) writes: u64,
    /// Each route whose last change failed, until the kernel shows it otherwise.
    pub(super) failing: BTreeMap<WantedRoute, Refusal>,
    pub(super) settled: bool,
    known: bool,
    attempted: bool,
}

impl RouteReport {
    pub(super) fn lock(&self, family: Family) -> MutexGuard<'_, State> {
        // Every change of the state is a single call, so a panic elsewhere leaves nothing half-done.
        self.states.of(family).lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What is known of each family.
    fn each<T>(&self, ask: impl Fn(&State) -> T) -> [T; 2] {
        Family::BOTH.map(|family| ask(&self.lock(family)))
    }

    /// The routes of ours that exist.
    #[must_use]
    pub fn routes(&self) -> BTreeSet<WantedRoute> {
        self.each(|state| state.observed.ours.clone()).into_iter().flatten().collect()
    }

    /// The routes to workload interfaces that exist, whoever made them.
    #[must_use]
    pub fn all_routes(&self) -> BTreeSet<WantedRoute> {
        self.each(|state| state.observed.all()).into_iter().flatten().collect()
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
        self.each(|state| state.writes).into_iter().sum()
    }

    /// Routes whose last change failed, with the `errno`.
    #[must_use]
    pub fn failing(&self) -> BTreeMap<WantedRoute, i32> {
        self.refusals().into_iter().map(|(route, refusal)| (route, refusal.errno)).collect()
    }

    /// The same for people: what the kernel refuses and why. `name` is that of an interface.
    #[must_use]
    pub fn refused(&self, name: impl Fn(u32) -> Option<String>) -> BTreeMap<String, String> {
        self.refusals().iter().map(|(route, refusal)| refusal.describe(route, name(route.ifindex))).collect()
    }

    fn refusals(&self) -> BTreeMap<WantedRoute, Refusal> {
        self.each(|state| state.failing.clone()).into_iter().flatten().collect()
    }

    /// Whether the kernel holds what is wanted, as far as is known.
    #[must_use]
    pub fn settled(&self) -> bool {
        self.each(|state| state.settled) == [true; 2]
    }

    /// Says that a full read of one family has been taken in.
    pub(super) fn note_known(&self, family: Family) {
        self.lock(family).known = true;
        if self.each(|state| state.known) == [true; 2] {
            self.known.send_replace(true);
        }
    }

    /// Says that everything that is wanted of one family has been tried.
    pub(super) fn note_attempted(&self, family: Family) {
        self.lock(family).attempted = true;
        // ORDER: noted before it is looked at, so that whichever is second sees both.
        if self.each(|state| state.attempted) == [true; 2] {
            self.attempted.send_if_modified(|attempted| !std::mem::replace(attempted, true));
        }
    }

    /// Turns true once everything that was wanted at first has been tried: routes come before whatever can wait.
    #[must_use]
    pub fn attempted(&self) -> watch::Receiver<bool> {
        self.attempted.subscribe()
    }
}
