//! What the kernel refuses is said, and done at once when the kernel takes it: no timer is short enough to help here.

use cutover_tests::route_watch::dump_neighbours;
use cutover_tests::scene::{NORMAL, Node, SOURCE};
use cutover_tests::{Directory, Driver, Lab, Port, wait};
use serde_json::Value;
use std::time::Duration;

/// After so many attempts to write a route the next one is 6.4 s away.
const ATTEMPTS: u64 = 7;
/// How soon it is there all the same.
const AT_ONCE: Duration = Duration::from_secs(3);

/// A host with an agent that reads nothing again by itself, and an endpoint.
fn host(configure: impl FnOnce(&mut Node, &Port)) -> (Lab, Directory, Port, Node) {
    let lab = Lab::new();
    let directory = lab.directory();
    let port = Port::new(1);
    let mut node = Node::new(&lab, SOURCE, &directory, &port);
    for interval in ["RouteRefreshInterval", "InterfaceRefreshInterval"] {
        node.agent.set(interval, 3600);
    }
    configure(&mut node, &port);
    Driver::new(&directory, &port).bind(SOURCE);
    node.agent.start();
    (lab, directory, port, node)
}

fn refused(node: &Node) -> Value {
    node.agent.status()["refused_routes"].clone()
}

/// Waits until these routes, and no others, are refused for reasons with these words, and have been tried often enough.
#[track_caller]
fn wait_refused(node: &Node, written_before: u64, expected: &[(String, &str)]) {
    let is_refused = |status: &Value| {
        let refused = status["refused_routes"].as_object().expect("the status has them");
        let is_one = |(route, why): &(String, &str)| {
            refused.get(route).and_then(Value::as_str).is_some_and(|reason| reason.contains(why))
        };
        refused.len() == expected.len() && expected.iter().all(is_one)
    };
    let attempted = written_before + ATTEMPTS * expected.len() as u64;
    let in_time = wait::holds_within(2 * wait::SOON, || {
        let status = node.agent.status();
        is_refused(&status) && status["route_writes"].as_u64() >= Some(attempted)
    });
    assert!(in_time, "wanted {expected:?}, found {}", node.agent.status());
}

/// What people and the doctor are told.
#[track_caller]
fn assert_told(node: &Node, route: &str, why: &str) {
    let page = node.agent.run_ok(&["status"]);
    let is_told = |line: &str| line.contains(route) && line.contains(why);
    assert!(page.contains("refused by the kernel") && page.lines().any(is_told), "{page}");
    let output = node.agent.run(&["doctor", "--json"]);
    let report: Value = serde_json::from_slice(&output.stdout).expect("a report");
    let findings = report["findings"].as_array().expect("findings");
    let is_finding = |finding: &Value| {
        let what = finding["what"].as_str().unwrap_or_default();
        finding["check"] == "network.refused-routes" && finding["level"] == "error" && is_told(what)
    };
    assert!(findings.iter().any(is_finding), "{report:#}");
}

fn described(port: &Port, to: ipnet::IpNet) -> String {
    format!("{to} dev {} metric {NORMAL}", port.interface)
}

/// A source address that the host gets later, loses and gets again, as from keepalived.
#[test]
fn a_route_whose_source_address_comes_late_is_there_with_it() {
    let (ipv4, ipv6) = ("192.0.2.9", "2001:db8:99::9");
    let (_lab, _directory, port, node) = host(|node, _| {
        node.agent.set("DeviceRouteSourceAddress", ipv4);
        node.agent.set("DeviceRouteSourceAddressIPv6", ipv6);
    });
    let addresses = |verb: &str| format!("addr {verb} {ipv4}/32 dev lo\naddr {verb} {ipv6}/128 dev lo");
    let expected = [
        (described(&port, port.ipv4()), "source address 192.0.2.9 is not"),
        (described(&port, port.ipv6()), "source address 2001:db8:99::9 is not"),
    ];
    let mut written_before = 0;
    for _ in 0..2 {
        wait_refused(&node, written_before, &expected);
        for (route, why) in &expected {
            assert_told(&node, route, why);
        }
        node.host.namespace().ip(&addresses("add"));
        wait::until(AT_ONCE, "the routes are there, and nothing is refused", || {
            node.has_metrics(&port, &[NORMAL]) && refused(&node) == serde_json::json!({})
        });
        written_before = node.agent.status()["route_writes"].as_u64().expect("a number");
        node.host.namespace().ip(&addresses("del"));
    }
}

/// Without a carrier the kernel does not say when IPv6 is switched on; with one it does.
fn ipv6_that_comes_late(has_carrier: bool) {
    let (_lab, _directory, port, mut node) = host(|node, port| {
        let setting = format!("net/ipv6/conf/{}/disable_ipv6", port.interface);
        node.host.namespace().set_sysctl(&setting, "1");
    });
    if has_carrier {
        node.open();
    }
    let route = described(&port, port.ipv6());
    // The route of IPv4 was written, too.
    wait_refused(&node, 1, &[(route.clone(), "disable_ipv6")]);
    assert_told(&node, &route, "IPv6 is switched off");
    let unprepared = node.agent.status()["unprepared"][&port.interface].to_string();
    assert!(unprepared.contains("disable_ipv6"), "{unprepared}");

    let namespace = node.host.namespace();
    namespace.set_sysctl(&format!("net/ipv6/conf/{}/disable_ipv6", port.interface), "0");
    let proxy_ndp = format!("net/ipv6/conf/{}/proxy_ndp", port.interface);
    let (tap, guest) = (node.tap().ifindex(), port.ipv6().addr());
    wait::until(AT_ONCE, "route, neighbour and settings are there", || {
        let neighbours = namespace.run(dump_neighbours).expect("a dump");
        node.has_metrics(&port, &[NORMAL])
            && neighbours.iter().any(|it| it.ifindex == tap && it.address == guest && it.permanent)
            && namespace.sysctl(&proxy_ndp).as_deref() == Some("1")
    });
    wait::until(AT_ONCE, "the status is clean", || {
        let status = node.agent.status();
        status["refused_routes"] == serde_json::json!({}) && status["unprepared"] == serde_json::json!({})
    });
}

#[test]
fn a_tap_whose_ipv6_is_switched_on_late_has_all_of_it_at_once() {
    ipv6_that_comes_late(true);
}

#[test]
fn the_same_before_anybody_opens_the_tap() {
    ipv6_that_comes_late(false);
}

/// IPv6 goes and comes with the size of the largest packet.
#[test]
fn a_tap_whose_packets_become_large_enough_for_ipv6_has_its_route_at_once() {
    let (_lab, _directory, port, node) = host(|node, port| {
        node.host.namespace().ip(&format!("link set {} mtu 1000", port.interface));
    });
    wait_refused(&node, 1, &[(described(&port, port.ipv6()), "MTU")]);
    node.host.namespace().ip(&format!("link set {} mtu 1500", port.interface));
    wait::until(AT_ONCE, "the route is there, and nothing is refused", || {
        node.has_metrics(&port, &[NORMAL]) && refused(&node) == serde_json::json!({})
    });
}
