//! What a third host of a full mesh sees when two sessions race. Many machines go to and fro, again and again.
//!
//! With FRR nothing of ADD-PATH would help: zebra tells bgpd of the kernel's route for as long as it uses that one itself, so
//! the source's announcement ends when it sends to the target. bgpd's 50 ms make that late enough.

use crate::by_hand::{ByHand, ELEVATED, NORMAL, NORMAL_PREFERENCE};
use cutover_tests::fabric::{CONVERGED, Place, Shape, Who, ZEBRA_METRIC};
use cutover_tests::wait;
use ipnet::IpNet;
use std::net::IpAddr;

/// Each takes some seconds: the daemons wait 50 ms and more at every step.
const ROUNDS: usize = 8;
const MACHINES: u8 = 50;

#[test]
fn a_third_host_always_has_a_route() {
    let mesh = ByHand::new(Shape::Mesh);
    let (mut from, mut to) = (Place::Source, Place::Target);
    mesh.install_all(from, machines(), NORMAL);
    wait_sends(&mesh, Who::Third, from);
    wait_sends(&mesh, to.into(), from);
    let marks = mesh.fabric.marks();
    for _ in 0..ROUNDS {
        mesh.install_all(to, machines(), ELEVATED);
        wait_sends(&mesh, Who::Third, to);
        wait_sends(&mesh, from.into(), to);
        mesh.remove_all(from, machines(), NORMAL);
        // ORDER: the convergence time, in which zebra hears of that. On a machine that is too busy for it, zebra (8.4.4) would believe that
        // the kernel's route, which is gone, is better than the one that bgpd has by then, and take that out.
        wait_forgotten(&mesh, from);
        mesh.install_all(to, machines(), NORMAL);
        mesh.remove_all(to, machines(), ELEVATED);
        wait_metrics(&mesh, to, NORMAL);
        wait_metrics(&mesh, from, ZEBRA_METRIC);
        for machine in machines() {
            let is_normal = || {
                let path = mesh.router(Who::Third).speaker.path(machine);
                path.and_then(|path| path.preference) == Some(NORMAL_PREFERENCE)
            };
            wait::until(CONVERGED, format_args!("{machine} is normal"), is_normal);
        }
        std::mem::swap(&mut from, &mut to);
    }
    for (router, mark) in mesh.fabric.routers().into_iter().zip(marks) {
        let history = router.watch.since(mark);
        machines().for_each(|machine| history.assert_never_without(machine));
    }
}

fn machines() -> impl Iterator<Item = IpNet> {
    (1..=MACHINES).map(|number| IpNet::from(IpAddr::from([10, 65, 7, number])))
}

#[track_caller]
fn wait_sends(mesh: &ByHand, who: Who, place: Place) {
    let (router, hops) = (mesh.router(who), mesh.fabric.hops(place.into()));
    let sends = || {
        machines().all(|machine| {
            let routes = router.watch.routes_to(machine);
            routes.iter().any(|route| route.gateway.is_some_and(|hop| hops.contains(&hop)))
        })
    };
    wait::until(CONVERGED, format_args!("{} sends everything to the {place:?}", router.name()), sends);
}

/// zebra has no route of the kernel's any more.
#[track_caller]
fn wait_forgotten(mesh: &ByHand, place: Place) {
    let zebra = mesh.router(place.into()).speaker.frr();
    let is_so = || {
        let routes = zebra.show("show ip route kernel json");
        routes
            .as_object()
            .is_some_and(|routes| !machines().any(|machine| routes.contains_key(&machine.to_string())))
    };
    wait::until(CONVERGED, format_args!("zebra of the {place:?} has heard of the removal"), is_so);
}

#[track_caller]
fn wait_metrics(mesh: &ByHand, place: Place, metric: u32) {
    let watch = mesh.router(place.into()).watch;
    let has = || machines().all(|machine| watch.metrics_to(machine) == [metric]);
    wait::until(CONVERGED, format_args!("all routes of the {place:?} have metric {metric}"), has);
}
