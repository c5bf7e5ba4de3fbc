//! Thousands of IPv6 routes and neighbours that nobody touches, beside somebody who changes others all the time.

use super::rig::{Rig, namespace, plug, route, settings, wanting};
use super::send;
use cutover_common::MacAddr;
use cutover_daemon::netlink::{
    Monitor, MonitorSettings, Neighbour, NeighbourChange, NeighbourEvent, NeighbourKey, PreparedBatch,
    RouteChange, RouteSocket, neighbour, route as kernel_route, snapshot,
};
use cutover_engine::wanted::WantedRoute;
use cutover_tests::namespace::Namespace;
use cutover_tests::wait;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;
use tokio::runtime;

const TAPS: usize = 40;
const ROUTES_PER_TAP: usize = 100;

fn stable(taps: &[u32]) -> Vec<WantedRoute> {
    let to =
        |tap: usize, number: usize| route(&format!("2001:db8:1:{tap:x}::{number:x}/128"), taps[tap], 1024);
    (0..taps.len()).flat_map(|tap| (0..ROUTES_PER_TAP).map(move |number| to(tap, number))).collect()
}

/// Somebody else's changes that are written without end.
struct Churn {
    stop: Arc<AtomicBool>,
    rounds: Arc<AtomicU64>,
    thread: Option<JoinHandle<()>>,
}

impl Churn {
    /// Writes what `batches` makes of the number of each round, one after the other.
    fn start(namespace: &Namespace, batches: impl Fn(u64) -> [PreparedBatch; 2] + Send + 'static) -> Self {
        let mut socket = namespace.run(RouteSocket::open).expect("a socket");
        let (stop, rounds) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let (stopped, counted) = (Arc::clone(&stop), Arc::clone(&rounds));
        let thread = std::thread::spawn(move || {
            while !stopped.load(Ordering::Relaxed) {
                for batch in batches(counted.fetch_add(1, Ordering::Relaxed)) {
                    assert!(socket.send(&batch).expect("an outcome").is_success());
                }
            }
        });
        Self { stop, rounds, thread: Some(thread) }
    }

    /// Another daemon: routes of its own protocol, through an interface of its own, that come and go.
    fn of_routes(namespace: &Namespace) -> Self {
        let uplink = plug(namespace, "up0");
        Self::start(namespace, move |round| {
            let round = round % 0xffff;
            let block: Vec<WantedRoute> = (0..20)
                .map(|number| WantedRoute {
                    protocol: 12,
                    ..route(&format!("2001:db8:0:{round:x}::{number:x}/128"), uplink, 50)
                })
                .collect();
            come_and_go(&block)
        })
    }

    /// Routes that the monitor is told of, more at once than a small buffer holds, and pauses in which it can read.
    fn of_heard_routes(namespace: &Namespace, tap: u32) -> Self {
        Self::start(namespace, move |_| {
            std::thread::sleep(Duration::from_millis(10));
            let block: Vec<WantedRoute> =
                (0..20).map(|number| route(&format!("2001:db8:2::{number:x}/128"), tap, 50)).collect();
            come_and_go(&block)
        })
    }

    /// Neighbours on another interface that come and go.
    fn of_neighbours(namespace: &Namespace) -> Self {
        let uplink = plug(namespace, "up0");
        Self::start(namespace, move |round| {
            let block: Vec<Neighbour> = (0..20).map(|number| known(uplink, round % 200, number)).collect();
            let added: Vec<_> = block.iter().copied().map(NeighbourChange::Add).collect();
            let removed: Vec<_> = block.iter().map(|it| NeighbourChange::Remove(it.key)).collect();
            [neighbour::prepare(&added), neighbour::prepare(&removed)]
        })
    }

    fn rounds(&self) -> u64 {
        self.rounds.load(Ordering::Relaxed)
    }
}

impl Drop for Churn {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        let panicked = self.thread.take().is_some_and(|thread| thread.join().is_err());
        assert!(!panicked || std::thread::panicking(), "the changes were refused");
    }
}

fn come_and_go(routes: &[WantedRoute]) -> [PreparedBatch; 2] {
    [RouteChange::Add, RouteChange::Remove]
        .map(|change| kernel_route::prepare(routes.iter().copied().map(change)))
}

fn known(ifindex: u32, block: u64, number: u64) -> Neighbour {
    let address = format!("10.{}.{block}.{number}", ifindex % 256).parse().expect("an address");
    Neighbour { key: NeighbourKey { ifindex, address }, mac: MacAddr([0xfa, 0x16, 0x3e, 0, 0, 1]) }
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
    let daemon = Churn::of_routes(&namespace);
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
    let _daemon = Churn::of_routes(&namespace);
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

#[test]
fn a_stable_neighbour_is_never_taken_for_gone_beside_others_that_change() {
    const FULL_READS: u64 = 300;
    const NEIGHBOURS_PER_TAP: u64 = 1000;
    let namespace = namespace();
    let taps = ["tap0", "tap1", "tap2"].map(|name| plug(&namespace, name));
    let stable: Vec<Neighbour> = taps
        .iter()
        .flat_map(|&tap| (0..NEIGHBOURS_PER_TAP).map(move |number| known(tap, number / 250, number % 250)))
        .collect();
    let added: Vec<_> = stable.iter().copied().map(NeighbourChange::Add).collect();
    let mut socket = namespace.run(RouteSocket::open).expect("a socket");
    assert!(socket.send(&neighbour::prepare(&added)).expect("an outcome").is_success());

    let gone = namespace.run(|| {
        let runtime = runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(async {
            let often = MonitorSettings { refresh: Some(Duration::from_millis(1)), ..settings() };
            let (monitor, handle, mut streams) = Monitor::open(often).expect("a monitor");
            tokio::spawn(monitor.run());
            let churn = Churn::of_neighbours(&namespace);
            let (done, mut gone) = (handle.full_reads(), 0);
            let counted = tokio::time::timeout(wait::SOON * 4, async {
                while *done.borrow() < FULL_READS {
                    tokio::select! {
                        fact = streams.facts.recv() => drop(fact.expect("the monitor runs")),
                        event = streams.routes.recv() => drop(event.expect("the monitor runs")),
                        event = streams.neighbours.recv() => {
                            let event = event.expect("the monitor runs");
                            gone += usize::from(matches!(event, NeighbourEvent::Gone(_)));
                        }
                    }
                }
            });
            counted.await.unwrap_or_else(|_| panic!("only {} full reads", *done.borrow()));
            assert!(churn.rounds() > 100, "somebody changes others");
            gone
        })
    });
    assert_eq!(gone, 0, "taken for gone in {FULL_READS} full reads");
}

/// The kernel does not answer about a neighbour when the buffer is full, and nobody else ends such a read.
#[test]
fn a_question_that_is_not_answered_ends_its_read() {
    let namespace = namespace();
    let tap = plug(&namespace, "tap0");
    let neighbours: Vec<Neighbour> = (0..500).map(|number| known(tap, number / 250, number % 250)).collect();
    let [added, removed] = [NeighbourChange::Add, |it: Neighbour| NeighbourChange::Remove(it.key)]
        .map(|change| neighbour::prepare(&neighbours.iter().copied().map(change).collect::<Vec<_>>()));
    let mut socket = namespace.run(RouteSocket::open).expect("a socket");
    let small = MonitorSettings { receive_buffer_bytes: 4096, answer_timeout: None, ..settings() };
    let rig = Rig::with(&namespace, small);
    for _ in 0..6 {
        assert!(socket.send(&added).expect("an outcome").is_success());
        rig.resync();
        // None of what happens here is heard of, so the next read asks for each of the neighbours.
        let mut churn = None;
        rig.while_stopped(|| {
            churn = Some(Churn::of_heard_routes(&namespace, tap));
            assert!(socket.send(&removed).expect("an outcome").is_success());
        });
        let rounds = || churn.as_ref().map_or(0, Churn::rounds);
        let before = rounds();
        wait::until(wait::SOON, "so many bursts", || rounds() >= before + 80);
        drop(churn);
        rig.resync();
    }
}
