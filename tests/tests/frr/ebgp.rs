//! Between ASes: priority travels as a community through a ToR.

use crate::by_hand::{ByHand, ELEVATED, NORMAL};
use cutover_tests::fabric::{CONVERGED, Leads, Place, Shape, Who, ZEBRA_METRIC};
use cutover_tests::wait;

#[test]
fn a_migration_behind_a_tor() {
    let fabric = ByHand::new(Shape::Tor);
    let tor = fabric.frr(Who::Middle);
    fabric.assert_arrives(Who::Middle, Place::Source);
    for to in fabric.machine() {
        let best = tor.best(to).unwrap();
        assert_eq!((best.communities.as_str(), best.autonomous_systems.as_str()), ("", "64513"), "{to}");
    }
    let marks = fabric.fabric.marks();

    fabric.install(Place::Target, ELEVATED);
    assert!(fabric.delivers(Place::Target), "the target delivers from the first moment");
    wait::until(CONVERGED, "the ToR prefers the target", || {
        fabric.machine().iter().all(|&to| {
            tor.best(to).is_some_and(|best| {
                best.communities == "65000:100"
                    && best.autonomous_systems == "64514"
                    && best.preference == Some(200)
            })
        })
    });
    wait::until(CONVERGED, "its kernel does", || fabric.sends(Who::Middle, Place::Target));
    wait::until(CONVERGED, "the source sends to the ToR and keeps its own route", || {
        let watch = fabric.router(Who::Source).watch;
        fabric.machine().iter().all(|&to| watch.metrics_to(to) == [ZEBRA_METRIC, NORMAL])
    });
    wait::until(CONVERGED, "the third host hears of it", || {
        fabric
            .machine()
            .iter()
            .all(|&to| fabric.frr(Who::Third).best(to).is_some_and(|best| best.communities == "65000:100"))
    });
    for from in [Who::Middle, Who::Source, Who::Third] {
        fabric.assert_arrives(from, Place::Target);
    }

    fabric.remove(Place::Source, NORMAL);
    fabric.install(Place::Target, NORMAL);
    fabric.remove(Place::Target, ELEVATED);
    wait::until(CONVERGED, "the community goes", || {
        [Who::Middle, Who::Third, Who::Source].into_iter().all(|who| {
            let is_plain = |to| fabric.frr(who).best(to).is_some_and(|best| best.communities.is_empty());
            fabric.machine().into_iter().all(is_plain)
        })
    });
    fabric.assert_arrives(Who::Third, Place::Target);
    fabric.assert_nobody_was_without(&marks);
    for to in fabric.machine() {
        let metrics = fabric.router(Who::Target).watch.since(marks[1]).metrics(to);
        let expected: [&[u32]; 5] =
            [&[ZEBRA_METRIC], &[ELEVATED, ZEBRA_METRIC], &[ELEVATED], &[ELEVATED, NORMAL], &[NORMAL]];
        assert_eq!(metrics, expected, "the target never sends away what it has: {to}");
    }
}

/// Hosts are no routers between ToRs: what they have learnt they do not tell.
#[test]
fn hosts_tell_only_what_begins_on_them() {
    let fabric = ByHand::new(Shape::Tor);
    for to in fabric.machine() {
        assert!(matches!(fabric.router(Who::Third).leads(to), Leads::Via(_)));
        let family = if to.addr().is_ipv4() { "ipv4" } else { "ipv6" };
        let peer = if to.addr().is_ipv4() { "10.98.3.1" } else { "fd98:3::1" };
        let question = format!("show bgp {family} unicast neighbors {peer} advertised-routes json");
        let told = fabric.frr(Who::Third).show(&question);
        assert_eq!(told["totalPrefixCounter"], 0, "{told}");
        assert_eq!(fabric.frr(Who::Middle).best(to).unwrap().autonomous_systems, "64513");
    }
}
