//! One migration to this host, finished or running.

use super::blackout::Blackout;
use crate::datastore::resource::parse_name;
use crate::migrations::Finished;
use cutover_engine::BootTime;
use cutover_engine::machine::{Phases, State, kind_name};
use cutover_engine::view::EndpointView;
use serde::{Deserialize, Serialize};

/// A step of a migration, in the order in which steps usually come.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// The endpoint became the target.
    Targeted,
    /// The watch was armed in the kernel.
    Armed,
    /// The orchestrator was told that everything is ready here.
    Reported,
    /// The connections that the source tracks were made here.
    HandedOver,
    /// The last frame came on the tap that the machine has left.
    LastFrame,
    /// This host heard that the machine has stopped where it comes from.
    Stopped,
    /// The kernel program saw the announcement.
    Announced,
    /// The fast path took the record.
    Taken,
    /// The kernel acknowledged the elevated routes.
    Routed,
    /// This host heard that the source forwards what still comes there.
    Forwarded,
    /// The orchestrator ended the migration.
    RoleGone,
    /// Elevated priority ended.
    Ended,
}

impl Phase {
    /// Each of them.
    pub const ALL: [Self; 12] = [
        Self::Targeted,
        Self::Armed,
        Self::Reported,
        Self::HandedOver,
        Self::LastFrame,
        Self::Stopped,
        Self::Announced,
        Self::Taken,
        Self::Routed,
        Self::Forwarded,
        Self::RoleGone,
        Self::Ended,
    ];

    /// When it came.
    #[must_use]
    pub const fn at(self, phases: &Phases) -> Option<BootTime> {
        match self {
            Self::Targeted => phases.targeted_at,
            Self::Armed => phases.armed_at,
            Self::Reported => phases.reported_at,
            Self::HandedOver => phases.handed_over_at,
            Self::LastFrame => phases.last_frame_at,
            Self::Stopped => phases.stopped_at,
            Self::Announced => phases.announced_at,
            Self::Taken => phases.taken_at,
            Self::Routed => phases.routed_at,
            Self::Forwarded => phases.forwarded_at,
            Self::RoleGone => phases.role_gone_at,
            Self::Ended => phases.ended_at,
        }
    }

    /// Says when it came.
    pub const fn set(self, phases: &mut Phases, at: BootTime) {
        let phase = match self {
            Self::Targeted => &mut phases.targeted_at,
            Self::Armed => &mut phases.armed_at,
            Self::Reported => &mut phases.reported_at,
            Self::HandedOver => &mut phases.handed_over_at,
            Self::LastFrame => &mut phases.last_frame_at,
            Self::Stopped => &mut phases.stopped_at,
            Self::Announced => &mut phases.announced_at,
            Self::Taken => &mut phases.taken_at,
            Self::Routed => &mut phases.routed_at,
            Self::Forwarded => &mut phases.forwarded_at,
            Self::RoleGone => &mut phases.role_gone_at,
            Self::Ended => &mut phases.ended_at,
        };
        *phase = Some(at);
    }

    /// In one or two words.
    #[must_use]
    pub const fn name(self, outcome: Outcome) -> &'static str {
        match self {
            Self::Targeted => "began",
            Self::Armed => "armed",
            Self::Reported => "reported up",
            Self::HandedOver => "handed over",
            Self::LastFrame => "last frame",
            Self::Stopped => "stopped",
            Self::Announced => "announced",
            Self::Taken => "taken",
            Self::Routed => "routed",
            Self::Forwarded => "forwarded",
            Self::RoleGone => "over",
            Self::Ended if matches!(outcome, Outcome::NotArrived) => "ended",
            Self::Ended => "normal again",
        }
    }

    /// What has happened then.
    #[must_use]
    pub const fn meaning(self, outcome: Outcome) -> &'static str {
        match self {
            Self::Targeted => {
                "the endpoint became the target: it has no route while its machine is elsewhere"
            }
            Self::Armed => "the kernel program listens on the tap for the machine's first announcement",
            Self::Reported => "up was written for the orchestrator: everything is ready here",
            Self::HandedOver => "the connections that the source tracks were made here",
            Self::LastFrame => {
                "the last frame of the machine came from the tap that it has left, as that host's agent says"
            }
            Self::Stopped => "this host heard that the machine has stopped where it comes from",
            Self::Announced => "the kernel program saw the announcement: the machine runs here",
            Self::Taken => "the fast path has the announcement from the ring buffer",
            Self::Routed => "the kernel acknowledged the routes with elevated priority",
            Self::Forwarded => "this host heard that the source forwards what still comes there",
            Self::RoleGone => "the orchestrator ended the migration",
            Self::Ended if matches!(outcome, Outcome::NotArrived) => {
                "the endpoint is no target any more: the machine stayed where it was"
            }
            Self::Ended => "the convergence time is over, or the endpoint is gone: elevated priority ended",
        }
    }

    /// Most migrations go without the others.
    #[must_use]
    pub const fn is_usual(self) -> bool {
        !matches!(self, Self::HandedOver | Self::LastFrame | Self::Stopped | Self::Forwarded)
    }
}

/// How far it came.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Outcome {
    /// It is not over; this is where it stands.
    Running(State),
    /// The machine was taken to have arrived.
    Arrived,
    /// It stayed where it was.
    NotArrived,
}

/// A migration to this host.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Migration {
    /// Its uid.
    pub uid: String,
    /// Resource name of the endpoint here.
    pub endpoint: String,
    /// Resource name of the one it came from.
    pub source: Option<String>,
    /// How far it came.
    pub outcome: Outcome,
    /// When each phase began.
    pub phases: Phases,
    /// The boot that the times count from, if known.
    pub boot_id: Option<String>,
    /// The last thing that is known: when it ended, or now.
    pub until: BootTime,
    /// What the wall clock said then.
    pub until_unix_ns: u64,
    /// It did not only say so to the second.
    pub is_exact: bool,
}

impl Migration {
    /// One that is in the record.
    #[must_use]
    pub fn finished(line: Finished) -> Self {
        let record = line.record;
        let latest = Phase::ALL.iter().filter_map(|phase| phase.at(&record.phases)).max();
        Self {
            uid: record.uid,
            endpoint: record.endpoint,
            source: record.source,
            outcome: if record.arrived { Outcome::Arrived } else { Outcome::NotArrived },
            until: record.phases.ended_at.or(latest).unwrap_or_default(),
            phases: record.phases,
            boot_id: line.boot_id,
            until_unix_ns: line
                .finished_at_unix_ns
                .unwrap_or_else(|| line.finished_at_unix_seconds.saturating_mul(1_000_000_000)),
            is_exact: line.finished_at_unix_ns.is_some(),
        }
    }

    /// The migration that is under way to an endpoint, if there is one.
    #[must_use]
    pub fn running(
        endpoint: &EndpointView,
        now: BootTime,
        now_unix_ns: u64,
        boot_id: Option<String>,
    ) -> Option<Self> {
        let migration = endpoint.migration.as_ref()?;
        Some(Self {
            uid: migration.uid.clone(),
            endpoint: endpoint.name.clone(),
            source: migration.source.clone(),
            outcome: Outcome::Running(endpoint.state),
            phases: migration.phases,
            boot_id,
            until: now,
            until_unix_ns: now_unix_ns,
            is_exact: true,
        })
    }

    /// Whether both are one migration, seen at different times.
    #[must_use]
    pub fn is_the_same_as(&self, other: &Self) -> bool {
        (&self.uid, &self.endpoint, self.phases.targeted_at)
            == (&other.uid, &other.endpoint, other.phases.targeted_at)
            && self.boot_id == other.boot_id
    }

    /// When it began, as far as is known.
    #[must_use]
    pub fn began_at(&self) -> BootTime {
        let earliest = || Phase::ALL.iter().filter_map(|phase| phase.at(&self.phases)).min();
        self.phases.targeted_at.or_else(earliest).unwrap_or(self.until)
    }

    /// Wall-clock time of a point in time of its boot.
    #[must_use]
    pub fn unix_ns(&self, at: BootTime) -> u64 {
        let (before_ns, after_ns) = (self.until.0.saturating_sub(at.0), at.0.saturating_sub(self.until.0));
        self.until_unix_ns.saturating_sub(before_ns).saturating_add(after_ns)
    }

    /// The phases that came, in the order in which they did.
    #[must_use]
    pub fn steps(&self) -> Vec<(Phase, BootTime)> {
        let mut steps: Vec<_> =
            Phase::ALL.iter().filter_map(|phase| Some((*phase, phase.at(&self.phases)?))).collect();
        steps.sort_by_key(|(_, at)| *at);
        steps
    }

    /// For how long nobody saw the machine, if the source's agent said when it had its last frame.
    #[must_use]
    pub fn blackout(&self) -> Option<Blackout> {
        Blackout::told(&self.phases).filter(|_| self.outcome != Outcome::NotArrived)
    }

    /// What announced the machine.
    #[must_use]
    pub fn announcement(&self) -> Option<&'static str> {
        self.phases.kind.map(kind_name)
    }

    /// The host that it came from; the whole name of the endpoint if that does not tell.
    #[must_use]
    pub fn source_host(&self) -> Option<String> {
        let name = self.source.as_ref()?;
        Some(parse_name("", name).map_or_else(|| name.clone(), |key| key.host))
    }

    /// In one or two words.
    #[must_use]
    pub fn result(&self) -> String {
        match self.outcome {
            Outcome::Running(state) => format!("running ({state})"),
            Outcome::Arrived => "arrived".to_owned(),
            Outcome::NotArrived => "not arrived".to_owned(),
        }
    }

    /// Whether it is not over.
    #[must_use]
    pub const fn is_running(&self) -> bool {
        matches!(self.outcome, Outcome::Running(_))
    }
}

#[cfg(test)]
mod tests {
    use super::super::samples::*;
    use super::*;
    use std::time::Duration;

    #[test]
    fn dates_count_back_from_the_end() {
        let whole = migration("u1", phases());
        assert_eq!(whole.unix_ns(whole.began_at()), 1_709_210_096_000_000_000);
        assert_eq!(whole.unix_ns(whole.until + Duration::from_secs(1)), 1_709_210_131_500_000_000);
        assert_eq!(whole.source_host().as_deref(), Some("compute-1"));
    }

    #[test]
    fn a_phase_is_found_where_it_was_set() {
        let mut phases = Phases::default();
        for (phase, at) in Phase::ALL.into_iter().zip(1..) {
            assert_eq!(phase.at(&phases), None);
            phase.set(&mut phases, BootTime(at));
        }
        assert!(Phase::ALL.into_iter().zip(1..).all(|(phase, at)| phase.at(&phases) == Some(BootTime(at))));
    }

    #[test]
    fn steps_come_in_the_order_of_time() {
        let late = Phases { role_gone_at: Some(BEGAN + Duration::from_secs(1)), ..phases() };
        let order: Vec<_> = migration("u1", late).steps().into_iter().map(|(phase, _)| phase).collect();
        assert_eq!(order[2..5], [Phase::Reported, Phase::HandedOver, Phase::RoleGone]);
    }

    #[test]
    fn what_ended_between_two_looks_is_shown_once() {
        let over = migration("u1", phases());
        let before = running("u1", Phases { ended_at: None, ..phases() }, Duration::from_secs(30));
        assert!(over.is_the_same_as(&before));
        let again = Phases { targeted_at: Some(BEGAN + Duration::from_secs(60)), ..Phases::default() };
        assert!(!over.is_the_same_as(&running("u1", again, Duration::from_secs(61))), "a second attempt");
    }
}
