//! `cutover timeline` around a real migration: running, finished, without an agent, and after a restart.

use cutover_tests::scene::{ELEVATED, NORMAL, SOURCE, Scene, TARGET};
use cutover_tests::{frames, wait};
use serde_json::Value;

/// The only migration that the target's timeline shows, with the names of its phases.
fn only(scene: &Scene) -> (Value, Vec<String>) {
    let text = scene.target.agent.run_ok(&["timeline", "--json"]);
    let document: Value = serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error} in\n{text}"));
    let migrations = document["migrations"].as_array().expect("a list");
    assert_eq!(migrations.len(), 1, "{text}");
    let phases = migrations[0]["phases"].as_array().expect("a list");
    let name = |step: &Value| step["phase"].as_str().expect("a name").to_owned();
    (migrations[0].clone(), phases.iter().map(name).collect())
}

#[test]
fn a_migration_is_in_the_timeline_while_it_runs_and_when_it_is_over() {
    const ALL: [&str; 8] =
        ["targeted", "armed", "reported", "announced", "taken", "routed", "role_gone", "ended"];
    let mut scene = Scene::new();
    let empty = scene.target.agent.run_ok(&["timeline"]);
    assert_eq!(empty, "no migrations to this host are known\n");
    let uid = scene.start_migration();
    wait::until(wait::SOON, "it is reported up", || only(&scene).1 == ALL[..3]);
    let (migration, _) = only(&scene);
    assert_eq!((&migration["uid"], &migration["result"]), (&Value::from(uid.as_str()), &"running".into()));
    assert_eq!((&migration["state"], &migration["announcement"]), (&"Target".into(), &Value::Null));
    assert_eq!(migration["source"], scene.port.name_on(SOURCE));

    let mac = scene.port.mac;
    scene.move_vm(|qemu| qemu.send(&frames::rarp(mac)));
    scene.target.wait_metrics(&scene.port, &[ELEVATED]);
    wait::until(wait::SOON, "it is routed", || only(&scene).1 == ALL[..6]);
    let (migration, _) = only(&scene);
    assert_eq!((&migration["state"], &migration["announcement"]), (&"Live".into(), &"RARP".into()));

    scene.driver.succeed(SOURCE, TARGET);
    scene.target.wait_metrics(&scene.port, &[NORMAL]);
    wait::until(wait::SOON, "it is over", || only(&scene).0["result"] == "arrived");
    let (over, phases) = only(&scene);
    assert_eq!(phases, ALL);
    // What was seen while it ran is what was written down.
    let before = migration["phases"].as_array().expect("a list");
    for (early, late) in before.iter().zip(over["phases"].as_array().expect("a list")) {
        assert_eq!(early["boot_ns"], late["boot_ns"], "{early}");
        let (early_ns, late_ns) = (early["unix_ns"].as_u64(), late["unix_ns"].as_u64());
        let apart_ns = early_ns.expect("a date").abs_diff(late_ns.expect("a date"));
        assert!(apart_ns < 1_000_000_000, "the wall clock of {early} is {apart_ns} ns off");
    }

    let table = scene.target.agent.run_ok(&["timeline"]);
    assert!(table.trim_end().ends_with(&uid) && table.contains("RARP"), "{table}");
    let detail = scene.target.agent.run_ok(&["timeline", &uid]);
    assert!(detail.starts_with(&format!("migration {uid}: arrived, announced by RARP\n")), "{detail}");
    assert!(!detail.contains("did not happen"), "{detail}");
    let picture = scene.lab.folder().join("timeline.svg");
    scene.target.agent.run_ok(&["timeline", "--svg", &picture.display().to_string()]);
    let picture = std::fs::read_to_string(picture).expect("a picture");
    assert!(picture.contains(&uid) && picture.contains("installing elevated routes"), "{picture}");

    assert_eq!(scene.target.agent.terminate().code(), Some(0));
    let output = scene.target.agent.run(&["timeline"]);
    assert!(output.status.success());
    assert_eq!(String::from_utf8_lossy(&output.stdout), table);
    let notice = String::from_utf8_lossy(&output.stderr);
    assert!(notice.contains("no agent answers") && notice.lines().count() == 1, "{notice}");
    scene.target.agent.start();
    assert_eq!(scene.target.agent.run_ok(&["timeline"]), table);
}
