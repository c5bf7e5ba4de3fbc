//! Inside of one AS: priority travels as LOCAL_PREF, from host to host and through a reflector.

use crate::by_hand::{ByHand, ELEVATED, ELEVATED_PREFERENCE, HOSTS, NORMAL, NORMAL_PREFERENCE};
use cutover_tests::fabric::{CONVERGED, Place, Shape, Who, ZEBRA_METRIC};
use cutover_tests::wait;
use ipnet::IpNet;
use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::Duration;

/// Two daemons wait 50 ms, a reflector another 50.
const SETTLES: Duration = Duration::from_millis(400);

#[test]
fn a_migration_in_a_full_mesh() {
    migration(&ByHand::new(Shape::Mesh));
}

#[test]
fn a_migration_through_a_reflector() {
    let fabric = ByHand::new(Shape::Reflector);
    migration(&fabric);
    for to in fabric.machine() {
        let preference = fabric.frr(Who::Middle).best(to).unwrap().preference;
        assert_eq!(preference, Some(NORMAL_PREFERENCE.into()), "{to}");
    }
}

/// Normal, elevated, the source goes, normal again.
fn migration(fabric: &ByHand) {
    assert!(fabric.delivers(Place::Source));
    assert!(fabric.sends(Who::Target, Place::Source) && fabric.sends(Who::Third, Place::Source));
    fabric.wait_preference(NORMAL_PREFERENCE);
    fabric.assert_arrives(Who::Third, Place::Source);
    let marks = fabric.fabric.marks();

    fabric.install(Place::Target, ELEVATED);
    assert!(fabric.delivers(Place::Target), "the target delivers from the first moment");
    wait::until(CONVERGED, "the third host follows", || fabric.sends(Who::Third, Place::Target));
    wait::until(CONVERGED, "the source follows", || fabric.sends(Who::Source, Place::Target));
    assert!(fabric.delivers(Place::Target));
    fabric.wait_preference(ELEVATED_PREFERENCE);
    for to in fabric.machine() {
        let [source, target, third] = HOSTS.map(|who| fabric.router(who).watch.metrics_to(to));
        assert_eq!(source, [ZEBRA_METRIC, NORMAL], "the source has its own route still");
        assert_eq!(target, [ELEVATED], "zebra took the old way away");
        assert_eq!(third, [ZEBRA_METRIC]);
    }
    fabric.assert_arrives(Who::Source, Place::Target);
    fabric.assert_arrives(Who::Third, Place::Target);

    fabric.remove(Place::Source, NORMAL);
    wait::throughout(SETTLES, "nothing changes", || {
        fabric.sends(Who::Source, Place::Target) && fabric.sends(Who::Third, Place::Target)
    });
    fabric.install(Place::Target, NORMAL);
    fabric.remove(Place::Target, ELEVATED);
    fabric.wait_preference(NORMAL_PREFERENCE);
    assert!(HOSTS.into_iter().all(|who| fabric.sends(who, Place::Target)));
    for (who, mark) in HOSTS.into_iter().zip(&marks) {
        fabric.assert_never_without(who, *mark);
    }
    for to in fabric.machine() {
        let metrics = fabric.router(Who::Target).watch.since(marks[1]).metrics(to);
        let expected: [&[u32]; 5] =
            [&[ZEBRA_METRIC], &[ELEVATED, ZEBRA_METRIC], &[ELEVATED], &[ELEVATED, NORMAL], &[NORMAL]];
        assert_eq!(metrics, expected, "{to}");
    }
}

/// The source's agent is late: the target is normal again while the source still has its route. Remote routes of
/// normal priority do not win over local ones.
#[test]
fn a_source_that_stays_takes_its_own_route_again() {
    let fabric = ByHand::new(Shape::Mesh);
    fabric.install(Place::Target, ELEVATED);
    wait::until(CONVERGED, "the source follows", || fabric.sends(Who::Source, Place::Target));
    let marks = fabric.fabric.marks();
    fabric.install(Place::Target, NORMAL);
    fabric.remove(Place::Target, ELEVATED);
    wait::until(CONVERGED, "the source goes back to its own", || fabric.delivers(Place::Source));
    assert!(fabric.delivers(Place::Target));
    fabric.assert_nobody_was_without(&marks);
}

/// What is not a machine's stays on the host: other prefix lengths, other metrics.
#[test]
fn only_routes_of_machines_are_told() {
    let fabric = ByHand::new(Shape::Mesh);
    let others: [(&str, u32); 6] = [
        ("10.66.0.0/24", NORMAL),
        ("10.66.1.1/32", 0),
        ("10.66.1.2/32", 1024),
        ("2001:db8:66::/64", NORMAL),
        ("2001:db8:67::1/128", 1024),
        ("2001:db8:67::2/128", ELEVATED + 1),
    ];
    let others = others.map(|(to, metric)| (to.parse::<IpNet>().unwrap(), metric));
    for (to, metric) in others {
        fabric.install_all(Place::Source, [to], metric);
    }
    // A machine's comes after everything that these could have sent.
    let witnesses: [IpNet; 2] = ["10.66.2.1/32", "2001:db8:68::1/128"].map(|to| to.parse().unwrap());
    fabric.install_all(Place::Source, witnesses, NORMAL);
    let third = fabric.router(Who::Third);
    wait::until(CONVERGED, "the witnesses arrive", || {
        witnesses.iter().all(|&to| !third.watch.routes_to(to).is_empty())
    });
    for (to, _) in others {
        assert_eq!(third.watch.routes_to(to), BTreeSet::new(), "{to}");
        assert_eq!(fabric.frr(Who::Source).best(to), None, "{to}");
    }
}

/// Two hundred machines move in the same second, and each of them follows the same rules.
#[test]
fn two_hundred_machines_at_once() {
    let fabric = ByHand::new(Shape::Mesh);
    let machines: Vec<IpNet> = (0..200)
        .flat_map(|number| [format!("10.66.0.{number}/32"), format!("2001:db8:66::{number:x}/128")])
        .map(|address| address.parse().unwrap())
        .collect();
    let has = |who, metrics: &[u32]| {
        let routes = fabric.router(who).watch.routes();
        machines.iter().all(|to| {
            let own = routes.iter().filter(|route| route.destination == *to).map(|route| route.metric);
            own.collect::<Vec<_>>() == metrics
        })
    };
    let third_sends_to = |hops: &[IpAddr]| {
        let routes = fabric.router(Who::Third).watch.routes();
        machines.iter().all(|to| {
            let mut own = routes.iter().filter(|route| route.destination == *to);
            own.all(|route| route.gateway.is_some_and(|hop| hops.contains(&hop)))
        })
    };
    fabric.install_all(Place::Source, machines.iter().copied(), NORMAL);
    wait::until(CONVERGED, "the target knows all", || has(Who::Target, &[ZEBRA_METRIC]));
    wait::until(CONVERGED, "the third host knows all", || has(Who::Third, &[ZEBRA_METRIC]));
    assert!(third_sends_to(fabric.fabric.hops(Who::Source)));
    let marks = fabric.fabric.marks();
    fabric.install_all(Place::Target, machines.iter().copied(), ELEVATED);
    wait::until(CONVERGED, "the target has only its own", || has(Who::Target, &[ELEVATED]));
    wait::until(CONVERGED, "the source sends them after", || has(Who::Source, &[ZEBRA_METRIC, NORMAL]));
    let hops = fabric.fabric.hops(Who::Target);
    wait::until(CONVERGED, "the third host follows", || third_sends_to(hops));
    for (who, mark) in HOSTS.into_iter().zip(marks) {
        let history = fabric.router(who).watch.since(mark);
        machines.iter().for_each(|to| history.assert_never_without(*to));
    }
}
