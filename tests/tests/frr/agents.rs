//! The whole way with real agents: from the announcement on the target's tap to the kernel of a third host.

use crate::by_hand::{ELEVATED, NORMAL};
use cutover_tests::fabric::{CONVERGED, Daemon, Fabric, Place, Shape, Who, ZEBRA_METRIC};
use cutover_tests::scene::{SOURCE, TARGET};
use cutover_tests::{Agent, frames, wait};
use ipnet::IpNet;

#[test]
fn from_the_announcement_to_the_third_host_and_back_to_normal() {
    let mut fabric = Fabric::new(Daemon::Frr, Shape::Mesh);
    fabric.scene.start_migration();
    assert!(fabric.is_at(Place::Source));
    let marks = fabric.marks();

    let mac = fabric.port().mac;
    fabric.scene.move_vm(|qemu| qemu.send(&frames::rarp(mac)));
    fabric.scene.target.wait_metrics(fabric.port(), &[ELEVATED]);
    wait::until(CONVERGED, "the third host follows", || fabric.sends(Who::Third, Place::Target));
    // The driver has said nothing yet: the source still has its own route and sends the rest after the VM.
    fabric.scene.source.wait_metrics_within(CONVERGED, fabric.port(), &[ZEBRA_METRIC, NORMAL]);

    fabric.scene.driver.succeed(SOURCE, TARGET);
    fabric.scene.source.wait_metrics(fabric.port(), &[ZEBRA_METRIC]);
    fabric.scene.target.wait_metrics(fabric.port(), &[NORMAL]);
    fabric.wait_tables(NORMAL);
    assert!(fabric.is_at(Place::Target));
    for (router, mark) in fabric.routers().into_iter().zip(marks) {
        let history = router.watch.since(mark);
        fabric.port().routed().into_iter().for_each(|to| history.assert_never_without(to));
    }
}

/// Within the convergence time: two hosts that are elevated together would share the traffic.
#[test]
fn there_and_back_and_there_in_a_row() {
    let long = |agent: &mut Agent| agent.set("LiveMigrationRouteConvergenceTime", 60);
    Fabric::with(Daemon::Frr, Shape::Mesh, long).go_there_and_back_and_there();
}

/// A failed migration reaches nobody: neither the priority nor the target's route, nor a moment without one.
#[test]
fn a_failed_migration_reaches_nobody() {
    let fabric = Fabric::new(Daemon::Frr, Shape::Mesh);
    let marks = fabric.marks();
    fabric.scene.start_migration();
    fabric.scene.driver.roll_back(SOURCE, TARGET);
    fabric.scene.target.wait_state(fabric.port(), "Base");
    // Somebody else's change comes after everything that the migration could have sent.
    let to: IpNet = "10.65.9.9/32".parse().unwrap();
    let target = fabric.router(Who::Target).host.namespace();
    target.ip(&format!("route add {to} dev eth0 proto 4 scope link metric {ELEVATED}"));
    let third = fabric.router(Who::Third);
    wait::until(CONVERGED, "the witness arrives", || !third.watch.routes_to(to).is_empty());
    for (router, mark) in fabric.routers().into_iter().zip(marks) {
        for to in fabric.port().routed() {
            let still = if router.name() == SOURCE { NORMAL } else { ZEBRA_METRIC };
            assert_eq!(router.watch.since(mark).metrics(to), [[still]], "{to} on {}", router.name());
        }
    }
    assert!(fabric.is_at(Place::Source));
}
