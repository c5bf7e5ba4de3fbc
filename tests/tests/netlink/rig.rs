//! Monitor and appliers in a namespace of their own, without the rest of the agent.

use cutover_daemon::applier::interfaces::{InterfaceApplier, InterfaceSettings};
use cutover_daemon::applier::routes::{RouteApplier, RouteReport};
use cutover_daemon::fast_path::Written;
use cutover_daemon::netlink::{
    ByFamily, Family, Monitor, MonitorHandle, MonitorSettings, RECEIVE_BUFFER_BYTES,
};
use cutover_engine::wanted::WantedRoute;
use cutover_engine::{BootTime, Fact, Wanted};
use cutover_tests::namespace::Namespace;
use cutover_tests::route_watch::dump_routes;
use cutover_tests::wait;
use ipnet::IpNet;
use std::collections::BTreeSet;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::thread::JoinHandle;
use tokio::runtime;
use tokio::sync::{mpsc as channel, oneshot, watch};

pub(crate) const IPV4: &str = "10.65.0.2/32";
pub(crate) const IPV6: &str = "2001:db8::2/128";

/// A namespace that no other test uses.
pub(crate) fn namespace() -> Arc<Namespace> {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let number = COUNT.fetch_add(1, Ordering::Relaxed);
    Arc::new(Namespace::create(&format!("cut{}nl{number}", std::process::id())))
}

/// A namespace with a tap as Nova plugs it: up, and without a carrier.
pub(crate) fn with_tap() -> (Arc<Namespace>, u32) {
    let namespace = namespace();
    let ifindex = plug(&namespace, "tapone");
    (namespace, ifindex)
}

pub(crate) fn plug(namespace: &Namespace, name: &str) -> u32 {
    namespace.ip(&format!("tuntap add dev {name} mode tap\nlink set {name} up"));
    ifindex(namespace, name)
}

pub(crate) fn ifindex(namespace: &Namespace, name: &str) -> u32 {
    namespace.run(|| nix::net::if_::if_nametoindex(name)).expect("the interface exists")
}

pub(crate) fn net(text: &str) -> IpNet {
    text.parse().expect("a prefix")
}

pub(crate) fn route(destination: &str, ifindex: u32, metric: u32) -> WantedRoute {
    WantedRoute { destination: net(destination), ifindex, metric, protocol: 3, source: None }
}

/// Both families of the usual virtual machine.
pub(crate) fn both(ifindex: u32, metric: u32) -> [WantedRoute; 2] {
    [route(IPV4, ifindex, metric), route(IPV6, ifindex, metric)]
}

pub(crate) fn wanting(routes: impl IntoIterator<Item = WantedRoute>) -> Wanted {
    let routes: BTreeSet<WantedRoute> = routes.into_iter().collect();
    let known_interfaces = routes.iter().map(|route| route.ifindex).collect();
    let routes = routes.into_iter().collect();
    Wanted { routes, known_interfaces, leftovers_may_go: true, ..Wanted::default() }
}

/// What the kernel holds on the taps, read by the lab's own decoder, without what the kernel made itself.
pub(crate) fn in_kernel(namespace: &Namespace) -> BTreeSet<WantedRoute> {
    let routes = namespace.run(dump_routes).expect("a dump");
    let made = routes.into_iter().filter(|route| route.gateway.is_none() && route.protocol != 2);
    made.map(|route| WantedRoute {
        destination: route.destination,
        ifindex: route.ifindex,
        metric: route.metric,
        protocol: route.protocol,
        source: route.source,
    })
    .collect()
}

/// What runs on the host, as far as the route appliers are told.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Zebra {
    Absent,
    Keeps,
    /// As FRR 10.7 does.
    Forgets,
}

/// Monitor, route appliers and interface applier on one thread of the namespace.
pub(crate) struct Rig {
    pub(crate) wanted: watch::Sender<Option<Arc<Wanted>>>,
    pub(crate) report: RouteReport,
    /// What the fast path, which the test plays, has written.
    written: ByFamily<channel::UnboundedSender<Written>>,
    pub(crate) monitor: MonitorHandle,
    facts: Arc<Mutex<Vec<Fact>>>,
    runtime: runtime::Handle,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

pub(crate) fn settings() -> MonitorSettings {
    MonitorSettings {
        route_protocol: Some(3),
        expected_protocol: None,
        interface_prefixes: "tap".parse().expect("a prefix"),
        bridges: BTreeSet::new(),
        refresh: None,
        answer_timeout: Some(wait::SOON),
        receive_buffer_bytes: RECEIVE_BUFFER_BYTES,
    }
}

impl Rig {
    pub(crate) fn start(namespace: &Arc<Namespace>) -> Self {
        Self::with(namespace, settings())
    }

    pub(crate) fn with(namespace: &Arc<Namespace>, settings: MonitorSettings) -> Self {
        Self::wanting(namespace, settings, None)
    }

    /// Something is wanted before the kernel has been read for the first time.
    pub(crate) fn wanting(
        namespace: &Arc<Namespace>,
        settings: MonitorSettings,
        wanted: Option<Wanted>,
    ) -> Self {
        Self::beside_zebra(namespace, settings, wanted, Zebra::Absent)
    }

    /// With or without FRR's zebra on the host, as far as the route applier is told.
    pub(crate) fn beside_zebra(
        namespace: &Arc<Namespace>,
        settings: MonitorSettings,
        wanted: Option<Wanted>,
        zebra: Zebra,
    ) -> Self {
        let (wanted, wanted_out) = watch::channel(wanted.map(Arc::new));
        let (stop, stopped) = oneshot::channel::<()>();
        let (ready_in, ready) = mpsc::channel();
        let [(ipv4, ipv4_out), (ipv6, ipv6_out)] = [(); 2].map(|()| channel::unbounded_channel());
        let written = ByFamily { ipv4, ipv6 };
        let facts = Arc::new(Mutex::new(Vec::new()));
        let collected = Arc::clone(&facts);
        let inside = Arc::clone(namespace);
        let thread = std::thread::spawn(move || {
            inside.run(move || {
                let runtime = runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
                runtime.block_on(async move {
                    let (monitor, handle, streams) = Monitor::open(settings).expect("a monitor");
                    let (routes, report) =
                        RouteApplier::open_both(&wanted_out, streams.routes).expect("route appliers");
                    let (prepared, prepared_out) = channel::channel(64);
                    let interfaces = InterfaceApplier::open(
                        InterfaceSettings::default(),
                        wanted_out,
                        streams.neighbours,
                        prepared,
                    )
                    .expect("an interface applier");
                    tokio::spawn(monitor.run());
                    let beside = |applier: RouteApplier| {
                        applier
                            .telling_zebra(move || zebra != Zebra::Absent)
                            .which_forgets(zebra == Zebra::Forgets)
                    };
                    tokio::spawn(beside(routes.ipv4.after_fast_path(ipv4_out)).run());
                    tokio::spawn(beside(routes.ipv6.after_fast_path(ipv6_out)).run());
                    tokio::spawn(interfaces.run());
                    tokio::spawn(collect(streams.facts, Arc::clone(&collected)));
                    tokio::spawn(collect(prepared_out, collected));
                    ready_in.send((handle, report, runtime::Handle::current())).expect("the test waits");
                    let _ = stopped.await;
                });
            });
        });
        let (monitor, report, runtime) = ready.recv().expect("the rig starts");
        let (stop, thread) = (Some(stop), Some(thread));
        let rig = Self { wanted, report, written, monitor, facts, runtime, stop, thread };
        rig.wait_for_full_read(1);
        rig
    }

    pub(crate) fn want(&self, wanted: Wanted) {
        self.wanted.send_replace(Some(Arc::new(wanted)));
    }

    /// The fast path says that it has written these.
    pub(crate) fn tell_written(&self, routes: &[WantedRoute], at: BootTime) {
        for family in Family::BOTH {
            let routes = routes.iter().copied().filter(|route| family.has(route)).collect();
            self.written.of(family).send(Written { routes, at }).expect("the applier runs");
        }
    }

    #[track_caller]
    pub(crate) fn wait_for_full_read(&self, number: u64) {
        let full_reads = self.monitor.full_reads();
        wait::until(wait::SOON, format!("full read {number}"), || *full_reads.borrow() >= number);
    }

    /// A full read that begins now has been compared with what is wanted.
    #[track_caller]
    pub(crate) fn resync(&self) {
        // One may be going on that began before.
        for _ in 0..2 {
            let before = *self.monitor.full_reads().borrow();
            self.monitor.resync();
            self.wait_for_full_read(before + 1);
        }
        self.wait_until_idle();
    }

    /// Everything that has been delivered to the tasks has been dealt with: the thread is theirs alone.
    pub(crate) fn wait_until_idle(&self) {
        let (done_in, done) = mpsc::channel();
        self.runtime.spawn(async move {
            for _ in 0..100 {
                tokio::task::yield_now().await;
            }
            done_in.send(()).expect("the test waits");
        });
        done.recv().expect("the rig runs");
    }

    /// Does `work` while nothing of the rig runs.
    pub(crate) fn while_stopped(&self, work: impl FnOnce()) {
        let (stopped_in, stopped) = mpsc::channel();
        let (go_on, going_on) = mpsc::channel::<()>();
        self.runtime.spawn(async move {
            stopped_in.send(()).expect("the test waits");
            // Blocks the only thread, on purpose.
            let _ = going_on.recv();
        });
        stopped.recv().expect("the rig runs");
        work();
        drop(go_on);
    }

    pub(crate) fn facts(&self) -> Vec<Fact> {
        self.facts.lock().expect("no panic in the rig").clone()
    }

    #[track_caller]
    pub(crate) fn wait_for_fact(&self, expected: &Fact) {
        wait::until(wait::SOON, format!("{expected:?}"), || self.facts().contains(expected));
    }
}

async fn collect(mut facts: channel::Receiver<Fact>, into: Arc<Mutex<Vec<Fact>>>) {
    while let Some(fact) = facts.recv().await {
        into.lock().expect("no panic in the test with the lock").push(fact);
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        drop(self.stop.take());
        let panicked = self.thread.take().is_some_and(|thread| thread.join().is_err());
        assert!(!panicked || std::thread::panicking(), "the rig panicked");
    }
}

/// Waits until the kernel holds exactly these device routes.
#[track_caller]
pub(crate) fn wait_for_routes(namespace: &Namespace, expected: impl IntoIterator<Item = WantedRoute>) {
    let expected: BTreeSet<WantedRoute> = expected.into_iter().collect();
    let in_time = wait::holds_within(wait::SOON, || in_kernel(namespace) == expected);
    assert!(in_time, "expected {expected:#?}\nfound {:#?}", in_kernel(namespace));
}
