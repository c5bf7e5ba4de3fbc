//! What the kernel holds, as far as it concerns us: links, routes and neighbours of workload interfaces.
//!
//! Owns the tables and the ownership predicate, and turns netlink messages into observations. Pure: bytes go
//! in, [`Observations`] comes out. [`super::monitor`] drives it and talks to the kernel.

use super::events::{MonitorSettings, NeighbourEvent, Owner, RouteEvent};
use super::filter::Filter;
use super::neighbour::NeighbourKey;
use super::route::ObservedRoute;
use super::table::Table;
use super::{Neighbour, address, ipv6, link, neighbour, route};
use cutover_common::MacAddr;
use cutover_engine::fact::Link;
use cutover_engine::{BootTime, Fact, InterfacePrefixes};
use netlink_packet_core::NLM_F_REPLACE;
use std::collections::BTreeSet;
use std::sync::Arc;

/// Observations in the order in which they were made, and what to do about them.
#[derive(Debug, Default)]
pub(super) struct Observations {
    pub(super) facts: Vec<Fact>,
    pub(super) routes: Vec<RouteEvent>,
    pub(super) neighbours: Vec<NeighbourEvent>,
    /// Something may have changed without a word: read everything again, at once or soon.
    pub(super) doubt: Option<Doubt>,
}

/// How urgent another full read is.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) enum Doubt {
    /// Nothing is known to be wrong.
    Soon,
    /// Something of ours is likely to be gone.
    Now,
}

impl Observations {
    fn doubt(&mut self, doubt: Doubt) {
        self.doubt = self.doubt.max(Some(doubt));
    }

    fn route(&mut self, route: ObservedRoute, owner: Option<Owner>) {
        self.routes.push(match owner {
            Some(owner) => RouteEvent::Seen(route, owner),
            None => RouteEvent::Gone(route),
        });
    }

    fn neighbour(&mut self, key: NeighbourKey, mac: Option<MacAddr>) {
        self.neighbours.push(match mac {
            Some(mac) => NeighbourEvent::Seen(Neighbour { key, mac }),
            None => NeighbourEvent::Gone(key),
        });
    }
}

#[derive(Debug)]
pub(super) struct Mirror {
    interface_prefixes: InterfacePrefixes,
    bridges: BTreeSet<String>,
    /// The current route protocol and those of earlier settings of this run: ours.
    protocols: BTreeSet<u8>,
    heard: BTreeSet<u8>,
    links: Table<u32, Link>,
    routes: Table<ObservedRoute, Owner>,
    neighbours: Table<NeighbourKey, MacAddr>,
    /// Links that are no workload's.
    others: BTreeSet<u32>,
}

impl Mirror {
    pub(super) fn new(settings: &MonitorSettings) -> Self {
        Self {
            interface_prefixes: settings.interface_prefixes.clone(),
            bridges: settings.bridges.clone(),
            protocols: settings.route_protocol.into_iter().collect(),
            heard: settings.route_protocol.into_iter().chain(settings.expected_protocol).collect(),
            links: Table::new(),
            routes: Table::new(),
            neighbours: Table::new(),
            others: BTreeSet::new(),
        }
    }

    /// What the monitor has to hear of.
    pub(super) fn filter(&self) -> Filter {
        Filter::new(&self.heard, &self.others)
    }

    /// Protocols whose routes matter: ours, and what may turn out to be.
    pub(super) const fn heard(&self) -> &BTreeSet<u8> {
        &self.heard
    }

    /// Takes over other settings. What is no longer a workload's is forgotten; a full read has to follow.
    pub(super) fn configure(&mut self, settings: &MonitorSettings) -> Observations {
        self.interface_prefixes.clone_from(&settings.interface_prefixes);
        self.bridges.clone_from(&settings.bridges);
        self.protocols.extend(settings.route_protocol);
        self.heard.extend(settings.route_protocol.into_iter().chain(settings.expected_protocol));
        let mut seen = Observations::default();
        let links = &self.links;
        let (prefixes, bridges) = (&self.interface_prefixes, &self.bridges);
        let outside = |ifindex: u32| !is_workload(links, prefixes, bridges, ifindex);
        self.others = links.current().keys().copied().filter(|ifindex| outside(*ifindex)).collect();
        for route in self.routes.vanished(|route, _| outside(route.ifindex)) {
            seen.route(route, None);
        }
        for key in self.neighbours.vanished(|key, _| outside(key.ifindex)) {
            seen.neighbour(key, None);
        }
        let now_ours: Vec<ObservedRoute> = self
            .routes
            .current()
            .iter()
            .filter(|(route, owner)| **owner == Owner::Other && self.protocols.contains(&route.protocol))
            .map(|(route, _)| *route)
            .collect();
        for route in now_ours {
            self.routes.notified(route, Some(Owner::Ours));
            seen.route(route, Some(Owner::Ours));
        }
        seen.doubt(Doubt::Now);
        seen
    }

    fn is_workload(&self, ifindex: u32) -> bool {
        is_workload(&self.links, &self.interface_prefixes, &self.bridges, ifindex)
    }

    fn owner(&self, route: &ObservedRoute) -> Owner {
        if self.protocols.contains(&route.protocol) { Owner::Ours } else { Owner::Other }
    }

    pub(super) fn begin_links(&mut self) {
        self.links.begin_dump();
    }

    pub(super) fn begin_routes(&mut self) {
        self.routes.begin_dump();
    }

    pub(super) fn begin_neighbours(&mut self) {
        self.neighbours.begin_dump();
    }

    pub(super) fn abandon_dumps(&mut self) {
        self.links.abandon_dump();
        self.routes.abandon_dump();
        self.neighbours.abandon_dump();
    }

    /// An entry of a dump. Entries of the wrong kind are ignored.
    pub(super) fn dumped(&mut self, message_type: u16, payload: &[u8]) {
        match message_type {
            libc::RTM_NEWLINK => {
                if let Some(link) = link::decode(payload) {
                    self.links.dumped(link.ifindex, link);
                }
            }
            libc::RTM_NEWROUTE => {
                if let Some(route) = route::decode(payload).filter(|route| self.is_workload(route.ifindex)) {
                    let owner = self.owner(&route);
                    self.routes.dumped(route, owner);
                }
            }
            libc::RTM_NEWNEIGH => {
                if let Some((key, Some(mac))) = neighbour::decode(payload)
                    && self.is_workload(key.ifindex)
                {
                    self.neighbours.dumped(key, mac);
                }
            }
            _ => {}
        }
    }

    /// All links are read. `complete` says whether what is missing is gone.
    pub(super) fn end_links(&mut self, complete: bool, seen: &mut Observations) {
        for (ifindex, link) in self.links.end_dump(|_, _| complete) {
            match link {
                Some(link) => self.link_changed(link, seen),
                None => self.link_gone(ifindex, seen),
            }
        }
    }

    /// Interfaces with an IPv6 route that is known and that the dumps so far do not show.
    pub(super) fn with_unseen_ipv6_routes(&self) -> BTreeSet<u32> {
        let unseen = self.routes.unseen().filter(|route| route.destination.addr().is_ipv6());
        unseen.map(|route| route.ifindex).collect()
    }

    /// Every interface of a workload.
    pub(super) fn workloads(&self) -> BTreeSet<u32> {
        self.links.current().keys().copied().filter(|ifindex| self.is_workload(*ifindex)).collect()
    }

    /// All routes are read. `was_asked_for` says of which it is certain that they are gone if they were not in it.
    pub(super) fn end_routes(
        &mut self,
        was_asked_for: impl Fn(&ObservedRoute) -> bool,
        seen: &mut Observations,
    ) {
        for (route, owner) in self.routes.end_dump(|route, _| was_asked_for(route)) {
            seen.route(route, owner);
        }
    }

    /// Neighbours that are known and that the dump so far does not show.
    pub(super) fn unseen_neighbours(&self) -> impl Iterator<Item = NeighbourKey> {
        self.neighbours.unseen().copied()
    }

    /// All neighbours are read.
    pub(super) fn end_neighbours(&mut self, complete: bool, seen: &mut Observations) {
        for (key, mac) in self.neighbours.end_dump(|_, _| complete) {
            seen.neighbour(key, mac);
        }
    }

    /// Everything that is known about routes, for whoever may know more than was ever notified.
    pub(super) fn recount_routes(&self, since: BootTime, seen: &mut Observations) {
        let held = Arc::new(self.routes.current().clone());
        seen.routes.push(RouteEvent::Recount { held, since });
    }

    /// The same about neighbours.
    pub(super) fn recount_neighbours(&self, since: BootTime, seen: &mut Observations) {
        let held = Arc::new(self.neighbours.current().clone());
        seen.neighbours.push(NeighbourEvent::Recount { held, since });
    }

    /// A notification.
    pub(super) fn notified(
        &mut self,
        message_type: u16,
        flags: u16,
        payload: &[u8],
        seen: &mut Observations,
    ) {
        match message_type {
            libc::RTM_NEWLINK => {
                if let Some(link) = link::decode(payload)
                    && self.links.notified(link.ifindex, Some(link.clone()))
                {
                    self.link_changed(link, seen);
                }
            }
            libc::RTM_DELLINK => {
                if let Some(link) = link::decode(payload)
                    && self.links.notified(link.ifindex, None)
                {
                    self.link_gone(link.ifindex, seen);
                }
            }
            libc::RTM_NEWROUTE => self.route_notified(payload, true, flags & NLM_F_REPLACE != 0, seen),
            libc::RTM_DELROUTE => self.route_notified(payload, false, false, seen),
            libc::RTM_NEWNEIGH => self.neighbour_notified(payload, true, seen),
            libc::RTM_DELNEIGH => self.neighbour_notified(payload, false, seen),
            libc::RTM_NEWNETCONF => {
                if let Some(ifindex) = ipv6::with_new_settings(payload) {
                    self.ipv6_notified(ifindex, seen);
                }
            }
            libc::RTM_NEWADDR => self.address_notified(payload, seen),
            libc::RTM_DELADDR => self.address_gone(payload, seen),
            _ => {}
        }
    }

    /// KERNEL: when a link goes down its IPv4 routes are removed without a notification (fib_sync_down_dev), and
    /// its IPv6 routes as well if net.ipv6.route.skip_notify_on_dev_down is set (4.20). When it comes up
    /// again none of them comes back.
    fn link_changed(&mut self, link: Link, seen: &mut Observations) {
        let is_workload = self.is_workload(link.ifindex);
        if is_workload {
            self.others.remove(&link.ifindex);
        } else {
            self.others.insert(link.ifindex);
        }
        // It may have had a workload's name before.
        if !link.admin_up || !is_workload {
            self.forget(link.ifindex, seen);
        }
        if is_workload {
            let Link { ifindex, running, .. } = link;
            seen.routes.push(RouteEvent::LinkChanged { ifindex, running });
            seen.neighbours.push(NeighbourEvent::LinkChanged { ifindex: link.ifindex });
            // Removals that were under way when the notification was made may not have been seen.
            seen.doubt(Doubt::Soon);
        } else {
            seen.routes.push(RouteEvent::ChangedElsewhere);
        }
        seen.facts.push(Fact::LinkSeen(link));
    }

    fn link_gone(&mut self, ifindex: u32, seen: &mut Observations) {
        self.others.remove(&ifindex);
        self.forget(ifindex, seen);
        seen.routes.push(RouteEvent::LinkChanged { ifindex, running: false });
        seen.neighbours.push(NeighbourEvent::LinkChanged { ifindex });
        seen.facts.push(Fact::LinkRemoved { ifindex });
    }

    fn forget(&mut self, ifindex: u32, seen: &mut Observations) {
        for route in self.routes.vanished(|route, _| route.ifindex == ifindex) {
            seen.route(route, None);
        }
        for key in self.neighbours.vanished(|key, _| key.ifindex == ifindex) {
            seen.neighbour(key, None);
        }
    }

    fn route_notified(&mut self, payload: &[u8], exists: bool, replaced: bool, seen: &mut Observations) {
        let route = route::decode(payload).filter(|route| self.is_workload(route.ifindex));
        if replaced && self.may_have_replaced_ours(payload, route) {
            seen.doubt(Doubt::Now);
        }
        let Some(route) = route else { return };
        let owner = exists.then(|| self.owner(&route));
        if self.routes.notified(route, owner) {
            seen.route(route, owner);
        }
    }

    /// KERNEL: a route that is replaced is not announced as deleted; the announcement of the one that takes its
    /// place carries NLM_F_REPLACE. Among several of one destination and metric it does not say which went.
    fn may_have_replaced_ours(&self, payload: &[u8], by: Option<ObservedRoute>) -> bool {
        let Some((destination, metric)) = route::place(payload) else { return false };
        let first = ObservedRoute { destination, ifindex: 0, metric: 0, protocol: 0, source: None };
        self.routes
            .current()
            .range(first..)
            .take_while(|(route, _)| route.destination == destination)
            .any(|(route, _)| route.metric == metric && Some(*route) != by)
    }

    fn ipv6_notified(&self, ifindex: u32, seen: &mut Observations) {
        if self.is_workload(ifindex) {
            seen.neighbours.push(NeighbourEvent::Ipv6Appeared { ifindex });
        }
    }

    fn address_notified(&self, payload: &[u8], seen: &mut Observations) {
        let Some(host) = address::decode(payload) else { return };
        if host.address.is_ipv6() {
            self.ipv6_notified(host.ifindex, seen);
        }
        if host.can_be_source() {
            seen.routes.push(RouteEvent::AddressAppeared { address: host.address });
        }
    }

    /// KERNEL: IPv4 routes go with their source address, until 6.7 without a notification (fib_sync_down_addr); IPv6 routes lose it and
    /// stay, without a notification (rt6_remove_prefsrc). Both happen under the lock (RTNL) under which the notification is made and
    /// which the dump of links takes, so that a read that begins later sees it.
    fn address_gone(&self, payload: &[u8], seen: &mut Observations) {
        seen.routes.push(RouteEvent::ChangedElsewhere);
        let Some(host) = address::decode(payload).filter(address::HostAddress::can_be_source) else { return };
        if self.routes.current().keys().any(|route| route.source == Some(host.address)) {
            seen.doubt(Doubt::Now);
        }
    }

    fn neighbour_notified(&mut self, payload: &[u8], exists: bool, seen: &mut Observations) {
        if !neighbour::interface(payload).is_some_and(|ifindex| self.is_workload(ifindex)) {
            return;
        }
        let Some((key, mac)) = neighbour::decode(payload) else { return };
        let mac = mac.filter(|_| exists);
        if self.neighbours.notified(key, mac) {
            seen.neighbour(key, mac);
        }
    }
}

/// A bridge counts as its ports do.
fn is_workload(
    links: &Table<u32, Link>,
    prefixes: &InterfacePrefixes,
    bridges: &BTreeSet<String>,
    ifindex: u32,
) -> bool {
    let link = links.current().get(&ifindex);
    link.is_some_and(|link| prefixes.cover(&link.name) || bridges.contains(&link.name))
}

#[cfg(test)]
mod tests;
