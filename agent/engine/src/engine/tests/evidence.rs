//! How it is found out what became of a migration (W2, W34).

use super::host::*;
use crate::fact::{AnnouncementSeen, Fact};
use crate::machine::{Outcome, State, UNRESOLVED_BOUND};
use crate::model::Trigger;
use crate::notice::Notice;
use crate::time::BootTime;

fn unresolved() -> Host {
    let mut host = Host::target("b");
    host.tell(migration_removed("b"));
    assert_eq!((host.state(), host.metric()), (State::Target, None));
    assert!(host.watch().is_some(), "the watch stays armed");
    host
}

/// Never anything but suppressed, for this long.
fn stays_suppressed(host: &mut Host, milliseconds: u64) {
    for _ in 0..milliseconds / 100 {
        host.pass(ms(100));
        assert_eq!(host.metric(), None);
    }
}

#[test]
fn w34_announcement_after_the_end_is_a_success() {
    let mut host = unresolved();
    host.tell(removed("a")).pass(ms(100)).announce();
    assert_eq!((host.state(), host.metric()), (State::TimeWait, Some(ELEVATED)));
    host.pass(ms(29_999));
    assert_eq!(host.metric(), Some(ELEVATED));
    host.pass(ms(1));
    assert_eq!((host.state(), host.metric()), (State::Base, Some(NORMAL)));
}

/// A rollback never writes the target's endpoint after it has removed the source's.
#[test]
fn w34_activation_without_announcement_is_a_success_at_once() {
    let mut host = unresolved();
    host.tell(removed("a")).pass(ms(180)).tell(written("b"));
    assert_eq!((host.state(), host.metric()), (State::TimeWait, Some(ELEVATED)));
}

#[test]
fn w34_legacy_success_without_announcement_is_one_at_once() {
    let mut host = unresolved();
    host.tell(removed("a")).tell(removed("b"));
    stays_suppressed(&mut host, 300);
    host.tell(recreated("b", "e2"));
    assert_eq!((host.state(), host.metric()), (State::TimeWait, Some(ELEVATED)));
}

/// What a datastore tells after an interruption says nothing about what came first.
#[test]
fn w34_written_before_the_source_went_proves_nothing_for_the_grace_time() {
    let mut host = unresolved();
    host.tell(written("b")).tell(removed("a"));
    stays_suppressed(&mut host, 1_900);
    let mut failed = host.clone();
    failed.tell(written("a"));
    stays_suppressed(&mut failed, 60_000);
    host.pass(ms(100));
    assert_eq!((host.state(), host.metric()), (State::TimeWait, Some(ELEVATED)));
}

#[test]
fn w34_without_a_source_in_the_datastore_nothing_speaks_for_a_failure() {
    let mut host = Host::quiet("b");
    host.tell(migration_written("u1", "a", "b")).tell(written("b")).pass(ms(5_000));
    let mut failed = host.clone();
    host.tell(migration_removed("b"));
    stays_suppressed(&mut host, 200);
    host.pass(ms(50));
    assert_eq!((host.state(), host.metric()), (State::TimeWait, Some(ELEVATED)));
    // Whatever goes with the migration has gone by then.
    failed.tell(migration_removed("b")).pass(ms(100)).tell(removed("b"));
    stays_suppressed(&mut failed, 60_000);
}

/// One that cannot be read is there all the same.
#[test]
fn w34_a_source_that_only_the_datastore_knows_is_waited_for() {
    let mut host = Host::quiet("b").asking();
    host.datastore_answers = false;
    host.tell(migration_written("u1", "a", "b")).tell(written("b")).pass(ms(5_000));
    host.tell(migration_removed("b")).pass(ms(250));
    assert_eq!(host.engine.take_questions(), [port("a")]);
    let at = host.now;
    host.tell(Fact::EndpointLookedUp { endpoint: port("a"), at, exists: true });
    assert_eq!(host.engine.next_deadline(), Some(host.now + UNRESOLVED_BOUND));
}

#[test]
fn w34_while_it_is_open_any_frame_of_the_virtual_machine_decides() {
    let mut host = Host::target("b");
    let generation = host.watch().unwrap().generation;
    assert_eq!(host.watch().unwrap().trigger, Trigger::Announcement);
    host.tell(migration_removed("b"));
    let watch = host.watch().unwrap().clone();
    assert_eq!((watch.generation, watch.trigger), (generation, Trigger::FirstFrame), "the same watch, wider");
    assert_eq!(watch.mac, Some(MAC), "of the virtual machine");
    assert!(host.engine.view(host.now)[0].waits_for.is_some(), "status says so");
    let mut again = host.clone();
    host.announce();
    assert_eq!((host.state(), host.metric()), (State::TimeWait, Some(ELEVATED)));
    assert!(host.engine.view(host.now)[0].waits_for.is_none());
    again.tell(migration_written("u1", "a", "b"));
    assert_eq!(again.watch().unwrap().trigger, Trigger::Announcement, "it is not over");
}

#[test]
fn w34_source_created_again_is_a_failure() {
    let mut host = unresolved();
    host.tell(removed("a")).tell(removed("b")).pass(ms(400)).tell(written("a"));
    assert!(host.engine.locals.is_empty());
    stays_suppressed(&mut host, 60_000);
}

#[test]
fn w34_source_created_again_while_the_target_is_still_there_is_a_failure() {
    let mut host = unresolved();
    host.tell(removed("a")).pass(ms(400)).tell(written("a"));
    assert!(host.not_here());
    assert_eq!(host.watch(), None);
    stays_suppressed(&mut host, 60_000);
    host.tell(removed("b"));
    assert!(host.engine.locals.is_empty(), "what is known to run elsewhere needs no grace time");
}

#[test]
fn w34_source_rewritten_is_a_failure() {
    let mut host = unresolved();
    host.tell(written("a"));
    assert!(host.not_here());
    stays_suppressed(&mut host, 60_000);
}

#[test]
fn w34_own_endpoint_away_beyond_the_grace_time_is_the_end() {
    let mut host = unresolved();
    host.tell(removed("b"));
    stays_suppressed(&mut host, 2_000);
    assert!(host.engine.locals.is_empty());
}

#[test]
fn w34_nothing_at_all_with_the_source_present_waits_for_evidence() {
    let mut host = unresolved();
    stays_suppressed(&mut host, 3_600_000);
    assert_eq!(host.state(), State::Target);
}

#[test]
fn w34_nothing_at_all_with_the_source_absent_waits_the_short_bound() {
    let mut host = unresolved();
    host.tell(removed("a"));
    host.pass(UNRESOLVED_BOUND - ms(1));
    assert_eq!(host.metric(), None);
    host.pass(ms(1));
    assert_eq!(host.state(), State::TimeWait);
}

/// A driver that stops between two writes and rolls back when it is restarted.
#[test]
fn w34_slow_rollback_never_raises_the_priority() {
    let mut host = unresolved();
    stays_suppressed(&mut host, 6_000);
    host.tell(removed("a"));
    stays_suppressed(&mut host, 400);
    host.tell(written("a"));
    stays_suppressed(&mut host, 60_000);
}

#[test]
fn w34_source_gone_before_the_migration() {
    let mut host = Host::target("b");
    host.tell(removed("a")).pass(ms(3_000)).tell(migration_removed("b"));
    stays_suppressed(&mut host, 1_900);
    let mut decided = host.clone();
    decided.tell(written("b"));
    assert_eq!(decided.state(), State::TimeWait);
    host.pass(ms(100));
    assert_eq!(host.state(), State::TimeWait, "the bound counts from when the source went");
}

#[test]
fn w34_migration_that_comes_back_is_waited_for_again() {
    for uid in ["u1", "u2"] {
        let mut host = unresolved();
        let watch = host.watch().map(|watch| watch.generation);
        host.pass(ms(3_000)).tell(migration_written(uid, "a", "b"));
        stays_suppressed(&mut host, 60_000);
        assert_eq!(host.watch().map(|watch| watch.generation), watch, "the same watch");
        host.announce();
        assert_eq!(host.state(), State::Live);
    }
}

#[test]
fn w34_other_ports_of_the_source_prove_nothing() {
    let mut host = unresolved();
    host.tell(Fact::EndpointWritten(named_port("a", "port2"), endpoint()));
    host.tell(Fact::EndpointWritten(port("c"), endpoint()));
    assert_eq!((host.state(), host.not_here()), (State::Target, false));
}

#[test]
fn w2_failed_migration_before_and_after_the_end_of_the_target() {
    for target_first in [true, false] {
        let mut host = Host::target("b");
        let facts = [removed("b"), migration_removed("b")];
        let [first, second] = if target_first {
            facts
        } else {
            let [own, lm] = facts;
            [lm, own]
        };
        host.tell(first);
        stays_suppressed(&mut host, 300);
        host.tell(second);
        stays_suppressed(&mut host, 60_000);
        assert!(host.engine.locals.is_empty());
    }
}

#[test]
fn failed_endpoint_has_a_route_again_once_it_is_written() {
    let mut host = unresolved();
    host.tell(written("a")).pass(ms(60_000)).tell(written("b"));
    assert_eq!((host.state(), host.metric()), (State::Base, Some(NORMAL)));
}

#[test]
fn notices_of_an_unresolved_migration_and_its_failure() {
    let mut host = Host::target("b");
    host.engine.take_notices();
    host.tell(migration_removed("b")).tell(written("a"));
    let notices = host.engine.take_notices();
    assert!(notices.contains(&Notice::Unresolved {
        endpoint: port("b"),
        uid: "u1".into(),
        source_present: true
    }));
    let failed = |notice: &Notice| {
        matches!(notice, Notice::Transition { transition, .. }
        if transition.to == State::Base && transition.input == crate::machine::Input::RoleGone(Outcome::Failure))
    };
    assert!(notices.iter().any(failed), "{notices:?}");
    let finished = notices.iter().find_map(|notice| match notice {
        Notice::Finished(record) => Some((record.uid.as_str(), record.arrived)),
        _ => None,
    });
    assert_eq!(finished, Some(("u1", false)));
}

/// A port that is deleted in mid-migration is given up before its outcome is guessed: there is none.
#[test]
fn w34_an_endpoint_that_may_be_gone_is_never_advertised() {
    // The longest grace, and the last moment of the ordinary one.
    for (grace, gone_after) in [(ms(60_000), ms(100)), (ms(2_000), ms(4_900))] {
        for is_rewritten in [false, true] {
            let mut host = Host::target("b");
            let policy = crate::model::Policy { grace, ..host.engine.policy.clone() };
            host.tell(Fact::PolicyChanged(Box::new(policy)));
            host.tell(migration_removed("b"));
            if is_rewritten {
                host.tell(written("b"));
                host.pass(gone_after).tell(removed("a")).pass(ms(1_900)).tell(removed("b"));
            } else {
                host.tell(removed("a")).pass(gone_after).tell(removed("b"));
            }
            assert!(host.held());
            stays_suppressed(&mut host, 70_000);
            assert!(host.engine.locals.is_empty());
        }
    }
}

#[test]
fn w34_what_was_held_beyond_the_bound_and_is_back_is_a_success() {
    let mut host = Host::target("b");
    host.tell(migration_removed("b")).tell(removed("a")).pass(ms(4_900)).tell(removed("b"));
    host.pass(ms(1_500));
    assert_eq!(host.state(), State::Target);
    host.tell(written("b"));
    assert_eq!((host.state(), host.metric()), (State::TimeWait, Some(ELEVATED)));
}

#[test]
fn what_the_fast_path_did_counts_also_if_the_evidence_was_told_first() {
    let mut host = Host::target("b");
    let generation = host.watch().unwrap().generation;
    let seen_at = host.now;
    host.tell(announcement(generation, seen_at));
    assert_eq!(host.state(), State::Live);
    let by_fast_path = |seen_at| {
        let (taken_at, routed_at) = (Some(seen_at + ms(1)), Some(seen_at + ms(2)));
        let kind = cutover_common::AnnouncementKind::Rarp;
        Fact::AnnouncementSeen(AnnouncementSeen { generation, kind, seen_at, taken_at, routed_at })
    };
    // Of an earlier migration.
    host.tell(by_fast_path(BootTime(seen_at.0 - 1)));
    assert_eq!(host.phases().routed_at, None);
    host.tell(by_fast_path(seen_at));
    assert_eq!((host.state(), host.phases().announced_at), (State::Live, Some(seen_at)));
    assert_eq!(host.phases().taken_at, Some(seen_at + ms(1)));
    assert_eq!(host.phases().routed_at, Some(seen_at + ms(2)));
}
