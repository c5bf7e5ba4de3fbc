//! Puts resources, roles and machines together. See the crate documentation for how data flows.

mod absence;
mod aftermath;
mod bridges;
mod build;
mod claims;
mod filter;
mod hitless;
mod kernel;
mod locals;
mod loss;
mod placed;
mod recall;
mod reports;
mod resources;
mod show;
mod start;
mod wants;

pub use filter::PATIENCE as CHAINS_PATIENCE;

use crate::chains::Chains;
use crate::fact::{AnnouncementSeen, Fact, Link};
use crate::machine::{Machine, State, Transition};
use crate::memory::{LeftBehind, Memory, Remembered};
use crate::model::{EndpointKey, LiveMigration, Policy};
use crate::notice::{MigrationRecord, Notice};
use crate::shared::SharedSet;
use crate::time::BootTime;
use crate::view::EndpointView;
use crate::wanted::{Wanted, WantedRoute};
use absence::Absences;
use aftermath::Aftermaths;
use bridges::Bridges;
use claims::Claims;
use filter::WaitingEndpoints;
use hitless::Hitless;
use ipnet::IpNet;
use locals::{Local, Locals};
use loss::Losses;
use placed::Placed;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// The engine. Feed it facts with [`Engine::handle`], then call [`Engine::settle`] once for each batch.
#[derive(Clone, Debug)]
pub struct Engine {
    policy: Policy,
    locals: Locals,
    /// Endpoints of other hosts that the datastore shows; only their existence matters.
    remotes: BTreeSet<EndpointKey>,
    migrations: BTreeMap<String, LiveMigration>,
    /// Every link of the host.
    links: BTreeMap<u32, Link>,
    ifindexes: BTreeMap<String, u32>,
    /// Interfaces that have been an endpoint's in this life: what is left on them is not somebody else's.
    served: SharedSet<u32>,
    bridges: Bridges,
    /// Whether neighbours and sysctls are in place, for interfaces of which that was reported.
    configured: BTreeMap<u32, bool>,
    /// What Felix has, by interface.
    chains: BTreeMap<String, Chains>,
    waiting: WaitingEndpoints,
    found: LeftBehind,
    /// Machines of the last life whose endpoints have not shown up yet.
    remembered: BTreeMap<EndpointKey, Remembered>,
    /// They are worked with until the datastore is in sync.
    recalls: bool,
    /// When that began.
    recalls_since: Option<BootTime>,
    /// When the wanted sets were last made from it.
    recalled_at: Option<BootTime>,
    /// Announcements that came before the endpoints did.
    early: Vec<AnnouncementSeen>,
    /// Watches that were armed, or could not be, before the endpoints came.
    early_armed: BTreeMap<u64, Option<BootTime>>,
    in_sync_since: Option<BootTime>,
    complete: bool,
    last_generation: u64,
    wanted: Wanted,
    /// What each endpoint has in the wanted sets and among the claims.
    placed: BTreeMap<Arc<EndpointKey>, Placed>,
    /// Who claims a route to a prefix, and whose watch would install one.
    prefixes: Claims<IpNet>,
    watched: Claims<IpNet>,
    /// Who would have a route but for its interface: on a bridge it can be several.
    suspended: Claims<WantedRoute>,
    absences: Absences,
    losses: Losses,
    aftermaths: Aftermaths,
    hitless: Hitless,
    notices: Vec<Notice>,
}

impl Engine {
    /// A new engine with what survived the agent's last life.
    #[must_use]
    pub fn new(policy: Policy, memory: Memory, found: LeftBehind) -> Self {
        let remembered = memory.endpoints.iter().filter_map(|entry| entry.machine.arming);
        let last_generation = found
            .watches
            .values()
            .map(|(generation, _)| *generation)
            .chain(remembered.map(|arming| arming.generation))
            .max()
            .unwrap_or(0);
        let mut engine = Self {
            policy,
            locals: Locals::default(),
            remotes: BTreeSet::new(),
            migrations: BTreeMap::new(),
            links: BTreeMap::new(),
            ifindexes: BTreeMap::new(),
            served: SharedSet::default(),
            bridges: Bridges::default(),
            configured: BTreeMap::new(),
            chains: BTreeMap::new(),
            waiting: WaitingEndpoints::new(),
            found,
            remembered: memory.endpoints.into_iter().map(|entry| (entry.key.clone(), entry)).collect(),
            recalls: false,
            recalls_since: None,
            recalled_at: None,
            early: Vec::new(),
            early_armed: BTreeMap::new(),
            in_sync_since: None,
            complete: false,
            last_generation,
            wanted: Wanted::default(),
            placed: BTreeMap::new(),
            prefixes: Claims::default(),
            watched: Claims::default(),
            suspended: Claims::default(),
            absences: Absences::default(),
            losses: Losses::default(),
            aftermaths: Aftermaths::default(),
            hitless: Hitless::default(),
            notices: Vec::new(),
        };
        engine.recall_aftermaths(memory.aftermaths, memory.statuses_elsewhere);
        engine.recall_hitless(memory.departures, memory.arrivals);
        engine
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
                let is_asked = policy.ready_command == self.policy.ready_command;
                let is_new = policy.forwards && !self.policy.forwards;
                self.policy = *policy;
                if is_new {
                    self.remember_departures(now);
                }
                if !is_asked {
                    self.forget_answers();
                }
                self.bridges.look_at_all();
                self.locals.touch_all();
            }
            Fact::WatchArmed { generation, at } => self.watch_armed(generation, Some(at)),
            Fact::WatchFailed { generation } => self.watch_armed(generation, None),
            Fact::AnnouncementSeen(seen) => self.announcement_seen(now, seen),
            Fact::InterfaceConfigured { ifindex, ready } => {
                let is_there = self.links.contains_key(&ifindex);
                if is_there && self.configured.insert(ifindex, ready) != Some(ready) {
                    self.touch_link(ifindex);
                }
            }
            Fact::ChainsSeen { interface, chains } => self.chains_seen(interface, chains),
            Fact::StatusWritten { endpoint, due_since, at } => self.status_written(&endpoint, due_since, at),
            Fact::StatusRemovedElsewhere(key) => self.status_removed_elsewhere(now, key),
            Fact::StatusReportedElsewhere { endpoint, is_up, revision } => {
                self.status_reported_elsewhere(now, &endpoint, is_up, revision);
            }
            Fact::EndpointReady { endpoint, question } => self.endpoint_ready(&endpoint, question),
            Fact::EndpointLookedUp { endpoint, at, exists } => self.looked_up(now, &endpoint, at, exists),
            Fact::PeerSaid { endpoint, uid, address, says } => {
                self.peer_said(now, &endpoint, &uid, address, says);
            }
            Fact::LastFrameTold { endpoint, uid, at, error_ns } => {
                self.last_frame_told(&endpoint, &uid, at, error_ns);
            }
            Fact::ReceptionReady { endpoint, tunnel_id, is_ready } => {
                self.reception_ready(&endpoint, tunnel_id, is_ready);
            }
            Fact::ForwardStarted { endpoint, tunnel_id, at } => {
                self.forward_started(&endpoint, tunnel_id, at)
            }
            Fact::ConnectionsMade { endpoint, uid, count, at } => {
                self.connections_made(&endpoint, &uid, count, at);
            }
            Fact::MachineStopped { endpoint, is_stopped } => {
                self.machine_stopped(now, &endpoint, is_stopped);
            }
            Fact::LossConfirmed => self.loss_confirmed(now),
            Fact::DatastoreFollowed => self.followed_again(now),
            Fact::TimePassed => {}
        }
    }

    /// Does what is due by now and brings the wanted sets up to date. Returns whether they changed.
    pub fn settle(&mut self, now: BootTime) -> bool {
        if self.in_sync_since.is_none() {
            return self.recalls && self.recall(now);
        }
        self.reconsider_losses();
        self.expire(now);
        let before = self.wanted.clone();
        if before.is_recalled {
            self.wanted = Wanted::default();
        }
        self.keep_hitless(now);
        self.build(now);
        self.build_hitless();
        self.tell_waiting(now);
        self.wanted.chains_awaited = !self.waiting.is_empty();
        self.wanted.leftovers_may_go = self.leftovers_may_go(now);
        if self.wanted.leftovers_may_go {
            self.bridges.know_all(&mut self.served);
        }
        self.wanted.known_interfaces.clone_from(&self.served);
        self.wanted.known_on_bridges.clone_from(&self.bridges.known);
        self.wanted.unknown_statuses_may_go = self.unknown_statuses_may_go(now);
        self.tell_losses();
        self.wanted != before
    }

    /// What should be the case; `None` before the datastore is in sync, unless the memory knows something.
    #[must_use]
    pub fn wanted(&self) -> Option<&Wanted> {
        (self.in_sync_since.is_some() || self.wanted.is_recalled).then_some(&self.wanted)
    }

    /// The earliest time at which [`Engine::settle`] has something to do although nothing happened.
    #[must_use]
    pub fn next_deadline(&self) -> Option<BootTime> {
        let Some(in_sync_since) = self.in_sync_since else {
            return self.next_forward_over();
        };
        let leftovers =
            (!self.losses.is_judged() && self.complete).then_some(in_sync_since + self.policy.grace);
        let may_go = self.wanted.leftovers_may_go && !self.wanted.unknown_statuses_may_go;
        let unknown_statuses = may_go.then_some(self.unknown_statuses_at(in_sync_since));
        self.locals
            .active()
            .flat_map(|(key, local)| {
                // What waits for an answer has no time.
                let held = self.held_until(local).filter(|_| !self.absences.is_asked(key));
                let machine = self.machine_deadline(local).filter(|_| !self.awaits_source(local));
                [held, machine]
            })
            .chain([
                leftovers,
                unknown_statuses,
                self.next_aftermath(),
                self.chains_deadline(),
                self.hitless_deadline(),
            ])
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
        let living = self.locals.remembered().map(|(key, local)| Remembered {
            key: EndpointKey::clone(key),
            endpoint: local.endpoint.clone(),
            machine: Machine::clone(&local.machine),
            was_deleted: local.held_since.is_some() && !local.is_found_missing,
            withheld: self.placed.get(key).map(|placed| placed.withheld.clone()).unwrap_or_default(),
        });
        let (aftermaths, statuses_elsewhere) = self.aftermaths_memory();
        let (departures, arrivals) = self.hitless_memory();
        Memory {
            endpoints: self.remembered.values().cloned().chain(living).collect(),
            aftermaths,
            statuses_elsewhere,
            departures,
            arrivals,
        }
    }

    /// Whether [`Engine::memory`] may have changed since this was asked last.
    pub fn take_memory_changed(&mut self) -> bool {
        self.locals.take_memory_changed()
    }

    /// What `cutover status` shows.
    #[must_use]
    pub fn view(&self, now: BootTime) -> Vec<EndpointView> {
        let known = self.locals.iter().map(|(key, local)| self.view_of(key, local, now));
        known.chain(self.recalled_views(now)).collect()
    }

    fn is_local(&self, key: &EndpointKey) -> bool {
        key.host == self.policy.hostname
    }

    /// The number of a workload's interface that exists. Which names are a workload's can change at any time.
    fn ifindex(&self, interface: &str) -> Option<u32> {
        self.ifindexes.get(interface).copied().filter(|_| self.policy.is_workload(interface))
    }

    fn link(&self, interface: &str) -> Option<&Link> {
        self.links.get(&self.ifindex(interface)?)
    }

    fn endpoint_exists(&self, key: &EndpointKey) -> bool {
        self.remotes.contains(key) || self.locals.get(key).is_some_and(|local| local.held_since.is_none())
    }

    /// When a held endpoint is given up. One that may be in a file which cannot be read is held until it can, and one that
    /// was lost together with others until somebody says so.
    fn held_until(&self, local: &Local) -> Option<BootTime> {
        let since = local.held_since.filter(|_| (self.complete || !local.unseen) && !local.is_suspect)?;
        Some(since + self.policy.grace)
    }

    /// When its machine goes on by itself.
    fn machine_deadline(&self, local: &Local) -> Option<BootTime> {
        if self.is_in_doubt(local) {
            local.machine.elevation_ends()
        } else {
            local.machine.deadline(self.policy.grace)
        }
    }

    /// An endpoint that may be gone for good is either given up or back before anybody guesses how its migration ended.
    fn is_in_doubt(&self, local: &Local) -> bool {
        let machine = &local.machine;
        let is_open = machine.unresolved.is_some() || machine.undecided_since.is_some();
        is_open && self.held_until(local).is_some()
    }

    fn is_machine_due(&self, key: &EndpointKey, at: BootTime) -> bool {
        let deadline = self.locals.get(key).and_then(|local| self.machine_deadline(local));
        deadline.is_some_and(|deadline| deadline <= at)
    }

    /// What is kept because it may be a mistake that it is gone keeps its statuses, too.
    fn unknown_statuses_may_go(&self, now: BootTime) -> bool {
        let is_over = self.in_sync_since.is_some_and(|since| self.unknown_statuses_at(since) <= now);
        self.wanted.leftovers_may_go && is_over
    }

    fn expire(&mut self, now: BootTime) {
        let active: Vec<Arc<EndpointKey>> = self.locals.active().map(|(key, _)| Arc::clone(key)).collect();
        for key in &active {
            if self.held_until(&self.locals[key]).is_some_and(|until| until <= now)
                && self.is_known_absent(key)
            {
                self.give_up(now, key);
            }
        }
        for key in &active {
            while self.is_machine_due(key, now) {
                if !self.is_source_known_absent(key) {
                    break;
                }
                self.go_on(now, key);
            }
        }
        self.expire_aftermaths(now);
    }

    /// The machine does what is due.
    fn go_on(&mut self, now: BootTime, key: &EndpointKey) {
        let (grace, convergence) = (self.policy.grace, self.policy.convergence);
        let is_in_doubt = self.locals.get(key).is_some_and(|local| self.is_in_doubt(local));
        let transition = self.locals.change(key, |local| {
            if is_in_doubt {
                local.machine.end_elevation(now)
            } else {
                local.machine.time_passed(now, grace, convergence)
            }
        });
        self.note_transition(key, transition.flatten());
    }

    fn note_transition(&mut self, key: &EndpointKey, transition: Option<Transition>) {
        let Some(transition) = transition else { return };
        let machine = self.locals.change(key, |local| {
            if transition.to != State::Target {
                local.armed = None;
            }
            Machine::clone(&local.machine)
        });
        let Some(machine) = machine else { return };
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
