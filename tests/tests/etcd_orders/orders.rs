//! Which orders there are. Pure.
//!
//! A scenario is a list of phases, a phase a set of chains of steps. Steps of one chain keep their order; the chains of
//! a phase are shuffled in every way there is. This is all that etcd can deliver, because
//!
//! * a cluster has one order of revisions, and an agent takes everything in that order (it reads everything again when
//!   its member sends something out of order), so an order of deliveries is an order of writes;
//! * the writes of one key are a chain: each is a compare-and-swap on the one before;
//! * writes of different keys have no order. A driver has one, but a cloud has several drivers and a resync, each of which
//!   reads the database and then writes by itself. So here nothing is assumed about it, except for what nobody writes who knows
//!   what is the case: that a migration has succeeded before it has ([`says_too_much`]);
//! * what happens on a host is a chain for each tap: plugged, announced, unplugged. It has no order relative to etcd
//!   within a phase;
//! * phases are Nova's: it begins the next call to Neutron, or the migration of the memory, only when the one before has
//!   been answered, which is after the driver's last write. Only what the driver writes then and what the machine does at
//!   that time overlap, and these are in one phase.
//!
//! The agents of both hosts take part, so that what they report interleaves as it does; where the order of the other
//! host's reports is the point, the test plays that host (`far`). After each step there is a pause in which every agent acts
//! on it; in every other order writes that follow one another are made in one go instead, so that agents get several at once.

use std::collections::BTreeSet;

/// A host by number, or the one that the test plays.
pub(crate) type HostNumber = usize;

/// Steps of one phase that keep their order.
pub(crate) type Chain = Vec<Step>;

/// What may happen.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) enum Step {
    /// A LiveMigration is written, new or with the value that it has.
    Begins {
        attempt: u8,
        from: HostNumber,
        to: HostNumber,
    },
    /// The one to this host is deleted.
    Ends(HostNumber),
    /// The endpoint on a host is written, new or with the value that it has.
    Written(HostNumber),
    /// It is deleted.
    Gone(HostNumber),
    Plugged(HostNumber),
    Unplugged(HostNumber),
    /// The machine runs here from now on, and its hypervisor announces it.
    Moves(HostNumber),
    /// The same, and nobody hears of it.
    MovesSilently(HostNumber),
    /// The machine is gone.
    Stops,
    /// The host that the test plays removes the status that it reported.
    FarStatusGone,
}

impl Step {
    pub(crate) const fn is_write(self) -> bool {
        matches!(
            self,
            Self::Begins { .. } | Self::Ends(_) | Self::Written(_) | Self::Gone(_) | Self::FarStatusGone
        )
    }
}

/// One way through one scenario, for one machine.
#[derive(Clone, Debug)]
pub(crate) struct Script {
    pub(crate) scenario: &'static str,
    /// Where the machine runs at first.
    pub(crate) home: HostNumber,
    pub(crate) phases: Vec<Vec<Segment>>,
}

impl Script {
    /// The same order, without pauses between writes.
    pub(crate) fn in_fewer_rounds(&self) -> Self {
        let phases = self.phases.iter().map(|phase| in_one_go(&phase.concat())).collect();
        Self { phases, ..self.clone() }
    }
}

/// What happens without a pause: writes one after the other, or one event on a host.
pub(crate) type Segment = Vec<Step>;

/// What happens between two answers that Nova gets.
pub(crate) struct Phase {
    pub(crate) chains: Vec<Chain>,
    /// Or only as it is written here.
    pub(crate) is_shuffled: bool,
}

/// Phases, one after the other.
pub(crate) struct Scenario {
    pub(crate) name: &'static str,
    pub(crate) home: HostNumber,
    pub(crate) phases: Vec<Phase>,
}

impl Scenario {
    /// A script for every order of each shuffled phase, while the other phases are played as they are written.
    pub(crate) fn scripts(&self) -> Vec<Script> {
        let plain: Vec<Vec<Segment>> =
            self.phases.iter().map(|phase| in_one_go(&phase.chains.concat())).collect();
        let script = |position: usize, segments| {
            let mut phases = plain.clone();
            phases[position] = segments;
            Script { scenario: self.name, home: self.home, phases }
        };
        let mut scripts = Vec::new();
        for (position, phase) in self.phases.iter().enumerate().filter(|(_, phase)| phase.is_shuffled) {
            let before: Vec<Step> = plain[..position].concat().concat();
            let is_told = |order: &Vec<Step>| !says_too_much(self.home, &before, order);
            for (number, order) in shuffles(&phase.chains).into_iter().filter(is_told).enumerate() {
                let segments = if number % 2 == 1 { in_one_go(&order) } else { one_by_one(&order) };
                scripts.push(script(position, segments));
            }
        }
        scripts
    }
}

/// Every way to shuffle chains, each of which keeps its order.
pub(crate) fn shuffles(chains: &[Chain]) -> Vec<Vec<Step>> {
    if chains.iter().all(Vec::is_empty) {
        return vec![Vec::new()];
    }
    let mut all = Vec::new();
    for position in 0..chains.len() {
        let Some((&first, rest)) = chains[position].split_first() else { continue };
        let mut left = chains.to_vec();
        left[position] = rest.to_vec();
        for mut order in shuffles(&left) {
            order.insert(0, first);
            all.push(order);
        }
    }
    all
}

/// Whether the endpoint of a target is written when its migration and the source's endpoint are gone, although the machine does not
/// run there: a driver says in this way that it does (W34), and neither a rollback nor a resync, which writes the
/// LiveMigration first, ever writes it.
fn says_too_much(home: HostNumber, before: &[Step], order: &[Step]) -> bool {
    let (mut runs_on, mut over, mut gone) = (home, BTreeSet::new(), BTreeSet::new());
    before.iter().chain(order).any(|step| {
        match *step {
            Step::Begins { to, .. } => _ = over.remove(&to),
            Step::Ends(to) => _ = over.insert(to),
            Step::Gone(host) => _ = gone.insert(host),
            Step::Moves(host) | Step::MovesSilently(host) => runs_on = host,
            Step::Written(host) => {
                gone.remove(&host);
                return over.contains(&host) && !gone.is_empty() && runs_on != host;
            }
            Step::Plugged(_) | Step::Unplugged(_) | Step::Stops | Step::FarStatusGone => {}
        }
        false
    })
}

fn one_by_one(phase: &[Step]) -> Vec<Segment> {
    phase.iter().map(|step| vec![*step]).collect()
}

fn in_one_go(phase: &[Step]) -> Vec<Segment> {
    let mut segments: Vec<Segment> = Vec::new();
    for &step in phase {
        match segments.last_mut() {
            Some(last) if step.is_write() && last.iter().all(|before| before.is_write()) => last.push(step),
            _ => segments.push(vec![step]),
        }
    }
    segments
}

#[cfg(test)]
mod tests {
    use super::Step::{Ends, Gone, Moves, Unplugged, Written};
    use super::*;

    #[test]
    fn shuffles_are_all_there_are_and_keep_chains() {
        let chains = [vec![Ends(1)], vec![Gone(0)], vec![Gone(1), Written(1)], vec![Moves(1), Unplugged(0)]];
        let mut all = shuffles(&chains);
        // 6! / (2! · 2!)
        assert_eq!(all.len(), 180);
        for order in &all {
            let at = |step| order.iter().position(|other| *other == step).unwrap();
            assert!(at(Gone(1)) < at(Written(1)) && at(Moves(1)) < at(Unplugged(0)));
        }
        all.sort();
        all.dedup();
        assert_eq!(all.len(), 180);
    }

    #[test]
    fn nobody_says_that_it_succeeded_before_it_has() {
        let success = [Ends(1), Gone(0), Gone(1), Written(1)];
        assert!(says_too_much(0, &[], &success));
        assert!(!says_too_much(0, &[Moves(1)], &success));
        assert!(!says_too_much(0, &[], &[Ends(1), Gone(0), Gone(1), Written(0)]), "a rollback");
        assert!(!says_too_much(0, &[], &[Ends(1), Written(1), Gone(0)]), "who knows");
        let begun = [Ends(1), Gone(0), Step::Begins { attempt: 2, from: 0, to: 1 }, Written(1)];
        assert!(!says_too_much(0, &[], &begun));
    }

    #[test]
    fn one_go_is_broken_by_events_only() {
        let phase = [Ends(1), Gone(0), Moves(1), Unplugged(0), Gone(1), Written(1)];
        let lengths: Vec<usize> = in_one_go(&phase).iter().map(Vec::len).collect();
        assert_eq!(lengths, [2, 1, 1, 2]);
        assert_eq!(in_one_go(&phase).concat(), phase);
    }
}
