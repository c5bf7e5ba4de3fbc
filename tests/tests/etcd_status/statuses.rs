//! Endpoint status: the rules of the driver and of Nova (W5, W14, W15, W35).

use super::cloud::{Cloud, TIDIED};
use cutover_tests::scene::{ELEVATED, NORMAL, SOURCE, TARGET};
use cutover_tests::{frames, wait};
use serde_json::json;
use std::time::Duration;

/// A member is given up after two seconds; if it was the leader, the others elect another one first.
const MEMBER_LOST: Duration = Duration::from_secs(20);

/// Once a second at most, and then what a write takes on a loaded machine.
const PUT_RIGHT: Duration = Duration::from_secs(5);

#[test]
fn status_is_where_the_driver_looks_for_it_and_w14_a_restart_writes_nothing() {
    let mut cloud = Cloud::new();
    cloud.source.agent.start_in_sync();
    cloud.wait_status(SOURCE, "up");
    let key = "/calico/felix/v2/no-region/host/compute1/workload/openstack/openstack%2fvm1/endpoint/port1";
    let first = cloud.pair(key).expect("the key as the driver spells it");
    assert_eq!((first.writes, first.lease), (1, 0), "{first:?}");

    cloud.source.agent.terminate();
    assert_eq!(cloud.status_pair(SOURCE), first, "what was reported stays");
    cloud.source.agent.start_in_sync();
    cloud.source.wait_settled(&cloud.port);
    // Something that has to be written: everything before it would be counted, too.
    cloud.source.qemu = None;
    cloud.wait_status(SOURCE, "down");
    assert_eq!(cloud.status_pair(SOURCE).writes, 2);
    cloud.source.open();
    cloud.wait_status(SOURCE, "up");
    assert_eq!(cloud.status_pair(SOURCE).writes, 3);
}

#[test]
fn w14_what_went_wrong_while_the_agent_was_away_is_put_right() {
    let mut cloud = Cloud::new();
    cloud.source.agent.start_in_sync();
    cloud.wait_status(SOURCE, "up");
    let left = cloud
        .keys
        .status(&cutover_engine::EndpointKey { endpoint: "detached".into(), ..cloud.endpoint(SOURCE) });
    let foreign = cloud.status_key(TARGET);
    for damage in [None, Some("{\"status\":\"error\"}"), Some("rubbish")] {
        cloud.source.agent.terminate();
        match damage {
            None => cloud.etcd.delete(&cloud.status_key(SOURCE)),
            Some(value) => cloud.etcd.put(&cloud.status_key(SOURCE), value),
        }
        cloud.etcd.put(&left, "{\"status\":\"up\"}");
        cloud.etcd.put(&foreign, "{\"status\":\"up\"}");
        cloud.source.agent.start_in_sync();
        cloud.wait_status(SOURCE, "up");
        wait::until(TIDIED, "the key of no endpoint goes", || cloud.etcd.value(&left).is_none());
        assert!(cloud.etcd.value(&foreign).is_some(), "another host's key was removed");
    }
}

/// Only as soon as etcd tells: the net under it is a minute wide.
#[test]
fn what_somebody_else_does_to_a_status_is_put_right_at_once() {
    let mut cloud = Cloud::new();
    cloud.source.agent.start_in_sync();
    cloud.wait_status(SOURCE, "up");
    for damage in [None, Some("{\"status\":\"down\"}"), Some("rubbish"), None] {
        let key = cloud.status_key(SOURCE);
        match damage {
            None => cloud.etcd.delete(&key),
            Some(value) => cloud.etcd.put(&key, value),
        }
        let is_right = || cloud.status(SOURCE).as_deref() == Some("{\"status\":\"up\"}");
        wait::until(PUT_RIGHT, format_args!("the end of {damage:?}"), is_right);
    }
    assert_eq!(cloud.status_pair(SOURCE).writes, 1, "the last damage was a removal");
}

#[test]
fn reporting_follows_its_setting_without_a_restart() {
    let mut cloud = Cloud::new();
    cloud.configure(&json!({"interfacePrefix": "tap"}));
    cloud.source.agent.start_in_sync();
    cloud.source.wait_settled(&cloud.port);
    assert_eq!(cloud.status(SOURCE), None, "not reported by default");
    cloud.configure(&json!({"endpointReportingEnabled": true, "interfacePrefix": "tap"}));
    cloud.wait_status(SOURCE, "up");
    cloud.source.wait_metrics(&cloud.port, &[NORMAL]);
}

#[test]
fn each_region_has_its_own_keys() {
    let mut cloud = Cloud::in_region("east");
    cloud.source.agent.start_in_sync();
    cloud.wait_status(SOURCE, "up");
    let key = "/calico/felix/v2/region-east/host/compute1/workload/openstack/openstack-region-east%2fvm1/endpoint/port1";
    assert!(cloud.pair(key).is_some());
    assert_eq!(cloud.etcd.all("/calico/felix/v2/no-region/"), []);
}

/// The whole way: each side writes what the other needs, and nothing that ends Nova's wait or takes a live port down.
#[test]
fn a_migration_is_reported_as_neutron_and_nova_need_it() {
    let mut cloud = Cloud::running();
    // Left by an earlier stay. Nova waits for a write, not for a value.
    cloud.etcd.put(&cloud.status_key(TARGET), "{\"status\":\"up\"}");
    let stale = cloud.status_pair(TARGET);
    let at_source = cloud.status_pair(SOURCE);
    cloud.start_migration();
    let ready = cloud.wait_written_after(TARGET, stale.modified);
    let migration = cloud.pair(&cloud.migration_key(TARGET)).expect("it is under way");
    let document = cloud.etcd.value(&cloud.migration_key(TARGET)).expect("it is under way");
    let document: serde_json::Value = serde_json::from_str(&document).expect("JSON");
    let uid = document["metadata"]["uid"].as_str().expect("a uid").to_owned();
    assert!(ready.modified > migration.created);
    assert_eq!(cloud.status(TARGET).as_deref(), Some("{\"status\":\"up\"}"));
    let armed = cloud.target.agent.status_of(&cloud.port).expect("an endpoint");
    assert!(armed["watch"].is_u64() && armed["running"] == false, "no carrier was needed: {armed}");

    // Identical rewrites are nothing to report.
    cloud.announce_again(TARGET);
    cloud.bind(SOURCE);
    cloud.bind(TARGET);

    let mac = cloud.port.mac;
    cloud.target.open().send(&frames::rarp(mac));
    cloud.target.wait_metrics(&cloud.port, &[ELEVATED]);
    assert_eq!(cloud.status_pair(SOURCE), at_source, "the source has rewritten an unchanged status");
    assert_eq!(cloud.status_pair(TARGET), ready, "reported once");

    // W15: the driver has taken the port down when it moved the binding.
    cloud.withdraw(TARGET);
    cloud.unbind(SOURCE);
    let over = cloud.wait_written_after(TARGET, ready.modified);
    assert!(cloud.status(SOURCE).is_some(), "held: nobody knows yet");
    assert_eq!(over.writes, ready.writes + 1);

    // W35: the source's key goes when the port has long been reported here, and that takes the port out of service.
    wait::until(TIDIED, "the source's key goes", || cloud.status(SOURCE).is_none());
    let healed = cloud.wait_written_after(TARGET, over.modified);
    assert_eq!(healed.writes, over.writes + 1);
    assert_eq!(cloud.status(TARGET).as_deref(), Some("{\"status\":\"up\"}"));
    cloud.target.wait_metrics(&cloud.port, &[NORMAL]);

    // A driver commits the removal late, and an `up` that it has read before that changes nothing.
    let repeated = cloud.wait_written_after(TARGET, healed.modified);
    assert_eq!(cloud.wait_written_after(TARGET, repeated.modified).writes, healed.writes + 2);
    let said = ["Endpoint status reported", "status=up", &format!("uid={uid}")];
    wait::until(wait::SOON, "each is logged with what and for which migration", || {
        cloud.target.agent.log().matching(&said).len() >= 5
    });
}

#[test]
fn a_rolled_back_source_puts_its_port_back_into_service() {
    let cloud = Cloud::running();
    let at_source = cloud.status_pair(SOURCE);
    cloud.start_migration();
    cloud.wait_status(TARGET, "up");
    cloud.withdraw(TARGET);
    cloud.unbind(SOURCE);
    cloud.unbind(TARGET);
    cloud.source.agent.log().wait(wait::SOON, &["holding its state"]);
    assert_eq!(cloud.status_pair(SOURCE), at_source);
    cloud.bind(SOURCE);
    cloud.wait_written_after(SOURCE, at_source.modified);
    // The target removes its key now that it knows; that takes the port out of service again (W35).
    wait::until(TIDIED, "the target's key goes", || cloud.status(TARGET).is_none());
    wait::until(wait::SOON, "the source reports after that", || {
        !cloud.existed(&cloud.status_key(TARGET), cloud.status_pair(SOURCE).modified)
    });
    assert_eq!(cloud.status(SOURCE).as_deref(), Some("{\"status\":\"up\"}"));
}

/// The agent dies between arming and reporting, or after it: what was not told is told, what was told is not repeated.
#[test]
fn a_restart_in_mid_migration_reports_the_target_once() {
    let mut cloud = Cloud::running();
    cloud.start_migration();
    cloud.wait_status(TARGET, "up");
    let reported = cloud.status_pair(TARGET);
    wait::until(wait::SOON, "the agent knows", || {
        cloud.target.agent.status_of(&cloud.port).is_some_and(|endpoint| endpoint["status_due"] == false)
    });
    cloud.target.agent.kill();
    cloud.target.agent.start_in_sync();
    let mac = cloud.port.mac;
    cloud.target.open().send(&frames::rarp(mac));
    cloud.target.wait_metrics(&cloud.port, &[ELEVATED]);
    assert_eq!(cloud.status_pair(TARGET), reported);

    cloud.withdraw(TARGET);
    cloud.unbind(SOURCE);
    cloud.wait_written_after(TARGET, reported.modified);
}

/// The agent was away when the source removed its status, long after the migration, when its own machine had nothing left to
/// remember.
#[test]
fn what_was_removed_while_the_agent_was_away_is_made_up_for() {
    let mut cloud = Cloud::running();
    cloud.start_migration();
    cloud.wait_status(TARGET, "up");
    let mac = cloud.port.mac;
    cloud.target.open().send(&frames::rarp(mac));
    cloud.target.wait_metrics(&cloud.port, &[ELEVATED]);
    let ready = cloud.status_pair(TARGET);
    cloud.withdraw(TARGET);
    cloud.unbind(SOURCE);
    let over = cloud.wait_written_after(TARGET, ready.modified);
    cloud.target.wait_metrics(&cloud.port, &[NORMAL]);
    cloud.target.agent.terminate();
    // The source's agent is restarted as well, and does what it would have done.
    cloud.source.agent.kill();
    cloud.source.agent.start_in_sync();
    wait::throughout(Duration::from_secs(5), "it stays", || cloud.status(SOURCE).is_some());
    wait::until(TIDIED, "the source's key goes", || cloud.status(SOURCE).is_none());
    assert_eq!(cloud.status_pair(TARGET), over);
    cloud.target.agent.start_in_sync();
    // Once at once, although two things ask for it, and again after 3 s and 6 s; the next time is after 20 s.
    let written = || cloud.status_pair(TARGET).writes - over.writes;
    wait::until(wait::SOON, "it is made up for", || written() > 0);
    wait::until(Duration::from_secs(30), "it is repeated", || written() >= 3);
    wait::throughout(Duration::from_secs(5), "nothing is written twice", || written() == 3);
}

/// Writes have a connection of their own: it is given up, too, when its member does not answer.
#[test]
fn a_frozen_member_holds_up_no_status() {
    let mut cloud = Cloud::with("", 3);
    cloud.source.agent.start_in_sync();
    cloud.wait_status(SOURCE, "up");
    for (frozen, (has_carrier, status)) in
        [(false, "down"), (true, "up"), (false, "down")].into_iter().enumerate()
    {
        cloud.etcd.freeze(frozen);
        if has_carrier {
            cloud.source.open();
        } else {
            cloud.source.qemu = None;
        }
        let value = format!("{{\"status\":\"{status}\"}}");
        wait::until(MEMBER_LOST, status, || cloud.status(SOURCE).as_ref() == Some(&value));
        cloud.etcd.thaw(frozen);
        cloud.etcd.wait_answering();
    }
}
