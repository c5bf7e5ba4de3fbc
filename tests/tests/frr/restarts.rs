//! FRR is killed, stopped and started while the target's priority is elevated and while it is normal. With the
//! options and the configuration that `cutover bgp frr` prints, kernels keep their routes.

use crate::fabric::{
    CONVERGED, ELEVATED, ELEVATED_PREFERENCE, Fabric, Leads, NORMAL, NORMAL_PREFERENCE, Node, machine,
};
use cutover_agent::clock;
use cutover_tests::route_history::Route;
use cutover_tests::route_watch::Mark;
use cutover_tests::wait;
use std::collections::BTreeSet;
use std::time::Duration;

/// bgpd tells zebra that it has seen everything 50 ms before it installs what it has seen (the hold time of its
/// queue), so for that long a host whose bgpd alone was killed has none of its routes. Seen with 8.4, 10.3, 10.7.
///
/// LIMIT: 50 ms in an idle lab; the rest is for a loaded machine.
const GAP: Duration = Duration::from_secs(1);

/// Kills what `end` kills, starts it again with `start`, and waits until everybody is back.
#[track_caller]
fn restart(fabric: &mut Fabric, of: fn(&mut Fabric) -> &mut Node, end: fn(&mut Node), start: fn(&mut Node)) {
    end(of(fabric));
    start(of(fabric));
    for node in [&fabric.source, &fabric.target, &fabric.third] {
        node.frr.wait_established(4);
    }
}

const ALL: [fn(&mut Fabric) -> &mut Node; 3] =
    [|fabric| &mut fabric.source, |fabric| &mut fabric.target, |fabric| &mut fabric.third];

fn marks(fabric: &Fabric) -> [Mark; 3] {
    [&fabric.source, &fabric.target, &fabric.third].map(|node| node.watch.mark())
}

/// The routes to the machine were never for longer than [`GAP`] as `is_wrong` says.
#[track_caller]
fn assert_short(node: &Node, mark: Mark, is_wrong: impl Fn(&BTreeSet<Route>) -> bool) {
    for to in machine() {
        let moments = node.watch.since(mark).moments(to);
        let ends = moments.iter().skip(1).map(|moment| moment.since).chain([Some(clock::now())]);
        for (moment, end) in moments.iter().zip(ends).filter(|(moment, _)| is_wrong(&moment.routes)) {
            let since = moment.since.expect("it was right at first");
            let lasted = end.expect("only the first one has no time").since(since);
            assert!(lasted < GAP, "{}: {lasted:?} of {moment:?}", node.host.name());
        }
    }
}

#[track_caller]
fn assert_follows(fabric: &Fabric, preference: u64) {
    let Fabric { source, target, third, .. } = fabric;
    for node in [source, target, third] {
        node.wait_preference(preference);
    }
    wait::until(CONVERGED, "all send to the target", || {
        target.delivers() && source.sends_to(target) && third.sends_to(target)
    });
}

/// Both daemons of each host in turn, killed, and stopped as docs/bgp-frr.md says: the host's own kernel keeps all routes.
#[test]
fn the_whole_of_frr_while_elevated_and_while_normal() {
    let mut fabric = Fabric::mesh();
    fabric.settle();
    let at_first = fabric.target.watch.mark();
    fabric.target.install(ELEVATED);
    assert_follows(&fabric, ELEVATED_PREFERENCE);
    for of in ALL {
        for end in [|node: &mut Node| node.frr.kill(), |node: &mut Node| node.frr.stop_keeping_routes()] {
            let mark = of(&mut fabric).watch.mark();
            restart(&mut fabric, of, end, |node| node.frr.start_again());
            assert_follows(&fabric, ELEVATED_PREFERENCE);
            of(&mut fabric).assert_never_without(mark);
        }
    }
    fabric.source.remove(NORMAL);
    fabric.target.install(NORMAL);
    fabric.target.remove(ELEVATED);
    assert_follows(&fabric, NORMAL_PREFERENCE);
    for of in ALL {
        let mark = of(&mut fabric).watch.mark();
        restart(&mut fabric, of, |node| node.frr.kill(), |node| node.frr.start_again());
        assert_follows(&fabric, NORMAL_PREFERENCE);
        of(&mut fabric).assert_never_without(mark);
    }
    fabric.target.assert_never_without(at_first);
}

/// An orderly stop is worse than a crash: bgpd takes its routes out of the host's own kernel before it ends. The
/// other hosts do not notice.
#[test]
fn an_orderly_stop_costs_a_host_its_own_view() {
    let mut fabric = Fabric::mesh();
    fabric.settle();
    fabric.target.install(ELEVATED);
    assert_follows(&fabric, ELEVATED_PREFERENCE);
    let before = marks(&fabric);
    fabric.third.frr.terminate();
    let third = &fabric.third;
    wait::until(CONVERGED, "the third host's routes go", || {
        machine().iter().all(|&to| third.leads(to) == Leads::Nowhere)
    });
    fabric.third.frr.start_again();
    assert_follows(&fabric, ELEVATED_PREFERENCE);
    fabric.source.assert_never_without(before[0]);
    fabric.target.assert_never_without(before[1]);
}

/// The target's priority rises while the source's or the third host's FRR is down: they follow when it is back.
#[test]
fn elevated_while_frr_is_down_elsewhere() {
    let mut fabric = Fabric::mesh();
    fabric.settle();
    let before = marks(&fabric);
    fabric.source.frr.kill();
    fabric.third.frr.kill();
    fabric.target.install(ELEVATED);
    assert!(fabric.target.delivers());
    fabric.source.frr.start_again();
    fabric.third.frr.start_again();
    assert_follows(&fabric, ELEVATED_PREFERENCE);
    for (node, mark) in [&fabric.source, &fabric.target, &fabric.third].into_iter().zip(before) {
        node.assert_never_without(mark);
    }
}

/// bgpd of the target alone. Its own kernel does not notice. Whether the peers do is not asserted: most of the time
/// they keep what it said, but in some runs they drop it at once in spite of graceful restart, and go to the source
/// or nowhere until the session is back.
#[test]
fn bgpd_of_the_target() {
    let mut fabric = Fabric::mesh();
    fabric.settle();
    fabric.target.install(ELEVATED);
    assert_follows(&fabric, ELEVATED_PREFERENCE);
    let mark = fabric.target.watch.mark();
    restart(&mut fabric, ALL[1], |node| node.frr.kill_bgpd(), |node| node.frr.start_bgpd());
    assert_follows(&fabric, ELEVATED_PREFERENCE);
    for to in machine() {
        let expected: [&[u32]; 1] = [&[ELEVATED]];
        assert_eq!(fabric.target.watch.since(mark).metrics(to), expected, "{to}");
    }
}

/// bgpd alone on a host that only listens: its kernel keeps the routes while bgpd is away, and is without them for
/// a moment after it has heard from all peers. That is FRR's doing, and short.
#[test]
fn bgpd_of_a_listener_leaves_a_short_gap() {
    let mut fabric = Fabric::mesh();
    fabric.settle();
    fabric.target.install(ELEVATED);
    assert_follows(&fabric, ELEVATED_PREFERENCE);
    let mark = fabric.third.watch.mark();
    fabric.third.frr.kill_bgpd();
    wait::throughout(Duration::from_secs(1), "routes outlive bgpd", || fabric.third.sends_to(&fabric.target));
    fabric.third.frr.start_bgpd();
    fabric.third.frr.wait_established(4);
    assert_follows(&fabric, ELEVATED_PREFERENCE);
    assert_short(&fabric.third, mark, BTreeSet::is_empty);
}
