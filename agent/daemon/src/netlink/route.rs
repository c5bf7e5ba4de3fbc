//! Routes as the kernel speaks of them.
//!
//! Owns the translation between [`WantedRoute`] and route messages, both ways, and what it takes for a route
//! to be of the kind that we make. Whether a route *is* ours, or wanted, is the route applier's business.

use super::batch::{BatchBuilder, PreparedBatch};
use cutover_engine::wanted::WantedRoute;
use ipnet::IpNet;
use netlink_packet_core::{NLM_F_CREATE, NLM_F_REPLACE, Parseable};
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteHeader, RouteMessage, RouteProtocol, RouteScope, RouteType,
};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use std::borrow::Borrow;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// A route as the kernel holds it, reduced to what identifies it and what we set. It has the shape of a wanted
/// one so that "nothing differs" is equality.
pub type ObservedRoute = WantedRoute;

/// Metric of an IPv6 route for which none was given (IP6_RT_PRIO_USER of the kernel).
const IPV6_DEFAULT_METRIC: u32 = 1024;

/// One change to the main table.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum RouteChange {
    /// Makes the route exist and be the preferred one of its destination and metric, whatever else is there.
    ///
    /// KERNEL (measured on 6.18; fib_table_insert in net/ipv4/fib_trie.c, fib6_add_rt2node in
    /// net/ipv6/ip6_fib.c; the same since 4.18): when a routing daemon holds a route of the same destination
    /// and metric through another interface,
    /// - IPv4 with CREATE alone puts ours *in front of* it: ours is used, and the daemon's is back in use the
    ///   moment that ours goes. With CREATE|REPLACE the daemon's would be thrown out without a delete
    ///   notification, and the host would have no route after us until the daemon looks again.
    /// - IPv6 with CREATE alone puts ours *behind* it, where it is never used, and refuses with EEXIST if the
    ///   same interface has one of any protocol. Only CREATE|REPLACE makes ours the used one, and it throws the
    ///   daemon's out.
    ///
    /// That is the moment of our write. What the daemon does next is its own: BIRD 2 leaves ours alone and puts a route of its own back
    /// when ours is gone; BIRD 3 (3.1.8, 3.4.0), if its kernel protocol has `metric` and that is ours, puts a route that it prefers in the
    /// place of ours at its next scan, in both families, and leaves none when its own one ends. So a daemon's routes must never have a
    /// metric of ours; `cutover bgp` and the doctor see to that.
    Add(WantedRoute),
    /// Like `Add`, but takes the place of a route of the same destination, interface and metric that differs
    /// in protocol or source address.
    Replace(WantedRoute),
    /// Makes exactly this route (destination, interface, metric, protocol, source address) not exist.
    Remove(WantedRoute),
}

impl RouteChange {
    /// The route that is to exist or not to exist.
    #[must_use]
    pub const fn route(&self) -> &WantedRoute {
        match self {
            Self::Add(route) | Self::Replace(route) | Self::Remove(route) => route,
        }
    }
}

/// Encodes changes, to be sent in this order.
pub fn prepare(changes: impl IntoIterator<Item = impl Borrow<RouteChange>>) -> PreparedBatch {
    let mut builder = BatchBuilder::default();
    for change in changes {
        push(&mut builder, change.borrow());
    }
    builder.finish()
}

/// The same, followed by the end of every route to the destinations of these changes in another table.
pub fn prepare_in_place_of(
    changes: impl IntoIterator<Item = impl Borrow<RouteChange>>,
    table: u32,
) -> PreparedBatch {
    let mut builder = BatchBuilder::default();
    let mut destinations = Vec::new();
    for change in changes {
        push(&mut builder, change.borrow());
        destinations.push(change.borrow().route().destination);
    }
    for destination in destinations {
        builder.push(RouteNetlinkMessage::DelRoute(any_route(destination, table)), 0, &[libc::ESRCH]);
    }
    builder.finish()
}

/// Whatever route a table has to a destination.
fn any_route(destination: IpNet, table: u32) -> RouteMessage {
    let destination = destination.trunc();
    let mut message = RouteMessage::default();
    message.header = RouteHeader {
        address_family: if destination.addr().is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 },
        destination_prefix_length: destination.prefix_len(),
        // KERNEL: the attribute counts; 0 stands for "any type" and "any scope" in a removal (fib_table_delete, ip6_route_del).
        table: RouteHeader::RT_TABLE_UNSPEC,
        scope: RouteScope::NoWhere,
        ..RouteHeader::default()
    };
    message.attributes =
        vec![RouteAttribute::Destination(destination.addr().into()), RouteAttribute::Table(table)];
    message
}

fn push(builder: &mut BatchBuilder, change: &RouteChange) {
    let message = encode(change.route());
    match change {
        RouteChange::Add(route) if route.destination.addr().is_ipv4() => {
            // EEXIST is only returned for a route that is the same in every respect.
            builder.push(RouteNetlinkMessage::NewRoute(message), NLM_F_CREATE, &[libc::EEXIST]);
        }
        RouteChange::Add(_) | RouteChange::Replace(_) => {
            builder.push(RouteNetlinkMessage::NewRoute(message), NLM_F_CREATE | NLM_F_REPLACE, &[]);
        }
        RouteChange::Remove(_) => {
            builder.push(RouteNetlinkMessage::DelRoute(message), 0, &[libc::ESRCH, libc::ENODEV]);
        }
    }
}

pub(super) fn encode(route: &WantedRoute) -> RouteMessage {
    let route = normalised(route);
    let (address_family, scope) = match route.destination {
        IpNet::V4(_) => (AddressFamily::Inet, RouteScope::Link),
        // KERNEL: IPv6 routes have no scope; whatever is asked for reads back as universe.
        IpNet::V6(_) => (AddressFamily::Inet6, RouteScope::Universe),
    };
    let mut message = RouteMessage::default();
    message.header = RouteHeader {
        address_family,
        destination_prefix_length: route.destination.prefix_len(),
        table: RouteHeader::RT_TABLE_MAIN,
        protocol: RouteProtocol::from(route.protocol),
        scope,
        kind: RouteType::Unicast,
        ..RouteHeader::default()
    };
    message.attributes = vec![
        RouteAttribute::Destination(route.destination.addr().into()),
        RouteAttribute::Oif(route.ifindex),
        RouteAttribute::Priority(route.metric),
    ];
    if let Some(source) = route.source {
        message.attributes.push(RouteAttribute::PrefSource(source.into()));
    }
    message
}

/// The route as the kernel will give it back.
#[must_use]
pub fn normalised(route: &WantedRoute) -> WantedRoute {
    let metric = match (route.destination, route.metric) {
        (IpNet::V6(_), 0) => IPV6_DEFAULT_METRIC,
        (_, metric) => metric,
    };
    WantedRoute { destination: route.destination.trunc(), metric, ..*route }
}

/// Reads the payload of a route message. `None` unless it is of the kind that we make: main table, unicast,
/// straight to an interface, without type of service; its protocol may be anybody's.
#[must_use]
pub fn decode(payload: &[u8]) -> Option<ObservedRoute> {
    let header = RouteHeader::parse(payload).ok()?;
    // Most routes of a large host are somebody else's: they are not looked at any further.
    let plain = header.table == RouteHeader::RT_TABLE_MAIN
        && header.kind == RouteType::Unicast
        && header.tos == 0
        && header.source_prefix_length == 0;
    let unspecified = match (header.address_family, header.scope) {
        (AddressFamily::Inet, RouteScope::Link) => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        (AddressFamily::Inet6, _) => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
        _ => return None,
    };
    if !plain {
        return None;
    }
    let message = RouteMessage::parse(payload).ok()?;
    let mut destination = unspecified;
    let mut ifindex = None;
    let mut metric = 0;
    let mut source = None;
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Destination(address) => destination = ip_address(address)?,
            RouteAttribute::Oif(index) => ifindex = Some(*index),
            RouteAttribute::Priority(priority) => metric = *priority,
            RouteAttribute::PrefSource(address) => source = ip_address(address),
            RouteAttribute::Gateway(_)
            | RouteAttribute::Via(_)
            | RouteAttribute::MultiPath(_)
            | RouteAttribute::NhId(_)
            | RouteAttribute::EncapType(_) => return None,
            _ => {}
        }
    }
    Some(ObservedRoute {
        destination: IpNet::new(destination, header.destination_prefix_length).ok()?,
        ifindex: ifindex?,
        metric,
        protocol: u8::from(header.protocol),
        source,
    })
}

/// Destination and metric of a route of the main table, whatever its kind.
pub(super) fn place(payload: &[u8]) -> Option<(IpNet, u32)> {
    let message = RouteMessage::parse(payload).ok()?;
    let mut address = match message.header.address_family {
        AddressFamily::Inet => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        AddressFamily::Inet6 => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
        _ => return None,
    };
    let mut metric = 0;
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Destination(destination) => address = ip_address(destination)?,
            RouteAttribute::Priority(priority) => metric = *priority,
            _ => {}
        }
    }
    let in_main = message.header.table == RouteHeader::RT_TABLE_MAIN;
    let destination = IpNet::new(address, message.header.destination_prefix_length).ok()?;
    in_main.then_some((destination, metric))
}

/// A unicast route of the main table, whoever made it and wherever it leads.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct RouteSeen {
    /// Destination prefix.
    pub destination: IpNet,
    /// Metric.
    pub metric: u32,
    /// Who made it, as the kernel has it.
    pub protocol: u8,
    /// The interface; nothing if there are several next hops.
    pub ifindex: Option<u32>,
    /// The next hop, if it is a router.
    pub gateway: Option<IpAddr>,
}

/// Reads the payload of a route message of any kind that leads to somewhere.
pub(super) fn seen(payload: &[u8]) -> Option<RouteSeen> {
    let (destination, metric) = place(payload)?;
    let message = RouteMessage::parse(payload).ok()?;
    let (mut ifindex, mut gateway) = (None, None);
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Oif(oif) => ifindex = Some(*oif),
            RouteAttribute::Gateway(address) => gateway = ip_address(address),
            _ => {}
        }
    }
    let protocol = u8::from(message.header.protocol);
    (message.header.kind == RouteType::Unicast).then_some(RouteSeen {
        destination,
        metric,
        protocol,
        ifindex,
        gateway,
    })
}

const fn ip_address(address: &RouteAddress) -> Option<IpAddr> {
    match address {
        RouteAddress::Inet(address) => Some(IpAddr::V4(*address)),
        RouteAddress::Inet6(address) => Some(IpAddr::V6(*address)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use netlink_packet_core::Emitable;
    use proptest::prelude::*;

    fn payload(message: &RouteMessage) -> Vec<u8> {
        let mut bytes = vec![0; message.buffer_len()];
        message.emit(&mut bytes);
        bytes
    }

    fn any_route() -> impl Strategy<Value = WantedRoute> {
        let v4 = (any::<[u8; 4]>(), 0..=32_u8, proptest::option::of(any::<[u8; 4]>()))
            .prop_map(|(a, length, s)| (IpAddr::from(a), length, s.map(IpAddr::from)));
        let v6 = (any::<[u8; 16]>(), 0..=128_u8, proptest::option::of(any::<[u8; 16]>()))
            .prop_map(|(a, length, s)| (IpAddr::from(a), length, s.map(IpAddr::from)));
        (prop_oneof![v4, v6], 1..u32::MAX, any::<u32>(), any::<u8>()).prop_map(
            |((address, length, source), ifindex, metric, protocol)| WantedRoute {
                destination: IpNet::new(address, length).expect("a valid length"),
                ifindex,
                metric,
                protocol,
                source,
            },
        )
    }

    proptest! {
        /// W20: what we write reads back as what we wanted, in every respect that we compare.
        #[test]
        fn what_is_written_reads_back_equal(route in any_route()) {
            prop_assert_eq!(decode(&payload(&encode(&route))), Some(normalised(&route)));
        }

        #[test]
        fn normalising_twice_changes_nothing(route in any_route()) {
            prop_assert_eq!(normalised(&normalised(&route)), normalised(&route));
        }

        #[test]
        fn any_bytes_are_read_without_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = decode(&bytes);
        }
    }

    fn example() -> WantedRoute {
        WantedRoute {
            destination: "10.65.0.2/32".parse().unwrap(),
            ifindex: 7,
            metric: 1024,
            protocol: 3,
            source: None,
        }
    }

    /// Bytes of the kernel's headers, so that a mistake of the encoding library would show.
    #[test]
    fn ipv4_add_is_encoded_as_the_kernel_reads_it() {
        let expected: &[u8] = &[
            2, 32, 0, 0, 254, 3, 253, 1, 0, 0, 0, 0, // rtmsg: inet, /32, main, boot, link, unicast
            8, 0, 1, 0, 10, 65, 0, 2, // RTA_DST
            8, 0, 4, 0, 7, 0, 0, 0, // RTA_OIF
            8, 0, 6, 0, 0, 4, 0, 0, // RTA_PRIORITY
        ];
        if cfg!(target_endian = "little") {
            assert_eq!(payload(&encode(&example())), expected);
        }
    }

    #[test]
    fn ipv6_scope_and_default_metric_do_not_differ() {
        let route = WantedRoute { destination: "2001:db8::2/128".parse().unwrap(), metric: 0, ..example() };
        let mut as_read = encode(&route);
        as_read.header.scope = RouteScope::Universe;
        assert_eq!(decode(&payload(&as_read)), Some(WantedRoute { metric: 1024, ..route }));
    }

    #[test]
    fn other_kinds_of_route_are_not_of_ours() {
        let changes: [fn(&mut RouteMessage); 8] = [
            |m| m.header.table = 255,
            |m| m.header.kind = RouteType::BlackHole,
            |m| m.header.tos = 16,
            |m| m.header.scope = RouteScope::Universe,
            |m| m.header.address_family = AddressFamily::Mpls,
            |m| m.attributes.push(RouteAttribute::Gateway(RouteAddress::Inet(Ipv4Addr::LOCALHOST))),
            |m| m.attributes.push(RouteAttribute::NhId(1)),
            |m| m.attributes.retain(|a| !matches!(a, RouteAttribute::Oif(_))),
        ];
        for (position, change) in changes.iter().enumerate() {
            let mut message = encode(&example());
            change(&mut message);
            assert_eq!(decode(&payload(&message)), None, "change {position}");
        }
    }
}
