//! The hosts, the router between them, appliers on both, and a virtual machine's tap on the target.

#![expect(unsafe_code, reason = "setsockopt(2)")]

use cutover_common::MacAddr;
use cutover_common::tunnel::TunnelCounter;
use cutover_daemon::applier::tunnels::{Settings, Starter, TunnelApplier, TunnelReport};
use cutover_engine::fact::Fact;
use cutover_engine::model::EndpointKey;
use cutover_engine::wanted::{Tunnel, WantedForward, WantedReception};
use cutover_engine::{BootTime, Wanted};
use cutover_tests::namespace::Namespace;
use cutover_tests::{Host, Lab, OpenTap, Tap, wait};
use ipnet::IpNet;
use std::collections::BTreeSet;
use std::net::{IpAddr, UdpSocket};
use std::os::fd::AsRawFd as _;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;
use tokio::sync::{mpsc, watch};

pub(crate) const TABLE: u32 = 7179;
pub(crate) const PORT: u16 = 4790;
pub(crate) const PROTOCOL: u8 = 80;
pub(crate) const ID: u32 = 0x00ab_cdef;
pub(crate) const TAP: &str = "tapport1";
pub(crate) const TAP_MAC: MacAddr = MacAddr([0xfe, 0x16, 0x3e, 0, 0, 1]);
pub(crate) const MAC: MacAddr = MacAddr([0xfa, 0x16, 0x3e, 0, 0, 1]);
/// Nothing comes for this long: then nothing will.
const QUIET: Duration = Duration::from_millis(100);

/// The virtual machine's addresses.
pub(crate) fn vm() -> [IpAddr; 2] {
    ["10.65.0.2", "2001:db8:65::2"].map(|address| address.parse().unwrap())
}

pub(crate) fn prefixes(addresses: &[IpAddr]) -> BTreeSet<IpNet> {
    addresses.iter().map(|&address| IpNet::from(address)).collect()
}

pub(crate) fn endpoint(host: &str, port: u32) -> Arc<EndpointKey> {
    Arc::new(EndpointKey {
        host: host.to_owned(),
        orchestrator: "openstack".to_owned(),
        workload: "openstack/vm".to_owned(),
        endpoint: format!("port{port}"),
    })
}

/// A host on a cable of its own to the router.
pub(crate) struct Site {
    pub(crate) host: Host,
    number: u8,
}

impl Site {
    pub(crate) fn namespace(&self) -> &Namespace {
        self.host.namespace()
    }

    /// Its address in the underlay.
    pub(crate) fn address(&self, is_ipv4: bool) -> IpAddr {
        let number = self.number;
        if is_ipv4 { [10, 98, number, 2].into() } else { [0xfd98, number.into(), 0, 0, 0, 0, 0, 2].into() }
    }

    /// Standard output of `ip` there.
    #[track_caller]
    pub(crate) fn ip(&self, arguments: &str) -> String {
        let output = self.namespace().command("ip").args(arguments.split(' ')).output().unwrap();
        // A table that nobody has made is as good as an empty one.
        String::from_utf8(output.stdout).unwrap()
    }

    /// Routes, rules and the device of the tunnel, one line each.
    pub(crate) fn traces(&self) -> Vec<String> {
        let mut found = Vec::new();
        for family in ["-4", "-6"] {
            for table in [TABLE, TABLE + 1] {
                let routes = self.ip(&format!("{family} route show table {table}"));
                found.extend(routes.lines().map(|route| format!("{table}: {}", route.trim())));
            }
            let rules = self.ip(&format!("{family} rule show"));
            let ours = rules.lines().filter(|rule| rule.contains("71"));
            found.extend(ours.map(|rule| format!("{family} {}", rule.replace('\t', " ").trim())));
        }
        found.extend(self.host.ifindex("cutover0").map(|_| "device".to_owned()));
        found
    }

    /// How many packets have gone out of an interface.
    pub(crate) fn sent(&self, interface: &str) -> u64 {
        let statistics =
            self.namespace().run(|| std::fs::read_to_string("/proc/thread-self/net/dev").unwrap());
        let line = statistics.lines().find_map(|line| line.trim().strip_prefix(&format!("{interface}:")));
        line.unwrap().split_whitespace().nth(9).unwrap().parse().unwrap()
    }
}

pub(crate) fn settings(table: u32) -> Settings {
    Settings { table, port: PORT, protocol: PROTOCOL, interface_prefixes: "tap".parse().unwrap() }
}

/// An applier on a thread in the namespace of a host. Dropped, it ends as if it had been killed: it cleans nothing up.
pub(crate) struct Running {
    pub(crate) wanted: watch::Sender<Option<Arc<Wanted>>>,
    pub(crate) starter: Starter,
    pub(crate) report: TunnelReport,
    facts: mpsc::UnboundedReceiver<Fact>,
    told: Vec<Fact>,
    thread: Option<JoinHandle<()>>,
}

impl Running {
    pub(crate) fn start(site: &Site, local: Option<IpAddr>) -> Self {
        Self::start_with(site, local, settings(TABLE))
    }

    pub(crate) fn start_with(site: &Site, local: Option<IpAddr>, settings: Settings) -> Self {
        let local = watch::channel(local.map(|address| (address, 0).into())).1;
        let (facts_in, facts) = mpsc::unbounded_channel();
        let (wanted, receiver) = watch::channel(None);
        let namespace = site.host.namespace_shared();
        let (report_in, report) = std::sync::mpsc::channel();
        let thread = std::thread::spawn(move || {
            namespace.run(|| {
                let (starter, starts) = Starter::open(facts_in.clone()).unwrap();
                let applier = TunnelApplier::open(settings, local, starts, facts_in).unwrap();
                report_in.send((applier.report(), starter)).unwrap();
                let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
                runtime.block_on(applier.run(receiver));
            });
        });
        let (report, starter) = report.recv().unwrap();
        Self { wanted, starter, report, facts, told: Vec::new(), thread: Some(thread) }
    }

    pub(crate) fn want(&self, wanted: &Wanted) {
        self.wanted.send_replace(Some(Arc::new(wanted.clone())));
    }

    /// What it told the engine, and nobody has waited for.
    pub(crate) fn facts(&mut self) -> &mut Vec<Fact> {
        self.told.extend(std::iter::from_fn(|| self.facts.try_recv().ok()));
        &mut self.told
    }

    /// Waits for something that it tells the engine, and takes it.
    #[track_caller]
    fn wait_told<T>(&mut self, what: &str, matches: impl Fn(&Fact) -> Option<T>) -> T {
        let report = self.report.clone();
        let mut found = None;
        let is_told = wait::holds_within(wait::SOON, || {
            let told = self.facts();
            found = told.iter().enumerate().find_map(|(at, fact)| Some((at, matches(fact)?)));
            found.is_some()
        });
        assert!(is_told, "{what} is not told, but {:?}; {:?}", self.told, report.read());
        let (at, found) = found.unwrap();
        self.told.remove(at);
        found
    }

    /// Waits until a reception is ready, or is no longer.
    #[track_caller]
    pub(crate) fn wait_ready(&mut self, expected: bool) {
        self.wait_told("that a reception is ready or not", |fact| match fact {
            Fact::ReceptionReady { is_ready, .. } => (*is_ready == expected).then_some(()),
            _ => None,
        });
    }

    /// Waits until a forward has started, and says when that was.
    #[track_caller]
    pub(crate) fn wait_started(&mut self) -> BootTime {
        self.wait_told("that a forward has started", |fact| match fact {
            Fact::ForwardStarted { at, .. } => Some(*at),
            _ => None,
        })
    }

    /// Waits until everything is prepared that is not active, so that a word starts it at once.
    #[track_caller]
    pub(crate) fn wait_prepared(&self) {
        wait::until(wait::SOON, format_args!("all is ready: {:?}", self.report.read()), || {
            self.report.read().is_ok_and(|it| {
                let is_ready = it.forwards.iter().all(|it| it.is_active || it.is_ready);
                it.error.is_none() && !it.forwards.is_empty() && is_ready
            })
        });
    }

    #[track_caller]
    pub(crate) fn dropped(&self, counter: TunnelCounter) -> u64 {
        self.report.read().unwrap().dropped.get(counter.name()).copied().unwrap_or(0)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let (other, _) = watch::channel(None);
        drop(std::mem::replace(&mut self.wanted, other));
        if let Some(thread) = self.thread.take() {
            let ended = thread.join();
            assert!(std::thread::panicking() || ended.is_ok());
        }
    }
}

pub(crate) struct Bed {
    pub(crate) source: Site,
    pub(crate) target: Site,
    pub(crate) client: Site,
    _router: Host,
    pub(crate) tap: Option<Tap>,
    pub(crate) guest: OpenTap,
    // Last, because it looks for what is left.
    _lab: Lab,
}

impl Bed {
    pub(crate) fn new() -> Self {
        let lab = Lab::new();
        let router = lab.host("router");
        let [source, target, client] = [("source", 1), ("target", 2), ("client", 3)].map(|(name, number)| {
            let site = Site { host: lab.host(name), number };
            connect(&router, &site);
            site
        });
        for host in [&router, &source.host, &target.host] {
            for path in ["net/ipv4/ip_forward", "net/ipv6/conf/all/forwarding"] {
                host.namespace().set_sysctl(path, "1");
            }
        }
        // The strictest that an operator may have.
        for host in [&source.host, &target.host] {
            host.namespace().set_sysctl("net/ipv4/conf/all/rp_filter", "1");
        }
        // The route of everybody, which is stale when the virtual machine has left.
        for address in vm() {
            let via = source.address(address.is_ipv4());
            router.namespace().ip(&format!("route add {address} via {via}"));
        }
        let tap = target.host.plug(TAP, TAP_MAC);
        let guest = tap.open();
        let bed = Self { source, target, client, _router: router, tap: Some(tap), guest, _lab: lab };
        bed.meet(&bed.target, TAP);
        bed
    }

    /// The permanent neighbours that the agent makes on a tap.
    pub(crate) fn meet(&self, site: &Site, tap: &str) {
        for address in vm() {
            site.namespace().ip(&format!("neigh replace {address} lladdr {MAC} dev {tap} nud permanent"));
        }
    }

    pub(crate) fn source_applier(&self) -> Running {
        Running::start(&self.source, None)
    }

    pub(crate) fn target_applier(&self) -> Running {
        Running::start(&self.target, None)
    }

    /// What the source wants.
    pub(crate) fn forward(&self, is_active: bool, is_ipv4: bool) -> Wanted {
        let tunnel = Tunnel { id: ID, peer: self.target.address(is_ipv4) };
        let awaits_word = !is_active;
        let forward = WantedForward {
            tunnel,
            prefixes: prefixes(&vm()),
            is_active,
            awaits_word,
            awaits_stop: awaits_word,
        };
        Wanted { forwards: [(endpoint("source", 1), forward)].into(), ..Wanted::default() }
    }

    /// What the target wants.
    pub(crate) fn reception(&self, is_ipv4: bool) -> Wanted {
        let ifindex = self.target.host.ifindex(TAP).unwrap_or(u32::MAX >> 1);
        let reception = WantedReception {
            tunnel: Tunnel { id: ID, peer: self.source.address(is_ipv4) },
            interface: TAP.to_owned(),
            ifindex,
            outlet: ifindex,
            prefixes: prefixes(&vm()),
        };
        Wanted { receptions: [(endpoint("target", 1), reception)].into(), ..Wanted::default() }
    }

    /// Both appliers, with the source forwarding and the target receiving over IPv4.
    #[track_caller]
    pub(crate) fn at_work(&self) -> (Running, Running) {
        let (mut source, mut target) = (self.source_applier(), self.target_applier());
        target.want(&self.reception(true));
        target.wait_ready(true);
        source.want(&self.forward(true, true));
        source.wait_started();
        (source, target)
    }

    /// Sends a datagram from the client that nobody may fragment. Says what the kernel of the client thinks of it.
    pub(crate) fn send(&self, to: IpAddr, payload: &[u8]) -> std::io::Result<usize> {
        let any = if to.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
        self.client.namespace().run(|| {
            let socket = UdpSocket::bind(any).unwrap();
            let (level, option) = match to {
                IpAddr::V4(_) => (libc::IPPROTO_IP, libc::IP_MTU_DISCOVER),
                IpAddr::V6(_) => (libc::IPPROTO_IPV6, libc::IPV6_MTU_DISCOVER),
            };
            let always: libc::c_int = libc::IP_PMTUDISC_DO;
            let bytes = libc::socklen_t::try_from(size_of_val(&always)).unwrap();
            // SAFETY: the kernel reads one integer, which lives until the call returns.
            let result = unsafe {
                libc::setsockopt(socket.as_raw_fd(), level, option, (&raw const always).cast(), bytes)
            };
            assert_eq!(result, 0);
            socket.send_to(payload, (to, 9999))
        })
    }

    /// The next datagram that the guest gets, by how it ends.
    #[track_caller]
    pub(crate) fn expect(&self, payload: &[u8]) {
        wait::until(wait::SOON, format_args!("the guest gets {} bytes", payload.len()), || {
            std::iter::from_fn(|| self.guest.receive()).any(|frame| frame.ends_with(payload))
        });
    }

    /// Sends one datagram to each address, and expects that the guest gets them.
    #[track_caller]
    pub(crate) fn expect_reaches(&self, what: &str) {
        for address in vm() {
            let payload = format!("{what} {address}").into_bytes();
            self.send(address, &payload).unwrap();
            self.expect(&payload);
        }
    }

    /// Sends one datagram to each address. Returns whether the guest gets them in time.
    pub(crate) fn reaches_within(&self, limit: Duration, what: &str) -> bool {
        let mut missing: BTreeSet<String> = vm().iter().map(|address| format!("{what} {address}")).collect();
        for (address, payload) in vm().into_iter().zip(missing.clone()) {
            let _ = self.send(address, payload.as_bytes());
        }
        wait::holds_within(limit, || {
            for frame in std::iter::from_fn(|| self.guest.receive()) {
                missing.retain(|payload| !String::from_utf8_lossy(&frame).contains(payload));
            }
            missing.is_empty()
        })
    }

    /// Sends one datagram to each address, and expects that the guest gets none.
    #[track_caller]
    pub(crate) fn expect_lost(&self, what: &str) {
        for address in vm() {
            let _ = self.send(address, format!("{what} {address}").as_bytes());
        }
        self.expect_nothing(what);
    }

    #[track_caller]
    pub(crate) fn expect_nothing(&self, what: &str) {
        wait::throughout(QUIET, format_args!("the guest gets nothing: {what}"), || {
            !std::iter::from_fn(|| self.guest.receive()).any(|frame| {
                let text = String::from_utf8_lossy(&frame);
                text.contains(what)
            })
        });
    }
}

/// A cable from the router in place of the lab's bridge. Nobody has to ask for anybody, so nothing is on it but what is sent.
fn connect(router: &Host, site: &Site) {
    let number = site.number;
    site.namespace().ip(&format!(
        "link set eth0 down\n\
         link add up0 address 02:00:00:00:01:0{number} type veth \
         peer name host{number} address 02:00:00:00:02:0{number} netns {router}\n\
         link set up0 up\n\
         addr add 10.98.{number}.2/30 dev up0\n\
         addr add fd98:{number}::2/64 dev up0 nodad\n",
        router = router.namespace().name(),
    ));
    router.namespace().ip(&format!(
        "link set host{number} up\n\
         addr add 10.98.{number}.1/30 dev host{number}\n\
         addr add fd98:{number}::1/64 dev host{number} nodad\n\
         neigh add 10.98.{number}.2 lladdr 02:00:00:00:01:0{number} dev host{number} nud permanent\n\
         neigh add fd98:{number}::2 lladdr 02:00:00:00:01:0{number} dev host{number} nud permanent"
    ));
    site.namespace().ip(&format!(
        "neigh add 10.98.{number}.1 lladdr 02:00:00:00:02:0{number} dev up0 nud permanent\n\
         neigh add fd98:{number}::1 lladdr 02:00:00:00:02:0{number} dev up0 nud permanent\n\
         route add default via 10.98.{number}.1 dev up0\n\
         route add default via fd98:{number}::1 dev up0"
    ));
}
