//! What the kernel says: links come and go, watches are armed, announcements are accepted.

use super::Engine;
use crate::fact::{AnnouncementSeen, Link};
use crate::model::EndpointKey;
use crate::time::BootTime;
use std::sync::Arc;

impl Engine {
    pub(super) fn link_seen(&mut self, link: Link) {
        if let Some(before) = self.links.get(&link.ifindex) {
            if *before == link {
                return;
            }
            let before = before.clone();
            self.touch_link(before.ifindex);
            if self.ifindexes.get(&before.name) == Some(&link.ifindex) {
                self.ifindexes.remove(&before.name);
            }
        }
        let ifindex = link.ifindex;
        self.ifindexes.insert(link.name.clone(), ifindex);
        self.links.insert(ifindex, link);
        self.touch_link(ifindex);
    }

    pub(super) fn link_removed(&mut self, now: BootTime, ifindex: u32) {
        self.touch_link(ifindex);
        let Some(link) = self.links.remove(&ifindex) else { return };
        if self.ifindexes.get(&link.name) == Some(&ifindex) {
            self.ifindexes.remove(&link.name);
        }
        self.configured.remove(&ifindex);
        self.served.remove(&ifindex);
        self.bridges.forget(ifindex);
        if self.ifindexes.contains_key(&link.name) {
            return;
        }
        let orphaned: Vec<Arc<EndpointKey>> = self
            .locals
            .active()
            .filter(|(_, local)| local.held_since.is_some() && local.endpoint.interface == link.name)
            .map(|(key, _)| Arc::clone(key))
            .collect();
        for key in orphaned {
            self.remove_local(now, &key);
        }
    }

    pub(super) fn watch_armed(&mut self, generation: u64, at: Option<BootTime>) {
        if self.in_sync_since.is_none() {
            self.early_armed.insert(generation, at);
            return;
        }
        let Some(key) = self.locals.by_generation(generation) else { return };
        let armed = at.map(|_| generation);
        if self.locals[&key].armed == armed {
            return;
        }
        self.locals.change(&key, |local| {
            local.armed = armed;
            if let Some(at) = at {
                local.machine.phases.armed_at.get_or_insert(at);
            }
        });
    }

    pub(super) fn announcement_seen(&mut self, now: BootTime, seen: AnnouncementSeen) {
        if self.in_sync_since.is_none() {
            self.early.push(seen);
            return;
        }
        let Some(key) = self.locals.by_generation(seen.generation) else {
            // Two tell of an announcement: who looks at the evidence, and the fast path, which has acted on it.
            if let Some(key) = self.locals.known_by_evidence(seen.seen_at) {
                self.locals.change(&key, |local| local.machine.acted_on(&seen));
            }
            return;
        };
        let local = &self.locals[&key];
        if self.ifindex(&local.endpoint.interface) != local.machine.arming.map(|arming| arming.ifindex) {
            // What was on the tap that is gone is gone with it.
            return;
        }
        let sight = self.sight(now, local, None);
        let transition = self.locals.change(&key, |local| local.machine.announced(&seen, &sight));
        self.note_transition(&key, transition.flatten());
        // It may be about to leave again.
        self.assign_role(now, &key);
    }
}
