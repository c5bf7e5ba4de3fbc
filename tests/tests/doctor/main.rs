//! `cutover doctor` on hosts that are healthy, and on hosts that have one thing wrong with them.

mod bird;
mod cluster;
mod frr;
mod host;
mod rehearsals;

use cutover_tests::Host;
use cutover_tests::scene::Node;
use serde_json::Value;
use std::collections::BTreeSet;
use std::fs;

/// The checks that found something worth a warning.
///
/// The clock is the machine's that runs the tests, which nobody may keep; and most hosts here have no BGP daemon.
#[track_caller]
fn problems(node: &Node, arguments: &[&str]) -> BTreeSet<String> {
    let report = report(node, arguments);
    let findings = report["findings"].as_array().expect("findings").iter();
    let bad = findings.filter(|finding| finding["level"] == "error" || finding["level"] == "warning");
    bad.filter_map(|finding| finding["check"].as_str().map(str::to_owned))
        .filter(|check| !check.starts_with("clock."))
        .filter(|check| check != "bgp.configuration" || !arguments.is_empty())
        .collect()
}

#[track_caller]
fn report(node: &Node, arguments: &[&str]) -> Value {
    let nova = node.agent.configuration().with_file_name("nova.conf");
    fs::write(&nova, format!("[DEFAULT]\nhost = {}\n", node.host.name())).expect("space");
    let nova = nova.display().to_string();
    let output = node.agent.run(&[&["doctor", "--json", "--nova-conf", &nova], arguments].concat());
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {output:?}"))
}

/// A default route, as every host has one.
fn route_out(host: &Host) {
    host.namespace().ip("route replace default dev eth0");
}

fn only(checks: &[&str]) -> BTreeSet<String> {
    checks.iter().map(|check| (*check).to_owned()).collect()
}
