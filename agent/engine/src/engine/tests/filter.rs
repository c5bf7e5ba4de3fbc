//! Felix beside us: `up` waits for its chains, and nothing else does.

use super::host::*;
use crate::chains::{Chains, Piece, Pieces};
use crate::engine::CHAINS_PATIENCE;
use crate::fact::Fact;
use crate::machine::State;
use crate::model::{Endpoint, Policy};
use crate::notice::Notice;
use crate::wanted::Status::{AsReported, Down, Up};
use std::path::Path;
use std::sync::Arc;

const COMPLETE: Chains = Chains { ipv4: Pieces::ALL, ipv6: Pieces::ALL };
const NOTHING: Chains = Chains { ipv4: Pieces::ALL.others(), ipv6: Pieces::ALL.others() };

fn beside_felix() -> Host {
    let mut host = Host::quiet("b");
    change(&mut host, |policy| policy.awaits_chains = true);
    host
}

fn change(host: &mut Host, change: impl FnOnce(&mut Policy)) {
    let mut policy = host.engine.policy.clone();
    change(&mut policy);
    host.tell(Fact::PolicyChanged(Box::new(policy)));
}

fn program(host: &mut Host, chains: Chains) {
    host.tell(Fact::ChainsSeen { interface: "tap1".into(), chains });
}

fn notices(host: &mut Host) -> Vec<Notice> {
    let is_one = |notice: &Notice| {
        matches!(
            notice,
            Notice::ChainsMissing { .. } | Notice::ChainsMissingOfMany { .. } | Notice::ChainsComplete { .. }
        )
    };
    host.engine.take_notices().into_iter().filter(is_one).collect()
}

fn view(host: &Host) -> crate::view::FelixView {
    host.engine.view(host.now)[0].felix.clone().expect("Felix is beside")
}

#[test]
fn up_waits_for_every_piece_of_both_families_and_routes_do_not() {
    for piece in Piece::ALL {
        let mut host = beside_felix();
        host.tell(written("b"));
        assert_eq!((host.status(), host.metric()), (Some(AsReported), Some(NORMAL)));
        program(&mut host, Chains { ipv4: Pieces::ALL, ipv6: Pieces::ALL.without(piece) });
        assert_eq!(host.status(), Some(AsReported), "ipv6 without {piece:?}");
        program(&mut host, Chains { ipv4: Pieces::ALL.without(piece), ipv6: Pieces::ALL });
        assert_eq!(host.status(), Some(AsReported), "ipv4 without {piece:?}");
        assert_eq!(view(&host).missing, [format!("ipv4 {}", piece.name())]);
        program(&mut host, COMPLETE);
        assert_eq!((host.status(), view(&host).missing.len()), (Some(Up), 0));
    }
}

#[test]
fn a_family_that_the_endpoint_does_not_have_is_not_waited_for() {
    let only = |ipv6: bool| {
        let mut it = endpoint();
        it.prefixes.retain(|prefix| prefix.addr().is_ipv6() == ipv6);
        it
    };
    for (endpoint, chains) in [
        (only(false), Chains { ipv4: Pieces::ALL, ..Chains::default() }),
        (only(true), Chains { ipv6: Pieces::ALL, ..Chains::default() }),
        (Endpoint { prefixes: Default::default(), ..endpoint() }, Chains::default()),
    ] {
        let mut host = beside_felix();
        host.tell(Fact::EndpointWritten(host.key(), endpoint));
        program(&mut host, chains);
        assert_eq!(host.status(), Some(Up), "{chains:?}");
    }
    let mut host = beside_felix();
    change(&mut host, |policy| policy.ipv6_support = false);
    host.tell(written("b"));
    program(&mut host, Chains { ipv4: Pieces::ALL, ..Chains::default() });
    assert_eq!(host.status(), Some(Up), "Felix has no IPv6 chains without Ipv6Support");
}

#[test]
fn chains_may_come_before_the_endpoint_and_nobody_waits_in_the_other_role() {
    let mut host = beside_felix();
    program(&mut host, COMPLETE);
    host.tell(written("b"));
    assert_eq!(host.status(), Some(Up));

    let mut host = Host::quiet("b");
    host.tell(written("b"));
    assert_eq!((host.status(), host.engine.view(host.now)[0].felix.clone()), (Some(Up), None));
}

/// While the driver deletes and re-creates an endpoint, Felix takes the chains away.
#[test]
fn chains_that_go_take_nothing_back_and_down_does_not_wait() {
    let mut host = beside_felix();
    host.tell(written("b"));
    program(&mut host, COMPLETE);
    program(&mut host, NOTHING);
    assert_eq!((host.status(), host.metric()), (Some(AsReported), Some(NORMAL)));
    host.tell(Fact::LinkSeen(link(5, false)));
    assert_eq!(host.status(), Some(Down));
    host.tell(Fact::LinkSeen(link(5, true)));
    program(&mut host, COMPLETE);
    assert_eq!(host.status(), Some(Up));
}

#[test]
fn a_target_is_up_and_due_only_with_its_chains_and_moves_without() {
    let mut host = beside_felix();
    host.tell(written("a"));
    host.tell(migration_written("u1", "a", "b"));
    host.tell(written("b"));
    assert!(host.watch().is_some());
    assert_eq!((host.status(), host.due()), (Some(AsReported), None));
    host.announce();
    assert_eq!((host.state(), host.metric(), host.status()), (State::Live, Some(ELEVATED), Some(AsReported)));
    program(&mut host, COMPLETE);
    assert_eq!(host.status(), Some(Up));
    assert!(host.due().is_some(), "Nova waits for it");
}

#[test]
fn the_ready_command_is_asked_after_felix() {
    let mut host = beside_felix();
    change(&mut host, |policy| policy.ready_command = Some(Arc::from(Path::new("/check"))));
    host.tell(written("b"));
    assert!(host.wanted().checks.is_empty());
    program(&mut host, COMPLETE);
    assert_eq!((host.status(), host.wanted().checks.len()), (Some(AsReported), 1));
}

#[test]
fn who_waits_for_long_is_named_once_and_said_to_be_complete() {
    let mut host = beside_felix();
    host.tell(written("b"));
    assert!(host.wanted().chains_awaited);
    program(&mut host, Chains { ipv6: Pieces::ALL, ..Chains::default() });
    host.pass(CHAINS_PATIENCE - ms(1));
    assert!(notices(&mut host).is_empty());
    host.pass(ms(3_001));
    let missing = Chains { ipv4: Pieces::ALL, ..Chains::default() };
    let expected = Notice::ChainsMissing { endpoint: host.key(), interface: "tap1".into(), missing };
    assert_eq!(notices(&mut host), [expected]);
    assert_eq!(view(&host).for_ms, Some(8_000));
    host.pass(ms(60_000));
    assert!(notices(&mut host).is_empty());
    program(&mut host, COMPLETE);
    assert_eq!(notices(&mut host), [Notice::ChainsComplete { endpoint: host.key() }]);
    assert_eq!((view(&host).for_ms, host.wanted().chains_awaited), (None, false));
}

#[test]
fn nobody_is_named_without_a_tap_nor_while_held_and_many_are_counted() {
    let mut host = beside_felix();
    host.tell(written("b"));
    host.tell(Fact::LinkRemoved { ifindex: 5 });
    host.pass(ms(60_000));
    assert!(notices(&mut host).is_empty());
    assert!(!host.wanted().chains_awaited);

    let mut host = beside_felix();
    for number in 0..20 {
        let name = format!("tap2{number}");
        let mut other = endpoint_on(&name);
        other.prefixes = [format!("10.66.0.{number}/32").parse().unwrap()].into();
        host.engine.handle(host.now, Fact::LinkSeen(crate::fact::Link { name, ..link(100 + number, true) }));
        let key = named_port("b", &format!("other{number}"));
        host.engine.handle(host.now, Fact::EndpointWritten(key, other));
    }
    host.engine.settle(host.now);
    host.now = host.now + CHAINS_PATIENCE;
    host.engine.settle(host.now);
    assert_eq!(notices(&mut host), [Notice::ChainsMissingOfMany { count: 20 }]);
}
