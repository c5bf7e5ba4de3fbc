//! Writes routes again where FRR's zebra runs on the host, which would not announce them otherwise ([`super::rewrites`] says which).
//!
//! ORDER: a stand-in with a worse metric comes first and goes last, so that the kernel always has a route. Each step is only sent for
//! what the step before was confirmed for. What a kill leaves behind is a route of ours that nobody wants, which the next life removes
//! once the wanted one is there.

use super::RouteApplier;
use super::rewrites::stand_in;
use crate::applier::MainTable;
use crate::clock;
use crate::netlink::{Family, RouteChange};
use cutover_engine::BootTime;
use cutover_engine::wanted::WantedRoute;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;
use tokio::task::JoinHandle;
use tracing::{debug, info};

/// LIMIT: going through the processes of a host takes milliseconds, and a host that is being filled would ask for each machine.
const KNOWN_FOR: Duration = Duration::from_secs(5);
/// LIMIT: the same where there was none a moment ago; for so long a machine waits whose tap gets its carrier right after zebra's start.
const ASKED_EVERY: Duration = Duration::from_secs(1);
/// LIMIT: what could not be written again is no hurry: something was wrong with it.
const TRY_AGAIN: Duration = Duration::from_secs(1);
/// LIMIT: so many at once are logged one by one at INFO; more than that, at the agent's start, as a sum.
const LOGGED_MAX: usize = 8;

/// Whether zebra runs here. Looked up only when it matters, on a thread that may block.
#[derive(Default)]
pub(super) struct Zebra {
    runs: Option<Arc<dyn Fn() -> bool + Send + Sync>>,
    /// The look that is under way.
    looking: Option<JoinHandle<bool>>,
    /// When the last look began.
    asked_at: Option<BootTime>,
    /// What it has found.
    is_there: bool,
}

/// What is known about zebra.
enum Known {
    Runs,
    /// The answer is on its way ([`Zebra::answer`]).
    Soon,
    /// It is too early to ask again.
    AskAt(BootTime),
}

impl fmt::Debug for Zebra {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Zebra").field("is_there", &self.is_there).finish_non_exhaustive()
    }
}

impl Zebra {
    /// One that `runs` says whether it runs.
    pub(super) fn new(runs: impl Fn() -> bool + Send + Sync + 'static) -> Self {
        Self { runs: Some(Arc::new(runs)), ..Self::default() }
    }

    /// Whether anybody can tell.
    pub(super) const fn matters(&self) -> bool {
        self.runs.is_some()
    }

    fn ask(&mut self, now: BootTime) -> Known {
        if self.looking.is_some() {
            return Known::Soon;
        }
        // Nothing is due if nobody can tell.
        let Some(runs) = &self.runs else { return Known::Soon };
        let pause = if self.is_there { KNOWN_FOR } else { ASKED_EVERY };
        match self.asked_at.filter(|at| now.since(*at) < pause) {
            Some(_) if self.is_there => Known::Runs,
            Some(at) => Known::AskAt(at + pause),
            None => {
                let runs = Arc::clone(runs);
                self.looking = Some(tokio::task::spawn_blocking(move || runs()));
                self.asked_at = Some(now);
                Known::Soon
            }
        }
    }

    /// Whether a look has found it, and when the look began. Never comes if nobody looks.
    pub(super) async fn answer(&mut self) -> (bool, BootTime) {
        let (Some(look), Some(since)) = (&mut self.looking, self.asked_at) else {
            return std::future::pending().await;
        };
        // What cannot be asked about is not gone: to write again is harmless without it.
        let is_there = look.await.unwrap_or(true);
        self.looking = None;
        self.is_there = is_there;
        (is_there, since)
    }
}

impl<Table: MainTable> RouteApplier<Table> {
    /// Tells FRR's zebra, if `runs` says that it runs on this host, of routes that it would not announce otherwise.
    #[must_use]
    pub fn telling_zebra(mut self, runs: impl Fn() -> bool + Send + Sync + 'static) -> Self {
        self.zebra = Zebra::new(runs);
        self
    }

    /// Its zebra forgets all IPv4 routes of taps whenever any interface changes (`CutoverFrrForgets`).
    #[must_use]
    pub const fn which_forgets(mut self, forgets: bool) -> Self {
        self.zebra_forgets = forgets;
        self
    }

    /// An interface has changed: all IPv4 routes may be forgotten by now.
    pub(super) fn note_change(&mut self) {
        if self.zebra_forgets && self.zebra.matters() && self.family == Family::Ipv4 {
            self.rewrites.forgotten(&self.report.lock(self.family).observed, clock::now());
        }
    }

    /// A look for zebra is over.
    pub(super) fn take_zebra(&mut self, runs: bool, since: BootTime) {
        if runs {
            self.rewrites.look_again(clock::now());
        } else {
            // One that starts later finds the routes where they are, with their carrier.
            debug!("no zebra on this host: nothing is written again");
            self.rewrites.give_up(since);
        }
    }

    /// Writes a portion of what is due again.
    pub(super) fn write_again(&mut self) {
        let now = clock::now();
        if !self.rewrites.is_time(now) || !self.synced || self.taken.is_recalled {
            return;
        }
        if !self.backlog.is_empty() {
            return self.rewrites.put_off(now);
        }
        let may = |route: &WantedRoute| {
            // While somebody is awaited on the tap, its routes are the fast path's to write. What is not there will be news when it is.
            self.target.wants(route) && self.has(route) && !self.taken.watches.contains_key(&route.ifindex)
        };
        let ready = self.rewrites.ready(now, may);
        if ready.is_empty() {
            return;
        }
        match self.zebra.ask(now) {
            Known::Runs => {}
            Known::Soon => return,
            Known::AskAt(at) => return self.rewrites.look_again(at),
        }
        self.rewrites.begin(&ready, now);
        let pairs: Vec<(WantedRoute, WantedRoute)> =
            ready.into_iter().filter_map(|route| Some((route, stand_in(&route)?))).collect();
        self.write(pairs.iter().map(|(_, stand_in)| RouteChange::Add(*stand_in)).collect());
        let (pairs, failed): (Vec<_>, Vec<_>) =
            pairs.into_iter().partition(|(_, stand_in)| self.has(stand_in));
        for (route, stand_in) in failed {
            // What went with its interface comes anew with the next one.
            self.rewrites.again(route, now + TRY_AGAIN);
            self.report.lock(self.family).failing.remove(&stand_in);
        }
        let anew =
            pairs.iter().flat_map(|(route, _)| [RouteChange::Remove(*route), RouteChange::Add(*route)]);
        self.write(anew.collect());
        let done: Vec<_> = pairs.into_iter().filter(|(route, _)| self.has(route)).collect();
        self.write(done.iter().map(|(_, stand_in)| RouteChange::Remove(*stand_in)).collect());
        // What is not as it should be now is the usual difference.
        if done.len() > LOGGED_MAX {
            info!(routes = done.len(), "routes written again: FRR may have forgotten them");
            return;
        }
        for (WantedRoute { destination, ifindex, metric, .. }, _) in &done {
            info!(%destination, ifindex, metric, "route written again: FRR may have forgotten it");
        }
    }

    fn has(&self, route: &WantedRoute) -> bool {
        self.report.lock(self.family).observed.has(route)
    }

    fn write(&mut self, changes: Vec<RouteChange>) {
        if changes.is_empty() {
            return;
        }
        self.dirty.extend(changes.iter().map(|change| change.route().destination));
        self.send(&changes, false);
    }
}
