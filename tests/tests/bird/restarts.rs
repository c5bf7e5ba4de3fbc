//! BIRD is killed and started again, or restarts, on each router in each state of a migration.

use crate::judging::{assert_reachable, wait_tables};
use cutover_tests::fabric::{BGP_METRIC, Fabric, Place, Shape};
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
    let mut fabric = Fabric::with(Shape::Mesh, |agent| agent.set("LiveMigrationRouteConvergenceTime", 3600));
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
    for who in 0..3 {
        wait_tables(fabric, metric);
        let marks: Vec<_> = fabric.watches().into_iter().map(|(_, watch)| watch.mark()).collect();
        restart(match who {
            0 => &mut fabric.source,
            1 => &mut fabric.target,
            _ => &mut fabric.third.bird,
        });
        fabric.wait_established();
        wait_tables(fabric, metric);
        assert!(
            fabric.is_at(place),
            "{state}, router {who}: {:#?}",
            fabric.third.watch.routes_to(fabric.port().ipv4())
        );
        for ((name, watch), mark) in fabric.watches().into_iter().zip(marks) {
            for to in fabric.port().routed() {
                assert_reachable(&format!("{state}, router {who}, on {name}"), &watch.since(mark), to);
            }
        }
    }
}
