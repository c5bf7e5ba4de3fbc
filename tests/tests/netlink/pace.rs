//! Many changes at once, beside somebody who is notified of them with a receive buffer of the default size: 256 notifications.

use crate::rig::{Rig, ifindex, in_kernel, namespace, route, wanting, with_tap};
use crate::{MAC, numbered};
use cutover_daemon::clock;
use cutover_engine::Wanted;
use cutover_engine::wanted::{Ipv6, WantedInterface};
use cutover_tests::listener::{Listener, OF_NEIGHBOURS, OF_ROUTES};
use cutover_tests::wait;
use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

const MANY: usize = 10_000;
/// A daemon that takes longer for a route than the agent.
const SLOW: Duration = Duration::from_millis(1);
/// LIMIT: a loaded machine; only failing tests wait this long.
const WRITTEN: Duration = Duration::from_secs(60);

#[test]
fn a_listener_that_reads_slowly_loses_nothing() {
    let (namespace, tap) = with_tap();
    let rig = Rig::start(&namespace);
    let listener = Listener::start(&namespace, OF_ROUTES, SLOW);
    rig.want(wanting(numbered(MANY, tap)));
    wait::until(WRITTEN, "10,000 routes", || rig.report.settled());
    assert_eq!((in_kernel(&namespace).len(), listener.lost()), (MANY, 0));
    rig.want(wanting([]));
    wait::until(WRITTEN, "none", || rig.report.routes().is_empty());
    assert_eq!((in_kernel(&namespace).len(), listener.lost()), (0, 0));
    assert_eq!(rig.report.writes(), 2 * MANY as u64);
}

/// It is waited for, four seconds; meanwhile what is new is written at once.
#[test]
fn a_listener_that_is_stopped_holds_nothing_up_for_long() {
    /// LIMIT: the patience, and the time to write on a loaded machine.
    const AT_THE_LATEST: Duration = Duration::from_secs(4 + 8);
    let (namespace, tap) = with_tap();
    let rig = Rig::start(&namespace);
    let listener = Listener::start(&namespace, OF_ROUTES, Duration::ZERO);
    listener.stop();
    let many = numbered(MANY, tap);
    let began = clock::now();
    rig.want(wanting(many.clone()));
    wait::until(wait::SOON, "the first portion", || rig.report.writes() > 0);

    // Last in every order.
    let late = route("192.0.2.77/32", tap, 1024);
    rig.want(wanting(many.into_iter().chain([late])));
    wait::until(Duration::from_secs(3), "a change for one endpoint", || {
        in_kernel(&namespace).contains(&late)
    });
    assert!(rig.report.routes().len() < MANY, "although the others are not written yet");

    wait::until(AT_THE_LATEST, "all of them", || rig.report.settled());
    let took = clock::now().since(began);
    assert!(took >= Duration::from_secs(4), "it was not waited for: {took:?}");
    assert!(took <= AT_THE_LATEST, "{took:?}");
    assert_eq!(in_kernel(&namespace).len(), MANY + 1);
    assert!(listener.lost() > 0, "otherwise this test tests nothing");
}

#[test]
fn neighbours_of_many_interfaces_are_not_lost() {
    const TAPS: u16 = 500;
    let namespace = namespace();
    // Switching it on is one write that the kernel notifies of on every interface.
    for path in ["net/ipv4/ip_forward", "net/ipv6/conf/all/forwarding"] {
        namespace.set_sysctl(path, "1");
    }
    let plug = |number| format!("tuntap add dev tap{number} mode tap\nlink set tap{number} up\n");
    namespace.ip(&(0..TAPS).map(plug).collect::<String>());
    let taps: Vec<(u32, WantedInterface)> = (0..TAPS)
        .map(|number| {
            let name = format!("tap{number}");
            let [high, low] = number.to_be_bytes();
            let addresses: [IpAddr; 2] = [
                Ipv4Addr::new(10, 66, high, low).into(),
                Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 66, number).into(),
            ];
            let neighbours = BTreeMap::from(addresses.map(|address| (address, MAC)));
            let interface = WantedInterface {
                name: name.as_str().into(),
                neighbours,
                ipv6: Ipv6::Routed,
                is_bridge: false,
            };
            (ifindex(&namespace, &name), interface)
        })
        .collect();
    let rig = Rig::start(&namespace);
    // Slower than the agent, which takes some hundred microseconds for an interface.
    let listener = Listener::start(&namespace, OF_NEIGHBOURS, Duration::from_millis(10));
    rig.want(Wanted { interfaces: taps.iter().cloned().collect(), ..wanting([]) });
    let ready = || {
        let is_ready = |fact: &cutover_engine::Fact| {
            matches!(fact, cutover_engine::Fact::InterfaceConfigured { ready: true, .. })
        };
        rig.facts().iter().filter(|fact| is_ready(fact)).count() == taps.len()
    };
    wait::until(WRITTEN, "all interfaces are ready", ready);
    assert_eq!(listener.lost(), 0);
}
