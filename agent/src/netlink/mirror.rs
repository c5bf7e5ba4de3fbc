//! What the kernel holds, as far as it concerns us: links, routes and neighbours of workload interfaces.
//!
//! Owns the tables and the ownership predicate, and turns netlink messages into observations. Pure: bytes go
//! in, [`Seen`] comes out. [`super::monitor`] drives it and talks to the kernel.

use super::monitor::{MonitorSettings, NeighbourEvent, Owner, RouteEvent};
use super::neighbour::NeighbourKey;
use super::route::ObservedRoute;
use super::table::Table;
use super::{Neighbour, address, ipv6, link, neighbour, route};
use cutover_common::MacAddr;
use cutover_engine::Fact;
use cutover_engine::fact::Link;
use netlink_packet_core::NLM_F_REPLACE;
use std::collections::BTreeSet;

/// Observations in the order in which they were made, and what to do about them.
#[derive(Debug, Default)]
pub(super) struct Seen {
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

impl Seen {
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
    interface_prefixes: Vec<String>,
    /// The current route protocol and those of earlier settings of this run.
    protocols: BTreeSet<u8>,
    links: Table<u32, Link>,
    routes: Table<ObservedRoute, Owner>,
    neighbours: Table<NeighbourKey, MacAddr>,
}

impl Mirror {
    pub(super) fn new(settings: &MonitorSettings) -> Self {
        Self {
            interface_prefixes: settings.interface_prefixes.clone(),
            protocols: settings.route_protocol.into_iter().collect(),
            links: Table::new(),
            routes: Table::new(),
            neighbours: Table::new(),
        }
    }

    pub(super) const fn protocols(&self) -> &BTreeSet<u8> {
        &self.protocols
    }

    /// Takes over other settings. What is no longer a workload's is forgotten; a full read has to follow.
    pub(super) fn configure(&mut self, settings: &MonitorSettings) -> Seen {
        self.interface_prefixes.clone_from(&settings.interface_prefixes);
        self.protocols.extend(settings.route_protocol);
        let mut seen = Seen::default();
        let links = &self.links;
        let prefixes = &self.interface_prefixes;
        let outside = |ifindex: u32| !is_workload(links, prefixes, ifindex);
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
        is_workload(&self.links, &self.interface_prefixes, ifindex)
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
    pub(super) fn end_links(&mut self, complete: bool, seen: &mut Seen) {
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
    pub(super) fn end_routes(&mut self, was_asked_for: impl Fn(&ObservedRoute) -> bool, seen: &mut Seen) {
        for (route, owner) in self.routes.end_dump(|route, _| was_asked_for(route)) {
            seen.route(route, owner);
        }
    }

    /// All neighbours are read.
    pub(super) fn end_neighbours(&mut self, complete: bool, seen: &mut Seen) {
        for (key, mac) in self.neighbours.end_dump(|_, _| complete) {
            seen.neighbour(key, mac);
        }
    }

    /// A notification.
    pub(super) fn notified(&mut self, message_type: u16, flags: u16, payload: &[u8], seen: &mut Seen) {
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
    fn link_changed(&mut self, link: Link, seen: &mut Seen) {
        let is_workload = self.is_workload(link.ifindex);
        // It may have had a workload's name before.
        if !link.admin_up || !is_workload {
            self.forget(link.ifindex, seen);
        }
        if is_workload {
            seen.routes.push(RouteEvent::LinkChanged { ifindex: link.ifindex });
            seen.neighbours.push(NeighbourEvent::LinkChanged { ifindex: link.ifindex });
            // Removals that were under way when the notification was made may not have been seen.
            seen.doubt(Doubt::Soon);
        }
        seen.facts.push(Fact::LinkSeen(link));
    }

    fn link_gone(&mut self, ifindex: u32, seen: &mut Seen) {
        self.forget(ifindex, seen);
        seen.routes.push(RouteEvent::LinkChanged { ifindex });
        seen.neighbours.push(NeighbourEvent::LinkChanged { ifindex });
        seen.facts.push(Fact::LinkRemoved { ifindex });
    }

    fn forget(&mut self, ifindex: u32, seen: &mut Seen) {
        for route in self.routes.vanished(|route, _| route.ifindex == ifindex) {
            seen.route(route, None);
        }
        for key in self.neighbours.vanished(|key, _| key.ifindex == ifindex) {
            seen.neighbour(key, None);
        }
    }

    fn route_notified(&mut self, payload: &[u8], exists: bool, replaced: bool, seen: &mut Seen) {
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

    fn ipv6_notified(&self, ifindex: u32, seen: &mut Seen) {
        if self.is_workload(ifindex) {
            seen.neighbours.push(NeighbourEvent::Ipv6Appeared { ifindex });
        }
    }

    fn address_notified(&self, payload: &[u8], seen: &mut Seen) {
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
    fn address_gone(&self, payload: &[u8], seen: &mut Seen) {
        let Some(host) = address::decode(payload).filter(address::HostAddress::can_be_source) else { return };
        if self.routes.current().keys().any(|route| route.source == Some(host.address)) {
            seen.doubt(Doubt::Now);
        }
    }

    fn neighbour_notified(&mut self, payload: &[u8], exists: bool, seen: &mut Seen) {
        let Some((key, mac)) = neighbour::decode(payload).filter(|(key, _)| self.is_workload(key.ifindex))
        else {
            return;
        };
        let mac = mac.filter(|_| exists);
        if self.neighbours.notified(key, mac) {
            seen.neighbour(key, mac);
        }
    }
}

fn is_workload(links: &Table<u32, Link>, prefixes: &[String], ifindex: u32) -> bool {
    links
        .current()
        .get(&ifindex)
        .is_some_and(|link| prefixes.iter().any(|prefix| link.name.starts_with(prefix.as_str())))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::netlink::monitor::RECEIVE_BUFFER_BYTES;
    use crate::netlink::route::encode;
    use cutover_engine::wanted::WantedRoute;
    use netlink_packet_core::Emitable;
    use netlink_packet_route::AddressFamily;
    use netlink_packet_route::address::{AddressAttribute, AddressMessage};
    use netlink_packet_route::link::{LinkAttribute, LinkFlags, LinkMessage};

    fn settings(route_protocol: impl Into<Option<u8>>) -> MonitorSettings {
        MonitorSettings {
            route_protocol: route_protocol.into(),
            interface_prefixes: vec!["tap".into()],
            refresh: None,
            answer_timeout: None,
            receive_buffer_bytes: RECEIVE_BUFFER_BYTES,
        }
    }

    fn bytes(message: &impl Emitable) -> Vec<u8> {
        let mut bytes = vec![0; message.buffer_len()];
        message.emit(&mut bytes);
        bytes
    }

    fn link(name: &str, flags: LinkFlags) -> Vec<u8> {
        let mut message = LinkMessage::default();
        message.header.index = 7;
        message.header.flags = flags;
        message.attributes = vec![LinkAttribute::IfName(name.into())];
        bytes(&message)
    }

    fn route(protocol: u8) -> WantedRoute {
        WantedRoute {
            destination: "10.65.0.2/32".parse().unwrap(),
            ifindex: 7,
            metric: 1024,
            protocol,
            source: None,
        }
    }

    fn with_routes() -> Mirror {
        let mut mirror = Mirror::new(&settings(3));
        let mut seen = Seen::default();
        mirror.notified(libc::RTM_NEWLINK, 0, &link("tap1", LinkFlags::Up), &mut seen);
        for protocol in [3, 80] {
            mirror.notified(libc::RTM_NEWROUTE, 0, &bytes(&encode(&route(protocol))), &mut seen);
        }
        let expected = [
            RouteEvent::LinkChanged { ifindex: 7 },
            RouteEvent::Seen(route(3), Owner::Ours),
            RouteEvent::Seen(route(80), Owner::Other),
        ];
        assert_eq!(seen.routes, expected);
        mirror
    }

    #[test]
    fn routes_are_forgotten_when_the_link_goes_down_or_stops_being_a_workloads() {
        for message in [link("tap1", LinkFlags::empty()), link("eth1", LinkFlags::Up)] {
            let mut seen = Seen::default();
            with_routes().notified(libc::RTM_NEWLINK, 0, &message, &mut seen);
            assert!(seen.routes.starts_with(&[RouteEvent::Gone(route(3)), RouteEvent::Gone(route(80))]));
        }
    }

    /// The built-in protocol is somebody else's until the datastore has said that it is ours.
    #[test]
    fn no_route_is_ours_before_the_protocol_is_known() {
        let mut mirror = Mirror::new(&settings(None));
        let mut seen = Seen::default();
        mirror.notified(libc::RTM_NEWLINK, 0, &link("tap1", LinkFlags::Up), &mut seen);
        for protocol in [3, 80] {
            mirror.notified(libc::RTM_NEWROUTE, 0, &bytes(&encode(&route(protocol))), &mut seen);
        }
        let others = [3, 80].map(|protocol| RouteEvent::Seen(route(protocol), Owner::Other));
        assert_eq!(seen.routes[1..], others);
        assert_eq!(mirror.configure(&settings(80)).routes, [RouteEvent::Seen(route(80), Owner::Ours)]);
        assert_eq!(mirror.protocols(), &BTreeSet::from([80]));
    }

    #[test]
    fn another_protocol_is_ours_in_addition() {
        let mut mirror = with_routes();
        let seen = mirror.configure(&settings(80));
        assert_eq!(seen.routes, [RouteEvent::Seen(route(80), Owner::Ours)]);
        assert_eq!(seen.doubt, Some(Doubt::Now));
        assert_eq!(mirror.protocols(), &BTreeSet::from([3, 80]));
    }

    #[test]
    fn a_replacement_in_our_place_casts_doubt_and_any_other_does_not() {
        let elsewhere = WantedRoute { ifindex: 99, protocol: 12, ..route(12) };
        for (replacement, expected) in [
            (elsewhere, Some(Doubt::Now)),
            (WantedRoute { metric: 512, ..elsewhere }, None),
            (WantedRoute { destination: "10.65.0.3/32".parse().unwrap(), ..elsewhere }, None),
        ] {
            let mut seen = Seen::default();
            let message = bytes(&encode(&replacement));
            with_routes().notified(libc::RTM_NEWROUTE, NLM_F_REPLACE, &message, &mut seen);
            assert_eq!(seen.doubt, expected, "{replacement:?}");
        }
    }

    #[test]
    fn an_address_that_goes_casts_doubt_on_the_routes_that_it_is_the_source_of() {
        for (source, expected) in
            [(None, None), (Some("192.0.2.1"), Some(Doubt::Now)), (Some("192.0.2.2"), None)]
        {
            let mut mirror = with_routes();
            let mut seen = Seen::default();
            let route = WantedRoute { source: source.map(|it| it.parse().unwrap()), ..route(3) };
            mirror.notified(libc::RTM_NEWROUTE, 0, &bytes(&encode(&route)), &mut seen);
            let mut message = AddressMessage::default();
            message.header.family = AddressFamily::Inet;
            message.attributes = vec![AddressAttribute::Local("192.0.2.1".parse().unwrap())];
            mirror.notified(libc::RTM_DELADDR, 0, &bytes(&message), &mut seen);
            assert_eq!(seen.doubt, expected, "{source:?}");
        }
    }

    #[test]
    fn what_is_known_already_is_no_news() {
        let mut mirror = with_routes();
        let mut seen = Seen::default();
        mirror.notified(libc::RTM_NEWLINK, 0, &link("tap1", LinkFlags::Up), &mut seen);
        mirror.notified(libc::RTM_NEWROUTE, 0, &bytes(&encode(&route(3))), &mut seen);
        assert_eq!(seen.facts, []);
        assert_eq!(seen.routes, []);
        assert_eq!(seen.doubt, None);
    }
}
