//! Three compute hosts on one etcd, their agents, and virtual machines; and what all of them come to when nothing is broken. What happens
//! to them is in `steps` and `faults`.

mod faults;
mod felix;
mod hits;
mod node;
mod steps;

use crate::guest::{Arrival, Guest, Stay};
use crate::judge::{Excuse, Failure, judge};
use crate::model::{Expected, Model};
use crate::plan::{Fault, GuestNumber, HOSTS, HostNumber, Plan};
use cutover_daemon::clock;
use cutover_tests::datastore;
use cutover_tests::etcd::{Security, Write};
use cutover_tests::route_history::Neighbour;
use cutover_tests::route_watch::dump_neighbours;
use cutover_tests::{Etcd, Lab, Port, Starved, Tap, forwarding, wait};
use ipnet::IpNet;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::thread;
use std::time::{Duration, Instant};

/// `CutoverForwardTable`, by default.
const FORWARD_TABLE: u32 = 7179;

/// How long an elevated route stays after a migration, in seconds.
const CONVERGENCE_S: u32 = 1;
/// How long an endpoint that is away is held, in seconds. A driver's gap here is as short as etcd.
const GRACE_S: u32 = 2;

/// LIMIT: an agent that has lost etcd tries again after up to some seconds. Only failing runs wait this long, without what agents wait for
/// processors.
const LONG: Duration = Duration::from_secs(45);

/// LIMIT: asking every agent costs something, on a machine that has something to do.
const LOOK_EVERY: Duration = Duration::from_millis(50);

pub(crate) use node::Node;

pub(crate) fn host_name(host: HostNumber) -> String {
    format!("compute{}", host + 1)
}

/// Everything. Fields go in this order, the lab last.
pub(crate) struct Stage {
    pub(crate) nodes: Vec<Node>,
    pub(crate) guests: Vec<Guest>,
    etcd: Etcd,
    model: Model,
    broken: Vec<Fault>,
    excuses: Vec<Excuse>,
    round: u16,
    slowest_start: Duration,
    _lab: Lab,
}

/// What became of a plan.
pub(crate) struct Played {
    pub(crate) outcome: Result<(), Failure>,
    /// The longest that an agent took to answer after it was started.
    pub(crate) slowest_start: Duration,
}

/// Plays a plan from the beginning on a stage of its own.
pub(crate) fn play(plan: &Plan) -> Played {
    let mut slowest_start = Duration::ZERO;
    let played = catch_unwind(AssertUnwindSafe(|| {
        let mut stage = Stage::new(plan)?;
        for step in &plan.steps {
            let made = stage.make(*step);
            slowest_start = stage.slowest_start;
            made.map_err(|failure| Failure { text: format!("{step}: {}", failure.text), ..failure })?;
        }
        stage.settle()?;
        judge(&stage.nodes, &stage.guests, &stage.excuses)
    }));
    let outcome = played.unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().cloned();
        let text = text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()));
        Err(Failure::new("a panic", text.unwrap_or_default()))
    });
    Played { outcome, slowest_start }
}

impl Stage {
    /// Everybody runs at home and has routes and a status there.
    pub(crate) fn new(plan: &Plan) -> Result<Self, Failure> {
        let lab = Lab::new();
        let etcd = Etcd::start_with(&lab, plan.members, Security::None);
        datastore::set_up(&etcd);
        let node = |number| Node::new(&lab, &etcd, number, plan.beside_felix == Some(number));
        let nodes = (0..HOSTS).map(node).collect();
        let guests = (0..plan.homes.len()).map(Guest::new).collect();
        let model = Model::new(&plan.homes);
        let mut stage = Self {
            nodes,
            guests,
            etcd,
            model,
            broken: Vec::new(),
            excuses: Vec::new(),
            round: 0,
            slowest_start: Duration::ZERO,
            _lab: lab,
        };
        (0..HOSTS).for_each(|host| stage.wait_answering(host));
        let homes: Vec<_> = plan.homes.iter().copied().enumerate().collect();
        stage.plug(&homes);
        let mut lists = Vec::new();
        for (guest, (_, home)) in stage.guests.iter_mut().zip(homes) {
            guest.open = Some(guest.taps[&home].open());
            let stay = Stay { host: home, from: clock::now(), how: Arrival::Home, ended_at: None, to: None };
            guest.stays.push(stay);
            lists.push(vec![guest.written(home)]);
        }
        stage.etcd.write_lists(lists);
        stage.settle()?;
        for guest in &mut stage.guests {
            guest.stays[0].from = clock::now();
        }
        Ok(stage)
    }

    /// Where each virtual machine runs.
    pub(crate) fn homes(&self) -> Vec<HostNumber> {
        self.guests.iter().map(|guest| self.model.runs_on(guest.number)).collect()
    }

    /// Waits for an agent that was just started.
    fn wait_answering(&mut self, host: HostNumber) {
        let began_at = Instant::now();
        self.nodes[host].agent.wait_answering();
        self.slowest_start = self.slowest_start.max(began_at.elapsed());
    }

    /// Whether something that agents bring about is there in time.
    fn comes(&self, condition: impl FnMut() -> bool) -> bool {
        let starved: Vec<Starved> = self.nodes.iter().filter_map(|node| node.agent.starved()).collect();
        let lost = || starved.iter().map(Starved::time).max().unwrap_or_default();
        wait::holds_within_but_for(LONG, lost, condition)
    }

    /// Plugs taps, as Nova does.
    fn plug(&mut self, wanted: &[(GuestNumber, HostNumber)]) {
        for (host, node) in self.nodes.iter().enumerate() {
            let of_it: Vec<GuestNumber> =
                wanted.iter().filter(|(_, on)| *on == host).map(|(guest, _)| *guest).collect();
            if of_it.is_empty() {
                continue;
            }
            let name = |guest: &GuestNumber| {
                let port = &self.guests[*guest].port;
                (port.interface.clone(), port.tap_mac())
            };
            let names: Vec<_> = of_it.iter().map(name).collect();
            for (guest, tap) in of_it.into_iter().zip(node.host.plug_many(&names)) {
                self.guests[guest].taps.insert(host, tap);
            }
        }
        self.make_chains(wanted);
    }

    /// Everything is mended; waits until the hosts hold what the model says.
    pub(crate) fn settle(&mut self) -> Result<(), Failure> {
        self.mend_all()?;
        self.pass_sentinels()?;
        let mut wrong = Vec::new();
        let settled = self.comes(|| {
            wrong = self.differences();
            let is_right = wrong.is_empty();
            if !is_right {
                thread::sleep(LOOK_EVERY);
            }
            is_right
        });
        self.look_for_the_dead()?;
        self.nodes.iter_mut().for_each(Node::note_memory);
        if settled { Ok(()) } else { Err(Failure::new("it does not settle", self.story(&wrong))) }
    }

    /// What hosts hold that they should not, or the other way round.
    fn differences(&self) -> Vec<String> {
        let mut wrong = Vec::new();
        for (number, node) in self.nodes.iter().enumerate() {
            let held = Held::on(node);
            for guest in &self.guests {
                let Expected { metrics, forwards } = self.model.expected(guest.number, number);
                let mut differs = |what: String| {
                    wrong.push(format!("virtual machine {} on {}: {what}", guest.number, host_name(number)));
                };
                for to in guest.port.routed() {
                    let is = held.routes.get(&to).map_or(&[][..], Vec::as_slice);
                    if !metrics.contains(&is) {
                        differs(format!("the routes to {to} are {is:?}, not one of {metrics:?}"));
                    }
                    let is = held.forwarded.contains(&to);
                    if forwards.is_some_and(|forwards| is != forwards) {
                        differs(format!("{to} is forwarded: {is}"));
                    }
                    let has_neighbour = |tap: &Tap| {
                        let (address, mac) = (to.addr(), Some(guest.port.mac));
                        let ifindex = tap.ifindex();
                        held.neighbours.contains(&Neighbour { address, ifindex, mac, permanent: true })
                    };
                    let tap = guest.taps.get(&number);
                    if self.model.runs_on(guest.number) == number && !tap.is_some_and(has_neighbour) {
                        differs(format!("no permanent neighbour {}", to.addr()));
                    }
                }
            }
        }
        // Asked last, because each question is a process.
        if wrong.is_empty() { self.left_or_missing() } else { wrong }
    }

    /// What of forwarding is left while nobody is being migrated, what of somebody else's is gone, and statuses.
    fn left_or_missing(&self) -> Vec<String> {
        let mut wrong = Vec::new();
        for (number, node) in self.nodes.iter().enumerate() {
            if !node.has_what_is_somebody_elses() {
                wrong.push(format!("what is somebody else's on {} is gone", host_name(number)));
            }
            if !node.remembers() {
                wrong.push(format!("{} has not written state.json again", host_name(number)));
            }
            if self.model.is_at_rest() {
                let left = forwarding::traces(&node.host).into_iter();
                wrong.extend(left.map(|left| format!("left on {}: {left}", host_name(number))));
            }
        }
        if self.model.is_at_rest() {
            wrong.extend(self.missing_statuses());
        }
        wrong
    }

    /// A status where each one runs. Elsewhere one may be left: agents remove it when the host where it runs has reported it after the
    /// migration, 15 s later, and without that, because somebody was dead or revisions have gone back, 10 minutes later.
    fn missing_statuses(&self) -> Vec<String> {
        let all: BTreeMap<String, String> = self.etcd.all("/calico/felix/").into_iter().collect();
        let mut missing = Vec::new();
        for guest in &self.guests {
            let host = self.model.runs_on(guest.number);
            let value = all.get(&guest.status_key(host));
            let status = value.and_then(|value| serde_json::from_str::<Value>(value).ok());
            if status.is_none_or(|status| status["status"] != "up") {
                let (number, name) = (guest.number, host_name(host));
                missing.push(format!("the status of virtual machine {number} on {name} is {value:?}"));
            }
        }
        missing
    }

    /// Waits until every agent has acted on all that was written so far: on an endpoint that is written last.
    fn pass_sentinels(&mut self) -> Result<(), Failure> {
        self.round += 1;
        let [high, low] = self.round.to_be_bytes();
        let address = IpNet::new([10, 67, high, low].into(), 32).expect("a full prefix");
        let mut port = Port::new(250);
        port.interface = "tapsentinel".into();
        port.addresses = vec![address];
        let mut list = Vec::new();
        for (number, node) in self.nodes.iter_mut().enumerate() {
            if node.sentinel.is_none() {
                node.sentinel = Some(node.host.plug(&port.interface, port.tap_mac()));
            }
            let name = host_name(number);
            let key = datastore::endpoint_key(&port, &name);
            list.push(Write { key, value: Some(port.endpoint_on(&name, "sentinel").to_string()) });
        }
        self.etcd.write_lists(vec![list]);
        for node in &self.nodes {
            if !self.comes(|| !node.watch.routes_to(address).is_empty()) {
                return Err(Failure::new("an agent hangs", self.story(&[])));
            }
        }
        Ok(())
    }

    /// No agent has ended by itself.
    fn look_for_the_dead(&mut self) -> Result<(), Failure> {
        let ended: Vec<String> = self
            .nodes
            .iter_mut()
            .filter_map(|node| Some(format!("{}: {}", node.host.name(), node.agent.has_ended()?)))
            .collect();
        if ended.is_empty() { Ok(()) } else { Err(Failure::new("an agent has ended", self.story(&ended))) }
    }

    /// What is wrong, what every agent said about the virtual machines in question, and its last words.
    fn story(&self, wrong: &[String]) -> String {
        const LAST: usize = 60;
        let is_meant = |guest: &&Guest| {
            let name = format!("virtual machine {} ", guest.number);
            wrong.iter().any(|wrong| wrong.contains(&name))
        };
        let mut text = wrong.join("\n");
        for node in &self.nodes {
            let (name, log) = (node.host.name(), node.agent.log());
            for guest in self.guests.iter().filter(is_meant) {
                text += &format!("\n--- {name} about virtual machine {} ---\n", guest.number);
                for line in log.matching(&[&guest.port.endpoint]) {
                    text += &format!("{:?} {}\n", line.at, line.text);
                }
            }
            let lines = log.lines();
            text += &format!("\n--- {name}, the last lines of its agent ---\n");
            for line in &lines[lines.len().saturating_sub(LAST)..] {
                text += &format!("{:?} {}\n", line.at, line.text);
            }
        }
        text
    }
}

/// What the kernel of one host holds at one time.
struct Held {
    routes: BTreeMap<IpNet, Vec<u32>>,
    forwarded: BTreeSet<IpNet>,
    neighbours: BTreeSet<Neighbour>,
}

impl Held {
    fn on(node: &Node) -> Self {
        let mut routes: BTreeMap<IpNet, Vec<u32>> = BTreeMap::new();
        for route in node.watch.routes().into_iter().filter(|route| route.ifindex != node.uplink) {
            routes.entry(route.destination).or_default().push(route.metric);
        }
        let forwarded = node.forwards.routes().into_iter().map(|route| route.destination).collect();
        let neighbours = node.host.namespace().run(dump_neighbours).expect("a dump");
        Self { routes, forwarded, neighbours }
    }
}
