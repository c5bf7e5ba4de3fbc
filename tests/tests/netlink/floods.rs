//! Floods of notifications about neighbours: they hold nothing else up, and what was lost in them is found.

use crate::rig::{IPV4, Rig, ifindex, in_kernel, net, plug, route, settings, wanting, with_tap};
use crate::{MAC, permanent, preparing};
use cutover_daemon::netlink::MonitorSettings;
use cutover_engine::{Fact, Wanted};
use cutover_tests::namespace::Namespace;
use cutover_tests::neighbour_flood::{Changes, NeighbourFlood};
use cutover_tests::wait;
use std::ops::Range;
use std::time::Duration;

/// A permanent neighbour that goes in a flood is back after a second without listening; links and routes that were lost as well.
const LATEST: Duration = Duration::from_secs(4);

/// The tap of a VM with its route and its neighbours.
fn settled(receive_buffer_bytes: usize) -> (std::sync::Arc<Namespace>, u32, Rig) {
    let (namespace, tap) = with_tap();
    let rig = Rig::with(&namespace, MonitorSettings { receive_buffer_bytes, ..settings() });
    let routes = wanting([route(IPV4, tap, 1024)]);
    rig.want(Wanted { interfaces: preparing(tap, MAC).interfaces, ..routes });
    wait::until(wait::SOON, "route and neighbours", || {
        rig.report.settled() && permanent(&namespace, tap).len() == 2
    });
    rig.resync();
    (namespace, tap, rig)
}

/// What others do while it goes on is seen, and what they take away is back.
fn nothing_is_held_up(namespace: &Namespace, tap: u32, rig: &Rig, rounds: Range<u8>) {
    for round in rounds {
        let late = format!("taplate{round}");
        plug(namespace, &late);
        let ifindex = ifindex(namespace, &late);
        wait::until(LATEST, format!("{late} is seen"), || {
            rig.facts().iter().any(|fact| matches!(fact, Fact::LinkSeen(link) if link.ifindex == ifindex))
        });
        namespace.ip(&format!("route del {IPV4} dev tapone"));
        wait::until(LATEST, "the route is back", || in_kernel(namespace).contains(&route(IPV4, tap, 1024)));
        let address = net(IPV4).addr();
        namespace.ip(&format!("neigh del {address} dev tapone"));
        wait::until(LATEST, "the neighbour is back", || permanent(namespace, tap).contains_key(&address));
    }
}

#[test]
fn a_flood_on_a_tap_holds_nothing_up() {
    let (namespace, tap, rig) = settled(settings().receive_buffer_bytes);
    let full_reads = *rig.monitor.full_reads().borrow();
    let flood = NeighbourFlood::start(&namespace, "tapone");
    nothing_is_held_up(&namespace, tap, &rig, 0..3);
    drop(flood);
    let now = *rig.monitor.full_reads().borrow();
    // Each new link casts doubt, and nothing else does.
    assert!(now <= full_reads + 2 * 3, "{} full reads", now - full_reads);
}

/// With a buffer that never holds it, every read of everything is disturbed until neighbours are not listened to.
#[test]
fn overruns_without_end_hold_nothing_up() {
    /// By then reads after overruns are as far apart as they ever are.
    const LONG: Duration = Duration::from_secs(10);
    let (namespace, tap, rig) = settled(4096);
    let flood = NeighbourFlood::start(&namespace, "tapone");
    nothing_is_held_up(&namespace, tap, &rig, 0..3);
    std::thread::sleep(LONG);
    nothing_is_held_up(&namespace, tap, &rig, 3..6);
    drop(flood);
}

/// Those of uplinks do not even reach the receive buffer, whichever come and go.
#[test]
fn neighbours_on_uplinks_cause_no_overrun() {
    let (namespace, tap, rig) = settled(4096);
    for uplink in ["ethone", "ethtwo"] {
        let ifindex = plug(&namespace, uplink);
        wait::until(wait::SOON, format!("{uplink} is seen"), || {
            rig.facts().iter().any(|fact| matches!(fact, Fact::LinkSeen(link) if link.ifindex == ifindex))
        });
    }
    rig.resync();
    let full_reads = *rig.monitor.full_reads().borrow();
    rig.while_stopped(|| {
        for uplink in ["ethone", "ethtwo"] {
            let changes = Changes::on(&namespace, uplink);
            (0..10).for_each(|_| changes.write());
        }
        // If the buffer were full, only a full read would tell.
        namespace.ip(&format!("route del {IPV4} dev tapone"));
    });
    wait::until(wait::SOON, "the route is back", || in_kernel(&namespace).contains(&route(IPV4, tap, 1024)));
    assert_eq!(*rig.monitor.full_reads().borrow(), full_reads);

    // A tap that was called otherwise is heard of like any other.
    namespace.ip("link set ethtwo down\nlink set ethtwo name taptwo\nlink set taptwo up");
    let renamed = ifindex(&namespace, "taptwo");
    rig.want(preparing_named(renamed, "taptwo"));
    wait::until(wait::SOON, "its neighbours", || permanent(&namespace, renamed).len() == 2);
    rig.resync();
    namespace.ip(&format!("neigh del {} dev taptwo", net(IPV4).addr()));
    wait::until(wait::SOON, "the neighbour is back", || permanent(&namespace, renamed).len() == 2);
}

fn preparing_named(tap: u32, name: &str) -> Wanted {
    let mut wanted = preparing(tap, MAC);
    if let Some(interface) = wanted.interfaces.get(&tap).cloned() {
        wanted
            .interfaces
            .insert(tap, cutover_engine::wanted::WantedInterface { name: name.into(), ..interface });
    }
    wanted
}
