//! Migrations that follow each other (W11, W12), and what is said about them.

use super::host::*;
use crate::fact::Fact;
use crate::machine::State;
use crate::notice::Notice;
use crate::roles::Role;

fn time_wait() -> Host {
    let mut host = Host::live("b");
    host.tell(migration_removed("b")).tell(removed("a"));
    assert_eq!(host.state(), State::TimeWait);
    host
}

fn roles_emitted(host: &mut Host) -> Vec<(Role, String)> {
    let emitted = host.engine.take_notices().into_iter().filter_map(|notice| match notice {
        Notice::RoleEmitted { role, uid, .. } => Some((role, uid)),
        _ => None,
    });
    emitted.collect()
}

#[test]
fn w11_retry_to_the_same_host_is_suppressed_and_watched_anew() {
    let mut host = Host::target("b");
    let generation_before = host.watch().unwrap().generation;
    host.announce();
    host.tell(migration_removed("b")).tell(removed("a"));
    assert_eq!((host.state(), host.watch()), (State::TimeWait, None));
    host.tell(written("a")).tell(migration_written("u2", "a", "b"));
    assert_eq!((host.state(), host.metric()), (State::Target, None));
    assert!(host.watch().unwrap().generation > generation_before);
    host.announce();
    assert_eq!((host.state(), host.metric()), (State::Live, Some(ELEVATED)));
}

#[test]
fn w11_retry_after_a_failure() {
    let mut host = Host::target("b");
    host.tell(migration_removed("b")).tell(written("a"));
    assert!(host.not_here());
    host.tell(migration_written("u2", "a", "b"));
    assert_eq!((host.state(), host.not_here()), (State::Target, false));
    host.announce();
    assert_eq!(host.metric(), Some(ELEVATED));
}

#[test]
fn w11_another_uid_while_live_keeps_the_route() {
    let mut host = Host::live("b");
    host.tell(migration_written("u2", "a", "b"));
    assert_eq!((host.state(), host.metric()), (State::Live, Some(ELEVATED)));
}

#[test]
fn w11_announcement_of_the_attempt_before_does_not_count() {
    let mut host = Host::target("b");
    let old = host.watch().unwrap().generation;
    host.announce();
    host.tell(migration_removed("b")).tell(written("a")).pass(ms(100));
    host.tell(migration_written("u2", "a", "b"));
    assert_eq!(host.state(), State::Target);
    let now = host.now;
    host.tell(announcement(old, now));
    assert_eq!((host.state(), host.metric()), (State::Target, None));
}

#[test]
fn finished_migration_shown_again_takes_no_route_away() {
    for wait in [1_000, 40_000] {
        let mut host = time_wait();
        host.pass(ms(wait)).tell(migration_written("u1", "a", "b"));
        for _ in 0..60 {
            host.pass(ms(1_000));
            assert_eq!(host.metric(), Some(ELEVATED), "whoever it came from may be back, too");
        }
        host.tell(migration_removed("b")).pass(ms(30_000));
        assert_eq!(host.metric(), Some(NORMAL));
    }
}

/// A driver that puts its datastore in order deletes a migration and creates it again, in the middle of it or after its end.
#[test]
fn w11_another_migration_to_where_the_machine_announced_itself_keeps_its_route() {
    for (wait, is_written) in [(0, false), (1_000, true), (40_000, true)] {
        let mut host = Host::live("b");
        host.tell(migration_removed("b"));
        if is_written {
            host.tell(removed("a")).tell(written("b"));
        }
        host.pass(ms(wait)).tell(migration_written("u2", "a", "b")).tell(written("a")).tell(written("b"));
        assert_eq!((host.state(), host.metric()), (State::Live, Some(ELEVATED)));
        assert_eq!(host.watch(), None);
        host.tell(migration_removed("b"));
        assert_eq!(host.state(), State::TimeWait);
    }
}

#[test]
fn w11_retry_on_a_tap_that_was_made_anew() {
    let mut host = time_wait();
    host.tell(Fact::LinkRemoved { ifindex: 5 }).tell(Fact::LinkSeen(link(6, true)));
    host.tell(migration_written("u2", "a", "b"));
    assert_eq!((host.state(), host.metric()), (State::Target, None));
}

#[test]
fn w11_retry_with_an_endpoint_that_was_created_anew() {
    let mut host = time_wait();
    host.tell(removed("b")).tell(migration_written("u2", "a", "b")).tell(recreated("b", "e2"));
    assert_eq!((host.state(), host.metric()), (State::Target, None));
}

/// It may have been the source of an attempt that failed in the meantime; its virtual machine is still here.
#[test]
fn finished_migration_shown_again_after_a_failed_way_back_takes_no_route_away() {
    let mut host = time_wait();
    host.tell(migration_written("u2", "b", "a")).pass(ms(40_000)).tell(written("b"));
    host.tell(migration_removed("a")).pass(ms(1_000)).tell(migration_written("u1", "a", "b"));
    assert_eq!(host.metric(), Some(ELEVATED));
}

#[test]
fn w12_source_of_the_next_migration_is_normal_at_once() {
    for mut host in [Host::live("b"), time_wait()] {
        host.tell(migration_removed("b")).tell(removed("a")).pass(ms(500));
        host.tell(migration_written("u2", "b", "a"));
        assert_eq!((host.state(), host.metric()), (State::Base, Some(NORMAL)));
    }
}

/// The host before still has a route of normal priority, until its endpoint is gone or for a second.
#[test]
fn w12_source_of_the_next_migration_waits_a_moment_for_the_host_before() {
    for is_removed in [true, false] {
        let mut host = Host::live("b");
        host.tell(migration_removed("b")).tell(migration_written("u2", "b", "c"));
        host.pass(ms(999));
        assert_eq!((host.state(), host.metric()), (State::TimeWait, Some(ELEVATED)));
        if is_removed {
            host.tell(removed("a"))
        } else {
            host.pass(ms(1))
        };
        assert_eq!((host.state(), host.metric()), (State::Base, Some(NORMAL)));
    }
}

/// The host before has no route if the next migration is heading there.
#[test]
fn w12_source_of_the_way_back_waits_for_nobody() {
    let mut host = Host::live("b");
    host.tell(migration_removed("b")).tell(migration_written("u2", "b", "a"));
    assert_eq!((host.state(), host.metric()), (State::Base, Some(NORMAL)));
}

/// Migration back before the first one is over: a target that is also a source stays a target, but is not elevated for long.
#[test]
fn w12_overlapping_migration_back() {
    for ends in [true, false] {
        let mut host = Host::live("b");
        host.tell(migration_written("u2", "b", "a"));
        assert_eq!((host.state(), host.metric()), (State::TimeWait, Some(ELEVATED)));
        if ends {
            host.tell(migration_removed("b"))
        } else {
            host.pass(ms(1_000))
        };
        assert_eq!((host.state(), host.metric()), (State::Base, Some(NORMAL)));
        host.pass(ms(60_000));
        assert_eq!((host.state(), host.metric()), (State::Base, Some(NORMAL)));
    }
}

/// The way back is given up while the migration to here is still there: nobody else is elevated.
#[test]
fn w12_overlapping_migration_back_that_fails() {
    let mut host = Host::live("b");
    host.tell(migration_written("u2", "b", "a")).pass(ms(5_000)).tell(migration_removed("a"));
    assert_eq!((host.state(), host.metric()), (State::Live, Some(ELEVATED)));
}

#[test]
fn finished_migration_is_recorded_under_its_uid_after_the_way_back_began() {
    let mut host = Host::live("b");
    host.tell(migration_written("u2", "b", "a")).tell(migration_removed("b")).pass(ms(30_000));
    let records: Vec<_> = host
        .engine
        .take_notices()
        .into_iter()
        .filter_map(|notice| match notice {
            Notice::Finished(record) => Some((record.uid.clone(), record.source.clone(), record.arrived)),
            _ => None,
        })
        .collect();
    assert_eq!(records, [("u1".to_owned(), Some(port("a").to_string()), true)]);
}

/// Written before its reason is known: without this the virtual machine would be left without a route.
#[test]
fn source_of_a_migration_is_here_even_if_the_one_before_seemed_to_fail() {
    let mut host = Host::target("b");
    host.tell(migration_removed("b")).tell(written("a"));
    assert_eq!(host.metric(), None);
    host.tell(migration_written("u2", "b", "a"));
    assert_eq!(host.metric(), Some(NORMAL));
}

#[test]
fn role_is_emitted_when_it_changes_and_when_a_target_has_another_migration() {
    let mut host = Host::quiet("b");
    host.tell(written("b"));
    assert_eq!(roles_emitted(&mut host), []);
    host.tell(migration_written("u1", "a", "b")).tell(written("b")).tell(migration_written("u1", "a", "b"));
    assert_eq!(roles_emitted(&mut host), [(Role::Target, "u1".into())]);
    host.tell(migration_written("u2", "a", "b")).tell(written("b"));
    assert_eq!(roles_emitted(&mut host), [(Role::Target, "u2".into())]);
    host.tell(migration_removed("b")).tell(written("b"));
    assert_eq!(roles_emitted(&mut host), [(Role::None, "u2".into())]);
}

#[test]
fn role_of_a_source_is_emitted_once_for_each_migration() {
    for mut host in [Host::quiet("b"), time_wait()] {
        host.tell(written("b"));
        host.engine.take_notices();
        host.tell(migration_written("r1", "b", "c"));
        assert_eq!(roles_emitted(&mut host), [(Role::Source, "r1".into())]);
        host.tell(migration_written("r2", "b", "d")).tell(written("b")).tell(written("b"));
        assert_eq!(roles_emitted(&mut host), [(Role::Source, "r2".into())]);
        host.tell(migration_removed("c")).tell(migration_removed("d")).tell(written("b"));
        assert_eq!(roles_emitted(&mut host), [(Role::None, "r2".into())]);
    }
}

#[test]
fn migration_that_is_edited_in_place_concerns_its_old_ends_too() {
    let mut host = Host::target("b");
    let mut edited = migration("u1", "a", "c");
    host.tell(Fact::MigrationWritten(port("b").to_string(), edited.clone()));
    assert!(host.engine.locals[&port("b")].machine.unresolved.is_some(), "no target any more");
    edited.source = Some(crate::model::MigrationSource::Endpoint(port("b")));
    host.tell(Fact::MigrationWritten(port("b").to_string(), edited));
    assert_eq!((host.state(), host.metric()), (State::Base, Some(NORMAL)));
}

#[test]
fn labels_make_an_endpoint_a_target() {
    let mut host = Host::quiet("b");
    host.tell(written("b"));
    let mut chosen = migration("u1", "a", "b");
    let selector = crate::selector::Selector::parse("moved == 'yes'").unwrap();
    chosen.target = Some(crate::model::MigrationTarget::Selector(selector));
    host.tell(Fact::MigrationWritten("m".into(), chosen));
    assert_eq!(host.metric(), Some(NORMAL));
    let mut labelled = endpoint();
    labelled.labels.insert("moved".into(), "yes".into());
    host.tell(Fact::EndpointWritten(port("b"), labelled));
    assert_eq!((host.state(), host.metric()), (State::Target, None));
    host.tell(Fact::MigrationRemoved("m".into()));
    assert!(host.engine.locals[&port("b")].machine.unresolved.is_some());
}

#[test]
fn convergence_time_of_zero_ends_at_once() {
    let mut host = Host::target("b");
    let policy =
        crate::model::Policy { convergence: core::time::Duration::ZERO, ..host.engine.policy.clone() };
    host.tell(Fact::PolicyChanged(Box::new(policy)));
    host.appliers = false;
    host.tell(removed("a")).tell(migration_removed("b"));
    host.pass(ms(60_000));
    assert_eq!((host.state(), host.metric()), (State::Base, Some(NORMAL)));
}
