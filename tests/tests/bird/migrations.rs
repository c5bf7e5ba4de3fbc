//! A migration from the first to the last priority, in each shape of fabric, and one that fails.

use crate::judging::{Gaps, assert_answers, assert_reachable};
use cutover_tests::fabric::{BGP_METRIC, CONVERGED, Daemon, Fabric, Leads, Place, Shape, leads};
use cutover_tests::scene::{ELEVATED, NORMAL, SOURCE, TARGET};
use cutover_tests::{Agent, RouteWatch, frames, probe, wait};
use std::time::Duration;

#[test]
fn in_a_full_mesh() {
    migrate(&mut Fabric::new(Daemon::Bird, Shape::Mesh), Gaps::Ipv6);
}

#[test]
fn through_a_reflector() {
    migrate(&mut Fabric::new(Daemon::Bird, Shape::Reflector), Gaps::Ipv6);
}

#[test]
fn through_a_tor() {
    let mut fabric = Fabric::new(Daemon::Bird, Shape::Tor);
    migrate(&mut fabric, Gaps::Ipv6);
    let behind = fabric.behind.as_ref().unwrap();
    for to in fabric.port().routed() {
        assert!(
            probe::answers(behind.namespace(), to.addr()),
            "{to} does not answer to a host behind the ToR"
        );
    }
}

/// Within the convergence time: two hosts that are elevated together would share the traffic.
#[test]
fn there_and_back_and_there_in_a_row() {
    let long = |agent: &mut Agent| agent.set("LiveMigrationRouteConvergenceTime", 60);
    Fabric::with(Daemon::Bird, Shape::Mesh, long).go_there_and_back_and_there();
}

/// With what is allowed on routers that have nothing to do with the VM.
pub(crate) fn migrate(fabric: &mut Fabric, elsewhere: Gaps) {
    fabric.wait_tables(NORMAL);
    assert_answers(fabric);
    let marks = fabric.marks();

    fabric.scene.start_migration();
    assert!(fabric.is_at(Place::Source), "nobody hears of the target before the VM runs there");

    let mac = fabric.port().mac;
    fabric.scene.move_vm(|qemu| qemu.send(&frames::rarp(mac)));
    fabric.wait_at_target();
    fabric.wait_tables(ELEVATED);
    for to in fabric.port().routed() {
        let metrics = |watch: &RouteWatch| watch.metrics_to(to);
        assert_eq!(
            metrics(&fabric.scene.source.watch),
            [BGP_METRIC, NORMAL],
            "the source has its own route still"
        );
        wait::until(CONVERGED, "BIRD takes the old way out of the target", || {
            metrics(&fabric.scene.target.watch) == [ELEVATED]
        });
    }
    assert_answers(fabric);

    fabric.scene.driver.unbind(SOURCE);
    fabric.scene.driver.withdraw(TARGET);
    fabric.scene.target.wait_metrics(fabric.port(), &[NORMAL]);
    fabric.wait_tables(NORMAL);
    assert!(fabric.is_at(Place::Target));
    assert_answers(fabric);

    for (router, mark) in fabric.routers().into_iter().zip(&marks) {
        let (name, history) = (router.name(), router.watch.since(*mark));
        for to in fabric.port().routed() {
            let allowed = if [SOURCE, TARGET].contains(&name) { Gaps::Ipv6 } else { elsewhere };
            assert_reachable(name, &history, to, allowed);
            let expected: &[&[u32]] = match name {
                SOURCE => &[&[NORMAL], &[BGP_METRIC, NORMAL], &[BGP_METRIC]],
                TARGET => {
                    &[&[BGP_METRIC], &[ELEVATED, BGP_METRIC], &[ELEVATED], &[ELEVATED, NORMAL], &[NORMAL]]
                }
                _ => continue,
            };
            assert_eq!(history.metrics(to), expected, "{name} {to}");
        }
    }
    let last = fabric.last_hop();
    let position = fabric.routers().into_iter().position(|router| router.name() == last.name());
    let mark = marks[position.expect("it is one of the routers")];
    for to in fabric.port().routed() {
        let hops = |place| Leads::Via(fabric.address(place, to.addr().is_ipv4()));
        let steps: Vec<Leads> = last
            .watch
            .since(mark)
            .moments(to)
            .iter()
            .map(|moment| leads(&moment.routes))
            .filter(|leads| *leads != Leads::Nowhere)
            .collect();
        assert_eq!(steps, [hops(Place::Source), hops(Place::Target)], "one step for {to}");
    }
}

/// A failed migration never had a route on the target, so nobody hears of one.
#[test]
fn a_failed_migration_reaches_nobody() {
    for shape in [Shape::Mesh, Shape::Tor] {
        let fabric = Fabric::new(Daemon::Bird, shape);
        fabric.wait_tables(NORMAL);
        let marks = fabric.marks();
        fabric.scene.start_migration();
        fabric.scene.driver.roll_back(SOURCE, TARGET);
        fabric.scene.target.wait_state(fabric.port(), "Base");
        // Longer than the grace of an endpoint that vanished.
        wait::throughout(Duration::from_secs(4), "at the source", || fabric.is_at(Place::Source));
        for (router, mark) in fabric.routers().into_iter().zip(marks) {
            for to in fabric.port().routed() {
                let moments = router.watch.since(mark).moments(to);
                assert_eq!(moments.len(), 1, "{}: a route to {to} has changed", router.name());
            }
        }
        fabric.wait_tables(NORMAL);
    }
}
