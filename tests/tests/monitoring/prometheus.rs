//! A real Prometheus scrapes two agents while a virtual machine migrates.

use crate::{files, folder};
use cutover_daemon::observe::metrics::families;
use cutover_tests::prometheus::{Prometheus, promtool};
use cutover_tests::scene::{NORMAL, Node, SOURCE};
use cutover_tests::{Lab, Port, Scene, frames, http, wait};
use std::collections::BTreeSet;
use std::net::SocketAddr;

const PORT: u16 = 9091;

#[test]
fn a_migration_is_seen_by_prometheus_and_raises_no_alarm() {
    let mut scene = Scene::peered(|agent| agent.set("PrometheusMetricsEnabled", true));
    let [source, target] =
        [&scene.source, &scene.target].map(|node| SocketAddr::from((node.host.ipv4(), PORT)));
    let targets = [source, target].map(|address| address.to_string());
    let rules = folder().join("cutover.rules.yml").canonicalize().expect("the rules");
    let prometheus = Prometheus::start(&scene.lab, &scene.target.host, &targets, &rules);
    prometheus.wait_value("sum(up{job=\"cutover\"})", 2.0);

    let on =
        |name: &str, labels: &str, address: SocketAddr| format!("{name}{{instance=\"{address}\"{labels}}}");
    let _uid = scene.start_migration();
    prometheus.wait_value(&on("cutover_endpoints", ",state=\"Target\"", target), 1.0);
    prometheus.wait_value(&on("cutover_endpoint_roles", ",role=\"source\"", source), 1.0);
    prometheus.wait_value(&on("cutover_watches_armed", "", target), 1.0);
    prometheus.wait_value("sum(cutover_peer_conversations{state=\"connected\"})", 2.0);
    let mac = scene.port.mac;
    scene.move_vm(|qemu| qemu.send(&frames::rarp(mac)));
    prometheus.wait_value(&on("cutover_endpoints", ",state=\"Live\"", target), 1.0);
    prometheus.wait_value("sum(cutover_forwards{state=\"active\"})", 1.0);
    let elevated = on("cutover_routes", ",priority=\"elevated\",family=\"ipv4\"", target);
    prometheus.wait_value(&elevated, 1.0);
    scene.driver.unbind("compute1");
    scene.driver.withdraw("compute2");
    scene.target.wait_state(&scene.port, "Base");

    prometheus.wait_value("sum(cutover_migrations_total{outcome=\"announced\"})", 1.0);
    prometheus.wait_value("sum(cutover_migrations_total)", 1.0);
    prometheus.wait_value(&on("cutover_announcements_accepted_total", ",kind=\"rarp\"", target), 1.0);
    let transitions = ",from=\"Target\",input=\"GARPDetected\",to=\"Live\"";
    prometheus.wait_value(&on("cutover_transitions_total", transitions, target), 1.0);
    for phase in ["targeted_to_armed", "announced_to_taken", "announced_to_routed", "targeted_to_ended"] {
        let labels = format!(",phase=\"{phase}\"");
        prometheus.wait_value(&on("cutover_migration_phase_seconds_count", &labels, target), 1.0);
    }
    prometheus.wait_value("sum(cutover_forward_duration_seconds_count)", 1.0);
    prometheus.wait_value(&on("cutover_state_duration_seconds_count", ",state=\"TimeWait\"", target), 1.0);

    everything_is_there_and_nothing_else(&prometheus);
    rules_and_dashboard_work(&prometheus);
    let page = http::get_soon(scene.target.host.namespace(), target, "/metrics").body;
    let output = promtool(&folder(), &["check", "metrics"], &page);
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && said.is_empty(), "{said}\n{page}");
}

/// What an operator is told when the datastore is emptied, and how it ends.
#[test]
fn an_emptied_datastore_raises_an_alarm_until_it_is_confirmed() {
    let lab = Lab::new();
    let directory = lab.directory();
    let port = Port::new(1);
    let mut node = Node::new(&lab, SOURCE, &directory, &port);
    node.agent.set("CutoverEndpointGrace", 1);
    node.agent.set("PrometheusMetricsEnabled", true);
    let second = Port::new(2);
    let tap = node.host.plug(&second.interface, second.tap_mac());
    let documents = [&port, &second].map(|port| port.endpoint_on(SOURCE, "u"));
    documents.iter().for_each(|document| directory.put(document));
    node.agent.start_in_sync();
    node.open();
    let _qemu = tap.open();
    node.wait_settled(&port);
    node.wait_metrics(&second, &[NORMAL]);
    let rules = folder().join("cutover.rules.yml").canonicalize().expect("the rules");
    let targets = [format!("127.0.0.1:{PORT}")];
    let prometheus = Prometheus::start(&lab, &node.host, &targets, &rules);
    let alarm = "count(ALERTS{alertname=\"CutoverLossesKept\", alertstate=\"firing\", severity=\"critical\"}) or vector(0)";
    prometheus.wait_value("sum(cutover_losses_kept)", 0.0);
    prometheus.wait_value(alarm, 0.0);
    for name in directory.files() {
        directory.delete_file(&name);
    }
    prometheus.wait_value("sum(cutover_losses_kept)", 2.0);
    prometheus.wait_value(alarm, 1.0);
    prometheus.wait_value("cutover_losses_suspected_total", 1.0);
    node.agent.run_ok(&["release", "2"]);
    prometheus.wait_value("sum(cutover_losses_kept)", 0.0);
    prometheus.wait_value(alarm, 0.0);
}

/// What was ingested is what the table has, but for what this host has not: a Felix, and a libvirt or none.
#[track_caller]
fn everything_is_there_and_nothing_else(prometheus: &Prometheus) {
    let names = prometheus.ask("/api/v1/label/__name__/values");
    let names = names.as_array().expect("names").iter().filter_map(|name| name.as_str());
    let found: BTreeSet<String> = names.filter(|it| it.starts_with("cutover_")).map(str::to_owned).collect();
    let known: BTreeSet<String> = families::series_names().collect();
    let unknown: Vec<_> = found.difference(&known).collect();
    assert!(unknown.is_empty(), "not in the table: {unknown:?}");
    let may_lack = |name: &String| name.starts_with("cutover_felix_") || name == "cutover_libvirt_standing";
    let missing: Vec<_> = known.difference(&found).filter(|name| !may_lack(name)).collect();
    assert!(missing.is_empty(), "not on any page: {missing:?}");
}

#[track_caller]
fn rules_and_dashboard_work(prometheus: &Prometheus) {
    let all_are_well = || {
        let rules = prometheus.ask("/api/v1/rules");
        let rules = rules["groups"][0]["rules"].as_array().cloned().unwrap_or_default();
        assert!(rules.len() > 20, "{rules:?}");
        rules.iter().all(|rule| rule["health"] == "ok")
    };
    wait::until(wait::SOON, "every rule has been evaluated", all_are_well);
    let firing = prometheus.query("ALERTS{alertstate=\"firing\"}");
    assert_eq!(firing.as_array().map(Vec::len), Some(0), "{firing}");
    let expressions = files::expressions_of_dashboard();
    assert!(expressions.len() > 25, "{expressions:?}");
    for expression in expressions {
        let asked = expression.replace("$instance", ".*").replace("$__rate_interval", "1m");
        let result = prometheus.query(&asked);
        // Felix is not here, nobody was silent, nothing was dropped, and these show only what is long or wrong.
        let may_be_empty = ["felix", " > ", "dropped"].iter().any(|it| expression.contains(it));
        let is_empty = result.as_array().is_none_or(Vec::is_empty);
        assert!(may_be_empty || !is_empty, "nothing for {asked}");
    }
}
