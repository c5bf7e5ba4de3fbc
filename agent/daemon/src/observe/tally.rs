//! What the loop counts of what the engine says: transitions, ends of migrations, how long phases and states take.
//!
//! Each notice costs a look-up in a small map. Nothing here is on the way from an announcement to its routes: the engine says something
//! only after the fast path has told of them.

use super::metrics::histogram::Histogram;
use crate::timeline::Blackout;
use cutover_engine::machine::{Phases, State};
use cutover_engine::{BootTime, EndpointKey, Notice};
use std::collections::BTreeMap;
use std::time::Duration;

/// How a migration to this host ended, as far as its record tells.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) enum Outcome {
    /// The virtual machine announced itself here.
    Announced,
    /// It is taken to have arrived, and was not heard.
    Unannounced,
    /// It did not arrive.
    NotArrived,
}

impl Outcome {
    /// Each of them.
    pub(super) const ALL: [Self; 3] = [Self::Announced, Self::Unannounced, Self::NotArrived];

    /// The word of the metrics.
    #[must_use]
    pub(super) const fn word(self) -> &'static str {
        match self {
            Self::Announced => "announced",
            Self::Unannounced => "unannounced",
            Self::NotArrived => "not_arrived",
        }
    }
}

/// A stretch between two phases of a migration to this host.
type Stretch = (&'static str, fn(&Phases) -> (Option<BootTime>, Option<BootTime>));

/// What is measured of each finished migration: word of the metrics, from when, until when.
pub(super) const STRETCHES: &[Stretch] = &[
    ("targeted_to_armed", |it| (it.targeted_at, it.armed_at)),
    ("targeted_to_reported", |it| (it.targeted_at, it.reported_at)),
    ("stopped_to_announced", |it| (it.stopped_at, it.announced_at)),
    ("announced_to_taken", |it| (it.announced_at, it.taken_at)),
    ("taken_to_routed", |it| (it.taken_at, it.routed_at)),
    ("announced_to_routed", |it| (it.announced_at, it.routed_at)),
    ("announced_to_forwarded", |it| (it.announced_at, it.forwarded_at)),
    ("forwarded_to_announced", |it| (it.forwarded_at, it.announced_at)),
    ("announced_to_completed", |it| (it.announced_at, it.role_gone_at)),
    ("targeted_to_ended", |it| (it.targeted_at, it.ended_at)),
];

/// States that end; Base is where an endpoint is when nothing goes on.
pub(super) const PASSING: [State; 3] = [State::Target, State::Live, State::TimeWait];

/// The counts, since the agent was started.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Tally {
    /// By state before, input and state after.
    pub(super) transitions: BTreeMap<(State, &'static str, State), u64>,
    pub(super) migrations: BTreeMap<Outcome, u64>,
    /// In the order of [`STRETCHES`].
    pub(super) stretches: [Histogram; STRETCHES.len()],
    /// Of those of which it is known, and by how much each may be wrong.
    pub(super) blackouts: Histogram,
    pub(super) blackout_errors: Histogram,
    /// In the order of [`PASSING`].
    pub(super) states: [Histogram; PASSING.len()],
    /// Where an endpoint is that is not in Base, and since when. An earlier life's are not among them.
    pub(super) in_state: BTreeMap<EndpointKey, (State, BootTime)>,
    /// What is forwarded, and since when.
    forwarding: BTreeMap<EndpointKey, BootTime>,
    pub(super) forwards: Histogram,
    /// Of those that have begun: how many before the virtual machine had announced itself.
    pub(super) forwards_held: u64,
    pub(super) forwards_begun: u64,
    pub(super) holds_given_up: u64,
    pub(super) endpoints_held: u64,
    pub(super) losses_suspected: u64,
}

impl Tally {
    /// Takes a notice in.
    pub fn note(&mut self, now: BootTime, notice: &Notice) {
        match notice {
            Notice::Transition { endpoint, transition } => {
                let it = (transition.from, transition.input.name(), transition.to);
                *self.transitions.entry(it).or_default() += 1;
                self.entered(now, endpoint, transition.from, transition.to);
            }
            Notice::Finished(record) => {
                let outcome = match (record.arrived, record.phases.announced_at) {
                    (true, Some(_)) => Outcome::Announced,
                    (true, None) => Outcome::Unannounced,
                    (false, _) => Outcome::NotArrived,
                };
                *self.migrations.entry(outcome).or_default() += 1;
                if let (true, Some(blackout)) = (record.arrived, Blackout::told(&record.phases)) {
                    self.blackouts.observe(blackout.length);
                    self.blackout_errors.observe(blackout.error.unwrap_or_default());
                }
                for ((_, ends), histogram) in STRETCHES.iter().zip(&mut self.stretches) {
                    // What began after it ended did not happen in this order.
                    if let (Some(from), Some(until)) = ends(&record.phases)
                        && from <= until
                    {
                        histogram.observe(until.since(from));
                    }
                }
            }
            Notice::ForwardStarted { endpoint, is_held, .. } => {
                self.forwards_begun += 1;
                self.forwards_held += u64::from(*is_held);
                self.forwarding.insert(endpoint.clone(), now);
            }
            Notice::ForwardEnded { endpoint, .. } => {
                if let Some(since) = self.forwarding.remove(endpoint) {
                    self.forwards.observe(now.since(since));
                }
            }
            Notice::HoldGivenUp { .. } => self.holds_given_up += 1,
            Notice::Held { .. } => self.endpoints_held += 1,
            Notice::LossSuspected { .. } => self.losses_suspected += 1,
            _ => {}
        }
    }

    fn entered(&mut self, now: BootTime, endpoint: &EndpointKey, from: State, to: State) {
        if let Some((state, since)) = self.in_state.remove(endpoint)
            && state == from
            && let Some(position) = PASSING.iter().position(|passing| *passing == state)
        {
            self.states[position].observe(now.since(since));
        }
        if to != State::Base {
            self.in_state.insert(endpoint.clone(), (to, now));
        }
    }

    /// For how long the endpoint that has been in this state for longest has been there.
    pub(super) fn longest_in(&self, now: BootTime, state: State) -> Duration {
        let there = self.in_state.values().filter(|(it, _)| *it == state);
        there.map(|(_, since)| now.since(*since)).max().unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use cutover_engine::machine::{Input, Transition};
    use cutover_engine::notice::MigrationRecord;

    fn key(endpoint: &str) -> EndpointKey {
        EndpointKey {
            host: "h".into(),
            orchestrator: "openstack".into(),
            workload: "openstack/vm".into(),
            endpoint: endpoint.into(),
        }
    }

    fn transition(endpoint: &str, from: State, input: Input, to: State) -> Notice {
        let transition = Transition { from, input, to, uid: "u".into() };
        Notice::Transition { endpoint: key(endpoint), transition }
    }

    fn at(ms: u64) -> BootTime {
        BootTime(ms * 1_000_000)
    }

    #[test]
    fn a_state_is_measured_from_its_transition_to_the_next() {
        let mut tally = Tally::default();
        let target = Input::Target { is_here: false };
        tally.note(at(1000), &transition("a", State::Base, target, State::Target));
        tally.note(at(2000), &transition("b", State::Base, target, State::Target));
        assert_eq!(tally.longest_in(at(4000), State::Target), Duration::from_secs(3));
        let announcement = Input::Announcement { role_gone: false };
        tally.note(at(4000), &transition("a", State::Target, announcement, State::Live));
        assert_eq!(tally.longest_in(at(4000), State::Target), Duration::from_secs(2));
        assert_eq!((tally.states[0].count(), tally.states[0].sum()), (1, 3.0));
        tally.note(at(5000), &transition("a", State::Live, Input::Deleted, State::Base));
        assert_eq!((tally.states[1].count(), tally.states[1].sum()), (1, 1.0));
        assert_eq!(tally.in_state.len(), 1, "what is in Base is forgotten");
        // Of an earlier life nobody knows when it began.
        tally.note(at(6000), &transition("c", State::TimeWait, Input::Timer, State::Base));
        assert_eq!(tally.states[2].count(), 0);
        assert_eq!(tally.transitions[&(State::Base, "Target", State::Target)], 2);
    }

    #[test]
    fn the_record_of_a_migration_is_measured_once_and_only_forwards() {
        let mut tally = Tally::default();
        let phases = Phases {
            targeted_at: Some(at(1)),
            announced_at: Some(at(100)),
            routed_at: Some(at(101)),
            forwarded_at: Some(at(90)),
            last_frame_at: Some(at(75)),
            last_frame_error_ns: Some(2_000_000),
            ended_at: Some(at(200)),
            ..Phases::default()
        };
        let record = |arrived, phases| {
            let (uid, endpoint) = ("u".into(), "e".into());
            Notice::Finished(Box::new(MigrationRecord { uid, endpoint, source: None, arrived, phases }))
        };
        tally.note(at(200), &record(true, phases));
        tally.note(at(300), &record(true, Phases { announced_at: None, ..phases }));
        tally.note(at(300), &record(false, phases));
        for outcome in Outcome::ALL {
            assert_eq!(tally.migrations[&outcome], 1, "{outcome:?}");
        }
        let of = |name: &str| {
            let position = STRETCHES.iter().position(|(it, _)| *it == name).unwrap();
            (tally.stretches[position].count(), tally.stretches[position].sum())
        };
        assert_eq!(of("announced_to_routed"), (2, 0.002));
        assert_eq!(of("announced_to_forwarded").0, 0, "it was forwarded before");
        assert_eq!(of("forwarded_to_announced"), (2, 0.02));
        let blackouts = (tally.blackouts.count(), tally.blackouts.sum());
        assert_eq!(
            (blackouts, tally.blackout_errors.sum()),
            ((1, 0.025), 0.002),
            "of what has arrived and was heard"
        );
        assert_eq!(of("targeted_to_ended").0, 3);
        assert_eq!(of("announced_to_taken").0, 0);
    }

    #[test]
    fn what_is_forwarded_is_measured_when_it_ends() {
        let mut tally = Tally::default();
        let begun = |is_held| {
            let (endpoint, to, uid) = (key("a"), key("b"), "u".to_owned());
            Notice::ForwardStarted { endpoint, to, uid, is_held }
        };
        let ended = || Notice::ForwardEnded { endpoint: key("a"), uid: "u".into() };
        tally.note(at(0), &begun(true));
        tally.note(at(2000), &ended());
        tally.note(at(3000), &ended());
        tally.note(at(4000), &begun(false));
        assert_eq!((tally.forwards.count(), tally.forwards.sum()), (1, 2.0));
        assert_eq!((tally.forwards_begun, tally.forwards_held), (2, 1));
    }
}
