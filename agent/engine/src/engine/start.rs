//! The moment at which the datastore is in sync: what was remembered, what was found in the kernel and what the
//! datastore shows become one picture.

use super::{Engine, Local};
use crate::fact::AnnouncementSeen;
use crate::machine::State;
use crate::model::{Endpoint, EndpointKey};
use crate::notice::Notice;
use crate::time::BootTime;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

impl Engine {
    pub(super) fn in_sync(&mut self, now: BootTime, complete: bool) {
        let was_complete = core::mem::replace(&mut self.complete, complete);
        if self.in_sync_since.is_some() {
            if complete && !was_complete {
                self.hold_unseen_anew(now);
            }
            return;
        }
        self.in_sync_since = Some(now);
        self.hold_remembered(now);
        self.departures_in_sync(now);
        self.forget_used_watches();
        let keys: BTreeSet<_> = self.locals.keys().cloned().collect();
        let is_idle = |key: &&Arc<EndpointKey>| self.locals[*key].machine.is_idle();
        let idle: Vec<_> = keys.iter().filter(is_idle).cloned().collect();
        for key in &keys {
            self.assign_role(now, key);
        }
        // ORDER: what was seen on the tap weighs more than what is inferred, and than what the source does.
        self.keep_armings(now, &keys);
        for (generation, at) in core::mem::take(&mut self.early_armed) {
            self.watch_armed(generation, at);
        }
        for seen in core::mem::take(&mut self.early) {
            self.announcement_seen(now, seen);
        }
        for key in &idle {
            self.infer_arrived(now, key);
        }
        for key in &keys {
            self.compare_source(now, key);
        }
        // Who died a moment after a migration may have missed what the driver did to the port then.
        for key in keys.iter().filter(|key| self.has_aftermath(key)).cloned().collect::<Vec<_>>() {
            self.locals.change(&key, |local| local.machine.port_disturbed(now));
        }
    }

    /// What became of the source of an unresolved migration while nobody was looking.
    pub(super) fn compare_source(&mut self, now: BootTime, key: &EndpointKey) {
        let Some(Local { machine, .. }) = self.locals.get(key) else { return };
        let Some(unresolved) = machine.unresolved else { return };
        let present = machine.source.as_ref().is_some_and(|source| self.endpoint_exists(source));
        if !present {
            self.source_removed(now, key);
        } else if unresolved.source_absent_since.is_some() {
            self.source_written(now, key);
        }
    }

    /// Endpoints with a memory that the datastore does not show are held as if they had vanished just now:
    /// the agent may have been started in the gap that a driver leaves (W33).
    pub(super) fn hold_remembered(&mut self, now: BootTime) {
        for (key, entry) in core::mem::take(&mut self.remembered) {
            self.locals.memory_changed();
            if !self.is_local(&key) {
                continue;
            }
            let has_tap = self.link(&entry.endpoint.interface).is_some();
            let new = Local::new(entry.endpoint, entry.machine.into());
            let local =
                Local { held_since: Some(now), unseen: true, is_found_missing: !entry.was_deleted, ..new };
            self.locals.insert(key.clone(), local);
            if has_tap || !self.complete {
                self.notices.push(Notice::Held { endpoint: key });
            } else {
                self.remove_local(now, &key);
            }
        }
    }

    /// Everything can be read now: what is still not there has vanished just now, as far as anybody can tell.
    fn hold_unseen_anew(&mut self, now: BootTime) {
        let unseen = self.locals.active().filter(|(_, local)| local.unseen);
        let unseen: Vec<_> = unseen.map(|(key, _)| Arc::clone(key)).collect();
        for key in unseen {
            self.locals.change(&key, |local| local.held_since = Some(now));
        }
    }

    /// A watch of an attempt that is decided is left over: the next attempt to the same tap needs another one, or it would
    /// take what was announced in the one before for its own. Only one that was made later, for an attempt which nobody could save, is
    /// none of those.
    fn forget_used_watches(&mut self) {
        let decided = self.locals.remembered().filter(|(_, local)| local.machine.state != State::Target);
        let decided: BTreeMap<u32, BootTime> = decided
            .filter_map(|(_, local)| {
                Some((self.ifindex(&local.endpoint.interface)?, local.machine.phases.latest()?))
            })
            .collect();
        let is_used =
            |ifindex: &u32, generation: u64| decided.get(ifindex).is_some_and(|at| generation <= at.0);
        self.found.watches.retain(|ifindex, (generation, _)| !is_used(ifindex, *generation));
    }

    /// On a tap there are no routes but those of its endpoint; on a bridge there are others' as well.
    fn found_elevated(&self, ifindex: u32, endpoint: &Endpoint) -> bool {
        let outlet = self.outlet_of(ifindex);
        self.found.routes.iter().any(|route| {
            let elevated = self.policy.priorities(route.destination.addr()).elevated;
            let is_its_own = outlet == ifindex
                || endpoint.prefixes.iter().any(|prefix| prefix.trunc() == route.destination);
            is_its_own
                && (route.ifindex, route.metric, route.protocol)
                    == (outlet, elevated, self.policy.route_protocol)
        })
    }

    /// Without a memory, a route at elevated priority says that the virtual machine runs here (W3): still in its migration, or
    /// the network may be converging after it.
    ///
    /// In the second case it has to be there: a host that it has left is normal at once, and may have died before it was.
    pub(super) fn infer_arrived(&mut self, now: BootTime, key: &EndpointKey) {
        let Some(local) = self.locals.get(key) else { return };
        let ifindex = self.ifindex(&local.endpoint.interface);
        if !ifindex.is_some_and(|ifindex| self.found_elevated(ifindex, &local.endpoint)) {
            return;
        }
        if local.machine.state != State::Target {
            let is_open = self.link(&local.endpoint.interface).is_some_and(|link| link.running);
            if !is_open {
                return;
            }
            let convergence = self.policy.convergence;
            let transition = self.locals.change(key, |local| local.machine.found_elevated(now, convergence));
            self.note_transition(key, transition.flatten());
            return;
        }
        let seen = AnnouncementSeen {
            generation: 0,
            kind: cutover_common::AnnouncementKind::Rarp,
            seen_at: now,
            taken_at: None,
            routed_at: None,
        };
        let sight = self.sight(now, local, None);
        let transition = self.locals.change(key, |local| {
            let transition = local.machine.announced(&seen, &sight);
            local.machine.phases.announced_at = None;
            local.machine.phases.kind = None;
            transition
        });
        self.note_transition(key, transition.flatten());
    }
}
