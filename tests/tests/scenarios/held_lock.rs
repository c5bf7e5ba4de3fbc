//! Somebody else on the machine has the kernel's lock of links for a large part of a second: what does not need it goes on.
//!
//! KERNEL (6.18): a change of an IPv4 route waits for it, one of an IPv6 route does not. What happens is judged by its order alone, because
//! how long it takes depends on the machine.

use cutover_engine::BootTime;
use cutover_tests::crowd::Crowd;
use cutover_tests::driver::Pace;
use cutover_tests::resources::felix_configuration;
use cutover_tests::route_history::{Change, Event, History};
use cutover_tests::scene::{ELEVATED, Node, SOURCE, TARGET};
use cutover_tests::{Driver, Lab, Port, Tap, frames, wait};
use ipnet::IpNet;
use serde_json::json;
use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs;
use std::time::Duration;

/// A wait of this length is the lock's doing and nothing else's.
const HELD_UP: Duration = Duration::from_millis(30);

/// LIMIT: the lock can be free again before anything comes to it on a busy machine; then it is held once more.
const ATTEMPTS: usize = 5;

/// Routes that were added with this metric, in the order of the kernel.
fn added(history: &History, metric: u32) -> Vec<(IpNet, BootTime)> {
    let added = |event: &Event| match &event.change {
        Change::Added { route, .. } if route.metric == metric => Some((route.destination, event.at)),
        _ => None,
    };
    history.events.iter().filter_map(added).collect()
}

/// Whether every IPv6 route was there long before the first IPv4 route.
fn ipv6_did_not_wait(added: &[(IpNet, BootTime)]) -> bool {
    let of = |ipv6: bool| added.iter().filter(move |(to, _)| to.addr().is_ipv6() == ipv6).map(|(_, at)| *at);
    let (last_ipv6, first_ipv4) = (of(true).max(), of(false).min());
    last_ipv6.zip(first_ipv4).is_some_and(|(ipv6, ipv4)| ipv6 + HELD_UP < ipv4)
}

/// Tries `attempt` a few times, which returns what was added while the lock was held.
#[track_caller]
fn expect_in_some_attempt(mut attempt: impl FnMut() -> Vec<(IpNet, BootTime)>) {
    let mut seen = Vec::new();
    for _ in 0..ATTEMPTS {
        seen.push(attempt());
        if seen.last().is_some_and(|added| ipv6_did_not_wait(added)) {
            return;
        }
    }
    panic!("IPv6 has never been there {HELD_UP:?} before IPv4:\n{seen:#?}");
}

/// A host that waits for two virtual machines.
struct Awaiting {
    node: Node,
    second_tap: Tap,
    ports: [Port; 2],
    // Last, because it looks for what is left.
    lab: Lab,
}

impl Awaiting {
    fn two() -> Self {
        let lab = Lab::new();
        let directory = lab.directory();
        let ports = [1, 2].map(Port::new);
        let mut node = Node::new(&lab, TARGET, &directory, &ports[0]);
        let second_tap = node.host.plug(&ports[1].interface, ports[1].tap_mac());
        node.agent.start();
        for port in &ports {
            let driver = Driver::new(&directory, port).at_pace(Pace::IMMEDIATE);
            driver.bind(SOURCE);
            let _uid = driver.start(SOURCE, TARGET);
            node.agent.wait_up(port);
        }
        Self { node, second_tap, ports, lab }
    }
}

/// Of two machines that arrive: the IPv4 route of the first one waits, and keeps nothing of the second one waiting but its IPv4 route.
#[test]
fn arriving_machines_are_reached_over_ipv6_at_once() {
    expect_in_some_attempt(|| {
        let Awaiting { lab, node, ports, second_tap } = Awaiting::two();
        let hypervisors = [node.tap().open(), second_tap.open()];
        let crowd = Crowd::gather(&lab);
        let mark = node.watch.mark();
        crowd.disperse_during(|| {
            for (hypervisor, port) in hypervisors.iter().zip(&ports) {
                hypervisor.send(&frames::rarp(port.mac));
            }
        });
        for port in &ports {
            node.wait_metrics(port, &[ELEVATED]);
        }
        added(&node.watch.since(mark), ELEVATED)
    });
}

/// A change of metric of both families: that of IPv6 is over before that of IPv4 can begin.
#[test]
fn ipv6_routes_change_while_ipv4_routes_wait() {
    let lab = Lab::new();
    let directory = lab.directory();
    let port = Port::new(1);
    let mut node = Node::new(&lab, SOURCE, &directory, &port);
    Driver::new(&directory, &port).bind(SOURCE);
    node.agent.start();
    node.open();
    node.wait_settled(&port);
    let mut metric = 2048;
    expect_in_some_attempt(|| {
        metric += 1;
        let crowd = Crowd::gather(&lab);
        let mark = node.watch.mark();
        crowd.disperse_during(|| {
            let priorities = json!({"ipv4NormalRoutePriority": metric, "ipv6NormalRoutePriority": metric});
            directory.put(&felix_configuration("default", &priorities));
            wait::until(wait::SOON, "something is changed", || {
                !added(&node.watch.since(mark), metric).is_empty()
            });
        });
        node.wait_metrics(&port, &[metric]);
        added(&node.watch.since(mark), metric)
    });
}

/// Whoever does not come back from the kernel is named as long as that lasts.
#[test]
fn an_applier_that_waits_for_the_lock_makes_no_progress() {
    const APPLIER: &str = "the IPv4 route applier";
    let lab = Lab::new();
    let directory = lab.directory();
    let port = Port::new(1);
    let mut node = Node::new(&lab, SOURCE, &directory, &port);
    node.agent.set("DataplaneWatchdogTimeout", "0.02");
    Driver::new(&directory, &port).bind(SOURCE);
    node.agent.start();
    node.open();
    node.wait_settled(&port);
    let stuck = || -> BTreeSet<String> {
        let status = node.agent.status();
        status["stuck"].as_object().expect("a map").keys().cloned().collect()
    };
    let was_named = (0..ATTEMPTS).any(|attempt| {
        let metric = 3000 + attempt as u32;
        let priorities = json!({"ipv4NormalRoutePriority": metric, "ipv6NormalRoutePriority": metric});
        let crowd = Crowd::gather(&lab);
        let mut named = BTreeSet::new();
        crowd.disperse_during(|| {
            directory.put(&felix_configuration("default", &priorities));
            wait::until(wait::SOON, "somebody is stuck, or it is over", || {
                named.extend(stuck());
                !named.is_empty() || node.watch.metrics_to(port.ipv4()) == [metric]
            });
        });
        node.wait_metrics(&port, &[metric]);
        named.contains(APPLIER)
    });
    assert!(was_named, "{APPLIER} has never been named");
    wait::until(wait::SOON, "everybody makes progress", || stuck().is_empty());
}

/// KERNEL: to detach a program can take the lock for 8 to 16 ms.
#[test]
fn what_a_machine_that_has_arrived_leaves_attached_stays_while_another_is_awaited() {
    /// LIMIT: longer than the agent waits when nobody is awaited, and shorter than it waits at the latest.
    const A_WHILE: Duration = Duration::from_secs(3);
    let Awaiting { lab: _lab, node, ports, second_tap } = Awaiting::two();
    let links = || {
        let folder = fs::read_dir(node.agent.pin_path().join("links")).expect("the agent has made it");
        let mut names: Vec<_> = folder.map(|entry| entry.expect("an entry").file_name()).collect();
        names.sort();
        names
    };
    let both = links();
    assert!(both.contains(&OsString::from(&ports[0].interface)), "{both:?}");
    let hypervisors = [node.tap().open(), second_tap.open()];
    hypervisors[0].send(&frames::rarp(ports[0].mac));
    node.wait_metrics(&ports[0], &[ELEVATED]);
    wait::throughout(A_WHILE, "what is attached to the first one stays", || links() == both);
    hypervisors[1].send(&frames::rarp(ports[1].mac));
    node.wait_metrics(&ports[1], &[ELEVATED]);
    wait::until(wait::SOON, "nothing is attached any more", || links().is_empty());
}
