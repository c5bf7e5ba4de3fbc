//! A guest that sends as fast as it can what the agent and its programs look at: what that costs the agent, an announcement on another tap, and another
//! virtual machine. Seen from outside, with the agent as a process.

use crate::report::{Bound, Goal, Section};
use anyhow::{Context as _, Result};
use cutover_common::MacAddr;
use cutover_daemon::clock;
use cutover_daemon::priority::raise_priority;
use cutover_tests::driver::{Driver, Pace};
use cutover_tests::footprint::{self, Footprint};
use cutover_tests::frames::{self, Frame};
use cutover_tests::route_history::Change;
use cutover_tests::route_watch::RouteWatch;
use cutover_tests::scene::{ELEVATED, NORMAL, Node, SOURCE, TARGET};
use cutover_tests::statistics::{Distribution, Micros, ratio};
use cutover_tests::{Directory, Lab, OpenTap, Port, Tap, firewall, http, processors, wait};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, sleep};
use std::time::{Duration, Instant};

/// How long everything is left alone before an announcement.
const SETTLING: Duration = Duration::from_millis(20);
/// How long another virtual machine sends, in turns with and without a flood.
const SENDING: Duration = Duration::from_millis(200);
const SENDING_ROUNDS: u32 = 10;
/// Frames of a flood that are ready before it begins: to make them would be most of the work.
const VARIETY: u64 = 4096;

/// Where the agent's metrics are.
const METRICS: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 9091);

/// What the guest sends.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Flood {
    Nothing,
    /// All kinds of announcements as itself, in Base.
    Announcements,
    /// The same as others, while it is awaited.
    Lies,
    /// ARP requests and neighbour solicitations from addresses of nobody.
    Solicitations,
    Rubbish,
    /// Each datagram begins a connection, which the host tracks.
    Connections,
}

const FLOODS: [Flood; 6] = [
    Flood::Nothing,
    Flood::Announcements,
    Flood::Lies,
    Flood::Solicitations,
    Flood::Rubbish,
    Flood::Connections,
];

impl Flood {
    const fn name(self) -> &'static str {
        match self {
            Self::Nothing => "nothing",
            Self::Announcements => "announcements of every kind, in its own name",
            Self::Lies => "the same in the name of others, while it is awaited",
            Self::Solicitations => "ARP requests and neighbour solicitations from addresses of nobody",
            Self::Rubbish => "rubbish",
            Self::Connections => "datagrams of new connections, tracked",
        }
    }

    fn frame(self, port: &Port, host: MacAddr, number: u64) -> Frame {
        let [.., third, second, first] = number.to_be_bytes();
        let other = MacAddr([0xfa, 0x16, 0x3e, 0xff, second, first]);
        let (IpAddr::V4(ipv4), IpAddr::V6(ipv6)) = (port.ipv4().addr(), port.ipv6().addr()) else {
            unreachable!("a prefix of each family")
        };
        let nobodys = Ipv4Addr::new(203, 0, 113, first);
        let nobodys6 = Ipv6Addr::new(0x2001, 0xdb8, 0xbad, 0, 0, 0, second.into(), first.into());
        let announcement = |mac, ipv4, ipv6| match number % 4 {
            0 => frames::rarp(mac),
            1 => frames::garp_request(mac, ipv4),
            2 => frames::garp_reply(mac, ipv4),
            _ => frames::unsolicited_na(mac, ipv6),
        };
        match self {
            Self::Nothing => unreachable!("nobody sends it"),
            Self::Announcements => announcement(port.mac, ipv4, ipv6),
            Self::Lies => announcement(other, nobodys, nobodys6),
            Self::Solicitations if number.is_multiple_of(2) => frames::arp_request(other, nobodys, ipv4),
            Self::Solicitations => frames::neighbour_solicitation(other, nobodys6, ipv6),
            Self::Rubbish => frames::junk(port.mac, number),
            Self::Connections => {
                let destination = [198, 18 + third % 2, second, first].into();
                to_host(&frames::udp(port.mac, port.ipv4().addr(), destination, b"flood"), host)
            }
        }
    }
}

/// What was measured while somebody sent that.
struct Row {
    flood: Flood,
    frames_a_second: f64,
    both_routes: Distribution,
    agent_share: f64,
    memory_kib: u64,
    /// How often notifications of the kernel were lost.
    overruns: u64,
    /// Frames of another virtual machine: with the flood, and in turns without it.
    sent: u64,
    sent_alone: u64,
}

pub(crate) fn measure(rounds: usize) -> Result<Section> {
    let lab = Lab::new();
    let host = HostileHost::new(&lab)?;
    let rows: Vec<Row> = FLOODS.into_iter().map(|flood| host.under(flood, rounds)).collect::<Result<_>>()?;
    Ok(section(&rows, rounds))
}

fn section(rows: &[Row], rounds: usize) -> Section {
    let quiet = &rows[0];
    let floods = &rows[1..];
    let worst = |of: &dyn Fn(&Row) -> f64| floods.iter().map(of).fold(0.0, f64::max);
    let goal = |what: &str, measured, bound| Goal { what: what.into(), measured, bound };
    let memory = rows.iter().map(|row| row.memory_kib);
    let (least, most) = (memory.clone().min().unwrap_or_default(), memory.max().unwrap_or_default());
    let overruns: u64 = rows.iter().map(|row| row.overruns).sum();
    Section {
        title: "A hostile guest",
        method: format!(
            "`cutover agent` as a process. One guest sends from its tap as fast as the kernel takes it, all of {VARIETY} different frames again and again, \
             and its thread has the first processor. Meanwhile another guest migrates to the host {rounds} times, and is rolled back each time: the time is from right before its RARP frame is \
             written to its tap until another process (SCHED_FIFO, not on the first processor) has the kernel's notification of both routes. The share is \
             the agent's processor time in that time, migrations and all. A third guest, which neither migrates nor does anything else, sends datagrams through the host for {} ms, \
             {SENDING_ROUNDS} times, in turns without and with the flood, from another processor.",
            SENDING.as_millis()
        ),
        columns: &[
            "what the guest sends",
            "frames a second",
            "another's announcement → both routes: median",
            "p99",
            "processor time of the agent",
            "its private memory",
            "notifications lost",
            "datagrams of a third: with the flood / without",
        ],
        rows: rows.iter().map(row).collect(),
        goals: vec![
            goal(
                "announcement → both routes, median, in a flood : quiet, the worst",
                worst(&|row| ratio(row.both_routes.median(), quiet.both_routes.median())),
                Bound::AtMost(2.0),
            ),
            goal(
                "the agent's share of a processor in a flood less that without one, the worst",
                worst(&|row| row.agent_share - quiet.agent_share),
                Bound::AtMost(0.1),
            ),
            goal(
                "private memory of the agent, the most less the least, in MiB",
                (most - least) as f64 / 1024.0,
                Bound::AtMost(2.0),
            ),
            goal("how often notifications of the kernel were lost", overruns as f64, Bound::AtMost(0.0)),
            goal(
                "datagrams of a third guest, in a flood : without, the worst",
                floods.iter().map(Row::third).fold(f64::INFINITY, f64::min),
                Bound::AtLeast(0.5),
            ),
        ],
        picture: None,
    }
}

impl Row {
    fn third(&self) -> f64 {
        self.sent as f64 / self.sent_alone as f64
    }
}

fn row(row: &Row) -> Vec<String> {
    vec![
        row.flood.name().into(),
        format!("{:.0}", row.frames_a_second),
        Micros(row.both_routes.median()).to_string(),
        Micros(row.both_routes.p99()).to_string(),
        format!("{:.1} %", row.agent_share * 100.0),
        format!("{:.1} MiB", row.memory_kib as f64 / 1024.0),
        row.overruns.to_string(),
        format!("{:.2}", row.third()),
    ]
}

/// A guest with a tap that is open.
struct Guest {
    port: Port,
    driver: Driver,
    open: OpenTap,
    _tap: Tap,
}

impl Guest {
    /// On the host.
    fn plug(node: &Node, directory: &Directory, number: u8) -> Self {
        let port = Port::new(number);
        let driver = Driver::new(directory, &port).at_pace(Pace::IMMEDIATE);
        driver.bind(TARGET);
        let tap = node.host.plug(&port.interface, port.tap_mac());
        let open = tap.open();
        Self { port, driver, open, _tap: tap }
    }
}

/// The host, with the guest that is hostile, one that arrives, and one that only sends.
struct HostileHost {
    third: Guest,
    hostile: Guest,
    guest: OpenTap,
    driver: Driver,
    port: Port,
    node: Node,
}

impl HostileHost {
    fn new(lab: &Lab) -> Result<Self> {
        let directory = lab.directory();
        let port = Port::new(1);
        let driver = Driver::new(&directory, &port).at_pace(Pace::IMMEDIATE);
        driver.bind(SOURCE);
        let mut node = Node::new(lab, TARGET, &directory, &port);
        for setting in ["LiveMigrationRouteConvergenceTime", "CutoverEndpointGrace"] {
            node.agent.set(setting, 0);
        }
        node.agent.set("PrometheusMetricsEnabled", true);
        node.agent.set("RouteRefreshInterval", 3600);
        node.agent.set("InterfaceRefreshInterval", 3600);
        node.watch = RouteWatch::start_with(node.host.namespace(), || {
            processors::stay_on(&processors::others());
            raise_priority(Duration::ZERO);
        });
        node.agent.start();
        let namespace = node.host.namespace();
        // A way out for what guests send, on which nobody answers.
        namespace.ip("neigh add 192.168.77.250 lladdr 02:00:00:00:00:fa nud permanent dev eth0\n\
                      route add 198.18.0.0/15 via 192.168.77.250\n\
                      route add 198.51.100.0/24 via 192.168.77.250");
        let chain = "chain forward { type filter hook forward priority 0; ct state established accept\n }";
        firewall::load(namespace, &format!("table inet tracking {{ {chain}\n }}"));
        // A full table of connections is the host's affair, with Cutover and without it.
        namespace.set_sysctl("net/netfilter/nf_conntrack_udp_timeout", "1");
        let guest = node.tap().open();
        let [hostile, third] = [2, 3].map(|number| Guest::plug(&node, &directory, number));
        for other in [&hostile, &third] {
            node.wait_metrics(&other.port, &[NORMAL]);
        }
        Ok(Self { third, hostile, guest, driver, port, node })
    }

    fn under(&self, flood: Flood, rounds: usize) -> Result<Row> {
        if flood == Flood::Lies {
            // It is awaited here from now on.
            self.hostile.driver.unbind(TARGET);
            self.node.wait_metrics(&self.hostile.port, &[]);
            self.hostile.driver.bind(SOURCE);
            let _uid = self.hostile.driver.start(SOURCE, TARGET);
            let is_armed = |endpoint: serde_json::Value| endpoint["watch"].is_u64();
            wait::until(wait::SOON, "the hostile guest is awaited", || {
                self.node.agent.status_of(&self.hostile.port).is_some_and(is_armed)
            });
        }
        let row = self.flooded(flood, rounds);
        if flood == Flood::Lies {
            self.hostile.driver.delete_port(SOURCE, TARGET);
            self.node.wait_metrics(&self.hostile.port, &[]);
            self.hostile.driver.bind(TARGET);
            self.node.wait_metrics(&self.hostile.port, &[NORMAL]);
        }
        row
    }

    fn flooded(&self, flood: Flood, rounds: usize) -> Result<Row> {
        let host = self.hostile.port.tap_mac();
        let ready: Vec<Frame> = match flood {
            Flood::Nothing => Vec::new(),
            _ => (0..VARIETY).map(|number| flood.frame(&self.hostile.port, host, number)).collect(),
        };
        let (goes_on, is_over, sent) = (AtomicBool::new(true), AtomicBool::new(false), AtomicU64::new(0));
        let pid = self.node.agent.pid().context("the agent runs")?;
        let overruns = self.overruns()?;
        thread::scope(|scope| {
            scope.spawn(|| send(&self.hostile.open, &ready, (&goes_on, &is_over), &sent));
            let (began_at, sent_before, ticks) =
                (Instant::now(), sent.load(Ordering::Relaxed), processors::time_of(pid));
            let times = (0..rounds).map(|_| self.arrive()).collect::<Result<Vec<_>>>();
            let took = began_at.elapsed();
            let agent_share = (processors::time_of(pid) - ticks).as_secs_f64() / took.as_secs_f64();
            let flooded = sent.load(Ordering::Relaxed) - sent_before;
            let (mut with, mut without) = (0, 0);
            for _ in 0..SENDING_ROUNDS {
                goes_on.store(false, Ordering::Relaxed);
                without += self.send_as_third();
                goes_on.store(true, Ordering::Relaxed);
                with += self.send_as_third();
            }
            let memory = Footprint::of(&self.node.host, &self.node.agent).counts()[footprint::MEMORY];
            is_over.store(true, Ordering::Relaxed);
            anyhow::Ok(Row {
                flood,
                frames_a_second: flooded as f64 / took.as_secs_f64(),
                both_routes: Distribution::of(times?),
                agent_share,
                memory_kib: memory,
                overruns: self.overruns()? - overruns,
                sent: with,
                sent_alone: without,
            })
        })
    }

    /// One migration.
    fn arrive(&self) -> Result<Duration> {
        let _uid = self.driver.start(SOURCE, TARGET);
        self.node.wait_armed(&self.port);
        sleep(SETTLING);
        let announcement = frames::rarp(self.port.mac);
        let mark = self.node.watch.mark();
        let sent_at = clock::now();
        self.guest.send(&announcement);
        self.node.wait_metrics(&self.port, &[ELEVATED]);
        let history = self.node.watch.since(mark);
        let mut seen_at = sent_at;
        for to in self.port.routed() {
            let added = history.events.iter().find_map(|event| match &event.change {
                Change::Added { route, .. } if route.destination == to && route.metric == ELEVATED => {
                    Some(event.at)
                }
                _ => None,
            });
            seen_at = seen_at.max(added.with_context(|| format!("no notification of {to}"))?);
        }
        self.driver.roll_back(SOURCE, TARGET);
        self.node.wait_metrics(&self.port, &[]);
        Ok(seen_at.since(sent_at))
    }

    /// How often notifications of the kernel were lost, by the agent's metrics.
    fn overruns(&self) -> Result<u64> {
        let text = http::get_soon(self.node.host.namespace(), METRICS, "/metrics").body;
        let mut lines = text.lines().filter_map(|line| line.strip_prefix("cutover_netlink_overruns_total "));
        let value: f64 = lines.next().context("there is such a metric")?.parse()?;
        Ok(value as u64)
    }

    /// How many datagrams the third guest gets rid of.
    fn send_as_third(&self) -> u64 {
        let Guest { port, open, .. } = &self.third;
        let frame = frames::udp(port.mac, port.ipv4().addr(), [198, 51, 100, 9].into(), b"work");
        let frame = to_host(&frame, port.tap_mac());
        thread::scope(|scope| {
            let sender = scope.spawn(|| {
                processors::stay_on(&processors::others());
                let (mut sent, began_at) = (0, Instant::now());
                while began_at.elapsed() < SENDING {
                    sent += u64::from(open.try_send(&frame).is_ok());
                }
                sent
            });
            sender.join().expect("it sends")
        })
    }
}

/// Sends until it is over, as long as it is to go on. On the first processor.
fn send(tap: &OpenTap, frames: &[Frame], (goes_on, is_over): (&AtomicBool, &AtomicBool), sent: &AtomicU64) {
    processors::stay_on(&processors::first());
    let mut next = frames.iter().cycle();
    while !is_over.load(Ordering::Relaxed) {
        match next.next().filter(|_| goes_on.load(Ordering::Relaxed)) {
            Some(frame) => _ = sent.fetch_add(u64::from(tap.try_send(frame).is_ok()), Ordering::Relaxed),
            None => sleep(Duration::from_millis(1)),
        }
    }
}

/// The same frame, to the host's end of the tap.
fn to_host(frame: &Frame, host: MacAddr) -> Frame {
    let mut bytes = frame.bytes().to_vec();
    bytes[..6].copy_from_slice(&host.0);
    Frame::raw(bytes)
}
