//! What the kernel says: links come and go, watches are armed, announcements are accepted.

use super::{Engine, Local};
use crate::fact::{AnnouncementSeen, Link};
use crate::model::EndpointKey;
use crate::time::BootTime;

impl Engine {
    pub(super) fn link_seen(&mut self, link: Link) {
        if let Some(before) = self.links.get(&link.ifindex) {
            if *before == link {
                return;
            }
            self.stale |= self.policy.is_workload_interface(&before.name);
            if self.ifindexes.get(&before.name) == Some(&link.ifindex) {
                self.ifindexes.remove(&before.name);
            }
        }
        self.stale |= self.policy.is_workload_interface(&link.name);
        self.ifindexes.insert(link.name.clone(), link.ifindex);
        self.links.insert(link.ifindex, link);
    }

    pub(super) fn link_removed(&mut self, now: BootTime, ifindex: u32) {
        let Some(link) = self.links.remove(&ifindex) else { return };
        if self.ifindexes.get(&link.name) == Some(&ifindex) {
            self.ifindexes.remove(&link.name);
        }
        self.configured.remove(&ifindex);
        self.served.remove(&ifindex);
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

    pub(super) fn by_generation(&mut self, generation: u64) -> Option<(EndpointKey, &mut Local)> {
        self.locals
            .iter_mut()
            .find(|(_, local)| local.machine.arming.is_some_and(|arming| arming.generation == generation))
            .map(|(key, local)| (key.clone(), local))
    }

    pub(super) fn watch_armed(&mut self, generation: u64, at: Option<BootTime>) {
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

    pub(super) fn announcement_seen(&mut self, now: BootTime, seen: AnnouncementSeen) {
        if self.in_sync_since.is_none() {
            self.early.push(seen);
            return;
        }
        let convergence = self.policy.convergence;
        let Some((key, local)) = self.by_generation(seen.generation) else { return };
        let Local { endpoint, machine, .. } = local;
        let watched = machine.arming.map(|arming| arming.ifindex);
        let interface = endpoint.interface.clone();
        if self.ifindex(&interface) != watched {
            // What was on the tap that is gone is gone with it.
            return;
        }
        let Some(local) = self.locals.get_mut(&key) else { return };
        let transition = local.machine.announced(&seen, now, convergence);
        self.note_transition(&key, transition);
    }
}
