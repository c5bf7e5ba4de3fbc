//! `cutover migrate` against etcd: the driver's keys in the driver's order, with real agents on both sides.

use super::cloud::{Cloud, TIDIED};
use cutover_tests::scene::{ELEVATED, NORMAL, SOURCE, TARGET};
use cutover_tests::{frames, wait};
use serde_json::Value;
use std::process::Output;

fn migrate(cloud: &Cloud, arguments: &[&str]) -> Output {
    cloud.source.agent.run(&[&["migrate"], arguments, &["--port", &cloud.port.endpoint]].concat())
}

/// The message of the only line of the log.
#[track_caller]
fn said(output: &Output) -> String {
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{text}");
    let (_, message) = text.trim_end().split_once(" INFO ").expect("an INFO line");
    message.trim_start().to_owned()
}

#[track_caller]
fn refused(output: &Output, code: i32, part: &str) {
    let text = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{text}");
    assert!(text.contains(part), "{text}");
}

fn endpoint_key(cloud: &Cloud, host: &str) -> String {
    cloud.keys.endpoint(&cloud.endpoint(host))
}

fn document(cloud: &Cloud, key: &str) -> Value {
    serde_json::from_str(&cloud.etcd.value(key).expect(key)).expect("JSON")
}

#[test]
fn a_migration_there_and_back() {
    let mut cloud = Cloud::running();
    let port = cloud.port.endpoint.clone();
    let before = document(&cloud, &endpoint_key(&cloud, SOURCE));
    refused(&migrate(&cloud, &["complete"]), 1, "is not being migrated");

    let began = said(&migrate(&cloud, &["begin", "--to", TARGET]));
    let migration = document(&cloud, &cloud.migration_key(TARGET));
    let uid = migration["metadata"]["uid"].as_str().expect("a uid").to_owned();
    assert_eq!(began, format!("Live migration {uid}: pre-migrate port {port} from {SOURCE} to {TARGET}"));
    assert_eq!(migration["metadata"]["namespace"], "openstack");
    assert_eq!(migration["spec"]["source"], cloud.port.reference_on(SOURCE));
    assert_eq!(migration["spec"]["target"], cloud.port.reference_on(TARGET));

    // +LM =WEP(source) +WEP(target), and the round again.
    let [lm, source, target] =
        [cloud.migration_key(TARGET), endpoint_key(&cloud, SOURCE), endpoint_key(&cloud, TARGET)]
            .map(|key| cloud.pair(&key).expect("a key"));
    assert_eq!((lm.writes, source.writes, target.writes), (2, 3, 2));
    assert!(lm.created < target.created && target.created < lm.modified, "{lm:?} {target:?}");
    assert!(
        lm.modified < source.modified && source.modified < target.modified,
        "{lm:?} {source:?} {target:?}"
    );
    assert_eq!(document(&cloud, &endpoint_key(&cloud, SOURCE)), before);

    // The target's endpoint is the source's but for the host and what is new with every resource.
    let mut copy = document(&cloud, &endpoint_key(&cloud, TARGET));
    assert_ne!(copy["metadata"]["uid"], before["metadata"]["uid"]);
    for (part, member) in
        [("metadata", "uid"), ("metadata", "creationTimestamp"), ("metadata", "name"), ("spec", "node")]
    {
        copy[part][member] = before[part][member].clone();
    }
    assert_eq!(copy, before);

    refused(&migrate(&cloud, &["begin", "--to", TARGET]), 1, &uid);
    let ready = said(&migrate(&cloud, &["wait-ready", "--timeout", "20"]));
    assert_eq!(
        ready,
        format!("Live migration {uid}: destination port {port} active on {TARGET}, notifying Nova")
    );
    let mac = cloud.port.mac;
    cloud.target.open().send(&frames::rarp(mac));
    cloud.target.wait_metrics(&cloud.port, &[ELEVATED]);

    let target = cloud.pair(&endpoint_key(&cloud, TARGET)).expect("a key");
    let done = said(&migrate(&cloud, &["complete"]));
    assert_eq!(
        done,
        format!("Live migration {uid}: succeeded, port {port} migrated from {SOURCE} to {TARGET}")
    );
    assert_eq!(cloud.etcd.value(&cloud.migration_key(TARGET)), None);
    assert_eq!(cloud.etcd.value(&endpoint_key(&cloud, SOURCE)), None);
    let rewritten = cloud.pair(&endpoint_key(&cloud, TARGET)).expect("a key");
    assert_eq!((rewritten.created, rewritten.writes), (target.created, target.writes + 1), "no gap");
    // -LM, then -WEP(source), then =WEP(target).
    let keys = [cloud.migration_key(TARGET), endpoint_key(&cloud, SOURCE)];
    let mut there: Vec<[bool; 2]> = (target.modified..=rewritten.modified)
        .map(|revision| keys.each_ref().map(|key| cloud.existed(key, revision)))
        .collect();
    there.dedup();
    assert_eq!(there, [[true, true], [false, true], [false, false]]);
    cloud.target.wait_metrics(&cloud.port, &[NORMAL]);
    cloud.source.wait_metrics(&cloud.port, &[]);
    wait::until(TIDIED, "the source's status goes", || cloud.status(SOURCE).is_none());

    // And back, with the gap of the legacy way.
    let _began = said(&migrate(&cloud, &["begin", "--to", SOURCE]));
    let _ready = said(&migrate(&cloud, &["wait-ready", "--timeout", "20"]));
    cloud.source.qemu.as_ref().expect("the tap is open").send(&frames::rarp(mac));
    cloud.source.wait_metrics(&cloud.port, &[ELEVATED]);
    let uid = document(&cloud, &endpoint_key(&cloud, SOURCE))["metadata"]["uid"].clone();
    let _done = said(&migrate(&cloud, &["complete", "--with-gap"]));
    let renewed = document(&cloud, &endpoint_key(&cloud, SOURCE));
    assert_ne!(renewed["metadata"]["uid"], uid, "created anew");
    cloud.source.wait_metrics(&cloud.port, &[NORMAL]);
    assert_eq!(cloud.etcd.value(&endpoint_key(&cloud, TARGET)), None);
}

#[test]
fn only_a_write_since_the_migration_began_is_ready() {
    let cloud = Cloud::running();
    // Nobody answers on that host, and an earlier stay left its `up`.
    let other = "compute3";
    cloud.etcd.put(&cloud.status_key(other), "{\"status\":\"up\"}");
    let _began = said(&migrate(&cloud, &["begin", "--to", other]));
    let waited = migrate(&cloud, &["wait-ready", "--timeout", "0.2"]);
    refused(&waited, 69, "nothing is reported since the migration began (before, it was up)");
    cloud.etcd.put(&cloud.status_key(other), "{\"status\":\"down\"}");
    refused(&migrate(&cloud, &["wait-ready", "--timeout", "0.2"]), 69, "it is down");
    cloud.etcd.put(&cloud.status_key(other), "{\"status\":\"up\"}");
    let _ready = said(&migrate(&cloud, &["wait-ready", "--timeout", "5"]));
}

#[test]
fn a_rollback_with_and_without_the_gap_touches_no_route() {
    let cloud = Cloud::running();
    cloud.source.wait_settled(&cloud.port);
    for arguments in [&["abort"][..], &["abort", "--with-gap"]] {
        let before = document(&cloud, &endpoint_key(&cloud, SOURCE));
        let _began = said(&migrate(&cloud, &["begin", "--to", TARGET]));
        let _ready = said(&migrate(&cloud, &["wait-ready", "--timeout", "20"]));
        let done = said(&migrate(&cloud, arguments));
        assert!(done.contains("rolled back"), "{done}");
        let after = document(&cloud, &endpoint_key(&cloud, SOURCE));
        assert_eq!(after["spec"], before["spec"]);
        assert_eq!(after == before, arguments.len() == 1, "the uid is new with the gap");
        assert_eq!(cloud.etcd.value(&endpoint_key(&cloud, TARGET)), None);
        assert_eq!(cloud.etcd.value(&cloud.migration_key(TARGET)), None);
        wait::until(TIDIED, "the target's status goes", || cloud.status(TARGET).is_none());
        cloud.wait_status(SOURCE, "up");
    }
    for to in cloud.port.routed() {
        cloud.target.watch.history().assert_never_with(to);
    }
    cloud.source.wait_metrics(&cloud.port, &[NORMAL]);
}
