//! SIGKILL in every state, and start again (W3): no route of a live endpoint is touched, what happened
//! meanwhile is found, and time goes on where it was.

use cutover_daemon::clock;
use cutover_tests::route_watch::Mark;
use cutover_tests::scene::{ELEVATED, NORMAL, Node, SOURCE, Scene, TARGET};
use cutover_tests::{frames, kernel, wait};
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Everything that an agent does at its start it does within this; "no write" is checked until then.
const SETTLED: Duration = Duration::from_millis(1500);

fn convergence(seconds: u32) -> impl Fn(&mut cutover_tests::Agent) {
    move |agent| agent.set("LiveMigrationRouteConvergenceTime", seconds)
}

/// Checks that nothing at all was written to the tap since `mark`, until the agent has long settled.
#[track_caller]
fn assert_untouched(node: &Node, mark: Mark) {
    let tap = node.tap().ifindex();
    let written = || {
        let history = node.watch.since(mark);
        history.writes_to(tap).into_iter().cloned().collect::<Vec<_>>()
    };
    wait::holds_within(SETTLED, || !written().is_empty());
    assert_eq!(written(), [], "now {:?}:\n{}", clock::now(), node.agent.log_text());
}

/// In Base and in mid-migration the source writes nothing when it comes back.
#[test]
fn base_survives_a_kill() {
    let mut scene = Scene::new();
    scene.start_migration();
    let mark = scene.source.watch.mark();
    scene.source.agent.kill();
    scene.source.agent.start_in_sync();
    assert_untouched(&scene.source, mark);
}

#[test]
fn target_survives_a_kill() {
    let mut scene = Scene::new();
    scene.start_migration();
    scene.target.agent.kill();
    scene.target.agent.start_in_sync();
    scene.target.wait_armed(&scene.port);
    wait::throughout(SETTLED, "no route", || scene.target.has_metrics(&scene.port, &[]));
    let mac = scene.port.mac;
    scene.move_vm(|qemu| qemu.send(&frames::rarp(mac)));
    scene.target.wait_metrics(&scene.port, &[ELEVATED]);
}

/// The kernel kept the evidence while nobody was there to read it.
#[test]
fn an_announcement_during_downtime_is_found() {
    let mut scene = Scene::new();
    let uid = scene.start_migration();
    scene.target.agent.kill();
    let mac = scene.port.mac;
    scene.move_vm(|qemu| qemu.send(&frames::rarp(mac)));
    let mark = scene.target.agent.log().mark();
    scene.target.agent.start();
    scene.target.wait_metrics(&scene.port, &[ELEVATED]);
    let uid = format!("migrationUid={uid}");
    scene.target.agent.log().wait_after(mark, wait::SOON, &["input=GARPDetected", &uid, "to=Live"]);
    for to in scene.port.routed() {
        assert_eq!(scene.target.watch.history().metrics(to), [vec![], vec![ELEVATED]], "{to}");
    }
}

/// The announcement and the end of the migration both happen while the agent is away.
#[test]
fn a_migration_that_ends_during_downtime_is_found() {
    let mut scene = Scene::new();
    scene.start_migration();
    scene.target.agent.kill();
    let mac = scene.port.mac;
    scene.move_vm(|qemu| qemu.send(&frames::rarp(mac)));
    scene.driver.succeed(SOURCE, TARGET);
    scene.target.agent.start();
    scene.target.wait_metrics(&scene.port, &[ELEVATED]);
    scene.target.wait_metrics(&scene.port, &[NORMAL]);
    for to in scene.port.routed() {
        let expected: [&[u32]; 4] = [&[], &[ELEVATED], &[ELEVATED, NORMAL], &[NORMAL]];
        assert_eq!(scene.target.watch.history().metrics(to), expected, "{to}");
    }
}

/// The weakness that gave W3 its name: a restart must not take the route of the running VM away.
#[test]
fn live_survives_a_kill() {
    let mut scene = Scene::new();
    scene.start_migration();
    let mac = scene.port.mac;
    scene.move_vm(|qemu| qemu.send(&frames::rarp(mac)));
    scene.target.wait_arrived(&scene.port);
    let mark = scene.target.watch.mark();
    for _ in 0..2 {
        scene.target.agent.kill();
        scene.target.agent.start_in_sync();
        assert_untouched(&scene.target, mark);
    }
    scene.driver.succeed(SOURCE, TARGET);
    scene.target.wait_state(&scene.port, "TimeWait");
    scene.target.wait_metrics(&scene.port, &[NORMAL]);
    for to in scene.port.routed() {
        scene.target.watch.since(mark).assert_never_without(to);
    }
}

/// The same without the state file: the kernel's routes and evidence are enough.
#[test]
fn live_survives_a_kill_and_the_loss_of_the_state_file() {
    let mut scene = Scene::new();
    scene.start_migration();
    let mac = scene.port.mac;
    scene.move_vm(|qemu| qemu.send(&frames::rarp(mac)));
    scene.target.wait_arrived(&scene.port);
    let mark = scene.target.watch.mark();
    scene.target.agent.kill();
    fs::remove_file(scene.target.agent.run_dir().join("state.json")).expect("a state file");
    scene.target.agent.start_in_sync();
    assert_untouched(&scene.target, mark);
}

/// The convergence time ends when it would have ended anyway.
#[test]
fn time_wait_goes_on_where_it_was() {
    const CONVERGENCE: Duration = Duration::from_secs(10);
    let mut scene = Scene::with(convergence(10));
    scene.start_migration();
    let mac = scene.port.mac;
    scene.move_vm(|qemu| qemu.send(&frames::rarp(mac)));
    scene.target.wait_metrics(&scene.port, &[ELEVATED]);
    scene.driver.succeed_extended(SOURCE, TARGET);
    scene.target.wait_state(&scene.port, "TimeWait");
    let began = clock::now();
    // Not at once, so that a clock that starts anew would be caught.
    wait::throughout(Duration::from_millis(1200), "elevated", || {
        scene.target.has_metrics(&scene.port, &[ELEVATED])
    });
    // What the tap needs once it has a carrier has been written by now.
    let mark = scene.target.watch.mark();
    scene.target.agent.kill();
    scene.target.agent.start_in_sync();
    assert_untouched(&scene.target, mark);
    scene.target.wait_metrics(&scene.port, &[NORMAL]);
    let took = clock::now().since(began);
    assert!(took > CONVERGENCE - Duration::from_millis(500), "only {took:?}");
    assert!(took < CONVERGENCE + wait::patient(Duration::from_secs(1)), "{took:?}");
    for to in scene.port.routed() {
        let expected: [&[u32]; 3] = [&[ELEVATED], &[ELEVATED, NORMAL], &[NORMAL]];
        assert_eq!(scene.target.watch.since(mark).metrics(to), expected, "{to}");
    }
}

/// A deadline that passed while the agent was away: normal priority at once, and without a gap.
#[test]
fn time_wait_that_ended_during_downtime_ends_make_before_break() {
    let mut scene = Scene::with(convergence(1));
    scene.start_migration();
    let mac = scene.port.mac;
    scene.move_vm(|qemu| qemu.send(&frames::rarp(mac)));
    scene.target.wait_metrics(&scene.port, &[ELEVATED]);
    scene.driver.succeed_extended(SOURCE, TARGET);
    scene.target.wait_state(&scene.port, "TimeWait");
    let began = clock::now();
    scene.target.agent.kill();
    wait::until(wait::SOON, "the deadline is over", || {
        clock::now().since(began) > Duration::from_millis(1200)
    });
    assert!(scene.target.has_metrics(&scene.port, &[ELEVATED]));
    scene.target.agent.start();
    scene.target.wait_metrics(&scene.port, &[NORMAL]);
    for to in scene.port.routed() {
        scene.target.watch.history().moments(to).iter().skip(1).for_each(|moment| {
            assert!(!moment.routes.is_empty(), "a gap for {to}");
        });
    }
}

/// An orderly stop is no different from a kill: the data plane goes on.
#[test]
fn sigterm_leaves_the_data_plane_as_it_is() {
    let mut scene = Scene::new();
    scene.start_migration();
    let mac = scene.port.mac;
    scene.move_vm(|qemu| qemu.send(&frames::rarp(mac)));
    scene.target.wait_arrived(&scene.port);
    let (source, target) = (scene.source.watch.mark(), scene.target.watch.mark());
    assert!(scene.source.agent.terminate().success());
    assert!(scene.target.agent.terminate().success());
    assert_eq!(scene.source.watch.since(source).writes_to(scene.source.tap().ifindex()), Vec::<&_>::new());
    assert_eq!(scene.target.watch.since(target).writes_to(scene.target.tap().ifindex()), Vec::<&_>::new());
    assert!(scene.target.has_metrics(&scene.port, &[ELEVATED]));
    assert!(scene.source.has_metrics(&scene.port, &[NORMAL]));
    scene.target.agent.start_in_sync();
    assert_untouched(&scene.target, target);
}

/// An agent whose datastore is not there yet has no right to decide that routes are left over.
#[test]
fn nothing_is_removed_before_the_datastore_is_in_sync() {
    let mut scene = Scene::new();
    let mark = scene.source.watch.mark();
    scene.source.agent.kill();
    let path = scene.directory.path().to_owned();
    let away = path.with_extension("away");
    fs::rename(&path, &away).expect("a rename");
    scene.source.agent.spawn();
    assert_untouched(&scene.source, mark);
    // It may wait for the folder or give up; either way the routes stay, also when the folder comes back.
    fs::rename(&away, &path).expect("a rename");
    scene.source.agent.kill();
    scene.source.agent.start_in_sync();
    assert_untouched(&scene.source, mark);
}

/// The memory is enough for an announcement, and what comes back afterwards goes on from there.
#[test]
fn an_announcement_counts_although_the_folder_is_missing_at_the_start() {
    let mut scene = Scene::new();
    scene.start_migration();
    let path = scene.directory.path().to_owned();
    let away = path.with_extension("away");
    let mark = scene.source.watch.mark();
    scene.target.agent.kill();
    scene.source.agent.kill();
    fs::rename(&path, &away).expect("a rename");
    scene.target.agent.start();
    scene.source.agent.start();
    let status = scene.target.agent.status();
    assert_eq!(
        (status["in_sync"].as_bool(), status["from_memory"]["watched"].as_u64()),
        (Some(false), Some(1))
    );
    let mac = scene.port.mac;
    scene.move_vm(|qemu| qemu.send(&frames::rarp(mac)));
    scene.target.wait_arrived(&scene.port);
    let announced = scene.target.watch.mark();
    fs::rename(&away, &path).expect("a rename");
    wait::until(wait::SOON, "in sync", || scene.target.agent.status()["in_sync"] == true);
    assert_untouched(&scene.target, announced);
    assert_untouched(&scene.source, mark);
    scene.driver.succeed(SOURCE, TARGET);
    scene.target.wait_metrics(&scene.port, &[NORMAL]);
}

/// A state file that cannot be written costs nothing but what a restart would know: it is said once however much
/// happens meanwhile, and the file is written as soon as it can be.
#[test]
fn a_state_file_in_the_way_is_said_once_and_written_again() {
    let mut scene = Scene::new();
    let state = scene.target.agent.run_dir().join("state.json");
    // There is one only if there was something to remember.
    fs::remove_file(&state).ok();
    fs::create_dir_all(state.join("in the way")).unwrap();
    scene.start_migration();
    scene.target.wait_armed(&scene.port);
    for _ in 0..20 {
        // Every change of carrier is a round of the loop.
        drop(scene.target.tap().open());
    }
    let mac = scene.port.mac;
    scene.move_vm(|qemu| qemu.send(&frames::rarp(mac)));
    scene.target.wait_metrics(&scene.port, &[ELEVATED]);
    let log = scene.target.agent.log();
    wait::throughout(SETTLED, "said once", || log.matching(&["cannot write state.json"]).len() == 1);
    fs::remove_dir_all(&state).unwrap();
    log.wait(wait::SOON, &["state.json is written again"]);
    assert!(state.is_file());
}

/// Removes every pin below a folder, and the folder, as somebody would do by hand.
fn remove_pins(folder: &Path) {
    for entry in fs::read_dir(folder).expect("a folder").map(|entry| entry.expect("an entry").path()) {
        if entry.is_dir() { remove_pins(&entry) } else { fs::remove_file(&entry).expect("it is there") }
    }
    match fs::remove_dir(folder) {
        // The agent has noticed by now, and put one back.
        Err(error) if error.kind() == std::io::ErrorKind::DirectoryNotEmpty => remove_pins(folder),
        result => result.expect("a folder"),
    }
}

/// Every pin below a folder.
fn pins_in(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).expect("a folder").map(|entry| entry.expect("an entry").path());
    entries.flat_map(|entry| if entry.is_dir() { pins_in(&entry) } else { vec![entry] }).collect()
}

/// Removes every pin below a folder of a running agent, and waits until it has pinned all of them again. What it says does not tell:
/// it may have noticed when the first ones were gone.
#[track_caller]
fn remove_pins_until_they_are_back(node: &Node, folder: &Path) {
    let (pins, log) = (pins_in(folder), node.agent.log().mark());
    assert!(!pins.is_empty(), "nothing is pinned");
    remove_pins(folder);
    node.agent.log().wait_after(log, wait::SOON, &["WARN", "removed pins"]);
    wait::until(wait::SOON, "everything is pinned again", || pins.iter().all(|pin| pin.exists()));
}

/// The folder with something for each tap that is watched: its link, or without tcx a mark that its qdisc is the agent's.
fn attachments() -> &'static str {
    if kernel::has(kernel::TCX) { "links" } else { "qdiscs" }
}

/// The announcement comes while no agent runs, so it is seen only if what was pinned again is what the program uses.
#[track_caller]
fn assert_survives_with_its_pins(scene: &mut Scene) {
    let Scene { target, port, .. } = &*scene;
    // Another agent must not have them.
    let pins = fs::File::open(target.agent.pin_path()).expect("a folder");
    let taken = nix::fcntl::Flock::lock(pins, nix::fcntl::FlockArg::LockExclusiveNonblock);
    assert_eq!(taken.expect_err("it is locked").1, nix::errno::Errno::EWOULDBLOCK);
    if kernel::has(kernel::TCX) {
        assert!(target.agent.pin_path().join("links").join(&port.interface).exists());
    }
    scene.target.agent.kill();
    let mac = scene.port.mac;
    scene.move_vm(|qemu| qemu.send(&frames::rarp(mac)));
    scene.target.agent.start();
    scene.target.wait_arrived(&scene.port);
}

#[test]
fn pins_that_are_removed_before_a_migration_are_made_again() {
    let mut scene = Scene::new();
    remove_pins(scene.target.agent.pin_path());
    scene.start_migration();
    assert_survives_with_its_pins(&mut scene);
}

#[test]
fn pins_that_are_removed_from_an_armed_tap_are_made_again() {
    let mut scene = Scene::new();
    scene.start_migration();
    remove_pins_until_they_are_back(&scene.target, scene.target.agent.pin_path());
    assert_survives_with_its_pins(&mut scene);
}

/// A part of them only: nothing but a restart would notice.
#[test]
fn maps_that_lose_their_pins_are_pinned_again() {
    let mut scene = Scene::new();
    scene.start_migration();
    remove_pins_until_they_are_back(&scene.target, &scene.target.agent.pin_path().join("maps"));
    assert_survives_with_its_pins(&mut scene);
}

/// Status and doctor name a tap that cannot be armed; once it can be, nothing is missed.
#[test]
fn a_watch_that_cannot_be_armed_is_shown() {
    let mut scene = Scene::new();
    let pins = scene.target.agent.pin_path().to_owned();
    let folder = pins.join(attachments());
    remove_pins(&folder);
    // A pin in place of the folder: nothing can be made below it.
    let map = pins.join("maps").join("SETTINGS");
    fs::rename(&map, &folder).expect("both are on one file system");
    let uid = scene.driver.start(SOURCE, TARGET);
    let interface = scene.port.interface.clone();
    let agent = &scene.target.agent;
    wait::until(wait::SOON, "the tap that cannot be armed is shown", || {
        agent.status()["unarmed"][&interface].as_str().is_some_and(|reason| reason.contains(attachments()))
    });
    let table = agent.run_ok(&["status"]);
    assert!(table.contains("cannot be armed: 1") && table.contains(&format!("  {interface}: ")), "{table}");
    let doctor = agent.run(&["doctor", "--json"]);
    let report: serde_json::Value = serde_json::from_slice(&doctor.stdout).expect("a report");
    let found = report["findings"].as_array().expect("findings").iter().any(|finding| {
        finding["check"] == "agent.watches"
            && finding["level"] == "error"
            && finding["what"].as_str().is_some_and(|what| what.contains(&interface))
    });
    assert!(found, "{report:#}");
    fs::rename(&folder, &map).expect("both are on one file system");
    scene.target.wait_armed(&scene.port);
    assert_eq!(scene.target.agent.status()["unarmed"], serde_json::json!({}));
    assert_eq!(scene.target.agent.status_of(&scene.port).expect("known")["migration_uid"], uid);
    assert_survives_with_its_pins(&mut scene);
}
