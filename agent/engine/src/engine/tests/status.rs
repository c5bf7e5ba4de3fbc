//! What is reported to Neutron (W5, W14, W35).

use super::host::*;
use crate::fact::Fact;
use crate::machine::State;
use crate::memory::{LeftBehind, Memory};
use crate::wanted::Status::{AsReported, Down, Up};

fn removed_elsewhere(host: &str) -> Fact {
    Fact::StatusRemovedElsewhere(port(host))
}

/// A target with a tap as the orchestrator plugs it: admin-up, without carrier, nothing done to it yet.
fn plugged_target() -> Host {
    let mut host = Host::starting("b");
    host.appliers = false;
    host.tell(Fact::LinkSeen(link(5, false)));
    host.tell(Fact::InSync { complete: true });
    host.tell(written("a"));
    host.tell(migration_written("u1", "a", "b"));
    host.tell(written("b"));
    assert_eq!(host.state(), State::Target);
    host
}

fn armed(host: &Host) -> Fact {
    Fact::WatchArmed { generation: host.watch().unwrap().generation, at: host.now }
}

const CONFIGURED: Fact = Fact::InterfaceConfigured { ifindex: 5, ready: true };
const UNCONFIGURED: Fact = Fact::InterfaceConfigured { ifindex: 5, ready: false };

#[test]
fn w5_target_is_up_with_watch_and_interface_ready_and_needs_no_carrier() {
    let mut host = plugged_target();
    assert_eq!(host.status(), Some(AsReported));
    host.tell(CONFIGURED);
    assert_eq!(host.status(), Some(AsReported), "no watch yet");
    let fact = armed(&host);
    host.tell(fact);
    assert_eq!(host.status(), Some(Up));
    host.tell(Fact::LinkSeen(link(5, true)));
    assert_eq!(host.status(), Some(Up));
}

#[test]
fn w5_target_is_not_up_before_the_interface_is_ready() {
    let mut host = plugged_target();
    let fact = armed(&host);
    host.tell(fact);
    assert_eq!(host.status(), Some(AsReported));
    host.tell(UNCONFIGURED);
    assert_eq!(host.status(), Some(AsReported), "a target is never down");
    host.tell(CONFIGURED);
    assert_eq!(host.status(), Some(Up));
}

#[test]
fn w5_target_is_not_up_while_its_watch_cannot_be_armed() {
    let mut host = plugged_target();
    host.tell(CONFIGURED);
    let generation = host.watch().unwrap().generation;
    host.tell(Fact::WatchFailed { generation });
    assert_eq!(host.status(), Some(AsReported));
    let fact = armed(&host);
    host.tell(fact);
    assert_eq!(host.status(), Some(Up));
}

/// The route of a fast path cannot be installed on an interface that is down.
#[test]
fn w5_target_is_not_up_while_its_tap_is_administratively_down() {
    let mut host = plugged_target();
    host.tell(CONFIGURED);
    let fact = armed(&host);
    host.tell(fact);
    let down = crate::fact::Link { admin_up: false, ..link(5, false) };
    host.tell(Fact::LinkSeen(down));
    assert_eq!(host.status(), Some(AsReported));
}

#[test]
fn w5_target_is_not_up_without_its_tap_and_has_to_be_armed_again() {
    let mut host = plugged_target();
    host.tell(CONFIGURED);
    let fact = armed(&host);
    host.tell(fact);
    host.tell(Fact::LinkRemoved { ifindex: 5 });
    assert_eq!(host.status(), Some(AsReported));
    host.tell(Fact::LinkSeen(link(6, false)));
    host.tell(Fact::InterfaceConfigured { ifindex: 6, ready: true });
    assert_eq!(host.status(), Some(AsReported), "the watch of the old tap does not count");
    let fact = armed(&host);
    host.tell(fact);
    assert_eq!(host.status(), Some(Up));
}

#[test]
fn target_stays_up_while_its_migration_is_unresolved() {
    let mut host = Host::target("b");
    host.tell(migration_removed("b"));
    assert_eq!((host.state(), host.status()), (State::Target, Some(Up)));
}

#[test]
fn arrived_endpoint_is_up_whatever_the_carrier() {
    let mut host = Host::live("b");
    host.tell(Fact::LinkSeen(link(5, false)));
    assert_eq!(host.status(), Some(Up));
    host.tell(migration_removed("b"));
    assert_eq!((host.state(), host.status()), (State::TimeWait, Some(Up)));
    host.tell(Fact::LinkRemoved { ifindex: 5 });
    assert_eq!(host.status(), Some(Down));
}

#[test]
fn ordinary_endpoint_follows_carrier_and_interface() {
    let mut host = Host::starting("b");
    host.appliers = false;
    host.tell(Fact::InSync { complete: true });
    host.tell(written("b"));
    assert_eq!(host.status(), Some(Down), "no tap");
    host.tell(Fact::LinkSeen(link(5, false)));
    assert_eq!(host.status(), Some(Down), "no carrier");
    host.tell(Fact::LinkSeen(link(5, true)));
    assert_eq!(host.status(), Some(AsReported), "not looked at yet");
    host.tell(UNCONFIGURED);
    assert_eq!(host.status(), Some(Down));
    host.tell(CONFIGURED);
    assert_eq!(host.status(), Some(Up));
    host.tell(Fact::LinkSeen(link(5, false)));
    assert_eq!(host.status(), Some(Down));
}

#[test]
fn w14_restart_takes_no_port_down() {
    let mut host = Host::restarted("b", Host::quiet("b").now, Memory::default(), LeftBehind::default());
    host.appliers = false;
    for fact in [Fact::LinkSeen(link(5, true)), written("b"), Fact::InSync { complete: true }] {
        host.tell(fact);
        assert!(host.engine.wanted().is_none_or(|wanted| wanted.statuses[&port("b")].status == AsReported));
    }
    host.tell(CONFIGURED);
    assert_eq!(host.status(), Some(Up));
}

#[test]
fn report_of_a_tap_that_is_gone_says_nothing_about_the_next_one() {
    let mut host = Host::quiet("b");
    host.tell(written("b"));
    assert_eq!(host.status(), Some(Up));
    host.appliers = false;
    host.tell(Fact::LinkRemoved { ifindex: 5 });
    host.tell(CONFIGURED);
    host.tell(Fact::LinkSeen(link(6, true)));
    assert_eq!(host.status(), Some(AsReported));
}

#[test]
fn w35_held_endpoint_stays_as_reported_and_only_the_removed_one_loses_its_status() {
    let mut host = Host::quiet("b");
    host.tell(written("b"));
    assert_eq!(host.status(), Some(Up));
    host.tell(removed("b"));
    assert_eq!(host.status(), Some(AsReported));
    host.pass(ms(1_999));
    assert_eq!(host.status(), Some(AsReported));
    host.pass(ms(1));
    assert_eq!(host.status(), None);
}

/// A key that is deleted before the outcome is known turns the port of a running virtual machine to ERROR.
#[test]
fn w35_rollback_keeps_the_status_of_the_target_until_the_outcome_is_known() {
    let mut host = Host::target("b");
    host.tell(migration_removed("b")).tell(removed("a")).tell(removed("b"));
    host.pass(ms(400));
    assert_eq!(host.status(), Some(AsReported));
    host.tell(written("a"));
    assert_eq!(host.status(), None);
}

#[test]
fn failed_target_stays_as_reported() {
    let mut host = Host::target("b");
    host.tell(migration_removed("b")).tell(written("a"));
    assert_eq!((host.not_here(), host.status()), (true, Some(AsReported)));
}

#[test]
fn source_stays_up_through_the_whole_migration() {
    let mut host = Host::quiet("a");
    host.tell(written("a"));
    for fact in
        [migration_written("u1", "a", "b"), written("a"), written("b"), written("a"), migration_removed("b")]
    {
        host.tell(fact);
        assert_eq!(host.status(), Some(Up));
    }
}

#[test]
fn endpoints_of_other_hosts_have_no_status_here() {
    let host = Host::live("b");
    assert!(host.wanted().statuses.keys().map(AsRef::as_ref).eq([&port("b")]));
}

/// Nova waits for a write, not for a value: `up` may be there from an earlier stay.
#[test]
fn w5_every_migration_gets_its_own_write_of_up() {
    let mut host = plugged_target();
    assert_eq!(host.due(), None, "nothing to say before everything is ready");
    host.tell(CONFIGURED);
    let fact = armed(&host);
    host.tell(fact);
    assert_eq!((host.status(), host.due()), (Some(Up), Some(host.now)));
    assert!(host.wanted().statuses[&port("b")].is_awaited);
    host.report();
    assert_eq!((host.status(), host.due()), (Some(Up), None));

    for written_again in [written("a"), migration_written("u1", "a", "b"), written("b")] {
        host.tell(written_again);
        assert_eq!(host.due(), None, "an identical rewrite is not another migration");
    }
    host.pass(ms(10));
    host.tell(migration_written("u2", "a", "b"));
    assert_eq!(host.due(), Some(host.now));
}

#[test]
fn w5_second_attempt_after_a_failure_gets_its_own_write() {
    let mut host = Host::target("b");
    host.report();
    host.tell(migration_removed("b")).tell(written("a"));
    assert_eq!(host.due(), None);
    host.pass(ms(10));
    host.tell(migration_written("u2", "a", "b"));
    assert_eq!((host.state(), host.due()), (State::Target, Some(host.now)));
}

#[test]
fn report_of_an_older_occasion_does_not_settle_the_newer_one() {
    let mut host = Host::target("b");
    let due_since = host.due().unwrap();
    host.pass(ms(10));
    host.tell(migration_written("u2", "a", "b"));
    let at = host.now;
    host.tell(Fact::StatusWritten { endpoint: port("b"), due_since, at });
    assert_eq!(host.due(), Some(host.now));
}

#[test]
fn report_is_a_phase_of_the_migration() {
    let mut host = Host::target("b");
    host.pass(ms(70)).report();
    let reported_at = Some(host.now);
    assert_eq!(host.engine.locals[&port("b")].machine.phases.reported_at, reported_at);
    host.announce().tell(migration_removed("b")).report();
    assert_eq!(host.engine.locals[&port("b")].machine.phases.reported_at, reported_at);
}

#[test]
fn restart_knows_whether_the_target_has_been_reported() {
    for reported in [false, true] {
        let mut host = Host::target("b");
        if reported {
            host.report();
        }
        let mut host = Host::restarted("b", host.now, host.memory(), host.found());
        for fact in [
            Fact::LinkSeen(link(5, true)),
            written("a"),
            migration_written("u1", "a", "b"),
            written("b"),
            Fact::InSync { complete: true },
        ] {
            host.tell(fact);
        }
        assert_eq!((host.status(), host.due().is_some()), (Some(Up), !reported));
    }
}

/// Neutron takes the port down when it moves the binding, and nobody else puts it back.
#[test]
fn w15_up_is_written_again_when_the_migration_is_over() {
    let mut host = Host::live("b");
    host.report();
    host.pass(ms(10));
    host.tell(migration_removed("b"));
    assert_eq!((host.state(), host.due()), (State::TimeWait, Some(host.now)));
    host.report();
    host.pass(ms(60_000));
    assert_eq!((host.state(), host.due()), (State::Base, None));
}

#[test]
fn w15_an_unresolved_migration_is_over_when_its_success_is_known() {
    let mut host = Host::target("b");
    host.report();
    host.tell(migration_removed("b")).tell(removed("a"));
    assert_eq!((host.status(), host.due()), (Some(Up), None));
    host.pass(ms(10_000));
    assert_eq!(host.state(), State::TimeWait);
    assert!(host.due().is_some());
}

/// With the legacy way of ending a migration Neutron takes the port down while the endpoint is away.
#[test]
fn w15_up_is_written_again_when_the_endpoint_is_back() {
    let mut host = Host::live("b");
    host.report();
    host.tell(migration_removed("b")).report();
    host.tell(removed("a")).tell(removed("b"));
    assert_eq!((host.status(), host.due()), (Some(AsReported), None));
    host.pass(ms(340));
    host.tell(written("b"));
    assert_eq!((host.status(), host.due()), (Some(Up), Some(host.now)));
}

#[test]
fn w15_a_write_that_is_due_waits_until_the_endpoint_is_back() {
    let mut host = Host::live("b");
    host.report();
    host.tell(removed("b")).tell(migration_removed("b"));
    assert_eq!((host.status(), host.due()), (Some(AsReported), None));
    host.tell(written("b"));
    assert!(host.due().is_some());
}

#[test]
fn rollback_puts_the_port_of_the_source_back_into_service() {
    let mut host = Host::quiet("a");
    host.tell(written("a"));
    for fact in [migration_written("u1", "a", "b"), written("a"), written("b"), migration_removed("b")] {
        host.tell(fact);
        assert_eq!(host.due(), None);
    }
    host.tell(removed("a")).tell(removed("b"));
    assert_eq!(host.due(), None);
    host.pass(ms(400));
    host.tell(written("a"));
    assert_eq!((host.status(), host.due()), (Some(Up), Some(host.now)));
}

#[test]
fn source_writes_nothing_while_its_port_is_migrating() {
    let mut host = Host::quiet("a");
    host.tell(written("a")).tell(migration_written("u1", "a", "b")).tell(written("b"));
    host.tell(removed_elsewhere("b"));
    assert_eq!(host.due(), None);
    host.tell(removed("a")).tell(written("a"));
    assert_eq!(host.due(), None, "the endpoint was created anew in mid-migration");
}

#[test]
fn leaving_again_takes_back_a_write_that_is_due() {
    let mut host = Host::live("b");
    host.report();
    host.tell(migration_removed("b"));
    assert!(host.due().is_some());
    host.tell(migration_written("u2", "b", "c"));
    assert_eq!((host.state(), host.due()), (State::TimeWait, None));

    let mut host = Host::live("b");
    host.report();
    host.tell(migration_removed("b")).report();
    host.tell(migration_written("u2", "b", "c")).tell(removed_elsewhere("a"));
    assert_eq!(host.due(), None);
}

#[test]
fn w35_up_is_written_again_where_the_virtual_machine_lives() {
    let mut arrived = Host::live("b");
    arrived.report();
    arrived.tell(migration_removed("b")).report();
    let mut settled = arrived.clone();
    settled.pass(ms(60_000));
    let mut stayed = Host::quiet("b");
    stayed.tell(written("b"));
    for host in [&mut arrived, &mut settled, &mut stayed] {
        host.pass(ms(10));
        assert_eq!((host.status(), host.due()), (Some(Up), None));
        host.tell(removed_elsewhere("a"));
        assert_eq!((host.status(), host.due()), (Some(Up), Some(host.now)));
        host.report();
        assert_eq!(host.due(), None);
    }
}

#[test]
fn w35_nothing_is_written_where_the_virtual_machine_does_not_live() {
    let mut expecting = Host::target("b");
    expecting.report();
    let mut failed = Host::target("b");
    failed.report();
    failed.tell(migration_removed("b")).tell(written("a"));
    assert!(failed.not_here());
    for host in [&mut expecting, &mut failed] {
        host.tell(removed_elsewhere("a"));
        assert_eq!(host.due(), None);
    }
}

#[test]
fn removed_status_of_another_port_or_of_this_host_means_nothing() {
    let mut host = Host::quiet("b");
    host.tell(written("b"));
    host.tell(Fact::StatusRemovedElsewhere(named_port("a", "port2")));
    host.tell(removed_elsewhere("b"));
    assert_eq!(host.due(), None);
}

#[test]
fn w35_write_waits_while_the_port_is_down_and_while_the_endpoint_is_held() {
    let mut host = Host::quiet("b");
    host.tell(written("b")).tell(Fact::LinkSeen(link(5, false)));
    host.tell(removed_elsewhere("a"));
    assert_eq!((host.status(), host.due()), (Some(Down), None));
    host.tell(Fact::LinkSeen(link(5, true)));
    assert_eq!(host.status(), Some(Up));
    assert!(host.due().is_some());
    host.tell(removed("b"));
    assert_eq!((host.status(), host.due()), (Some(AsReported), None));
}

/// A target that fails may take its status back before the migration itself is removed. Until then nobody knows that
/// the virtual machine stays.
#[test]
fn w35_source_puts_back_what_a_failed_target_did_to_its_port() {
    let mut host = Host::quiet("a");
    host.tell(written("a")).tell(migration_written("u1", "a", "b"));
    host.tell(removed_elsewhere("b"));
    assert_eq!(host.due(), None, "Nova may be waiting");
    host.tell(migration_removed("b"));
    assert_eq!((host.status(), host.due()), (Some(Up), Some(host.now)));
    host.report();
    host.tell(migration_written("u2", "a", "b")).tell(migration_removed("b"));
    assert_eq!(host.due(), None, "nothing has happened since");
}
