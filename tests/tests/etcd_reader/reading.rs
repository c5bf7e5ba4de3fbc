//! What is read, and what is not: snapshot and watch, region, rewrites, values that cannot be read, the ready flag.

use crate::site::{HOST, Site};
use cutover_tests::datastore::endpoint_key;
use cutover_tests::frames;
use cutover_tests::scene::{ELEVATED, NORMAL};
use cutover_tests::{Port, wait};
use serde_json::json;
use std::time::Duration;

/// Longer than anything that is wrongly done takes, and than the grace of an endpoint that vanished.
const QUIET: Duration = Duration::from_millis(2500);

#[test]
fn a_snapshot_and_then_every_change() {
    let mut site = Site::new();
    let (second, _tap) = site.plug(2);
    // Hosts whose names begin with this one's, and a port of the same name elsewhere.
    for other in ["compute-1-2", "compute-12", "compute"] {
        site.put_endpoint(&second, other, "u2");
    }
    site.node.agent.start_in_sync();
    site.node.wait_metrics(&site.port, &[NORMAL]);
    assert!(site.node.has_metrics(&second, &[]), "an endpoint of another host");
    site.put_endpoint(&second, HOST, "u3");
    site.node.wait_metrics(&second, &[NORMAL]);
    site.delete_endpoint(&second, HOST);
    site.node.wait_metrics(&second, &[]);
    site.node.wait_metrics(&site.port, &[NORMAL]);
}

/// A member that has more endpoints than fit into one answer.
#[test]
fn a_snapshot_of_many_pages() {
    let mut site = Site::new();
    let mut pairs = Vec::new();
    for number in 0..1300 {
        let mut port = Port::new(3);
        port.endpoint = format!("port-{number:04}");
        port.interface = format!("tapx{number:04}");
        pairs.push((endpoint_key(&port, HOST), port.endpoint_on(HOST, "u").to_string()));
    }
    site.etcd.put_many(pairs);
    site.node.agent.start_in_sync();
    assert_eq!(site.node.agent.status()["endpoints"].as_array().map(Vec::len), Some(1301));
    site.node.wait_metrics(&site.port, &[NORMAL]);
}

#[test]
fn the_region_chooses_the_namespace() {
    let mut site = Site::new();
    site.node.agent.set("OpenstackRegion", "east");
    let (second, _tap) = site.plug(2);
    let namespace = "openstack-region-east";
    let mut document = second.endpoint_on(HOST, "u2");
    document["metadata"]["namespace"] = namespace.into();
    let key = endpoint_key(&second, HOST).replace("/openstack/", &format!("/{namespace}/"));
    site.etcd.put(&key, &document.to_string());
    site.node.agent.start();
    site.node.wait_metrics(&second, &[NORMAL]);
    wait::throughout(QUIET, "the endpoint of no region is not ours", || {
        site.node.has_metrics(&site.port, &[])
    });
}

#[test]
fn identical_rewrites_cause_nothing() {
    let site = Site::running();
    site.node.wait_settled(&site.port);
    let mark = site.node.watch.mark();
    for _ in 0..20 {
        site.put_endpoint(&site.port, HOST, "u1");
    }
    // What comes after them has been acted on, so they have been, too.
    let (second, _tap) = site.plug(2);
    site.put_endpoint(&second, HOST, "u2");
    site.node.wait_metrics(&second, &[NORMAL]);
    site.assert_untouched_since(mark);
}

#[test]
fn a_poison_value_is_quarantined_and_heals() {
    let mut site = Site::new();
    let (second, _second_tap) = site.plug(2);
    let (third, _third_tap) = site.plug(3);
    // Of this one nothing was ever known.
    site.etcd.put(&endpoint_key(&third, HOST), "{\"kind\": \"Workload");
    site.node.agent.start();
    site.node.wait_metrics(&site.port, &[NORMAL]);
    site.node.agent.log().wait(wait::SOON, &["value refused", &third.name_on(HOST), "nothing of it is used"]);
    site.node.agent.log().wait(wait::SOON, &["Datastore in sync", "complete=false"]);
    site.node.wait_settled(&site.port);
    let mark = site.node.watch.mark();
    for poison in ["", "not json", "[]", "{\"kind\": \"LiveMigration\"}", "\u{0}"] {
        site.etcd.put(&endpoint_key(&site.port, HOST), poison);
    }
    site.node.agent.log().wait(wait::SOON, &["value refused", &site.port.name_on(HOST), "last good version"]);
    site.put_endpoint(&second, HOST, "u2");
    site.node.wait_metrics(&second, &[NORMAL]);
    site.assert_untouched_since(mark);
    site.put_endpoint(&third, HOST, "u3");
    site.node.wait_metrics(&third, &[NORMAL]);
    site.node.agent.log().wait(wait::SOON, &["Datastore in sync", "complete=true"]);
    // Healed, and with one element that is no address: that one only is left out.
    let mut document = site.port.endpoint_on(HOST, "u1");
    let networks = document["spec"]["ipNetworks"].as_array_mut().expect("a list");
    networks.extend([json!("10.65.0.208/29/32"), json!("10.65.0.77/32")]);
    site.etcd.put(&endpoint_key(&site.port, HOST), &document.to_string());
    let added = "10.65.0.77/32".parse().expect("a prefix");
    wait::until(wait::SOON, "the added address", || site.node.watch.metrics_to(added) == [NORMAL]);
    site.node.agent.log().wait(wait::SOON, &["10.65.0.208/29/32", "left out"]);
    site.node.wait_metrics(&site.port, &[NORMAL]);
}

#[test]
fn configuration_is_followed() {
    let site = Site::running();
    let mark = site.node.watch.mark();
    site.put_configuration("default", &json!({"ipv4NormalRoutePriority": 2000}));
    let (four, six) = (site.port.ipv4(), site.port.ipv6());
    wait::until(wait::SOON, "the metric of all hosts", || site.node.watch.metrics_to(four) == [2000]);
    assert_eq!(site.node.watch.metrics_to(six), [NORMAL]);
    site.put_configuration(&format!("node.{HOST}"), &json!({"ipv4NormalRoutePriority": 3000}));
    wait::until(wait::SOON, "the metric of this host", || site.node.watch.metrics_to(four) == [3000]);
    site.node.watch.since(mark).assert_never_without(six);
    let shown = site.node.agent.run_ok(&["check-config"]);
    let line = shown.lines().find(|line| line.starts_with("IPv4NormalRoutePriority ")).unwrap_or_default();
    assert!(line.contains("3000") && line.ends_with(&format!("FelixConfiguration node.{HOST}")), "{shown}");
}

/// For the hosts of a selector, or a pair of values that cannot be: said once, and nothing happens.
#[test]
fn configuration_that_cannot_be_used_changes_nothing() {
    let site = Site::running();
    site.node.wait_settled(&site.port);
    let mark = site.node.watch.mark();
    let spec = json!({"nodeSelector": "rack == 'a'", "ipv4NormalRoutePriority": 4000});
    site.put_configuration("racks", &spec);
    site.node.agent.log().wait(wait::SOON, &["racks", "it is ignored"]);
    site.put_configuration("default", &json!({"ipv4ElevatedRoutePriority": 2000}));
    site.node.agent.log().wait(wait::SOON, &["stay in force", "IPv4ElevatedRoutePriority", "2000", "1024"]);
    // What comes after them has been acted on, so they have been, too.
    let (second, _tap) = site.plug(2);
    site.put_endpoint(&second, HOST, "u2");
    site.node.wait_metrics(&second, &[NORMAL]);
    site.assert_untouched_since(mark);
}

/// At start nothing is done, at run time nothing new; neither needs a restart.
#[test]
fn the_ready_flag_is_honoured() {
    let mut site = Site::new();
    site.set_ready(false);
    site.node.agent.start();
    site.node.agent.log().wait(wait::SOON, &["Datastore not ready"]);
    wait::throughout(QUIET, "not ready at start", || site.node.has_metrics(&site.port, &[]));
    site.set_ready(true);
    site.node.wait_settled(&site.port);

    let log = site.node.agent.log().mark();
    site.set_ready(false);
    site.node.agent.log().wait_after(log, wait::SOON, &["Datastore not ready"]);
    let mark = site.node.watch.mark();
    let (second, _tap) = site.plug(2);
    site.delete_endpoint(&site.port, HOST);
    site.put_endpoint(&second, HOST, "u2");
    site.put_configuration("default", &json!({"ipv4NormalRoutePriority": 2000}));
    wait::throughout(QUIET, "not ready any more", || site.node.has_metrics(&second, &[]));
    site.assert_untouched_since(mark);
    site.put_endpoint(&site.port, HOST, "u1");
    site.put_configuration("default", &json!({}));
    site.set_ready(true);
    site.node.wait_metrics(&second, &[NORMAL]);
    site.assert_untouched_since(mark);
}

/// The source's endpoint, which is another host's, tells how a migration ended (W34).
#[test]
fn the_sources_endpoint_is_evidence() {
    let site = Site::running();
    site.delete_endpoint(&site.port, HOST);
    site.node.wait_metrics(&site.port, &[]);
    site.put_endpoint(&site.port, "compute-2", "s1");
    site.put_migration("compute-2", HOST, "m1");
    site.put_endpoint(&site.port, HOST, "t1");
    site.wait_watched();
    // As a rollback begins. Until the source's endpoint is written again it looks like a success.
    site.delete_migration(HOST);
    site.delete_endpoint(&site.port, "compute-2");
    site.delete_endpoint(&site.port, HOST);
    site.put_endpoint(&site.port, "compute-2", "s2");
    site.node.agent.log().wait(wait::SOON, &["Live migration state transition", "from=Target", "to=Base"]);
    wait::throughout(QUIET, "the machine is elsewhere", || site.node.has_metrics(&site.port, &[]));
}

/// The order of the driver in the shortest time: never a route before the announcement.
#[test]
fn a_target_never_has_a_normal_route() {
    let mut site = Site::new();
    site.delete_endpoint(&site.port, HOST);
    site.node.agent.start_in_sync();
    site.put_endpoint(&site.port, "compute-2", "s1");
    for round in 0..10 {
        site.put_migration("compute-2", HOST, &format!("m{round}"));
        site.put_endpoint(&site.port, HOST, "t1");
        site.wait_watched();
        site.delete_endpoint(&site.port, HOST);
        site.delete_migration(HOST);
        site.put_endpoint(&site.port, "compute-2", "s1");
        wait::until(wait::SOON, "the endpoint is gone", || site.node.agent.status_of(&site.port).is_none());
    }
    for to in site.port.routed() {
        site.node.watch.history().assert_never_with(to);
    }
    site.put_migration("compute-2", HOST, "last");
    site.put_endpoint(&site.port, HOST, "t1");
    site.wait_watched();
    let mac = site.port.mac;
    site.node.open().send(&frames::rarp(mac));
    site.node.wait_metrics(&site.port, &[ELEVATED]);
}
