//! Where a virtual machine leaves.

use super::routed;
use crate::conversation::{SourceSays, TargetSays};
use crate::engine::Engine;
use crate::machine::State;
use crate::memory::Departure;
use crate::model::{EndpointKey, LiveMigration, MigrationSource, MigrationTarget};
use crate::notice::{DepartureRecord, Notice};
use crate::time::BootTime;
use crate::wanted::{HandoverStage, Tunnel, WantedForward};
use core::net::IpAddr;
use core::time::Duration;
use std::sync::Arc;

/// How long a target that says that it is not ready any more is taken to be so all the same.
///
/// LIMIT: an agent that is started anew is ready again within a second or two.
const UNREADY: Duration = Duration::from_secs(5);

/// How long packets are held for a virtual machine that has stopped and announces itself nowhere.
///
/// LIMIT: no downtime is as long; somebody who said that it has stopped and never that it goes on cuts it off for this long.
const HOLD: Duration = Duration::from_secs(60);

impl Departure {
    /// When it counts as one that has not stopped.
    fn hold_ends(&self) -> Option<BootTime> {
        self.stopped_at.filter(|_| !self.is_announced).map(|at| at + HOLD)
    }

    /// When nothing is forwarded any more, if nobody says anything.
    pub(in crate::engine) fn over_at(&self) -> Option<BootTime> {
        self.ends_at.into_iter().chain(self.hold_ends()).min()
    }

    /// Whether nothing is forwarded any more, as far as can be said without the datastore.
    pub(super) fn is_over(&self, now: BootTime) -> bool {
        self.has_resumed || self.over_at().is_some_and(|at| at <= now)
    }

    /// When something happens by itself.
    pub(super) fn deadline(&self) -> Option<BootTime> {
        let is_ready_until = self.is_unready_since.map(|since| since + UNREADY);
        self.ends_at.into_iter().chain(is_ready_until).chain(self.hold_ends()).min()
    }

    /// What becomes of tracked connections. A virtual machine that is known to run on the target does not run here, whatever else
    /// was said.
    pub(super) const fn handover(&self) -> HandoverStage {
        if !self.has_resumed && (self.is_announced || self.stopped_at.is_some()) {
            HandoverStage::Left
        } else {
            HandoverStage::Leaving
        }
    }

    /// The tap whose last frame is of interest. Of a virtual machine that stays here after all it is not.
    pub(super) fn leaving(&self) -> Option<u32> {
        self.tap.filter(|_| self.ends_at.is_none() || !self.has_resumed)
    }

    /// What is said of it where the virtual machine goes.
    pub(super) const fn says(&self) -> SourceSays {
        SourceSays { is_stopped: self.stopped_at.is_some(), is_forwarding: self.started_at.is_some() }
    }

    /// The virtual machine is here as far as anybody has said.
    const fn expect_news(&mut self) {
        (self.stopped_at, self.is_announced, self.has_resumed) = (None, false, false);
        (self.heard_at, self.forwarded_at) = (None, None);
    }

    /// Nothing is forwarded, and there is no way by which it could be.
    pub(super) const fn forget_tunnel(&mut self) {
        (self.tunnel, self.is_ready, self.is_unready_since, self.started_at) = (None, false, None, None);
    }

    /// What the peer said is not so any more.
    const fn forget_peer(&mut self) {
        (self.tunnel, self.is_ready, self.is_announced, self.started_at) = (None, false, false, None);
        self.heard_at = None;
    }

    /// What there is to say when this migration is over here.
    pub(super) fn departed(&self, now: BootTime) -> Notice {
        let record = DepartureRecord {
            uid: self.uid.clone(),
            endpoint: self.endpoint.to_string(),
            to: self.to.to_string(),
            began_at: self.seen_at.unwrap_or(self.began_at),
            stopped_at: self.stopped_at,
            heard_at: self.heard_at,
            forwarded_at: self.forwarded_at,
            last_frame_at: None,
            ended_at: now,
        };
        Notice::Departed { record: Box::new(record), tap: self.tap }
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
        if !self.is_local(from) || self.is_local(to) || migration.uid.is_empty() {
            return;
        }
        self.locals.memory_changed();
        if let Some(departure) = self.hitless.departures.get_mut(from)
            && departure.to == *to
            && (departure.ends_at.is_none() || departure.is_announced)
        {
            // A driver that puts its datastore in order deletes a migration and creates it again. One that has rolled back begins another
            // one, of which nothing has been heard yet: whoever knows more says so at once.
            if departure.uid != migration.uid {
                self.notices.push(departure.departed(now));
                departure.uid.clone_from(&migration.uid);
                departure.seen_at = Some(now);
                departure.expect_news();
            }
            departure.ends_at = None;
            return;
        }
        let departure = Departure {
            endpoint: from.clone(),
            uid: migration.uid.clone(),
            to: to.clone(),
            began_at: now,
            prefixes: Default::default(),
            tap: None,
            tunnel: None,
            is_ready: false,
            is_unready_since: None,
            is_announced: false,
            stopped_at: None,
            has_resumed: false,
            started_at: None,
            ends_at: None,
            seen_at: Some(now),
            heard_at: None,
            forwarded_at: None,
        };
        let before = self.hitless.departures.insert(Arc::new(from.clone()), departure);
        self.notices.extend(before.map(|before| before.departed(now)));
    }

    /// A migration is over. Who has left still gets packets here until every router knows. Who stays does so as soon as the datastore says
    /// that it is not where it was to go.
    pub(in crate::engine) fn departure_ends(&mut self, now: BootTime, migration: &LiveMigration) {
        let Some(MigrationSource::Endpoint(from)) = &migration.source else { return };
        if self.hitless.departures.get(from).is_some_and(|departure| departure.uid == migration.uid) {
            self.departure_over(now, from);
        }
    }

    /// Whether one has gone of which nothing was heard is not known yet: a virtual machine may announce itself nowhere, and is known to run
    /// on the target only now that its migration is over.
    fn departure_over(&mut self, now: BootTime, key: &EndpointKey) {
        let ends_at = now + self.policy.convergence;
        let Some(departure) = self.hitless.departures.get_mut(key) else { return };
        departure.ends_at.get_or_insert(ends_at);
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

    /// The endpoint was written. After the end of a migration that is how a driver brings it back, unless another migration is heading
    /// here by now.
    pub(in crate::engine) fn departure_called_off(&mut self, now: BootTime, key: &EndpointKey) {
        let is_over = self.hitless.departures.get(key).filter(|it| it.ends_at.is_some());
        if is_over.is_some_and(|it| !it.is_announced || !self.is_target(key)) {
            self.end_departure(now, key);
        }
    }

    /// Where it has gone, it is about to go on: what comes here then leads to where it was. One that comes back is forwarded until it is here.
    pub(in crate::engine) fn departure_goes_on(&mut self, now: BootTime, migration: &LiveMigration) {
        let Some(MigrationSource::Endpoint(left)) = &migration.source else { return };
        let here = self.same_port_here(left);
        let comes_back = matches!(&migration.target, Some(MigrationTarget::Endpoint(to)) if *to == here);
        let is_it = |it: &Departure| it.to == *left && it.ends_at.is_some() && !comes_back;
        if self.hitless.departures.get(&here).is_some_and(is_it) {
            self.end_departure(now, &here);
        }
    }

    fn end_departure(&mut self, now: BootTime, key: &EndpointKey) {
        if let Some(departure) = self.hitless.departures.remove(key) {
            self.notices.extend(forward_ended(&departure));
            self.notices.push(departure.departed(now));
            self.locals.touch(key.clone());
            self.locals.memory_changed();
        }
    }

    /// The migration is over, and the datastore has the endpoint here and not where it went: it has not gone, or is back.
    fn has_stayed(&self, key: &EndpointKey, departure: &Departure) -> bool {
        let is_here = self.locals.get(key).is_some_and(|local| local.held_since.is_none() && !local.unseen);
        departure.ends_at.is_some() && is_here && !self.endpoint_exists(&departure.to)
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
            // A target that was started anew gets ready again, and its kernel is so all the time; and the virtual machine is not here. But
            // one that stays like this has nothing to take packets with.
            let is_patient = is_active && departure.tunnel == Some(tunnel) && !says.is_ready;
            departure.is_unready_since = is_patient.then(|| departure.is_unready_since.unwrap_or(now));
            departure.is_ready = says.is_ready || is_patient;
            departure.tunnel = Some(tunnel);
            // A target that was started anew without its memory has not heard it.
            departure.is_announced |= says.is_announced;
            if says.is_announced {
                departure.heard_at.get_or_insert(now);
            }
        }
        if *departure != before {
            self.locals.memory_changed();
        }
    }

    /// The virtual machine has stopped here, or goes on here. Who says that it goes on here is right, whatever was heard from where
    /// it goes.
    pub(in crate::engine) fn machine_stopped(&mut self, now: BootTime, key: &EndpointKey, is_stopped: bool) {
        let Some(departure) = self.hitless.departures.get_mut(key) else { return };
        if is_stopped && departure.ends_at.is_some() {
            // What is over can be called off, and not be begun.
            return;
        }
        let had_gone = departure.is_announced || departure.stopped_at.is_some() || departure.has_resumed;
        departure.stopped_at = is_stopped.then(|| departure.stopped_at.unwrap_or(now));
        // Of one that had not gone an announcement may come later: libvirt says of each machine that it runs when it is heard for the first
        // time. Of one that had, an announcement that comes now is from before.
        departure.has_resumed = !is_stopped && had_gone;
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
        departure.forwarded_at.get_or_insert(at);
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
                    departure.started_at = None;
                    if departure.ends_at.is_some() {
                        self.notices.push(departure.departed(now));
                        return false;
                    }
                    departure.expect_news();
                }
                // An endpoint that is created anew while its virtual machine is gone may be another one by then.
                if departure.ends_at.is_none() && departure.prefixes != *prefixes {
                    departure.prefixes.clone_from(prefixes);
                    has_changed = true;
                }
            }
            let is_over = departure.ends_at.is_some_and(|at| at <= now) || self.has_stayed(key, departure);
            if is_over {
                self.notices.extend(forward_ended(departure));
                self.notices.push(departure.departed(now));
            }
            !is_over
        });
        for (key, departure) in &mut departures {
            // The tap goes with its virtual machine, which may be before the migration is over.
            let tap = self.locals.get(key).and_then(|local| self.ifindex(&local.endpoint.interface));
            if departure.ends_at.is_none() && tap.is_some() && departure.tap != tap {
                departure.tap = tap;
                has_changed = true;
            }
            if departure.is_unready_since.is_some_and(|since| since + UNREADY <= now) {
                (departure.is_ready, departure.is_unready_since) = (false, None);
                has_changed = true;
            }
            if departure.hold_ends().is_some_and(|at| at <= now) {
                departure.stopped_at = None;
                has_changed = true;
                let (endpoint, uid) = (EndpointKey::clone(key), departure.uid.clone());
                self.notices.push(Notice::HoldGivenUp { endpoint, uid });
            }
            if !self.is_active(key, departure) && departure.started_at.is_some() {
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
        self.hitless.departures.get(key).is_some_and(|departure| self.is_active(key, departure))
    }

    /// Whether it has gone, and where it has gone takes what is forwarded.
    fn is_active(&self, key: &EndpointKey, departure: &Departure) -> bool {
        let has_gone = departure.is_announced || (departure.stopped_at.is_some() && self.policy.holds);
        has_gone && self.may_be_active(key, departure)
    }

    /// Whether it would be if it had gone.
    fn may_be_active(&self, key: &EndpointKey, departure: &Departure) -> bool {
        // Where it has gone it has stopped by now, and comes back here.
        let comes_back = self.hitless.arrivals.get(key).is_some_and(|arrival| arrival.stopped_at.is_some());
        let is_taken = departure.tunnel.is_some() && departure.is_ready;
        is_taken && !departure.has_resumed && !comes_back
    }

    /// What is to be forwarded of what comes for an endpoint.
    pub(super) fn forward(&self, key: &EndpointKey, departure: &Departure) -> Option<WantedForward> {
        let tunnel = departure.tunnel?;
        // What another endpoint of this host has by now stays here.
        let is_free =
            |prefix: &ipnet::IpNet| self.prefixes.winner(prefix).is_none_or(|rank| *rank.key == *key);
        let prefixes = routed(&self.policy, &departure.prefixes, tunnel.peer).filter(is_free).collect();
        let is_active = self.is_active(key, departure);
        let awaits_word = !is_active && self.may_be_active(key, departure);
        // What is over can be called off, and not be begun.
        let awaits_stop =
            awaits_word && self.policy.forwards && self.policy.holds && departure.ends_at.is_none();
        Some(WantedForward { tunnel, prefixes, is_active, awaits_word, awaits_stop })
    }
}

/// What there is to say when nothing is forwarded any more.
fn forward_ended(departure: &Departure) -> Option<Notice> {
    let (endpoint, uid) = (departure.endpoint.clone(), departure.uid.clone());
    departure.started_at.map(|_| Notice::ForwardEnded { endpoint, uid })
}
