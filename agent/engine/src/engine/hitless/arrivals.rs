//! Where a virtual machine goes.

use super::routed;
use crate::conversation::{SourceSays, TargetSays};
use crate::engine::Engine;
use crate::machine::{Machine, State};
use crate::memory::Arrival;
use crate::model::EndpointKey;
use crate::roles::Role;
use crate::time::BootTime;
use crate::wanted::{HandoverStage, Tunnel, WantedReception};
use core::net::IpAddr;
use core::time::Duration;
use std::collections::BTreeSet;
use std::sync::Arc;

/// How long the peer is told that a migration has failed.
///
/// LIMIT: a peer that does not hear it by then is away, and sees the end of the migration in the datastore.
pub(super) const FAREWELL: Duration = Duration::from_secs(5);

/// What becomes of an arrival.
enum Course {
    /// A virtual machine is expected, or has come, in this migration, from there.
    Open { uid: String, from: EndpointKey, is_here: bool },
    /// It has come, and every router knows.
    Over,
    /// It has come, and is about to leave again: what was sent to it through the tunnel may still come.
    LeavesAgain,
    /// It is not here.
    Failed,
}

impl Arrival {
    /// What becomes of tracked connections.
    pub(super) const fn handover(&self) -> HandoverStage {
        match self {
            Self { has_failed: true, .. } => HandoverStage::Failed,
            Self { is_announced: true, .. } => HandoverStage::Arrived,
            _ => HandoverStage::Expected,
        }
    }

    /// What is said of it where the virtual machine leaves.
    pub(super) const fn says(&self) -> TargetSays {
        TargetSays {
            tunnel_id: self.tunnel_id,
            is_ready: self.is_ready,
            is_announced: self.is_announced && !self.has_failed,
            has_failed: self.has_failed,
        }
    }
}

impl Engine {
    /// Where it leaves, things stand like this.
    pub(super) fn source_said(
        &mut self,
        now: BootTime,
        key: &EndpointKey,
        uid: &str,
        peer: IpAddr,
        says: SourceSays,
    ) {
        let Some(arrival) = self.hitless.arrivals.get_mut(key).filter(|it| it.uid == uid) else { return };
        let before = arrival.clone();
        if arrival.peer != Some(peer) {
            (arrival.peer, arrival.is_ready) = (Some(peer), false);
        }
        arrival.stopped_at = says.is_stopped.then(|| arrival.stopped_at.unwrap_or(now));
        arrival.forwarded_at = says.is_forwarding.then(|| arrival.forwarded_at.unwrap_or(now));
        if *arrival == before {
            return;
        }
        let (stopped_at, forwarded_at) = (arrival.stopped_at, arrival.forwarded_at);
        self.locals.change(key, |local| {
            if local.machine.uid == uid {
                local.machine.phases.stopped_at = stopped_at;
                // The first time is what counts.
                let phase = &mut local.machine.phases.forwarded_at;
                *phase = phase.or(forwarded_at);
            }
        });
        self.locals.memory_changed();
    }

    /// When the last frame came where it has left. The best of what was said counts.
    pub(in crate::engine) fn last_frame_told(
        &mut self,
        key: &EndpointKey,
        uid: &str,
        at: BootTime,
        error_ns: u64,
    ) {
        let mut is_news = false;
        self.locals.change(key, |local| {
            let machine = &mut local.machine;
            if machine.uid == uid && machine.phases.ended_at.is_none() {
                let phases = &mut machine.phases;
                is_news = phases.last_frame_error_ns.is_none_or(|before| error_ns < before);
                if is_news {
                    (phases.last_frame_at, phases.last_frame_error_ns) = (Some(at), Some(error_ns));
                }
            }
        });
        if is_news {
            self.locals.memory_changed();
        }
    }

    /// What comes out of the tunnel reaches the tap, or does not any more.
    pub(in crate::engine) fn reception_ready(&mut self, key: &EndpointKey, tunnel_id: u32, is_ready: bool) {
        if let Some(arrival) = self.hitless.arrivals.get_mut(key).filter(|it| it.tunnel_id == tunnel_id) {
            arrival.is_ready = is_ready;
        }
    }

    /// The tracked connections that the source knows were made here.
    pub(in crate::engine) fn connections_made(
        &mut self,
        key: &EndpointKey,
        uid: &str,
        count: usize,
        at: BootTime,
    ) {
        let arrival = self.hitless.arrivals.get_mut(key).filter(|it| it.uid == uid);
        let mut is_news = arrival.is_some_and(|it| !std::mem::replace(&mut it.has_connections, true));
        self.locals.change(key, |local| {
            if local.machine.uid == uid && local.machine.phases.ended_at.is_none() {
                let phases = &mut local.machine.phases;
                let before = *phases;
                phases.handed_over_at.get_or_insert(at);
                phases.connections = u32::try_from(count).ok();
                is_news |= *phases != before;
            }
        });
        if is_news {
            self.locals.memory_changed();
        }
    }

    pub(super) fn keep_arrivals(&mut self, now: BootTime) {
        let active = self.locals.active().filter(|(_, local)| local.machine.state != State::Base);
        let active = active.filter(|_| self.policy.forwards);
        let mut keys: BTreeSet<Arc<EndpointKey>> = active.map(|(key, _)| Arc::clone(key)).collect();
        keys.extend(self.hitless.arrivals.keys().cloned());
        for key in keys {
            self.keep_arrival(now, &key);
        }
    }

    fn keep_arrival(&mut self, now: BootTime, key: &Arc<EndpointKey>) {
        if !self.policy.forwards {
            return self.expire_arrival(now, key);
        }
        let course = self.course(key);
        let arrival = self.hitless.arrivals.get_mut(key);
        match (course, arrival) {
            (Some(Course::Open { uid, from, is_here }), Some(arrival))
                if arrival.from == from && arrival.ends_at.is_none() =>
            {
                let is_news = arrival.uid != uid || arrival.is_announced != is_here;
                (arrival.uid, arrival.is_announced) = (uid, is_here);
                if is_news {
                    self.locals.memory_changed();
                }
            }
            (Some(Course::Open { uid, from, is_here }), _) => {
                self.arrival_begins(now, key, (uid, from), is_here);
            }
            (Some(Course::Over), Some(_)) => {
                self.hitless.arrivals.remove(key);
                self.locals.memory_changed();
            }
            (Some(Course::LeavesAgain), Some(arrival)) if arrival.is_announced => {
                if arrival.ends_at.is_some() {
                    return self.expire_arrival(now, key);
                }
                arrival.ends_at = Some(now + self.policy.convergence);
                self.locals.memory_changed();
            }
            (Some(Course::Failed | Course::LeavesAgain), Some(arrival)) if !arrival.has_failed => {
                (arrival.has_failed, arrival.ends_at) = (true, Some(now + FAREWELL));
                self.locals.memory_changed();
            }
            _ => {}
        }
        self.expire_arrival(now, key);
    }

    fn expire_arrival(&mut self, now: BootTime, key: &EndpointKey) {
        if self.hitless.arrivals.get(key).and_then(|it| it.ends_at).is_some_and(|at| at <= now) {
            self.hitless.arrivals.remove(key);
            self.locals.memory_changed();
        }
    }

    fn arrival_begins(
        &mut self,
        now: BootTime,
        key: &Arc<EndpointKey>,
        (uid, from): (String, EndpointKey),
        is_announced: bool,
    ) {
        let arrival = Arrival {
            endpoint: EndpointKey::clone(key),
            uid,
            from,
            began_at: now,
            prefixes: BTreeSet::new(),
            has_connections: false,
            tunnel_id: self.draw_tunnel(),
            peer: None,
            is_ready: false,
            stopped_at: None,
            forwarded_at: None,
            is_announced,
            has_failed: false,
            ends_at: None,
        };
        self.hitless.arrivals.insert(Arc::clone(key), arrival);
        self.locals.memory_changed();
    }

    /// Nothing if nothing is known of a migration to here.
    fn course(&self, key: &EndpointKey) -> Option<Course> {
        let Some(local) = self.locals.get(key) else { return Some(Course::Failed) };
        let Machine { state, role, uid, source, not_here, .. } = &*local.machine;
        if *state != State::Base {
            let from = source.as_ref().filter(|from| !self.is_local(from) && !uid.is_empty());
            let is_here = *state != State::Target;
            return from.map(|from| Course::Open { uid: uid.clone(), from: from.clone(), is_here });
        }
        Some(match role {
            _ if *not_here => Course::Failed,
            Role::Source => Course::LeavesAgain,
            Role::None | Role::Target => Course::Over,
        })
    }

    /// What is to be taken from the tunnel.
    pub(super) fn reception(&self, key: &EndpointKey, arrival: &Arrival) -> Option<WantedReception> {
        let peer = arrival.peer.filter(|_| !arrival.has_failed)?;
        let endpoint = &self.locals.get(key)?.endpoint;
        let ifindex = self.ifindex(&endpoint.interface)?;
        // What somebody has who comes first is none of this endpoint's.
        let rank = self.locals.rank(&Arc::new(key.clone()))?;
        if self.locals.interfaces.winner(&endpoint.interface).is_some_and(|winner| *winner != rank) {
            return None;
        }
        let is_free =
            |prefix: &ipnet::IpNet| self.prefixes.winner(prefix).is_none_or(|winner| *winner >= rank);
        let prefixes = routed(&self.policy, &endpoint.prefixes, peer).filter(is_free).collect();
        let tunnel = Tunnel { id: arrival.tunnel_id, peer };
        let outlet = self.outlet_of(ifindex);
        Some(WantedReception { tunnel, interface: endpoint.interface.clone(), ifindex, outlet, prefixes })
    }
}
