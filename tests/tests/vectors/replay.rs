//! Plays one recording to real agents on all of its hosts, in the order and with the pauses of the recording, with
//! taps and announcements where Nova and the guest would make them. What has to be the case after each step is
//! `judge`'s business, what had to be the case all the time `whole_run`'s.

use crate::member::Member;
use crate::outage::Outage;
use crate::recording::{Line, Recording};
use crate::whole_run::{Arrival, Stay};
use crate::written::{self, Written, host_and_port};
use cutover_daemon::clock;
use cutover_engine::BootTime;
use cutover_tests::scene::ELEVATED;
use cutover_tests::{Etcd, Lab, Port, wait};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

/// LIMIT: pauses between two actions of whoever played Nova are shortened to this; what the driver writes in one go
/// keeps its pauses, which were all shorter.
const PAUSE_MAX: Duration = Duration::from_millis(800);

/// Between the announcement of the hypervisor and those of the guest.
const GUEST_WAKES_UP: Duration = Duration::from_millis(50);

/// How long an endpoint can be gone while its virtual machine keeps its routes: less than `CutoverEndpointGrace`, which is 2 s. On an
/// overloaded machine it can be written again later than in the recording.
const HELD: Duration = Duration::from_millis(1500);

/// Where the virtual machine of a port runs.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Home {
    pub(crate) host: String,
    /// Whether it came by a live migration.
    pub(crate) arrived: bool,
}

/// A recording in progress. Fields go in this order, the lab last.
pub(crate) struct Replay {
    pub(crate) members: BTreeMap<String, Member>,
    pub(crate) written: Written,
    pub(crate) homes: BTreeMap<String, Home>,
    /// Ports in the order of their first appearance, as the recordings of the engine number them.
    pub(crate) ports: Vec<String>,
    /// Times at which a virtual machine ran somewhere and had its routes.
    pub(crate) stays: Vec<Stay>,
    /// Live migrations that brought a virtual machine.
    pub(crate) arrivals: Vec<Arrival>,
    /// When the convergence of an arrival may begin at the earliest: a migration to the host was removed.
    pub(crate) ended: Vec<(BootTime, String, String)>,
    /// When endpoints of virtual machines that stay were deleted, by host and port.
    gone: BTreeMap<(String, String), BootTime>,
    pub(crate) step: String,
    etcd: Arc<Etcd>,
    _lab: Lab,
}

impl Replay {
    /// Plays it all and checks everything.
    ///
    /// # Panics
    /// When something is not as it has to be.
    pub(crate) fn run(recording: &Recording, outage: Option<Outage>) {
        let mut replay = Self::prepare(recording);
        let mut last = Duration::ZERO;
        let mut next = Instant::now();
        let mut before = None;
        for (at, line) in &recording.lines {
            if let Line::Step(name) = line {
                if before.is_none() {
                    replay.wait_in_sync();
                }
                before = replay.end_step(before).or(Some(replay.snapshot()));
                name.clone_into(&mut replay.step);
                if let Some(outage) = outage {
                    outage.at(&recording.name, name, &replay.etcd, &mut replay.members);
                }
                next = Instant::now();
            }
            next += at.saturating_sub(last).min(PAUSE_MAX);
            last = *at;
            thread::sleep(next.saturating_duration_since(Instant::now()));
            replay.play(line);
        }
        replay.end_step(before);
        replay.finish(&recording.name, outage);
    }

    fn prepare(recording: &Recording) -> Self {
        let lab = Lab::new();
        let etcd = Arc::new(Etcd::start(&lab));
        let hosts: BTreeSet<String> = recording
            .endpoints()
            .map(|endpoint| endpoint["spec"]["node"].as_str().expect("a host").to_owned())
            .collect();
        let mut members: BTreeMap<String, Member> =
            hosts.into_iter().map(|host| (host.clone(), Member::new(&lab, &host, &etcd))).collect();
        for member in members.values_mut() {
            if recording.name == "13-region" {
                member.agent.set("OpenstackRegion", "east");
            }
            member.agent.spawn();
        }
        Self {
            members,
            written: Written::default(),
            homes: BTreeMap::new(),
            ports: Vec::new(),
            stays: Vec::new(),
            arrivals: Vec::new(),
            ended: Vec::new(),
            gone: BTreeMap::new(),
            step: String::new(),
            etcd,
            _lab: lab,
        }
    }

    /// What comes before the first step is the configuration, without which an agent does not work.
    fn wait_in_sync(&mut self) {
        for member in self.members.values_mut() {
            member.agent.wait_answering();
            wait::until(wait::SOON, "in sync", || member.agent.status()["in_sync"] == true);
        }
    }

    fn play(&mut self, line: &Line) {
        match line {
            Line::Step(_) => {}
            Line::Put(key, value) => self.put(key, value),
            Line::Delete(key) => self.delete(key),
            Line::Runs(port, Some(host)) => self.runs(port, host),
            Line::Runs(port, None) => self.stops(port),
        }
    }

    fn put(&mut self, key: &str, value: &str) {
        let document: Value = serde_json::from_str(value).unwrap_or_default();
        if let Some((host, port)) = host_and_port(key) {
            if !self.ports.contains(&port) {
                self.ports.push(port.clone());
            }
            // Nova plugs before it tells Neutron; a migration is the first that is written about its target.
            let shown = written::port(&document).or_else(|| self.shown_anywhere(&port));
            if let (Some(shown), Some(member)) = (shown, self.members.get_mut(&host)) {
                member.plug(&shown);
            }
        }
        self.written.put(key, value);
        self.follow_addresses(&document);
        self.etcd.put(key, value);
        if !key.contains("/livemigrations/")
            && let Some((host, port)) = host_and_port(key)
        {
            self.comes_back(&host, &port);
        }
    }

    /// An endpoint that was written again so late that it was given up need not have kept its routes. It gets them back.
    fn comes_back(&mut self, host: &str, port: &str) {
        let Some(gone_at) = self.gone.remove(&(host.to_owned(), port.to_owned())) else { return };
        let is_it = |stay: &&mut Stay| stay.host == host && stay.port == port && stay.to.is_none();
        let Some(stay) = self.stays.iter_mut().find(is_it) else { return };
        if clock::now().since(gone_at) >= HELD {
            stay.to = Some(gone_at + HELD);
            self.begin_stay(port, host);
        }
    }

    /// An address that the endpoint loses need not have a route any more; one that it gets may be elevated at once.
    fn follow_addresses(&mut self, document: &Value) {
        let Some(shown) = written::port(document) else { return };
        let is_it = |stay: &&mut Stay| {
            document["spec"]["node"] == *stay.host && shown.endpoint == stay.port && stay.to.is_none()
        };
        for stay in self.stays.iter_mut().filter(is_it) {
            stay.destinations.retain(|to| shown.routed().contains(to));
            assert!(!stay.destinations.is_empty(), "{} lost all of its addresses", stay.port);
        }
        let is_it = |arrival: &&mut Arrival| {
            document["spec"]["node"] == *arrival.host && shown.endpoint == arrival.port
        };
        for arrival in self.arrivals.iter_mut().filter(is_it) {
            arrival.destinations.extend(shown.routed());
        }
    }

    fn delete(&mut self, key: &str) {
        let named = host_and_port(key);
        let shown = named.as_ref().and_then(|(host, port)| self.written.port(host, port));
        self.written.delete(key);
        // Before it is deleted: agents may know of that before this thread does.
        let ended_at = clock::now();
        self.etcd.delete(key);
        let Some((host, port)) = named else { return };
        if key.contains("/livemigrations/") {
            self.ended.push((ended_at, host, port));
            return;
        }
        let lives_here = self.homes.get(&port).is_some_and(|home| home.host == host);
        if lives_here {
            self.gone.insert((host.clone(), port.clone()), ended_at);
        }
        if let (false, Some(shown), Some(member)) = (lives_here, shown, self.members.get_mut(&host))
            && !self.written.needs_tap(&host, &shown.interface)
        {
            member.unplug(&shown);
        }
    }

    /// The rewriting that comes of nothing: every key with the value that it has.
    pub(crate) fn rewrite_everything(&mut self) {
        for (key, value) in self.written.iter() {
            self.etcd.put(key, value);
        }
    }

    fn shown_anywhere(&self, port: &str) -> Option<Port> {
        self.members.keys().find_map(|host| self.written.port(host, port))
    }

    fn runs(&mut self, port: &str, host: &str) {
        let from = self.homes.get(port).cloned();
        match from {
            Some(from) if from.host != host => self.arrives(port, &from.host, host),
            _ => self.boots(port, host),
        }
    }

    fn boots(&mut self, port: &str, host: &str) {
        let Some(shown) = self.written.port(host, port) else {
            panic!("{}: {port} would run on {host} without an endpoint there", self.step)
        };
        self.members.get_mut(host).expect("a host").open(&shown);
        self.homes.insert(port.to_owned(), Home { host: host.to_owned(), arrived: false });
        self.begin_stay(port, host);
    }

    /// The hypervisor on the target resumes the guest, then the guest announces itself; Nova takes away what is left
    /// on the source.
    fn arrives(&mut self, port: &str, source: &str, target: &str) {
        let shown = self.written.port(target, port).expect("the endpoint of the target");
        let (_, uid) = self.written.migration_to(target, port).expect("a migration");
        let member = self.members.get_mut(target).expect("a host");
        member.wait("armed", |member| member.is_armed(&shown, &uid), |member| member.agent.log_text());
        member.open(&shown);
        self.end_stay(port);
        self.members.get_mut(source).expect("a host").close(&shown);
        let member = &self.members[target];
        let sent_at = clock::now();
        member.announce_by_hypervisor(&shown);
        let routed = shown.routed();
        member.wait(
            "elevated by the announcement",
            |member| member.has_metrics(&routed, &[&[ELEVATED]]),
            |member| format!("{:?}\n{}", member.metrics(&routed), member.agent.log_text()),
        );
        thread::sleep(GUEST_WAKES_UP);
        member.announce_by_guest(&shown);
        self.arrivals.push(Arrival {
            host: target.to_owned(),
            port: port.to_owned(),
            destinations: routed.into_iter().collect(),
            sent_at,
        });
        self.homes.insert(port.to_owned(), Home { host: target.to_owned(), arrived: true });
        self.begin_stay(port, target);
        self.members.get_mut(source).expect("a host").unplug(&shown);
    }

    fn stops(&mut self, port: &str) {
        self.end_stay(port);
        if let Some(home) = self.homes.remove(port)
            && let Some(shown) = self.written.port(&home.host, port)
        {
            self.members.get_mut(&home.host).expect("a host").unplug(&shown);
        }
    }

    /// From here on the virtual machine has its routes and must not lose them.
    fn begin_stay(&mut self, port: &str, host: &str) {
        let shown = self.written.port(host, port).expect("an endpoint");
        let (member, routed) = (&self.members[host], shown.routed());
        let routes = || routed.iter().all(|to| !member.watch.metrics_to(*to).is_empty());
        wait::until(wait::SOON, format_args!("routes of {port} on {host}"), routes);
        self.stays.push(Stay {
            host: host.to_owned(),
            port: port.to_owned(),
            destinations: routed.into_iter().collect(),
            from: clock::now(),
            to: None,
        });
    }

    fn end_stay(&mut self, port: &str) {
        let now = clock::now();
        for stay in self.stays.iter_mut().filter(|stay| stay.port == port && stay.to.is_none()) {
            stay.to = Some(now);
        }
    }
}
