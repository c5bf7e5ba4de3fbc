//! Guests that do not mean well, or not at all.

use cutover_common::MacAddr;
use cutover_tests::driver::Pace;
use cutover_tests::neighbour_flood::NeighbourFlood;
use cutover_tests::route_watch::dump_routes;
use cutover_tests::scene::{ELEVATED, NORMAL, Node, SOURCE, TARGET};
use cutover_tests::{Agent, Driver, Lab, OpenTap, Port, frames, processors, wait};
use std::time::Duration;

/// LIMIT: 100,000 frames that an agent were told of would take it longer.
const LITTLE: Duration = Duration::from_millis(500);

/// How many frames a flood has.
const FLOOD: u64 = 100_000;

fn armed() -> (Lab, Driver, Port, Node) {
    let lab = Lab::new();
    let directory = lab.directory();
    let port = Port::new(1);
    let mut node = Node::new(&lab, TARGET, &directory, &port);
    node.agent.set("LiveMigrationRouteConvergenceTime", 1);
    node.agent.start();
    let driver = Driver::new(&directory, &port).at_pace(Pace::IMMEDIATE);
    driver.bind(SOURCE);
    let _uid = driver.start(SOURCE, TARGET);
    node.wait_armed(&port);
    (lab, driver, port, node)
}

/// Sends a flood. A full queue of the kernel loses frames, which is the guest's problem.
fn flood(qemu: &OpenTap, mut frame: impl FnMut(u64) -> frames::Frame) {
    for number in 0..FLOOD {
        let _ = qemu.try_send(&frame(number));
    }
}

/// The first announcement disarms the watch in the kernel: the other 99,999 cost the agent nothing.
#[test]
fn a_flood_of_announcements_is_one_event() {
    let (_lab, driver, port, node) = armed();
    let qemu = node.tap().open();
    let pid = node.agent.pid().expect("it runs");
    let before = processors::time_of(pid);
    flood(&qemu, |_| frames::rarp(port.mac));
    node.wait_metrics(&port, &[ELEVATED]);
    assert_eq!(node.agent.log().matching(&["to=Live"]).len(), 1);
    assert_eq!(node.agent.log().matching(&["GARPDetected"]).len(), 1);
    for to in port.routed() {
        assert_eq!(node.watch.history().metrics(to), [vec![], vec![ELEVATED]], "{to}");
    }
    let used = processors::time_of(pid) - before;
    assert!(used < LITTLE, "{used:?} of processor time for one announcement");
    driver.succeed_extended(SOURCE, TARGET);
    node.wait_metrics(&port, &[NORMAL]);
}

/// Neighbours that change without end, on an uplink and on the tap itself, hold up neither the tap of a VM that arrives nor its
/// announcement. Without a recording of the routes, which would have to hold all of that.
#[test]
fn a_flood_of_neighbours_holds_no_migration_up() {
    /// A second without a word about neighbours is no second without one about links.
    const AT_ONCE: Duration = Duration::from_secs(3);

    let lab = Lab::new();
    let directory = lab.directory();
    let port = Port::new(1);
    let host = lab.host(TARGET);
    let mut agent = Agent::new(&lab, &host, &directory);
    agent.set("RouteRefreshInterval", 3600);
    agent.set("InterfaceRefreshInterval", 3600);
    agent.start();
    let driver = Driver::new(&directory, &port).at_pace(Pace::IMMEDIATE);
    driver.bind(SOURCE);
    let _uid = driver.start(SOURCE, TARGET);
    wait::until(wait::SOON, "the agent knows of it", || agent.status_of(&port).is_some());

    let first = host.plug("tapfirst", port.tap_mac());
    let _floods = ["eth0", "tapfirst"].map(|interface| NeighbourFlood::start(host.namespace(), interface));
    let tap = host.plug(&port.interface, port.tap_mac());
    let is_armed = |endpoint: serde_json::Value| {
        endpoint["ifindex"] == tap.ifindex() && endpoint["watch"].is_u64() && endpoint["status"] == "up"
    };
    wait::until(AT_ONCE, "the tap is armed", || agent.status_of(&port).is_some_and(is_armed));
    let _flood = NeighbourFlood::start(host.namespace(), &port.interface);
    tap.open().send(&frames::rarp(port.mac));
    wait::until(AT_ONCE, "the routes are elevated", || {
        let routes = host.namespace().run(dump_routes).expect("a dump");
        port.routed()
            .iter()
            .all(|to| routes.iter().any(|route| route.destination == *to && route.metric == ELEVATED))
    });
    wait::until(AT_ONCE, "the agent knows", || {
        agent.status_of(&port).is_some_and(|endpoint| endpoint["state"] == "Live")
    });
    drop(first);
}

/// Rubbish and lies do not wake the agent, and the genuine announcement in the middle of them is heard.
#[test]
fn a_flood_of_rubbish_and_lies_hides_nothing_and_costs_nothing() {
    let (_lab, _driver, port, node) = armed();
    let qemu = node.tap().open();
    let pid = node.agent.pid().expect("it runs");
    let before = processors::time_of(pid);
    flood(&qemu, |number| match number % 3 {
        0 => frames::rarp(MacAddr([0xfa, 0x16, 0x3e, 0xff, (number >> 8) as u8, number as u8])),
        1 => frames::garp_request(port.mac, [192, 0, 2, number as u8].into()),
        _ => frames::junk(port.mac, number),
    });
    assert!(node.has_metrics(&port, &[]));
    assert!(node.agent.log().matching(&["GARPDetected"]).is_empty());
    let used = processors::time_of(pid) - before;
    assert!(used < LITTLE, "{used:?} of processor time for nothing");
    qemu.send(&frames::rarp(port.mac));
    node.wait_metrics(&port, &[ELEVATED]);
    let counted = node.agent.status()["announcements"].clone();
    let total: u64 =
        counted.as_object().expect("counters").values().filter_map(serde_json::Value::as_u64).sum();
    assert!(total > FLOOD / 2, "the refused ones are counted by reason: {counted}");
}

/// A guest that announces itself again and again after it has arrived changes nothing either.
#[test]
fn announcements_outside_of_a_migration_change_nothing() {
    let lab = Lab::new();
    let directory = lab.directory();
    let port = Port::new(1);
    let mut node = Node::new(&lab, SOURCE, &directory, &port);
    Driver::new(&directory, &port).bind(SOURCE);
    node.agent.start();
    node.wait_settled(&port);
    node.open();
    node.agent.wait_up(&port);
    let mark = node.watch.mark();
    let qemu = node.qemu.as_ref().expect("just opened");
    for _ in 0..1000 {
        qemu.send(&frames::rarp(port.mac));
    }
    let tap = node.tap().ifindex();
    wait::throughout(Duration::from_millis(300), "no write", || {
        node.watch.since(mark).writes_to(tap).is_empty()
    });
    assert!(node.agent.log().matching(&["Live migration state transition"]).is_empty());
}
