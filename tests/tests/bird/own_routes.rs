//! The route of a machine stays while BIRD has one from another host, and after that one has gone, whichever of the two metrics each has.
//!
//! What is guarded against: BIRD 3 puts a route that it prefers in the place of one that somebody else has made, at its next scan, if that
//! has the metric of its kernel protocol, and leaves none when its own one ends. So what `cutover bgp bird` prints never gives a route
//! from BGP a metric of the agents'.

use cutover_bgp::bird::{Version, configuration};
use cutover_bgp::{Community, KernelMetric, Parameters, Peer, Peering, Priorities, Sessions};
use cutover_tests::fabric::{CONVERGED, DEFAULT_PRIORITIES};
use cutover_tests::{Bird, Host, Lab, Release, RouteWatch, wait};
use ipnet::IpNet;
use std::time::Duration;

const TAP: &str = "tapvm";
/// Of the kernel's table, in place of the printed ten seconds.
const SCAN: &str = "scan time 1;";
/// LIMIT: three scans.
const SCANNED: Duration = Duration::from_millis(3_500);

#[test]
fn with_bird_2() {
    outlive(Release::Bird2);
}

#[test]
fn with_bird_2_17() {
    outlive(Release::Bird217);
}

#[test]
fn with_bird_3() {
    outlive(Release::Bird3);
}

#[test]
fn with_bird_3_4() {
    outlive(Release::Bird34);
}

fn outlive(release: Release) {
    if !release.is_there("a host's own routes beside those from BGP") {
        return;
    }
    for metric in [KernelMetric::Fixed, KernelMetric::Mapped] {
        outlive_with(release, metric);
    }
}

fn outlive_with(release: Release, metric: KernelMetric) {
    let lab = Lab::new();
    let hosts = ["compute1", "compute2"].map(|name| lab.host(name));
    for host in &hosts {
        host.namespace().ip(&format!("tuntap add dev {TAP} mode tap\nlink set {TAP} up"));
    }
    let [here, elsewhere] = &hosts;
    let watch = RouteWatch::start(here.namespace());
    let birds = [(here, elsewhere), (elsewhere, here)]
        .map(|(host, peer)| Bird::start(&lab, host, &text(host, peer, metric, release), release));
    birds.iter().for_each(|bird| bird.wait_established(2));

    let machines = machines();
    let routes = || machines.iter().flat_map(|machine| machine.addresses.map(|to| (to, machine)));
    let has_theirs = |to| watch.routes_to(to).iter().any(|route| route.gateway.is_some());
    let has_own = || routes().all(|(to, machine)| watch.metrics_to(to).contains(&machine.here));
    let shown = || format!("{release:?}, {metric:?}: {:#?}", watch.routes());

    machines.iter().for_each(|machine| machine.add(elsewhere, machine.elsewhere));
    wait::until(CONVERGED, "the other host's routes", || routes().all(|(to, _)| has_theirs(to)));
    machines.iter().for_each(|machine| machine.add(here, machine.here));
    assert!(wait::holds_within(CONVERGED, has_own), "own routes come: {}", shown());
    assert!(!wait::holds_within(SCANNED, || !has_own()), "own routes beside the others: {}", shown());
    machines.iter().for_each(|machine| machine.remove(elsewhere, machine.elsewhere));
    wait::until(CONVERGED, "the other host's routes are gone", || !routes().any(|(to, _)| has_theirs(to)));
    assert!(!wait::holds_within(SCANNED, || !has_own()), "own routes alone: {}", shown());
}

/// With routes on both hosts.
#[derive(Debug)]
struct Machine {
    addresses: [IpNet; 2],
    here: u32,
    elsewhere: u32,
}

/// One for each pair of priorities.
fn machines() -> Vec<Machine> {
    let Priorities { normal, elevated } = DEFAULT_PRIORITIES;
    let pairs = [(normal, normal), (normal, elevated), (elevated, normal), (elevated, elevated)];
    let machine = |(number, (here, elsewhere))| {
        let addresses = [format!("10.65.0.{number}/32"), format!("2001:db8::{number}/128")];
        Machine { addresses: addresses.map(|to| to.parse().expect("a prefix")), here, elsewhere }
    };
    (2..).zip(pairs).map(machine).collect()
}

impl Machine {
    /// As an agent does: in front of whatever is there, or in its place where the kernel has only one.
    fn add(&self, host: &Host, metric: u32) {
        self.change(host, ["prepend", "replace"], metric);
    }

    fn remove(&self, host: &Host, metric: u32) {
        self.change(host, ["del", "del"], metric);
    }

    fn change(&self, host: &Host, verbs: [&str; 2], metric: u32) {
        let lines =
            self.addresses.iter().zip(verbs).map(|(to, verb)| {
                format!("route {verb} {to} dev {TAP} proto 3 scope link metric {metric}\n")
            });
        host.namespace().ip(&lines.collect::<String>());
    }
}

/// What is printed for one of two hosts in a mesh, with quicker scans.
fn text(host: &Host, peer: &Host, metric: KernelMetric, release: Release) -> String {
    let peers = [peer.ipv4().into(), peer.ipv6().into()];
    let parameters = Parameters {
        peering: Peering::Ibgp,
        autonomous_system: 64512,
        router_id: Some(host.ipv4()),
        peers: peers.map(|address| Peer { address, autonomous_system: None }).to_vec(),
        sessions: Sessions::default(),
        community: Community(65000, 100),
        ipv4: DEFAULT_PRIORITIES,
        ipv6: Some(DEFAULT_PRIORITIES),
        route_protocol: 3,
        interface_prefixes: vec!["tap".to_owned()],
        bridges: Vec::new(),
    };
    let version = if release.is_bird_3() { Version::Three } else { Version::Two };
    let printed = configuration(&parameters, metric, version).expect("there is a metric between both");
    let text = printed.replace("scan time 10;", SCAN);
    assert_ne!(text, printed);
    text
}
