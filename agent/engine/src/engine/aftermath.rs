//! What a migration leaves behind on the hosts of its port: statuses that nobody has any more use for.
//!
//! Neutron takes the removal of any host's status for a failure of the port, commits it late, and tells Nova of a failure if the
//! port was out of service by then. A status that stays hurts nobody for a while. So the status of a port that is not here any more
//! is removed only when the host where it lives has reported it after the migration, and when all of that is some time ago. Owns what
//! is known about ports after their migrations and about the statuses of other hosts; `reports` and `resources` tell it.

use super::Engine;
use crate::memory::{Aftermath, StatusElsewhere};
use crate::model::{EndpointKey, LiveMigration};
use crate::time::BootTime;
use core::time::Duration;
use std::collections::{BTreeMap, BTreeSet};

/// How long a port has to be left alone before a status of it is removed.
///
/// LIMIT: what was reported last has to be in Neutron's database by then (2.5 s were seen), Neutron tells Nova every 2 s, and the
/// same again for what a restart of an agent delays; a machine that goes back at once finds everything as it was. One whose
/// next migration begins in the very seconds in which the status is removed is not helped: nobody knows of it yet.
pub(super) const QUIET: Duration = Duration::from_secs(15);

/// How long a status stays although the host where the port lives has not reported it since.
///
/// LIMIT: that host's agent is gone, or one that does not write again after a migration; as long as other hosts' keys are followed.
pub(super) const ABANDONED: Duration = Duration::from_secs(600);

/// Ports that have migrated, by the endpoint that this host has, had or would have, and statuses of other hosts.
#[derive(Clone, Debug, Default)]
pub(super) struct Aftermaths {
    /// Somebody takes the removal of a status for a failure.
    matter: bool,
    by_port: BTreeMap<EndpointKey, Aftermath>,
    elsewhere: BTreeMap<EndpointKey, i64>,
}

impl Engine {
    /// The same for a datastore from which a driver takes every host's statuses.
    #[must_use]
    pub fn with_driver(mut self) -> Self {
        self.aftermaths.matter = true;
        self
    }

    /// Takes up what was remembered.
    pub(super) fn recall_aftermaths(&mut self, remembered: Vec<Aftermath>, elsewhere: Vec<StatusElsewhere>) {
        let ours = remembered.into_iter().filter(|aftermath| self.is_local(&aftermath.port));
        self.aftermaths.by_port = ours.map(|it| (it.port.clone(), it)).collect();
        for port in self.aftermaths.by_port.keys() {
            self.locals.touch(port.clone());
        }
        self.aftermaths.elsewhere = elsewhere.into_iter().map(|it| (it.endpoint, it.revision)).collect();
    }

    /// A migration is over, from whichever host to whichever other. Who was none of them remembers it only in this life.
    pub(super) fn migration_ended(&mut self, now: BootTime, migration: &LiveMigration) {
        let is_concerned = migration.endpoints().any(|side| self.is_local(side));
        for side in migration.endpoints() {
            let port = self.same_port_here(side);
            if !self.aftermaths.matter || self.is_migrating(&port) {
                continue;
            }
            let is_ours = is_concerned || self.locals.contains_key(&port);
            let aftermath = Aftermath {
                port: port.clone(),
                since: now,
                reported_at: None,
                reported_before: self.reported_elsewhere(&port),
                sides: migration.endpoints().cloned().collect(),
                uid: migration.uid.clone(),
                is_ours,
                lives_on: BTreeSet::new(),
            };
            self.aftermaths.by_port.insert(port, aftermath);
            self.note_ours(is_ours);
        }
    }

    /// A migration of the port begins: nothing is removed before it is over.
    pub(super) fn migration_began(&mut self, migration: &LiveMigration) {
        for side in migration.endpoints() {
            let port = self.same_port_here(side);
            if let Some(aftermath) = self.aftermaths.by_port.remove(&port) {
                self.note_ours(aftermath.is_ours);
            }
        }
    }

    /// Something happened to the port, here or where it lives.
    pub(super) fn port_changed(&mut self, now: BootTime, endpoint: &EndpointKey) {
        let port = self.same_port_here(endpoint);
        if let Some(aftermath) = self.aftermaths.by_port.get_mut(&port) {
            aftermath.since = now;
            let is_ours = aftermath.is_ours;
            self.note_ours(is_ours);
        }
    }

    /// The port's endpoint on another host is gone, if only for a moment: Neutron takes the port down then, and what was reported
    /// of that endpoint before says nothing any more. One on a host that was to be a target once says nothing of where the port lives.
    pub(super) fn endpoint_removed_elsewhere(&mut self, now: BootTime, endpoint: &EndpointKey) {
        let port = self.same_port_here(endpoint);
        let by_port = self.aftermaths.by_port.get_mut(&port);
        if let Some(aftermath) = by_port.filter(|aftermath| aftermath.is_about(endpoint)) {
            aftermath.reported_at = None;
        }
        self.port_changed(now, endpoint);
    }

    /// A host that has the port's endpoint has reported it.
    pub(super) fn status_reported_elsewhere(
        &mut self,
        now: BootTime,
        endpoint: &EndpointKey,
        is_up: bool,
        revision: i64,
    ) {
        let port = self.same_port_here(endpoint);
        let matters =
            self.locals.contains_key(&port) || self.has_aftermath(&port) || self.is_migrating(&port);
        if self.is_local(endpoint) || !matters {
            return;
        }
        self.aftermaths.elsewhere.insert(endpoint.clone(), revision);
        let lives_there = self.remotes.contains(endpoint);
        let by_port = self.aftermaths.by_port.get_mut(&port).filter(|_| lives_there);
        // What is told again may be from before the end of the migration.
        let counts =
            |aftermath: &&mut Aftermath| aftermath.is_about(endpoint) && revision > aftermath.reported_before;
        if let Some(aftermath) = by_port.filter(counts) {
            // Repeats say nothing new.
            aftermath.reported_at = is_up.then(|| aftermath.reported_at.unwrap_or(now));
        }
        self.note_ours(true);
    }

    /// The highest revision that is known of a status of the port on another host.
    fn reported_elsewhere(&self, port: &EndpointKey) -> i64 {
        let of_port = self.aftermaths.elsewhere.iter().filter(|(endpoint, _)| endpoint.is_same_port(port));
        of_port.map(|(_, revision)| *revision).max().unwrap_or_default()
    }

    pub(super) fn forget_status_elsewhere(&mut self, endpoint: &EndpointKey) {
        let was_known = self.aftermaths.elsewhere.remove(endpoint).is_some();
        self.note_ours(was_known);
    }

    /// Whether the status of a port that has no endpoint here stays because of a migration that is over.
    pub(super) fn has_aftermath(&self, port: &EndpointKey) -> bool {
        self.aftermaths.by_port.contains_key(port)
    }

    /// All such ports.
    #[cfg(test)]
    pub(super) fn aftermaths(&self) -> impl Iterator<Item = &EndpointKey> {
        self.aftermaths.by_port.keys()
    }

    /// The migration that was the last one of a port.
    pub(super) fn last_migration(&self, port: &EndpointKey) -> Option<&str> {
        self.aftermaths.by_port.get(port).map(|aftermath| aftermath.uid.as_str())
    }

    /// When the aftermath is over.
    fn over_at(&self, aftermath: &Aftermath) -> BootTime {
        let lives_elsewhere = || self.remotes.iter().any(|remote| remote.is_same_port(&aftermath.port));
        match aftermath.reported_at {
            Some(reported_at) => aftermath.since.max(reported_at) + QUIET,
            None if lives_elsewhere() => aftermath.since + ABANDONED,
            None => aftermath.since + QUIET,
        }
    }

    /// When the next aftermath is over.
    pub(super) fn next_aftermath(&self) -> Option<BootTime> {
        self.aftermaths.by_port.values().map(|aftermath| self.over_at(aftermath)).min()
    }

    pub(super) fn expire_aftermaths(&mut self, now: BootTime) {
        let is_over = |aftermath: &&Aftermath| self.over_at(aftermath) <= now;
        let over: Vec<_> =
            self.aftermaths.by_port.values().filter(is_over).map(|it| it.port.clone()).collect();
        for port in over {
            if let Some(aftermath) = self.aftermaths.by_port.remove(&port) {
                self.note_ours(aftermath.is_ours);
            }
            self.forget_uninteresting(&port);
            self.locals.touch(port);
        }
    }

    /// What other hosts say of a port that is not here does not matter.
    pub(super) fn forget_uninteresting(&mut self, port: &EndpointKey) {
        if !self.locals.contains_key(port) && !self.aftermaths.by_port.contains_key(port) {
            let before = self.aftermaths.elsewhere.len();
            self.aftermaths.elsewhere.retain(|endpoint, _| !endpoint.is_same_port(port));
            self.note_ours(self.aftermaths.elsewhere.len() < before);
        }
    }

    /// When the statuses may go of which this life has never known an endpoint.
    pub(super) fn unknown_statuses_at(&self, since: BootTime) -> BootTime {
        since + if self.aftermaths.matter { self.policy.grace.max(QUIET) } else { self.policy.grace }
    }

    /// Those that this host had a part in.
    pub(super) fn aftermaths_memory(&self) -> (Vec<Aftermath>, Vec<StatusElsewhere>) {
        let ours = self.aftermaths.by_port.values().filter(|aftermath| aftermath.is_ours);
        let with_homes = |aftermath: &Aftermath| {
            let homes = self.remotes.iter().filter(|remote| remote.is_same_port(&aftermath.port));
            Aftermath { lives_on: homes.cloned().collect(), ..aftermath.clone() }
        };
        let elsewhere = self
            .aftermaths
            .elsewhere
            .iter()
            .map(|(endpoint, &revision)| StatusElsewhere { endpoint: endpoint.clone(), revision });
        (ours.map(with_homes).collect(), elsewhere.collect())
    }

    fn note_ours(&mut self, is_ours: bool) {
        if is_ours {
            self.locals.memory_changed();
        }
    }
}
