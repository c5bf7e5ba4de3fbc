//! FRR is killed, stopped and started while the target's priority is elevated and while it is normal. With the
//! options and the configuration that `cutover bgp frr` prints, kernels keep their routes.

use crate::by_hand::{ByHand, ELEVATED, ELEVATED_PREFERENCE, HOSTS, NORMAL, NORMAL_PREFERENCE};
use cutover_daemon::clock;
use cutover_tests::fabric::{CONVERGED, Leads, Place, Shape, Who};
use cutover_tests::route_history::Route;
use cutover_tests::route_watch::Mark;
use cutover_tests::{Frr, wait};
use std::collections::BTreeSet;
use std::time::Duration;

/// bgpd tells zebra that it has seen everything 50 ms before it installs what it has seen (the hold time of its
/// queue), so for that long a host whose bgpd alone was killed has none of its routes. Seen with 8.4, 10.3, 10.7.
///
/// LIMIT: 50 ms in an idle lab; the rest is for a loaded machine.
const GAP: Duration = Duration::from_secs(1);

/// A fabric in which the target has just been elevated, and everybody has followed.
#[track_caller]
fn elevated() -> ByHand {
    let fabric = ByHand::new(Shape::Mesh);
    fabric.install(Place::Target, ELEVATED);
    assert_follows(&fabric, ELEVATED_PREFERENCE);
    fabric
}

fn frr_of(fabric: &mut ByHand, who: Who) -> &mut Frr {
    fabric.fabric.speaker(who).frr_mut()
}

/// Kills what `end` kills, starts it again with `start`, and waits until everybody is back.
#[track_caller]
fn restart(fabric: &mut ByHand, who: Who, end: fn(&mut Frr), start: fn(&mut Frr)) {
    end(frr_of(fabric, who));
    start(frr_of(fabric, who));
    fabric.fabric.wait_established();
}

/// The routes to the machine were never for longer than [`GAP`] as `is_wrong` says.
#[track_caller]
fn assert_short(fabric: &ByHand, who: Who, mark: Mark, is_wrong: impl Fn(&BTreeSet<Route>) -> bool) {
    for to in fabric.machine() {
        let moments = fabric.router(who).watch.since(mark).moments(to);
        let ends = moments.iter().skip(1).map(|moment| moment.since).chain([Some(clock::now())]);
        for (moment, end) in moments.iter().zip(ends).filter(|(moment, _)| is_wrong(&moment.routes)) {
            let since = moment.since.expect("it was right at first");
            let lasted = end.expect("only the first one has no time").since(since);
            assert!(lasted < GAP, "{who:?}: {lasted:?} of {moment:?}");
        }
    }
}

#[track_caller]
fn assert_follows(fabric: &ByHand, preference: u32) {
    fabric.wait_preference(preference);
    wait::until(CONVERGED, "all send to the target", || fabric.fabric.is_at(Place::Target));
}

/// Both daemons of each host in turn, killed, and stopped as docs/bgp-frr.md says: the host's own kernel keeps all routes.
#[test]
fn the_whole_of_frr_while_elevated_and_while_normal() {
    let mut fabric = ByHand::new(Shape::Mesh);
    let at_first = fabric.router(Who::Target).watch.mark();
    fabric.install(Place::Target, ELEVATED);
    assert_follows(&fabric, ELEVATED_PREFERENCE);
    for who in HOSTS {
        for end in [Frr::kill, Frr::stop_keeping_routes] {
            let mark = fabric.router(who).watch.mark();
            restart(&mut fabric, who, end, Frr::start_again);
            assert_follows(&fabric, ELEVATED_PREFERENCE);
            fabric.assert_never_without(who, mark);
        }
    }
    fabric.remove(Place::Source, NORMAL);
    fabric.install(Place::Target, NORMAL);
    fabric.remove(Place::Target, ELEVATED);
    assert_follows(&fabric, NORMAL_PREFERENCE);
    for who in HOSTS {
        let mark = fabric.router(who).watch.mark();
        restart(&mut fabric, who, Frr::kill, Frr::start_again);
        assert_follows(&fabric, NORMAL_PREFERENCE);
        fabric.assert_never_without(who, mark);
    }
    fabric.assert_never_without(Who::Target, at_first);
}

/// An orderly stop is worse than a crash: bgpd takes its routes out of the host's own kernel before it ends. The
/// other hosts do not notice.
#[test]
fn an_orderly_stop_costs_a_host_its_own_view() {
    let mut fabric = elevated();
    let before = fabric.fabric.marks();
    frr_of(&mut fabric, Who::Third).terminate();
    wait::until(CONVERGED, "the third host's routes go", || {
        let third = fabric.router(Who::Third);
        fabric.machine().iter().all(|&to| third.leads(to) == Leads::Nowhere)
    });
    frr_of(&mut fabric, Who::Third).start_again();
    assert_follows(&fabric, ELEVATED_PREFERENCE);
    fabric.assert_never_without(Who::Source, before[0]);
    fabric.assert_never_without(Who::Target, before[1]);
}

/// The target's priority rises while the source's and the third host's FRR are down: they follow when these are back. The target's own kernel does not
/// notice. Whether the other two keep what they knew is not asserted: most of the time they do, but on a busy machine one of them was without a route
/// for a moment after both had been started at once (twice in a dozen runs; no agent is in this).
#[test]
fn elevated_while_frr_is_down_elsewhere() {
    let mut fabric = ByHand::new(Shape::Mesh);
    let before = fabric.fabric.marks();
    frr_of(&mut fabric, Who::Source).kill();
    frr_of(&mut fabric, Who::Third).kill();
    fabric.install(Place::Target, ELEVATED);
    assert!(fabric.delivers(Place::Target));
    frr_of(&mut fabric, Who::Source).start_again();
    frr_of(&mut fabric, Who::Third).start_again();
    assert_follows(&fabric, ELEVATED_PREFERENCE);
    fabric.assert_never_without(Who::Target, before[1]);
}

/// bgpd of the target alone. Its own kernel does not notice. Whether the peers do is not asserted: most of the time
/// they keep what it said, but in some runs they drop it at once in spite of graceful restart, and go to the source
/// or nowhere until the session is back.
#[test]
fn bgpd_of_the_target() {
    let mut fabric = elevated();
    let mark = fabric.router(Who::Target).watch.mark();
    restart(&mut fabric, Who::Target, Frr::kill_bgpd, Frr::start_bgpd);
    assert_follows(&fabric, ELEVATED_PREFERENCE);
    for to in fabric.machine() {
        assert_eq!(fabric.router(Who::Target).watch.since(mark).metrics(to), [[ELEVATED]], "{to}");
    }
}

/// bgpd alone on a host that only listens: its kernel keeps the routes while bgpd is away, and is without them for
/// a moment after it has heard from all peers. That is FRR's doing, and short.
#[test]
fn bgpd_of_a_listener_leaves_a_short_gap() {
    let mut fabric = elevated();
    let mark = fabric.router(Who::Third).watch.mark();
    frr_of(&mut fabric, Who::Third).kill_bgpd();
    wait::throughout(Duration::from_secs(1), "routes outlive bgpd", || {
        fabric.sends(Who::Third, Place::Target)
    });
    frr_of(&mut fabric, Who::Third).start_bgpd();
    fabric.fabric.wait_established();
    assert_follows(&fabric, ELEVATED_PREFERENCE);
    assert_short(&fabric, Who::Third, mark, BTreeSet::is_empty);
}
