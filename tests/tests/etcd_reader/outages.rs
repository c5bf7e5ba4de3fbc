//! Members that die, freeze, are cut off, forget their history or come back with another one: every route stays, and in the
//! end what is in etcd counts.

use crate::site::{HOST, RECOVERY, Site};
use cutover_tests::datastore::RESOURCES;
use cutover_tests::scene::{ELEVATED, NORMAL};
use cutover_tests::{frames, wait};
use nix::sys::signal::Signal;
use std::time::Duration;

/// Longer than an agent takes to notice a silent member.
const NOTICED: Duration = Duration::from_secs(7);

#[test]
fn one_member_is_restarted() {
    let site = Site::running();
    site.node.wait_settled(&site.port);
    let mark = site.node.watch.mark();
    site.etcd.kill(0);
    site.node.agent.log().wait(RECOVERY, &["Datastore lost"]);
    let status = site.node.agent.status();
    assert_eq!(status["in_sync"], false);
    let reason = status["datastore_trouble"]["reason"].as_str().unwrap();
    assert!(reason.starts_with("lost: "), "{reason}");
    assert!(site.node.agent.run_ok(&["status"]).contains("datastore lost: "));
    site.etcd.restart(0);
    site.etcd.wait_answering();
    wait::until(RECOVERY, "in sync", || site.node.agent.status()["in_sync"] == true);
    assert!(site.node.agent.status()["datastore_trouble"].is_null());
    let (second, _tap) = site.plug(2);
    site.put_endpoint(&second, HOST, "u2");
    site.wait_after_outage(&second, &[NORMAL]);
    site.assert_untouched_since(mark);
}

#[test]
fn an_agent_that_starts_without_a_cluster_waits_for_it() {
    let mut site = Site::running();
    site.node.wait_settled(&site.port);
    let mark = site.node.watch.mark();
    site.node.agent.kill();
    site.etcd.kill(0);
    site.node.agent.start();
    wait::throughout(Duration::from_secs(4), "routed", || site.node.has_metrics(&site.port, &[NORMAL]));
    assert_eq!(site.node.agent.status()["in_sync"], false);
    site.etcd.restart(0);
    wait::until(RECOVERY, "in sync", || site.node.agent.status()["in_sync"] == true);
    site.assert_untouched_since(mark);
}

/// Whichever member an agent follows may die, freeze, or lose sight of the others.
#[test]
fn a_member_of_three_fails() {
    let site = Site::running_with(3);
    site.node.wait_settled(&site.port);
    let mark = site.node.watch.mark();
    let mut taps = Vec::new();
    for (number, failure) in [(2, "killed"), (3, "frozen"), (4, "cut off")] {
        let member = wait::for_some(RECOVERY, "a connection", || site.etcd.member_of(&site.node.host));
        match failure {
            "killed" => site.etcd.kill(member),
            "frozen" => site.etcd.freeze(member),
            _ => site.etcd.cut_off(member),
        }
        let (port, tap) = site.plug(number);
        site.put_endpoint(&port, HOST, failure);
        site.wait_after_outage(&port, &[NORMAL]);
        taps.push(tap);
        match failure {
            "killed" => site.etcd.restart(member),
            "frozen" => site.etcd.thaw(member),
            _ => site.etcd.rejoin(member),
        }
        site.etcd.wait_answering();
    }
    site.assert_untouched_since(mark);
}

/// The agent is frozen for as long as it takes to forget what it has missed.
#[test]
fn history_is_compacted_under_a_watch() {
    let site = Site::running();
    site.node.wait_settled(&site.port);
    let mark = site.node.watch.mark();
    site.etcd.compact();
    let (second, _tap) = site.plug(2);
    site.put_endpoint(&second, HOST, "u2");
    site.node.wait_metrics(&second, &[NORMAL]);
    site.node.agent.signal(Signal::SIGSTOP);
    flood(&site);
    site.delete_endpoint(&second, HOST);
    site.etcd.delete_all(&format!("{RESOURCES}/livemigrations/"));
    site.etcd.compact();
    site.node.agent.signal(Signal::SIGCONT);
    site.wait_after_outage(&second, &[]);
    site.assert_untouched_since(mark);
}

/// More than fits into the buffers between etcd and an agent that does not read, so that its watches fall behind.
fn flood(site: &Site) {
    let filler = "x".repeat(1000);
    for round in 0..40 {
        let migrations = (0..100).map(|number| {
            let key = format!("{RESOURCES}/livemigrations/openstack/h-openstack-v-{number}");
            (key, format!("{{\"round\": {round}, \"{filler}\": 1}}"))
        });
        site.etcd.put_many(migrations.collect());
    }
}

/// Watches that have to catch up do so one after the other: the endpoint of a target may come before its migration (W13).
#[test]
fn a_target_that_comes_while_the_agent_is_behind_has_no_normal_route() {
    let mut site = Site::new();
    site.delete_endpoint(&site.port, HOST);
    site.put_endpoint(&site.port, "compute-2", "s1");
    site.node.agent.start_in_sync();
    site.node.agent.signal(Signal::SIGSTOP);
    flood(&site);
    site.put_migration("compute-2", HOST, "m1");
    site.put_endpoint(&site.port, "compute-2", "s1");
    site.put_endpoint(&site.port, HOST, "t1");
    site.node.agent.signal(Signal::SIGCONT);
    site.wait_watched();
    for to in site.port.routed() {
        site.node.watch.history().assert_never_with(to);
    }
}

/// While nobody can be asked, an announcement counts all the same; afterwards everything that was missed is caught up with.
#[test]
fn hours_without_a_cluster() {
    let site = Site::running();
    let (second, _second_tap) = site.plug(2);
    let (third, _third_tap) = site.plug(3);
    site.put_endpoint(&second, HOST, "u2");
    site.node.wait_metrics(&second, &[NORMAL]);
    site.delete_endpoint(&site.port, HOST);
    site.node.wait_metrics(&site.port, &[]);
    site.put_endpoint(&site.port, "compute-2", "s1");
    site.put_migration("compute-2", HOST, "m1");
    site.put_endpoint(&site.port, HOST, "t1");
    site.wait_watched();

    site.node.host.namespace().ip("link set eth0 down");
    wait::throughout(NOTICED, "routed", || site.node.has_metrics(&second, &[NORMAL]));
    site.node.agent.log().wait(RECOVERY, &["Datastore lost"]);
    let mac = site.port.mac;
    site.node.qemu.as_ref().expect("the tap is open").send(&frames::rarp(mac));
    site.node.wait_metrics(&site.port, &[ELEVATED]);
    let mark = site.node.watch.mark();
    // The migration ends, another machine comes, one goes, and one is rewritten.
    site.delete_migration(HOST);
    site.delete_endpoint(&site.port, "compute-2");
    site.delete_endpoint(&site.port, HOST);
    site.put_endpoint(&site.port, HOST, "t2");
    site.put_endpoint(&third, HOST, "u3");
    site.delete_endpoint(&second, HOST);
    site.etcd.compact();
    site.node.host.namespace().ip("link set eth0 up");
    site.wait_after_outage(&third, &[NORMAL]);
    site.wait_after_outage(&second, &[]);
    site.node.agent.log().wait(RECOVERY, &["from=Live", "to=TimeWait"]);
    site.wait_after_outage(&site.port, &[NORMAL]);
    for to in site.port.routed() {
        site.node.watch.since(mark).assert_never_without(to);
    }
}

/// An older state of everything, at lower revisions, on a new data folder.
#[test]
fn a_backup_is_restored() {
    let site = Site::running();
    let (second, _second_tap) = site.plug(2);
    let (third, _third_tap) = site.plug(3);
    site.put_endpoint(&third, HOST, "u3");
    site.node.wait_metrics(&third, &[NORMAL]);
    site.etcd.save("backup");
    site.delete_endpoint(&third, HOST);
    site.node.wait_metrics(&third, &[]);
    for _ in 0..20 {
        site.put_endpoint(&second, HOST, "u2");
    }
    site.node.wait_metrics(&second, &[NORMAL]);
    site.node.wait_settled(&site.port);
    let mark = site.node.watch.mark();
    site.etcd.restore("backup");
    site.wait_after_outage(&third, &[NORMAL]);
    site.wait_after_outage(&second, &[]);
    site.assert_untouched_since(mark);
    // It is followed from there on.
    site.put_endpoint(&second, HOST, "u4");
    site.node.wait_metrics(&second, &[NORMAL]);
}

/// A driver deletes the endpoint of a running machine and creates it again; the connection breaks in between, and for
/// longer than the grace time nobody notices.
#[test]
fn a_machine_whose_endpoint_is_created_again_behind_an_outage_keeps_its_routes() {
    let site = Site::running();
    site.node.wait_settled(&site.port);
    let mark = site.node.watch.mark();
    vanish_into_an_outage(&site);
    site.put_endpoint(&site.port, HOST, "u2");
    wait::throughout(NOTICED + NOTICED, "routed", || site.node.has_metrics(&site.port, &[NORMAL]));
    site.node.host.namespace().ip("link set eth0 up");
    site.node.agent.log().wait(RECOVERY, &["Held endpoint is back"]);
    wait::throughout(NOTICED, "routed", || site.node.has_metrics(&site.port, &[NORMAL]));
    site.assert_untouched_since(mark);
}

/// The same, but nobody creates it again.
#[test]
fn an_endpoint_that_is_still_gone_after_an_outage_goes() {
    let site = Site::running();
    site.node.wait_settled(&site.port);
    vanish_into_an_outage(&site);
    wait::throughout(NOTICED + NOTICED, "routed", || site.node.has_metrics(&site.port, &[NORMAL]));
    site.node.host.namespace().ip("link set eth0 up");
    site.wait_after_outage(&site.port, &[]);
}

fn vanish_into_an_outage(site: &Site) {
    let mark = site.node.agent.log().mark();
    site.delete_endpoint(&site.port, HOST);
    site.node.agent.log().wait_after(mark, wait::SOON, &["Endpoint vanished while its tap exists"]);
    site.node.host.namespace().ip("link set eth0 down");
}

/// The member that is followed freezes in the gap: its connections stay open, and it says nothing.
#[test]
fn a_frozen_member_does_not_cost_a_route_either() {
    let site = Site::running_with(3);
    site.node.wait_settled(&site.port);
    let mark = site.node.watch.mark();
    let member = wait::for_some(RECOVERY, "a connection", || site.etcd.member_of(&site.node.host));
    let log = site.node.agent.log().mark();
    site.delete_endpoint(&site.port, HOST);
    site.node.agent.log().wait_after(log, wait::SOON, &["Endpoint vanished while its tap exists"]);
    site.etcd.freeze(member);
    site.put_endpoint(&site.port, HOST, "u2");
    site.node.agent.log().wait_after(log, RECOVERY, &["Held endpoint is back"]);
    wait::throughout(NOTICED, "routed", || site.node.has_metrics(&site.port, &[NORMAL]));
    site.etcd.thaw(member);
    site.assert_untouched_since(mark);
}

/// What goes while the datastore is not ready is not given up either, and an announcement counts all the same.
#[test]
fn nothing_is_given_up_while_the_datastore_is_not_ready() {
    let site = Site::running();
    site.node.wait_settled(&site.port);
    let log = site.node.agent.log().mark();
    site.delete_endpoint(&site.port, HOST);
    site.node.agent.log().wait_after(log, wait::SOON, &["Endpoint vanished while its tap exists"]);
    site.set_ready(false);
    wait::throughout(NOTICED, "routed", || site.node.has_metrics(&site.port, &[NORMAL]));
    site.set_ready(true);
    site.node.wait_metrics(&site.port, &[]);

    site.put_endpoint(&site.port, "compute-2", "s1");
    site.put_migration("compute-2", HOST, "m1");
    site.put_endpoint(&site.port, HOST, "t1");
    site.wait_watched();
    site.set_ready(false);
    let mac = site.port.mac;
    site.node.agent.log().wait(wait::SOON, &["Datastore not ready"]);
    site.node.qemu.as_ref().expect("the tap is open").send(&frames::rarp(mac));
    site.node.wait_metrics(&site.port, &[ELEVATED]);
}
