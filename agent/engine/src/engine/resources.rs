//! What the datastore says: endpoints come, go and are held, migrations give roles.

use super::{Engine, Local};
use crate::machine::{Machine, Sight};
use crate::memory::Remembered;
use crate::model::{Endpoint, EndpointKey, LiveMigration, MigrationSource, MigrationTarget};
use crate::notice::Notice;
use crate::roles::{self, Role};
use crate::time::BootTime;
use std::collections::BTreeSet;

impl Engine {
    pub(super) fn endpoint_written(&mut self, now: BootTime, key: EndpointKey, mut endpoint: Endpoint) {
        self.absences.answered(&key);
        if !self.is_local(&key) {
            self.remotes.insert(key.clone());
            self.port_changed(now, &key);
            // Before the datastore is in sync this may be the endpoint that was there all the time.
            if self.in_sync_since.is_some()
                && let Some(target) = self.target_from(&key)
            {
                self.source_written(now, &target);
            }
            return;
        }
        if self.in_sync_since.is_some() {
            self.departure_called_off(now, &key);
        }
        endpoint.labels = self.locals.labels.share(endpoint.labels);
        if self.locals.contains_key(&key) {
            // Before the datastore is in sync nobody can tell what came first.
            let is_news = self.in_sync_since.is_some();
            let mut sight = self.sight(now, &self.locals[&key], None);
            sight.endpoint_uid.clone_from(&endpoint.uid);
            let change = self.locals.change(&key, |local| {
                let stays = local.machine.undecided_since.is_some();
                let was_away = local.held_since.is_some();
                let transition = is_news.then(|| local.machine.endpoint_written(was_away, &sight)).flatten();
                let was_held = local.held_since.take().is_some();
                if was_held || stays {
                    // A driver that creates an endpoint anew, or ends a migration, has taken its port down before (W15).
                    local.machine.port_disturbed(now);
                }
                (local.unseen, local.is_found_missing, local.is_suspect) = (false, false, false);
                local.replace(endpoint);
                (was_held, transition)
            });
            let (returned, transition) = change.unwrap_or_default();
            if returned {
                self.notices.push(Notice::Returned { endpoint: key.clone() });
            }
            self.note_transition(&key, transition);
        } else {
            let machine = self.remembered.remove(&key).map(|entry| entry.machine.into()).unwrap_or_default();
            self.locals.insert(key.clone(), Local::new(endpoint, machine));
            if self.in_sync_since.is_some() && self.has_aftermath(&key) {
                // It was given up, and is back: what was reported is still there, and the port is out of service.
                self.locals.change(&key, |local| local.machine.port_disturbed(now));
            }
        }
        if self.in_sync_since.is_some() {
            self.assign_role(now, &key);
        }
    }

    pub(super) fn endpoint_removed(&mut self, now: BootTime, key: &EndpointKey) {
        if !self.is_local(key) {
            if self.remotes.remove(key) {
                self.endpoint_removed_elsewhere(now, key);
                if let Some(target) = self.target_from(key) {
                    self.source_removed(now, &target);
                }
            }
            return;
        }
        if self.in_sync_since.is_none() {
            // Whether it is held is decided once the datastore is in sync.
            if let Some(Local { endpoint, machine, .. }) = self.locals.remove(key) {
                let machine = Machine::clone(&machine);
                let withheld = Default::default();
                let new = Remembered { key: key.clone(), endpoint, machine, was_deleted: true, withheld };
                self.remembered.insert(key.clone(), new);
                self.locals.memory_changed();
            }
            return;
        }
        let Some(local) = self.locals.get(key) else { return };
        if local.held_since.is_some() {
            return;
        }
        let has_tap = self.link(&local.endpoint.interface).is_some();
        if has_tap && !local.machine.not_here {
            self.locals.change(key, |local| local.held_since = Some(now));
            self.notices.push(Notice::Held { endpoint: key.clone() });
        } else {
            self.remove_local(now, key);
        }
    }

    /// The endpoint of this host that is, or was last, the target of a migration from `source`.
    pub(super) fn target_from(&self, source: &EndpointKey) -> Option<EndpointKey> {
        // A migration moves a port: both of its sides have the same name on different hosts.
        let here = self.same_port_here(source);
        let comes_from = self.locals.get(&here)?.machine.source.as_ref();
        (comes_from == Some(source)).then_some(here)
    }

    /// The source's endpoint was written again. A failed migration whose own endpoint is already gone needs no
    /// grace: its outcome is known.
    pub(super) fn source_written(&mut self, now: BootTime, key: &EndpointKey) {
        let convergence = self.policy.convergence;
        let transition = self.locals.change(key, |local| local.machine.source_written(now, convergence));
        self.note_transition(key, transition.flatten());
        if self.locals.get(key).is_some_and(|local| local.machine.not_here && local.held_since.is_some()) {
            self.remove_local(now, key);
        }
    }

    pub(super) fn source_removed(&mut self, now: BootTime, key: &EndpointKey) {
        let transition = self.locals.change(key, |local| local.machine.source_removed(now));
        self.note_transition(key, transition.flatten());
    }

    pub(super) fn remove_local(&mut self, now: BootTime, key: &EndpointKey) {
        let Some(mut local) = self.locals.remove(key) else { return };
        let before = local.machine.clone();
        let transition = local.machine.deleted(now);
        if let Some(transition) = transition {
            self.note(key, &before, &local.machine, transition);
        }
        self.notices.push(Notice::Removed { endpoint: key.clone() });
        self.port_changed(now, key);
        self.forget_uninteresting(key);
    }

    pub(super) fn migration_written(&mut self, now: BootTime, name: String, migration: LiveMigration) {
        if self.migrations.get(&name) == Some(&migration) {
            return;
        }
        self.notices.push(Notice::MigrationWritten { name: name.clone(), migration: migration.clone() });
        self.touch_ports(&migration);
        self.call_off(&migration);
        self.departure_goes_on(now, &migration);
        self.departure_begins(now, &migration);
        let uid = migration.uid.clone();
        let mut concerned = self.concerned(&migration);
        if let Some(before) = self.migrations.insert(name, migration) {
            self.touch_ports(&before);
            if before.uid != uid {
                // Written in place of another one, of which nothing is left.
                self.departure_ends(now, &before);
            }
            concerned.extend(self.concerned(&before));
        }
        self.assign_roles(now, concerned);
    }

    pub(super) fn migration_removed(&mut self, now: BootTime, name: &str) {
        let Some(migration) = self.migrations.remove(name) else { return };
        self.notices.push(Notice::MigrationRemoved { name: name.to_owned(), uid: migration.uid.clone() });
        self.touch_ports(&migration);
        self.migration_ended(now, &migration);
        self.departure_ends(now, &migration);
        let concerned = self.concerned(&migration);
        self.assign_roles(now, concerned);
    }

    /// A migration begins, and Nova may wait for its target: nothing is removed, and nothing is written again because of what was
    /// removed before.
    fn call_off(&mut self, migration: &LiveMigration) {
        self.migration_began(migration);
        for side in migration.endpoints() {
            let here = self.same_port_here(side);
            if self.locals.get(&here).is_some_and(|local| local.machine.repeats.is_some()) {
                self.locals.change(&here, |local| local.machine.repeats = None);
            }
        }
    }

    /// What this host has reported about a port may stay only because the port is migrating.
    fn touch_ports(&mut self, migration: &LiveMigration) {
        for endpoint in migration.endpoints() {
            self.locals.touch(self.same_port_here(endpoint));
        }
    }

    /// Whether a migration is about the port of `key`, from whichever host to whichever other.
    pub(super) fn is_migrating(&self, key: &EndpointKey) -> bool {
        self.migrations.values().flat_map(LiveMigration::endpoints).any(|endpoint| endpoint.is_same_port(key))
    }

    /// The endpoint that this host has, would have or has had for a port.
    pub(super) fn same_port_here(&self, endpoint: &EndpointKey) -> EndpointKey {
        EndpointKey { host: self.policy.hostname.clone(), ..endpoint.clone() }
    }

    /// Endpoints of this host whose role a migration can change.
    pub(super) fn concerned(&self, migration: &LiveMigration) -> BTreeSet<EndpointKey> {
        let mut keys = BTreeSet::new();
        match &migration.source {
            Some(MigrationSource::Endpoint(key)) => drop(keys.insert(key.clone())),
            Some(MigrationSource::Workload { host, orchestrator, workload }) => keys.extend(
                self.locals
                    .keys()
                    .filter(|key| {
                        key.host == *host && key.orchestrator == *orchestrator && key.workload == *workload
                    })
                    .map(|key| EndpointKey::clone(key)),
            ),
            None => {}
        }
        match &migration.target {
            Some(MigrationTarget::Endpoint(key)) => drop(keys.insert(key.clone())),
            Some(MigrationTarget::Selector(_)) => {
                keys.extend(self.locals.keys().map(|key| EndpointKey::clone(key)))
            }
            None => {}
        }
        keys
    }

    pub(super) fn assign_roles(&mut self, now: BootTime, keys: BTreeSet<EndpointKey>) {
        if self.in_sync_since.is_some() {
            for key in keys {
                self.assign_role(now, &key);
            }
        }
    }

    /// What is around a machine; `source` is where it comes from if that is not what the machine remembers.
    pub(super) fn sight(&self, now: BootTime, local: &Local, source: Option<&EndpointKey>) -> Sight {
        let source = source.or(local.machine.source.as_ref());
        Sight {
            now,
            convergence: self.policy.convergence,
            source_present: source.is_some_and(|source| self.endpoint_exists(source)),
            source_suppressed: source.is_some_and(|source| self.is_target(source)),
            endpoint_uid: local.endpoint.uid.clone(),
            ifindex: self.ifindex(&local.endpoint.interface),
        }
    }

    /// Whether a migration is heading for an endpoint, wherever it is.
    pub(super) fn is_target(&self, key: &EndpointKey) -> bool {
        let endpoint = |target: &Option<MigrationTarget>| matches!(target, Some(MigrationTarget::Endpoint(target)) if target == key);
        self.migrations.values().any(|migration| endpoint(&migration.target))
    }

    pub(super) fn assign_role(&mut self, now: BootTime, key: &EndpointKey) {
        let Some(local) = self.locals.get(key) else { return };
        let assignment = roles::assign(key, &local.endpoint.labels, self.migrations.values());
        let mut sight = self.sight(now, local, assignment.source.as_ref());
        // It may come back as another one.
        sight.ifindex = sight.ifindex.filter(|_| local.held_since.is_none());
        let source_present = sight.source_present;
        let mut machine = Machine::clone(&local.machine);
        let transition = machine.assign(&assignment, &sight);
        if machine == *local.machine {
            return;
        }
        let (before, after) = (Machine::clone(&local.machine), machine.clone());
        self.locals.change(key, |local| local.machine = machine.into());
        if (assignment.role, &assignment.uid) != (before.role, &before.role_uid) {
            self.notices.push(Notice::RoleEmitted {
                endpoint: key.clone(),
                role: assignment.role,
                uid: match assignment.role {
                    Role::None => before.role_uid,
                    Role::Source | Role::Target => assignment.uid,
                },
            });
        }
        if after.unresolved.is_some() && before.unresolved.is_none() {
            self.notices.push(Notice::Unresolved { endpoint: key.clone(), uid: before.uid, source_present });
        }
        self.note_transition(key, transition);
    }
}
