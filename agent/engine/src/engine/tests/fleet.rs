//! Several hosts that watch one datastore, and virtual machines whose whereabouts are known.
//!
//! After everything that happens: where a virtual machine runs, there is a route; and elevated priority is only
//! where one has arrived.

use super::host::*;
use crate::fact::{Fact, Link};
use crate::machine::State;
use crate::model::{EndpointKey, MigrationTarget};
use crate::notice::Notice;
use crate::time::BootTime;
use core::time::Duration;
use std::collections::{BTreeMap, BTreeSet};

/// Whether the announcement of a virtual machine is seen.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Announcements {
    Seen,
    Lost,
}

#[derive(Clone)]
pub(super) struct Fleet {
    hosts: BTreeMap<String, Host>,
    announcements: Announcements,
    /// What the datastore holds.
    endpoints: BTreeMap<EndpointKey, Fact>,
    migrations: BTreeMap<String, Fact>,
    links: BTreeMap<String, BTreeMap<u32, Link>>,
    plugged: u32,
    absent_since: BTreeMap<EndpointKey, BootTime>,
    running: BTreeMap<String, String>,
    /// Endpoints at which a virtual machine has arrived.
    arrived: BTreeSet<EndpointKey>,
    transitions: BTreeMap<(String, String), Vec<State>>,
}

impl Fleet {
    /// Hosts with a tap for each port, in sync for long.
    pub(super) fn new(hosts: &[&str], ports: &[&str], announcements: Announcements) -> Self {
        let mut fleet = Self {
            hosts: hosts.iter().map(|host| ((*host).to_owned(), Host::starting(host))).collect(),
            announcements,
            endpoints: BTreeMap::new(),
            migrations: BTreeMap::new(),
            links: BTreeMap::new(),
            plugged: 100,
            absent_since: BTreeMap::new(),
            running: BTreeMap::new(),
            arrived: BTreeSet::new(),
            transitions: BTreeMap::new(),
        };
        for host in hosts {
            for (port, ifindex) in ports.iter().zip(5..) {
                fleet.plug(host, Link { name: tap(port), ..link(ifindex, true) });
            }
        }
        for host in fleet.hosts.values_mut() {
            host.tell(Fact::InSync { complete: true });
        }
        fleet.pass(ms(60_000));
        fleet
    }

    /// A tap comes, as an orchestrator plugs it: with a number of its own and without carrier.
    pub(super) fn plug_again(&mut self, host: &str, port: &str) {
        if self.hosts.contains_key(host) && self.ifindex(host, port).is_none() {
            self.plugged += 1;
            self.plug(host, Link { name: tap(port), ..link(self.plugged, false) });
        }
    }

    pub(super) fn unplug(&mut self, host: &str, port: &str) {
        if let Some(ifindex) = self.ifindex(host, port) {
            self.links.get_mut(host).expect("known").remove(&ifindex);
            self.hosts.get_mut(host).expect("known").tell(Fact::LinkRemoved { ifindex });
        }
    }

    fn ifindex(&self, host: &str, port: &str) -> Option<u32> {
        Some(self.hosts.get(host)?.engine.link(&tap(port))?.ifindex)
    }

    fn plug(&mut self, host: &str, link: Link) {
        self.links.entry(host.to_owned()).or_default().insert(link.ifindex, link.clone());
        self.hosts.get_mut(host).expect("known").tell(Fact::LinkSeen(link));
    }

    pub(super) fn tell(&mut self, fact: &Fact) {
        self.remember(fact);
        for host in self.hosts.values_mut() {
            host.tell(fact.clone());
        }
        self.check();
    }

    fn remember(&mut self, fact: &Fact) {
        let now = self.now();
        match fact {
            Fact::EndpointWritten(key, _) => {
                self.absent_since.remove(key);
                self.endpoints.insert(key.clone(), fact.clone());
            }
            Fact::EndpointRemoved(key) => {
                self.absent_since.insert(key.clone(), now);
                self.endpoints.remove(key);
            }
            Fact::MigrationWritten(name, migration) => {
                if self.migrations.insert(name.clone(), fact.clone()).as_ref() == Some(fact) {
                    return;
                }
                // Whoever arrives in this migration has not done so yet.
                if let Some(MigrationTarget::Endpoint(target)) = &migration.target
                    && self.running.get(&target.endpoint) != Some(&target.host)
                {
                    self.arrived.remove(target);
                }
            }
            Fact::MigrationRemoved(name) => drop(self.migrations.remove(name)),
            _ => panic!("not of the datastore: {fact:?}"),
        }
    }

    /// The virtual machine runs here from now on.
    pub(super) fn move_to(&mut self, host: &str, port: &str) {
        self.running.insert(port.to_owned(), host.to_owned());
        self.arrived.insert(named_port(host, port));
        if self.announcements == Announcements::Seen
            && let Some(host) = self.hosts.get_mut(host)
        {
            let tap = tap(port);
            let watch = host.wanted().watches.values().find(|watch| watch.interface == tap);
            if let Some(generation) = watch.map(|watch| watch.generation) {
                let at = host.now;
                host.tell(announcement(generation, at));
            }
        }
        self.check();
    }

    pub(super) fn stop(&mut self, port: &str) {
        self.running.remove(port);
    }

    pub(super) fn now(&self) -> BootTime {
        self.hosts.values().next().expect("a host").now
    }

    /// Time passes; everybody does what is due when it is due, and everything is checked each time.
    pub(super) fn pass(&mut self, duration: Duration) {
        let end = self.now() + duration;
        loop {
            let due = self.hosts.values().filter_map(|host| host.engine.next_deadline()).min();
            let next = due.map_or(end, |due| due.min(end));
            let step = next.since(self.now());
            for host in self.hosts.values_mut() {
                host.pass(step);
            }
            self.check();
            if next == end {
                return;
            }
        }
    }

    /// Every agent dies, and others start.
    pub(super) fn restart(&mut self) {
        self.collect_transitions();
        for (name, host) in &mut self.hosts {
            let mut again = Host::restarted(name, host.now, host.memory(), host.found());
            again.armed.clone_from(&host.armed);
            again.kernel.clone_from(&host.kernel);
            for link in self.links.get(name).into_iter().flat_map(BTreeMap::values) {
                again.engine.handle(host.now, Fact::LinkSeen(link.clone()));
            }
            for fact in self.migrations.values().chain(self.endpoints.values()) {
                again.engine.handle(host.now, fact.clone());
            }
            again.tell(Fact::InSync { complete: true });
            // The watch applier finds the armed watches and says so.
            for (_, generation) in host.armed.clone() {
                again.tell(Fact::WatchArmed { generation, at: host.now });
            }
            *host = again;
        }
    }

    fn endpoint_of<'a>(host: &'a Host, port: &str) -> Option<&'a crate::engine::Local> {
        host.engine.locals.iter().find(|(key, _)| key.endpoint == port).map(|(_, local)| local)
    }

    /// The metric of the routes of a port; all of its prefixes have one or none has.
    pub(super) fn metric(&self, host: &str, port: &str) -> Option<u32> {
        let ifindex = self.ifindex(host, port)?;
        let host = self.hosts.get(host)?;
        let routes: Vec<_> = host.kernel.iter().filter(|route| route.ifindex == ifindex).collect();
        let metric = routes.first()?.metric;
        if let Some(local) = Self::endpoint_of(host, port) {
            assert_eq!(routes.len(), local.endpoint.prefixes.len(), "not every prefix has a route");
        }
        assert!(routes.iter().all(|route| route.metric == metric), "several metrics");
        Some(metric)
    }

    /// Hosts with a route for a port, with its metric.
    pub(super) fn routes(&self, port: &str) -> Vec<(&str, u32)> {
        self.hosts.keys().filter_map(|host| Some((host.as_str(), self.metric(host, port)?))).collect()
    }

    fn check(&self) {
        for (port, host) in &self.running {
            assert!(
                self.metric(host, port).is_some() || self.may_be_without_route(host, port),
                "{port} runs on {host} and has no route there"
            );
        }
        for (name, host) in &self.hosts {
            for key in host.engine.locals.keys() {
                assert!(
                    self.metric(name, &key.endpoint) != Some(ELEVATED) || self.arrived.contains(key),
                    "{key} is elevated and no virtual machine ever arrived there"
                );
            }
        }
    }

    fn may_be_without_route(&self, host: &str, port: &str) -> bool {
        let Some(known) = self.hosts.get(host) else { return true };
        let suppressed =
            |local: &crate::engine::Local| local.machine.state == State::Target || local.machine.not_here;
        let unheard = self.announcements == Announcements::Lost
            && Self::endpoint_of(known, port).is_none_or(suppressed);
        let absent = self.absent_since.get(&named_port(host, port));
        unheard || absent.is_some_and(|since| self.now().since(*since) >= known.engine.policy.grace)
    }

    fn collect_transitions(&mut self) {
        for (name, host) in &mut self.hosts {
            for notice in host.engine.take_notices() {
                if let Notice::Transition { endpoint, transition } = notice {
                    self.transitions
                        .entry((name.clone(), endpoint.endpoint))
                        .or_default()
                        .push(transition.to);
                }
            }
        }
    }

    /// The states that the endpoint of a port went through on a host.
    pub(super) fn states(&mut self, host: &str, port: &str) -> Vec<State> {
        self.collect_transitions();
        self.transitions.get(&(host.to_owned(), port.to_owned())).cloned().unwrap_or_default()
    }

    /// Everything that is wanted, without the numbers that depend on the time.
    pub(super) fn picture(&self) -> String {
        let of_host = |(name, host): (&String, &Host)| {
            let wanted = host.wanted();
            let states: Vec<_> = host.engine.locals.values().map(|local| local.machine.state).collect();
            let watches: Vec<_> = wanted.watches.keys().collect();
            let statuses: Vec<_> = wanted.statuses.values().map(|wanted| wanted.status).collect();
            format!("{name}: {states:?} {:?} {watches:?} {statuses:?}", host.kernel)
        };
        self.hosts.iter().map(of_host).collect::<Vec<_>>().join("\n")
    }

    pub(super) fn runs_on(&self, port: &str) -> Option<&str> {
        self.running.get(port).map(String::as_str)
    }
}

pub(super) fn tap(port: &str) -> String {
    format!("tap-{port}")
}
