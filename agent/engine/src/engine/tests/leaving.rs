//! What a host says of a port whose virtual machine is leaving, has left, or was expected and went elsewhere.

use super::host::*;
use crate::fact::{Fact, Link};
use crate::memory::{LeftBehind, Memory};
use crate::wanted::Status::{AsReported, Down, Up};

/// The port runs here and migrates to `b`.
fn source() -> Host {
    let mut host = Host::quiet("a");
    host.tell(written("a")).tell(migration_written("u1", "a", "b")).tell(written("b"));
    assert_eq!(host.status(), Some(Up));
    host
}

fn carrier(running: bool) -> Fact {
    Fact::LinkSeen(link(5, running))
}

fn restarted(host: &Host, resources: Vec<Fact>) -> Host {
    let mut again = Host::restarted("a", host.now + ms(500), host.memory(), host.found());
    again.armed.clone_from(&host.armed);
    let links: Vec<Link> = host.engine.links.values().cloned().collect();
    for fact in links.into_iter().map(Fact::LinkSeen).chain(resources) {
        again.tell(fact);
    }
    again.tell(Fact::InSync { complete: true });
    again
}

/// The hypervisor lets go of the tap before the migration is over, and the port is in use at the target by then.
#[test]
fn a_source_without_a_carrier_is_not_down() {
    let mut host = source();
    host.tell(carrier(false));
    assert_eq!(host.status(), Some(AsReported));
    host.pass(ms(600_000)).tell(written("a"));
    assert_eq!(host.status(), Some(AsReported), "it is not over");
    host.tell(migration_removed("b"));
    assert_eq!(host.status(), Some(AsReported), "nobody knows yet");
    host.tell(removed("a"));
    assert_eq!(host.status(), Some(AsReported));
    host.pass(ms(2_000));
    assert_eq!(host.status(), None);
}

/// It came a moment ago, and goes on before its time of elevated priority is over.
#[test]
fn a_source_that_has_just_arrived_and_loses_its_tap_is_not_down() {
    let mut host = Host::live("b");
    host.tell(migration_removed("b")).tell(migration_written("u2", "b", "c"));
    host.tell(Fact::LinkRemoved { ifindex: 5 });
    assert_eq!(host.status(), Some(AsReported));
    host.pass(ms(60_000));
    assert_eq!(host.status(), Some(AsReported), "nor when it is");
}

/// It came a moment ago, goes on, and its endpoint is removed: whether the machine has left is open, but where it may have gone to
/// its route is elevated, so that ours must not be so for longer than a second.
#[test]
fn an_elevated_priority_ends_in_time_although_nobody_knows_whether_the_machine_has_left() {
    let mut host = Host::live("b");
    host.tell(migration_removed("b")).tell(migration_written("u2", "b", "c"));
    host.pass(ms(300)).tell(migration_removed("c")).tell(removed("b"));
    assert!(host.held() && host.metric() == Some(ELEVATED));
    host.pass(ms(699));
    assert_eq!(host.metric(), Some(ELEVATED));
    host.pass(ms(1));
    assert_eq!(host.metric(), Some(NORMAL));
    assert_eq!(host.status(), Some(AsReported), "that it is over says nothing about the machine");
    host.pass(ms(1_300));
    assert_eq!(host.metric(), None);
}

#[test]
fn a_source_is_down_once_it_is_known_that_its_machine_stays() {
    for is_rewritten in [true, false] {
        let mut host = source();
        host.tell(carrier(false)).tell(migration_removed("b"));
        if is_rewritten {
            host.tell(written("a"));
        } else {
            host.pass(ms(1_999));
            assert_eq!(host.status(), Some(AsReported));
            host.pass(ms(1));
        }
        assert_eq!(host.status(), Some(Down));
        host.tell(carrier(true));
        assert_eq!(host.status(), Some(Up));
    }
}

/// The next migration from here begins before it is known what became of the last one.
#[test]
fn a_source_whose_target_is_switched_is_not_down_either() {
    let mut host = source();
    host.tell(carrier(false)).tell(migration_removed("b"));
    host.tell(migration_written("u2", "a", "c")).tell(written("a"));
    host.pass(ms(60_000));
    assert_eq!(host.status(), Some(AsReported));
}

#[test]
fn it_is_remembered_that_nobody_knows_whether_the_machine_stays() {
    let mut host = source();
    host.tell(carrier(false)).tell(migration_removed("b"));
    let mut again = restarted(&host, vec![written("a"), written("b")]);
    assert_eq!(again.status(), Some(AsReported));
    again.pass(ms(1_500));
    assert_eq!(again.status(), Some(Down), "when it would have been");
}

#[test]
fn it_is_remembered_that_the_port_of_a_source_was_taken_out_of_service() {
    let mut host = source();
    host.tell(Fact::StatusRemovedElsewhere(port("b")));
    let during = restarted(&host, vec![written("a"), migration_written("u1", "a", "b"), written("b")]);
    let over = |mut host: Host| {
        host.tell(migration_removed("b"));
        host
    };
    let after = restarted(&host, vec![written("a"), written("b")]);
    for host in [over(during), after] {
        assert!(host.due().is_some());
    }
}

/// The datastore is asked about what is held, and about nothing else: an agent that starts in the gap that a driver leaves (W33)
/// must know what to ask.
#[test]
fn what_is_held_is_remembered() {
    let mut host = Host::quiet("a");
    host.tell(written("a")).tell(removed("a"));
    assert!(host.held());
    let mut again = Host::restarted("a", host.now, host.memory(), LeftBehind::default()).asking();
    again.datastore_answers = false;
    again.tell(link_of(&host)).tell(Fact::InSync { complete: true });
    again.pass(ms(60_000));
    assert_eq!(again.metric(), Some(NORMAL), "nobody has answered");
    again.datastore_answers = true;
    again.pass(ms(60_000));
    assert_eq!(again.metric(), None);
}

fn link_of(host: &Host) -> Fact {
    Fact::LinkSeen(host.engine.links[&5].clone())
}

/// A target that was given up for another one. Nova waits for the other one by then, and takes any status that is removed for a
/// failure of the port.
#[test]
fn w35_a_given_up_target_keeps_its_status_while_the_port_migrates_elsewhere() {
    let mut host = Host::target("b");
    host.report();
    host.tell(migration_removed("b")).tell(migration_written("u2", "a", "c"));
    host.tell(written("a")).tell(removed("b"));
    assert!(host.engine.locals.is_empty());
    assert_eq!(host.status(), Some(AsReported));
    host.pass(ms(600_000));
    assert_eq!(host.status(), Some(AsReported));
    host.tell(migration_removed("c"));
    assert_eq!(host.status(), None);
}

/// The machine has moved on before the host that it came from has given its endpoint up.
#[test]
fn w35_a_former_source_keeps_its_status_while_the_port_migrates_elsewhere() {
    let mut host = source();
    host.tell(migration_removed("b")).tell(removed("a")).tell(migration_written("u2", "b", "c"));
    host.pass(ms(60_000));
    assert!(host.engine.locals.is_empty());
    assert_eq!(host.status(), Some(AsReported));
    let mut again = Host::restarted("a", host.now, Memory::default(), LeftBehind::default());
    again.tell(migration_written("u2", "b", "c")).tell(Fact::InSync { complete: true });
    assert_eq!(again.status(), Some(AsReported), "also after a restart");
    for host in [&mut host, &mut again] {
        host.tell(migration_removed("c"));
        assert_eq!(host.status(), None);
    }
}

#[test]
fn w35_migrations_of_other_ports_keep_nothing() {
    let mut host = Host::quiet("a");
    host.tell(written("a"));
    let mut other = migration("u2", "b", "c");
    other.source = None;
    other.target = Some(crate::model::MigrationTarget::Endpoint(named_port("c", "port2")));
    host.tell(Fact::MigrationWritten("another".into(), other)).tell(removed("a")).pass(ms(2_000));
    assert_eq!(host.status(), None);
}
