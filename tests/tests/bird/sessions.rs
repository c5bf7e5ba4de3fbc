//! Sessions with everything that can be asked for, between two hosts with a router between them: signed, far, from an address that is
//! on no subnet, watched by BFD. Of each release, and of releases that differ.

use cutover_bgp::bird::{Version, configuration, configuration_1};
use cutover_bgp::{Community, Family, KernelMetric, Parameters, Peer, Peering, Sessions};
use cutover_tests::fabric::{CONVERGED, DEFAULT_PRIORITIES, Leads, leads};
use cutover_tests::{Bird, Host, Lab, Release, RouteWatch, wait};
use ipnet::IpNet;
use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

const TAP: &str = "tapvm";
/// Half a second by BIRD's defaults.
///
/// LIMIT: the rest is for a loaded machine, and less than the hold time (24 s) or that of a graceful restart (30 s).
const NOTICED: Duration = Duration::from_secs(8);

#[test]
fn bird_2_with_bird_2() {
    exchange(Release::Bird2, Release::Bird2);
}

#[test]
fn bird_1_6_with_bird_2() {
    exchange(Release::Bird16, Release::Bird2);
}

#[test]
fn bird_3_with_bird_2_17() {
    exchange(Release::Bird3, Release::Bird217);
}

#[test]
fn bird_3_4_with_bird_1_6() {
    exchange(Release::Bird34, Release::Bird16);
}

/// A route of the one reaches the kernel of the other. When the one dies, the other takes its route out at once, although it would have
/// waited for it without BFD.
fn exchange(of: Release, at: Release) {
    if ![of, at].into_iter().all(|release| release.is_there("sessions with everything")) {
        return;
    }
    let lab = Lab::new();
    let hosts = ["compute1", "compute2"].map(|name| lab.host(name));
    let router = lab.host("router");
    for (host, number) in hosts.iter().zip(1..) {
        connect(&router, host, number);
    }
    let [source, target] = &hosts;
    target.namespace().ip(&format!("tuntap add dev {TAP} mode tap\nlink set {TAP} up"));
    let watch = RouteWatch::start(source.namespace());
    let start = |release: Release, host: &Host, number: u8| {
        let text = text(release, number, 3 - number);
        Bird::start(&lab, host, &text, release)
    };
    let here = start(at, source, 1);
    let mut there = start(of, target, 2);
    for bird in [&here, &there] {
        bird.wait_established(1);
    }
    for host in &hosts {
        let output = host.namespace().command("ss").args(SESSIONS).output().expect("iproute2");
        let sessions = String::from_utf8_lossy(&output.stdout);
        assert!(sessions.contains("md5keys:10.99.0."), "{}: {sessions}", host.name());
    }
    wait::until(CONVERGED, "BFD watches the session", || {
        [&here, &there].iter().all(|bird| bird.ask(&["show", "bfd", "sessions"]).contains(" Up "))
    });

    let machine: IpNet = "10.65.0.2/32".parse().expect("a prefix");
    let metric = DEFAULT_PRIORITIES.normal;
    target.namespace().ip(&format!("route add {machine} dev {TAP} proto 3 scope link metric {metric}"));
    let next = Leads::Via(IpAddr::from(gateway(1)));
    let has_route = || leads(&watch.routes_to(machine)) == next;
    wait::until(CONVERGED, "the way to the machine leads through the router", has_route);
    there.kill();
    let is_gone = || leads(&watch.routes_to(machine)) == Leads::Nowhere;
    wait::until(NOTICED, "the route of a BIRD that died is gone", is_gone);
}

const SESSIONS: [&str; 4] = ["-tinH", "state", "established", "( sport = :179 or dport = :179 )"];

/// A host's address that is on no subnet.
const fn identity(number: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 99, 0, number)
}

/// The router's address on the cable to a host.
const fn gateway(number: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 97, number, 1)
}

/// A cable to the router, in place of the lab's bridge, which would be a way around it.
fn connect(router: &Host, host: &Host, number: u8) {
    let (link, own) = (format!("host{number}"), identity(number));
    host.namespace().ip(&format!(
        "link set eth0 down\nlink add up0 type veth peer name {link} netns {}\nlink set up0 up\n\
         addr add 10.97.{number}.2/24 dev up0\naddr add {own} dev lo\nroute add default via {}",
        router.namespace().name(),
        gateway(number)
    ));
    router.namespace().ip(&format!(
        "link set {link} up\naddr add {}/24 dev {link}\nroute add {own} via 10.97.{number}.2",
        gateway(number)
    ));
    router.namespace().set_sysctl("net/ipv4/ip_forward", "1");
}

/// What is printed for a host.
fn text(release: Release, number: u8, other: u8) -> String {
    let autonomous_system = |number: u8| 64512 + u32::from(number);
    let peer = Peer { address: identity(other).into(), autonomous_system: Some(autonomous_system(other)) };
    let sessions = Sessions {
        password: Some(r"a\b'#;!c?|{$".parse().expect("a password")),
        has_bfd: true,
        hops: Some(2),
        ipv4_source: Some(identity(number)),
        ipv6_source: None,
    };
    let parameters = Parameters {
        peering: Peering::Ebgp,
        autonomous_system: autonomous_system(number),
        router_id: Some(identity(number)),
        peers: vec![peer],
        sessions,
        community: Community(65000, 100),
        ipv4: DEFAULT_PRIORITIES,
        ipv6: None,
        route_protocol: 3,
        interface_prefixes: vec!["tap".to_owned()],
        bridges: Vec::new(),
    };
    let metric = KernelMetric::Fixed;
    let printed = match release {
        Release::Bird16 => configuration_1(&parameters, metric, Family::Ipv4),
        release if release.is_bird_3() => configuration(&parameters, metric, Version::Three),
        _ => configuration(&parameters, metric, Version::Two),
    };
    printed.expect("there is a metric between both")
}
