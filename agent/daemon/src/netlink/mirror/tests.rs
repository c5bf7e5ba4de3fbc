use super::*;
use crate::netlink::RECEIVE_BUFFER_BYTES;
use crate::netlink::route::encode;
use cutover_engine::wanted::WantedRoute;
use netlink_packet_core::Emitable;
use netlink_packet_route::AddressFamily;
use netlink_packet_route::address::{AddressAttribute, AddressMessage};
use netlink_packet_route::link::{LinkAttribute, LinkFlags, LinkMessage};

fn settings(route_protocol: impl Into<Option<u8>>) -> MonitorSettings {
    MonitorSettings {
        route_protocol: route_protocol.into(),
        expected_protocol: None,
        interface_prefixes: "tap".parse().unwrap(),
        bridges: BTreeSet::from(["br0".to_owned()]),
        refresh: None,
        answer_timeout: None,
        receive_buffer_bytes: RECEIVE_BUFFER_BYTES,
    }
}

fn bytes(message: &impl Emitable) -> Vec<u8> {
    let mut bytes = vec![0; message.buffer_len()];
    message.emit(&mut bytes);
    bytes
}

fn link(name: &str, flags: LinkFlags) -> Vec<u8> {
    let mut message = LinkMessage::default();
    message.header.index = 7;
    message.header.flags = flags;
    message.attributes = vec![LinkAttribute::IfName(name.into())];
    bytes(&message)
}

fn route(protocol: u8) -> WantedRoute {
    WantedRoute {
        destination: "10.65.0.2/32".parse().unwrap(),
        ifindex: 7,
        metric: 1024,
        protocol,
        source: None,
    }
}

fn with_routes() -> Mirror {
    let mut mirror = Mirror::new(&settings(3));
    let mut seen = Observations::default();
    mirror.notified(libc::RTM_NEWLINK, 0, &link("tap1", LinkFlags::Up), &mut seen);
    for protocol in [3, 80] {
        mirror.notified(libc::RTM_NEWROUTE, 0, &bytes(&encode(&route(protocol))), &mut seen);
    }
    let expected = [
        RouteEvent::LinkChanged { ifindex: 7, running: false },
        RouteEvent::Seen(route(3), Owner::Ours),
        RouteEvent::Seen(route(80), Owner::Other),
    ];
    assert_eq!(seen.routes, expected);
    mirror
}

#[test]
fn routes_are_forgotten_when_the_link_goes_down_or_stops_being_a_workloads() {
    for message in [link("tap1", LinkFlags::empty()), link("eth1", LinkFlags::Up)] {
        let mut seen = Observations::default();
        with_routes().notified(libc::RTM_NEWLINK, 0, &message, &mut seen);
        assert!(seen.routes.starts_with(&[RouteEvent::Gone(route(3)), RouteEvent::Gone(route(80))]));
    }
}

/// Only the one that was named, and to the letter.
#[test]
fn routes_on_a_bridge_are_followed_as_those_on_its_ports() {
    for (name, is_followed) in [("br0", true), ("br01", false)] {
        let mut mirror = Mirror::new(&settings(80));
        let mut seen = Observations::default();
        mirror.notified(libc::RTM_NEWLINK, 0, &link(name, LinkFlags::Up), &mut seen);
        mirror.notified(libc::RTM_NEWROUTE, 0, &bytes(&encode(&route(80))), &mut seen);
        let is_told = seen.routes.contains(&RouteEvent::Seen(route(80), Owner::Ours));
        assert_eq!(is_told, is_followed, "{name}: {:?}", seen.routes);
    }
}

/// The built-in protocol is somebody else's until the datastore has said that it is ours.
#[test]
fn no_route_is_ours_before_the_protocol_is_known() {
    let mut mirror = Mirror::new(&settings(None));
    let mut seen = Observations::default();
    mirror.notified(libc::RTM_NEWLINK, 0, &link("tap1", LinkFlags::Up), &mut seen);
    for protocol in [3, 80] {
        mirror.notified(libc::RTM_NEWROUTE, 0, &bytes(&encode(&route(protocol))), &mut seen);
    }
    let others = [3, 80].map(|protocol| RouteEvent::Seen(route(protocol), Owner::Other));
    assert_eq!(seen.routes[1..], others);
    assert_eq!(mirror.configure(&settings(80)).routes, [RouteEvent::Seen(route(80), Owner::Ours)]);
    assert_eq!(mirror.heard(), &BTreeSet::from([80]));
}

/// A route that the fast path installs has to be known to be there, whosever it is.
#[test]
fn an_expected_protocol_is_heard_and_not_ours() {
    let expecting = MonitorSettings { expected_protocol: Some(80), ..settings(None) };
    let mut mirror = Mirror::new(&expecting);
    assert_eq!(mirror.heard(), &BTreeSet::from([80]));
    let mut seen = Observations::default();
    mirror.notified(libc::RTM_NEWLINK, 0, &link("tap1", LinkFlags::Up), &mut seen);
    mirror.notified(libc::RTM_NEWROUTE, 0, &bytes(&encode(&route(80))), &mut seen);
    assert_eq!(seen.routes[1..], [RouteEvent::Seen(route(80), Owner::Other)]);
    // The datastore says another one: what was expected stays somebody else's.
    assert_eq!(mirror.configure(&settings(81)).routes, []);
    assert_eq!(mirror.configure(&settings(80)).routes, [RouteEvent::Seen(route(80), Owner::Ours)]);
}

#[test]
fn another_protocol_is_ours_in_addition() {
    let mut mirror = with_routes();
    let seen = mirror.configure(&settings(80));
    assert_eq!(seen.routes, [RouteEvent::Seen(route(80), Owner::Ours)]);
    assert_eq!(seen.doubt, Some(Doubt::Now));
    assert_eq!(mirror.heard(), &BTreeSet::from([3, 80]));
}

#[test]
fn a_replacement_in_our_place_casts_doubt_and_any_other_does_not() {
    let elsewhere = WantedRoute { ifindex: 99, protocol: 12, ..route(12) };
    for (replacement, expected) in [
        (elsewhere, Some(Doubt::Now)),
        (WantedRoute { metric: 512, ..elsewhere }, None),
        (WantedRoute { destination: "10.65.0.3/32".parse().unwrap(), ..elsewhere }, None),
    ] {
        let mut seen = Observations::default();
        let message = bytes(&encode(&replacement));
        with_routes().notified(libc::RTM_NEWROUTE, NLM_F_REPLACE, &message, &mut seen);
        assert_eq!(seen.doubt, expected, "{replacement:?}");
    }
}

#[test]
fn an_address_that_goes_casts_doubt_on_the_routes_that_it_is_the_source_of() {
    for (source, expected) in [(None, None), (Some("192.0.2.1"), Some(Doubt::Now)), (Some("192.0.2.2"), None)]
    {
        let mut mirror = with_routes();
        let mut seen = Observations::default();
        let route = WantedRoute { source: source.map(|it| it.parse().unwrap()), ..route(3) };
        mirror.notified(libc::RTM_NEWROUTE, 0, &bytes(&encode(&route)), &mut seen);
        let mut message = AddressMessage::default();
        message.header.family = AddressFamily::Inet;
        message.attributes = vec![AddressAttribute::Local("192.0.2.1".parse().unwrap())];
        mirror.notified(libc::RTM_DELADDR, 0, &bytes(&message), &mut seen);
        assert_eq!(seen.doubt, expected, "{source:?}");
    }
}

#[test]
fn what_is_known_already_is_no_news() {
    let mut mirror = with_routes();
    let mut seen = Observations::default();
    mirror.notified(libc::RTM_NEWLINK, 0, &link("tap1", LinkFlags::Up), &mut seen);
    mirror.notified(libc::RTM_NEWROUTE, 0, &bytes(&encode(&route(3))), &mut seen);
    assert_eq!(seen.facts, []);
    assert_eq!(seen.routes, []);
    assert_eq!(seen.doubt, None);
}
