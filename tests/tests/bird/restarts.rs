//! BIRD is killed and started again, or restarts, on each router in each state of a migration.

use crate::judging::{Gaps, assert_reachable};
use cutover_tests::fabric::{BGP_METRIC, Daemon, Fabric, Place, Shape, Who, gaps};
use cutover_tests::scene::{ELEVATED, NORMAL, SOURCE, TARGET};
use cutover_tests::{Bird, frames};
use std::time::Duration;

/// Less than this is what a peer was once without an IPv4 route: 2.03 s after 1 of some 700 kills and restarts, on a busy machine. It
/// is as long as BIRD waits after an error and before it connects again, so the first session after the start may have failed.
const SECOND_START: Duration = Duration::from_secs(8);
/// One of so many is without that.
const ATTEMPTS: usize = 3;

#[test]
fn killed_in_each_state() {
    in_each_state(|bird| {
        bird.kill();
        bird.recover();
    });
}

#[test]
fn restarted_gracefully_in_each_state() {
    in_each_state(Bird::restart_gracefully);
}

/// Kernels and tables say the same before and after, and nobody is without a route in between.
fn in_each_state(restart: impl Fn(&mut Bird)) {
    // States last as long as the test wants them to.
    let mut fabric = Fabric::with(Daemon::Bird, Shape::Mesh, |agent| {
        agent.set("LiveMigrationRouteConvergenceTime", 3600);
    });
    each(&mut fabric, &restart, Place::Source, NORMAL, "normal");

    fabric.scene.start_migration();
    each(&mut fabric, &restart, Place::Source, NORMAL, "migrating");

    let mac = fabric.port().mac;
    fabric.scene.move_vm(|qemu| qemu.send(&frames::rarp(mac)));
    fabric.wait_at_target();
    each(&mut fabric, &restart, Place::Target, ELEVATED, "arrived, the source has its route still");

    fabric.scene.driver.unbind(SOURCE);
    fabric.scene.driver.withdraw(TARGET);
    fabric.scene.source.wait_metrics(fabric.port(), &[BGP_METRIC]);
    each(&mut fabric, &restart, Place::Target, ELEVATED, "converging");
}

fn each(fabric: &mut Fabric, restart: &impl Fn(&mut Bird), place: Place, metric: u32, state: &str) {
    for who in [Who::Source, Who::Target, Who::Third] {
        let name = format!("{state}, {who:?}");
        let mut attempts = 1;
        while !is_reachable_throughout(fabric, restart, (who, place), metric, &name, attempts == ATTEMPTS) {
            attempts += 1;
        }
    }
}

/// Restarts one of them. Says whether nobody was without a route; the last attempt asserts that.
#[track_caller]
fn is_reachable_throughout(
    fabric: &mut Fabric,
    restart: &impl Fn(&mut Bird),
    (who, place): (Who, Place),
    metric: u32,
    name: &str,
    is_last: bool,
) -> bool {
    fabric.wait_tables(metric);
    let marks = fabric.marks();
    restart(fabric.speaker(who).bird_mut());
    fabric.wait_established();
    fabric.wait_tables(metric);
    let routes = || fabric.router(Who::Third).watch.routes_to(fabric.port().ipv4());
    assert!(fabric.is_at(place), "{name}: {:#?}", routes());
    for (router, mark) in fabric.routers().into_iter().zip(marks) {
        let name = format!("{name}, on {}", router.name());
        let history = router.watch.since(mark);
        for to in fabric.port().routed() {
            let gaps = gaps(&history, to);
            let is_second_start = !gaps.is_empty() && gaps.iter().all(|gap| *gap < SECOND_START);
            if to.addr().is_ipv4() && is_second_start && !is_last {
                return false;
            }
            assert_reachable(&name, &history, to, Gaps::Ipv6);
        }
    }
    true
}
