//! The transition table, cell by cell, and what a machine adds to it.

use super::*;
use Input::{Announcement, Deleted, RoleGone, Source, Target, Timer};
use Outcome::{Failure, Success, Unresolved as Unknown};

const IN_TIME: Input = Announcement { role_gone: false };
const LATE: Input = Announcement { role_gone: true };

/// Written down from the description of the machine; nothing here is computed.
#[rustfmt::skip]
const TABLE: [(State, Input, State); 36] = [
    (State::Base,     Target,            State::Target),
    (State::Base,     IN_TIME,           State::Base),
    (State::Base,     LATE,              State::Base),
    (State::Base,     RoleGone(Success), State::Base),
    (State::Base,     RoleGone(Unknown), State::Base),
    (State::Base,     RoleGone(Failure), State::Base),
    (State::Base,     Timer,             State::Base),
    (State::Base,     Source,            State::Base),
    (State::Base,     Deleted,           State::Base),

    (State::Target,   Target,            State::Target),
    (State::Target,   IN_TIME,           State::Live),
    (State::Target,   LATE,              State::TimeWait),
    (State::Target,   RoleGone(Success), State::TimeWait),
    (State::Target,   RoleGone(Unknown), State::Target),
    (State::Target,   RoleGone(Failure), State::Base),
    (State::Target,   Timer,             State::Target),
    (State::Target,   Source,            State::Base),
    (State::Target,   Deleted,           State::Base),

    (State::Live,     Target,            State::Live),
    (State::Live,     IN_TIME,           State::Live),
    (State::Live,     LATE,              State::Live),
    (State::Live,     RoleGone(Success), State::TimeWait),
    (State::Live,     RoleGone(Unknown), State::TimeWait),
    (State::Live,     RoleGone(Failure), State::TimeWait),
    (State::Live,     Timer,             State::Live),
    (State::Live,     Source,            State::TimeWait),
    (State::Live,     Deleted,           State::Base),

    (State::TimeWait, Target,            State::Target),
    (State::TimeWait, IN_TIME,           State::TimeWait),
    (State::TimeWait, LATE,              State::TimeWait),
    (State::TimeWait, RoleGone(Success), State::TimeWait),
    (State::TimeWait, RoleGone(Unknown), State::TimeWait),
    (State::TimeWait, RoleGone(Failure), State::TimeWait),
    (State::TimeWait, Timer,             State::Base),
    (State::TimeWait, Source,            State::TimeWait),
    (State::TimeWait, Deleted,           State::Base),
];

const CONVERGENCE: Duration = Duration::from_secs(30);
const GRACE: Duration = Duration::from_secs(2);

fn at(seconds: u64) -> BootTime {
    BootTime(seconds * 1_000_000_000)
}

fn port(host: &str) -> EndpointKey {
    EndpointKey {
        host: host.into(),
        orchestrator: "openstack".into(),
        workload: "openstack/vm".into(),
        endpoint: "port".into(),
    }
}

fn assignment(role: Role, uid: &str) -> Assignment {
    let source = (role == Role::Target).then(|| port("a"));
    Assignment { role, uid: uid.into(), source }
}

fn seen(seconds: u64) -> AnnouncementSeen {
    AnnouncementSeen {
        generation: 1,
        kind: AnnouncementKind::Rarp,
        seen_at: at(seconds),
        taken_at: None,
        routed_at: None,
    }
}

/// The target of migration `u1` since second 1.
fn target() -> Machine {
    let mut machine = Machine::default();
    machine.assign(&assignment(Role::Target, "u1"), true, at(1), CONVERGENCE).unwrap();
    machine
}

/// Without its migration since second 10.
fn unresolved(source_present: bool) -> Machine {
    let mut machine = target();
    let transition = machine.assign(&Assignment::default(), source_present, at(10), CONVERGENCE);
    assert_eq!((transition, machine.state), (None, State::Target));
    machine
}

fn live() -> Machine {
    let mut machine = target();
    machine.announced(&seen(5), at(5), CONVERGENCE).unwrap();
    assert_eq!(machine.state, State::Live);
    machine
}

#[test]
fn whole_table() {
    for (state, input, expected) in TABLE {
        assert_eq!(next(state, input), expected, "{state} with {input:?}");
    }
}

#[test]
fn table_has_every_cell_once() {
    for (position, (state, input, _)) in TABLE.iter().enumerate() {
        assert!(
            !TABLE[..position].iter().any(|(s, i, _)| (s, i) == (state, input)),
            "{state} {input:?} twice"
        );
    }
}

#[test]
fn every_transition_is_reported_with_its_migration_and_nothing_else_is() {
    for (state, input, expected) in TABLE {
        let mut machine = Machine { state, uid: "u1".into(), ..Machine::default() };
        let transition = machine.step(input, at(1), CONVERGENCE);
        assert_eq!(machine.state, expected);
        let reported =
            (state != expected).then(|| Transition { from: state, input, to: expected, uid: "u1".into() });
        assert_eq!(transition, reported, "{state} with {input:?}");
    }
}

#[test]
fn elevated_only_where_the_virtual_machine_is_taken_to_run() {
    let elevated = |state, not_here| Machine { state, not_here, ..Machine::default() }.elevated();
    assert_eq!(elevated(State::Base, false), Some(false));
    assert_eq!(elevated(State::Base, true), None);
    assert_eq!(elevated(State::Target, false), None);
    assert_eq!(elevated(State::Live, false), Some(true));
    assert_eq!(elevated(State::TimeWait, false), Some(true));
}

#[test]
fn time_wait_lasts_for_the_convergence_time() {
    let mut machine = live();
    assert_eq!(machine.deadline(GRACE), None);
    machine.assign(&Assignment::default(), true, at(10), CONVERGENCE).unwrap();
    assert_eq!(machine.deadline(GRACE), Some(at(40)));
    assert_eq!(machine.time_passed(BootTime(at(40).0 - 1), GRACE, CONVERGENCE), None);
    let transition = machine.time_passed(at(40), GRACE, CONVERGENCE).unwrap();
    assert_eq!((transition.input, transition.to), (Timer, State::Base));
    assert_eq!(machine.deadline(GRACE), None);
}

#[test]
fn source_role_does_not_prolong_the_elevated_time() {
    let mut machine = live();
    machine.assign(&Assignment::default(), true, at(10), CONVERGENCE).unwrap();
    assert_eq!(machine.assign(&assignment(Role::Source, "u2"), true, at(20), CONVERGENCE), None);
    assert_eq!((machine.state, machine.deadline(GRACE)), (State::TimeWait, Some(at(40))));
}

#[test]
fn a_migration_is_reported_under_its_own_uid_after_the_endpoint_became_a_source() {
    let mut machine = live();
    let transition = machine.assign(&assignment(Role::Source, "u2"), true, at(10), CONVERGENCE).unwrap();
    assert_eq!((transition.to, transition.uid.as_str()), (State::TimeWait, "u1"));
    let transition = machine.time_passed(at(40), GRACE, CONVERGENCE).unwrap();
    assert_eq!((transition.to, transition.uid.as_str()), (State::Base, "u1"));
}

#[test]
fn a_new_uid_is_taken_over_without_a_transition() {
    for mut machine in [target(), live()] {
        let before = machine.state;
        assert_eq!(machine.assign(&assignment(Role::Target, "u2"), true, at(6), CONVERGENCE), None);
        assert_eq!((machine.state, machine.uid.as_str()), (before, "u2"));
    }
}

#[test]
fn a_new_attempt_starts_with_clean_phases() {
    let mut machine = live();
    machine.phases.armed_at = Some(at(2));
    machine.assign(&Assignment::default(), true, at(10), CONVERGENCE).unwrap();
    machine.assign(&assignment(Role::Target, "u2"), true, at(12), CONVERGENCE).unwrap();
    assert_eq!(machine.phases, Phases { targeted_at: Some(at(12)), ..Phases::default() });
}

#[test]
fn a_new_attempt_after_an_unresolved_one_does_not_inherit_its_times() {
    let mut machine = unresolved(true);
    machine.phases.armed_at = Some(at(2));
    assert_eq!(machine.assign(&assignment(Role::Target, "u2"), true, at(12), CONVERGENCE), None);
    assert_eq!(machine.uid, "u2");
    assert_eq!(machine.unresolved, None);
    assert_eq!(machine.phases.targeted_at, Some(at(12)));
    assert_eq!(machine.phases.armed_at, Some(at(2)), "the watch is still armed");
    assert_eq!(machine.phases.role_gone_at, None);
}

#[test]
fn the_same_migration_shown_again_goes_on_where_it_was() {
    let mut machine = unresolved(true);
    assert_eq!(machine.assign(&assignment(Role::Target, "u1"), true, at(12), CONVERGENCE), None);
    assert_eq!((machine.unresolved, machine.phases.role_gone_at), (None, None));
    assert_eq!(machine.phases.targeted_at, Some(at(1)));
}

#[test]
fn a_finished_migration_shown_again_takes_no_route_away() {
    let mut machine = live();
    machine.assign(&Assignment::default(), true, at(10), CONVERGENCE).unwrap();
    assert_eq!(machine.assign(&assignment(Role::Target, "u1"), true, at(12), CONVERGENCE), None);
    assert_eq!(machine.elevated(), Some(true));
    machine.time_passed(at(40), GRACE, CONVERGENCE).unwrap();
    assert_eq!(machine.elevated(), Some(false));
    assert_eq!(machine.assign(&assignment(Role::Target, "u1"), true, at(41), CONVERGENCE), None);
    assert_eq!(machine.elevated(), Some(false));
}

#[test]
fn unresolved_with_source_present_waits_for_evidence() {
    assert_eq!(unresolved(true).deadline(GRACE), None);
}

#[test]
fn unresolved_with_source_absent_waits_the_short_bound() {
    assert_eq!(unresolved(false).deadline(GRACE), Some(at(10) + UNRESOLVED_BOUND));
}

#[test]
fn written_again_with_source_absent_is_a_success_after_the_grace_time() {
    let mut machine = unresolved(false);
    machine.endpoint_written();
    assert_eq!(machine.deadline(GRACE), Some(at(10) + GRACE));
    let transition = machine.time_passed(at(12), GRACE, CONVERGENCE).unwrap();
    assert_eq!((transition.input, transition.to), (RoleGone(Success), State::TimeWait));
}

#[test]
fn written_again_with_source_present_proves_nothing() {
    let mut machine = unresolved(true);
    machine.endpoint_written();
    assert_eq!(machine.deadline(GRACE), None);
}

/// A source that goes away late may come back as late as one that goes away at once.
#[test]
fn the_short_bound_counts_from_the_absence_of_the_source() {
    let mut machine = unresolved(true);
    machine.source_removed(at(20));
    assert_eq!(machine.deadline(GRACE), Some(at(20) + UNRESOLVED_BOUND));
    machine.endpoint_written();
    assert_eq!(machine.deadline(GRACE), Some(at(20) + GRACE));
}

#[test]
fn source_written_again_is_a_failure_and_leaves_no_route() {
    for source_present in [false, true] {
        let mut machine = unresolved(source_present);
        let transition = machine.source_written(at(11), CONVERGENCE).unwrap();
        assert_eq!((transition.input, transition.to), (RoleGone(Failure), State::Base));
        assert_eq!((machine.elevated(), machine.deadline(GRACE)), (None, None));
        assert!(!machine.is_idle(), "the failure has to survive a restart");
        machine.endpoint_written();
        assert_eq!(machine.elevated(), Some(false));
    }
}

#[test]
fn source_written_proves_nothing_while_the_migration_lasts_or_after_an_announcement() {
    let mut machine = target();
    assert_eq!(machine.source_written(at(2), CONVERGENCE), None);
    let mut machine = live();
    assert_eq!(machine.source_written(at(6), CONVERGENCE), None);
    machine.assign(&Assignment::default(), true, at(10), CONVERGENCE).unwrap();
    assert_eq!(machine.source_written(at(11), CONVERGENCE), None);
    assert_eq!(machine.elevated(), Some(true));
}

/// Whoever is the source of a migration runs the virtual machine, whatever became of the migration before.
#[test]
fn becoming_a_source_ends_not_here() {
    let mut machine = unresolved(true);
    machine.source_written(at(11), CONVERGENCE).unwrap();
    machine.assign(&assignment(Role::Source, "u2"), true, at(12), CONVERGENCE);
    assert_eq!(machine.elevated(), Some(false));
}

#[test]
fn announcement_counts_only_in_target() {
    for mut machine in [Machine::default(), live()] {
        let before = machine.clone();
        assert_eq!(machine.announced(&seen(9), at(9), CONVERGENCE), None);
        assert_eq!(machine, before);
    }
}

#[test]
fn announcement_without_role_starts_the_convergence_time_at_once() {
    let mut machine = unresolved(true);
    let transition = machine.announced(&seen(11), at(11), CONVERGENCE).unwrap();
    assert_eq!((transition.input, transition.to), (LATE, State::TimeWait));
    assert_eq!(machine.deadline(GRACE), Some(at(41)));
    assert_eq!(machine.unresolved, None);
}

#[test]
fn leaving_target_gives_the_watch_up() {
    for input in [IN_TIME, LATE, RoleGone(Success), RoleGone(Failure), Source, Deleted] {
        let mut machine = target();
        machine.arming = Some(Arming { ifindex: 5, generation: 7 });
        machine.step(input, at(2), CONVERGENCE).unwrap();
        assert_eq!(machine.arming, None, "{input:?}");
    }
}

#[test]
fn memory_of_every_state_survives_json() {
    let mut time_wait = live();
    time_wait.assign(&Assignment::default(), true, at(10), CONVERGENCE).unwrap();
    let mut not_here = unresolved(true);
    not_here.source_written(at(11), CONVERGENCE).unwrap();
    for machine in [Machine::default(), target(), unresolved(false), live(), time_wait, not_here] {
        let text = serde_json::to_string(&machine).unwrap();
        assert_eq!(serde_json::from_str::<Machine>(&text).unwrap(), machine);
    }
}

#[test]
fn inputs_have_the_names_of_the_log() {
    let names = [Target, IN_TIME, RoleGone(Unknown), Timer, Source, Deleted].map(Input::name);
    assert_eq!(names, ["Target", "GARPDetected", "NoRole", "TimerPop", "Source", "Deleted"]);
}
