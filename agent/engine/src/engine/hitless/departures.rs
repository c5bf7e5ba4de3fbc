//! Where a virtual machine leaves.

use super::routed;
use crate::conversation::{SourceSays, TargetSays};
use crate::engine::Engine;
use crate::machine::State;
use crate::memory::Departure;
use crate::model::{EndpointKey, LiveMigration, MigrationSource, MigrationTarget};
use crate::notice::Notice;
use crate::time::BootTime;
use crate::wanted::{Tunnel, WantedForward};
use core::net::IpAddr;
use std::sync::Arc;

impl Departure {
    /// What is said of it where the virtual machine goes.
    pub(super) const fn says(&self) -> SourceSays {
        SourceSays { is_stopped: self.is_stopped, is_forwarding: self.started_at.is_some() }
    }

    /// What the peer said is not so any more.
    const fn forget_peer(&mut self) {
        (self.tunnel, self.is_ready, self.is_announced, self.started_at) = (None, false, false, None);
    }
}

impl Engine {
    /// A migration was written: its virtual machine may be about to leave.
    pub(in crate::engine) fn departure_begins(&mut self, now: BootTime, migration: &LiveMigration) {
        let (Some(MigrationSource::Endpoint(from)), Some(MigrationTarget::Endpoint(to))) =
            (&migration.source, &migration.target)
        else {
            return;
        };
        if !self.policy.forwards || !self.is_local(from) || self.is_local(to) || migration.uid.is_empty() {
            return;
        }
        self.locals.memory_changed();
        if let Some(departure) = self.hitless.departures.get_mut(from)
            && departure.to == *to
            && (departure.ends_at.is_none() || departure.is_announced)
        {
            // A driver that puts its datastore in order deletes a migration and creates it again.
            departure.uid.clone_from(&migration.uid);
            departure.ends_at = None;
            return;
        }
        let departure = Departure {
            endpoint: from.clone(),
            uid: migration.uid.clone(),
            to: to.clone(),
            began_at: now,
            prefixes: Default::default(),
            tunnel: None,
            is_ready: false,
            is_announced: false,
            is_stopped: false,
            started_at: None,
            ends_at: None,
        };
        self.hitless.departures.insert(Arc::new(from.clone()), departure);
    }

    /// A migration is over. Who has left still gets packets here until every router knows; who has not stays.
    pub(in crate::engine) fn departure_ends(&mut self, now: BootTime, migration: &LiveMigration) {
        let Some(MigrationSource::Endpoint(from)) = &migration.source else { return };
        if self.hitless.departures.get(from).is_some_and(|departure| departure.uid == migration.uid) {
            self.departure_over(now, from);
        }
    }

    fn departure_over(&mut self, now: BootTime, key: &EndpointKey) {
        let ends_at = now + self.policy.convergence;
        let Some(departure) = self.hitless.departures.get_mut(key) else { return };
        if departure.is_announced || departure.is_stopped {
            departure.ends_at.get_or_insert(ends_at);
        } else {
            self.hitless.departures.remove(key);
        }
        self.locals.memory_changed();
    }

    /// The datastore is in sync: what ended while nobody was looking has ended.
    pub(in crate::engine) fn departures_in_sync(&mut self, now: BootTime) {
        let is_known = |uid: &str| self.migrations.values().any(|migration| migration.uid == uid);
        let open = self.hitless.departures.values().filter(|it| it.ends_at.is_none() && !is_known(&it.uid));
        for departure in open.cloned().collect::<Vec<_>>() {
            self.departure_over(now, &departure.endpoint);
        }
    }

    /// The endpoint was written: after the end of a migration whose virtual machine never announced itself, that is how a driver
    /// brings it back.
    pub(in crate::engine) fn departure_called_off(&mut self, key: &EndpointKey) {
        let is_back =
            self.hitless.departures.get(key).is_some_and(|it| it.ends_at.is_some() && !it.is_announced);
        if is_back {
            self.hitless.departures.remove(key);
            self.locals.memory_changed();
        }
    }

    /// Where it goes, things stand like this.
    pub(super) fn target_said(
        &mut self,
        now: BootTime,
        key: &EndpointKey,
        uid: &str,
        peer: IpAddr,
        says: TargetSays,
    ) {
        let is_active = self.is_forwarded(key);
        let Some(departure) = self.hitless.departures.get_mut(key).filter(|it| it.uid == uid) else { return };
        let before = departure.clone();
        if says.has_failed {
            departure.forget_peer();
            // Nothing was heard of how the migration ended; it is over here as well, or will be.
            if departure.ends_at.is_some() {
                departure.ends_at = Some(now);
            }
        } else if (1..1 << 24).contains(&says.tunnel_id) {
            let tunnel = Tunnel { id: says.tunnel_id, peer };
            // A target that was started anew gets ready again, and its kernel is so all the time. The virtual machine is not here anyway.
            let stays = is_active && departure.tunnel == Some(tunnel);
            departure.is_ready = says.is_ready || (stays && departure.is_ready);
            departure.tunnel = Some(tunnel);
            // A target that was started anew without its memory has not heard it.
            departure.is_announced |= says.is_announced;
        }
        if *departure != before {
            self.locals.memory_changed();
        }
    }

    /// The virtual machine has stopped here, or goes on here.
    pub(in crate::engine) fn machine_stopped(&mut self, key: &EndpointKey, is_stopped: bool) {
        let Some(departure) = self.hitless.departures.get_mut(key) else { return };
        if departure.is_stopped == is_stopped {
            return;
        }
        departure.is_stopped = is_stopped;
        if !is_stopped {
            // Whatever was heard from where it goes: it runs here.
            departure.is_announced = false;
        }
        self.locals.memory_changed();
    }

    /// Forwarding has begun.
    pub(in crate::engine) fn forward_started(&mut self, key: &EndpointKey, tunnel_id: u32, at: BootTime) {
        let Some(departure) = self.hitless.departures.get_mut(key) else { return };
        let is_it = departure.tunnel.is_some_and(|tunnel| tunnel.id == tunnel_id);
        if !is_it || departure.started_at.is_some() {
            return;
        }
        departure.started_at = Some(at);
        self.notices.push(Notice::ForwardStarted {
            endpoint: key.clone(),
            to: departure.to.clone(),
            uid: departure.uid.clone(),
            is_held: !departure.is_announced,
        });
        self.locals.memory_changed();
    }

    pub(super) fn keep_departures(&mut self, now: BootTime) {
        let mut departures = core::mem::take(&mut self.hitless.departures);
        let before = departures.len();
        let mut has_changed = false;
        departures.retain(|key, departure| {
            if let Some(local) = self.locals.get(key) {
                let machine = &local.machine;
                let came_back = matches!(machine.state, State::Live | State::TimeWait)
                    && machine.phases.targeted_at.is_some_and(|at| at > departure.began_at);
                let prefixes = &local.endpoint.prefixes;
                if came_back {
                    // It may be about to leave again, as long as there is a migration that says so.
                    self.notices.extend(forward_ended(departure));
                    departure.forget_peer();
                    departure.is_stopped = false;
                    if departure.ends_at.is_some() {
                        return false;
                    }
                }
                // An endpoint that is created anew while its virtual machine is gone may be another one by then.
                if departure.ends_at.is_none() && departure.prefixes != *prefixes {
                    departure.prefixes.clone_from(prefixes);
                    has_changed = true;
                }
            }
            let is_over = departure.ends_at.is_some_and(|at| at <= now);
            if is_over {
                self.notices.extend(forward_ended(departure));
            }
            !is_over
        });
        for (key, departure) in &mut departures {
            let is_active = self.forward(key, departure).is_some_and(|forward| forward.is_active);
            if !is_active && departure.started_at.is_some() {
                self.notices.extend(forward_ended(departure));
                departure.started_at = None;
                has_changed = true;
            }
        }
        if has_changed || departures.len() != before {
            self.locals.memory_changed();
        }
        self.hitless.departures = departures;
        self.touch_forwarded();
    }

    /// A watch on a tap to which a virtual machine comes back ends what is forwarded.
    fn touch_forwarded(&mut self) {
        let is_active = |key: &Arc<EndpointKey>| self.is_forwarded(key);
        let was_active =
            |key: &Arc<EndpointKey>| self.wanted.forwards.get(key).is_some_and(|it| it.is_active);
        let known = self.wanted.forwards.keys().chain(self.hitless.departures.keys());
        let changed: Vec<_> = known.filter(|key| is_active(key) != was_active(key)).cloned().collect();
        for key in changed {
            self.locals.touch(EndpointKey::clone(&key));
        }
    }

    /// Whether what still comes for an endpoint is forwarded.
    pub(in crate::engine) fn is_forwarded(&self, key: &EndpointKey) -> bool {
        let forward = |departure| self.forward(key, departure);
        self.hitless.departures.get(key).and_then(forward).is_some_and(|forward| forward.is_active)
    }

    /// What is to be forwarded of what comes for an endpoint.
    pub(super) fn forward(&self, key: &EndpointKey, departure: &Departure) -> Option<WantedForward> {
        let tunnel = departure.tunnel?;
        // What another endpoint of this host has by now stays here.
        let is_free =
            |prefix: &ipnet::IpNet| self.prefixes.winner(prefix).is_none_or(|rank| *rank.key == *key);
        let prefixes = routed(&self.policy, &departure.prefixes).filter(is_free).collect();
        let has_gone = departure.is_announced || (departure.is_stopped && self.policy.holds);
        Some(WantedForward { tunnel, prefixes, is_active: has_gone && departure.is_ready })
    }
}

/// What there is to say when nothing is forwarded any more.
fn forward_ended(departure: &Departure) -> Option<Notice> {
    let (endpoint, uid) = (departure.endpoint.clone(), departure.uid.clone());
    departure.started_at.map(|_| Notice::ForwardEnded { endpoint, uid })
}
