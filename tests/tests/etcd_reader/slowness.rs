//! A member that is slow for a moment, and a cluster that is away for long: patience with the one, and with the other an agent
//! that neither besieges it nor comes late when it is back.

use crate::site::{HOST, Site};
use cutover_daemon::clock;
use cutover_tests::scene::NORMAL;
use cutover_tests::wait;
use std::thread;
use std::time::Duration;

/// How long the cluster is away.
const AWAY: Duration = Duration::from_secs(15);

/// The longest pause between two attempts, and what an attempt and its consequences take on a loaded machine.
const AGAIN: Duration = Duration::from_secs(7);

#[test]
fn a_cluster_that_is_away_is_not_besieged_and_soon_found_again() {
    let mut site = Site::new();
    // Heartbeats call, too.
    site.node.agent.set("ReportingIntervalSecs", 0);
    site.node.agent.start();
    site.node.wait_settled(&site.port);
    let mark = site.node.watch.mark();
    site.etcd.kill(0);
    let away_since = clock::now();
    let impostor = site.etcd.impersonate(0);
    wait::throughout(AWAY, "routed", || site.node.has_metrics(&site.port, &[NORMAL]));
    let calls: Vec<Duration> =
        impostor.calls_of(&site.node.host).into_iter().map(|at| at.since(away_since)).collect();
    drop(impostor);
    site.etcd.restart(0);
    site.etcd.wait_answering();
    let (second, _tap) = site.plug(2);
    site.put_endpoint(&second, HOST, "u2");
    site.node.wait_metrics_within(AGAIN, &second, &[NORMAL]);
    let between = |from: u64, to: u64| calls.iter().filter(|at| (from..to).contains(&at.as_secs())).count();
    assert!(between(0, 2) >= 3, "it is looked for at once: {calls:?}");
    assert!((2..=4).contains(&between(5, 15)), "and then less often: {calls:?}");
    site.assert_untouched_since(mark);
}

/// Shorter than it takes to call a silent member lost: nothing is read anew, and nothing is missed.
#[test]
fn a_member_that_is_slow_for_a_moment_is_waited_for() {
    let site = Site::running();
    site.node.wait_settled(&site.port);
    let (mark, log) = (site.node.watch.mark(), site.node.agent.log().mark());
    let (second, _tap) = site.plug(2);
    site.etcd.freeze(0);
    thread::scope(|scope| {
        // It is answered when the member goes on.
        scope.spawn(|| site.put_endpoint(&second, HOST, "u2"));
        wait::throughout(Duration::from_millis(1500), "routed", || {
            site.node.has_metrics(&site.port, &[NORMAL]) && site.node.has_metrics(&second, &[])
        });
        site.etcd.thaw(0);
    });
    site.node.wait_metrics(&second, &[NORMAL]);
    site.assert_untouched_since(mark);
    for line in site.node.agent.log().since(log) {
        assert!(
            !line.text.contains("Datastore lost") && !line.text.contains("Datastore read"),
            "{}",
            line.text
        );
    }
}
