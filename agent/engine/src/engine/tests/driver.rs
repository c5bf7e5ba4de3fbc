//! What becomes of the port in Neutron, and what Nova is told, when a driver processes what hosts report with several threads.
//!
//! A world of three engines, an etcd and a driver, in which everything takes a random time: thousands of orders from one seed each. The
//! driver is like the real one: threads that keep no order between the writes of a port, commits up to 2.5 s late, an `up` that
//! begins while the port is in service and changes nothing, a removed status that is an error. What an engine publishes is
//! written as the status publisher would write it.

use super::host::*;
use crate::Engine;
use crate::fact::Fact;
use crate::memory::Memory;
use crate::time::BootTime;
use crate::wanted::{Status, Wanted};
use std::collections::{BTreeMap, BTreeSet};

mod neutron;
mod scripts;

use neutron::{Neutron, PortStatus};

const NAMES: [&str; 2] = ["a", "b"];
const A: usize = 0;
const B: usize = 1;

/// Milliseconds since the beginning.
type Ms = u64;

#[derive(Clone, Debug)]
enum Event {
    /// Neutron takes the port down.
    PortDown,
    Migration(Option<(String, usize, usize)>),
    Endpoint(usize, bool),
    /// What a host hears.
    Hears(usize, u32, Box<Fact>),
    /// A host's publisher looks.
    Publishes(usize, u32),
    Wakes(usize),
    /// The virtual machine stops at the other host and announces itself here.
    Arrives(usize),
    TapGoes(usize),
    TapComes(usize),
    Dies(usize),
    Starts(usize),
    /// A thread of the driver takes what it was told.
    Begins(usize),
    Commits(usize),
    DriverSees(usize, Option<&'static str>),
}

/// A status key.
#[derive(Clone, Copy)]
struct Key {
    status: &'static str,
    revision: i64,
}

struct Side {
    host: Option<Host>,
    life: u32,
    kept: Option<(Memory, crate::memory::LeftBehind)>,
    links: BTreeMap<u32, crate::fact::Link>,
    followed: BTreeSet<usize>,
    heard_at: Ms,
    publishes: bool,
    /// What the planner knows: done writes, and whether the port was wanted in this life.
    done: Option<BootTime>,
    was_wanted: bool,
}

struct World {
    now: Ms,
    random: u64,
    queue: BTreeMap<(Ms, u64), Event>,
    events: u64,
    sides: Vec<Side>,
    // etcd
    revision: i64,
    migration: Option<(String, usize, usize)>,
    endpoints: [bool; 2],
    statuses: [Option<Key>; 2],
    neutron: Neutron,
    story: Vec<String>,
}

const START: BootTime = BootTime(1_000_000_000_000);

impl World {
    fn new(seed: u64) -> Self {
        let side = |index: usize| Side {
            host: Some(Host::restarted(NAMES[index], START, Memory::default(), Default::default())),
            life: 0,
            kept: None,
            links: BTreeMap::new(),
            followed: BTreeSet::new(),
            heard_at: 0,
            publishes: false,
            done: None,
            was_wanted: false,
        };
        let mut world = Self {
            now: 0,
            random: seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1,
            queue: BTreeMap::new(),
            events: 0,
            sides: (0..2).map(side).collect(),
            revision: 1,
            migration: None,
            endpoints: [true, false],
            statuses: [None; 2],
            neutron: Neutron::default(),
            story: Vec::new(),
        };
        world.sides[A].links.insert(5, link(5, true));
        for index in [A, B] {
            world.start(index);
        }
        world.run_until(30_000);
        assert_eq!(world.neutron.status, PortStatus::Active, "at first");
        world
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        self.random % bound
    }

    fn between(&mut self, from: Ms, to: Ms) -> Ms {
        from + self.below(to - from + 1)
    }

    fn at(&mut self, at: Ms, event: Event) {
        self.events += 1;
        self.queue.insert((at.max(self.now), self.events), event);
    }

    fn clock(&self) -> BootTime {
        START + ms(self.now)
    }

    fn run_until(&mut self, end: Ms) {
        while let Some(entry) = self.queue.first_entry().filter(|entry| entry.key().0 <= end) {
            let ((at, _), event) = entry.remove_entry();
            self.now = at;
            self.happens(event);
        }
        self.now = end;
    }

    fn happens(&mut self, event: Event) {
        if !matches!(event, Event::Wakes(_) | Event::Publishes(..) | Event::Hears(..)) {
            self.story.push(format!("{:>6} {event:?} {:?}", self.now, self.neutron.status));
        }
        match event {
            Event::PortDown => self.neutron.take_down(),
            Event::Migration(migration) => self.write_migration(migration),
            Event::Endpoint(index, is_there) => self.write_endpoint(index, is_there),
            Event::Hears(index, life, fact) => {
                if self.sides[index].life == life {
                    self.tell(index, *fact);
                }
            }
            Event::Publishes(index, life) => {
                if self.sides[index].life == life {
                    self.publish(index);
                }
            }
            Event::Wakes(index) => self.tell(index, Fact::TimePassed),
            Event::Arrives(index) => {
                self.carrier(1 - index, false);
                self.carrier(index, true);
                let now = self.clock();
                if let Some(host) = &mut self.sides[index].host {
                    host.now = now;
                    host.announce();
                    self.after(index);
                }
            }
            Event::TapGoes(index) => {
                let gone: Vec<u32> = std::mem::take(&mut self.sides[index].links).into_keys().collect();
                gone.into_iter().for_each(|ifindex| self.tell(index, Fact::LinkRemoved { ifindex }));
            }
            Event::TapComes(index) => {
                let link = link(5 + u32::try_from(self.now).unwrap(), false);
                self.sides[index].links.insert(link.ifindex, link.clone());
                self.tell(index, Fact::LinkSeen(link));
            }
            Event::Dies(index) => {
                let side = &mut self.sides[index];
                if let Some(host) = side.host.take() {
                    side.kept = Some((host.memory(), host.found()));
                    (side.life, side.publishes) = (side.life + 1, false);
                }
            }
            Event::Starts(index) => self.start(index),
            Event::DriverSees(index, status) => {
                self.neutron.sees(index, status);
                let begins = self.between(0, 200);
                self.at(self.now + begins, Event::Begins(index));
            }
            Event::Begins(index) => {
                let operation = self.neutron.begins(index);
                let commits = self.between(5, 2_280);
                self.at(self.now + commits, Event::Commits(operation));
            }
            Event::Commits(operation) => self.neutron.commits(operation),
        }
    }

    fn carrier(&mut self, index: usize, running: bool) {
        let links: Vec<_> = self.sides[index].links.values_mut().collect();
        let mut changed = Vec::new();
        for link in links {
            link.running = running;
            changed.push(link.clone());
        }
        changed.into_iter().for_each(|link| self.tell(index, Fact::LinkSeen(link)));
    }

    fn start(&mut self, index: usize) {
        let now = self.clock();
        let side = &mut self.sides[index];
        let (memory, found) = side.kept.take().unwrap_or_default();
        let known = known_elsewhere(&memory);
        side.followed = followed_from(&memory);
        side.followed.extend(known.keys());
        let mut host = Host::restarted(NAMES[index], now, memory, found);
        host.engine = with_driver(host.engine);
        for link in side.links.values() {
            host.tell(Fact::LinkSeen(link.clone()));
        }
        side.host = Some(host);
        (side.life, side.done, side.was_wanted, side.publishes) = (side.life + 1, None, false, false);
        if let Some((uid, from, to)) = self.migration.clone() {
            self.follow(index, from, to);
            self.tell(index, migration_written(&uid, NAMES[from], NAMES[to]));
        }
        for other in [A, B] {
            if self.endpoints[other] && (other == index || self.sides[index].followed.contains(&other)) {
                self.tell(index, written(NAMES[other]));
            }
        }
        self.tell(index, Fact::InSync { complete: true });
        for other in self.sides[index].followed.clone() {
            match (self.statuses[other], known.get(&other)) {
                (None, Some(_)) => self.tell(index, Fact::StatusRemovedElsewhere(port(NAMES[other]))),
                (Some(key), known) if known != Some(&key.revision) => {
                    reported(other, key).into_iter().for_each(|fact| self.tell(index, fact));
                }
                _ => {}
            }
        }
    }

    /// Whoever is a side of a migration follows the other one.
    fn follow(&mut self, index: usize, from: usize, to: usize) {
        if index == from || index == to {
            self.sides[index].followed.insert(from + to - index);
        }
    }

    /// To every host that follows, in the order of the writes.
    fn spread(&mut self, about: Option<usize>, fact: &Fact) {
        for index in [A, B] {
            let follows =
                about.is_none_or(|about| self.sides[index].followed.contains(&about) || about == index);
            if follows {
                self.send(index, fact.clone());
            }
        }
    }

    fn send(&mut self, index: usize, fact: Fact) {
        if self.sides[index].host.is_some() {
            let delay = self.between(1, 30);
            let at = (self.now + delay).max(self.sides[index].heard_at);
            self.sides[index].heard_at = at;
            let life = self.sides[index].life;
            self.at(at, Event::Hears(index, life, Box::new(fact)));
        }
    }

    fn write_migration(&mut self, migration: Option<(String, usize, usize)>) {
        self.revision += 1;
        let before = std::mem::replace(&mut self.migration, migration.clone());
        let fact = match (&before, &migration) {
            (_, Some((uid, from, to))) => migration_written(uid, NAMES[*from], NAMES[*to]),
            (Some((_, _, to)), None) => migration_removed(NAMES[*to]),
            (None, None) => return,
        };
        self.spread(None, &fact);
        // ORDER: as the reader does it, the migration first and then what it is about elsewhere.
        if let Some((_, from, to)) = migration {
            for index in [A, B] {
                let other = from + to - index;
                let is_new = !self.sides[index].followed.contains(&other);
                if is_new && self.sides[index].host.is_some() {
                    self.follow(index, from, to);
                    let status = self.statuses[other].and_then(|key| reported(other, key));
                    let endpoint = self.endpoints[other].then(|| written(NAMES[other]));
                    endpoint.into_iter().chain(status).for_each(|fact| self.send(index, fact));
                }
            }
        }
    }

    fn write_endpoint(&mut self, index: usize, is_there: bool) {
        self.revision += 1;
        self.endpoints[index] = is_there;
        let fact = if is_there { written(NAMES[index]) } else { removed(NAMES[index]) };
        self.spread(Some(index), &fact);
    }

    fn write_status(&mut self, index: usize, status: Option<&'static str>) {
        self.revision += 1;
        let key = status.map(|status| Key { status, revision: self.revision });
        self.story.push(format!("{:>6} {} reports {status:?}", self.now, NAMES[index]));
        self.statuses[index] = key;
        let fact = match key {
            Some(key) => reported(index, key),
            None => Some(Fact::StatusRemovedElsewhere(port(NAMES[index]))),
        };
        for other in [A, B].into_iter().filter(|other| *other != index) {
            if let Some(fact) = fact.as_ref().filter(|_| self.sides[other].followed.contains(&index)) {
                self.send(other, fact.clone());
            }
        }
        let seen = self.between(1, 20);
        self.at(self.now + seen, Event::DriverSees(index, status));
    }

    fn tell(&mut self, index: usize, fact: Fact) {
        let now = self.clock();
        let Some(host) = &mut self.sides[index].host else { return };
        host.now = now;
        host.tell(fact);
        self.after(index);
    }

    /// What follows from a round: the next one, and what is published.
    fn after(&mut self, index: usize) {
        let publishes = self.between(2, 50);
        let now = self.now;
        let side = &mut self.sides[index];
        let Some(host) = &side.host else { return };
        let wakes = host.engine.next_deadline().map(|at| at.since(START).as_nanos().div_ceil(1_000_000));
        let life = side.life;
        if !std::mem::replace(&mut side.publishes, true) {
            self.at(now + publishes, Event::Publishes(index, life));
        }
        if let Some(at) = wakes {
            let at = u64::try_from(at).unwrap();
            let known = self.queue.iter().any(|((due, _), event)| {
                *due <= at && matches!(event, Event::Wakes(other) if *other == index)
            });
            if !known {
                self.at(at, Event::Wakes(index));
            }
        }
    }

    /// The publisher's plan for the one port.
    fn publish(&mut self, index: usize) {
        let side = &mut self.sides[index];
        side.publishes = false;
        let Some(host) = &side.host else { return };
        let Some(wanted) = host.engine.wanted() else { return };
        let there = self.statuses[index].map(|key| key.status);
        let Some(status) = wanted.statuses.get(&port(NAMES[index])).cloned() else {
            if there.is_some() && (side.was_wanted || unknown_may_go(wanted)) {
                self.write_status(index, None);
            }
            return;
        };
        side.was_wanted = true;
        let value = match status.status {
            Status::Up => "up",
            Status::Down => "down",
            Status::AsReported => return,
        };
        let due = status.due_since.filter(|due| side.done != Some(*due));
        if there == Some(value) && due.is_none() {
            return;
        }
        side.done = due.or(side.done);
        self.write_status(index, Some(value));
        if let Some(due_since) = due {
            let at = self.clock();
            self.tell(index, Fact::StatusWritten { endpoint: port(NAMES[index]), due_since, at });
        }
    }

    /// The virtual machine runs on this host, and everything has come to rest.
    fn judge(&self, home: usize) -> Result<(), String> {
        let told = || self.story.join("\n");
        if self.neutron.failures > 0 {
            return Err(format!("Nova was told of {} failures\n{}", self.neutron.failures, told()));
        }
        if self.neutron.status != PortStatus::Active {
            return Err(format!("the port is {:?}\n{}", self.neutron.status, told()));
        }
        let reports: Vec<bool> =
            self.statuses.iter().map(|key| key.is_some_and(|key| key.status == "up")).collect();
        if reports != [home == A, home == B] {
            return Err(format!("statuses: {reports:?}\n{}", told()));
        }
        Ok(())
    }
}

fn with_driver(engine: Engine) -> Engine {
    engine.with_driver()
}

fn unknown_may_go(wanted: &Wanted) -> bool {
    wanted.unknown_statuses_may_go
}

fn reported(index: usize, key: Key) -> Option<Fact> {
    let (endpoint, is_up) = (port(NAMES[index]), key.status == "up");
    Some(Fact::StatusReportedElsewhere { endpoint, is_up, revision: key.revision })
}

fn number(host: &str) -> usize {
    NAMES.iter().position(|name| *name == host).expect("one of ours")
}

fn known_elsewhere(memory: &Memory) -> BTreeMap<usize, i64> {
    memory.statuses_elsewhere.iter().map(|it| (number(&it.endpoint.host), it.revision)).collect()
}

fn followed_from(memory: &Memory) -> BTreeSet<usize> {
    memory.others().map(|other| number(&other.host)).collect()
}
