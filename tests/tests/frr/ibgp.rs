//! Inside of one AS: priority travels as LOCAL_PREF, from host to host and through a reflector.

use crate::fabric::{
    CONVERGED, ELEVATED, ELEVATED_PREFERENCE, Fabric, NORMAL, NORMAL_PREFERENCE, ZEBRA, assert_arrives,
    machine,
};
use cutover_tests::wait;
use ipnet::IpNet;
use std::collections::BTreeSet;
use std::time::Duration;

/// Two daemons wait 50 ms, a reflector another 50.
const SETTLES: Duration = Duration::from_millis(400);

#[test]
fn a_migration_in_a_full_mesh() {
    migration(&Fabric::mesh());
}

#[test]
fn a_migration_through_a_reflector() {
    let fabric = Fabric::reflector();
    migration(&fabric);
    let reflector = &fabric.middle.as_ref().unwrap().frr;
    for to in machine() {
        assert_eq!(reflector.best(to).unwrap().preference, Some(NORMAL_PREFERENCE), "{to}");
    }
}

/// Normal, elevated, the source goes, normal again.
fn migration(fabric: &Fabric) {
    let Fabric { source, target, third, .. } = fabric;
    fabric.settle();
    assert!(source.delivers() && target.sends_to(source) && third.sends_to(source));
    for node in [source, target, third] {
        node.wait_preference(NORMAL_PREFERENCE);
    }
    assert_arrives(third.host.namespace(), &source.qemu, &target.qemu);
    let marks = [source, target, third].map(|node| node.watch.mark());

    target.install(ELEVATED);
    assert!(target.delivers(), "the target delivers from the first moment");
    wait::until(CONVERGED, "the third host follows", || third.sends_to(target));
    wait::until(CONVERGED, "the source follows", || source.sends_to(target));
    assert!(target.delivers());
    for node in [source, target, third] {
        node.wait_preference(ELEVATED_PREFERENCE);
    }
    for to in machine() {
        assert_eq!(source.watch.metrics_to(to), [ZEBRA, NORMAL], "the source has its own route still");
        assert_eq!(target.watch.metrics_to(to), [ELEVATED], "zebra took the old way away");
        assert_eq!(third.watch.metrics_to(to), [ZEBRA]);
    }
    assert_arrives(source.host.namespace(), &target.qemu, &source.qemu);
    assert_arrives(third.host.namespace(), &target.qemu, &source.qemu);

    source.remove(NORMAL);
    wait::throughout(SETTLES, "nothing changes", || source.sends_to(target) && third.sends_to(target));
    target.install(NORMAL);
    target.remove(ELEVATED);
    for node in [source, target, third] {
        node.wait_preference(NORMAL_PREFERENCE);
    }
    assert!(target.delivers() && source.sends_to(target) && third.sends_to(target));
    for (node, mark) in [source, target, third].into_iter().zip(marks) {
        node.assert_never_without(mark);
    }
    for to in machine() {
        let metrics = target.watch.since(marks[1]).metrics(to);
        let expected: [&[u32]; 5] =
            [&[ZEBRA], &[ELEVATED, ZEBRA], &[ELEVATED], &[ELEVATED, NORMAL], &[NORMAL]];
        assert_eq!(metrics, expected, "{to}");
    }
}

/// The source's agent is late: the target is normal again while the source still has its route. Remote routes of
/// normal priority do not win over local ones.
#[test]
fn a_source_that_stays_takes_its_own_route_again() {
    let fabric = Fabric::mesh();
    let Fabric { source, target, third, .. } = &fabric;
    fabric.settle();
    target.install(ELEVATED);
    wait::until(CONVERGED, "the source follows", || source.sends_to(target));
    let marks = [source, target, third].map(|node| node.watch.mark());
    target.install(NORMAL);
    target.remove(ELEVATED);
    wait::until(CONVERGED, "the source goes back to its own", || source.delivers());
    assert!(target.delivers());
    for (node, mark) in [source, target, third].into_iter().zip(marks) {
        node.assert_never_without(mark);
    }
}

/// What is not a machine's stays on the host: other prefix lengths, other metrics.
#[test]
fn only_routes_of_machines_are_told() {
    let fabric = Fabric::mesh();
    let Fabric { source, third, .. } = &fabric;
    let others: [(&str, u32); 6] = [
        ("10.66.0.0/24", NORMAL),
        ("10.66.1.1/32", 0),
        ("10.66.1.2/32", 1024),
        ("2001:db8:66::/64", NORMAL),
        ("2001:db8:67::1/128", 1024),
        ("2001:db8:67::2/128", ELEVATED + 1),
    ];
    for (to, metric) in others {
        source.install_all([to.parse().unwrap()], metric);
    }
    fabric.settle();
    for (to, _) in others {
        let to: IpNet = to.parse().unwrap();
        assert_eq!(third.watch.routes_to(to), BTreeSet::new(), "{to}");
        assert_eq!(source.frr.best(to), None, "{to}");
    }
}

/// Two hundred machines move in the same second, and each of them follows the same rules.
#[test]
fn two_hundred_machines_at_once() {
    let fabric = Fabric::mesh();
    let Fabric { source, target, third, .. } = &fabric;
    let machines: Vec<IpNet> = (0..200)
        .flat_map(|number| [format!("10.66.0.{number}/32"), format!("2001:db8:66::{number:x}/128")])
        .map(|address| address.parse().unwrap())
        .collect();
    source.install_all(machines.iter().copied(), NORMAL);
    let has = |node: &crate::fabric::Node, metrics: &[u32]| {
        let history = node.watch.history().current();
        machines.iter().all(|to| {
            let own = history.iter().filter(|route| route.destination == *to).map(|route| route.metric);
            own.collect::<Vec<_>>() == metrics
        })
    };
    wait::until(CONVERGED, "the target knows all", || has(target, &[ZEBRA]));
    wait::until(CONVERGED, "the third host knows all", || has(third, &[ZEBRA]));
    let marks = [source, target, third].map(|node| node.watch.mark());
    target.install_all(machines.iter().copied(), ELEVATED);
    wait::until(CONVERGED, "the target has only its own", || has(target, &[ELEVATED]));
    wait::until(CONVERGED, "the source sends them after", || has(source, &[ZEBRA, NORMAL]));
    let hops = target.addresses();
    wait::until(CONVERGED, "the third host follows", || {
        let routes = third.watch.history().current();
        machines.iter().all(|to| {
            let mut own = routes.iter().filter(|route| route.destination == *to);
            own.all(|route| route.gateway.is_some_and(|hop| hops.contains(&hop)))
        })
    });
    for (node, mark) in [source, target, third].into_iter().zip(marks) {
        let history = node.watch.since(mark);
        machines.iter().for_each(|to| history.assert_never_without(*to));
    }
}
