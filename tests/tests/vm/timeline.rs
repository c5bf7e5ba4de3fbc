//! What `cutover timeline` says about a real migration, against what the lab has seen of it with clocks of its own: those
//! of QEMU, of the frames on the tap, and of the routes on target and client.

use crate::trip::{CLOCKS, Journey, UNTHROTTLED};
use cutover_daemon::clock;
use cutover_engine::BootTime;
use cutover_tests::cloud::CONVERGENCE_S;
use cutover_tests::hypervisor::Guest;
use cutover_tests::{Cloud, Port};
use serde_json::Value;
use std::time::Duration;

/// Stretches of the picture, from one phase to the next.
const STRETCHES: [(&str, &str, &str); 7] = [
    ("arming the tap", "targeted", "armed"),
    ("reporting up", "armed", "reported"),
    ("waiting for the announcement", "reported", "announced"),
    ("waking the fast path", "announced", "taken"),
    ("installing elevated routes", "taken", "routed"),
    ("elevated, migration not over", "routed", "role_gone"),
    ("elevated, network converging", "role_gone", "ended"),
];

/// The phases of a migration in the JSON of the timeline.
struct Shown(Value);

impl Shown {
    fn new(document: &str, uid: &str) -> Self {
        let document: Value = serde_json::from_str(document).expect("JSON");
        let migrations = document["migrations"].as_array().expect("a list");
        assert_eq!(migrations.len(), 1, "{document}");
        assert_eq!((&migrations[0]["uid"], &migrations[0]["result"]), (&uid.into(), &"arrived".into()));
        assert_eq!(migrations[0]["announcement"], "RARP", "QEMU's frame comes first");
        Self(migrations[0]["phases"].clone())
    }

    #[track_caller]
    fn at(&self, phase: &str) -> BootTime {
        let steps = self.0.as_array().expect("a list");
        let step = steps.iter().find(|step| step["phase"] == phase);
        let nanos = step.and_then(|step| step["boot_ns"].as_u64());
        BootTime(nanos.unwrap_or_else(|| panic!("no {phase} in {}", self.0)))
    }
}

#[test]
fn every_step_of_the_timeline_is_where_the_lab_saw_it() {
    let mut cloud = Cloud::new();
    let mut instance = cloud.spawn(&Guest::new(&Port::new(1)));
    let prepared_from = clock::now();
    let journey = Journey::prepare(&mut cloud, &instance);
    let prepared_by = clock::now();
    instance.hypervisor.begin_migration(&journey.migration.arrival, UNTHROTTLED);
    let migrated = instance.hypervisor.wait_migrated();
    journey.wait_followed(&cloud, &instance);
    let completed_from = clock::now();
    let trip = journey.arrive(&mut cloud, &mut instance, migrated);
    trip.assert_seamless();
    let settled_by = clock::now();

    let agent = cloud.hosts[instance.at].agent();
    let shown = Shown::new(&agent.run_ok(&["timeline", "--json"]), &trip.uids[0]);
    let in_order = ["targeted", "armed", "reported", "announced", "taken", "routed", "role_gone", "ended"];
    let times = in_order.map(|phase| shown.at(phase));
    assert!(times.is_sorted(), "{:?}", shown.0);
    assert!(prepared_from <= shown.at("targeted") && shown.at("reported") <= prepared_by, "{:?}", shown.0);
    assert!(completed_from <= shown.at("role_gone") && shown.at("ended") <= settled_by, "{:?}", shown.0);
    let elevated = shown.at("ended").since(shown.at("role_gone"));
    assert!(
        elevated >= Duration::from_secs(CONVERGENCE_S.into()),
        "elevated for {elevated:?}, not the convergence time"
    );
    for (net, blackout) in &trip.blackouts {
        let on_tap_at = blackout.on_tap_at.expect("it was on the tap");
        let routed_at = blackout.routed_at.expect("it had a route");
        let announced_at = shown.at("announced");
        assert!(prepared_by <= blackout.paused_at + CLOCKS, "{net}\n{blackout}");
        // The guest's frame, then the route; nothing of the agent's can be earlier or later.
        assert!(blackout.paused_at <= announced_at && announced_at <= routed_at, "{net}\n{blackout}");
        assert!(blackout.client_routed_at.is_some_and(|at| shown.at("taken") <= at), "{net}\n{blackout}");
        // KERNEL: with XDP the program sees a frame before a packet socket does.
        let apart = announced_at.since(on_tap_at).max(on_tap_at.since(announced_at));
        assert!(apart < Duration::from_millis(5), "{apart:?} from the tap to the program\n{blackout}");
    }

    let table = agent.run_ok(&["timeline"]);
    assert!(table.contains("RARP") && table.trim_end().ends_with(&trip.uids[0]), "{table}");
    let picture = agent.run_dir().join("timeline.svg");
    agent.run_ok(&["timeline", &trip.uids[0], "--svg", &picture.display().to_string()]);
    assert_drawn(&std::fs::read_to_string(picture).expect("a picture"), &shown, &trip.uids[0]);
}

/// Checks that the picture has every stretch of the migration, and says how long it was.
#[track_caller]
fn assert_drawn(picture: &str, shown: &Shown, uid: &str) {
    assert!(picture.starts_with("<?xml") && picture.trim_end().ends_with("</svg>"), "{picture}");
    assert!(picture.contains(uid) && picture.contains("announced by RARP"), "{picture}");
    let (_, description) = picture.split_once("id=\"description\">").expect("a description");
    let (description, _) = description.split_once("</desc>").expect("its end");
    for (label, from, to) in STRETCHES {
        let lasted = shown.at(to).since(shown.at(from)).as_secs_f64();
        let (_, said) = description.split_once(&format!("{label} ")).unwrap_or_else(|| panic!("no {label}"));
        let mut words = said.split([' ', ',']);
        let (value, unit) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
        let value: f64 = value.parse().unwrap_or_else(|_| panic!("{label}: {value} in {description}"));
        let said = value * seconds(unit.trim_end_matches('.'));
        assert!((said - lasted).abs() <= lasted / 50.0, "{label}: {said} s drawn, {lasted} s recorded");
    }
}

fn seconds(unit: &str) -> f64 {
    match unit {
        "ns" => 1e-9,
        "µs" => 1e-6,
        "ms" => 1e-3,
        "s" => 1.0,
        _ => panic!("a unit {unit:?}"),
    }
}
