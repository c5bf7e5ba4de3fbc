//! Thousands of IPv6 routes that nobody touches, beside a daemon that changes its own all the time.

use super::rig::{Rig, namespace, plug, route, settings, wanting};
use super::send;
use cutover_agent::netlink::{MonitorSettings, RouteChange, RouteSocket, route as kernel_route, snapshot};
use cutover_engine::wanted::WantedRoute;
use cutover_tests::namespace::Namespace;
use cutover_tests::wait;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

const TAPS: usize = 40;
const ROUTES_PER_TAP: usize = 100;

fn stable(taps: &[u32]) -> Vec<WantedRoute> {
    let to =
        |tap: usize, number: usize| route(&format!("2001:db8:1:{tap:x}::{number:x}/128"), taps[tap], 1024);
    (0..taps.len()).flat_map(|tap| (0..ROUTES_PER_TAP).map(move |number| to(tap, number))).collect()
}

/// Another daemon: routes of its own protocol, through an interface of its own, that come and go.
struct Daemon {
    stop: Arc<AtomicBool>,
    rounds: Arc<AtomicU64>,
    thread: Option<JoinHandle<()>>,
}

impl Daemon {
    fn start(namespace: &Arc<Namespace>) -> Self {
        let uplink = plug(namespace, "up0");
        let mut socket = namespace.run(RouteSocket::open).expect("a socket");
        let (stop, rounds) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let (stopped, counted) = (Arc::clone(&stop), Arc::clone(&rounds));
        let thread = std::thread::spawn(move || {
            while !stopped.load(Ordering::Relaxed) {
                let round = counted.fetch_add(1, Ordering::Relaxed) % 0xffff;
                let block: Vec<WantedRoute> = (0..20)
                    .map(|number| WantedRoute {
                        protocol: 12,
                        ..route(&format!("2001:db8:0:{round:x}::{number:x}/128"), uplink, 50)
                    })
                    .collect();
                for change in [RouteChange::Add, RouteChange::Remove] {
                    let batch = kernel_route::prepare(block.iter().copied().map(change));
                    assert!(socket.send(&batch).expect("an outcome").is_success());
                }
            }
        });
        Self { stop, rounds, thread: Some(thread) }
    }

    fn rounds(&self) -> u64 {
        self.rounds.load(Ordering::Relaxed)
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        let panicked = self.thread.take().is_some_and(|thread| thread.join().is_err());
        assert!(!panicked || std::thread::panicking(), "the daemon's routes were refused");
    }
}

/// A host with `TAPS` taps and all their routes.
fn host() -> (Arc<Namespace>, BTreeSet<u32>, BTreeSet<WantedRoute>) {
    let namespace = namespace();
    let taps: Vec<u32> = (0..TAPS).map(|number| plug(&namespace, &format!("tap{number}"))).collect();
    let routes = stable(&taps);
    let changes: Vec<RouteChange> = routes.iter().copied().map(RouteChange::Add).collect();
    assert_eq!(send(&namespace, &changes), []);
    (namespace, taps.into_iter().collect(), routes.into_iter().collect())
}

#[test]
fn a_stable_route_is_never_taken_for_gone_beside_a_busy_daemon() {
    let (namespace, _, expected) = host();
    let daemon = Daemon::start(&namespace);
    let often = MonitorSettings { refresh: Some(Duration::from_millis(1)), ..settings() };
    // Wanted from the start: whatever the first read misses would be written.
    let rig = Rig::wanting(&namespace, often, Some(wanting(expected.iter().copied())));
    rig.wait_until_idle();
    let adopted = rig.report.routes();
    let missing: Vec<_> = expected.difference(&adopted).collect();
    assert!(
        missing.is_empty() && adopted.len() == expected.len(),
        "adopted at the start but for {missing:?}"
    );
    let (first, began) = (*rig.monitor.full_reads().borrow(), daemon.rounds());
    let full_reads = rig.monitor.full_reads();
    let mut missing = 0;
    wait::until(wait::SOON * 4, "ten more full reads", || {
        missing += expected.difference(&rig.report.routes()).count();
        *full_reads.borrow() >= first + 10
    });
    assert!(daemon.rounds() > began, "the daemon is busy");
    assert_eq!((missing, rig.report.writes()), (0, 0), "routes missing, writes");
}

/// What nobody knows of is found, too: `cutover cleanup` is a first read, and doctor a look of its own.
#[test]
fn everything_is_found_beside_a_busy_daemon() {
    let (namespace, taps, expected) = host();
    let _daemon = Daemon::start(&namespace);
    for round in 0..10 {
        let rig = Rig::start(&namespace);
        rig.wait_until_idle();
        let read = rig.report.routes();
        let missing: Vec<_> = expected.difference(&read).collect();
        assert!(missing.is_empty() && read.len() == expected.len(), "first read {round}: {missing:?}");
        let seen = namespace.run(|| snapshot::routes(&taps)).expect("a look");
        let of_ours: BTreeSet<WantedRoute> = seen.into_iter().filter(|route| route.protocol == 3).collect();
        let missing: Vec<_> = expected.difference(&of_ours).collect();
        assert!(missing.is_empty() && of_ours.len() == expected.len(), "look {round}: {missing:?}");
    }
}
