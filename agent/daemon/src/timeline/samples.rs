//! Migrations for the tests of what shows them, here and in the command line.

use super::{Migration, Outcome};
use crate::migrations::Finished;
use cutover_engine::BootTime;
use cutover_engine::machine::{Phases, State};
use cutover_engine::notice::MigrationRecord;
use std::time::Duration;

/// When the samples begin: half an hour after the boot, and on a day that everybody knows.
pub const BEGAN: BootTime = BootTime(1_800_000_000_000);
const BEGAN_UNIX_NS: u64 = 1_709_210_096_000_000_000;

/// All phases of a migration that went as it should.
#[must_use]
pub fn phases() -> Phases {
    let at = |offset_us: u64| Some(BEGAN + Duration::from_micros(offset_us));
    Phases {
        targeted_at: at(0),
        armed_at: at(1_500),
        reported_at: at(6_000),
        handed_over_at: at(9_000),
        connections: Some(12),
        last_frame_at: at(4_002_500),
        last_frame_error_ns: Some(120_000),
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
///
/// # Panics
/// If its end is not among them.
#[must_use]
pub fn migration(uid: &str, phases: Phases) -> Migration {
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
#[must_use]
pub fn running(uid: &str, phases: Phases, after: Duration) -> Migration {
    let until = BEGAN + after;
    Migration {
        outcome: Outcome::Running(State::Target),
        until,
        until_unix_ns: BEGAN_UNIX_NS + until.0 - BEGAN.0,
        phases,
        ..migration(uid, Phases { ended_at: Some(until), ..Phases::default() })
    }
}
