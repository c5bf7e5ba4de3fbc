//! For how long nobody saw the virtual machine: both hosts are on one machine here, so the test knows on one clock when each frame was sent.

use crate::bed::*;
use cutover_daemon::clock;
use cutover_engine::BootTime;
use cutover_tests::frames::{self, Frame};
use cutover_tests::http::get_soon;
use cutover_tests::scene::{Node, SOURCE, Scene, TARGET};
use cutover_tests::wait;
use serde_json::Value;
use std::fs;
use std::net::SocketAddr;
use std::ops::RangeInclusive;

/// A frame of the guest that says nothing to anybody.
fn idle(bed: &Bed) -> Frame {
    frames::garp_request(bed.scene.port.mac, [10, 65, 99, 99].into())
}

/// The virtual machine stops on the source, and its last frames are sent. Returns between which moments the last one was.
fn last_frames(bed: &mut Bed) -> RangeInclusive<u64> {
    let tap = bed.scene.vm.pause().expect("it runs");
    let frame = idle(bed);
    tap.send(&frame);
    let before = clock::now().0;
    tap.send(&frame);
    before..=clock::now().0
}

/// It announces itself on the target. Returns between which moments.
fn first_frame(bed: &mut Bed) -> RangeInclusive<u64> {
    let tap = bed.scene.target.tap().open();
    let before = clock::now().0;
    tap.send(&frames::rarp(bed.scene.port.mac));
    let after = clock::now().0;
    bed.scene.vm.resume(tap);
    before..=after
}

/// The only migration, or departure, of a host as its timeline has it.
fn entry(node: &Node, list: &str, uid: &str) -> Option<Value> {
    let output = node.agent.run(&["timeline", "--json", "--last", "1", uid]);
    // Without any such migration there is nothing to be shown.
    let timeline: Value = serde_json::from_slice(&output.stdout).ok().filter(|_| output.status.success())?;
    timeline[list].as_array()?.first().cloned()
}

fn time_of(entry: &Value, phase: &str) -> Option<u64> {
    let phases = entry["phases"].as_array()?;
    let it = phases.iter().find(|it| it["phase"] == phase)?;
    it["boot_ns"].as_u64().or_else(|| it["unix_ns"].as_u64())
}

fn has_last_frame(node: &Node, list: &str, uid: &str) -> bool {
    entry(node, list, uid).is_some_and(|it| time_of(&it, "last_frame").is_some())
}

/// Until the applier on the source listens, which it does in no time when the migration is seen.
fn wait_listened(bed: &Bed) {
    let is_bound = || !bed.scene.source.tap().packet_sockets().is_empty();
    wait::until(wait::SOON, "a socket listens on the source's tap", is_bound);
}

#[test]
fn the_target_knows_it_within_the_bound_that_it_states() {
    let mut bed = Bed::with(|agent| agent.set("PrometheusMetricsEnabled", true));
    let uid = bed.start_migration();
    wait_listened(&bed);
    let last = last_frames(&mut bed);
    let first = first_frame(&mut bed);
    wait::until(wait::SOON, "the source tells of it", || {
        has_last_frame(&bed.scene.target, "migrations", &uid)
    });
    let running = entry(&bed.scene.target, "migrations", &uid).expect("it is under way");
    let error = running["last_frame_error_ns"].as_u64().expect("a bound");
    let at = time_of(&running, "last_frame").expect("it was told");
    assert!((last.start() - error..=last.end() + error).contains(&at), "{at} ± {error}, and it was {last:?}");
    let blackout = running["blackout_ns"].as_u64().expect("both ends of it are known");
    let (least, most) = (first.start() - last.end(), first.end() - last.start());
    assert!(blackout + error >= least && blackout <= most + error, "{blackout} ± {error}: {least} to {most}");
    // LIMIT: one machine, however busy it is.
    assert!(error < 100_000_000, "{error}");

    bed.succeed();
    bed.scene.source.unplug();
    let over = || entry(&bed.scene.target, "migrations", &uid).is_some_and(|it| it["result"] == "arrived");
    wait::until(wait::SOON, "it is over", over);
    let text = bed.scene.target.agent.run_ok(&["timeline", &uid]);
    assert!(text.contains("  blackout: ") && text.contains(" ± "), "{text}");
    let metrics = SocketAddr::from(([127, 0, 0, 1], 9091));
    let page = get_soon(bed.scene.target.host.namespace(), metrics, "/metrics").body;
    assert!(page.contains("cutover_migration_blackout_seconds_count 1"), "{page}");
    assert!(page.contains("cutover_migration_blackout_error_seconds_count 1"), "{page}");

    // The source has recorded what it told.
    wait::until(wait::SOON, "it is over there as well", || {
        has_last_frame(&bed.scene.source, "departures", &uid)
    });
}

#[test]
fn a_tap_whose_virtual_machine_stays_is_let_alone() {
    let bed = Bed::new();
    let tap = bed.scene.source.tap();
    assert!(tap.packet_sockets().is_empty(), "it does not migrate");
    let _uid = bed.start_migration();
    wait_listened(&bed);
    bed.scene.driver.roll_back(SOURCE, TARGET);
    wait::until(wait::SOON, "nobody listens any more", || tap.packet_sockets().is_empty());
}

/// Without a word between the agents each has its own side, and the report of both puts them together.
#[test]
fn two_records_tell_it_where_the_agents_do_not_talk() {
    let mut bed = Bed::of(Scene::new());
    let uid = bed.scene.start_migration();
    wait_listened(&bed);
    let last = last_frames(&mut bed);
    let first = first_frame(&mut bed);
    bed.scene.target.wait_arrived(&bed.scene.port);
    bed.scene.driver.succeed(SOURCE, TARGET);
    wait::until(wait::SOON, "the source has recorded it", || {
        has_last_frame(&bed.scene.source, "departures", &uid)
    });
    let departure = entry(&bed.scene.source, "departures", &uid).expect("it is recorded");
    let recorded = time_of(&departure, "last_frame").expect("it is");
    // Dates are made from the two clocks when the record is written.
    let [begin, end] = [last.start(), last.end()].map(|at| clock::wall_unix_ns(BootTime(*at)));
    let slack = 5_000_000;
    assert!((begin - slack..=end + slack).contains(&recorded), "{recorded} and not {begin} to {end}");

    let migration = entry(&bed.scene.target, "migrations", &uid).expect("it has arrived");
    assert_eq!(migration["blackout_ns"], Value::Null, "nobody has told the target");
    let folder = tempfile::tempdir().expect("a folder");
    let (document, report) = (folder.path().join("source.json"), folder.path().join("report.html"));
    fs::write(&document, bed.scene.source.agent.run_ok(&["timeline", "--json"])).expect("written");
    let [document, page] = [&document, &report].map(|path| path.to_str().expect("text"));
    bed.scene.target.agent.run_ok(&["timeline", &uid, "--html", page, "--with", document]);
    let page = fs::read_to_string(&report).expect("written");
    let said = page.split("announcement on the target's: <strong>").nth(1);
    let said = said.or_else(|| page.split("announcement on the target&#39;s: <strong>").nth(1));
    let said = said.expect("it is known").split("</strong>").next().expect("some").to_owned();
    let (value, unit) = said.split_once(' ').expect("a value and a unit");
    let unit = unit.split([' ', ',', '.']).next().expect("a unit");
    let unit_ns = match unit {
        "µs" => 1e3,
        "ms" => 1e6,
        "s" => 1e9,
        other => panic!("{other} in {said}"),
    };
    let blackout = value.parse::<f64>().expect("a number") * unit_ns;
    let least = (first.start() - last.end()) as f64 * 0.99 - slack as f64;
    let most = (first.end() - last.start()) as f64 * 1.01 + slack as f64;
    assert!(blackout >= least && blackout <= most, "{said}: {least} to {most}");
}

/// The agent that would know the last frame was killed, and the one that was started after it has not seen it.
#[test]
fn what_was_sent_while_no_agent_ran_is_not_known() {
    let mut bed = Bed::new();
    let uid = bed.start_migration();
    wait_listened(&bed);
    let _when = last_frames(&mut bed);
    bed.scene.source.agent.kill();
    bed.scene.source.agent.start_in_sync();
    bed.wait_ready();
    let _when = first_frame(&mut bed);
    wait_for(&bed.scene.source, "forwards", "is_active", true);
    wait_for(&bed.scene.target, "receivers", "is_source_forwarding", true);
    bed.succeed();
    bed.scene.source.unplug();
    let over = || entry(&bed.scene.target, "migrations", &uid).is_some_and(|it| it["result"] == "arrived");
    wait::until(wait::SOON, "it is over", over);
    assert!(!has_last_frame(&bed.scene.target, "migrations", &uid));
    let departed =
        || entry(&bed.scene.source, "departures", &uid).is_some_and(|it| time_of(&it, "ended").is_some());
    wait::until(wait::SOON, "it is over there as well", departed);
    assert!(!has_last_frame(&bed.scene.source, "departures", &uid));
}
