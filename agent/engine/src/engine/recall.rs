//! Before the datastore is in sync: what the memory of the last life is enough for.
//!
//! An agent that is started while its datastore is away knows from its memory who is expected here. That is enough to go on
//! listening on their taps and to believe what is announced there. It is not enough for anything else: whoever is not in
//! the memory may be somebody all the same, and whoever is in it may have gone. So nothing is wanted but what an announcement says, nothing is
//! given up, and no time runs out: not even the elevated priority ends, although that could be done without a gap, so that no route is taken
//! away, whatever the memory says. Only what is forwarded is forwarded no longer than the memory says: the target takes nothing
//! for it afterwards, and what still comes here would be lost. Owns the wanted sets until the datastore is in sync.

use super::Engine;
use super::locals::Local;
use super::wants;
use crate::fact::AnnouncementSeen;
use crate::machine::{Machine, Sight, State};
use crate::memory::Remembered;
use crate::model::EndpointKey;
use crate::notice::Notice;
use crate::roles::Role;
use crate::time::BootTime;
use crate::view::{EndpointView, RecallView};
use crate::wanted::{Wanted, WantedRoute};
use std::collections::BTreeSet;

impl Engine {
    /// Works with the memory of the last life until the datastore is in sync. Only for settings that are known to be what
    /// they will be then: they say which routes are ours and what is installed.
    #[must_use]
    pub fn recalling(mut self) -> Self {
        self.recalls = !self.remembered.is_empty() || !self.hitless.departures.is_empty();
        self
    }

    /// What is worked with at the moment; nothing once the datastore is in sync.
    #[must_use]
    pub fn recall_view(&self) -> Option<RecallView> {
        let is_recalled = self.in_sync_since.is_none() && self.wanted.is_recalled;
        is_recalled.then(|| RecallView {
            endpoints: self.remembered.keys().filter(|key| self.is_local(key)).count(),
            watched: self.wanted.watches.len(),
        })
    }

    /// Brings the wanted sets up to date. Returns whether they changed.
    pub(super) fn recall(&mut self, now: BootTime) -> bool {
        self.recalls_since.get_or_insert(now);
        self.recalled_at = Some(now);
        self.arm_remembered(now);
        self.take_early(now);
        let wanted = self.recalled(now);
        let has_changed = wanted != self.wanted;
        if has_changed {
            self.wanted = wanted;
        }
        has_changed
    }

    /// A tap that came, or came anew, since the last life is listened to as well. One that is not there keeps what it had until
    /// the datastore says who is there.
    fn arm_remembered(&mut self, now: BootTime) {
        let mut remembered = core::mem::take(&mut self.remembered);
        for (key, entry) in &mut remembered {
            let Some(ifindex) = self.recalled_tap(key, entry) else { continue };
            let is_armed = entry.machine.arming.is_some_and(|arming| arming.ifindex == ifindex);
            if entry.machine.state == State::Target && !is_armed {
                entry.machine.arming = Some(self.arming(now, ifindex, entry.endpoint.mac));
                self.locals.memory_changed();
            }
        }
        self.remembered = remembered;
    }

    /// Announcements that nobody is known for may be about endpoints that only the datastore knows.
    fn take_early(&mut self, now: BootTime) {
        for seen in core::mem::take(&mut self.early) {
            if !self.is_about_remembered(now, &seen) {
                self.early.push(seen);
            }
        }
    }

    fn is_about_remembered(&mut self, now: BootTime, seen: &AnnouncementSeen) -> bool {
        let is_watched = |(key, entry): &(&EndpointKey, &Remembered)| {
            let arming = entry.machine.arming.filter(|arming| arming.generation == seen.generation);
            arming.is_some_and(|arming| self.recalled_tap(key, entry) == Some(arming.ifindex))
        };
        if let Some((key, _)) = self.remembered.iter().find(is_watched) {
            let key = key.clone();
            self.remembered_announced(now, &key, seen);
            return true;
        }
        let is_known = |entry: &&mut Remembered| entry.machine.is_known_by_evidence(seen.seen_at);
        let Some(entry) = self.remembered.values_mut().find(is_known) else { return false };
        entry.machine.acted_on(seen);
        self.locals.memory_changed();
        true
    }

    fn remembered_announced(&mut self, now: BootTime, key: &EndpointKey, seen: &AnnouncementSeen) {
        let convergence = self.policy.convergence;
        let Some(entry) = self.remembered.get_mut(key) else { return };
        let sight = Sight {
            now,
            convergence,
            endpoint_uid: entry.endpoint.uid.clone(),
            ifindex: entry.machine.arming.map(|arming| arming.ifindex),
            ..Sight::default()
        };
        if let Some(transition) = entry.machine.announced(seen, &sight) {
            self.notices.push(Notice::Transition { endpoint: key.clone(), transition });
            self.locals.memory_changed();
        }
    }

    /// The tap of a remembered endpoint, if it exists and is nobody else's.
    fn recalled_tap(&self, key: &EndpointKey, entry: &Remembered) -> Option<u32> {
        let endpoint = &entry.endpoint;
        let has_any = endpoint.prefixes.iter().any(|prefix| !entry.withheld.contains(&prefix.trunc()));
        self.ifindex(&endpoint.interface).filter(|_| self.is_local(key) && has_any)
    }

    fn recalled(&self, now: BootTime) -> Wanted {
        let forwards_over = self.forwards_over(now).into_iter().collect();
        let mut wanted = Wanted { is_recalled: true, forwards_over, ..Wanted::default() };
        // Who comes first, as when the datastore is in sync.
        let mut ranked: Vec<_> = self.remembered.iter().collect();
        ranked.sort_by_key(|(key, entry)| (entry.was_deleted, *key));
        let mut taken = BTreeSet::new();
        for (key, entry) in ranked {
            let Some(ifindex) = self.recalled_tap(key, entry) else { continue };
            let (endpoint, machine) = (&entry.endpoint, &entry.machine);
            // What somebody has who comes first would not be wanted after the announcement either.
            let is_granted = |route: &WantedRoute| !entry.withheld.contains(&route.destination);
            if let Some(arming) = machine.arming.filter(|arming| arming.ifindex == ifindex) {
                let is_open = machine.unresolved.is_some();
                let outlet = self.outlet_of(ifindex);
                let mut watch = wants::watch(&self.policy, endpoint, arming, outlet, is_open);
                watch.routes.retain(|route| is_granted(route) && !taken.contains(&route.destination));
                // What the last life forwarded, it may forward still.
                watch.ends_forwarding = self.hitless.departures.contains_key(key);
                wanted.watches.insert(ifindex, watch);
            }
            let tap = &self.links[&ifindex];
            let outlet = self.outlet(tap);
            let is_up = tap.admin_up && outlet.admin_up;
            let is_here = self.was_heard(machine) || self.may_be_here(machine, ifindex, now);
            if !(is_up && is_here && is_known_on(machine, ifindex)) {
                continue;
            }
            for route in wants::routes(&self.policy, endpoint, outlet.ifindex, true).filter(is_granted) {
                if !self.found_normal(&route) && taken.insert(route.destination) {
                    wanted.routes.insert(route);
                }
            }
        }
        wanted
    }

    /// Whether it announced itself since this agent was started.
    fn was_heard(&self, machine: &Machine) -> bool {
        machine.phases.announced_at.is_some_and(|at| self.recalls_since.is_some_and(|since| at >= since))
    }

    /// Whether what is older can still be so. A machine that has gone on has left a tap without a carrier, if any; and an elevated priority that
    /// is over is not begun anew.
    fn may_be_here(&self, machine: &Machine, ifindex: u32, now: BootTime) -> bool {
        let is_open = self.links.get(&ifindex).is_some_and(|link| link.running);
        is_open && machine.elevated_until.is_none_or(|until| now < until)
    }

    /// The last life had made it normal again, and could not write that down.
    fn found_normal(&self, elevated: &WantedRoute) -> bool {
        let metric = self.policy.priorities(elevated.destination.addr()).normal;
        self.found.routes.contains(&WantedRoute { metric, ..*elevated })
    }

    pub(super) fn recalled_views(&self, now: BootTime) -> impl Iterator<Item = EndpointView> {
        let remembered = self.remembered.iter().filter(|(key, _)| self.recalls && self.is_local(key));
        remembered.map(move |(key, entry)| {
            let mut local = Local::new(entry.endpoint.clone(), entry.machine.clone().into());
            let armed = |generation: &u64| self.early_armed.get(generation).is_some_and(Option::is_some);
            local.armed = entry.machine.arming.map(|arming| arming.generation).filter(armed);
            EndpointView { from_memory: true, ..self.view_of(key, &local, now) }
        })
    }
}

/// Whether a virtual machine has announced itself on this very tap, and is not about to leave again.
fn is_known_on(machine: &Machine, ifindex: u32) -> bool {
    let is_leaving = machine.is_leaving || machine.role == Role::Source;
    machine.elevated() == Some(true)
        && !is_leaving
        && machine.here.as_ref().is_some_and(|here| here.ifindex == ifindex)
}
