//! Taps that are ports of a bridge (`CutoverBridges`): the watch is on the tap, the routes lead to the bridge. What docs/bridge.md promises.

use cutover_tests::resources::new_uid;
use cutover_tests::route_watch::dump_neighbours;
use cutover_tests::scene::{ELEVATED, NORMAL, Node, SOURCE, Scene, TARGET};
use cutover_tests::{Agent, Port, frames, probe, wait};
use serde_json::Value;
use std::collections::BTreeSet;
use std::net::IpAddr;

const BRIDGE: &str = "vmbr0";
const PROTOCOL: u8 = 80;
/// An operator's, on the bridge.
const FOREIGN: [&str; 2] = ["198.51.100.0/24", "198.51.100.7"];

fn with_bridges(agent: &mut Agent) {
    agent.set("CutoverBridges", BRIDGE);
    agent.set("DeviceRouteProtocol", PROTOCOL);
}

/// Makes the bridge, with the hardware address that guests know their gateway by, and the tap its port.
fn bridge(node: &Node, port: &Port) {
    let [network, neighbour] = FOREIGN;
    node.host.namespace().ip(&format!(
        "link add {BRIDGE} address {gateway} type bridge\nlink set {BRIDGE} up\n\
         route add {network} dev {BRIDGE}\n\
         neigh add {neighbour} lladdr 02:00:00:00:00:07 dev {BRIDGE} nud permanent\n\
         link set {tap} master {BRIDGE}\n",
        gateway = port.tap_mac(),
        tap = port.interface,
    ));
}

/// Every route of `port` leads to this interface, and there is one.
#[track_caller]
fn wait_led_to(node: &Node, port: &Port, interface: &str) {
    let expected = BTreeSet::from([node.host.ifindex(interface).expect("it is there")]);
    let led_to = || -> BTreeSet<u32> {
        let routes = port.routed().into_iter().flat_map(|to| node.watch.routes_to(to));
        routes.map(|route| route.ifindex).collect()
    };
    if !wait::holds_within(wait::SOON, || led_to() == expected) {
        panic!("{:?} and not {expected:?}:\n{}", led_to(), node.agent.log_text());
    }
}

/// How many permanent neighbours of `port` the bridge has.
fn neighbours(node: &Node, port: &Port) -> usize {
    let ifindex = node.host.ifindex(BRIDGE);
    let found = node.host.namespace().run(dump_neighbours).expect("a dump");
    let is_its = |address: IpAddr| port.addresses.iter().any(|net| net.addr() == address);
    found.iter().filter(|it| Some(it.ifindex) == ifindex && it.permanent && is_its(it.address)).count()
}

/// What an operator has on the bridge is there as it was.
#[track_caller]
fn check_foreign(node: &Node) {
    let [network, neighbour] = FOREIGN.map(str::to_owned);
    assert_eq!(node.watch.routes_to(network.parse().expect("a prefix")).len(), 1);
    let found = node.host.namespace().run(dump_neighbours).expect("a dump");
    assert!(found.iter().any(|it| it.permanent && it.address.to_string() == neighbour), "{found:?}");
}

#[track_caller]
fn check_answers(node: &Node, port: &Port) {
    for net in &port.addresses {
        let is_reached = probe::answers_within(wait::SOON, node.host.namespace(), net.addr());
        assert!(is_reached, "{net} does not answer on {}:\n{}", node.host.name(), node.agent.log_text());
    }
}

#[test]
fn a_machine_in_a_bridge_migrates_there_and_back() {
    let mut scene = Scene::with(with_bridges);
    let port = scene.port.clone();
    // There is no bridge at first: the route leads to the tap, and goes along when the tap becomes a port.
    wait_led_to(&scene.source, &port, &port.interface);
    for node in [&scene.source, &scene.target] {
        bridge(node, &port);
    }
    wait_led_to(&scene.source, &port, BRIDGE);
    scene.source.wait_metrics(&port, &[NORMAL]);
    check_answers(&scene.source, &port);

    let mark = scene.target.watch.mark();
    scene.start_migration();
    let status = scene.target.agent.status_of(&port).expect("its endpoint");
    assert_eq!(status["bridge"], BRIDGE, "{status}");
    scene.move_vm(|qemu| qemu.send(&frames::rarp(port.mac)));
    scene.target.wait_metrics(&port, &[ELEVATED]);
    wait_led_to(&scene.target, &port, BRIDGE);
    check_answers(&scene.target, &port);
    scene.driver.succeed_extended(SOURCE, TARGET);
    scene.target.wait_metrics(&port, &[NORMAL]);
    scene.source.wait_metrics(&port, &[]);
    for to in port.routed() {
        let metrics = scene.target.watch.since(mark).metrics(to);
        let first = metrics.iter().find(|metrics| !metrics.is_empty()).expect("there is a route");
        assert_eq!(first, &[ELEVATED], "no route before the announcement: {metrics:?}");
    }
    wait::until(wait::SOON, "the source has no neighbours of it", || neighbours(&scene.source, &port) == 0);
    assert_eq!(neighbours(&scene.target, &port), port.addresses.len());

    // Back.
    let back = new_uid();
    scene.driver.start_as(TARGET, SOURCE, &back);
    scene.source.wait_state(&port, "Target");
    scene.source.wait_armed(&port);
    let at_home = scene.source.tap().open();
    drop(scene.vm.pause());
    at_home.send(&frames::rarp(port.mac));
    scene.vm.resume(at_home);
    scene.source.wait_metrics(&port, &[ELEVATED]);
    wait_led_to(&scene.source, &port, BRIDGE);
    check_answers(&scene.source, &port);
    scene.driver.succeed_extended(TARGET, SOURCE);
    scene.source.wait_metrics(&port, &[NORMAL]);
    scene.target.wait_metrics(&port, &[]);
    for node in [&scene.source, &scene.target] {
        check_foreign(node);
    }
}

/// Neither the routes nor an operator's are touched by a restart, and a neighbour that an earlier life has made goes with its VM.
#[test]
fn what_an_earlier_life_has_made_on_a_bridge_is_known() {
    let mut scene = Scene::with(with_bridges);
    let port = scene.port.clone();
    for node in [&scene.source, &scene.target] {
        bridge(node, &port);
    }
    wait_led_to(&scene.source, &port, BRIDGE);
    wait::until(wait::SOON, "neighbours", || neighbours(&scene.source, &port) == port.addresses.len());
    let mark = scene.source.watch.mark();
    scene.source.agent.kill();
    scene.source.agent.start_in_sync();
    scene.start_migration();
    for to in port.routed() {
        scene.source.watch.since(mark).assert_never_without(to);
    }
    scene.move_vm(|qemu| qemu.send(&frames::rarp(port.mac)));
    scene.target.wait_metrics(&port, &[ELEVATED]);
    scene.driver.succeed_extended(SOURCE, TARGET);
    scene.source.wait_metrics(&port, &[]);
    wait::until(wait::SOON, "no neighbours", || neighbours(&scene.source, &port) == 0);
    check_foreign(&scene.source);
}

fn doctor(node: &Node, check: &str) -> Vec<Value> {
    let output = node.agent.run(&["doctor", "--json"]);
    let report: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    let findings = report["findings"].as_array().expect("findings");
    findings.iter().filter(|finding| finding["check"] == check).cloned().collect()
}

#[test]
fn a_bridge_that_is_not_as_it_should_be_costs_no_more_than_it_must() {
    let mut scene = Scene::with(|agent| {
        with_bridges(agent);
        agent.set("CutoverGatewayMAC", "02:00:00:00:00:01");
    });
    let port = scene.port.clone();
    let says = |node: &Node, check: &str, part: &str| {
        let findings = doctor(node, check);
        let is_said = findings.iter().any(|it| it["what"].as_str().is_some_and(|what| what.contains(part)));
        assert!(is_said, "{part}: {findings:#?}");
    };
    says(&scene.source, "network.bridges", "there is no vmbr0");
    bridge(&scene.source, &port);
    wait_led_to(&scene.source, &port, BRIDGE);
    says(&scene.source, "network.bridge-mac", "CutoverGatewayMAC is 02:00:00:00:00:01");

    let ip = |script: &str| scene.source.host.namespace().ip(script);
    ip(&format!("link set {BRIDGE} down"));
    scene.source.wait_metrics(&port, &[]);
    let is_reported = |status: &str| {
        wait::until(wait::SOON, "the status", || {
            scene.source.agent.reported(&port.name_on(SOURCE)).as_deref() == Some(status)
        });
    };
    is_reported("down");
    says(&scene.source, "network.bridges", "vmbr0 is down");
    ip(&format!("link set {BRIDGE} up"));
    scene.source.wait_metrics(&port, &[NORMAL]);
    is_reported("up");

    // The port goes, and with it what led to it; it comes back.
    drop(scene.vm.pause());
    scene.source.unplug();
    scene.source.wait_metrics(&port, &[]);
    wait::until(wait::SOON, "no neighbours", || neighbours(&scene.source, &port) == 0);
    scene.source.plug(&port);
    scene.source.host.namespace().ip(&format!("link set {} master {BRIDGE}", port.interface));
    scene.vm.resume(scene.source.tap().open());
    wait_led_to(&scene.source, &port, BRIDGE);
    check_answers(&scene.source, &port);
    scene.source.host.namespace().ip(&format!("link del {BRIDGE}"));
    wait_led_to(&scene.source, &port, &port.interface);
}

/// Whatever is left on a bridge when nobody has a port there any more is taken away by `cutover cleanup`, and nothing else is.
#[test]
fn cleanup_takes_from_a_bridge_what_was_the_agents() {
    let mut scene = Scene::with(with_bridges);
    let port = scene.port.clone();
    bridge(&scene.source, &port);
    wait_led_to(&scene.source, &port, BRIDGE);
    wait::until(wait::SOON, "neighbours", || neighbours(&scene.source, &port) == port.addresses.len());
    scene.source.agent.kill();
    scene.source.agent.run_ok(&["cleanup"]);
    scene.source.wait_metrics(&port, &[]);
    assert_eq!(neighbours(&scene.source, &port), 0);
    check_foreign(&scene.source);
}
