//! BIRD is killed and started again, or restarts, on each router in each state of a migration.

use crate::judging::{Gaps, assert_reachable, is_replaced};
use cutover_tests::fabric::{BGP_METRIC, Daemon, Fabric, Place, Shape, Who, gaps};
use cutover_tests::scene::{ELEVATED, NORMAL, SOURCE, TARGET};
use cutover_tests::{Bird, frames};
use ipnet::IpNet;
use std::time::Duration;

/// Less than this is what a peer was without routes after 2 of some 1,000 kills and restarts, on a busy machine: 2.03 s (IPv4) and 2.15 s
/// (IPv6). It is as long as BIRD waits after an error and before it connects again, so the first session after the start may have failed.
const SECOND_START: Duration = Duration::from_secs(4);
/// So often in one test, each on one router. Two of them in the restarts of one test are a matter of 1 in some thousand runs.
const SECOND_STARTS: usize = 1;

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
    let mut second_starts = 0;
    let mut each = |fabric: &mut Fabric, place, metric, state| {
        second_starts += on_each_router(fabric, &restart, place, metric, state);
        assert!(second_starts <= SECOND_STARTS, "a peer was without routes for a moment, again");
    };
    each(&mut fabric, Place::Source, NORMAL, "normal");

    fabric.scene.start_migration();
    each(&mut fabric, Place::Source, NORMAL, "migrating");

    let mac = fabric.port().mac;
    fabric.scene.move_vm(|qemu| qemu.send(&frames::rarp(mac)));
    fabric.wait_at_target();
    each(&mut fabric, Place::Target, ELEVATED, "arrived, the source has its route still");

    fabric.scene.driver.unbind(SOURCE);
    fabric.scene.driver.withdraw(TARGET);
    fabric.scene.source.wait_metrics(fabric.port(), &[BGP_METRIC]);
    each(&mut fabric, Place::Target, ELEVATED, "converging");
}

/// Returns how often a peer was without routes for a moment; for longer, and otherwise, nobody was.
#[track_caller]
fn on_each_router(
    fabric: &mut Fabric,
    restart: &impl Fn(&mut Bird),
    place: Place,
    metric: u32,
    state: &str,
) -> usize {
    let mut second_starts = 0;
    for who in [Who::Source, Who::Target, Who::Third] {
        fabric.wait_tables(metric);
        let marks = fabric.marks();
        restart(fabric.speaker(who).bird_mut());
        fabric.wait_established();
        fabric.wait_tables(metric);
        let routes = || fabric.router(Who::Third).watch.routes_to(fabric.port().ipv4());
        assert!(fabric.is_at(place), "{state}, {who:?}: {:#?}", routes());
        for (router, mark) in fabric.routers().into_iter().zip(marks) {
            let name = format!("{state}, {who:?}, on {}", router.name());
            let history = router.watch.since(mark);
            let is_second_start = |to: &IpNet| {
                let gaps = gaps(&history, *to);
                gaps.len() == 1 && gaps[0] < SECOND_START && !is_replaced(&gaps, *to)
            };
            let (second, usual): (Vec<_>, Vec<_>) =
                fabric.port().routed().into_iter().partition(is_second_start);
            // A session has both families.
            second_starts += usize::from(!second.is_empty());
            usual.into_iter().for_each(|to| assert_reachable(&name, &history, to, Gaps::Ipv6));
        }
    }
    second_starts
}
