//! The heartbeat: keys, value, leases, cadence.

use super::cloud::{Cloud, Pair};
use cutover_tests::datastore;
use cutover_tests::scene::SOURCE;
use cutover_tests::wait;
use serde_json::{Value, json};
use std::time::{Duration, Instant};

const KEY: &str = "/calico/felix/v2/no-region/host/compute1/status";
const LAST: &str = "/calico/felix/v2/no-region/host/compute1/last_reported_status";

/// The first one comes after ten seconds.
const FIRST: Duration = Duration::from_secs(20);

fn beat(cloud: &Cloud) -> Option<(Pair, Value)> {
    let pair = cloud.pair(KEY)?;
    let value = cloud.etcd.value(KEY)?;
    Some((pair, serde_json::from_str(&value).expect("JSON")))
}

fn next(cloud: &Cloud, before: &Pair) -> (Pair, Value) {
    wait::for_some(wait::SOON, "another heartbeat", || {
        beat(cloud).filter(|(pair, _)| pair.modified > before.modified)
    })
}

#[test]
fn heartbeats_have_the_form_the_leases_and_the_cadence_that_the_driver_expects() {
    let mut cloud = Cloud::new();
    for (name, value) in [("ReportingIntervalSecs", 1), ("ReportingTTLSecs", 6)] {
        cloud.source.agent.set(name, value);
    }
    let started_at = Instant::now();
    cloud.source.agent.start_in_sync();
    cloud.wait_status(SOURCE, "up");
    assert_eq!(cloud.pair(KEY), None);

    let (first, value) = wait::for_some(FIRST, "the first heartbeat", || beat(&cloud));
    let after = started_at.elapsed();
    assert!((Duration::from_secs(10)..Duration::from_secs(13)).contains(&after), "{after:?}");
    assert_eq!(value["first_update"], true);
    assert!(value["uptime"].as_f64().is_some_and(|uptime| (10.0..13.0).contains(&uptime)), "{value}");
    let time = value["time"].as_str().expect("a time");
    assert!(time.len() == 20 && time.ends_with('Z') && time.as_bytes()[10] == b'T', "{time}");
    assert_eq!(value.as_object().expect("an object").len(), 3);
    assert_eq!(cloud.granted_s(first.lease), 6);

    let began_at = Instant::now();
    let mut leases = vec![first.lease];
    let mut before = first;
    for _ in 0..4 {
        let (pair, value) = next(&cloud, &before);
        assert_eq!(value["first_update"], false);
        assert!(!leases.contains(&pair.lease), "a lease of its own for each");
        leases.push(pair.lease);
        before = pair;
    }
    let per_beat = began_at.elapsed() / 4;
    assert!((Duration::from_millis(700)..Duration::from_millis(1_500)).contains(&per_beat), "{per_beat:?}");
    assert_eq!(cloud.pair(LAST).map(|pair| pair.lease), Some(0));

    // A host whose agent is gone is known to be by the end of the lease.
    cloud.source.agent.kill();
    wait::until(wait::SOON, "the heartbeat expires", || cloud.pair(KEY).is_none());
    assert!(cloud.pair(LAST).is_some(), "for people");
    assert!(cloud.status(SOURCE).is_some(), "ports are not affected");
}

#[test]
fn interval_zero_turns_heartbeats_off_and_takes_effect_at_once() {
    let spec = |interval: &str| json!({"endpointReportingEnabled": true, "interfacePrefix": "tap", "reportingInterval": interval, "reportingTTL": "5s"});
    let mut cloud = Cloud::new();
    cloud.configure(&spec("1s"));
    cloud.source.agent.start_in_sync();
    wait::for_some(FIRST, "the first heartbeat", || beat(&cloud));
    cloud.configure(&spec("0s"));
    wait::until(wait::SOON, "the heartbeat expires", || cloud.pair(KEY).is_none());
    cloud.configure(&spec("1s"));
    let (_, value) = wait::for_some(wait::SOON, "a heartbeat", || beat(&cloud));
    assert_eq!(value["first_update"], false);
}

#[test]
fn host_says_nothing_while_the_datastore_is_not_ready() {
    let mut cloud = Cloud::new();
    datastore::set_ready(&cloud.etcd, false);
    cloud.source.agent.set("ReportingIntervalSecs", 1);
    cloud.source.agent.start();
    assert!(!wait::holds_within(Duration::from_secs(13), || {
        !cloud.etcd.all("/calico/felix/").is_empty()
    }));
}

#[test]
fn host_falls_silent_when_the_datastore_is_not_ready_any_more() {
    let mut cloud = Cloud::new();
    cloud.source.agent.set("ReportingIntervalSecs", 1);
    cloud.source.agent.set("ReportingTTLSecs", 3);
    cloud.source.agent.start_in_sync();
    cloud.wait_status(SOURCE, "up");
    wait::for_some(FIRST, "the first heartbeat", || beat(&cloud));
    datastore::set_ready(&cloud.etcd, false);
    wait::until(wait::SOON, "the heartbeat expires", || cloud.pair(KEY).is_none());
    let before = cloud.status_pair(SOURCE);
    cloud.source.qemu = None;
    wait::throughout(Duration::from_secs(3), "silence", || {
        cloud.pair(KEY).is_none() && cloud.status_pair(SOURCE) == before
    });
    datastore::set_ready(&cloud.etcd, true);
    cloud.wait_status(SOURCE, "down");
    wait::for_some(wait::SOON, "a heartbeat", || beat(&cloud));
}
