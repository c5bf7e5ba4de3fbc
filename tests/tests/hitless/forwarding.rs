//! From the announcement on.

use crate::bed::*;
use cutover_daemon::clock;
use cutover_tests::crowd::Crowd;
use cutover_tests::forwarding::forwarded;
use cutover_tests::scene::{ELEVATED, SOURCE, TARGET};
use cutover_tests::stream::wait_answered;
use cutover_tests::{frames, wait};
use std::time::Duration;

#[test]
fn what_a_client_sends_to_the_source_reaches_the_virtual_machine_on_the_target() {
    let mut bed = Bed::new();
    let uid = bed.start_migration();
    assert!(
        !traces(&bed.scene.source.host).iter().any(|line| line.starts_with("table 7179:")),
        "it runs there still"
    );
    let streams = bed.streams();
    wait::until(wait::SOON, "the stream goes", || streams.iter().all(|stream| stream.answered() > 10));
    bed.arrive();
    wait_for(&bed.scene.source, "forwards", "is_active", true);
    let forwarded_at = clock::now();
    wait_for(&bed.scene.target, "receivers", "is_source_forwarding", true);
    bed.succeed();
    bed.scene.source.unplug();
    // Nova removes the tap; the routers are as stale as before.
    wait_answered(&streams, 101);
    for stream in streams {
        let record = stream.finish();
        assert_eq!(record.lost_since(forwarded_at), 0, "of {} datagrams", record.sent());
        let gaps = record.gaps();
        assert!(gaps.len() <= 1, "{gaps:?}");
    }
    let forward = shown(&bed.scene.source, "forwards").expect("the convergence time is not over");
    assert!(forward["packets"].as_u64() > Some(100), "{forward:#}");

    // The announcement is all that the main table ever sees of it.
    for host in [&bed.scene.source.host, &bed.scene.target.host] {
        wait_gone(host);
    }
    let timeline = bed.scene.target.agent.run_ok(&["timeline", &uid]);
    assert!(timeline.contains("forwarded"), "{timeline}");
    bed.scene.source.agent.log().wait(wait::SOON, &["Forwarding nothing any more"]);
}

/// Somebody has the kernel's lock of links, for which routes of IPv4 wait, on both hosts: of an announcement the source hears all the same, and
/// forwards what is of IPv6.
#[test]
fn the_source_hears_of_it_while_routes_of_the_target_wait() {
    /// LIMIT: the lock can be free again before anything comes to it on a busy machine; then it is held once more.
    const ATTEMPTS: usize = 5;
    /// A wait of this length is the lock's doing and nothing else's.
    const HELD_UP: Duration = Duration::from_millis(30);
    let bed = Bed::new();
    let (source, target, port) = (&bed.scene.source, &bed.scene.target, &bed.scene.port);
    let hypervisor = target.tap().open();
    let is_forwarding = || forwarded(&source.host).iter().any(|net| net.addr().is_ipv6());
    let mut seen = Vec::new();
    for _ in 0..ATTEMPTS {
        let _uid = bed.start_migration();
        let crowd = Crowd::gather(&bed.scene.lab);
        let mark = target.watch.mark();
        let mut forwarded_at = None;
        crowd.disperse_during(|| {
            hypervisor.send(&frames::rarp(port.mac));
            wait::until(wait::SOON, "the source forwards", is_forwarding);
            forwarded_at = Some(clock::now());
        });
        target.wait_metrics(port, &[ELEVATED]);
        let history = target.watch.since(mark);
        let ipv4 = port.routed().into_iter().filter(|net| net.addr().is_ipv4());
        let routed_at = ipv4.filter_map(|net| history.added_at(net, ELEVATED)).min();
        seen.push((forwarded_at, routed_at));
        let heard_early = forwarded_at.zip(routed_at).is_some_and(|(heard, routed)| heard + HELD_UP < routed);
        bed.scene.driver.withdraw(TARGET);
        bed.scene.driver.unbind(TARGET);
        wait_gone(&source.host);
        if heard_early {
            return;
        }
    }
    panic!("it has never forwarded {HELD_UP:?} before the target had its routes: {seen:?}");
}

/// The way back is begun while the source still forwards.
#[test]
fn back_again_at_once() {
    let mut bed = Bed::new();
    let _uid = bed.start_migration();
    bed.arrive();
    wait_for(&bed.scene.source, "forwards", "is_active", true);
    bed.scene.driver.succeed(SOURCE, TARGET);
    bed.scene.source.unplug();
    let port = bed.scene.port.clone();
    bed.scene.source.plug(&port);
    let streams = bed.streams();
    let _back = bed.scene.driver.start(TARGET, SOURCE);
    bed.scene.source.wait_state(&port, "Target");
    bed.scene.source.wait_armed(&port);
    // It runs there still, and gets what is sent here.
    wait_answered(&streams, 21);
    let at_source = bed.scene.source.tap().open();
    drop(bed.scene.vm.pause());
    at_source.send(&frames::rarp(port.mac));
    let announced_at = clock::now();
    bed.scene.source.wait_arrived(&port);
    bed.scene.vm.resume(at_source);
    // With the routes of the announcement, nothing is forwarded any more: no moment later than those is lost.
    wait_answered(&streams, 101);
    let elevated_at =
        |net| bed.scene.source.watch.history().added_at(net, ELEVATED).expect("it was elevated");
    let routed_at = port.routed().into_iter().map(elevated_at).max().expect("it has addresses");
    for stream in streams {
        let record = stream.finish();
        assert_eq!(record.lost_since(routed_at.max(announced_at)), 0, "of {}", record.sent());
    }
    bed.scene.driver.succeed(TARGET, SOURCE);
    for host in [&bed.scene.source.host, &bed.scene.target.host] {
        wait_gone(host);
    }
}
