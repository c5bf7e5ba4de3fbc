//! Makes the main table hold the routes that are wanted.
//!
//! Owns every route that the agent writes, apart from those that the fast path installs a moment earlier. There are two
//! appliers, one for each family, because a change of an IPv4 route can wait for the kernel's lock of links when a change of
//! an IPv6 route does not ([`Family`]). They write nothing before the engine has published what it wants and a full read of the
//! kernel is over, never touch a route that is not ours, and never write when nothing differs. The agent starts each on a
//! thread of its own.
//!
//! INVARIANT: make before break. A removal is only sent when every wanted route of the same destination is
//! confirmed; an addition that fails keeps the old route.

mod awaited;
mod backlog;
mod expected;
mod log;
#[cfg(test)]
mod model;
mod plan;
mod preview;
mod refused;
mod report;
mod rewrites;
mod zebra;

pub(crate) use plan::place;
pub use plan::{ObservedRoutes, Plan, Target};
pub use preview::RoutePreview;
pub use report::RouteReport;

use super::recount::OwnWrites;
use super::{MainTable, WantedReceiver};
use crate::clock;
use crate::fast_path::Written;
use crate::felix::rivalry::Deletions;
use crate::netlink::batch::DATAGRAM_MESSAGES_MAX;
use crate::netlink::socket::{OpenError, Outcome, SendError};
use crate::netlink::{ByFamily, Family, Owner, RouteChange, RouteEvent, RouteSocket, route};
use crate::retry::Retries;
use awaited::Awaited;
use backlog::Backlog;
use cutover_engine::wanted::WantedRoute;
use cutover_engine::{BootTime, Wanted};
use expected::Expected;
use ipnet::IpNet;
use log::{log_change, log_failure};
use refused::Refusal;
use rewrites::Rewrites;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use tokio::sync::mpsc;
use tracing::warn;
use zebra::Zebra;

/// LIMIT: events taken at once; more of them wait for the next turn.
const EVENTS_AT_ONCE: usize = 1024;

/// The applier of one family. Open both in the right network namespace, then [`RouteApplier::run`] each.
#[derive(Debug)]
pub struct RouteApplier<Table = RouteSocket> {
    family: Family,
    table: Table,
    wanted: WantedReceiver,
    events: mpsc::Receiver<RouteEvent>,
    report: RouteReport,
    /// What was wanted when it was last looked at.
    taken: Arc<Wanted>,
    target: Target,
    /// Destinations to look at: something about them changed, or something there is still to be done.
    dirty: BTreeSet<IpNet>,
    /// More of them, to be written in portions.
    backlog: Backlog,
    retries: Retries<WantedRoute>,
    last_attempt_at: BootTime,
    expected: Expected,
    /// Where Felix runs beside the agent: whether it deletes what comes from here.
    deletions: Option<Deletions>,
    own_writes: OwnWrites<WantedRoute>,
    /// Interfaces that have something which they lacked, as the kernel does not say by itself.
    mended: Option<mpsc::UnboundedReceiver<u32>>,
    fast_path_writes: Option<mpsc::UnboundedReceiver<Written>>,
    awaited: Awaited,
    rewrites: Rewrites,
    zebra: Zebra,
    zebra_forgets: bool,
    /// A full read of the kernel is over.
    synced: bool,
}

impl RouteApplier {
    /// Makes the appliers for the network namespace of the calling thread. `wanted` is `None` for as long as
    /// nothing may be written.
    ///
    /// # Errors
    /// When a socket cannot be made.
    pub fn open_both(
        wanted: &WantedReceiver,
        events: ByFamily<mpsc::Receiver<RouteEvent>>,
    ) -> Result<(ByFamily<Self>, RouteReport), OpenError> {
        let report = RouteReport::default();
        let open = |family, events| Self::open(family, wanted.clone(), events, report.clone());
        let ipv4 = open(Family::Ipv4, events.ipv4)?;
        let ipv6 = open(Family::Ipv6, events.ipv6)?;
        Ok((ByFamily { ipv4, ipv6 }, report))
    }

    fn open(
        family: Family,
        wanted: WantedReceiver,
        events: mpsc::Receiver<RouteEvent>,
        report: RouteReport,
    ) -> Result<Self, OpenError> {
        Ok(Self::on(RouteSocket::open()?, family, wanted, events, report))
    }
}

impl<Table: MainTable> RouteApplier<Table> {
    fn on(
        table: Table,
        family: Family,
        wanted: WantedReceiver,
        events: mpsc::Receiver<RouteEvent>,
        report: RouteReport,
    ) -> Self {
        Self {
            family,
            table,
            wanted,
            events,
            report,
            taken: Arc::default(),
            target: Target::default(),
            dirty: BTreeSet::new(),
            backlog: Backlog::of(family),
            retries: Retries::default(),
            last_attempt_at: BootTime::default(),
            expected: Expected::default(),
            deletions: None,
            own_writes: OwnWrites::default(),
            mended: None,
            fast_path_writes: None,
            awaited: Awaited::default(),
            rewrites: Rewrites::default(),
            zebra: Zebra::default(),
            zebra_forgets: false,
            synced: false,
        }
    }

    /// Watches for routes of ours that somebody else deletes.
    #[must_use]
    pub(crate) fn watching(mut self, deletions: Option<Deletions>) -> Self {
        self.deletions = deletions;
        self
    }

    /// Tries again what failed on an interface when it comes from here.
    #[must_use]
    pub fn mended_by(self, mended: mpsc::UnboundedReceiver<u32>) -> Self {
        Self { mended: Some(mended), ..self }
    }

    /// Leaves alone what the fast path says that it has written: the kernel's word of it is on the way.
    #[must_use]
    pub fn after_fast_path(self, writes: mpsc::UnboundedReceiver<Written>) -> Self {
        Self { fast_path_writes: Some(writes), ..self }
    }

    /// Closes differences until the sender of `wanted` or of the events is gone.
    pub async fn run(mut self) {
        let mut events = Vec::with_capacity(EVENTS_AT_ONCE);
        self.wanted.mark_changed();
        loop {
            let retry = self.retries.next_after(self.last_attempt_at);
            let due = retry.into_iter().chain(self.awaited.next()).chain(self.rewrites.next()).min();
            let differs = tokio::select! {
                changed = self.wanted.changed() => match changed {
                    Ok(()) => { self.take_wanted(); true }
                    Err(_) => return,
                },
                count = self.events.recv_many(&mut events, EVENTS_AT_ONCE) => {
                    if count == 0 {
                        return;
                    }
                    // ORDER: after what the fast path has written before them.
                    false
                }
                ifindex = next_of(&mut self.mended) => self.retries.release(|route| route.ifindex == ifindex),
                () = Backlog::due(self.backlog.next_look(), self.backlog.is_empty()) => false,
                (runs, since) = self.zebra.answer() => { self.take_zebra(runs, since); false }
                () = clock::sleep_until(due) => true,
            };
            let differs = self.take_what_came_meanwhile(&mut events) | differs;
            if differs && self.synced {
                self.close_difference().await;
            }
            self.write_portion().await;
            self.write_again();
        }
    }

    /// Every event has to be taken, whatever the ones before it said.
    fn take_events(&mut self, events: &mut Vec<RouteEvent>) -> bool {
        events.drain(..).fold(false, |differs, event| self.take_event(event) | differs)
    }

    /// What was told before this moment counts before anything is written. Says whether it can have made a difference.
    fn take_what_came_meanwhile(&mut self, events: &mut Vec<RouteEvent>) -> bool {
        if let Some(writes) = &mut self.fast_path_writes {
            let state = self.report.lock(self.family);
            while let Ok(written) = writes.try_recv() {
                self.awaited.written(&written.routes, written.at, &state.observed);
            }
        }
        while events.len() < EVENTS_AT_ONCE
            && let Ok(event) = self.events.try_recv()
        {
            events.push(event);
        }
        let now = clock::now();
        self.take_events(events) | self.awaited.expire(now) | self.rewrites.expire(now)
    }

    fn take_wanted(&mut self) {
        let Some(wanted) = self.wanted.borrow_and_update().clone() else { return };
        let (family, state) = (self.family, self.report.lock(self.family));
        let concerned = self.target.update(family, &wanted, &self.taken, &state.observed);
        drop(state);
        match concerned {
            Some(concerned) => self.dirty.extend(concerned),
            None => self.look_at_everything(),
        }
        let mut state = self.report.lock(self.family);
        let are_suspended_as_before = wanted.suspended == self.taken.suspended;
        if wanted.watches != self.taken.watches || !are_suspended_as_before {
            self.expected.update(self.family, &wanted, &state.observed);
            let suspended = wanted.suspended.iter().filter(|route| family.has(route)).map(route::normalised);
            let tolerated = self.expected.tolerated.iter().copied().chain(suspended).collect();
            let before = std::mem::replace(&mut self.target.tolerated, tolerated);
            let changed = before.symmetric_difference(&self.target.tolerated);
            self.dirty.extend(changed.map(|route| route.destination));
        }
        self.retries.release(|route| !self.target.wants(route));
        state.failing.retain(|route, refusal| self.target.wants(route) != refusal.is_removal);
        drop(state);
        self.rewrites.release(|route| self.target.wants(route));
        self.rewrites.look_again(clock::now());
        self.taken = wanted;
    }

    /// Says whether the event can have made a difference.
    fn take_event(&mut self, event: RouteEvent) -> bool {
        match event {
            RouteEvent::Seen(route, owner) => self.take_seen(route, owner),
            RouteEvent::Gone(route) if self.rewrites.is_echo(&route) => {
                let is_news = self.report.lock(self.family).observed.gone(&route);
                self.look_at(&route, is_news)
            }
            RouteEvent::Gone(route) => {
                self.note_gone(&route);
                let is_news = self.take_gone(&route);
                let is_wanted = is_news && self.target.wants(&route);
                if let Some(deletions) = self.deletions.as_mut().filter(|_| is_wanted) {
                    deletions.gone(&route, clock::now());
                }
                is_news
            }
            RouteEvent::LinkChanged { ifindex, running } => {
                if self.zebra.matters() {
                    self.rewrites.carrier(
                        ifindex,
                        running,
                        &self.report.lock(self.family).observed,
                        clock::now(),
                    );
                }
                self.note_change();
                self.retries.release(|route| route.ifindex == ifindex);
                true
            }
            RouteEvent::ChangedElsewhere => {
                self.note_change();
                false
            }
            RouteEvent::AddressAppeared { address } => {
                self.retries.release(|route| route.source == Some(address))
            }
            RouteEvent::Recount { held, since } => {
                self.note_change();
                let believed = self.report.lock(self.family).observed.all();
                let missing = self.own_writes.missing(&believed, |route| held.contains_key(route), since);
                let lost = missing.iter().filter(|route| self.take_gone(route)).count();
                let family = self.family;
                let held = held.iter().filter(|(route, _)| family.has(route));
                let found = held.filter(|(route, owner)| self.take_seen(**route, **owner)).count();
                lost + found > 0
            }
            RouteEvent::Synced => {
                self.report.note_known(self.family);
                let is_first = !std::mem::replace(&mut self.synced, true);
                if is_first {
                    if self.zebra.matters() {
                        self.rewrites.found(&self.report.lock(self.family).observed, clock::now());
                    }
                    self.look_at_everything();
                }
                is_first
            }
        }
    }

    fn take_seen(&mut self, route: WantedRoute, owner: Owner) -> bool {
        self.awaited.told_of(&route);
        if owner == Owner::Ours && self.zebra.matters() {
            self.rewrites.appeared(&route, clock::now());
        }
        let is_news = self.report.lock(self.family).observed.seen(route, owner);
        let is_new = owner == Owner::Ours && is_news && !self.rewrites.is_echo(&route);
        if let Some(deletions) = self.deletions.as_mut().filter(|_| is_new) {
            deletions.appeared(route, clock::now());
        }
        self.look_at(&route, is_news)
    }

    fn take_gone(&mut self, route: &WantedRoute) -> bool {
        self.awaited.told_of(route);
        self.own_writes.gone(route);
        self.rewrites.gone(route);
        let is_news = self.report.lock(self.family).observed.gone(route);
        self.look_at(route, is_news)
    }

    fn look_at_everything(&mut self) {
        self.dirty.extend(self.target.destinations());
        self.dirty.extend(self.report.lock(self.family).observed.destinations());
    }

    /// What failed about this very route is another matter now.
    fn look_at(&mut self, route: &WantedRoute, is_news: bool) -> bool {
        if is_news {
            self.dirty.insert(route.destination);
            self.retries.succeeded(route);
            self.report.lock(self.family).failing.remove(route);
        }
        is_news
    }

    /// A route is gone: if it comes again under an armed watch, it is the fast path's.
    fn note_gone(&mut self, route: &WantedRoute) {
        if self.expected.gone(route) {
            self.target.tolerated.insert(*route);
        }
    }

    async fn close_difference(&mut self) {
        let now = clock::now();
        self.last_attempt_at = now;
        if self.wanted.borrow().is_none() {
            return;
        }
        let plan = self.plan(&self.dirty, now);
        // ORDER: nothing is sent twice; what is put off is compared again when its turn comes.
        let looked_at = if self.backlog.takes(&mut self.dirty, plan.len(), now) {
            BTreeSet::new()
        } else {
            self.carry_out(plan, true).await;
            std::mem::take(&mut self.dirty)
        };
        self.keep_what_differs(looked_at);
    }

    /// The next ones of the backlog, if their time has come. Many are logged one by one at DEBUG, with a sum at INFO.
    async fn write_portion(&mut self) {
        let now = clock::now();
        let portion = self.backlog.portion(now);
        if portion == 0 {
            return;
        }
        let (mut plan, mut looked_at) = (Plan::default(), BTreeSet::new());
        while plan.len() < portion
            && let Some(destination) = self.backlog.pop()
        {
            plan.append(self.plan([&destination], now));
            looked_at.insert(destination);
        }
        let sent = plan.len();
        let (added, removed) = self.carry_out(plan, !self.backlog.is_many()).await;
        self.backlog.wrote(sent, added, removed);
        self.keep_what_differs(looked_at);
    }

    /// What has to be written about these destinations and may be tried now.
    fn plan<'a>(&self, destinations: impl IntoIterator<Item = &'a IpNet>, now: BootTime) -> Plan {
        let mut plan = Plan::default();
        let state = self.report.lock(self.family);
        for destination in destinations {
            self.target.compare(&state.observed, *destination, &mut plan);
        }
        plan.add.retain(|change| {
            let route = change.route();
            let is_there = self.awaited.contains(route) || self.rewrites.is_echo(route);
            !self.retries.holds(route, now) && !is_there
        });
        plan.remove.retain(|route| !self.retries.holds(route, now) && !self.rewrites.is_echo(route));
        plan
    }

    /// Sends it. Returns how many additions and removals were confirmed.
    async fn carry_out(&mut self, plan: Plan, loud: bool) -> (usize, usize) {
        let added = self.apply_all(&plan.add, loud).await;
        let mut removals = plan.remove;
        {
            let state = self.report.lock(self.family);
            removals.retain(|route| !self.target.is_incomplete(&state.observed, route.destination));
        }
        let removals: Vec<RouteChange> = removals.into_iter().map(RouteChange::Remove).collect();
        (added, self.apply_all(&removals, loud).await)
    }

    /// What could not be done stays to be looked at.
    fn keep_what_differs(&mut self, looked_at: BTreeSet<IpNet>) {
        let (mut state, target) = (self.report.lock(self.family), &self.target);
        self.dirty.extend(looked_at.into_iter().filter(|destination| {
            let mut left = Plan::default();
            target.compare(&state.observed, *destination, &mut left);
            !left.is_empty()
        }));
        state.settled = self.dirty.is_empty() && self.backlog.is_empty();
        drop(state);
        if !self.taken.is_recalled && self.backlog.is_empty() {
            self.report.note_attempted(self.family);
        }
    }

    /// Sends changes in their order. Returns how many were confirmed.
    async fn apply_all(&mut self, changes: &[RouteChange], loud: bool) -> usize {
        let mut confirmed = 0;
        for changes in changes.chunks(DATAGRAM_MESSAGES_MAX) {
            confirmed += self.send(changes, loud);
            tokio::task::yield_now().await;
        }
        confirmed
    }

    /// Sends changes in their order, and notes what became of them. Returns how many were confirmed.
    fn send(&mut self, changes: &[RouteChange], loud: bool) -> usize {
        let sent_at = clock::now();
        let outcome = self.table.change(changes);
        self.note(changes, sent_at, outcome, loud)
    }

    /// Notes what became of changes. Returns how many were confirmed.
    fn note(
        &mut self,
        changes: &[RouteChange],
        sent_at: BootTime,
        outcome: Result<Outcome, SendError>,
        loud: bool,
    ) -> usize {
        let now = clock::now();
        let report = self.report.clone();
        let mut state = report.lock(self.family);
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
                    if let Some(deletions) =
                        self.deletions.as_mut().filter(|_| !matches!(change, RouteChange::Remove(_)))
                    {
                        deletions.appeared(*route, now);
                    }
                    if matches!(change, RouteChange::Remove(_)) {
                        self.own_writes.gone(route);
                        self.note_gone(route);
                    } else {
                        self.own_writes.sent(*route, sent_at);
                    }
                    log_change(change, loud);
                }
                Some(&errno) => {
                    let first = self.retries.failed(*route, now);
                    let is_removal = matches!(change, RouteChange::Remove(_));
                    state.failing.insert(*route, Refusal { errno, is_removal });
                    log_failure(change, errno, first);
                }
            }
        }
        changes.len() - failed.len()
    }
}

/// The next of what may come; never, if nothing does.
async fn next_of(stream: &mut Option<mpsc::UnboundedReceiver<u32>>) -> u32 {
    if let Some(stream) = stream
        && let Some(next) = stream.recv().await
    {
        return next;
    }
    std::future::pending().await
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::sync::watch;

    /// The word of the write was lost, and that of the removal as well.
    #[test]
    fn what_does_not_come_up_in_a_recount_is_gone() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let _inside = runtime.enter();
        let (_wanted, receiver) = watch::channel(None);
        let events = ByFamily::each(|_| mpsc::channel(1).1);
        let (appliers, report) = RouteApplier::open_both(&receiver, events).unwrap();
        let mut applier = appliers.ipv4;
        let route = |metric| {
            let destination = "10.65.0.2/32".parse().unwrap();
            WantedRoute { destination, ifindex: 7, metric, protocol: 3, source: None }
        };
        let [written, seen, meanwhile] = [512, 1024, 4096].map(route);
        applier.take_event(RouteEvent::Synced);
        let confirm = |applier: &mut RouteApplier, route| {
            applier.note(&[RouteChange::Add(route)], clock::now(), Ok(Outcome::default()), false);
        };
        confirm(&mut applier, written);
        let since = clock::now();
        // The kernel is asked, and the answer is on its way.
        confirm(&mut applier, meanwhile);
        let recount = RouteEvent::Recount { held: Arc::new([(seen, Owner::Ours)].into()), since };
        assert!(applier.take_event(recount.clone()), "there is something to do");
        assert_eq!(report.routes(), BTreeSet::from([seen, meanwhile]));
        assert!(applier.dirty.contains(&written.destination));
        assert!(!applier.take_event(recount), "nothing new");
    }
}
