//! Routes that are written again for FRR's zebra, which the test plays by saying that it runs.

use crate::rig::{Rig, Zebra, both, ifindex, in_kernel, settings, wait_for_routes, wanting};
use cutover_common::MacAddr;
use cutover_daemon::netlink::{RouteChange, RouteSocket, route as kernel_route};
use cutover_engine::Wanted;
use cutover_engine::model::{Trigger, Validation};
use cutover_engine::wanted::{WantedRoute, WantedWatch};
use cutover_tests::route_history::History;
use cutover_tests::{Host, Lab, RouteWatch, Tap, wait};
use std::collections::BTreeSet;
use std::time::Duration;

const NORMAL: u32 = 1024;
/// The next octet, and a bit that no priority has.
const STAND_IN: u32 = 0x0180_0400;
/// LIMIT: several times the pause before something is written again.
const LONG: Duration = Duration::from_millis(600);

/// LIMIT: longer than a route counts as one that came together with the carrier.
const SETTLED: Duration = Duration::from_millis(1_200);

struct Bed {
    watch: RouteWatch,
    tap: Tap,
    ifindex: u32,
    host: Host,
    _lab: Lab,
}

impl Bed {
    fn new() -> Self {
        let lab = Lab::new();
        let host = lab.host("compute1");
        let tap = host.plug("tapone", MacAddr([0xfe, 0, 0, 0, 0, 1]));
        let watch = RouteWatch::start(host.namespace());
        Self { watch, ifindex: ifindex(host.namespace(), "tapone"), tap, host, _lab: lab }
    }

    fn rig(&self, zebra: Zebra) -> Rig {
        Rig::beside_zebra(&self.host.namespace_shared(), settings(), None, zebra)
    }

    fn normal(&self) -> [WantedRoute; 2] {
        both(self.ifindex, NORMAL)
    }

    fn wait_normal(&self) {
        wait_for_routes(self.host.namespace(), self.normal());
    }

    /// Writes routes as an earlier agent did.
    fn write(&self, routes: &[WantedRoute]) {
        let mut socket = self.host.namespace().run(RouteSocket::open).expect("a socket");
        let outcome = socket.send(&kernel_route::prepare(routes.iter().copied().map(RouteChange::Add)));
        assert_eq!(outcome.expect("an outcome").failed, []);
    }

    /// Both routes have been written again, and nothing else has happened.
    #[track_caller]
    fn wait_written_again(&self, history: impl Fn() -> History) {
        self.wait_history(
            &[&[NORMAL], &[NORMAL, STAND_IN], &[STAND_IN], &[NORMAL, STAND_IN], &[NORMAL]],
            history,
        );
    }

    /// Each of the two destinations has had routes with these metrics, one set after the other, and keeps the last.
    #[track_caller]
    fn wait_history(&self, expected: &[&[u32]], history: impl Fn() -> History) {
        let metrics = || self.normal().map(|route| history().metrics(route.destination));
        let is_done = || metrics().iter().all(|metrics| metrics == expected);
        assert!(wait::holds_within(wait::SOON, is_done), "{:?}", metrics());
        assert!(!wait::holds_within(LONG, || !is_done()), "{:?}", metrics());
        self.wait_normal();
    }

    /// Nothing happens to the routes.
    #[track_caller]
    fn assert_left_alone(&self, history: impl Fn() -> History) {
        wait::throughout(LONG, "routes are left alone", || {
            self.normal().iter().all(|route| history().metrics(route.destination) == [[NORMAL]])
        });
    }
}

#[test]
fn a_route_from_before_the_carrier_is_written_again_each_time() {
    let bed = Bed::new();
    let rig = bed.rig(Zebra::Keeps);
    rig.want(wanting(bed.normal()));
    bed.wait_normal();
    for _ in 0..2 {
        let mark = bed.watch.mark();
        let open = bed.tap.open();
        bed.wait_written_again(|| bed.watch.since(mark));
        assert!(rig.report.settled(), "{:?}", rig.report.failing());
        drop(open);
        wait::until(wait::SOON, "no carrier", || !bed.tap.has_carrier());
    }
}

#[test]
fn a_route_from_after_the_carrier_is_not_written_again() {
    let bed = Bed::new();
    let rig = bed.rig(Zebra::Keeps);
    let open = bed.tap.open();
    wait::throughout(SETTLED, "a carrier", || bed.tap.has_carrier());
    rig.want(wanting(bed.normal()));
    bed.wait_normal();
    let mark = bed.watch.mark();
    bed.assert_left_alone(|| bed.watch.since(mark));
    assert_eq!(rig.report.writes(), 2);
    drop(open);
}

/// zebra may hear of the route before it hears of the carrier.
#[test]
fn a_route_from_right_after_the_carrier_is_written_again() {
    let bed = Bed::new();
    let rig = bed.rig(Zebra::Keeps);
    let mark = bed.watch.mark();
    let _open = bed.tap.open();
    rig.want(wanting(bed.normal()));
    let expected: [&[u32]; 6] =
        [&[], &[NORMAL], &[NORMAL, STAND_IN], &[STAND_IN], &[NORMAL, STAND_IN], &[NORMAL]];
    bed.wait_history(&expected, || bed.watch.since(mark));
}

#[test]
fn nothing_is_written_again_without_zebra() {
    let bed = Bed::new();
    let rig = bed.rig(Zebra::Absent);
    rig.want(wanting(bed.normal()));
    bed.wait_normal();
    let mark = bed.watch.mark();
    let _open = bed.tap.open();
    bed.assert_left_alone(|| bed.watch.since(mark));
    assert_eq!(rig.report.writes(), 2);
}

/// An agent that starts does not know whether the route or the carrier came first.
#[test]
fn what_an_earlier_life_has_written_is_written_again_once() {
    let bed = Bed::new();
    bed.write(&bed.normal());
    let _open = bed.tap.open();
    let mark = bed.watch.mark();
    let rig = bed.rig(Zebra::Keeps);
    rig.want(wanting(bed.normal()));
    bed.wait_written_again(|| bed.watch.since(mark));
    let mark = bed.watch.mark();
    rig.resync();
    bed.assert_left_alone(|| bed.watch.since(mark));
}

/// Killed after each step: the way stays open, and nothing of it is left in the end.
#[test]
fn what_a_killed_agent_left_behind_is_put_right() {
    for is_normal_there in [true, false] {
        let bed = Bed::new();
        bed.write(&bed.normal().map(|route| WantedRoute { metric: STAND_IN, ..route }));
        if is_normal_there {
            bed.write(&bed.normal());
        }
        let mark = bed.watch.mark();
        let rig = bed.rig(Zebra::Keeps);
        rig.want(wanting(bed.normal()));
        bed.wait_normal();
        for route in bed.normal() {
            bed.watch.since(mark).assert_never_without(route.destination);
        }
        wait::until(wait::SOON, "everything is as it should be", || rig.report.settled());
    }
}

/// While an announcement may come, the routes of the tap are the fast path's to write.
#[test]
fn nothing_is_written_again_on_a_tap_that_is_watched() {
    let bed = Bed::new();
    let rig = bed.rig(Zebra::Keeps);
    rig.want(watching(&bed));
    bed.wait_normal();
    let mark = bed.watch.mark();
    let _open = bed.tap.open();
    bed.assert_left_alone(|| bed.watch.since(mark));
    rig.want(wanting(bed.normal()));
    bed.wait_written_again(|| bed.watch.since(mark));
}

fn watching(bed: &Bed) -> Wanted {
    let watch = WantedWatch {
        interface: "tapone".into(),
        generation: 1,
        mac: None,
        addresses: BTreeSet::new(),
        trigger: Trigger::Announcement,
        validation: Validation::Strict,
        routes: BTreeSet::new(),
        ends_forwarding: false,
    };
    Wanted { watches: [(bed.ifindex, watch)].into(), ..wanting(bed.normal()) }
}

/// 10.7 forgets IPv4 routes whatever it is that changes.
#[test]
fn all_ipv4_routes_are_written_again_when_anything_changes_beside_a_zebra_that_forgets() {
    let bed = Bed::new();
    let rig = bed.rig(Zebra::Forgets);
    let _open = bed.tap.open();
    rig.want(wanting(bed.normal()));
    bed.wait_normal();
    wait::throughout(SETTLED, "a carrier", || bed.tap.has_carrier());
    let [ipv4, ipv6] = bed.normal().map(|route| route.destination);
    for change in [
        "tuntap add dev tapother mode tap",
        "link add other type veth peer name peer",
        "link set other up\nlink set peer up\naddr add 192.0.2.1/32 dev other",
        "addr del 192.0.2.1/32 dev other",
        "link del other",
    ] {
        let mark = bed.watch.mark();
        bed.host.namespace().ip(change);
        let metrics = || bed.watch.since(mark).metrics(ipv4);
        let is_written = || metrics().len() >= 5 && metrics().last().is_some_and(|last| *last == [NORMAL]);
        assert!(wait::holds_within(wait::SOON, is_written), "{change}: {:?}", metrics());
        bed.watch.since(mark).assert_never_without(ipv4);
        assert_eq!(bed.watch.since(mark).metrics(ipv6), [[NORMAL]], "{change}");
        bed.watch.wait_quiet(wait::SOON, LONG);
    }
}

/// A machine that goes in the same moment leaves nothing.
#[test]
fn a_route_that_is_given_up_meanwhile_is_gone() {
    let bed = Bed::new();
    let rig = bed.rig(Zebra::Keeps);
    rig.want(wanting(bed.normal()));
    bed.wait_normal();
    for _ in 0..20 {
        let mark = bed.watch.mark();
        let open = bed.tap.open();
        let is_begun = |route: &WantedRoute| bed.watch.since(mark).metrics(route.destination).len() > 1;
        wait::until(wait::SOON, "it is being written again", || bed.normal().iter().all(is_begun));
        rig.want(Wanted { known_interfaces: [bed.ifindex].into_iter().collect(), ..wanting([]) });
        wait_for_routes(bed.host.namespace(), []);
        rig.want(wanting(bed.normal()));
        bed.wait_normal();
        drop(open);
        wait::until(wait::SOON, "no carrier", || !bed.tap.has_carrier());
    }
    assert_eq!(in_kernel(bed.host.namespace()), BTreeSet::from(bed.normal()));
}
