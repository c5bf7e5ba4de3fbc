//! The whole agent as a process of its own, from a guest's announcement to the route, seen from outside.

use crate::report::Section;
use anyhow::{Context as _, Result};
use cutover_daemon::clock;
use cutover_engine::BootTime;
use cutover_tests::driver::{Driver, Pace};
use cutover_tests::route_history::{Change, History};
use cutover_tests::scene::{ELEVATED, Node, SOURCE, TARGET};
use cutover_tests::statistics::{Distribution, Micros};
use cutover_tests::{Lab, OpenTap, Port, frames};
use ipnet::IpNet;
use std::net::IpAddr;
use std::thread::sleep;
use std::time::Duration;

/// How long everything is left alone before an announcement.
const SETTLING: Duration = Duration::from_millis(20);

pub(crate) fn measure(migrations: usize) -> Result<Section> {
    let rows = [("asleep between announcements", 0), ("`CutoverBusyPollMicros = 1000000`", 1_000_000)]
        .into_iter()
        .map(|(name, spin_micros)| Ok(row(name, &one_agent(spin_micros, migrations)?)))
        .collect::<Result<_>>()?;
    Ok(Section {
        title: "The whole agent",
        method: format!(
            "`cutover agent` as a process, {migrations} migrations of a guest with one address of each family, which \
             the orchestrator rolls back each time. The time is from right before the guest's gratuitous ARP request is \
             written to the tap until another process has the kernel's notification of the last of both routes in its \
             hands, so it includes that one's own awakening."
        ),
        columns: &["fast path", "sent → both routes seen by another process: median", "p99"],
        rows,
        goals: Vec::new(),
        picture: None,
    })
}

fn row(name: &str, times: &Distribution) -> Vec<String> {
    vec![name.into(), Micros(times.median()).to_string(), Micros(times.p99()).to_string()]
}

fn one_agent(spin_micros: u32, migrations: usize) -> Result<Distribution> {
    let lab = Lab::new();
    let directory = lab.directory();
    let port = Port::new(1);
    let driver = Driver::new(&directory, &port).at_pace(Pace::IMMEDIATE);
    driver.bind(SOURCE);
    let mut node = Node::new(&lab, TARGET, &directory, &port);
    for (name, value) in [
        ("LiveMigrationRouteConvergenceTime", 0),
        ("CutoverEndpointGrace", 0),
        ("CutoverBusyPollMicros", spin_micros),
    ] {
        node.agent.set(name, value);
    }
    node.agent.start();
    let guest = node.tap().open();
    let times =
        (0..migrations).map(|_| one_migration(&node, &driver, &port, &guest)).collect::<Result<_>>()?;
    Ok(Distribution::of(times))
}

fn one_migration(node: &Node, driver: &Driver, port: &Port, guest: &OpenTap) -> Result<Duration> {
    let _uid = driver.start(SOURCE, TARGET);
    node.wait_armed(port);
    sleep(SETTLING);
    let IpAddr::V4(address) = port.ipv4().addr() else { unreachable!("it is an IPv4 prefix") };
    let announcement = frames::garp_request(port.mac, address);
    let mark = node.watch.mark();
    let sent_at = clock::now();
    guest.send(&announcement);
    node.wait_metrics(port, &[ELEVATED]);
    let history = node.watch.since(mark);
    let mut seen_at = sent_at;
    for to in port.routed() {
        seen_at = seen_at.max(added_at(&history, to).with_context(|| format!("no notification of {to}"))?);
    }
    driver.roll_back(SOURCE, TARGET);
    node.wait_metrics(port, &[]);
    Ok(seen_at.since(sent_at))
}

fn added_at(history: &History, to: IpNet) -> Option<BootTime> {
    history.events.iter().find_map(|event| match &event.change {
        Change::Added { route, .. } if route.destination == to && route.metric == ELEVATED => Some(event.at),
        _ => None,
    })
}
