//! Endpoints that vanish from the datastore while their tap exists (W32, W33).

use super::host::*;
use crate::fact::Fact;
use crate::machine::State;
use crate::memory::LeftBehind;
use crate::notice::Notice;

/// The longest gap that was recorded, and then some.
const GAP: u64 = 450;

#[test]
fn w33_gap_after_success_changes_nothing_on_the_target() {
    let mut host = Host::live("b");
    host.tell(migration_removed("b")).tell(removed("a"));
    host.report();
    let before = host.wanted().clone();
    host.tell(removed("b"));
    for _ in 0..GAP / 50 {
        host.pass(ms(50));
        assert!(host.held());
        assert_eq!((host.state(), host.metric()), (State::TimeWait, Some(ELEVATED)));
    }
    host.tell(written("b"));
    assert!(!host.held());
    // The driver has taken the port down meanwhile.
    host.report();
    assert_eq!(host.wanted(), &before);
}

#[test]
fn w33_gap_after_rollback_changes_nothing_on_the_source() {
    let mut host = Host::quiet("a");
    host.tell(written("a")).tell(migration_written("u1", "a", "b")).tell(written("b"));
    host.tell(migration_removed("b")).tell(removed("a")).tell(removed("b"));
    host.pass(ms(GAP));
    assert_eq!((host.held(), host.metric()), (true, Some(NORMAL)));
    host.tell(written("a"));
    assert_eq!((host.held(), host.metric()), (false, Some(NORMAL)));
}

#[test]
fn w33_endpoint_that_stays_away_is_removed_after_the_grace_time() {
    let mut host = Host::live("b");
    host.tell(migration_removed("b")).tell(removed("b"));
    host.pass(ms(1_999));
    assert_eq!(host.metric(), Some(ELEVATED));
    host.pass(ms(1));
    assert_eq!(host.metric(), None);
    host.tell(written("b"));
    assert_eq!(host.metric(), Some(NORMAL), "nothing is remembered of the one before");
}

#[test]
fn w33_endpoint_whose_tap_goes_is_removed_at_once() {
    for tap_first in [true, false] {
        let mut host = Host::live("b");
        host.tell(migration_removed("b"));
        let facts = [Fact::LinkRemoved { ifindex: 5 }, removed("b")];
        let [first, second] = if tap_first {
            facts
        } else {
            let [link, endpoint] = facts;
            [endpoint, link]
        };
        host.tell(first).tell(second);
        assert!(host.engine.locals.is_empty());
        assert!(host.wanted().known_interfaces.is_empty());
    }
}

#[test]
fn w33_the_grace_time_starts_anew_with_every_absence() {
    let mut host = Host::live("b");
    for _ in 0..5 {
        host.tell(removed("b")).pass(ms(1_500)).tell(written("b"));
    }
    assert_eq!(host.state(), State::Live);
}

#[test]
fn w33_removed_twice_is_held_once() {
    let mut host = Host::live("b");
    host.tell(removed("b")).pass(ms(1_500)).tell(removed("b")).pass(ms(500));
    assert!(host.engine.locals.is_empty());
}

#[test]
fn w33_notices_of_a_gap() {
    let mut host = Host::live("b");
    host.engine.take_notices();
    host.tell(removed("b")).pass(ms(GAP)).tell(written("b"));
    let held = Notice::Held { endpoint: port("b") };
    let returned = Notice::Returned { endpoint: port("b") };
    assert_eq!(host.engine.take_notices(), [held, returned]);
}

#[test]
fn w33_whoever_the_datastore_shows_takes_the_address_from_whoever_is_held() {
    let mut host = Host::quiet("b");
    host.tell(Fact::LinkSeen(crate::fact::Link { name: "tap2".into(), ..link(6, true) }));
    host.tell(written("b"));
    host.tell(removed("b"));
    assert_eq!(host.wanted().routes.first().unwrap().ifindex, 5);
    host.tell(Fact::EndpointWritten(named_port("b", "port2"), endpoint_on("tap2")));
    assert_eq!(host.wanted().routes.iter().map(|route| route.ifindex).collect::<Vec<_>>(), [6, 6]);
}

#[test]
fn w33_agent_that_starts_in_the_gap_keeps_the_elevated_routes() {
    let mut host = Host::live("b");
    host.tell(migration_removed("b")).tell(removed("a")).tell(removed("b"));
    let mut again = Host::restarted("b", host.now, host.memory(), host.found());
    again.tell(Fact::LinkSeen(link(5, true))).tell(Fact::InSync { complete: true });
    assert_eq!((again.state(), again.held(), again.metric()), (State::TimeWait, true, Some(ELEVATED)));
    again.pass(ms(GAP)).tell(written("b"));
    assert_eq!((again.state(), again.held(), again.metric()), (State::TimeWait, false, Some(ELEVATED)));
}

/// The watch of one kind of resource can report a removal while another kind is still being read.
#[test]
fn w33_endpoint_that_vanishes_while_the_agent_starts_is_held() {
    let mut host = Host::live("b");
    host.tell(migration_removed("b"));
    let mut again = Host::restarted("b", host.now, host.memory(), host.found());
    again.tell(Fact::LinkSeen(link(5, true))).tell(written("b")).tell(removed("b"));
    again.tell(Fact::InSync { complete: true });
    assert_eq!((again.state(), again.held(), again.metric()), (State::TimeWait, true, Some(ELEVATED)));
    again.tell(written("b"));
    assert_eq!((again.state(), again.held(), again.metric()), (State::TimeWait, false, Some(ELEVATED)));
}

/// The idle machine of a source is not remembered. Its routes stay, because leftovers may not go yet.
#[test]
fn w33_agent_that_starts_in_the_gap_of_a_source_removes_nothing() {
    let mut again =
        Host::restarted("a", Host::quiet("a").now, Host::quiet("a").memory(), LeftBehind::default());
    again.tell(Fact::LinkSeen(link(5, true))).tell(Fact::InSync { complete: true });
    assert!(!again.wanted().leftovers_may_go && again.wanted().known_interfaces.is_empty());
    again.pass(ms(GAP)).tell(written("a"));
    assert_eq!(again.metric(), Some(NORMAL));
    again.pass(ms(2_000));
    assert!(again.wanted().leftovers_may_go);
}

#[test]
fn leftovers_stay_while_the_datastore_is_not_read_completely() {
    let mut host = Host::starting("b");
    host.tell(Fact::InSync { complete: false });
    host.pass(ms(60_000));
    assert!(!host.wanted().leftovers_may_go);
    host.tell(Fact::InSync { complete: true });
    assert!(host.wanted().leftovers_may_go);
}

/// Drivers of older releases delete and re-create the target's endpoint when they are restarted.
#[test]
fn w32_absence_while_the_migration_lasts_keeps_the_state() {
    for mut host in [Host::target("b"), Host::live("b")] {
        let (state, watch) = (host.state(), host.watch().cloned());
        host.tell(removed("b")).pass(ms(GAP));
        assert_eq!((host.state(), host.watch()), (state, watch.as_ref()));
        host.tell(written("b"));
        assert_eq!((host.state(), host.watch()), (state, watch.as_ref()));
    }
}

#[test]
fn w32_announcement_in_the_gap_counts() {
    let mut host = Host::target("b");
    host.tell(removed("b")).announce();
    assert_eq!((host.state(), host.metric()), (State::Live, Some(ELEVATED)));
}

#[test]
fn grace_time_of_zero_holds_nothing() {
    let mut host = Host::live("b");
    let policy = crate::model::Policy { grace: core::time::Duration::ZERO, ..host.engine.policy.clone() };
    host.tell(Fact::PolicyChanged(Box::new(policy)));
    host.tell(removed("b"));
    assert!(host.engine.locals.is_empty());
}

/// An unreadable file elsewhere is no reason to keep what was deleted in front of our eyes.
#[test]
fn routes_of_a_removed_endpoint_may_go_while_the_datastore_is_incomplete() {
    let mut host = Host::target("b");
    let interface = *host.wanted().known_interfaces.first().unwrap();
    host.tell(Fact::InSync { complete: false }).tell(removed("b")).pass(ms(2_000));
    assert!(host.engine.locals.is_empty() && !host.wanted().leftovers_may_go);
    assert!(host.wanted().known_interfaces.contains(&interface));
    host.tell(Fact::LinkRemoved { ifindex: interface });
    assert!(host.wanted().known_interfaces.is_empty());
}
