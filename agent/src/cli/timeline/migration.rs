//! One migration as all forms of the timeline see it, finished or running.

use cutover_daemon::datastore::resource::parse_name;
use cutover_daemon::migrations::Finished;
use cutover_engine::BootTime;
use cutover_engine::machine::{Phases, State, kind_name};
use cutover_engine::view::EndpointView;
use serde::Serialize;

/// A step of a migration, in the order in which steps usually come.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Phase {
    Targeted,
    Armed,
    Reported,
    HandedOver,
    Stopped,
    Announced,
    Taken,
    Routed,
    Forwarded,
    RoleGone,
    Ended,
}

impl Phase {
    pub(super) const ALL: [Self; 11] = [
        Self::Targeted,
        Self::Armed,
        Self::Reported,
        Self::HandedOver,
        Self::Stopped,
        Self::Announced,
        Self::Taken,
        Self::Routed,
        Self::Forwarded,
        Self::RoleGone,
        Self::Ended,
    ];

    /// When it came.
    pub(super) const fn at(self, phases: &Phases) -> Option<BootTime> {
        match self {
            Self::Targeted => phases.targeted_at,
            Self::Armed => phases.armed_at,
            Self::Reported => phases.reported_at,
            Self::HandedOver => phases.handed_over_at,
            Self::Stopped => phases.stopped_at,
            Self::Announced => phases.announced_at,
            Self::Taken => phases.taken_at,
            Self::Routed => phases.routed_at,
            Self::Forwarded => phases.forwarded_at,
            Self::RoleGone => phases.role_gone_at,
            Self::Ended => phases.ended_at,
        }
    }
}

/// How far it came.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Outcome {
    /// It is not over; this is where it stands.
    Running(State),
    /// The machine was taken to have arrived.
    Arrived,
    /// It stayed where it was.
    NotArrived,
}

/// A migration to this host.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Migration {
    pub(super) uid: String,
    /// Resource name of the endpoint here.
    pub(super) endpoint: String,
    /// Resource name of the one it came from.
    pub(super) source: Option<String>,
    pub(super) outcome: Outcome,
    pub(super) phases: Phases,
    /// The boot that the times count from, if known.
    pub(super) boot_id: Option<String>,
    /// The last thing that is known: when it ended, or now.
    pub(super) until: BootTime,
    /// What the wall clock said then.
    until_unix_ns: u64,
    /// It did not only say so to the second.
    pub(super) is_exact: bool,
}

impl Migration {
    pub(super) fn finished(line: Finished) -> Self {
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
    pub(super) fn running(
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
    pub(super) fn is_the_same_as(&self, other: &Self) -> bool {
        (&self.uid, &self.endpoint, self.phases.targeted_at)
            == (&other.uid, &other.endpoint, other.phases.targeted_at)
            && self.boot_id == other.boot_id
    }

    /// When it began, as far as is known.
    pub(super) fn began_at(&self) -> BootTime {
        let earliest = || Phase::ALL.iter().filter_map(|phase| phase.at(&self.phases)).min();
        self.phases.targeted_at.or_else(earliest).unwrap_or(self.until)
    }

    /// Wall-clock time of a point in time of its boot.
    pub(super) fn unix_ns(&self, at: BootTime) -> u64 {
        let (before_ns, after_ns) = (self.until.0.saturating_sub(at.0), at.0.saturating_sub(self.until.0));
        self.until_unix_ns.saturating_sub(before_ns).saturating_add(after_ns)
    }

    /// The phases that came, in the order in which they did.
    pub(super) fn steps(&self) -> Vec<(Phase, BootTime)> {
        let mut steps: Vec<_> =
            Phase::ALL.iter().filter_map(|phase| Some((*phase, phase.at(&self.phases)?))).collect();
        steps.sort_by_key(|(_, at)| *at);
        steps
    }

    /// What announced the machine.
    pub(super) fn announcement(&self) -> Option<&'static str> {
        self.phases.kind.map(kind_name)
    }

    /// The host that it came from; the whole name of the endpoint if that does not tell.
    pub(super) fn source_host(&self) -> Option<String> {
        let name = self.source.as_ref()?;
        Some(parse_name("", name).map_or_else(|| name.clone(), |key| key.host))
    }

    /// In one or two words.
    pub(super) fn result(&self) -> String {
        match self.outcome {
            Outcome::Running(state) => format!("running ({state})"),
            Outcome::Arrived => "arrived".to_owned(),
            Outcome::NotArrived => "not arrived".to_owned(),
        }
    }

    pub(super) const fn is_running(&self) -> bool {
        matches!(self.outcome, Outcome::Running(_))
    }
}

#[cfg(test)]
pub(super) mod samples {
    use super::*;
    use cutover_engine::notice::MigrationRecord;
    use std::time::Duration;

    /// When the samples begin: half an hour after the boot, and on a day that everybody knows.
    pub(in super::super) const BEGAN: BootTime = BootTime(1_800_000_000_000);
    const BEGAN_UNIX_NS: u64 = 1_709_210_096_000_000_000;

    /// All phases of a migration that went as it should.
    pub(in super::super) fn phases() -> Phases {
        let at = |offset_us: u64| Some(BEGAN + Duration::from_micros(offset_us));
        Phases {
            targeted_at: at(0),
            armed_at: at(1_500),
            reported_at: at(6_000),
            handed_over_at: at(9_000),
            connections: Some(12),
            stopped_at: at(4_003_000),
            announced_at: at(4_006_000),
            taken_at: at(4_006_014),
            routed_at: at(4_006_043),
            forwarded_at: at(4_006_400),
            role_gone_at: at(4_500_000),
            ended_at: at(34_500_000),
            kind: Some(cutover_common::AnnouncementKind::Rarp as u32),
        }
    }

    /// A finished migration with these phases.
    pub(in super::super) fn migration(uid: &str, phases: Phases) -> Migration {
        let ended_at = phases.ended_at.expect("it is over");
        let finished_at_unix_ns = BEGAN_UNIX_NS + ended_at.0 - BEGAN.0;
        Migration::finished(Finished {
            finished_at_unix_seconds: finished_at_unix_ns / 1_000_000_000,
            finished_at_unix_ns: Some(finished_at_unix_ns),
            boot_id: Some("6e7b".to_owned()),
            record: MigrationRecord {
                uid: uid.to_owned(),
                endpoint: "compute--2-openstack-vm1-port1".to_owned(),
                source: Some("compute--1-openstack-vm1-port1".to_owned()),
                arrived: true,
                phases,
            },
        })
    }

    /// A migration that is under way and was last looked at so long after its begin.
    pub(in super::super) fn running(uid: &str, phases: Phases, after: Duration) -> Migration {
        let until = BEGAN + after;
        Migration {
            outcome: Outcome::Running(State::Target),
            until,
            until_unix_ns: BEGAN_UNIX_NS + until.0 - BEGAN.0,
            ..migration(uid, Phases { ended_at: Some(until), ..Phases::default() })
        }
        .with(phases)
    }

    impl Migration {
        fn with(self, phases: Phases) -> Self {
            Self { phases, ..self }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::samples::*;
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
