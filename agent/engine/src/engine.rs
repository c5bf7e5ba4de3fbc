//! Puts resources, roles and machines together. See the crate documentation for how data flows.

mod build;

use crate::fact::{AnnouncementSeen, Fact, Link};
use crate::machine::{Machine, State, Transition};
use crate::memory::{Found, Memory, Remembered};
use crate::model::{Endpoint, EndpointKey, LiveMigration, MigrationSource, MigrationTarget, Policy};
use crate::notice::{MigrationRecord, Notice};
use crate::roles::{self, Role};
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
    links: BTreeMap<u32, Link>,
    ifindexes: BTreeMap<String, u32>,
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
            .flat_map(|local| [local.held_since.map(|since| since + grace), local.machine.deadline(grace)])
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

    fn link(&self, interface: &str) -> Option<&Link> {
        self.links.get(self.ifindexes.get(interface)?)
    }

    fn endpoint_exists(&self, key: &EndpointKey) -> bool {
        self.remotes.contains(key) || self.locals.get(key).is_some_and(|local| local.held_since.is_none())
    }

    // ---- resources ----

    fn endpoint_written(&mut self, now: BootTime, key: EndpointKey, endpoint: Endpoint) {
        if !self.is_local(&key) {
            self.remotes.insert(key.clone());
            // Before the datastore is in sync this may be the endpoint that was there all the time.
            if self.in_sync_since.is_some() {
                self.for_targets_from(&key, |engine, local| engine.source_written(now, local));
            }
            return;
        }
        match self.locals.get_mut(&key) {
            Some(local) => {
                local.machine.endpoint_written();
                if local.held_since.take().is_some() {
                    self.notices.push(Notice::Returned { endpoint: key.clone() });
                }
                local.endpoint = endpoint;
            }
            None => {
                let machine =
                    self.remembered.remove(&key).map_or_else(Machine::default, |entry| entry.machine);
                self.locals.insert(key.clone(), Local { endpoint, held_since: None, armed: None, machine });
            }
        }
        self.stale = true;
        if self.in_sync_since.is_some() {
            self.assign_role(now, &key);
        }
    }

    fn endpoint_removed(&mut self, now: BootTime, key: &EndpointKey) {
        if !self.is_local(key) {
            if self.remotes.remove(key) {
                self.for_targets_from(key, |engine, local| {
                    if let Some(local) = engine.locals.get_mut(local) {
                        local.machine.source_removed(now);
                    }
                });
            }
            return;
        }
        if self.in_sync_since.is_none() {
            // Whether it is held is decided once the datastore is in sync.
            if let Some(Local { endpoint, machine, .. }) = self.locals.remove(key) {
                self.remembered.insert(key.clone(), Remembered { key: key.clone(), endpoint, machine });
            }
            return;
        }
        let Some(local) = self.locals.get(key) else { return };
        if local.held_since.is_some() {
            return;
        }
        let has_tap = self.link(&local.endpoint.interface).is_some();
        if has_tap && !local.machine.not_here {
            if let Some(local) = self.locals.get_mut(key) {
                local.held_since = Some(now);
            }
            self.stale = true;
            self.notices.push(Notice::Held { endpoint: key.clone() });
        } else {
            self.remove_local(now, key);
        }
    }

    /// Calls `visit` for every endpoint of this host that is, or was last, the target of a migration from `source`.
    fn for_targets_from(&mut self, source: &EndpointKey, mut visit: impl FnMut(&mut Self, &EndpointKey)) {
        let targets: Vec<_> = self
            .locals
            .iter()
            .filter(|(key, local)| key.is_same_port(source) && local.machine.source.as_ref() == Some(source))
            .map(|(key, _)| key.clone())
            .collect();
        for key in targets {
            visit(self, &key);
        }
    }

    /// The source's endpoint was written again. A failed migration whose own endpoint is already gone needs no
    /// grace: its outcome is known.
    fn source_written(&mut self, now: BootTime, key: &EndpointKey) {
        let Some(local) = self.locals.get_mut(key) else { return };
        let transition = local.machine.source_written(now, self.policy.convergence);
        self.note_transition(key, transition);
        if self.locals.get(key).is_some_and(|local| local.machine.not_here && local.held_since.is_some()) {
            self.remove_local(now, key);
        }
    }

    fn remove_local(&mut self, now: BootTime, key: &EndpointKey) {
        let Some(mut local) = self.locals.remove(key) else { return };
        let before = local.machine.clone();
        let transition = local.machine.deleted(now);
        if let Some(transition) = transition {
            self.note(key, &before, &local.machine, transition);
        }
        self.notices.push(Notice::Removed { endpoint: key.clone() });
        self.stale = true;
    }

    fn migration_written(&mut self, now: BootTime, name: String, migration: LiveMigration) {
        if self.migrations.get(&name) == Some(&migration) {
            return;
        }
        self.notices.push(Notice::MigrationWritten { name: name.clone(), migration: migration.clone() });
        let mut concerned = self.concerned(&migration);
        if let Some(before) = self.migrations.insert(name, migration) {
            concerned.extend(self.concerned(&before));
        }
        self.assign_roles(now, concerned);
    }

    fn migration_removed(&mut self, now: BootTime, name: &str) {
        let Some(migration) = self.migrations.remove(name) else { return };
        self.notices.push(Notice::MigrationRemoved { name: name.to_owned(), uid: migration.uid.clone() });
        let concerned = self.concerned(&migration);
        self.assign_roles(now, concerned);
    }

    /// Endpoints of this host whose role a migration can change.
    fn concerned(&self, migration: &LiveMigration) -> BTreeSet<EndpointKey> {
        let mut keys = BTreeSet::new();
        match &migration.source {
            Some(MigrationSource::Endpoint(key)) => drop(keys.insert(key.clone())),
            Some(MigrationSource::Workload { host, orchestrator, workload }) => keys.extend(
                self.locals
                    .keys()
                    .filter(|key| {
                        key.host == *host && key.orchestrator == *orchestrator && key.workload == *workload
                    })
                    .cloned(),
            ),
            None => {}
        }
        match &migration.target {
            Some(MigrationTarget::Endpoint(key)) => drop(keys.insert(key.clone())),
            Some(MigrationTarget::Selector(_)) => keys.extend(self.locals.keys().cloned()),
            None => {}
        }
        keys
    }

    fn assign_roles(&mut self, now: BootTime, keys: BTreeSet<EndpointKey>) {
        if self.in_sync_since.is_some() {
            for key in keys {
                self.assign_role(now, &key);
            }
        }
    }

    fn assign_role(&mut self, now: BootTime, key: &EndpointKey) {
        let Some(local) = self.locals.get(key) else { return };
        let assignment = roles::assign(key, &local.endpoint.labels, self.migrations.values());
        let from = assignment.source.as_ref().or(local.machine.source.as_ref());
        let source_present = from.is_some_and(|source| self.endpoint_exists(source));
        let Some(local) = self.locals.get_mut(key) else { return };
        let before = local.machine.clone();
        if (assignment.role, &assignment.uid) != (before.role, &before.role_uid) {
            self.notices.push(Notice::RoleEmitted {
                endpoint: key.clone(),
                role: assignment.role,
                uid: match assignment.role {
                    Role::None => before.role_uid.clone(),
                    Role::Source | Role::Target => assignment.uid.clone(),
                },
            });
        }
        let transition = local.machine.assign(&assignment, source_present, now, self.policy.convergence);
        if local.machine.unresolved.is_some() && before.unresolved.is_none() {
            self.notices.push(Notice::Unresolved { endpoint: key.clone(), uid: before.uid.clone() });
        }
        self.stale |= local.machine != before;
        self.note_transition(key, transition);
    }

    // ---- start ----

    fn in_sync(&mut self, now: BootTime, complete: bool) {
        self.complete = complete;
        self.stale = true;
        if self.in_sync_since.is_some() {
            return;
        }
        self.in_sync_since = Some(now);
        self.hold_remembered(now);
        let keys: Vec<_> = self.locals.keys().cloned().collect();
        let idle: Vec<_> = keys.iter().filter(|key| self.locals[key].machine.is_idle()).cloned().collect();
        for key in &keys {
            self.assign_role(now, key);
        }
        // ORDER: what was seen on the tap weighs more than what is inferred, and than what the source does.
        self.keep_armings(now);
        for seen in core::mem::take(&mut self.early) {
            self.announcement_seen(now, seen);
        }
        for key in &idle {
            self.infer_live(now, key);
        }
        for key in &keys {
            self.compare_source(now, key);
        }
    }

    /// What became of the source of an unresolved migration while nobody was looking.
    fn compare_source(&mut self, now: BootTime, key: &EndpointKey) {
        let Some(Local { machine, .. }) = self.locals.get(key) else { return };
        let Some(unresolved) = machine.unresolved else { return };
        let present = machine.source.as_ref().is_some_and(|source| self.endpoint_exists(source));
        if !present {
            if let Some(local) = self.locals.get_mut(key) {
                local.machine.source_removed(now);
            }
        } else if unresolved.source_absent_since.is_some() {
            self.source_written(now, key);
        }
    }

    /// Endpoints with a memory that the datastore does not show are held as if they had vanished just now:
    /// the agent may have been started in the gap that a driver leaves (W33).
    fn hold_remembered(&mut self, now: BootTime) {
        for (key, entry) in core::mem::take(&mut self.remembered) {
            if !self.is_local(&key) {
                continue;
            }
            let has_tap = self.link(&entry.endpoint.interface).is_some();
            let local = Local {
                endpoint: entry.endpoint,
                held_since: Some(now),
                armed: None,
                machine: entry.machine,
            };
            self.locals.insert(key.clone(), local);
            if has_tap {
                self.notices.push(Notice::Held { endpoint: key });
            } else {
                self.remove_local(now, &key);
            }
        }
    }

    /// Without a memory, a route at elevated priority says that the virtual machine runs here (W3).
    fn infer_live(&mut self, now: BootTime, key: &EndpointKey) {
        let Some(local) = self.locals.get(key) else { return };
        let ifindex = self.ifindexes.get(&local.endpoint.interface);
        if local.machine.state != State::Target || !ifindex.is_some_and(|i| self.found.elevated.contains(i)) {
            return;
        }
        let seen = AnnouncementSeen {
            generation: 0,
            kind: cutover_common::AnnouncementKind::Rarp,
            seen_at: now,
            taken_at: None,
            routed_at: None,
        };
        if let Some(local) = self.locals.get_mut(key) {
            let transition = local.machine.announced(&seen, now, self.policy.convergence);
            local.machine.phases.announced_at = None;
            local.machine.phases.kind = None;
            self.note_transition(key, transition);
        }
    }

    // ---- kernel ----

    fn link_seen(&mut self, link: Link) {
        if !self.policy.is_workload_interface(&link.name) && !self.links.contains_key(&link.ifindex) {
            return;
        }
        if let Some(before) = self.links.get(&link.ifindex) {
            if *before == link {
                return;
            }
            if self.ifindexes.get(&before.name) == Some(&link.ifindex) {
                self.ifindexes.remove(&before.name);
            }
        }
        self.ifindexes.insert(link.name.clone(), link.ifindex);
        self.links.insert(link.ifindex, link);
        self.stale = true;
    }

    fn link_removed(&mut self, now: BootTime, ifindex: u32) {
        let Some(link) = self.links.remove(&ifindex) else { return };
        if self.ifindexes.get(&link.name) == Some(&ifindex) {
            self.ifindexes.remove(&link.name);
        }
        self.configured.remove(&ifindex);
        self.stale = true;
        if self.ifindexes.contains_key(&link.name) {
            return;
        }
        let orphaned: Vec<_> = self
            .locals
            .iter()
            .filter(|(_, local)| local.held_since.is_some() && local.endpoint.interface == link.name)
            .map(|(key, _)| key.clone())
            .collect();
        for key in orphaned {
            self.remove_local(now, &key);
        }
    }

    fn by_generation(&mut self, generation: u64) -> Option<(EndpointKey, &mut Local)> {
        self.locals
            .iter_mut()
            .find(|(_, local)| local.machine.arming.is_some_and(|arming| arming.generation == generation))
            .map(|(key, local)| (key.clone(), local))
    }

    fn watch_armed(&mut self, generation: u64, at: Option<BootTime>) {
        let Some((_, local)) = self.by_generation(generation) else { return };
        let armed = at.map(|_| generation);
        if local.armed != armed {
            local.armed = armed;
            if let Some(at) = at {
                local.machine.phases.armed_at.get_or_insert(at);
            }
            self.stale = true;
        }
    }

    fn announcement_seen(&mut self, now: BootTime, seen: AnnouncementSeen) {
        if self.in_sync_since.is_none() {
            self.early.push(seen);
            return;
        }
        let convergence = self.policy.convergence;
        let Some((key, local)) = self.by_generation(seen.generation) else { return };
        let Local { endpoint, machine, .. } = local;
        let watched = machine.arming.map(|arming| arming.ifindex);
        let interface = endpoint.interface.clone();
        if self.ifindexes.get(&interface).copied() != watched {
            // What was on the tap that is gone is gone with it.
            return;
        }
        let Some(local) = self.locals.get_mut(&key) else { return };
        let transition = local.machine.announced(&seen, now, convergence);
        self.note_transition(&key, transition);
    }

    // ---- time ----

    fn leftovers_may_go(&self, now: BootTime) -> bool {
        self.complete && self.in_sync_since.is_some_and(|since| since + self.policy.grace <= now)
    }

    fn expire(&mut self, now: BootTime) {
        let (grace, convergence) = (self.policy.grace, self.policy.convergence);
        let gone: Vec<_> = self
            .locals
            .iter()
            .filter(|(_, local)| local.held_since.is_some_and(|since| since + grace <= now))
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

    // ---- notices ----

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
