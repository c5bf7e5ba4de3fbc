//! What is reported to Neutron (W5, W14, W35).

use super::host::*;
use crate::fact::Fact;
use crate::machine::State;
use crate::memory::{Found, Memory};
use crate::wanted::Status::{AsReported, Down, Up};

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
    let mut host = Host::restarted("b", Host::quiet("b").now, Memory::default(), Found::default());
    host.appliers = false;
    for fact in [Fact::LinkSeen(link(5, true)), written("b"), Fact::InSync { complete: true }] {
        host.tell(fact);
        assert!(host.engine.wanted().is_none_or(|wanted| wanted.statuses[&port("b")] == AsReported));
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
    assert_eq!(host.wanted().statuses.keys().collect::<Vec<_>>(), [&port("b")]);
}
