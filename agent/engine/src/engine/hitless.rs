//! What is sent to a virtual machine while it moves reaches it, whatever the fabric's routers know.
//!
//! Where it leaves, there is a departure: what still comes for it is forwarded to where it goes as soon as it announced itself there, or
//! has stopped here, until the convergence time after its migration is over. Where it goes, there is an arrival: what comes out of
//! the tunnel for it reaches its tap. Both are remembered apart from the machines, because the endpoint that a virtual machine has left is
//! deleted while packets still come. Owns the wanted forwards, receptions and conversations.

mod arrivals;
mod departures;

use super::Engine;
use crate::conversation::{Says, WantedConversation};
use crate::memory::{Arrival, Departure};
use crate::model::{EndpointKey, Handover, Policy};
use crate::roles::Role;
use crate::shared::{SharedMap, SharedSet};
use crate::time::{BootTime, milliseconds};
use crate::view::{ForwardView, ReceptionView};
use crate::wanted::{WantedHandover, WantedReception};
use core::net::IpAddr;
use ipnet::IpNet;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// The virtual machines that leave or arrive, by the endpoint of this host.
#[derive(Clone, Debug, Default)]
pub(super) struct Hitless {
    pub(super) departures: BTreeMap<Arc<EndpointKey>, Departure>,
    pub(super) arrivals: BTreeMap<Arc<EndpointKey>, Arrival>,
    /// Where the lots for tunnels come from.
    lots: u64,
}

/// Identifiers of tunnels have this many values; 0 is none of them.
const TUNNEL_IDS: u64 = 1 << 24;

impl Engine {
    /// Draws the identifiers of tunnels by lot, beginning with this seed. It has to be random: whoever knows the identifier of a tunnel
    /// knows half of what it takes to be let in.
    #[must_use]
    pub const fn drawing_lots(mut self, seed: u64) -> Self {
        self.hitless.lots = seed;
        self
    }

    /// Takes up what was remembered.
    pub(super) fn recall_hitless(&mut self, departures: Vec<Departure>, arrivals: Vec<Arrival>) {
        let is_local = |key: &EndpointKey| key.host == self.policy.hostname;
        let departures = departures.into_iter().filter(|it| is_local(&it.endpoint));
        self.hitless.departures = departures.map(|it| (Arc::new(it.endpoint.clone()), it)).collect();
        let arrivals = arrivals.into_iter().filter(|it| is_local(&it.endpoint));
        self.hitless.arrivals = arrivals.map(|it| (Arc::new(it.endpoint.clone()), it)).collect();
    }

    /// What has to survive.
    pub(super) fn hitless_memory(&self) -> (Vec<Departure>, Vec<Arrival>) {
        let Hitless { departures, arrivals, .. } = &self.hitless;
        (departures.values().cloned().collect(), arrivals.values().cloned().collect())
    }

    /// The peer at the other end said something.
    pub(super) fn peer_said(
        &mut self,
        now: BootTime,
        key: &EndpointKey,
        uid: &str,
        peer: IpAddr,
        says: Says,
    ) {
        match says {
            Says::Target(says) => self.target_said(now, key, uid, peer, says),
            Says::Source(says) => self.source_said(now, key, uid, peer, says),
        }
    }

    /// An identifier that no other tunnel to here has.
    fn draw_tunnel(&mut self) -> u32 {
        loop {
            // SplitMix64 (Steele, Lea, Flood 2014).
            self.hitless.lots = self.hitless.lots.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let mut lot = self.hitless.lots;
            lot = (lot ^ (lot >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            lot = (lot ^ (lot >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            let id = ((lot ^ (lot >> 31)) % TUNNEL_IDS) as u32;
            if id != 0 && self.hitless.arrivals.values().all(|arrival| arrival.tunnel_id != id) {
                return id;
            }
        }
    }

    /// Brings what is known of virtual machines that leave and arrive up to date. There are few of them, so all are looked at.
    pub(super) fn keep_hitless(&mut self, now: BootTime) {
        if !self.policy.forwards {
            self.forget_hitless(now);
        }
        self.keep_departures(now);
        self.keep_arrivals(now);
    }

    /// Brings what is wanted because of it up to date. All claims are known.
    pub(super) fn build_hitless(&mut self) {
        let (departures, arrivals) = (&self.hitless.departures, &self.hitless.arrivals);
        let forwards = departures.iter().filter_map(|(key, it)| Some((key.clone(), self.forward(key, it)?)));
        let receptions =
            arrivals.iter().filter_map(|(key, it)| Some((key.clone(), self.reception(key, it)?)));
        let (forwards, receptions) = (forwards.collect(), receptions.collect::<BTreeMap<_, _>>());
        let leaving: SharedSet<u32> = departures.values().filter_map(Departure::leaving).collect();
        self.note_prefixes(&receptions);
        let conversations = self.conversations();
        let handovers = self.handovers(&conversations);
        if self.wanted.leaving != leaving {
            self.wanted.leaving = leaving;
        }
        replace(&mut self.wanted.forwards, forwards);
        replace(&mut self.wanted.receptions, receptions);
        replace(&mut self.wanted.conversations, conversations);
        replace(&mut self.wanted.handovers, handovers);
    }

    /// What may be made for an arrival is remembered: once its endpoint is gone, nothing else says what is to be taken back.
    fn note_prefixes(&mut self, receptions: &BTreeMap<Arc<EndpointKey>, WantedReception>) {
        for (key, reception) in receptions {
            let arrival = self.hitless.arrivals.get_mut(key);
            if let Some(arrival) = arrival.filter(|arrival| arrival.prefixes != reception.prefixes) {
                arrival.prefixes.clone_from(&reception.prefixes);
                self.locals.memory_changed();
            }
        }
    }

    /// Whose tracked connections are handed over: of those who are talked about.
    fn handovers(
        &self,
        conversations: &BTreeMap<Arc<EndpointKey>, WantedConversation>,
    ) -> BTreeMap<Arc<EndpointKey>, WantedHandover> {
        let handover = |(key, conversation): (&Arc<EndpointKey>, &WantedConversation)| {
            let Hitless { departures, arrivals, .. } = &self.hitless;
            let (uid, prefixes, stage, has_made) = match conversation.says {
                Says::Source(_) => {
                    let departure = departures.get(key)?;
                    (&departure.uid, &departure.prefixes, departure.handover(), false)
                }
                Says::Target(_) => {
                    let arrival = arrivals.get(key)?;
                    (&arrival.uid, &arrival.prefixes, arrival.handover(), arrival.has_connections)
                }
            };
            let prefixes = addresses(&self.policy, prefixes).collect();
            let is_always = self.policy.handover == Handover::Always;
            Some((Arc::clone(key), WantedHandover { uid: uid.clone(), prefixes, stage, is_always, has_made }))
        };
        let is_wanted = self.policy.handover != Handover::Off;
        conversations.iter().filter(|_| is_wanted).filter_map(handover).collect()
    }

    /// An operator has switched it off. Who forwards to here is told; of who leaves there is a record all the same.
    fn forget_hitless(&mut self, now: BootTime) {
        for (key, departure) in &mut self.hitless.departures {
            if departure.tunnel.is_some() || departure.started_at.is_some() {
                departure.forget_tunnel();
                self.locals.touch(EndpointKey::clone(key));
                self.locals.memory_changed();
            }
        }
        for arrival in self.hitless.arrivals.values_mut().filter(|arrival| !arrival.has_failed) {
            (arrival.has_failed, arrival.ends_at) = (true, Some(now + arrivals::FAREWELL));
            self.locals.memory_changed();
        }
    }

    /// An operator has switched it on: migrations that are under way count as well.
    pub(super) fn remember_departures(&mut self, now: BootTime) {
        let migrations: Vec<_> = self.migrations.values().cloned().collect();
        for migration in migrations {
            self.departure_begins(now, &migration);
        }
    }

    /// With whom to talk. An endpoint that is left and reached at once talks about what it is in the migrations that there are, and
    /// after them about what began last.
    fn conversations(&self) -> BTreeMap<Arc<EndpointKey>, WantedConversation> {
        let mut conversations = BTreeMap::new();
        for (key, departure) in &self.hitless.departures {
            if departure.prefixes.is_empty() || !self.policy.forwards {
                continue;
            }
            let says = Says::Source(departure.says());
            let (uid, peer) = (departure.uid.clone(), departure.to.clone());
            let conversation = WantedConversation { uid, peer, says, tap: departure.tap, announced_by: None };
            conversations.insert(key.clone(), conversation);
        }
        for (key, arrival) in &self.hitless.arrivals {
            let machine = self.locals.get(key).map(|local| &local.machine);
            let role = machine.map_or(Role::None, |machine| machine.role);
            let departure = self.hitless.departures.get(key);
            let leaves = departure.is_some_and(|departure| match role {
                Role::Target => false,
                Role::Source => true,
                Role::None => departure.began_at >= arrival.began_at,
            });
            if leaves {
                continue;
            }
            let says = Says::Target(arrival.says());
            let (uid, peer) = (arrival.uid.clone(), arrival.from.clone());
            let arming = machine.and_then(|machine| machine.arming.as_ref());
            let announced_by = arming.map(|arming| arming.generation).filter(|_| !arrival.has_failed);
            conversations
                .insert(key.clone(), WantedConversation { uid, peer, says, tap: None, announced_by });
        }
        conversations
    }

    /// When something of this happens by itself.
    pub(super) fn hitless_deadline(&self) -> Option<BootTime> {
        let Hitless { departures, arrivals, .. } = &self.hitless;
        let departures = departures.values().filter_map(Departure::deadline);
        departures.chain(arrivals.values().filter_map(|arrival| arrival.ends_at)).min()
    }

    /// Before the datastore is in sync: what the memory of the last life, and who has said something since, says is forwarded no more.
    pub(super) fn forwards_over(&self, now: BootTime) -> BTreeSet<IpNet> {
        let (over, open): (Vec<_>, Vec<_>) =
            self.hitless.departures.values().partition(|departure| departure.is_over(now));
        let addresses = |departures: Vec<&Departure>| -> BTreeSet<IpNet> {
            departures.into_iter().flat_map(|it| addresses(&self.policy, &it.prefixes)).collect()
        };
        // A floating address may have gone from one to another.
        &addresses(over) - &addresses(open)
    }

    /// When more of it is.
    pub(super) fn next_forward_over(&self) -> Option<BootTime> {
        let since = self.recalled_at?;
        let open = self.hitless.departures.values().filter(|departure| !departure.is_over(since));
        open.filter_map(Departure::over_at).min()
    }

    /// Virtual machines that are leaving, or have left a moment ago.
    pub fn departing(&self) -> impl Iterator<Item = &Departure> {
        self.hitless.departures.values().filter(|_| self.policy.forwards)
    }

    /// What `cutover status` shows of what leaves; nobody here counts packets.
    #[must_use]
    pub fn forwards(&self, now: BootTime) -> Vec<ForwardView> {
        let view = |(key, departure): (&Arc<EndpointKey>, &Departure)| ForwardView {
            endpoint: key.to_string(),
            migration_uid: departure.uid.clone(),
            to: departure.to.to_string(),
            tap: departure.tap,
            last_frame_at: None,
            tunnel_id: departure.tunnel.map(|tunnel| tunnel.id),
            peer: departure.tunnel.map(|tunnel| tunnel.peer),
            prefixes: departure.prefixes.iter().map(ToString::to_string).collect(),
            is_ready: departure.is_ready,
            is_stopped: departure.stopped_at.is_some(),
            is_announced: departure.is_announced,
            is_active: departure.started_at.is_some(),
            packets: 0,
            began_at: Some(departure.seen_at.unwrap_or(departure.began_at)),
            stopped_at: departure.stopped_at,
            heard_at: departure.heard_at,
            started_at: departure.started_at,
            since_ms: departure.started_at.map(|at| milliseconds(now.since(at))),
            ends_in_ms: departure.ends_at.map(|at| milliseconds(at.since(now))),
        };
        self.hitless.departures.iter().filter(|_| self.policy.forwards).map(view).collect()
    }

    /// What `cutover status` shows of what arrives; nobody here counts packets.
    #[must_use]
    pub fn receptions(&self, now: BootTime) -> Vec<ReceptionView> {
        let view = |(key, arrival): (&Arc<EndpointKey>, &Arrival)| ReceptionView {
            endpoint: key.to_string(),
            migration_uid: arrival.uid.clone(),
            from: arrival.from.to_string(),
            tunnel_id: arrival.tunnel_id,
            peer: arrival.peer,
            is_ready: arrival.is_ready,
            is_source_stopped: arrival.stopped_at.is_some(),
            is_source_forwarding: arrival.forwarded_at.is_some(),
            packets: 0,
            ends_in_ms: arrival.ends_at.map(|at| milliseconds(at.since(now))),
        };
        self.hitless.arrivals.iter().map(view).collect()
    }
}

/// The addresses that are routed at all. Their table comes before all others: so no network, in which there may be others, and not
/// the host to which they are sent.
fn routed<'a>(
    policy: &'a Policy,
    prefixes: &'a BTreeSet<IpNet>,
    peer: IpAddr,
) -> impl Iterator<Item = IpNet> + 'a {
    addresses(policy, prefixes).filter(move |prefix| prefix.addr() != peer)
}

/// The addresses among prefixes, of the families that are routed.
fn addresses<'a>(policy: &'a Policy, prefixes: &'a BTreeSet<IpNet>) -> impl Iterator<Item = IpNet> + 'a {
    let is_host = |prefix: &IpNet| prefix.prefix_len() == prefix.max_prefix_len();
    let is_routed = |prefix: &IpNet| policy.ipv6_support || prefix.addr().is_ipv4();
    prefixes.iter().copied().filter(is_host).filter(is_routed)
}

/// Changes only what differs, so that the rest stays shared.
fn replace<V: Clone + PartialEq>(
    wanted: &mut SharedMap<Arc<EndpointKey>, V>,
    now: BTreeMap<Arc<EndpointKey>, V>,
) {
    let gone: Vec<_> = wanted.keys().filter(|key| !now.contains_key(*key)).cloned().collect();
    for key in gone {
        wanted.remove(&key);
    }
    for (key, value) in now {
        if wanted.get(&key) != Some(&value) {
            wanted.insert(key, value);
        }
    }
}
