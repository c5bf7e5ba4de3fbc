//! Batches, monitor and appliers on a real kernel, in private network namespaces.

#[path = "netlink/carrier.rs"]
mod carrier;
#[path = "netlink/churn.rs"]
mod churn;
#[path = "netlink/floods.rs"]
mod floods;
#[path = "netlink/pace.rs"]
mod pace;
#[path = "netlink/rewrites.rs"]
mod rewrites;
#[path = "netlink/rig.rs"]
mod rig;

use cutover_common::MacAddr;
use cutover_daemon::clock;
use cutover_daemon::netlink::batch::DATAGRAM_MESSAGES_MAX;
use cutover_daemon::netlink::{
    Failure, Monitor, MonitorSettings, RouteChange, RouteEvent, RouteSocket, route as kernel_route, snapshot,
};
use cutover_engine::model::{Trigger, Validation};
use cutover_engine::wanted::{Ipv6, WantedInterface, WantedRoute, WantedWatch};
use cutover_engine::{Fact, Wanted};
use cutover_tests::namespace::Namespace;
use cutover_tests::route_watch::{dump_neighbours, dump_routes};
use cutover_tests::{RouteWatch, wait};
use nix::sched::{CloneFlags, unshare};
use rig::{
    IPV4, IPV6, Rig, both, ifindex, in_kernel, namespace, net, plug, route, settings, wait_for_routes,
    wanting, with_tap,
};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::net::IpAddr;
use std::time::Duration;

fn send(namespace: &Namespace, changes: &[RouteChange]) -> Vec<Failure> {
    let mut socket = namespace.run(RouteSocket::open).expect("a socket");
    socket.send(&kernel_route::prepare(changes)).expect("an outcome").failed
}

#[test]
fn a_batch_adds_and_removes_both_families_and_may_be_sent_again() {
    let (namespace, tap) = with_tap();
    let routes = both(tap, 512);
    for _ in 0..2 {
        assert_eq!(send(&namespace, &routes.map(RouteChange::Add)), []);
        assert_eq!(in_kernel(&namespace), BTreeSet::from(routes));
    }
    for _ in 0..2 {
        assert_eq!(send(&namespace, &routes.map(RouteChange::Remove)), []);
        assert_eq!(in_kernel(&namespace), BTreeSet::new());
    }
}

/// A virtual machine that comes back is not forwarded to where it has been, from the moment on in which it has its routes.
#[test]
fn a_batch_ends_what_another_table_has_to_the_same_destinations() {
    let (namespace, tap) = with_tap();
    plug(&namespace, "tunnel");
    let others = ["10.65.0.3/32", "2001:db8::3/128"];
    for destination in [IPV4, IPV6].into_iter().chain(others) {
        namespace.ip(&format!("route add {destination} dev tunnel table 7179 proto 3 metric 7"));
    }
    let changes = both(tap, 512).map(RouteChange::Add);
    let mut socket = namespace.run(RouteSocket::open).expect("a socket");
    // The second time there is nothing to end.
    for _ in 0..2 {
        let outcome = socket.send(&kernel_route::prepare_in_place_of(changes, 7179)).expect("an outcome");
        assert_eq!(outcome.failed, []);
        assert_eq!(in_kernel(&namespace), BTreeSet::from(both(tap, 512)));
        let left = ["-4", "-6"].map(|family| listed(&namespace, &[family, "route", "show", "table", "7179"]));
        let is_only = |text: &String, destination: &str| {
            text.lines().count() == 1 && text.starts_with(destination.split('/').next().unwrap_or_default())
        };
        assert!(is_only(&left[0], others[0]) && is_only(&left[1], others[1]), "{left:?}");
    }
}

fn listed(namespace: &Namespace, arguments: &[&str]) -> String {
    let output = namespace.command("ip").args(arguments).output().expect("ip");
    String::from_utf8(output.stdout).expect("text")
}

#[test]
fn a_request_that_fails_is_named_and_the_others_are_carried_out() {
    let (namespace, tap) = with_tap();
    let good = both(tap, 1024);
    let bad = route("10.65.0.3/32", 99_999, 1024);
    let changes = [RouteChange::Add(good[0]), RouteChange::Add(bad), RouteChange::Add(good[1])];
    assert_eq!(send(&namespace, &changes), [Failure { index: 1, errno: libc::ENODEV }]);
    assert_eq!(in_kernel(&namespace), BTreeSet::from(good));
}

/// The receive buffer holds the answers of a datagram of which everything fails.
#[test]
fn no_answer_is_lost_when_everything_fails() {
    let namespace = namespace();
    let count = 3 * DATAGRAM_MESSAGES_MAX + 7;
    let changes: Vec<RouteChange> = numbered(count, 99_999).into_iter().map(RouteChange::Add).collect();
    let expected: Vec<Failure> = (0..count).map(|index| Failure { index, errno: libc::ENODEV }).collect();
    assert_eq!(send(&namespace, &changes), expected);
}

/// Half of each family.
fn numbered(count: usize, ifindex: u32) -> Vec<WantedRoute> {
    let destination = |number: usize| {
        let low = u16::try_from(number / 2).expect("fewer than 131,072");
        let [high, low] = low.to_be_bytes();
        if number.is_multiple_of(2) {
            format!("10.66.{high}.{low}/32")
        } else {
            format!("2001:db8:66::{:x}/128", u16::from_be_bytes([high, low]))
        }
    };
    (0..count).map(|number| route(&destination(number), ifindex, 1024)).collect()
}

fn flush(namespace: &Namespace, protocol: u8) {
    for family in ["-4", "-6"] {
        let arguments = [family, "route", "flush", "proto", &protocol.to_string()];
        assert!(namespace.command("ip").args(arguments).status().expect("ip runs").success());
    }
}

/// A namespace in which a routing daemon holds our destinations with metric 512 through another interface.
fn with_daemon() -> (std::sync::Arc<Namespace>, u32) {
    let (namespace, tap) = with_tap();
    namespace.ip("link add eth0 type veth peer name eth0peer\nlink set eth0 up\nlink set eth0peer up\n\
         addr add 192.0.2.1/24 dev eth0\naddr add 2001:db8:ffff::1/64 dev eth0 nodad");
    namespace.ip(&format!(
        "route add {IPV4} via 192.0.2.2 dev eth0 proto bird metric 512\n\
         route add {IPV6} via 2001:db8:ffff::2 dev eth0 proto bird metric 512"
    ));
    (namespace, tap)
}

fn daemon_routes(namespace: &Namespace) -> Vec<String> {
    let routes = namespace.run(dump_routes).expect("a dump");
    routes.iter().filter(|route| route.protocol == 12).map(|route| route.destination.to_string()).collect()
}

/// What the kernel does with a packet to this address: the interface.
fn used(namespace: &Namespace, destination: &str) -> String {
    let address = destination.split('/').next().expect("an address");
    let output = namespace.command("ip").args(["route", "get", address]).output().expect("ip runs");
    let text = String::from_utf8(output.stdout).expect("text");
    let mut words = text.split_whitespace();
    words.find(|word| *word == "dev").and_then(|_| words.next()).unwrap_or_default().to_owned()
}

#[test]
fn our_route_is_used_although_a_daemon_holds_one_of_the_same_metric() {
    let (namespace, tap) = with_daemon();
    assert_eq!([used(&namespace, IPV4), used(&namespace, IPV6)], ["eth0", "eth0"]);
    assert_eq!(send(&namespace, &both(tap, 512).map(RouteChange::Add)), []);
    assert_eq!([used(&namespace, IPV4), used(&namespace, IPV6)], ["tapone", "tapone"]);

    // IPv4: the daemon's route is still there and is used again at once. IPv6 has no way to keep it.
    assert_eq!(daemon_routes(&namespace), [IPV4]);
    assert_eq!(send(&namespace, &both(tap, 512).map(RouteChange::Remove)), []);
    assert_eq!(used(&namespace, IPV4), "eth0");
}

#[test]
fn nothing_is_written_before_something_is_wanted() {
    let (namespace, tap) = with_tap();
    let leftovers = both(tap, 1024);
    assert_eq!(send(&namespace, &leftovers.map(RouteChange::Add)), []);
    let watch = RouteWatch::start(&namespace);
    let rig = Rig::start(&namespace);
    rig.resync();
    assert_eq!(rig.report.writes(), 0);
    assert_eq!(watch.history().events, []);

    // Of interfaces that nobody knows, leftovers go when they may.
    rig.want(Wanted { leftovers_may_go: false, ..wanting([]) });
    rig.resync();
    assert_eq!(in_kernel(&namespace), BTreeSet::from(leftovers));
    rig.want(wanting([]));
    wait_for_routes(&namespace, []);
}

/// W1: both directions, both families, watched from outside.
#[test]
fn a_change_of_metric_never_leaves_a_moment_without_a_route() {
    let (namespace, tap) = with_tap();
    let rig = Rig::start(&namespace);
    rig.want(wanting(both(tap, 1024)));
    wait_for_routes(&namespace, both(tap, 1024));
    let watch = RouteWatch::start(&namespace);
    for _ in 0..20 {
        for metric in [512, 1024] {
            rig.want(wanting(both(tap, metric)));
            wait_for_routes(&namespace, both(tap, metric));
        }
    }
    for destination in [net(IPV4), net(IPV6)] {
        let history = watch.history();
        history.assert_never_without(destination);
        assert_eq!(
            history.metrics(destination)[..4],
            [vec![1024], vec![512, 1024], vec![512], vec![512, 1024]]
        );
        assert_eq!(history.metrics(destination).len(), 81);
    }
}

/// The new route cannot be made, so the old one stays; and is replaced as soon as it can.
#[test]
fn a_failed_addition_keeps_the_old_route() {
    let (namespace, tap) = with_tap();
    let other = plug(&namespace, "taptwo");
    namespace.ip("link set taptwo down");
    let rig = Rig::start(&namespace);
    rig.want(wanting(both(tap, 1024)));
    wait_for_routes(&namespace, both(tap, 1024));
    let moved = Wanted { known_interfaces: [tap, other].into(), ..wanting(both(other, 512)) };
    rig.want(moved);
    wait::until(wait::SOON, "both additions fail", || rig.report.failing().len() == 2);
    assert!(
        rig.report.failing().values().all(|&errno| errno == libc::ENETDOWN),
        "{:?}",
        rig.report.failing()
    );
    // Tried after 0, 0.1, 0.3, 0.7 and 1.5 s; the next time would be 1.6 s later.
    wait::until(wait::SOON, "five attempts", || rig.report.writes() >= 2 + 2 * 5);
    assert_eq!(in_kernel(&namespace), BTreeSet::from(both(tap, 1024)));
    assert!(!rig.report.settled());

    let watch = RouteWatch::start(&namespace);
    namespace.ip("link set taptwo up");
    wait::until(Duration::from_secs(1), "written because of the link's event", || {
        in_kernel(&namespace) == BTreeSet::from(both(other, 512))
    });
    watch.history().assert_never_without(net(IPV4));
    watch.history().assert_never_without(net(IPV6));
    wait::until(wait::SOON, "settled", || rig.report.settled());
    assert_eq!(rig.report.failing(), BTreeMap::new());
}

/// W20: neither a full read nor a restart writes anything when nothing differs.
#[test]
fn nothing_is_written_when_nothing_differs() {
    let (namespace, tap) = with_tap();
    namespace.ip("addr add 192.0.2.9/32 dev lo");
    let source = Some(IpAddr::from([192, 0, 2, 9]));
    let odd = [
        WantedRoute { source, ..route("10.65.0.8/32", tap, 1024) },
        route("10.65.7.0/24", tap, 1024),
        route("2001:db8:7::/64", tap, 1024),
        // The kernel makes 1024 of it.
        route("2001:db8::8/128", tap, 0),
        // Not aligned: the kernel would refuse it as it is.
        route("10.65.9.1/24", tap, 1024),
    ];
    let wanted = wanting(both(tap, 1024).into_iter().chain(odd));
    {
        let rig = Rig::start(&namespace);
        rig.want(wanted.clone());
        wait::until(wait::SOON, "everything is written", || rig.report.settled());
        let (watch, writes) = (RouteWatch::start(&namespace), rig.report.writes());
        assert_eq!(writes, 7);
        rig.resync();
        rig.want(wanted.clone());
        rig.resync();
        assert_eq!(rig.report.writes(), writes);
        assert_eq!(watch.history().events, []);
    }
    let watch = RouteWatch::start(&namespace);
    let rig = Rig::wanting(&namespace, settings(), Some(wanted));
    rig.resync();
    assert!(rig.report.settled());
    assert_eq!(rig.report.writes(), 0);
    assert_eq!(watch.history().events, []);
}

/// The engine wants a route at the moment in which the fast path has installed it, and the kernel's word comes later.
#[test]
fn what_the_fast_path_has_written_is_not_written_again() {
    let (namespace, tap) = with_tap();
    let rig = Rig::start(&namespace);
    for metric in 512..532 {
        let routes = both(tap, metric);
        let writes = rig.report.writes();
        rig.while_stopped(|| {
            assert_eq!(send(&namespace, &routes.map(RouteChange::Add)), []);
            // Later than it was, so that a busy machine does not end the wait for the kernel's word.
            let at = clock::now() + wait::SOON;
            rig.tell_written(&routes, at);
            rig.want(wanting(routes));
        });
        wait::until(wait::SOON, "seen", || {
            rig.report.routes() == BTreeSet::from(routes) && rig.report.settled()
        });
        let removals = if metric == 512 { 0 } else { 2 };
        assert_eq!(rig.report.writes() - writes, removals, "metric {metric}");
    }
}

/// Somebody deleted it before the applier heard of it.
#[test]
fn what_the_fast_path_has_written_in_vain_is_written_soon() {
    let (namespace, tap) = with_tap();
    let rig = Rig::start(&namespace);
    rig.tell_written(&both(tap, 512), clock::now());
    rig.want(wanting(both(tap, 512)));
    wait_for_routes(&namespace, both(tap, 512));
}

#[test]
fn what_somebody_takes_away_comes_back_from_the_notification() {
    let (namespace, tap) = with_tap();
    let rig = Rig::start(&namespace);
    rig.want(wanting(both(tap, 1024)));
    wait_for_routes(&namespace, both(tap, 1024));
    let full_reads = *rig.monitor.full_reads().borrow();
    for destination in [IPV4, IPV6] {
        namespace.ip(&format!("route del {destination} dev tapone"));
        wait_for_routes(&namespace, both(tap, 1024));
    }
    assert_eq!(*rig.monitor.full_reads().borrow(), full_reads, "no full read was needed");
}

/// KERNEL: a replaced route is not announced as deleted.
#[test]
fn what_somebody_replaces_comes_back() {
    let (namespace, tap) = with_tap();
    let other = plug(&namespace, "ethother");
    let rig = Rig::start(&namespace);
    rig.want(wanting(both(tap, 1024)));
    wait_for_routes(&namespace, both(tap, 1024));
    for destination in [IPV4, IPV6] {
        namespace.ip(&format!("route replace {destination} dev ethother proto bird metric 1024"));
        wait::until(wait::SOON, "ours is back", || used(&namespace, destination) == "tapone");
    }
    let foreign = WantedRoute { protocol: 12, ..route(IPV4, other, 1024) };
    wait_for_routes(&namespace, both(tap, 1024).into_iter().chain([foreign]));
}

#[test]
fn what_somebody_adds_with_our_protocol_on_a_tap_goes() {
    let (namespace, tap) = with_tap();
    let rig = Rig::start(&namespace);
    rig.want(wanting(both(tap, 1024)));
    wait_for_routes(&namespace, both(tap, 1024));
    namespace.ip("route add 10.65.0.77/32 dev tapone proto 3\nroute add 2001:db8::77/128 dev tapone proto 3");
    wait_for_routes(&namespace, both(tap, 1024));
}

#[test]
fn routes_of_others_are_not_touched() {
    let (namespace, tap) = with_daemon();
    namespace.ip("route add 10.65.0.10/32 dev tapone proto static\n\
         route add 10.65.0.11/32 dev tapone proto bird metric 1024\n\
         route add 10.65.0.12/32 dev eth0 proto 3\n\
         route add 10.65.0.13/32 dev tapone proto 3 table 100\n\
         route add blackhole 10.65.0.14/32 proto 3\n\
         route add 10.65.0.15/32 via 192.0.2.2 dev eth0 proto 3\n\
         route add 2001:db8::10/128 dev tapone proto static\n\
         route add 2001:db8::12/128 dev eth0 proto 3");
    // What the kernel makes by itself comes when it comes.
    let of_others = || {
        let routes = namespace.run(dump_routes).expect("a dump");
        routes.into_iter().filter(|route| route.protocol != 2).collect::<BTreeSet<_>>()
    };
    let before = of_others();
    let rig = Rig::start(&namespace);
    rig.want(wanting(both(tap, 1024)));
    wait::until(wait::SOON, "ours are there", || rig.report.settled());
    rig.resync();
    rig.want(wanting([]));
    wait::until(wait::SOON, "ours are gone", || rig.report.routes().is_empty());
    rig.resync();
    assert_eq!(of_others(), before);
    assert_eq!(rig.report.writes(), 4);
}

/// An agent with another `DeviceRouteProtocol` ran before, or the setting changes while it runs.
#[test]
fn another_route_protocol_replaces_in_place() {
    let (namespace, tap) = with_tap();
    let with_protocol = |protocol| both(tap, 1024).map(|route| WantedRoute { protocol, ..route });
    assert_eq!(send(&namespace, &with_protocol(81).map(RouteChange::Add)), []);
    let watch = RouteWatch::start(&namespace);
    let rig = Rig::start(&namespace);
    rig.resync();
    rig.want(wanting(with_protocol(3)));
    wait_for_routes(&namespace, with_protocol(3));

    rig.monitor.configure(MonitorSettings { route_protocol: Some(80), ..settings() });
    rig.want(wanting(with_protocol(80)));
    wait_for_routes(&namespace, with_protocol(80));
    rig.resync();
    assert_eq!(in_kernel(&namespace), BTreeSet::from(with_protocol(80)));
    watch.history().assert_never_without(net(IPV4));
    watch.history().assert_never_without(net(IPV6));
    assert_eq!(rig.report.writes(), 4);
}

/// KERNEL: IPv4 routes go without a notification when a link goes down, and do not come back with it.
#[test]
fn routes_come_back_after_a_link_was_down() {
    let (namespace, tap) = with_tap();
    let rig = Rig::start(&namespace);
    rig.want(wanting(both(tap, 1024)));
    wait_for_routes(&namespace, both(tap, 1024));
    for _ in 0..5 {
        namespace.ip("link set tapone down");
        wait::until(wait::SOON, "the loss is noticed", || rig.report.routes().is_empty());
        namespace.ip("link set tapone up");
        wait_for_routes(&namespace, both(tap, 1024));
    }
}

#[test]
fn a_tap_that_is_made_again_is_another_interface() {
    let (namespace, tap) = with_tap();
    let rig = Rig::start(&namespace);
    rig.want(wanting(both(tap, 1024)));
    wait_for_routes(&namespace, both(tap, 1024));
    namespace.ip("link del tapone");
    rig.wait_for_fact(&Fact::LinkRemoved { ifindex: tap });
    let again = plug(&namespace, "tapone");
    assert_ne!(again, tap);
    wait::until(wait::SOON, "the new link is reported", || {
        let is_up =
            |fact: &Fact| matches!(fact, Fact::LinkSeen(link) if link.ifindex == again && link.admin_up);
        rig.facts().iter().any(is_up)
    });
    rig.want(wanting(both(again, 1024)));
    wait_for_routes(&namespace, both(again, 1024));
}

/// A bridge says RTM_DELLINK when a port leaves it.
#[test]
fn a_link_that_leaves_a_bridge_still_exists() {
    let (namespace, tap) = with_tap();
    namespace.ip("link add bridge type bridge\nlink set tapone master bridge");
    let rig = Rig::start(&namespace);
    namespace.ip("link set tapone nomaster\nlink set tapone down");
    let down = cutover_engine::fact::Link {
        ifindex: tap,
        name: "tapone".into(),
        admin_up: false,
        running: false,
        master: None,
    };
    rig.wait_for_fact(&Fact::LinkSeen(down));
    assert!(!rig.facts().contains(&Fact::LinkRemoved { ifindex: tap }), "{:?}", rig.facts());
}

#[test]
fn an_overrun_is_recovered_from() {
    let (namespace, tap) = with_tap();
    let rig = Rig::with(&namespace, MonitorSettings { receive_buffer_bytes: 4096, ..settings() });
    let routes = numbered(400, tap);
    rig.want(wanting(routes.clone()));
    wait_for_routes(&namespace, routes.clone());
    rig.resync();
    let full_reads = *rig.monitor.full_reads().borrow();
    // Deleted while nobody reads: most of the notifications are lost.
    rig.while_stopped(|| {
        flush(&namespace, 3);
        let late = plug(&namespace, "taplate");
        namespace
            .ip(&format!("link set taplate down\nroute add 10.99.0.1/32 dev tapone proto 3 metric {late}"));
    });
    wait_for_routes(&namespace, routes);
    // The end of a full read is published after what it found.
    rig.wait_for_full_read(full_reads + 1);
    let late = ifindex(&namespace, "taplate");
    wait::until(wait::SOON, "the link that came meanwhile is reported", || {
        rig.facts().iter().any(|fact| matches!(fact, Fact::LinkSeen(link) if link.ifindex == late))
    });
}

/// Notifications about other people's routes do not even reach the receive buffer.
#[test]
fn routes_of_a_routing_daemon_cause_no_overrun() {
    let (namespace, tap) = with_daemon();
    let rig = Rig::with(&namespace, MonitorSettings { receive_buffer_bytes: 4096, ..settings() });
    rig.want(wanting([route("10.65.0.9/32", tap, 1024)]));
    wait::until(wait::SOON, "ours is there", || rig.report.settled());
    rig.resync();
    let full_reads = *rig.monitor.full_reads().borrow();
    rig.while_stopped(|| {
        let mut script = String::new();
        for number in 0..2000_u16 {
            let [high, low] = number.to_be_bytes();
            writeln!(script, "route add 10.70.{high}.{low}/32 via 192.0.2.2 proto bird").expect("memory");
        }
        namespace.ip(&script);
    });
    namespace.ip("route del 10.65.0.9/32 dev tapone");
    wait::until(wait::SOON, "ours is back", || {
        in_kernel(&namespace).contains(&route("10.65.0.9/32", tap, 1024))
    });
    assert_eq!(*rig.monitor.full_reads().borrow(), full_reads);
}

fn watching(tap: u32, generation: u64) -> Wanted {
    let watch = WantedWatch {
        interface: "tapone".into(),
        generation,
        mac: None,
        addresses: BTreeSet::new(),
        trigger: Trigger::Announcement,
        validation: Validation::Strict,
        routes: BTreeSet::from(both(tap, 512)),
        ends_forwarding: false,
    };
    Wanted { watches: [(tap, watch)].into(), known_interfaces: [tap].into(), ..wanting([]) }
}

/// The notification about a route of the fast path may come before the engine knows of the announcement.
#[test]
fn what_the_fast_path_installs_is_not_taken_away() {
    let (namespace, tap) = with_tap();
    let rig = Rig::start(&namespace);
    rig.want(watching(tap, 1));
    rig.wait_until_idle();
    assert_eq!(send(&namespace, &both(tap, 512).map(RouteChange::Add)), []);
    rig.resync();
    assert_eq!(in_kernel(&namespace), BTreeSet::from(both(tap, 512)));
    rig.want(wanting([]));
    wait_for_routes(&namespace, []);
    wait::until(wait::SOON, "the loss is confirmed", || rig.report.settled());

    // From an earlier migration to this host: has to go before the virtual machine comes again.
    rig.want(wanting(both(tap, 512)));
    wait_for_routes(&namespace, both(tap, 512));
    wait::until(wait::SOON, "they are confirmed", || rig.report.settled());
    rig.want(watching(tap, 2));
    wait_for_routes(&namespace, []);
    wait::until(wait::SOON, "the loss is confirmed", || rig.report.settled());

    let watch = RouteWatch::start(&namespace);
    assert_eq!(send(&namespace, &both(tap, 512).map(RouteChange::Add)), []);
    rig.resync();
    rig.want(Wanted { watches: [].into(), ..wanting(both(tap, 512)) });
    rig.resync();
    assert_eq!(watch.history().metrics(net(IPV4)), [vec![], vec![512]]);
    assert_eq!(watch.history().metrics(net(IPV6)), [vec![], vec![512]]);

    // Nobody wants them after all.
    rig.want(wanting([]));
    wait_for_routes(&namespace, []);
}

#[test]
fn ten_thousand_routes_are_written_in_batches() {
    let (namespace, tap) = with_tap();
    let routes = numbered(10_000, tap);
    let rig = Rig::start(&namespace);
    rig.want(wanting(routes.clone()));
    wait::until(wait::SOON, "10,000 routes", || rig.report.settled());
    assert_eq!(in_kernel(&namespace).len(), routes.len());
    assert_eq!(rig.report.writes(), 10_000);
    rig.resync();
    assert_eq!(rig.report.writes(), 10_000, "notifications about our own writes change nothing");
}

const MAC: MacAddr = MacAddr([0xfa, 0x16, 0x3e, 0, 0, 1]);

fn preparing(tap: u32, mac: MacAddr) -> Wanted {
    let address = |text: &str| net(text).addr();
    let neighbours = BTreeMap::from([(address(IPV4), mac), (address(IPV6), mac)]);
    let interface =
        WantedInterface { name: "tapone".into(), neighbours, ipv6: Ipv6::Routed, is_bridge: false };
    Wanted { interfaces: [(tap, interface)].into(), ..wanting([]) }
}

fn permanent(namespace: &Namespace, tap: u32) -> BTreeMap<IpAddr, MacAddr> {
    let neighbours = namespace.run(dump_neighbours).expect("a dump");
    let ours = neighbours.into_iter().filter(|neighbour| neighbour.permanent && neighbour.ifindex == tap);
    ours.filter_map(|neighbour| Some((neighbour.address, neighbour.mac?))).collect()
}

/// W18: on a tap without a carrier. W21: for both families.
#[test]
fn a_tap_is_prepared_before_anybody_opens_it() {
    let (namespace, tap) = with_tap();
    namespace.set_sysctl("net/ipv4/conf/default/rp_filter", "2");
    namespace.set_sysctl("net/ipv4/conf/tapone/rp_filter", "0");
    namespace.set_sysctl("net/ipv4/ip_forward", "0");
    namespace.ip("neigh add 10.65.0.66 lladdr fa:16:3e:00:00:66 nud permanent dev tapone");
    namespace.ip("neigh add 10.65.0.67 lladdr fa:16:3e:00:00:67 nud reachable dev tapone");
    let other = plug(&namespace, "eththere");
    namespace.ip("neigh add 10.65.0.66 lladdr fa:16:3e:00:00:66 nud permanent dev eththere");

    let rig = Rig::start(&namespace);
    rig.want(preparing(tap, MAC));
    rig.wait_for_fact(&Fact::InterfaceConfigured { ifindex: tap, ready: true });
    for (path, value) in [
        ("net/ipv4/conf/tapone/route_localnet", "0"),
        ("net/ipv4/neigh/tapone/proxy_delay", "0"),
        ("net/ipv4/conf/tapone/proxy_arp", "1"),
        ("net/ipv4/conf/tapone/forwarding", "1"),
        ("net/ipv4/conf/tapone/rp_filter", "2"),
        ("net/ipv6/conf/tapone/accept_ra", "0"),
        ("net/ipv6/conf/tapone/accept_dad", "0"),
        ("net/ipv6/conf/tapone/proxy_ndp", "1"),
        ("net/ipv6/conf/tapone/forwarding", "1"),
        ("net/ipv4/ip_forward", "1"),
        ("net/ipv6/conf/all/forwarding", "1"),
    ] {
        assert_eq!(namespace.sysctl(path).as_deref(), Some(value), "{path}");
    }
    let expected = |mac| BTreeMap::from([(net(IPV4).addr(), mac), (net(IPV6).addr(), mac)]);
    assert_eq!(permanent(&namespace, tap), expected(MAC));
    assert_eq!(permanent(&namespace, other).len(), 1, "on other interfaces nothing is touched");
    let learnt = namespace.run(dump_neighbours).expect("a dump");
    assert!(
        learnt.iter().any(|neighbour| neighbour.address == IpAddr::from([10, 65, 0, 67])),
        "nor learnt ones"
    );

    // Nothing differs, nothing is written.
    let watch = RouteWatch::start(&namespace);
    rig.resync();
    assert_eq!(watch.history().events, []);

    // Taken away, overwritten, changed, lost with the link.
    namespace.ip(&format!("neigh del {} dev tapone", net(IPV4).addr()));
    wait::until(wait::SOON, "it is back", || permanent(&namespace, tap) == expected(MAC));
    namespace
        .ip(&format!("neigh replace {} lladdr fa:16:3e:00:00:09 nud stale dev tapone", net(IPV6).addr()));
    wait::until(wait::SOON, "it is permanent again", || permanent(&namespace, tap) == expected(MAC));
    let changed = MacAddr([0xfa, 0x16, 0x3e, 0, 0, 2]);
    rig.want(preparing(tap, changed));
    wait::until(wait::SOON, "the new address", || permanent(&namespace, tap) == expected(changed));
    namespace.ip("link set tapone down\nlink set tapone up");
    wait::until(wait::SOON, "they are back", || permanent(&namespace, tap) == expected(changed));
}

#[test]
fn a_tap_without_ipv6_is_ready_without_it() {
    let (namespace, tap) = with_tap();
    namespace.set_sysctl("net/ipv6/conf/tapone/disable_ipv6", "1");
    let rig = Rig::start(&namespace);
    rig.want(preparing(tap, MAC));
    rig.wait_for_fact(&Fact::InterfaceConfigured { ifindex: tap, ready: true });
    assert_eq!(permanent(&namespace, tap), BTreeMap::from([(net(IPV4).addr(), MAC)]));
}

/// The engine may want an interface that has just gone; it is ready when it is there.
#[test]
fn a_tap_that_comes_late_is_prepared_when_it_comes() {
    let namespace = namespace();
    let rig = Rig::start(&namespace);
    let first = plug(&namespace, "tapfirst");
    let expected = first + 1;
    rig.want(preparing(expected, MAC));
    rig.wait_for_fact(&Fact::InterfaceConfigured { ifindex: expected, ready: false });
    let tap = plug(&namespace, "tapone");
    assert_eq!(tap, expected, "interfaces are numbered one after the other");
    rig.wait_for_fact(&Fact::InterfaceConfigured { ifindex: tap, ready: true });
    assert_eq!(permanent(&namespace, tap).len(), 2);
}

/// A host that has never had an IPv4 route, as one that knows IPv6 only, has no main table for it.
#[test]
fn a_host_without_any_ipv4_route_is_read_like_any_other() {
    let host = std::thread::spawn(|| {
        unshare(CloneFlags::CLONE_NEWNET).expect("a new namespace needs root");
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        let is_read = runtime.block_on(async {
            let (monitor, _handle, mut streams) = Monitor::open(settings()).expect("a socket");
            let running = tokio::spawn(monitor.run());
            let after_links = async {
                loop {
                    match streams.routes.ipv4.recv().await {
                        // Its loopback.
                        Some(RouteEvent::ChangedElsewhere) => {}
                        event => break event,
                    }
                }
            };
            let first = tokio::time::timeout(wait::SOON, after_links).await;
            running.abort();
            matches!(first, Ok(Some(RouteEvent::Synced)))
        });
        (is_read, snapshot::routes(&BTreeSet::from([1])))
    });
    let (is_read, routes) = host.join().expect("no panic");
    assert!(is_read, "the first full read is over");
    assert_eq!(routes.expect("a look"), BTreeSet::new());
}
