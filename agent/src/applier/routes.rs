//! Makes the main table hold the routes that are wanted.
//!
//! Owns every route that the agent writes, apart from those that the fast path installs a moment earlier. It
//! writes nothing before the engine has published what it wants and a full read of the kernel is over, never
//! touches a route that is not ours, and never writes when nothing differs. The agent starts it.
//!
//! INVARIANT: make before break. A removal is only sent when every wanted route of the same destination is
//! confirmed; an addition that fails keeps the old route.

mod plan;

pub use plan::{ObservedRoutes, Plan, plan};

use super::WantedReceiver;
use super::retry::Retries;
use crate::clock;
use crate::netlink::batch::DATAGRAM_MESSAGES_MAX;
use crate::netlink::socket::OpenError;
use crate::netlink::{RouteChange, RouteEvent, RouteSocket, route};
use cutover_engine::wanted::WantedRoute;
use cutover_engine::{BootTime, Wanted};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::{mpsc, watch};
use tracing::{debug, info, warn};

/// LIMIT: events taken at once; more of them wait for the next turn.
const EVENTS_AT_ONCE: usize = 1024;
/// LIMIT: so many changes at once are logged one by one at INFO; more than that at DEBUG with a sum at INFO.
const LOGGED_CHANGES_MAX: usize = 64;

/// What the applier knows and did, for `cutover status`, metrics and tests.
#[derive(Clone, Debug, Default)]
pub struct RouteReport {
    state: Arc<Mutex<State>>,
    known: watch::Sender<bool>,
}

#[derive(Debug, Default)]
struct State {
    observed: ObservedRoutes,
    writes: u64,
    /// The error of each route whose last change failed.
    failing: BTreeMap<WantedRoute, i32>,
    settled: bool,
}

impl RouteReport {
    fn lock(&self) -> MutexGuard<'_, State> {
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
        self.lock().failing.clone()
    }

    /// Whether the kernel holds what is wanted, as far as is known.
    #[must_use]
    pub fn settled(&self) -> bool {
        self.lock().settled
    }
}

/// The applier. Open it in the right network namespace, then [`RouteApplier::run`] it.
#[derive(Debug)]
pub struct RouteApplier {
    socket: RouteSocket,
    wanted: WantedReceiver,
    events: mpsc::Receiver<RouteEvent>,
    report: RouteReport,
    retries: Retries<WantedRoute>,
    last_attempt_at: BootTime,
    expected: Expected,
    /// A full read of the kernel is over.
    synced: bool,
}

impl RouteApplier {
    /// Makes an applier for the network namespace of the calling thread. `wanted` is `None` for as long as
    /// nothing may be written.
    ///
    /// # Errors
    /// When its socket cannot be made.
    pub fn open(
        wanted: WantedReceiver,
        events: mpsc::Receiver<RouteEvent>,
    ) -> Result<(Self, RouteReport), OpenError> {
        let report = RouteReport::default();
        let applier = Self {
            socket: RouteSocket::open()?,
            wanted,
            events,
            report: report.clone(),
            retries: Retries::default(),
            last_attempt_at: BootTime::default(),
            expected: Expected::default(),
            synced: false,
        };
        Ok((applier, report))
    }

    /// Closes differences until the sender of `wanted` or of the events is gone.
    pub async fn run(mut self) {
        let mut events = Vec::with_capacity(EVENTS_AT_ONCE);
        self.wanted.mark_changed();
        loop {
            let due = self.retries.next_after(self.last_attempt_at);
            let differs = tokio::select! {
                changed = self.wanted.changed() => match changed {
                    Ok(()) => { self.take_wanted(); true }
                    Err(_) => return,
                },
                count = self.events.recv_many(&mut events, EVENTS_AT_ONCE) => {
                    if count == 0 {
                        return;
                    }
                    // Every event has to be taken, whatever the ones before it said.
                    events.drain(..).filter(|event| self.take_event(*event)).count() > 0
                }
                () = sleep_until(due) => true,
            };
            if differs && self.synced {
                self.close_difference().await;
            }
        }
    }

    fn take_wanted(&mut self) {
        let wanted = self.wanted.borrow_and_update().clone();
        if let Some(wanted) = wanted {
            self.retries.release(|route| !wanted.routes.contains(route));
            let mut state = self.report.lock();
            state.failing.retain(|route, _| wanted.routes.contains(route));
            self.expected.update(&wanted, &state.observed);
        }
    }

    /// Says whether the event can have made a difference.
    fn take_event(&mut self, event: RouteEvent) -> bool {
        match event {
            RouteEvent::Seen(route, owner) => self.report.lock().observed.seen(route, owner),
            RouteEvent::Gone(route) => {
                self.expected.gone(&route);
                self.report.lock().observed.gone(&route)
            }
            RouteEvent::LinkChanged { ifindex } => {
                self.retries.release(|route| route.ifindex == ifindex);
                true
            }
            RouteEvent::Synced => {
                self.report.known.send_replace(true);
                !std::mem::replace(&mut self.synced, true)
            }
        }
    }

    async fn close_difference(&mut self) {
        let now = clock::now();
        self.last_attempt_at = now;
        let Some(wanted) = self.wanted.borrow().clone() else { return };
        let mut plan = plan(&wanted, &self.report.lock().observed, &self.expected.tolerated);
        plan.add.retain(|change| !self.retries.holds(change.route(), now));
        plan.remove.retain(|route| !self.retries.holds(route, now));
        let loud = plan.add.len() + plan.remove.len() <= LOGGED_CHANGES_MAX;
        let mut added = 0;
        for changes in plan.add.chunks(DATAGRAM_MESSAGES_MAX) {
            added += self.apply(changes, loud);
            tokio::task::yield_now().await;
        }

        let incomplete = plan::incomplete(&wanted, &self.report.lock().observed);
        let removals: Vec<RouteChange> = plan
            .remove
            .into_iter()
            .filter(|route| !incomplete.contains(&route.destination))
            .map(RouteChange::Remove)
            .collect();
        let mut removed = 0;
        for changes in removals.chunks(DATAGRAM_MESSAGES_MAX) {
            removed += self.apply(changes, loud);
            tokio::task::yield_now().await;
        }
        if !loud {
            info!(added, removed, "routes changed");
        }
        let mut state = self.report.lock();
        state.settled =
            crate::applier::routes::plan(&wanted, &state.observed, &self.expected.tolerated).is_empty();
    }

    /// Sends changes and notes what became of them. Returns how many were confirmed.
    fn apply(&mut self, changes: &[RouteChange], loud: bool) -> usize {
        let outcome = self.socket.send(&route::prepare(changes));
        let now = clock::now();
        let mut state = self.report.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.writes += changes.len() as u64;
        let failed: BTreeMap<usize, i32> = match outcome {
            Ok(outcome) => outcome.failed.iter().map(|failure| (failure.index, failure.errno)).collect(),
            Err(error) => {
                warn!(%error, changes = changes.len(), "routes not written");
                (0..changes.len()).map(|index| (index, libc::EIO)).collect()
            }
        };
        for (index, change) in changes.iter().enumerate() {
            let route = change.route();
            match failed.get(&index) {
                None => {
                    self.retries.succeeded(route);
                    state.failing.remove(route);
                    state.observed.confirmed(change);
                    if matches!(change, RouteChange::Remove(_)) {
                        self.expected.gone(route);
                    }
                    log_change(change, loud);
                }
                Some(&errno) => {
                    let first = self.retries.failed(*route, now);
                    state.failing.insert(*route, errno);
                    log_failure(change, errno, first);
                }
            }
        }
        changes.len() - failed.len()
    }
}

/// Which unwanted routes are the fast path's doing.
///
/// While a watch is armed, the fast path may install its routes at any moment, and the notification about them
/// can come before the engine has heard of the announcement. Removing them would take the route from a virtual
/// machine that has just arrived. But a route that was there *before* the watch, from an earlier migration to
/// this host, has to go.
#[derive(Debug, Default)]
struct Expected {
    generations: BTreeSet<u64>,
    /// Existed when its watch was first wanted, and since then without a break.
    stale: BTreeSet<WantedRoute>,
    tolerated: BTreeSet<WantedRoute>,
}

impl Expected {
    fn update(&mut self, wanted: &Wanted, observed: &ObservedRoutes) {
        let mut may_appear = BTreeSet::new();
        let mut stale = BTreeSet::new();
        for watch in wanted.watches.values() {
            let is_new = !self.generations.contains(&watch.generation);
            for route in watch.routes.iter().map(route::normalised) {
                if (is_new && observed.ours.contains(&route)) || self.stale.contains(&route) {
                    stale.insert(route);
                }
                may_appear.insert(route);
            }
        }
        self.generations = wanted.watches.values().map(|watch| watch.generation).collect();
        self.tolerated = may_appear.difference(&stale).copied().collect();
        self.stale = stale;
    }

    /// A stale route is gone: if it comes again, it is the fast path's.
    fn gone(&mut self, route: &WantedRoute) {
        if self.stale.remove(route) {
            self.tolerated.insert(*route);
        }
    }
}

fn log_change(change: &RouteChange, loud: bool) {
    let WantedRoute { destination, ifindex, metric, protocol, .. } = *change.route();
    let what = match change {
        RouteChange::Add(_) => "route added",
        RouteChange::Replace(_) => "route replaced",
        RouteChange::Remove(_) => "route removed",
    };
    if loud {
        info!(%destination, ifindex, metric, protocol, "{what}");
    } else {
        debug!(%destination, ifindex, metric, protocol, "{what}");
    }
}

/// An interface that is down or gone is nothing to worry about: its routes come with its next event.
fn log_failure(change: &RouteChange, errno: i32, first: bool) {
    let WantedRoute { destination, ifindex, metric, .. } = *change.route();
    let error = std::io::Error::from_raw_os_error(errno);
    let expected = matches!(errno, libc::ENODEV | libc::ENETDOWN | libc::ENETUNREACH);
    if first && !expected {
        warn!(%destination, ifindex, metric, %error, "route not written, trying again");
    } else {
        debug!(%destination, ifindex, metric, %error, "route not written, trying again");
    }
}

pub(super) async fn sleep_until(at: Option<BootTime>) {
    match at {
        Some(at) => tokio::time::sleep(at.since(clock::now())).await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use cutover_engine::model::{Trigger, Validation};
    use cutover_engine::wanted::WantedWatch;

    fn elevated() -> WantedRoute {
        WantedRoute {
            destination: "10.65.0.2/32".parse().unwrap(),
            ifindex: 7,
            metric: 512,
            protocol: 3,
            source: None,
        }
    }

    fn watching(generation: u64) -> Wanted {
        let watch = WantedWatch {
            interface: "tap1".into(),
            generation,
            mac: None,
            addresses: BTreeSet::new(),
            trigger: Trigger::Announcement,
            validation: Validation::Strict,
            routes: BTreeSet::from([elevated()]),
        };
        Wanted { watches: BTreeMap::from([(7, watch)]), ..Wanted::default() }
    }

    fn with_route() -> ObservedRoutes {
        ObservedRoutes { ours: BTreeSet::from([elevated()]), ..ObservedRoutes::default() }
    }

    #[test]
    fn a_route_that_appears_under_an_armed_watch_is_tolerated() {
        let mut expected = Expected::default();
        expected.update(&watching(1), &ObservedRoutes::default());
        assert!(expected.tolerated.contains(&elevated()));
        expected.update(&watching(1), &with_route());
        assert!(expected.tolerated.contains(&elevated()), "something else changed meanwhile");
    }

    /// W11: a second migration to the same host while the route of the first is still elevated.
    #[test]
    fn a_route_from_before_the_watch_has_to_go() {
        let mut expected = Expected::default();
        expected.update(&watching(1), &with_route());
        assert!(expected.tolerated.is_empty());
        expected.update(&watching(1), &with_route());
        assert!(expected.tolerated.is_empty(), "not removed yet");
        expected.gone(&elevated());
        assert!(expected.tolerated.contains(&elevated()), "the next one is the fast path's");
    }

    #[test]
    fn nothing_is_tolerated_without_a_watch() {
        let mut expected = Expected::default();
        expected.update(&watching(1), &ObservedRoutes::default());
        expected.update(&Wanted::default(), &with_route());
        assert!(expected.tolerated.is_empty());
    }
}
