//! Destinations of which there are too many to be looked at in one go.
//!
//! Owns their order, and the pace at which they are written ([`crate::applier::pace`]). A change for one endpoint never waits behind
//! them: it is exempt, or, if there are many such changes, next.

use crate::applier::pace::{PORTION, Pace};
use crate::netlink::{Family, listeners};
use cutover_engine::BootTime;
use ipnet::IpNet;
use std::collections::BTreeSet;
use tracing::info;

#[derive(Debug)]
pub(super) struct Backlog {
    /// Of small changes.
    first: BTreeSet<IpNet>,
    rest: BTreeSet<IpNet>,
    pace: Pace,
    /// There was something in `rest` since this was last empty: too much to be logged one by one.
    is_many: bool,
    /// Confirmed since then.
    added: usize,
    removed: usize,
}

impl Backlog {
    /// That of routes of one family.
    pub(super) fn of(family: Family) -> Self {
        Self {
            first: BTreeSet::new(),
            rest: BTreeSet::new(),
            pace: Pace::for_listeners(listeners::of_routes(family)),
            is_many: false,
            added: 0,
            removed: 0,
        }
    }

    /// Takes destinations in if what they need, so many writes, has to be paced. Says whether it has.
    pub(super) fn takes(&mut self, destinations: &mut BTreeSet<IpNet>, writes: usize, now: BootTime) -> bool {
        if writes <= PORTION && self.pace.exempts(writes, now) {
            return false;
        }
        self.is_many |= writes > PORTION;
        let queue = if writes <= PORTION { &mut self.first } else { &mut self.rest };
        queue.append(destinations);
        true
    }

    /// How many writes may be sent now, none if the next portion is not due yet.
    pub(super) fn portion(&mut self, now: BootTime) -> usize {
        if !self.is_empty() && self.pace.may_go_on(now) { self.pace.portion() } else { 0 }
    }

    pub(super) fn pop(&mut self) -> Option<IpNet> {
        self.first.pop_first().or_else(|| self.rest.pop_first())
    }

    /// So many were sent, and so many of them confirmed.
    pub(super) fn wrote(&mut self, sent: usize, added: usize, removed: usize) {
        self.pace.wrote(sent);
        self.added += added;
        self.removed += removed;
        if self.is_empty() {
            self.pace.done();
            if std::mem::take(&mut self.is_many) {
                info!(added = self.added, removed = self.removed, "routes changed");
            }
            (self.added, self.removed) = (0, 0);
        }
    }

    pub(super) const fn is_many(&self) -> bool {
        self.is_many
    }

    pub(super) fn is_empty(&self) -> bool {
        self.first.is_empty() && self.rest.is_empty()
    }

    /// Waits until the next portion may be due; for ever, if there is none.
    pub(super) async fn due(next_look: Option<BootTime>, is_empty: bool) {
        if is_empty {
            std::future::pending().await
        } else if next_look.is_some() {
            crate::clock::sleep_until(next_look).await;
        } else {
            // Whoever has something to say comes first.
            tokio::task::yield_now().await;
        }
    }

    pub(super) const fn next_look(&self) -> Option<BootTime> {
        self.pace.next_look()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nets(numbers: std::ops::Range<u8>) -> BTreeSet<IpNet> {
        numbers.map(|number| IpNet::from(std::net::IpAddr::from([10, 65, 0, number]))).collect()
    }

    #[test]
    fn a_small_change_does_not_wait_behind_many() {
        let (mut backlog, now) = (Backlog::of(Family::Ipv4), BootTime(1_000_000_000_000));
        let mut many = nets(100..200);
        assert!(backlog.takes(&mut many, 2 * PORTION, now) && many.is_empty());
        let mut one = nets(250..251);
        assert!(!backlog.takes(&mut one, 2, now), "exempt");
        assert_eq!(one.len(), 1);
        // So many in a second are paced, but in front of the others.
        let mut small = nets(240..250);
        assert!(backlog.takes(&mut small, PORTION - 1, now));
        let order: Vec<IpNet> = std::iter::from_fn(|| backlog.pop()).collect();
        let expected: Vec<IpNet> = nets(240..250).into_iter().chain(nets(100..200)).collect();
        assert_eq!(order, expected);
        assert!(backlog.is_empty());
    }
}
