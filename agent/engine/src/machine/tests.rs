//! The transition table, cell by cell, and what a machine adds to it.

use super::*;
use Input::{Announcement, Deleted, RoleGone, Source, Target, Timer};
use Outcome::{Failure, Success, Unresolved as Unknown};

const IN_TIME: Input = Announcement { role_gone: false };
const LATE: Input = Announcement { role_gone: true };

const UNKNOWN: Input = Target { is_here: false };
const KNOWN: Input = Target { is_here: true };
const ALONE: Input = Source { is_contested: false };
const CONTESTED: Input = Source { is_contested: true };

/// Written down from the description of the machine; nothing here is computed.
#[rustfmt::skip]
const TABLE: [(State, Input, State); 44] = [
    (State::Base,     UNKNOWN,           State::Target),
    (State::Base,     KNOWN,             State::Live),
    (State::Base,     IN_TIME,           State::Base),
    (State::Base,     LATE,              State::Base),
    (State::Base,     RoleGone(Success), State::Base),
    (State::Base,     RoleGone(Unknown), State::Base),
    (State::Base,     RoleGone(Failure), State::Base),
    (State::Base,     Timer,             State::Base),
    (State::Base,     ALONE,             State::Base),
    (State::Base,     CONTESTED,         State::Base),
    (State::Base,     Deleted,           State::Base),

    (State::Target,   UNKNOWN,           State::Target),
    (State::Target,   KNOWN,             State::Target),
    (State::Target,   IN_TIME,           State::Live),
    (State::Target,   LATE,              State::TimeWait),
    (State::Target,   RoleGone(Success), State::TimeWait),
    (State::Target,   RoleGone(Unknown), State::Target),
    (State::Target,   RoleGone(Failure), State::Base),
    (State::Target,   Timer,             State::Target),
    (State::Target,   ALONE,             State::Base),
    (State::Target,   CONTESTED,         State::Base),
    (State::Target,   Deleted,           State::Base),

    (State::Live,     UNKNOWN,           State::Target),
    (State::Live,     KNOWN,             State::Live),
    (State::Live,     IN_TIME,           State::Live),
    (State::Live,     LATE,              State::Live),
    (State::Live,     RoleGone(Success), State::TimeWait),
    (State::Live,     RoleGone(Unknown), State::TimeWait),
    (State::Live,     RoleGone(Failure), State::TimeWait),
    (State::Live,     Timer,             State::Live),
    (State::Live,     ALONE,             State::Base),
    (State::Live,     CONTESTED,         State::TimeWait),
    (State::Live,     Deleted,           State::Base),

    (State::TimeWait, UNKNOWN,           State::Target),
    (State::TimeWait, KNOWN,             State::Live),
    (State::TimeWait, IN_TIME,           State::TimeWait),
    (State::TimeWait, LATE,              State::TimeWait),
    (State::TimeWait, RoleGone(Success), State::TimeWait),
    (State::TimeWait, RoleGone(Unknown), State::TimeWait),
    (State::TimeWait, RoleGone(Failure), State::TimeWait),
    (State::TimeWait, Timer,             State::Base),
    (State::TimeWait, ALONE,             State::Base),
    (State::TimeWait, CONTESTED,         State::TimeWait),
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
    Assignment { role, uid: uid.into(), source, leaves: false }
}

/// On tap 5, while the source's endpoint is there.
fn sight(now: BootTime) -> Sight {
    Sight {
        now,
        convergence: CONVERGENCE,
        source_present: true,
        source_suppressed: false,
        endpoint_uid: "e1".into(),
        ifindex: Some(5),
    }
}

/// The same without the source's endpoint.
fn alone(now: BootTime) -> Sight {
    Sight { source_present: false, ..sight(now) }
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
    machine.assign(&assignment(Role::Target, "u1"), &sight(at(1))).unwrap();
    machine
}

/// Without its migration since second 10.
fn unresolved(source_present: bool) -> Machine {
    let mut machine = target();
    let transition = machine.assign(&Assignment::default(), &Sight { source_present, ..sight(at(10)) });
    assert_eq!((transition, machine.state), (None, State::Target));
    machine
}

fn live() -> Machine {
    let mut machine = target();
    machine.announced(&seen(5), &sight(at(5))).unwrap();
    assert_eq!(machine.state, State::Live);
    machine
}

fn time_wait() -> Machine {
    let mut machine = live();
    machine.assign(&Assignment::default(), &sight(at(10))).unwrap();
    assert_eq!(machine.state, State::TimeWait);
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
    machine.assign(&Assignment::default(), &sight(at(10))).unwrap();
    assert_eq!(machine.deadline(GRACE), Some(at(40)));
    assert_eq!(machine.time_passed(BootTime(at(40).0 - 1), GRACE, CONVERGENCE), None);
    let transition = machine.time_passed(at(40), GRACE, CONVERGENCE).unwrap();
    assert_eq!((transition.input, transition.to), (Timer, State::Base));
    assert_eq!(machine.deadline(GRACE), None);
}

#[test]
fn a_source_that_has_just_arrived_is_normal_at_once() {
    for mut machine in [live(), time_wait()] {
        let leaving = assignment(Role::Source, "u2");
        let transition = machine.assign(&leaving, &alone(at(20))).unwrap();
        assert_eq!((transition.input, transition.to), (ALONE, State::Base));
        assert_eq!((machine.elevated(), machine.deadline(GRACE)), (Some(false), None));
    }
}

/// Where the host before still has a route of normal priority, ours is not normal before that one is gone, or for a second.
#[test]
fn a_source_waits_for_the_host_before_but_not_for_long() {
    for mut machine in [live(), time_wait()] {
        machine.assign(&assignment(Role::Source, "u2"), &sight(at(20)));
        assert_eq!((machine.state, machine.deadline(GRACE)), (State::TimeWait, Some(at(21))));
        machine.assign(&assignment(Role::Source, "u3"), &sight(at(20)));
        assert_eq!(machine.deadline(GRACE), Some(at(21)), "once");
        let mut late = machine.clone();
        assert_eq!(machine.source_removed(at(20)).map(|it| it.to), Some(State::Base));
        assert_eq!(late.time_passed(at(21), GRACE, CONVERGENCE).map(|it| it.to), Some(State::Base));
    }
}

#[test]
fn a_source_does_not_wait_for_a_host_whose_route_is_suppressed() {
    let mut machine = live();
    let back = Sight { source_suppressed: true, ..sight(at(20)) };
    machine.assign(&assignment(Role::Source, "u2"), &back);
    assert_eq!(machine.state, State::Base);
}

#[test]
fn a_source_that_is_elevated_for_less_than_a_second_more_is_not_elevated_for_longer() {
    let mut machine = time_wait();
    let late = BootTime(at(40).0 - 1);
    machine.assign(&assignment(Role::Source, "u2"), &sight(late));
    assert_eq!(machine.deadline(GRACE), Some(at(40)));
}

/// The migration to here is still there when the next one begins.
#[test]
fn a_target_that_leaves_again_is_elevated_for_a_second_and_again_if_it_stays() {
    let mut machine = live();
    let leaving = Assignment { leaves: true, ..assignment(Role::Target, "u1") };
    let back = Sight { source_suppressed: true, ..sight(at(20)) };
    machine.assign(&leaving, &back);
    assert_eq!((machine.role, machine.state), (Role::Target, State::TimeWait));
    machine.time_passed(at(21), GRACE, CONVERGENCE).unwrap();
    assert_eq!(machine.assign(&leaving, &back), None);
    assert_eq!(machine.elevated(), Some(false));
    machine.assign(&assignment(Role::Target, "u1"), &sight(at(30)));
    assert_eq!(machine.state, State::Live);
}

/// A driver that puts its datastore in order deletes a migration and creates it again.
#[test]
fn another_migration_to_where_it_is_known_to_run_keeps_the_priority() {
    let mut base = time_wait();
    base.time_passed(at(40), GRACE, CONVERGENCE).unwrap();
    for mut machine in [time_wait(), base] {
        let transition = machine.assign(&assignment(Role::Target, "u2"), &sight(at(41))).unwrap();
        assert_eq!((transition.input, transition.to, transition.uid.as_str()), (KNOWN, State::Live, "u2"));
        assert_eq!(machine.report_due_since, Some(at(41)), "somebody waits for the new target");
    }
}

#[test]
fn where_it_is_not_known_to_run_another_migration_suppresses_it() {
    let created_anew = Sight { endpoint_uid: "e2".into(), ..sight(at(20)) };
    let tap_made_anew = Sight { ifindex: Some(6), ..sight(at(20)) };
    let tap_gone = Sight { ifindex: None, ..sight(at(20)) };
    for sight in [created_anew, tap_made_anew, tap_gone] {
        let mut machine = time_wait();
        machine.assign(&assignment(Role::Target, "u2"), &sight).unwrap();
        assert_eq!((machine.state, &machine.here), (State::Target, &None), "{sight:?}");
    }
    let mut failed = time_wait();
    failed.source_written(at(12), CONVERGENCE);
    assert_eq!(failed.elevated(), Some(true), "nobody has said where it runs");
    failed.assign(&assignment(Role::Target, "u2"), &sight(at(20))).unwrap();
    assert_eq!(failed.state, State::Target);
    let mut left = time_wait();
    left.assign(&assignment(Role::Source, "u2"), &alone(at(12)));
    left.assign(&Assignment::default(), &alone(at(13)));
    left.assign(&assignment(Role::Target, "u3"), &sight(at(20))).unwrap();
    assert_eq!(left.state, State::Target);
}

/// That is how a driver ends a migration that succeeded, unless its source is there again.
#[test]
fn an_endpoint_that_is_created_anew_after_a_success_is_where_it_runs() {
    for (source_present, expected) in [(false, State::Live), (true, State::Target)] {
        let mut machine = time_wait();
        let anew = Sight { endpoint_uid: "e2".into(), source_present, ..sight(at(11)) };
        machine.endpoint_written(true, &anew);
        machine.assign(&assignment(Role::Target, "u2"), &anew).unwrap();
        assert_eq!(machine.state, expected, "source there: {source_present}");
    }
}

#[test]
fn an_endpoint_without_uid_is_another_one_if_it_was_away() {
    for (was_away, expected) in [(false, State::Live), (true, State::Target)] {
        let nameless = |now| Sight { endpoint_uid: "".into(), ..sight(now) };
        let mut machine = target();
        machine.announced(&seen(5), &nameless(at(5))).unwrap();
        machine.assign(&Assignment::default(), &nameless(at(10))).unwrap();
        machine.endpoint_written(was_away, &nameless(at(11)));
        machine.assign(&assignment(Role::Target, "u2"), &nameless(at(12))).unwrap();
        assert_eq!(machine.state, expected, "was away: {was_away}");
    }
}

/// Should the driver begin it again, only an announcement has been a proof.
#[test]
fn a_success_without_an_announcement_says_nothing_about_the_next_migration() {
    let mut decided = unresolved(false);
    decided.endpoint_written(false, &alone(at(11))).unwrap();
    let mut guessed = unresolved(false);
    guessed.time_passed(at(15), GRACE, CONVERGENCE).unwrap();
    for mut machine in [decided, guessed] {
        machine.assign(&assignment(Role::Target, "u2"), &sight(at(16))).unwrap();
        assert_eq!(machine.state, State::Target);
    }
}

/// After an interruption, migrations are told before endpoints.
#[test]
fn a_retry_that_is_told_before_its_new_endpoint_is_suppressed_with_that() {
    let anew = Sight { endpoint_uid: "e2".into(), ..sight(at(12)) };
    let mut machine = time_wait();
    machine.assign(&assignment(Role::Target, "u2"), &sight(at(12))).unwrap();
    let transition = machine.endpoint_written(false, &anew).unwrap();
    assert_eq!((transition.from, transition.to), (State::Live, State::Target));
    assert_eq!((machine.uid.as_str(), &machine.here, machine.elevated()), ("u2", &None, None));
    // Where it has announced itself in this very migration, a driver has only put things in order.
    let mut machine = live();
    assert_eq!(machine.endpoint_written(true, &anew), None);
    assert_eq!(machine.state, State::Live);
}

#[test]
fn a_migration_is_reported_under_its_own_uid_after_the_endpoint_became_a_source() {
    let mut machine = live();
    let transition = machine.assign(&assignment(Role::Source, "u2"), &sight(at(10))).unwrap();
    assert_eq!((transition.to, transition.uid.as_str()), (State::TimeWait, "u1"));
    let transition = machine.time_passed(at(40), GRACE, CONVERGENCE).unwrap();
    assert_eq!((transition.to, transition.uid.as_str()), (State::Base, "u1"));
}

#[test]
fn a_new_uid_is_taken_over_without_a_transition() {
    for mut machine in [target(), live()] {
        let before = machine.state;
        assert_eq!(machine.assign(&assignment(Role::Target, "u2"), &sight(at(6))), None);
        assert_eq!((machine.state, machine.uid.as_str()), (before, "u2"));
    }
}

#[test]
fn a_new_attempt_starts_with_clean_phases() {
    let mut machine = live();
    machine.phases.armed_at = Some(at(2));
    machine.assign(&Assignment::default(), &sight(at(10))).unwrap();
    machine.source_written(at(11), CONVERGENCE);
    machine.assign(&assignment(Role::Target, "u2"), &sight(at(12))).unwrap();
    assert_eq!(machine.phases, Phases { targeted_at: Some(at(12)), ..Phases::default() });
}

#[test]
fn a_new_attempt_after_an_unresolved_one_does_not_inherit_its_times() {
    let mut machine = unresolved(true);
    machine.phases.armed_at = Some(at(2));
    assert_eq!(machine.assign(&assignment(Role::Target, "u2"), &sight(at(12))), None);
    assert_eq!(machine.uid, "u2");
    assert_eq!(machine.unresolved, None);
    assert_eq!(machine.phases.targeted_at, Some(at(12)));
    assert_eq!(machine.phases.armed_at, Some(at(2)), "the watch is still armed");
    assert_eq!(machine.phases.role_gone_at, None);
}

#[test]
fn the_same_migration_shown_again_goes_on_where_it_was() {
    let mut machine = unresolved(true);
    assert_eq!(machine.assign(&assignment(Role::Target, "u1"), &sight(at(12))), None);
    assert_eq!((machine.unresolved, machine.phases.role_gone_at), (None, None));
    assert_eq!(machine.phases.targeted_at, Some(at(1)));
}

#[test]
fn a_finished_migration_shown_again_takes_no_route_away() {
    let mut machine = live();
    machine.assign(&Assignment::default(), &sight(at(10))).unwrap();
    let mut late = machine.clone();
    machine.assign(&assignment(Role::Target, "u1"), &sight(at(12)));
    assert_eq!(machine.elevated(), Some(true));
    late.time_passed(at(40), GRACE, CONVERGENCE).unwrap();
    assert_eq!(late.elevated(), Some(false));
    late.assign(&assignment(Role::Target, "u1"), &sight(at(41)));
    assert_eq!(late.elevated(), Some(true), "whoever it came from may be back, too");
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
fn written_again_with_source_absent_is_a_success_at_once() {
    let mut machine = unresolved(false);
    let transition = machine.endpoint_written(false, &alone(at(11))).unwrap();
    assert_eq!((transition.input, transition.to), (RoleGone(Success), State::TimeWait));
    assert_eq!(machine.deadline(GRACE), Some(at(41)));
}

/// Nobody knows what came first: the source may come back.
#[test]
fn written_again_before_the_source_went_is_a_success_after_the_grace_time() {
    let mut machine = unresolved(true);
    assert_eq!(machine.endpoint_written(false, &sight(at(11))), None);
    assert_eq!(machine.source_removed(at(12)), None);
    assert_eq!(machine.deadline(GRACE), Some(at(12) + GRACE));
    let transition = machine.time_passed(at(14), GRACE, CONVERGENCE).unwrap();
    assert_eq!((transition.input, transition.to), (RoleGone(Success), State::TimeWait));
}

/// Nothing speaks for a failure where there has never been anything that a rollback could bring back.
#[test]
fn without_a_source_in_the_datastore_the_end_is_a_success_nearly_at_once() {
    let mut machine = Machine::default();
    machine.assign(&assignment(Role::Target, "u1"), &alone(at(1))).unwrap();
    machine.assign(&Assignment::default(), &alone(at(10)));
    assert_eq!(machine.deadline(GRACE), Some(at(10) + SOURCELESS_BOUND));
    // One that was there, if only for a moment, can come back.
    let mut machine = Machine::default();
    machine.assign(&assignment(Role::Target, "u1"), &alone(at(1))).unwrap();
    machine.source_written(at(2), CONVERGENCE);
    machine.source_removed(at(9));
    machine.assign(&Assignment::default(), &alone(at(10)));
    assert_eq!(machine.deadline(GRACE), Some(at(9) + UNRESOLVED_BOUND));
}

#[test]
fn a_source_that_went_long_before_the_end_is_not_about_to_come_back() {
    let mut machine = target();
    machine.source_removed(at(2));
    machine.assign(&Assignment::default(), &alone(at(10)));
    assert_eq!(machine.deadline(GRACE), Some(at(10) + SOURCELESS_BOUND));
}

#[test]
fn written_again_with_source_present_proves_nothing() {
    let mut machine = unresolved(true);
    assert_eq!(machine.endpoint_written(false, &sight(at(11))), None);
    assert_eq!(machine.deadline(GRACE), None);
}

/// A source that goes away late may come back as late as one that goes away at once.
#[test]
fn the_short_bound_counts_from_the_absence_of_the_source() {
    let mut machine = unresolved(true);
    machine.source_removed(at(20));
    assert_eq!(machine.deadline(GRACE), Some(at(20) + UNRESOLVED_BOUND));
}

#[test]
fn source_written_again_is_a_failure_and_leaves_no_route() {
    for source_present in [false, true] {
        let mut machine = unresolved(source_present);
        let transition = machine.source_written(at(11), CONVERGENCE).unwrap();
        assert_eq!((transition.input, transition.to), (RoleGone(Failure), State::Base));
        assert_eq!((machine.elevated(), machine.deadline(GRACE)), (None, None));
        assert!(!machine.is_idle(), "the failure has to survive a restart");
        machine.endpoint_written(false, &sight(at(12)));
        assert_eq!(machine.elevated(), Some(false));
    }
}

#[test]
fn source_written_proves_nothing_while_the_migration_lasts_or_after_an_announcement() {
    let mut machine = target();
    assert_eq!(machine.source_written(at(2), CONVERGENCE), None);
    let mut machine = live();
    assert_eq!(machine.source_written(at(6), CONVERGENCE), None);
    machine.assign(&Assignment::default(), &sight(at(10))).unwrap();
    assert_eq!(machine.source_written(at(11), CONVERGENCE), None);
    assert_eq!(machine.elevated(), Some(true));
}

/// Whoever is the source of a migration runs the virtual machine, whatever became of the migration before.
#[test]
fn becoming_a_source_ends_not_here() {
    let mut machine = unresolved(true);
    machine.source_written(at(11), CONVERGENCE).unwrap();
    machine.assign(&assignment(Role::Source, "u2"), &sight(at(12)));
    assert_eq!(machine.elevated(), Some(false));
}

#[test]
fn announcement_counts_only_in_target() {
    for mut machine in [Machine::default(), live()] {
        let before = machine.clone();
        assert_eq!(machine.announced(&seen(9), &sight(at(9))), None);
        assert_eq!(machine, before);
    }
}

#[test]
fn announcement_without_role_starts_the_convergence_time_at_once() {
    let mut machine = unresolved(true);
    let transition = machine.announced(&seen(11), &sight(at(11))).unwrap();
    assert_eq!((transition.input, transition.to), (LATE, State::TimeWait));
    assert_eq!(machine.deadline(GRACE), Some(at(41)));
    assert_eq!(machine.unresolved, None);
}

#[test]
fn leaving_target_gives_the_watch_up() {
    for input in [IN_TIME, LATE, RoleGone(Success), RoleGone(Failure), ALONE, CONTESTED, Deleted] {
        let mut machine = target();
        machine.arming = Some(Arming { ifindex: 5, generation: 7 });
        machine.step(input, at(2), CONVERGENCE).unwrap();
        assert_eq!(machine.arming, None, "{input:?}");
    }
}

#[test]
fn memory_of_every_state_survives_json() {
    let mut time_wait = live();
    time_wait.assign(&Assignment::default(), &sight(at(10))).unwrap();
    let mut not_here = unresolved(true);
    not_here.source_written(at(11), CONVERGENCE).unwrap();
    for machine in [Machine::default(), target(), unresolved(false), live(), time_wait, not_here] {
        let text = serde_json::to_string(&machine).unwrap();
        assert_eq!(serde_json::from_str::<Machine>(&text).unwrap(), machine);
    }
}

#[test]
fn inputs_have_the_names_of_the_log() {
    let names = [UNKNOWN, IN_TIME, RoleGone(Unknown), Timer, ALONE, Deleted].map(Input::name);
    assert_eq!(names, ["Target", "GARPDetected", "NoRole", "TimerPop", "Source", "Deleted"]);
}
