//! The whole way with real agents: from the announcement on the target's tap to the kernel of a third host.

use crate::fabric::{AS, CONVERGED, ELEVATED, NORMAL, ZEBRA, parameters};
use cutover_agent::bgp::{Peer, Peering, frr};
use cutover_tests::scene::{Node, SOURCE, TARGET};
use cutover_tests::{Driver, Frr, Host, Lab, Port, RouteWatch, Vm, frames, wait};
use ipnet::IpNet;
use std::net::IpAddr;

/// Hosts with agents and FRR, and one with FRR only. Fields go in this order, the lab last.
struct Cluster {
    daemons: [Frr; 3],
    vm: Vm,
    source: Node,
    target: Node,
    _third: Host,
    watch: RouteWatch,
    driver: Driver,
    port: Port,
    _lab: Lab,
}

impl Cluster {
    /// The VM runs on the source, and everybody knows.
    #[track_caller]
    fn new() -> Self {
        let lab = Lab::new();
        let directory = lab.directory();
        let port = Port::new(1);
        let driver = Driver::new(&directory, &port);
        driver.bind(SOURCE);
        let mut vm = Vm::create(&lab, "vm", &port);
        let [source, target] = [SOURCE, TARGET].map(|name| {
            let mut node = Node::new(&lab, name, &directory, &port);
            node.agent.set("LiveMigrationRouteConvergenceTime", 2);
            for family in ["IPv4", "IPv6"] {
                node.agent.set(&format!("{family}NormalRoutePriority"), NORMAL);
                node.agent.set(&format!("{family}ElevatedRoutePriority"), ELEVATED);
            }
            node.agent.spawn();
            node
        });
        let third = lab.host("compute3");
        let watch = RouteWatch::start(third.namespace());
        vm.resume(source.tap().open());
        let hosts = [&source.host, &target.host, &third];
        let daemons = hosts.map(|host| {
            let peers = hosts.iter().filter(|other| other.name() != host.name()).flat_map(|other| {
                let addresses: [IpAddr; 2] = [other.ipv4().into(), other.ipv6().into()];
                addresses.map(|address| Peer { address, autonomous_system: None })
            });
            let parameters = parameters(Peering::Ibgp, AS, host, peers.collect());
            Frr::start(&lab, host.namespace_shared(), &frr::configuration(&parameters).unwrap())
        });
        daemons.iter().for_each(|daemon| daemon.wait_established(4));
        let cluster = Self { daemons, vm, source, target, _third: third, watch, driver, port, _lab: lab };
        cluster.source.wait_metrics(&cluster.port, &[NORMAL]);
        cluster.target.wait_metrics_within(CONVERGED, &cluster.port, &[ZEBRA]);
        wait::until(CONVERGED, "the third host knows the VM", || {
            cluster.machine().iter().all(|&to| cluster.watch.metrics_to(to) == [ZEBRA])
        });
        cluster
    }

    fn machine(&self) -> Vec<IpNet> {
        self.port.routed()
    }

    /// Whether the third host sends to `node`, as its IPv4 route says; those of IPv6 have a link-local next hop.
    fn third_sends_to(&self, node: &Node) -> bool {
        let ipv4 = self.machine().into_iter().filter(|to| to.addr().is_ipv4());
        let hop = IpAddr::from(node.host.ipv4());
        ipv4.flat_map(|to| self.watch.routes_to(to)).all(|route| route.gateway == Some(hop))
    }

    fn start_migration(&self) {
        let _uid = self.driver.start(SOURCE, TARGET);
        self.target.wait_state(&self.port, "Target");
        self.target.wait_armed(&self.port);
    }
}

#[test]
fn from_the_announcement_to_the_third_host_and_back_to_normal() {
    let mut cluster = Cluster::new();
    cluster.start_migration();
    assert!(cluster.third_sends_to(&cluster.source));
    let marks = (cluster.source.watch.mark(), cluster.target.watch.mark(), cluster.watch.mark());

    let at_target = cluster.target.tap().open();
    drop(cluster.vm.pause());
    at_target.send(&frames::rarp(cluster.port.mac));
    cluster.vm.resume(at_target);
    cluster.target.wait_metrics(&cluster.port, &[ELEVATED]);
    wait::until(CONVERGED, "the third host follows", || cluster.third_sends_to(&cluster.target));
    // The driver has said nothing yet: the source still has its own route and sends the rest after the VM.
    cluster.source.wait_metrics_within(CONVERGED, &cluster.port, &[ZEBRA, NORMAL]);

    cluster.driver.succeed(SOURCE, TARGET);
    cluster.source.wait_metrics(&cluster.port, &[ZEBRA]);
    cluster.target.wait_metrics(&cluster.port, &[NORMAL]);
    wait::until(CONVERGED, "everybody has the normal priority", || {
        cluster.daemons.iter().all(|daemon| {
            let normal = Some(crate::fabric::NORMAL_PREFERENCE);
            cluster.machine().iter().all(|&to| daemon.best(to).is_some_and(|best| best.preference == normal))
        })
    });
    assert!(cluster.third_sends_to(&cluster.target));
    for to in cluster.machine() {
        cluster.source.watch.since(marks.0).assert_never_without(to);
        cluster.target.watch.since(marks.1).assert_never_without(to);
        cluster.watch.since(marks.2).assert_never_without(to);
    }
}

/// A failed migration reaches nobody: neither the priority nor the target's route, nor a moment without one.
#[test]
fn a_failed_migration_reaches_nobody() {
    let cluster = Cluster::new();
    let marks = (cluster.source.watch.mark(), cluster.target.watch.mark(), cluster.watch.mark());
    cluster.start_migration();
    cluster.driver.roll_back(SOURCE, TARGET);
    cluster.target.wait_state(&cluster.port, "Base");
    // Somebody else's change comes after everything that the migration could have sent.
    let to: IpNet = "10.65.9.9/32".parse().unwrap();
    let target = cluster.target.host.namespace();
    target.ip(&format!("route add {to} dev eth0 proto 4 scope link metric {ELEVATED}"));
    wait::until(CONVERGED, "the witness arrives", || !cluster.watch.routes_to(to).is_empty());
    for to in cluster.machine() {
        let still: [&[u32]; 1] = [&[ZEBRA]];
        assert_eq!(cluster.watch.since(marks.2).metrics(to), still, "{to}");
        assert_eq!(cluster.target.watch.since(marks.1).metrics(to), still, "{to}");
        let still: [&[u32]; 1] = [&[NORMAL]];
        assert_eq!(cluster.source.watch.since(marks.0).metrics(to), still, "{to}");
    }
    assert!(cluster.third_sends_to(&cluster.source));
}
