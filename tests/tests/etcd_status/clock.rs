//! The wall clock jumps by hours, forward and back, in every state: nothing depends on it but what people read.

use super::cloud::{Cloud, TIDIED};
use cutover_daemon::clock;
use cutover_tests::scene::{ELEVATED, NORMAL, Node, SOURCE, TARGET};
use cutover_tests::wall_clock::WallClock;
use cutover_tests::{Port, frames, wait};
use serde_json::Value;
use std::time::Duration;

const CONVERGENCE: Duration = Duration::from_secs(4);
/// The default of `CutoverEndpointGrace`.
const GRACE: Duration = Duration::from_secs(2);
/// LIMIT: how late a deadline may be on a loaded machine.
const LATE: Duration = Duration::from_secs(4);
/// Longer than anything that is done at once takes.
const A_WHILE: Duration = Duration::from_millis(700);

const HEARTBEAT: &str = "/calico/felix/v2/no-region/host/compute2/status";

/// Jumps forward and back, and checks that `holds` all the time.
fn jump(wall: &WallClock, hours: [i64; 2], what: &str, mut holds: impl FnMut() -> bool) {
    for hours in hours {
        wall.set_ahead_s(hours * 3600);
        wait::throughout(A_WHILE, format_args!("{what}, {hours} h ahead"), &mut holds);
    }
}

fn elevated_for(node: &Node, port: &Port) -> Duration {
    let since = node.agent.log().wait(wait::SOON, &["from=Live", "to=TimeWait"]).at;
    let normal = node.watch.history().moments(port.ipv4()).into_iter().find(|moment| {
        moment.since.is_some_and(|at| at > since) && moment.routes.iter().all(|route| route.metric == NORMAL)
    });
    normal.and_then(|moment| moment.since).expect("it has converged").since(since)
}

#[test]
fn a_wall_clock_that_jumps_changes_nothing() {
    let mut cloud = Cloud::new();
    let wall = WallClock::of(&mut cloud.target.agent);
    let agent = &mut cloud.target.agent;
    agent.set("LiveMigrationRouteConvergenceTime", CONVERGENCE.as_secs());
    agent.set("ReportingIntervalSecs", 1);
    agent.set("ReportingTTLSecs", 5);
    cloud.source.agent.start_in_sync();
    let began_at = clock::now();
    cloud.target.agent.start_in_sync();
    cloud.wait_status(SOURCE, "up");

    cloud.start_migration();
    cloud.wait_status(TARGET, "up");
    let ready = cloud.status_pair(TARGET);
    let is_armed = |cloud: &Cloud| {
        let shown = cloud.target.agent.status_of(&cloud.port).expect("an endpoint");
        shown["watch"].is_u64() && cloud.target.has_metrics(&cloud.port, &[])
    };
    jump(&wall, [5, -7], "Target", || is_armed(&cloud));
    assert_eq!(cloud.status_pair(TARGET), ready);

    let mac = cloud.port.mac;
    cloud.target.open().send(&frames::rarp(mac));
    cloud.target.wait_metrics(&cloud.port, &[ELEVATED]);
    jump(&wall, [9, -3], "Live", || cloud.target.has_metrics(&cloud.port, &[ELEVATED]));
    assert_eq!(cloud.status_pair(TARGET), ready);

    cloud.withdraw(TARGET);
    cloud.target.wait_state(&cloud.port, "TimeWait");
    cloud.unbind(SOURCE);
    jump(&wall, [6, -12], "TimeWait", || cloud.target.has_metrics(&cloud.port, &[ELEVATED]));
    cloud.target.wait_metrics(&cloud.port, &[NORMAL]);
    let elevated = elevated_for(&cloud.target, &cloud.port);
    assert!(
        elevated + Duration::from_millis(20) >= CONVERGENCE && elevated < CONVERGENCE + LATE,
        "{elevated:?}"
    );
    // At the end of the migration, and when the source's status went.
    wait::until(TIDIED, "the source's status goes", || cloud.status(SOURCE).is_none());
    wait::until(wait::SOON, "reported after that", || cloud.status_pair(TARGET).writes == ready.writes + 2);

    held(&cloud, &wall);
    heartbeats(&cloud, clock::now().since(began_at));
}

/// Away for a moment, then for good.
fn held(cloud: &Cloud, wall: &WallClock) {
    let mark = cloud.target.watch.mark();
    cloud.unbind(TARGET);
    cloud.target.agent.log().wait(wait::SOON, &["holding its state"]);
    jump(wall, [20, -20], "held", || cloud.target.has_metrics(&cloud.port, &[NORMAL]));
    cloud.bind(TARGET);
    cloud.target.agent.log().wait(wait::SOON, &["Held endpoint is back"]);
    let ifindex = cloud.target.tap().ifindex();
    assert_eq!(cloud.target.watch.since(mark).writes_to(ifindex), Vec::<&_>::new());

    let log = cloud.target.agent.log().mark();
    cloud.unbind(TARGET);
    let gone_at = cloud.target.agent.log().wait_after(log, wait::SOON, &["holding its state"]).at;
    wall.set_ahead_s(50 * 3600);
    cloud.target.wait_metrics(&cloud.port, &[]);
    let history = cloud.target.watch.history();
    let last = history.moments(cloud.port.ipv4()).pop().and_then(|moment| moment.since).expect("it went");
    let held = last.since(gone_at);
    assert!(held + Duration::from_millis(100) >= GRACE && held < GRACE + LATE, "held for {held:?}");
}

/// One a second by the clock of the machine, whatever the wall clock shows; and it has shown a lot.
fn heartbeats(cloud: &Cloud, running: Duration) {
    let beats = || -> Vec<Option<Value>> {
        let written = cloud.etcd.written(HEARTBEAT).into_iter();
        written.map(|write| write.value.map(|value| serde_json::from_str(&value).expect("JSON"))).collect()
    };
    wait::until(wait::SOON, "heartbeats", || beats().len() >= 6);
    let beats = beats();
    assert!(beats.iter().all(Option::is_some), "a lease has expired: {beats:#?}");
    let uptimes: Vec<f64> = beats.iter().flatten().filter_map(|beat| beat["uptime"].as_f64()).collect();
    let pauses = uptimes.windows(2).map(|pair| pair[1] - pair[0]);
    assert!(pauses.clone().all(|pause| (0.9..4.0).contains(&pause)), "{uptimes:?}");
    assert!((10.0..running.as_secs_f64() + 10.0).contains(&uptimes[0]), "{uptimes:?}");
    // The last jump was the longest one; without it the beats of the last seconds would be of the same day as the first line.
    let day = |text: &str| text.get(..10).map(str::to_owned);
    let lines = cloud.target.agent.log().lines();
    let today = lines.first().and_then(|line| day(&line.text));
    let last = beats.iter().flatten().next_back().and_then(|beat| day(beat["time"].as_str()?));
    assert!(today.is_some() && last.is_some() && today != last, "the clock has not jumped: {beats:#?}");
}
