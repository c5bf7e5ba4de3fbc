//! Brings the wanted sets up to date with what changed.
//!
//! Owns who gets what when several endpoints claim it, and the care that a round costs as much as what changed in it: only
//! endpoints that changed are looked at, and those that share an interface or a prefix with them. What one
//! endpoint wants for itself is in [`super::wants`]. A test rebuilds everything from scratch after every step and compares.

use super::Engine;
use super::claims::Rank;
use super::placed::{Claims, Conflict, Placed};
use super::wants::{self, Part};
use crate::machine::{Arming, State};
use crate::model::EndpointKey;
use crate::time::BootTime;
use crate::wanted::{Status, WantedStatus};
use cutover_common::MacAddr;
use ipnet::IpNet;
use std::collections::BTreeSet;
use std::sync::Arc;

static NOTHING: BTreeSet<IpNet> = BTreeSet::new();

type Keys = BTreeSet<Arc<EndpointKey>>;

impl Engine {
    /// Brings the wanted sets up to date.
    pub(super) fn build(&mut self, now: BootTime) {
        let dirty = self.locals.take_dirty();
        self.keep_armings(now, &dirty);
        self.keep_waiting(now, &dirty);
        let mut concerned = self.claim_interfaces(dirty);
        self.claim_prefixes(&mut concerned);
        // ORDER: in the order in which they are served, for the log. What is gone comes first.
        let mut ranks: Vec<_> = concerned.iter().map(|key| (self.locals.rank(key), key)).collect();
        ranks.sort_unstable();
        let parts: Vec<_> =
            ranks.iter().map(|(rank, key)| (*key, rank.as_ref().map(|rank| self.part(rank)))).collect();
        // ORDER: everything that goes before everything that comes, because an interface can change hands.
        for (key, part) in &parts {
            self.withdraw(key, part.as_ref());
        }
        for (key, part) in parts {
            if let Some(part) = part {
                self.place(key, part);
            }
        }
        self.build_bridges();
    }

    /// Every endpoint in Target whose tap exists needs a generation for that very tap.
    pub(super) fn keep_armings(&mut self, now: BootTime, keys: &Keys) {
        for key in keys {
            let Some(local) = self.locals.get(key) else { continue };
            if local.machine.state != State::Target {
                continue;
            }
            let ifindex = self.ifindex(&local.endpoint.interface);
            if local.machine.arming.map(|arming| arming.ifindex) == ifindex {
                continue;
            }
            let mac = local.endpoint.mac;
            let arming = ifindex.map(|ifindex| self.arming(now, ifindex, mac));
            self.locals.arm(key, arming);
        }
        // INVARIANT: a generation is used once. What was found on a tap that exists has been adopted by now, or
        // belongs to a migration that is over.
        self.found.watches.retain(|ifindex, _| !self.links.contains_key(ifindex));
    }

    /// A watch for a tap that has none: the one of the last life if it is for the same guest.
    pub(super) fn arming(&mut self, now: BootTime, ifindex: u32, mac: Option<MacAddr>) -> Arming {
        let generation = match self.found.watches.remove(&ifindex) {
            Some((generation, found)) if Some(found) == mac => generation,
            _ => {
                self.last_generation = now.0.max(self.last_generation + 1);
                self.last_generation
            }
        };
        Arming { ifindex, generation }
    }

    /// Notes who names which interface. Returns these endpoints and those that share one with them.
    fn claim_interfaces(&mut self, dirty: Keys) -> Keys {
        let mut concerned = dirty.clone();
        let mut share = |engine: &Self, interface: &String| {
            concerned.extend(engine.locals.interfaces.of(interface).map(|rank| Arc::clone(&rank.key)));
        };
        for key in &dirty {
            let before = self.placed.get(key).map(|placed| (placed.interface.clone(), placed.rank.clone()));
            let now = self.locals.rank(key).map(|rank| (self.locals[key].endpoint.interface.clone(), rank));
            if before == now {
                continue;
            }
            if let Some((interface, rank)) = before {
                share(self, &interface);
                self.locals.interfaces.remove(interface, rank);
            }
            if let Some((interface, rank)) = now {
                share(self, &interface);
                self.locals.interfaces.insert(interface, rank);
            }
        }
        concerned
    }

    /// Notes who claims which prefix, and adds those that claim or watch the same.
    fn claim_prefixes(&mut self, concerned: &mut Keys) {
        for key in concerned.clone() {
            let rank = self.locals.rank(&key);
            let Claims { routes, watched, .. } =
                rank.as_ref().map(|rank| self.claimed(rank)).unwrap_or_default();
            let before = self.placed.get(&key);
            let is_same = before.is_some_and(|before| {
                Some(&before.rank) == rank.as_ref() && before.routes == routes && before.watched == watched
            });
            if is_same {
                continue;
            }
            if let Some(before) = before {
                for prefix in before.routes.iter().map(|route| route.destination) {
                    self.prefixes.remove(prefix, before.rank.clone());
                    concerned.extend(self.sharing(&prefix));
                }
                for prefix in &before.watched {
                    self.watched.remove(*prefix, before.rank.clone());
                }
            }
            if let Some(rank) = &rank {
                for prefix in routes.iter().map(|route| route.destination) {
                    concerned.extend(self.sharing(&prefix));
                    self.prefixes.insert(prefix, rank.clone());
                }
                for prefix in &watched {
                    self.watched.insert(*prefix, rank.clone());
                }
            }
        }
    }

    /// Whoever is concerned by who has a prefix.
    fn sharing(&self, prefix: &IpNet) -> impl Iterator<Item = Arc<EndpointKey>> {
        self.prefixes.of(prefix).chain(self.watched.of(prefix)).map(|rank| Arc::clone(&rank.key))
    }

    fn has_interface(&self, rank: &Rank, interface: &String) -> bool {
        self.locals.interfaces.winner(interface) == Some(rank)
    }

    /// What an endpoint claims.
    fn claimed(&self, rank: &Rank) -> Claims {
        let local = &self.locals[&rank.key];
        let link = self.link(&local.endpoint.interface);
        let Some(link) = link.filter(|_| self.has_interface(rank, &local.endpoint.interface)) else {
            return Claims::default();
        };
        let outlet = self.outlet(link);
        // A port that is down takes no route away from its bridge.
        let is_due = link.admin_up || outlet.ifindex == link.ifindex;
        let due = local
            .machine
            .elevated()
            .filter(|_| is_due)
            .into_iter()
            .flat_map(|elevated| wants::routes(&self.policy, &local.endpoint, outlet.ifindex, elevated));
        let (routes, suspended) = due.partition(|_| outlet.admin_up);
        let watched = match local.machine.arming {
            Some(arming) => wants::routes(&self.policy, &local.endpoint, arming.ifindex, true)
                .map(|route| route.destination)
                .collect(),
            None => Vec::new(),
        };
        Claims { routes, suspended, watched }
    }

    /// What others have before an endpoint does. All claims are known.
    fn withheld(&self, rank: &Rank) -> BTreeSet<IpNet> {
        if !self.locals.is_remembered(&rank.key) {
            return BTreeSet::new();
        }
        let endpoint = &self.locals[&rank.key].endpoint;
        let has_interface = self.has_interface(rank, &endpoint.interface);
        let is_withheld =
            |prefix: &IpNet| !has_interface || self.prefixes.winner(prefix).is_some_and(|it| it < rank);
        endpoint.prefixes.iter().map(IpNet::trunc).filter(is_withheld).collect()
    }

    /// What an endpoint wants and gets. All claims are known.
    fn part(&self, rank: &Rank) -> Part {
        let key = &rank.key;
        let local = &self.locals[key];
        let interface = &local.endpoint.interface;
        let Claims { routes, suspended, watched } = self.claimed(rank);
        let mut part = Part {
            placed: Placed {
                rank: rank.clone(),
                interface: interface.clone(),
                ifindex: None,
                bridge: None,
                routes,
                suspended,
                watched,
                withheld: self.withheld(rank),
                conflicts: Vec::new(),
            },
            routes: Vec::new(),
            interface: None,
            watch: None,
            status: WantedStatus::of(Status::AsReported),
            check: None,
        };
        if !self.policy.is_workload(interface) {
            part.placed.conflicts.push(Conflict::NotAWorkloadInterface);
        }
        if let Some(winner) = self.locals.interfaces.winner(interface).filter(|winner| *winner != rank) {
            part.placed.conflicts.push(Conflict::Interface { winner: Arc::clone(&winner.key) });
            return part;
        }
        let link = self.link(interface);
        let open = self.open_question(local, link);
        let passes = self.passes_filter(local);
        part.status = self.wanted_status(key, local, link, passes && open.is_none());
        part.check = self.check(local, open.filter(|_| passes));
        let Some(link) = link else { return part };
        part.placed.ifindex = Some(link.ifindex);
        part.placed.bridge = self.bridge_of(link).map(|bridge| bridge.ifindex);
        if part.placed.bridge.is_none() {
            part.interface = Some(wants::interface(&self.policy, &local.endpoint, link));
        }
        for route in &part.placed.routes {
            match self.prefixes.winner(&route.destination) {
                Some(winner) if winner != rank => {
                    let (prefix, winner) = (route.destination, Arc::clone(&winner.key));
                    part.placed.conflicts.push(Conflict::Prefix { prefix, winner });
                }
                _ => part.routes.push(*route),
            }
        }
        part.watch = local.machine.arming.map(|arming| {
            let is_open = local.machine.unresolved.is_some();
            let outlet = self.outlet_of(arming.ifindex);
            let mut watch = wants::watch(&self.policy, &local.endpoint, arming, outlet, is_open);
            // What somebody has who comes first would not be wanted after the announcement either.
            watch
                .routes
                .retain(|route| self.prefixes.winner(&route.destination).is_none_or(|winner| winner > rank));
            watch.ends_forwarding = self.is_forwarded(key);
            watch
        });
        part
    }

    /// Takes out of the wanted sets what an endpoint had and does not have any more.
    fn withdraw(&mut self, key: &Arc<EndpointKey>, now: Option<&Part>) {
        if now.is_none() {
            self.withdraw_status(key);
        }
        if now.is_none_or(|now| now.check.is_none()) {
            self.wanted.checks.remove(key.as_ref());
        }
        let Some(before) = self.placed.get(key) else { return };
        // On a bridge, what it did not get may be the very same route, which somebody else has.
        for route in before.routes.iter().filter(|route| !before.is_denied(&route.destination)) {
            if now.is_none_or(|now| !now.routes.contains(route)) {
                self.wanted.routes.remove(route);
            }
        }
        for route in &before.suspended {
            self.suspended.remove(*route, before.rank.clone());
            let stays = now.is_some_and(|now| now.placed.suspended.contains(route));
            if !stays && self.suspended.winner(route).is_none() {
                self.wanted.suspended.remove(route);
            }
        }
        if let Some(ifindex) = before.ifindex {
            let stays = now.is_some_and(|now| now.placed.ifindex == Some(ifindex));
            if !stays || now.is_some_and(|now| now.interface.is_none()) {
                self.wanted.interfaces.remove(&ifindex);
            }
            if !stays || now.is_some_and(|now| now.watch.is_none()) {
                self.wanted.watches.remove(&ifindex);
            }
        }
        self.bridges.changed.extend(before.bridge);
        if now.is_none() {
            self.placed.remove(key);
        }
    }

    /// Neutron takes the removal of any host's status for a failure of the port, and Nova, which waits for the port while it is
    /// migrating, gives up. So what was reported stays as long as the port migrates anywhere, and for some time after.
    fn withdraw_status(&mut self, key: &Arc<EndpointKey>) {
        let kept = WantedStatus::of(Status::AsReported);
        if !self.is_migrating(key) && !self.has_aftermath(key) {
            self.wanted.statuses.remove(key.as_ref());
        } else if self.wanted.statuses.get(key.as_ref()) != Some(&kept) {
            self.wanted.statuses.insert(Arc::clone(key), kept);
        }
    }

    /// Puts into the wanted sets what an endpoint has. What is there already is left alone, so that it stays shared.
    fn place(&mut self, key: &Arc<EndpointKey>, part: Part) {
        let before = self.placed.get(key);
        let is_known = |conflict: &Conflict| {
            before.is_some_and(|before| {
                let same_interface = before.interface == part.placed.interface;
                before.conflicts.iter().any(|known| known.is_same(conflict, same_interface))
            })
        };
        let news = part.placed.conflicts.iter().filter(|conflict| !is_known(conflict));
        self.notices.extend(news.map(|conflict| conflict.notice(key, &part.placed.interface)));
        let wanted = &mut self.wanted;
        if wanted.statuses.get(key.as_ref()) != Some(&part.status) {
            wanted.statuses.insert(Arc::clone(key), part.status);
        }
        if let Some(check) = part.check.filter(|it| wanted.checks.get(key.as_ref()) != Some(it)) {
            wanted.checks.insert(Arc::clone(key), check);
        }
        for route in part.routes {
            if !wanted.routes.contains(&route) {
                wanted.routes.insert(route);
            }
        }
        for route in &part.placed.suspended {
            self.suspended.insert(*route, part.placed.rank.clone());
            if !wanted.suspended.contains(route) {
                wanted.suspended.insert(*route);
            }
        }
        if let Some(ifindex) = part.placed.ifindex {
            self.served.insert(ifindex);
            if let Some(bridge) = part.placed.bridge {
                let endpoint = &self.locals[key].endpoint;
                self.bridges.serve(bridge, &endpoint.prefixes, &self.served);
            }
            if let Some(interface) = part.interface.filter(|it| wanted.interfaces.get(&ifindex) != Some(it)) {
                wanted.interfaces.insert(ifindex, interface);
            }
            if let Some(watch) = part.watch.filter(|it| wanted.watches.get(&ifindex) != Some(it)) {
                wanted.watches.insert(ifindex, watch);
            }
        }
        if self.placed.get(key) != Some(&part.placed) {
            let before = self.placed.get(key).map_or(&NOTHING, |before| &before.withheld);
            if *before != part.placed.withheld {
                self.locals.memory_changed();
            }
            self.placed.insert(Arc::clone(key), part.placed);
        }
    }
}
