//! Between ASes: priority travels as a community through a ToR.

use crate::fabric::{
    CONVERGED, ELEVATED, Fabric, Leads, NORMAL, ZEBRA, assert_arrives, machine, sends_through,
};
use cutover_tests::wait;
use std::net::IpAddr;

#[test]
fn a_migration_behind_a_tor() {
    let fabric = Fabric::tor();
    let Fabric { source, target, third, middle, .. } = &fabric;
    let tor = middle.as_ref().unwrap();
    fabric.settle();
    let of_host = |number: u8| {
        let ipv4: IpAddr = format!("10.98.{number}.2").parse().unwrap();
        move |hop: IpAddr| hop == ipv4 || hop.is_ipv6()
    };
    wait::until(CONVERGED, "the ToR knows", || sends_through(&tor.watch, of_host(1)));
    assert_arrives(&tor.namespace, &source.qemu, &target.qemu);
    for to in machine() {
        let best = tor.frr.best(to).unwrap();
        assert_eq!((best.communities.as_str(), best.autonomous_systems.as_str()), ("", "64513"), "{to}");
    }
    let marks = [&source.watch, &target.watch, &third.watch, &tor.watch].map(|watch| (watch, watch.mark()));

    target.install(ELEVATED);
    assert!(target.delivers(), "the target delivers from the first moment");
    wait::until(CONVERGED, "the ToR prefers the target", || {
        machine().iter().all(|&to| {
            tor.frr.best(to).is_some_and(|best| {
                best.communities == "65000:100"
                    && best.autonomous_systems == "64514"
                    && best.preference == Some(200)
            })
        })
    });
    wait::until(CONVERGED, "its kernel does", || sends_through(&tor.watch, of_host(2)));
    wait::until(CONVERGED, "the source sends to the ToR and keeps its own route", || {
        machine().iter().all(|&to| source.watch.metrics_to(to) == [ZEBRA, NORMAL])
    });
    wait::until(CONVERGED, "the third host hears of it", || {
        machine().iter().all(|&to| third.frr.best(to).is_some_and(|best| best.communities == "65000:100"))
    });
    assert_arrives(&tor.namespace, &target.qemu, &source.qemu);
    assert_arrives(source.host.namespace(), &target.qemu, &source.qemu);
    assert_arrives(third.host.namespace(), &target.qemu, &source.qemu);

    source.remove(NORMAL);
    target.install(NORMAL);
    target.remove(ELEVATED);
    wait::until(CONVERGED, "the community goes", || {
        let is_plain = |frr: &cutover_tests::Frr| {
            machine().iter().all(|&to| frr.best(to).is_some_and(|best| best.communities.is_empty()))
        };
        is_plain(&tor.frr) && is_plain(&third.frr) && is_plain(&source.frr)
    });
    assert_arrives(third.host.namespace(), &target.qemu, &source.qemu);
    for (watch, mark) in marks {
        for to in machine() {
            watch.since(mark).assert_never_without(to);
        }
    }
    for to in machine() {
        let metrics = target.watch.since(marks[1].1).metrics(to);
        let expected: [&[u32]; 5] =
            [&[ZEBRA], &[ELEVATED, ZEBRA], &[ELEVATED], &[ELEVATED, NORMAL], &[NORMAL]];
        assert_eq!(metrics, expected, "the target never sends away what it has: {to}");
    }
}

/// Hosts are no routers between ToRs: what they have learnt they do not tell.
#[test]
fn hosts_tell_only_what_begins_on_them() {
    let fabric = Fabric::tor();
    fabric.settle();
    let Fabric { third, middle, .. } = &fabric;
    for to in machine() {
        assert!(matches!(third.leads(to), Leads::Via(_)));
        let family = if to.addr().is_ipv4() { "ipv4" } else { "ipv6" };
        let peer = if to.addr().is_ipv4() { "10.98.3.1" } else { "fd98:3::1" };
        let told =
            third.frr.show(&format!("show bgp {family} unicast neighbors {peer} advertised-routes json"));
        assert_eq!(told["totalPrefixCounter"], 0, "{told}");
        assert_eq!(middle.as_ref().unwrap().frr.best(to).unwrap().autonomous_systems, "64513");
    }
}
