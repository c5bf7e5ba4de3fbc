//! A host that is being filled: a virtual machine announces itself while others are awaited, and while somebody else on the machine has the
//! kernel's lock of links. Seen from outside, with the agent as a process.

use crate::report::{Bound, Goal, Section};
use anyhow::{Context as _, Result};
use cutover_daemon::clock;
use cutover_daemon::priority::raise_priority;
use cutover_engine::BootTime;
use cutover_tests::crowd::Crowd;
use cutover_tests::driver::{Driver, Pace};
use cutover_tests::log::Mark;
use cutover_tests::resources::new_uid;
use cutover_tests::route_history::{Change, History};
use cutover_tests::route_watch::RouteWatch;
use cutover_tests::scene::{ELEVATED, Node, SOURCE, TARGET};
use cutover_tests::statistics::{Distribution, Micros, ratio};
use cutover_tests::{Directory, Lab, OpenTap, Port, Tap, frames, processors, wait};
use ipnet::IpNet;
use std::thread::{self, sleep};
use std::time::Duration;

/// How many others become targets while one virtual machine arrives.
const OTHERS: u8 = 20;
/// One after the other.
const EVERY: Duration = Duration::from_millis(5);
/// How many become targets in the same moment.
const AT_ONCE: u8 = 100;
/// How long everything is left alone before an announcement.
const SETTLING: Duration = Duration::from_millis(20);
/// LIMIT: to make the interfaces that hold the lock takes seconds.
const HELD_ROUNDS_MAX: usize = 25;
/// LIMIT: hundred migrations take seconds.
const AT_ONCE_ROUNDS_MAX: usize = 10;

pub(crate) fn measure(rounds: usize) -> Result<Section> {
    let lab = Lab::new();
    let host = FillingHost::new(&lab);
    let (mut quiet, mut filling) = (Vec::new(), Vec::new());
    for _ in 0..rounds {
        quiet.push(host.arrive(|announce| announce())?);
        filling.push(host.arrive(|announce| host.fill_while(announce))?);
    }
    let mut held = Vec::new();
    for _ in 0..rounds.min(HELD_ROUNDS_MAX) {
        let crowd = Crowd::gather(&lab);
        held.push(host.arrive(|announce| crowd.disperse_during(announce))?);
    }
    let at_once: Vec<Duration> =
        (0..rounds.min(AT_ONCE_ROUNDS_MAX)).map(|_| host.await_many()).collect::<Result<_>>()?;
    let [quiet, filling, held] = [quiet, filling, held].map(Times::of);
    let at_once = Distribution::of(at_once);
    Ok(section(&quiet, &filling, &held, &at_once))
}

fn section(quiet: &Times, filling: &Times, held: &Times, at_once: &Distribution) -> Section {
    let filled = format!("while {OTHERS} others become targets");
    let rows = [("quiet", quiet), (filled.as_str(), filling), ("while somebody has the lock of links", held)];
    let goal =
        |what: &str, measured, limit| Goal { what: what.into(), measured, bound: Bound::AtMost(limit) };
    Section {
        title: "A host that is being filled",
        method: format!(
            "`cutover agent` as a process; migrations of a guest with one address of each family, which the orchestrator rolls back \
             each time: {} quiet ones and as many while {OTHERS} others become targets one after the other, every {} ms, and the guest \
             announces itself in the middle of that, in turns; {} while a request that deletes 4,000 interfaces of another network \
             namespace has the kernel's lock of links (RTNL), which IPv4 routes need and IPv6 routes do not (6.18), and keeps the first \
             processor busy. Their taps are there before. The time is from right before the guest's gratuitous ARP request is written to the tap until another \
             process (SCHED_FIFO, not on the first processor) has the kernel's notification in its hands. {AT_ONCE} targets at once ({} times): from before the first of their \
             resources is written until the last of them is reported to be watched in the agent's log.",
            quiet.both.count(),
            EVERY.as_millis(),
            held.both.count(),
            at_once.count(),
        ),
        columns: &["host", "sent → IPv6 route: median", "p99", "sent → both routes: median", "p99"],
        rows: rows
            .into_iter()
            .map(|(name, times)| {
                let figures = [times.ipv6.median(), times.ipv6.p99(), times.both.median(), times.both.p99()];
                std::iter::once(name.to_owned()).chain(figures.map(|time| Micros(time).to_string())).collect()
            })
            .collect(),
        goals: vec![
            goal(
                "being filled : quiet, both routes, median",
                ratio(filling.both.median(), quiet.both.median()),
                1.5,
            ),
            goal(
                "being filled, both routes, p99 in milliseconds",
                filling.both.p99().as_secs_f64() * 1e3,
                2.0,
            ),
            goal(
                "lock held : quiet, IPv6 route, median",
                ratio(held.ipv6.median(), quiet.ipv6.median()),
                1.5,
            ),
            goal("100 targets at once are watched, median in seconds", at_once.median().as_secs_f64(), 0.2),
        ],
        picture: None,
    }
}

/// How long routes took.
struct Times {
    ipv6: Distribution,
    both: Distribution,
}

impl Times {
    fn of(arrivals: Vec<Arrival>) -> Self {
        let (ipv6, both) = arrivals.into_iter().map(|Arrival { ipv6, both }| (ipv6, both)).unzip();
        Self { ipv6: Distribution::of(ipv6), both: Distribution::of(both) }
    }
}

struct Arrival {
    ipv6: Duration,
    both: Duration,
}

/// The host, with the guest that arrives and with those that are awaited.
struct FillingHost {
    node: Node,
    port: Port,
    driver: Driver,
    guest: OpenTap,
    others: Vec<Awaited>,
}

/// Somebody who never comes.
struct Awaited {
    port: Port,
    driver: Driver,
    _tap: Tap,
}

impl FillingHost {
    fn new(lab: &Lab) -> Self {
        let directory = lab.directory();
        let port = Port::new(1);
        let driver = begin(&directory, &port);
        let mut node = Node::new(lab, TARGET, &directory, &port);
        for setting in ["LiveMigrationRouteConvergenceTime", "CutoverEndpointGrace"] {
            node.agent.set(setting, 0);
        }
        // So that what is measured is the agent, and not when the observer gets a processor.
        node.watch = RouteWatch::start_with(node.host.namespace(), || {
            processors::stay_on(&processors::others());
            raise_priority(Duration::ZERO);
        });
        node.agent.start();
        let guest = node.tap().open();
        let ports: Vec<Port> = (2..2 + AT_ONCE).map(Port::new).collect();
        let taps: Vec<_> = ports.iter().map(|port| (port.interface.clone(), port.tap_mac())).collect();
        let taps = node.host.plug_many(&taps);
        let others = ports.into_iter().zip(taps).map(|(port, tap)| {
            let driver = begin(&directory, &port);
            Awaited { port, driver, _tap: tap }
        });
        let others = others.collect();
        Self { node, port, driver, guest, others }
    }

    /// One migration; `announcing` gets what lets the guest announce itself.
    fn arrive(&self, announcing: impl FnOnce(&dyn Fn())) -> Result<Arrival> {
        let _uid = self.driver.start(SOURCE, TARGET);
        self.node.wait_armed(&self.port);
        sleep(SETTLING);
        let announcement = frames::rarp(self.port.mac);
        let mark = self.node.watch.mark();
        let sent_at = std::cell::Cell::new(BootTime::default());
        announcing(&|| {
            sent_at.set(clock::now());
            self.guest.send(&announcement);
        });
        self.node.wait_metrics(&self.port, &[ELEVATED]);
        let history = self.node.watch.since(mark);
        let at = |to: IpNet| {
            let seen_at = added_at(&history, to).with_context(|| format!("no notification of {to}"))?;
            anyhow::Ok(seen_at.since(sent_at.get()))
        };
        let (ipv4, ipv6) = (at(self.port.ipv4())?, at(self.port.ipv6())?);
        self.driver.roll_back(SOURCE, TARGET);
        self.node.wait_metrics(&self.port, &[]);
        self.forget_others();
        Ok(Arrival { ipv6, both: ipv4.max(ipv6) })
    }

    /// Others become targets, and in the middle of that `announce` is done.
    fn fill_while(&self, announce: &dyn Fn()) {
        let others = &self.others[..usize::from(OTHERS)];
        thread::scope(|scope| {
            scope.spawn(|| {
                for other in others {
                    let _uid = other.driver.start(SOURCE, TARGET);
                    sleep(EVERY);
                }
            });
            sleep(EVERY * u32::from(OTHERS) / 2);
            announce();
        });
        wait::until(wait::SOON, "all others are watched", || self.awaited() == usize::from(OTHERS));
    }

    /// How long it takes until many are watched.
    fn await_many(&self) -> Result<Duration> {
        let (began, log) = (clock::now(), self.node.agent.log().mark());
        for other in &self.others {
            other.driver.announce(SOURCE, TARGET, &new_uid());
            other.driver.bind(TARGET);
        }
        let armed_at = wait::for_some(wait::SOON, "all of them are watched", || self.armed_at(log));
        self.forget_others();
        Ok(armed_at.since(began))
    }

    /// When the last of all was watched, if it is.
    fn armed_at(&self, since: Mark) -> Option<BootTime> {
        let lines = self.node.agent.log().since(since);
        let armed = lines.iter().filter(|line| line.text.contains("Watch armed"));
        let times: Vec<BootTime> = armed.map(|line| line.at).collect();
        (times.len() == self.others.len()).then(|| times.last().copied()).flatten()
    }

    /// How many of the others are watched.
    fn awaited(&self) -> usize {
        let status = self.node.agent.status();
        let endpoints = status["endpoints"].as_array().map(Vec::as_slice).unwrap_or_default();
        let is_other = |name: &str| self.others.iter().any(|other| other.port.name_on(TARGET) == name);
        let watched = endpoints.iter().filter(|endpoint| endpoint["watch"].is_u64());
        watched.filter(|endpoint| endpoint["name"].as_str().is_some_and(is_other)).count()
    }

    /// Nobody is awaited any more, and nothing is attached.
    fn forget_others(&self) {
        for other in &self.others {
            other.driver.delete_port(SOURCE, TARGET);
        }
        wait::until(wait::SOON, "nobody is awaited", || self.awaited() == 0 && self.attached() == 0);
    }

    fn attached(&self) -> usize {
        let links = std::fs::read_dir(self.node.agent.pin_path().join("links"));
        links.map(|links| links.count()).unwrap_or_default()
    }
}

/// The virtual machine runs elsewhere.
fn begin(directory: &Directory, port: &Port) -> Driver {
    let driver = Driver::new(directory, port).at_pace(Pace::IMMEDIATE);
    driver.bind(SOURCE);
    driver
}

fn added_at(history: &History, to: IpNet) -> Option<BootTime> {
    history.events.iter().find_map(|event| match &event.change {
        Change::Added { route, .. } if route.destination == to && route.metric == ELEVATED => Some(event.at),
        _ => None,
    })
}
