//! Puts resources, roles and machines together. See the crate documentation for how data flows.

mod build;
mod kernel;
mod reports;
mod resources;
mod start;

use crate::fact::{AnnouncementSeen, Fact, Link};
use crate::machine::{Machine, State, Transition};
use crate::memory::{Found, Memory, Remembered};
use crate::model::{Endpoint, EndpointKey, LiveMigration, Policy};
use crate::notice::{MigrationRecord, Notice};
use crate::time::BootTime;
use crate::view::EndpointView;
use crate::wanted::Wanted;
use std::collections::{BTreeMap, BTreeSet};

/// An endpoint of this host.
#[derive(Clone, Debug)]
struct Local {
    endpoint: Endpoint,
    /// Since when the datastore does not show it any more, although its tap exists.
    held_since: Option<BootTime>,
    /// Known from the last life only: the datastore has not shown it in this one.
    unseen: bool,
    /// The generation that the kernel confirmed as armed.
    armed: Option<u64>,
    machine: Machine,
}

/// The engine. Feed it facts with [`Engine::handle`], then call [`Engine::settle`] once for each batch.
#[derive(Clone, Debug)]
pub struct Engine {
    policy: Policy,
    locals: BTreeMap<EndpointKey, Local>,
    /// Endpoints of other hosts that the datastore shows; only their existence matters.
    remotes: BTreeSet<EndpointKey>,
    migrations: BTreeMap<String, LiveMigration>,
    /// Every link of the host.
    links: BTreeMap<u32, Link>,
    ifindexes: BTreeMap<String, u32>,
    /// Interfaces that have been an endpoint's in this life: what is left on them is not somebody else's.
    served: BTreeSet<u32>,
    /// Whether neighbours and sysctls are in place, for interfaces of which that was reported.
    configured: BTreeMap<u32, bool>,
    found: Found,
    /// Machines of the last life whose endpoints have not shown up yet.
    remembered: BTreeMap<EndpointKey, Remembered>,
    /// Announcements that came before the endpoints did.
    early: Vec<AnnouncementSeen>,
    in_sync_since: Option<BootTime>,
    complete: bool,
    last_generation: u64,
    wanted: Wanted,
    conflicts: BTreeSet<(EndpointKey, String)>,
    notices: Vec<Notice>,
    stale: bool,
}

impl Engine {
    /// A new engine with what survived the agent's last life.
    #[must_use]
    pub fn new(policy: Policy, memory: Memory, found: Found) -> Self {
        let remembered = memory.endpoints.iter().filter_map(|entry| entry.machine.arming);
        let last_generation = found
            .watches
            .values()
            .map(|(generation, _)| *generation)
            .chain(remembered.map(|arming| arming.generation))
            .max()
            .unwrap_or(0);
        Self {
            policy,
            locals: BTreeMap::new(),
            remotes: BTreeSet::new(),
            migrations: BTreeMap::new(),
            links: BTreeMap::new(),
            ifindexes: BTreeMap::new(),
            served: BTreeSet::new(),
            configured: BTreeMap::new(),
            found,
            remembered: memory.endpoints.into_iter().map(|entry| (entry.key.clone(), entry)).collect(),
            early: Vec::new(),
            in_sync_since: None,
            complete: false,
            last_generation,
            wanted: Wanted::default(),
            conflicts: BTreeSet::new(),
            notices: Vec::new(),
            stale: false,
        }
    }

    /// Takes one fact in.
    pub fn handle(&mut self, now: BootTime, fact: Fact) {
        match fact {
            Fact::EndpointWritten(key, endpoint) => self.endpoint_written(now, key, endpoint),
            Fact::EndpointRemoved(key) => self.endpoint_removed(now, &key),
            Fact::MigrationWritten(name, migration) => self.migration_written(now, name, migration),
            Fact::MigrationRemoved(name) => self.migration_removed(now, &name),
            Fact::InSync { complete } => self.in_sync(now, complete),
            Fact::LinkSeen(link) => self.link_seen(link),
            Fact::LinkRemoved { ifindex } => self.link_removed(now, ifindex),
            Fact::PolicyChanged(policy) => {
                self.policy = *policy;
                self.stale = true;
            }
            Fact::WatchArmed { generation, at } => self.watch_armed(generation, Some(at)),
            Fact::WatchFailed { generation } => self.watch_armed(generation, None),
            Fact::AnnouncementSeen(seen) => self.announcement_seen(now, seen),
            Fact::InterfaceConfigured { ifindex, ready } => {
                if self.links.contains_key(&ifindex) {
                    self.stale |= self.configured.insert(ifindex, ready) != Some(ready);
                }
            }
            Fact::StatusWritten { endpoint, due_since, at } => self.status_written(&endpoint, due_since, at),
            Fact::StatusRemovedElsewhere(key) => self.status_removed_elsewhere(now, key),
            Fact::TimePassed => {}
        }
    }

    /// Does what is due by now and brings the wanted sets up to date. Returns whether they changed.
    pub fn settle(&mut self, now: BootTime) -> bool {
        if self.in_sync_since.is_none() {
            return false;
        }
        self.expire(now);
        let leftovers_may_go = self.leftovers_may_go(now);
        if !self.stale && leftovers_may_go == self.wanted.leftovers_may_go {
            return false;
        }
        self.stale = false;
        let wanted = self.build(now);
        let changed = wanted != self.wanted;
        self.wanted = wanted;
        changed
    }

    /// What should be the case; `None` before the datastore is in sync.
    #[must_use]
    pub fn wanted(&self) -> Option<&Wanted> {
        self.in_sync_since.map(|_| &self.wanted)
    }

    /// The earliest time at which [`Engine::settle`] has something to do although nothing happened.
    #[must_use]
    pub fn next_deadline(&self) -> Option<BootTime> {
        let in_sync_since = self.in_sync_since?;
        let grace = self.policy.grace;
        let leftovers =
            (!self.wanted.leftovers_may_go && self.complete).then_some(in_sync_since + self.policy.grace);
        self.locals
            .values()
            .flat_map(|local| [self.held_until(local), local.machine.deadline(grace)])
            .chain([leftovers])
            .flatten()
            .min()
    }

    /// What there is to say since the last call.
    pub fn take_notices(&mut self) -> Vec<Notice> {
        core::mem::take(&mut self.notices)
    }

    /// What has to survive the death of the agent.
    #[must_use]
    pub fn memory(&self) -> Memory {
        let living = self.locals.iter().filter(|(_, local)| !local.machine.is_idle()).map(|(key, local)| {
            Remembered { key: key.clone(), endpoint: local.endpoint.clone(), machine: local.machine.clone() }
        });
        Memory { endpoints: self.remembered.values().cloned().chain(living).collect() }
    }

    /// What `cutover status` shows.
    #[must_use]
    pub fn view(&self, now: BootTime) -> Vec<EndpointView> {
        self.locals.iter().map(|(key, local)| self.view_of(key, local, now)).collect()
    }

    fn is_local(&self, key: &EndpointKey) -> bool {
        key.host == self.policy.hostname
    }

    /// The number of a workload's interface that exists. Which names are a workload's can change at any time.
    fn ifindex(&self, interface: &str) -> Option<u32> {
        self.ifindexes.get(interface).copied().filter(|_| self.policy.is_workload_interface(interface))
    }

    fn link(&self, interface: &str) -> Option<&Link> {
        self.links.get(&self.ifindex(interface)?)
    }

    fn endpoint_exists(&self, key: &EndpointKey) -> bool {
        self.remotes.contains(key) || self.locals.get(key).is_some_and(|local| local.held_since.is_none())
    }

    /// When a held endpoint is given up. One that may be in a file which cannot be read is held until it can.
    fn held_until(&self, local: &Local) -> Option<BootTime> {
        let since = local.held_since.filter(|_| self.complete || !local.unseen)?;
        Some(since + self.policy.grace)
    }

    fn leftovers_may_go(&self, now: BootTime) -> bool {
        self.complete && self.in_sync_since.is_some_and(|since| since + self.policy.grace <= now)
    }

    fn expire(&mut self, now: BootTime) {
        let (grace, convergence) = (self.policy.grace, self.policy.convergence);
        let gone: Vec<_> = self
            .locals
            .iter()
            .filter(|(_, local)| self.held_until(local).is_some_and(|until| until <= now))
            .map(|(key, _)| key.clone())
            .collect();
        for key in gone {
            self.remove_local(now, &key);
        }
        let mut due = Vec::new();
        for (key, local) in &mut self.locals {
            while let Some(transition) = local.machine.time_passed(now, grace, convergence) {
                due.push((key.clone(), transition));
            }
        }
        for (key, transition) in due {
            self.note_transition(&key, Some(transition));
        }
    }

    fn note_transition(&mut self, key: &EndpointKey, transition: Option<Transition>) {
        let Some(transition) = transition else { return };
        self.stale = true;
        let Some(local) = self.locals.get_mut(key) else { return };
        if transition.to != State::Target {
            local.armed = None;
        }
        let machine = local.machine.clone();
        self.note(key, &machine, &machine, transition);
    }

    fn note(&mut self, key: &EndpointKey, before: &Machine, after: &Machine, transition: Transition) {
        let over = transition.to == State::Base && transition.from != State::Base;
        let arrived = matches!(transition.from, State::Live | State::TimeWait);
        let uid = transition.uid.clone();
        self.notices.push(Notice::Transition { endpoint: key.clone(), transition });
        if over && after.phases.targeted_at.is_some() {
            self.notices.push(Notice::Finished(Box::new(MigrationRecord {
                uid,
                endpoint: key.to_string(),
                source: before.source.as_ref().map(ToString::to_string),
                arrived,
                phases: after.phases,
            })));
        }
    }
}

#[cfg(test)]
mod tests;
