//! The write orders of a real Neutron driver, watched route by route on both hosts: a VM that runs is never
//! without a route, and a host that it does not run on never has a better one (W33, W34).

use cutover_tests::driver::Pace;
use cutover_tests::resources::new_uid;
use cutover_tests::scene::{ELEVATED, NORMAL, Node, SOURCE, Scene, TARGET};
use cutover_tests::{OpenTap, frames, wait};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime};

/// As QEMU: RARP at the resume, then the rounds.
fn announce_as_qemu(mac: cutover_common::MacAddr) -> impl FnOnce(&OpenTap) {
    move |qemu| (0..3).for_each(|_| qemu.send(&frames::rarp(mac)))
}

fn lives(node: &Node, scene: &Scene) -> Vec<Vec<Vec<u32>>> {
    scene.port.routed().iter().map(|to| node.watch.history().metrics(*to)).collect()
}

#[track_caller]
fn assert_life(node: &Node, scene: &Scene, expected: &[&[u32]]) {
    for life in lives(node, scene) {
        assert_eq!(life, expected, "{}", node.host.name());
    }
}

/// W33: the endpoint of the running VM is away for a moment after it has already succeeded.
#[test]
fn legacy_success_leaves_no_gap_on_either_host() {
    let mut scene = Scene::new();
    scene.driver = scene.driver.clone().at_pace(Pace::SLOWEST);
    scene.start_migration();
    scene.move_vm(announce_as_qemu(scene.port.mac));
    scene.target.wait_metrics(&scene.port, &[ELEVATED]);
    scene.driver.succeed(SOURCE, TARGET);
    scene.target.wait_state(&scene.port, "TimeWait");
    scene.target.wait_state(&scene.port, "Base");
    scene.target.wait_metrics(&scene.port, &[NORMAL]);
    scene.source.wait_metrics(&scene.port, &[]);
    assert_life(&scene.target, &scene, &[&[], &[ELEVATED], &[ELEVATED, NORMAL], &[NORMAL]]);
    assert_life(&scene.source, &scene, &[&[], &[NORMAL], &[]]);
}

#[test]
fn extended_success_leaves_no_gap_on_either_host() {
    let mut scene = Scene::new();
    scene.start_migration();
    scene.move_vm(announce_as_qemu(scene.port.mac));
    scene.target.wait_metrics(&scene.port, &[ELEVATED]);
    scene.driver.succeed_extended(SOURCE, TARGET);
    scene.target.wait_metrics(&scene.port, &[NORMAL]);
    scene.source.wait_metrics(&scene.port, &[]);
    assert_life(&scene.target, &scene, &[&[], &[ELEVATED], &[ELEVATED, NORMAL], &[NORMAL]]);
    assert_life(&scene.source, &scene, &[&[], &[NORMAL], &[]]);
}

/// W34: the target's endpoint comes back and the source's does not, so it was a success.
#[test]
fn legacy_success_without_an_announcement_is_understood() {
    let mut scene = Scene::new();
    scene.start_migration();
    scene.move_vm(|_| {});
    scene.driver.succeed(SOURCE, TARGET);
    scene.target.wait_metrics(&scene.port, &[ELEVATED]);
    scene.target.wait_metrics(&scene.port, &[NORMAL]);
    scene.source.wait_metrics(&scene.port, &[]);
    assert_life(&scene.target, &scene, &[&[], &[ELEVATED], &[ELEVATED, NORMAL], &[NORMAL]]);
    assert_life(&scene.source, &scene, &[&[], &[NORMAL], &[]]);
}

/// W34: the target's endpoint is written again at once, while the source's stays away.
#[test]
fn extended_success_without_an_announcement_is_understood() {
    let mut scene = Scene::new();
    scene.start_migration();
    scene.move_vm(|_| {});
    scene.driver.succeed_extended(SOURCE, TARGET);
    scene.target.wait_metrics(&scene.port, &[ELEVATED]);
    scene.target.wait_metrics(&scene.port, &[NORMAL]);
    assert_life(&scene.target, &scene, &[&[], &[ELEVATED], &[ELEVATED, NORMAL], &[NORMAL]]);
}

/// W34: no grace time is waited for once the driver has said it. Without a decision it would be five seconds.
#[test]
fn the_last_write_of_a_success_decides_it_at_once() {
    for is_extended in [false, true] {
        let mut scene = Scene::with(|agent| agent.set("CutoverEndpointGrace", 60));
        scene.start_migration();
        scene.move_vm(|_| {});
        if is_extended {
            scene.driver.succeed_extended(SOURCE, TARGET);
        } else {
            scene.driver.succeed(SOURCE, TARGET);
        }
        let written_at = cutover_daemon::clock::now();
        scene.target.wait_metrics(&scene.port, &[ELEVATED]);
        for to in scene.port.routed() {
            let added_at = scene.target.watch.history().added_at(to, ELEVATED).expect("a route");
            let took = added_at.since(written_at);
            assert!(took < Duration::from_secs(1), "{to} after {took:?}, extended: {is_extended}");
        }
    }
}

/// W34: there has never been anything that a rollback could bring back.
#[test]
fn without_a_source_in_the_datastore_the_end_of_the_migration_is_a_success() {
    let mut scene = Scene::new();
    scene.driver.unbind(SOURCE);
    scene.source.wait_metrics(&scene.port, &[]);
    scene.driver.announce(SOURCE, TARGET, &new_uid());
    scene.driver.bind(TARGET);
    scene.target.wait_armed(&scene.port);
    scene.move_vm(|_| {});
    scene.driver.withdraw(TARGET);
    let gone_at = cutover_daemon::clock::now();
    scene.target.wait_metrics(&scene.port, &[ELEVATED]);
    for to in scene.port.routed() {
        let added_at = scene.target.watch.history().added_at(to, ELEVATED).expect("a route");
        let took = added_at.since(gone_at);
        assert!(took < Duration::from_secs(2), "{to} after {took:?}, and not after the bound of 5 s");
    }
}

/// W34: a driver died half-way, and both endpoints stay. The VM asks for its gateway, which is no announcement; nobody else's
/// frame counts, and status says what is waited for.
#[test]
fn while_it_is_open_how_a_migration_ended_any_frame_of_the_vm_decides() {
    let scene = Scene::new();
    scene.start_migration();
    let tap = scene.target.tap().open();
    let std::net::IpAddr::V4(address) = scene.port.ipv4().addr() else { unreachable!("an IPv4 prefix") };
    let asks = frames::arp_request(scene.port.mac, address, [169, 254, 1, 1].into());
    tap.send(&asks);
    scene.driver.withdraw(TARGET);
    scene.target.agent.log().wait(wait::SOON, &["waiting for evidence", "any frame of the virtual machine"]);
    let status = scene.target.agent.status_of(&scene.port).expect("an endpoint");
    assert!(status["waits_for"].as_str().is_some_and(|text| text.contains("a frame")), "{status}");
    let stranger = cutover_common::MacAddr([2, 0, 0, 0, 0, 9]);
    wait::throughout(Duration::from_millis(500), "no route", || {
        tap.send(&asks.from_station(stranger));
        scene.target.has_metrics(&scene.port, &[])
    });
    wait::until(wait::SOON, "a route for whoever asks for his gateway", || {
        tap.send(&asks);
        scene.target.has_metrics(&scene.port, &[ELEVATED])
    });
    scene.target.wait_state(&scene.port, "TimeWait");
    scene.target.agent.log().wait(wait::SOON, &["input=GARPDetected", "to=TimeWait"]);
}

/// W33 and W34: on the source a rollback is a re-creation, on the target it looks like a success at first.
#[test]
fn rollback_touches_no_route_on_either_host() {
    let mut scene = Scene::new();
    scene.driver = scene.driver.clone().at_pace(Pace::SLOWEST);
    let before = scene.source.watch.mark();
    scene.start_migration();
    scene.driver.roll_back(SOURCE, TARGET);
    scene.target.wait_state(&scene.port, "Base");
    // Until long after the grace time of the endpoints that went away.
    wait::throughout(Duration::from_secs(3), "no route on the target", || {
        scene.target.has_metrics(&scene.port, &[])
    });
    assert_eq!(scene.source.watch.since(before).writes_to(scene.source.tap().ifindex()), Vec::<&_>::new());
    assert_life(&scene.source, &scene, &[&[], &[NORMAL]]);
    assert_life(&scene.target, &scene, &[&[]]);
}

/// A VM that failed to move once moves the second time.
#[test]
fn success_after_a_rollback_to_the_same_target() {
    let mut scene = Scene::new();
    let first = scene.start_migration();
    scene.driver.roll_back(SOURCE, TARGET);
    scene.target.wait_state(&scene.port, "Base");
    let mark = scene.target.agent.log().mark();
    let second = scene.driver.start(SOURCE, TARGET);
    assert_ne!(first, second);
    let uid = format!("migrationUid={second}");
    scene.target.agent.log().wait_after(mark, wait::SOON, &["from=Base", &uid, "to=Target"]);
    scene.target.wait_armed(&scene.port);
    scene.move_vm(announce_as_qemu(scene.port.mac));
    scene.target.wait_metrics(&scene.port, &[ELEVATED]);
    scene.driver.succeed(SOURCE, TARGET);
    scene.target.wait_metrics(&scene.port, &[NORMAL]);
    assert_life(&scene.target, &scene, &[&[], &[ELEVATED], &[ELEVATED, NORMAL], &[NORMAL]]);
}

/// The announcement comes when the driver is already through: the tap is still watched.
#[test]
fn an_announcement_after_the_end_of_the_migration_counts() {
    let mut scene = Scene::new();
    scene.start_migration();
    scene.driver.withdraw(TARGET);
    scene.target.agent.log().wait(wait::SOON, &["LiveMigration deleted"]);
    assert!(scene.target.has_metrics(&scene.port, &[]));
    scene.move_vm(announce_as_qemu(scene.port.mac));
    scene.target.wait_metrics(&scene.port, &[ELEVATED]);
    scene.target.wait_state(&scene.port, "TimeWait");
    scene.target.wait_metrics(&scene.port, &[NORMAL]);
}

/// W34: nobody says how the migration ended, and the source's endpoint is still there: the VM most probably runs
/// there, so the target stays silent much longer than for a source that is gone.
#[test]
fn a_migration_that_vanished_is_not_taken_for_a_success_while_its_source_exists() {
    let mut scene = Scene::new();
    scene.start_migration();
    scene.driver.withdraw(TARGET);
    scene.target.agent.log().wait(wait::SOON, &["LiveMigration deleted"]);
    // The bound for a source that is gone is 5 s.
    wait::throughout(Duration::from_secs(7), "no route", || scene.target.has_metrics(&scene.port, &[]));
    // It is still armed, and knows a new attempt.
    let log = scene.target.agent.log().mark();
    let uid = scene.driver.start(SOURCE, TARGET);
    scene.target.agent.log().wait_after(log, wait::SOON, &["emitting role for WEP", "role=TARGET", &uid]);
    scene.target.open().send(&frames::rarp(scene.port.mac));
    scene.target.wait_metrics(&scene.port, &[ELEVATED]);
}

/// W34: a failed migration whose endpoint is left behind, as by a driver that died: no route as long as nobody
/// writes the endpoint again.
#[test]
fn the_endpoint_of_a_failed_migration_has_no_route_until_it_is_written_again() {
    let scene = Scene::new();
    scene.start_migration();
    scene.driver.withdraw(TARGET);
    scene.driver.unbind(SOURCE);
    scene.driver.bind(SOURCE);
    scene.target.wait_state(&scene.port, "Base");
    wait::throughout(Duration::from_secs(3), "no route", || scene.target.has_metrics(&scene.port, &[]));
    assert!(scene.source.has_metrics(&scene.port, &[NORMAL]));
    assert_eq!(scene.target.agent.status_of(&scene.port).expect("an endpoint")["not_here"], true);
    scene.driver.bind(TARGET);
    scene.target.wait_metrics(&scene.port, &[NORMAL]);
}

/// The orchestrator changes its mind: the first target forgets, the second is armed.
#[test]
fn a_switched_target_leaves_nothing_on_the_first() {
    const OTHER: &str = "compute3";
    let scene = Scene::new();
    scene.start_migration();
    let mut other = Node::new(&scene.lab, OTHER, &scene.directory, &scene.port);
    other.agent.start();
    let uid = scene.driver.switch_target(SOURCE, TARGET, OTHER);
    let uid = format!("migrationUid={uid}");
    other.agent.log().wait(wait::SOON, &["input=Target", &uid, "to=Target"]);
    other.wait_armed(&scene.port);
    scene.target.wait_state(&scene.port, "Base");
    other.tap().open().send(&frames::rarp(scene.port.mac));
    other.wait_metrics(&scene.port, &[ELEVATED]);
    assert_life(&scene.target, &scene, &[&[]]);
    assert_life(&scene.source, &scene, &[&[], &[NORMAL]]);
}

/// The port goes while it is migrating, its taps with it.
#[test]
fn a_deleted_port_leaves_no_route_anywhere() {
    let mut scene = Scene::new();
    scene.start_migration();
    scene.driver.delete_port(SOURCE, TARGET);
    drop(scene.vm.pause());
    scene.source.unplug();
    scene.target.unplug();
    scene.source.wait_metrics(&scene.port, &[]);
    scene.target.wait_state(&scene.port, "Base");
    assert_life(&scene.target, &scene, &[&[]]);
    for node in [&scene.source, &scene.target] {
        let name = scene.port.name_on(node.host.name());
        wait::until(wait::SOON, "its status goes, too", || node.agent.reported(&name).is_none());
    }
}

/// The same, while the taps stay: the endpoint is held for the grace time and no longer.
#[test]
fn a_deleted_port_is_let_go_after_the_grace_time() {
    let scene = Scene::with(|agent| agent.set("CutoverEndpointGrace", 1));
    let before = cutover_daemon::clock::now();
    scene.driver.unbind(SOURCE);
    scene.source.wait_metrics(&scene.port, &[]);
    let held = cutover_daemon::clock::now().since(before);
    assert!(held >= Duration::from_millis(950), "held for {held:?} only");
    assert!(held < Duration::from_secs(3), "held for {held:?}");
}

/// Writing the same again, as the driver does at every step, is no event.
#[test]
fn identical_rewrites_change_nothing() {
    let scene = Scene::new();
    let uid = scene.start_migration();
    let (source, target) = (scene.source.watch.mark(), scene.target.watch.mark());
    let log = scene.target.agent.log().mark();
    scene.driver.start_as(SOURCE, TARGET, &uid);
    scene.driver.start_as(SOURCE, TARGET, &uid);
    // A later write that does something shows that the earlier ones have been read.
    let other = cutover_tests::Port::new(2);
    let name = other.name_on(TARGET);
    scene.directory.put(&other.migration(SOURCE, TARGET, &new_uid()));
    let lm = format!("lm={name}");
    scene.target.agent.log().wait_after(log, wait::SOON, &["LiveMigration created/updated", &lm]);
    assert_eq!(scene.source.watch.since(source).writes_to(scene.source.tap().ifindex()), Vec::<&_>::new());
    assert_eq!(scene.target.watch.since(target).writes_to(scene.target.tap().ifindex()), Vec::<&_>::new());
    assert_eq!(scene.target.agent.log().matching(&["Live migration state transition"]).len(), 1);
}

/// W35: whoever deletes or changes the status of a live port sets it to ERROR in Neutron. Looked at all the
/// time, on both hosts, through a success with the longest gap and through a rollback.
#[test]
fn the_status_of_a_live_port_is_never_taken_away() {
    let mut scene = Scene::new();
    scene.driver = scene.driver.clone().at_pace(Pace::SLOWEST);
    let status = |node: &Node| {
        node.agent.run_dir().join("status").join(scene.port.name_on(node.host.name()) + ".json")
    };
    let (at_source, at_target) = (status(&scene.source), status(&scene.target));
    scene.source.agent.wait_up(&scene.port);
    let first_written = modified(&at_source);

    scene.start_migration();
    assert_eq!(modified(&at_source), first_written, "the source has rewritten an unchanged status");
    always_up(&at_source, || {
        scene.driver.roll_back(SOURCE, TARGET);
        scene.target.wait_state(&scene.port, "Base");
        // The driver has taken the port down; only a write puts it back into service.
        wait::until(wait::SOON, "the source reports again", || modified(&at_source) != first_written);
    });
    let written_again = modified(&at_source);
    always_up(&at_source, || {
        let _uid = scene.driver.start(SOURCE, TARGET);
        scene.target.wait_armed(&scene.port);
    });
    assert_eq!(modified(&at_source), written_again, "the source has rewritten an unchanged status");

    scene.move_vm(announce_as_qemu(scene.port.mac));
    scene.target.wait_metrics(&scene.port, &[ELEVATED]);
    always_up(&at_target, || {
        scene.driver.succeed(SOURCE, TARGET);
        scene.target.wait_metrics(&scene.port, &[NORMAL]);
    });
    wait::until(wait::SOON, "the source's status goes when the outcome is known", || !at_source.exists());
}

fn modified(path: &Path) -> SystemTime {
    std::fs::metadata(path).and_then(|metadata| metadata.modified()).expect("a status file")
}

/// Reads a status file over and over again while `action` runs.
#[track_caller]
fn always_up(path: &Path, action: impl FnOnce()) {
    let done = AtomicBool::new(false);
    let wrong = std::thread::scope(|scope| {
        let watcher = scope.spawn(|| {
            let mut wrong = Vec::new();
            while !done.load(Ordering::Relaxed) {
                let text = std::fs::read_to_string(path).unwrap_or_else(|error| error.to_string());
                if !text.contains("\"up\"") {
                    wrong.push(text);
                }
                std::thread::sleep(Duration::from_micros(200));
            }
            wrong
        });
        let stop = Stop(&done);
        action();
        drop(stop);
        watcher.join().expect("reading does not panic")
    });
    assert_eq!(wrong, Vec::<String>::new(), "{}", path.display());
}

/// Ends the reading also when the test fails meanwhile.
struct Stop<'a>(&'a AtomicBool);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}
