//! BIRD is killed and started again, or restarts, on each router in each state of a migration.

use crate::judging::{Gaps, assert_reachable};
use cutover_tests::fabric::{BGP_METRIC, Daemon, Fabric, Place, Shape, Who};
use cutover_tests::scene::{ELEVATED, NORMAL, SOURCE, TARGET};
use cutover_tests::{Bird, frames};

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
        fabric.wait_tables(metric);
        let marks = fabric.marks();
        restart(fabric.speaker(who).bird_mut());
        fabric.wait_established();
        fabric.wait_tables(metric);
        assert!(
            fabric.is_at(place),
            "{state}, {who:?}: {:#?}",
            fabric.router(Who::Third).watch.routes_to(fabric.port().ipv4())
        );
        for (router, mark) in fabric.routers().into_iter().zip(marks) {
            let name = format!("{state}, {who:?}, on {}", router.name());
            for to in fabric.port().routed() {
                assert_reachable(&name, &router.watch.since(mark), to, Gaps::Ipv6);
            }
        }
    }
}
