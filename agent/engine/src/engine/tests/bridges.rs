//! Taps that are ports of a bridge: what is wanted where.

use super::host::*;
use crate::Engine;
use crate::conversation::{Says, SourceSays};
use crate::fact::{Fact, Link};
use crate::machine::State;
use crate::memory::{LeftBehind, Memory};
use crate::model::{Endpoint, Policy};
use crate::time::BootTime;
use crate::wanted::{Ipv6, Status, WantedRoute};
use std::collections::BTreeSet;

const BRIDGE: u32 = 9;

fn bridge() -> Link {
    Link { ifindex: BRIDGE, name: "br0".into(), admin_up: true, running: true, master: None }
}

fn port_of_bridge(ifindex: u32) -> Link {
    Link { master: Some(BRIDGE), ..link(ifindex, true) }
}

fn policy(host: &Host) -> Policy {
    Policy { bridges: BTreeSet::from(["br0".to_owned()]), ..host.engine.policy.clone() }
}

/// As [`Host::quiet`], with the tap in a bridge.
fn quiet() -> Host {
    let mut host = Host::quiet("b");
    host.tell(Fact::PolicyChanged(Box::new(policy(&host))));
    host.tell(Fact::LinkSeen(bridge())).tell(Fact::LinkSeen(port_of_bridge(5)));
    host
}

/// With these routes of an earlier life.
fn restarted(now: BootTime, routes: BTreeSet<WantedRoute>) -> Host {
    let found = LeftBehind { routes, ..LeftBehind::default() };
    let mut host = Host::restarted("b", now, Memory::default(), found.clone());
    host.kernel.clone_from(&found.routes);
    host.engine = Engine::new(policy(&host), Memory::default(), found).recalling().drawing_lots(7);
    host.tell(Fact::LinkSeen(bridge())).tell(Fact::LinkSeen(port_of_bridge(5)));
    host
}

/// A second tap in the bridge.
fn second() -> Link {
    Link { name: "tap2".into(), ..port_of_bridge(6) }
}

fn normal(destination: &str) -> WantedRoute {
    WantedRoute {
        destination: destination.parse().unwrap(),
        ifindex: BRIDGE,
        metric: NORMAL,
        protocol: Policy::default().route_protocol,
        source: None,
    }
}

fn target() -> Host {
    let mut host = quiet();
    host.tell(written("a"));
    host.tell(migration_written("u1", "a", "b"));
    host.tell(written("b"));
    host.pass(ms(5_000));
    assert_eq!(host.state(), State::Target);
    host
}

/// Numbers of the interfaces that routes lead to, and that of the watch.
fn places(host: &Host) -> (BTreeSet<u32>, BTreeSet<u32>) {
    let wanted = host.wanted();
    (wanted.routes.iter().map(|route| route.ifindex).collect(), wanted.watches.keys().copied().collect())
}

#[test]
fn the_watch_is_on_the_tap_and_the_routes_lead_to_the_bridge() {
    let mut host = target();
    assert_eq!(places(&host), (BTreeSet::new(), BTreeSet::from([5])));
    assert_eq!(host.status(), Some(Status::Up));
    let prepared: BTreeSet<u32> = host.watch().unwrap().routes.iter().map(|route| route.ifindex).collect();
    assert_eq!(prepared, BTreeSet::from([BRIDGE]));
    host.announce();
    assert_eq!((places(&host).0, host.metric()), (BTreeSet::from([BRIDGE]), Some(ELEVATED)));
    // What is wanted of interfaces is neighbours on the bridge, and nothing of the tap.
    let interfaces = &host.wanted().interfaces;
    assert_eq!(interfaces.keys().copied().collect::<Vec<_>>(), [BRIDGE]);
    let of_bridge = interfaces.get(&BRIDGE).unwrap();
    assert_eq!((of_bridge.neighbours.len(), of_bridge.ipv6, of_bridge.is_bridge), (2, Ipv6::Routed, true));
    assert!([5, BRIDGE].iter().all(|ifindex| host.wanted().known_interfaces.contains(ifindex)));
    let view = host.engine.view(host.now).remove(0);
    assert_eq!((view.bridge.as_deref(), view.routes.len()), (Some("br0"), 2));
}

#[test]
fn a_tap_that_goes_takes_its_routes_and_neighbours_from_the_bridge() {
    let mut host = quiet();
    host.tell(written("b"));
    assert_eq!((places(&host).0, host.metric()), (BTreeSet::from([BRIDGE]), Some(NORMAL)));
    host.tell(Fact::LinkRemoved { ifindex: 5 });
    assert_eq!(places(&host).0, BTreeSet::new());
    // It is still looked after, or a permanent neighbour would stay.
    assert!(host.wanted().interfaces.get(&BRIDGE).unwrap().neighbours.is_empty());
    assert!(host.wanted().known_interfaces.contains(&BRIDGE));
}

#[test]
fn a_tap_that_joins_or_leaves_a_bridge_takes_its_routes_along() {
    let mut host = quiet();
    host.tell(written("b"));
    for (link, outlet) in [(link(5, true), 5), (port_of_bridge(5), BRIDGE), (link(5, true), 5)] {
        host.tell(Fact::LinkSeen(link));
        assert_eq!((places(&host).0, host.metric()), (BTreeSet::from([outlet]), Some(NORMAL)));
        assert_eq!(host.status(), Some(Status::Up));
    }
    // As it is when the bridge itself goes: the kernel lets its ports go first.
    host.tell(Fact::LinkSeen(port_of_bridge(5)));
    host.tell(Fact::LinkSeen(link(5, true))).tell(Fact::LinkRemoved { ifindex: BRIDGE });
    assert_eq!((places(&host).0, host.metric()), (BTreeSet::from([5]), Some(NORMAL)));
    assert!(host.wanted().interfaces.get(&BRIDGE).is_none());
}

#[test]
fn a_machine_that_is_awaited_or_has_arrived_goes_along_with_its_tap() {
    let mut host = Host::target("b");
    host.tell(Fact::PolicyChanged(Box::new(policy(&host)))).tell(Fact::LinkSeen(bridge()));
    let generation = host.watch().unwrap().generation;
    host.tell(Fact::LinkSeen(port_of_bridge(5)));
    let watch = host.watch().unwrap();
    assert_eq!((watch.generation, watch.routes.len()), (generation, 2), "it is the same watch");
    assert!(watch.routes.iter().all(|route| route.ifindex == BRIDGE));
    assert_eq!(host.status(), Some(Status::Up));
    host.announce();
    assert_eq!((places(&host).0, host.metric()), (BTreeSet::from([BRIDGE]), Some(ELEVATED)));
    // The bridge is deleted, and made anew with another number.
    host.tell(Fact::LinkSeen(link(5, true))).tell(Fact::LinkRemoved { ifindex: BRIDGE });
    assert_eq!((places(&host).0, host.metric()), (BTreeSet::from([5]), Some(ELEVATED)));
    host.tell(Fact::LinkSeen(Link { ifindex: 12, ..bridge() }));
    host.tell(Fact::LinkSeen(Link { master: Some(12), ..link(5, true) }));
    assert_eq!((places(&host).0, host.metric()), (BTreeSet::from([12]), Some(ELEVATED)));
    assert_eq!(host.state(), State::Live);
    assert_eq!(host.wanted().interfaces.keys().copied().collect::<Vec<_>>(), [12]);
}

#[test]
fn a_bridge_that_is_down_has_no_routes_and_its_ports_are_down() {
    let mut host = quiet();
    host.tell(written("b"));
    host.tell(Fact::LinkSeen(Link { admin_up: false, ..bridge() }));
    assert_eq!((host.metric(), host.status()), (None, Some(Status::Down)));
    assert_eq!(host.wanted().suspended.len(), 2);
    host.tell(Fact::LinkSeen(bridge()));
    assert_eq!((host.metric(), host.status()), (Some(NORMAL), Some(Status::Up)));
    // A port that is down leaves the bridge as it is, so the routes have to be taken away.
    host.tell(Fact::LinkSeen(Link { admin_up: false, ..port_of_bridge(5) }));
    assert_eq!((host.metric(), host.wanted().suspended.len()), (None, 0));
}

#[test]
fn a_target_whose_bridge_is_down_is_not_reported_ready() {
    let mut host = quiet();
    host.tell(Fact::LinkSeen(Link { admin_up: false, ..bridge() }));
    host.tell(written("a")).tell(migration_written("u1", "a", "b")).tell(written("b"));
    host.pass(ms(1_000));
    assert_eq!((host.state(), host.status()), (State::Target, Some(Status::AsReported)));
    host.tell(Fact::LinkSeen(bridge()));
    assert_eq!(host.status(), Some(Status::Up));
}

/// Nobody asked for it: the datastore cannot, and a bridge that is none of an operator's choice is somebody else's.
#[test]
fn another_bridge_is_left_alone() {
    let mut host = Host::quiet("b");
    host.tell(Fact::LinkSeen(bridge())).tell(Fact::LinkSeen(port_of_bridge(5))).tell(written("b"));
    assert_eq!(places(&host).0, BTreeSet::from([5]));
    assert!(!host.wanted().known_interfaces.contains(&BRIDGE));
}

#[test]
fn two_ports_of_one_bridge_have_their_own_neighbours() {
    let mut host = quiet();
    let other = Endpoint { prefixes: ["10.65.0.3/32".parse().unwrap()].into(), ..endpoint_on("tap2") };
    host.tell(written("b")).tell(Fact::LinkSeen(second()));
    host.tell(Fact::EndpointWritten(named_port("b", "port2"), other));
    let neighbours = |host: &Host| host.wanted().interfaces.get(&BRIDGE).unwrap().neighbours.len();
    assert_eq!(neighbours(&host), 3);
    host.tell(Fact::LinkRemoved { ifindex: 6 });
    assert_eq!(neighbours(&host), 2);
}

/// On a bridge, what both of them claim is the very same route.
#[test]
fn a_route_that_two_ports_of_one_bridge_claim_is_the_first_ones() {
    let mut host = quiet();
    host.tell(written("b")).tell(Fact::LinkSeen(second()));
    host.tell(Fact::EndpointWritten(named_port("b", "port2"), endpoint_on("tap2")));
    // Something about the other one changes, and it goes.
    let other = Endpoint { mac: None, ..endpoint_on("tap2") };
    host.tell(Fact::EndpointWritten(named_port("b", "port2"), other));
    assert_eq!(host.metric(), Some(NORMAL));
    let shown: Vec<usize> = host.engine.view(host.now).iter().map(|view| view.routes.len()).collect();
    assert_eq!(shown, [2, 0]);
    for is_up in [false, true] {
        host.tell(Fact::LinkSeen(Link { admin_up: is_up, ..bridge() }));
        assert_eq!(host.wanted().suspended.len(), if is_up { 0 } else { 2 });
        host.tell(Fact::LinkSeen(Link { running: is_up, ..second() }));
        assert_eq!(host.wanted().suspended.len(), if is_up { 0 } else { 2 });
    }
    host.tell(Fact::LinkSeen(Link { admin_up: false, ..bridge() })).tell(Fact::LinkRemoved { ifindex: 6 });
    assert_eq!((host.wanted().suspended.len(), host.metric()), (2, None));
    host.tell(Fact::LinkSeen(bridge())).tell(Fact::LinkSeen(second())).tell(Fact::LinkRemoved { ifindex: 5 });
    assert_eq!((places(&host).0, host.metric()), (BTreeSet::from([BRIDGE]), Some(NORMAL)), "the other one's");
}

/// Elevated routes of others on the same bridge say nothing of this one.
#[test]
fn without_a_memory_only_its_own_elevated_routes_say_that_a_machine_is_here() {
    let mut live = target();
    live.announce();
    let all = live.found().routes;
    let of_another = all.iter().map(|route| {
        let destination = if route.destination.addr().is_ipv4() { "10.65.0.9/32" } else { "2001:db8::9/128" };
        WantedRoute { destination: destination.parse().unwrap(), ..*route }
    });
    for (routes, state) in [(all.clone(), State::Live), (of_another.collect(), State::Target)] {
        let mut host = restarted(live.now, routes);
        host.tell(written("a")).tell(migration_written("u1", "a", "b")).tell(written("b"));
        host.tell(Fact::InSync { complete: true });
        assert_eq!(host.state(), state);
    }
}

/// W33: who is known on a bridge says nothing about others there, whose endpoints may be back in a moment.
#[test]
fn what_an_earlier_life_left_on_a_bridge_goes_with_the_leftovers() {
    let other = normal("10.65.0.9/32");
    let own = ["10.65.0.2/32", "2001:db8::2/128"].map(normal);
    let mut host = restarted(BootTime(1_000_000_000_000), own.into_iter().chain([other]).collect());
    host.tell(written("b")).tell(Fact::InSync { complete: true });
    assert!(!host.wanted().known_interfaces.contains(&BRIDGE));
    assert!(host.kernel.contains(&other) && own.iter().all(|route| host.kernel.contains(route)));
    // What this life knows goes at once.
    let fewer = Endpoint { prefixes: [own[0].destination].into(), ..endpoint() };
    host.tell(Fact::EndpointWritten(port("b"), fewer));
    assert!(host.kernel.contains(&other) && !host.kernel.contains(&own[1]));
    host.pass(ms(60_000));
    assert!(host.wanted().leftovers_may_go && host.wanted().known_interfaces.contains(&BRIDGE));
    assert_eq!(host.kernel, BTreeSet::from([own[0]]));
    assert!(host.wanted().known_on_bridges.is_empty(), "the bridge is known as a whole");
}

/// A bridge has carrier in any case: its ports say what is lost.
#[test]
fn what_is_lost_on_a_bridge_is_counted_by_its_ports() {
    let routes = || BTreeSet::from(["10.65.0.2/32", "2001:db8::2/128", "10.65.0.3/32"].map(normal));
    let now = BootTime(1_000_000_000_000);
    let mut emptied = restarted(now, routes());
    emptied.tell(Fact::LinkSeen(second())).tell(Fact::InSync { complete: true });
    emptied.pass(ms(60_000));
    assert_eq!(emptied.engine.losses().interfaces, ["tap1", "tap2"]);
    assert!(!emptied.wanted().leftovers_may_go && emptied.kernel.len() == 3);
    // One has left while nobody was looking, and its tap with it.
    let mut left = restarted(now, routes());
    left.tell(written("b")).tell(Fact::InSync { complete: true });
    left.pass(ms(60_000));
    assert!(left.engine.losses().interfaces.is_empty() && left.wanted().leftovers_may_go);
    assert_eq!(left.kernel.len(), 2);
    // Nobody has left: the second tap is a virtual machine's that has never had an endpoint.
    let mut alone = restarted(now, ["10.65.0.2/32", "2001:db8::2/128"].map(normal).into());
    alone.tell(Fact::LinkSeen(second())).tell(written("b")).tell(Fact::InSync { complete: true });
    alone.pass(ms(60_000));
    assert!(alone.wanted().leftovers_may_go);
}

/// However its name begins: it is not the tap of anybody.
#[test]
fn an_endpoint_on_the_bridge_itself_has_nothing() {
    let mut host = quiet();
    let mut policy = policy(&host);
    policy.interface_prefixes = "tap,br".parse().unwrap();
    host.tell(Fact::PolicyChanged(Box::new(policy))).tell(written("b"));
    host.tell(Fact::EndpointWritten(named_port("b", "port2"), endpoint_on("br0")));
    assert_eq!((places(&host).0, host.metric()), (BTreeSet::from([BRIDGE]), Some(NORMAL)));
    assert!(host.wanted().interfaces.get(&BRIDGE).unwrap().is_bridge);
    host.tell(removed("b")).pass(ms(60_000));
    assert_eq!(host.metric(), None);
}

#[test]
fn what_comes_out_of_the_tunnel_is_led_to_the_bridge_and_waits_in_the_tap() {
    let mut host = target();
    let conversation = host.wanted().conversations.values().next().expect("it talks to the source").clone();
    host.tell(Fact::PeerSaid {
        endpoint: port("b"),
        uid: conversation.uid,
        address: [192, 0, 2, 1].into(),
        says: Says::Source(SourceSays::default()),
    });
    let reception = host.wanted().receptions.values().next().expect("a reception");
    assert_eq!((reception.ifindex, reception.outlet), (5, BRIDGE));
}
