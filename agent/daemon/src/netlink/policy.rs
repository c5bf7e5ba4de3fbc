//! Routing tables beside the main one, and the rules that lead to them.
//!
//! Owns the messages about both, in either direction. Whoever asks says which tables and which protocol are his: everything else is
//! invisible here. The main table is the business of [`super::route`].

use super::Family;
use super::batch::{BatchBuilder, PreparedBatch};
use super::inquiry;
use ipnet::IpNet;
use netlink_packet_core::{NLM_F_CREATE, NLM_F_DUMP, NLM_F_EXCL, NLM_F_REPLACE, Parseable as _};
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteHeader, RouteMessage, RouteMetric, RouteProtocol, RouteScope,
    RouteType,
};
use netlink_packet_route::rule::{RuleAction, RuleAttribute, RuleMessage};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use std::borrow::Borrow;
use std::collections::BTreeSet;
use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Where a route leads.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Way {
    /// Straight to an interface.
    Interface(u32),
    /// What would take it is dropped.
    Nowhere,
}

/// A route of a table that is not the main one.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct SideRoute {
    /// Its table.
    pub table: u32,
    /// Destination.
    pub destination: IpNet,
    /// Where it leads.
    pub way: Way,
    /// Priority: the lower one wins. Not 0, which means another number to IPv6.
    pub metric: u32,
    /// The longest packet that may take it, if that is less than what the interface allows.
    pub mtu: Option<u32>,
    /// Route protocol (`RTA_PROTOCOL` numbers of rtnetlink(7)).
    pub protocol: u8,
}

impl SideRoute {
    /// Its family.
    #[must_use]
    pub const fn family(&self) -> Family {
        match self.destination {
            IpNet::V4(_) => Family::Ipv4,
            IpNet::V6(_) => Family::Ipv6,
        }
    }
}

/// A rule that leads to a table.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Rule {
    /// Its family.
    pub family: Family,
    /// The lower one is asked first.
    pub priority: u32,
    /// The table.
    pub table: u32,
    /// For what comes from this interface; without it, for everything.
    pub from: Option<&'static str>,
    /// As of a route.
    pub protocol: u8,
}

impl fmt::Display for SideRoute {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { destination, table, .. } = self;
        match self.way {
            Way::Interface(ifindex) => write!(f, "{destination} dev #{ifindex} table {table}"),
            Way::Nowhere => write!(f, "blackhole {destination} table {table}"),
        }
    }
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let family = match self.family {
            Family::Ipv4 => "IPv4",
            Family::Ipv6 => "IPv6",
        };
        write!(f, "{family} priority {} table {}", self.priority, self.table)
    }
}

/// One change.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum PolicyChange {
    /// Makes the route exist, in the place of one of the same destination and metric in its table.
    AddRoute(SideRoute),
    /// Makes exactly this route not exist.
    RemoveRoute(SideRoute),
    /// Makes the rule exist, once.
    AddRule(Rule),
    /// Makes the rule not exist.
    RemoveRule(Rule),
}

/// Encodes changes, to be sent in this order.
pub fn prepare(changes: impl IntoIterator<Item = impl Borrow<PolicyChange>>) -> PreparedBatch {
    let mut builder = BatchBuilder::default();
    for change in changes {
        match change.borrow() {
            PolicyChange::AddRoute(route) => {
                let message = RouteNetlinkMessage::NewRoute(encode_route(route, true));
                builder.push(message, NLM_F_CREATE | NLM_F_REPLACE, &[]);
            }
            PolicyChange::RemoveRoute(route) => {
                let message = RouteNetlinkMessage::DelRoute(encode_route(route, false));
                builder.push(message, 0, &[libc::ESRCH, libc::ENODEV]);
            }
            PolicyChange::AddRule(rule) => {
                // KERNEL: without NLM_F_EXCL there would be another one each time.
                let message = RouteNetlinkMessage::NewRule(encode_rule(rule));
                builder.push(message, NLM_F_CREATE | NLM_F_EXCL, &[libc::EEXIST]);
            }
            PolicyChange::RemoveRule(rule) => {
                builder.push(RouteNetlinkMessage::DelRule(encode_rule(rule)), 0, &[libc::ENOENT]);
            }
        }
    }
    builder.finish()
}

/// The routes of this protocol in a table, in the network namespace of the calling thread.
///
/// # Errors
/// When the kernel cannot be asked.
pub fn routes(table: u32, protocol: u8) -> io::Result<BTreeSet<SideRoute>> {
    let mut found = BTreeSet::new();
    for family in Family::BOTH {
        let mut message = RouteMessage::default();
        message.header.address_family = address_family(family);
        message.attributes.push(RouteAttribute::Table(table));
        let answers = dump(&RouteNetlinkMessage::GetRoute(message))?;
        let routes = answers.iter().filter_map(|payload| decode_route(payload));
        found.extend(routes.filter(|route| route.table == table && route.protocol == protocol));
    }
    Ok(found)
}

/// The rules of this protocol, for everything or for what comes from `from`.
///
/// # Errors
/// When the kernel cannot be asked.
pub fn rules(protocol: u8, from: &'static str) -> io::Result<BTreeSet<Rule>> {
    let mut found = BTreeSet::new();
    for family in Family::BOTH {
        let mut message = RuleMessage::default();
        message.header.family = address_family(family);
        let answers = dump(&RouteNetlinkMessage::GetRule(message))?;
        let rules = answers.iter().filter_map(|payload| decode_rule(payload, from));
        found.extend(rules.filter(|rule| rule.protocol == protocol));
    }
    Ok(found)
}

fn dump(message: &RouteNetlinkMessage) -> io::Result<Vec<Vec<u8>>> {
    match inquiry::ask(message, NLM_F_DUMP) {
        Ok(answers) => Ok(answers.into_iter().map(|(_, payload)| payload).collect()),
        // KERNEL: a table that nobody has made; a family that the kernel does not have.
        Err(error)
            if matches!(error.raw_os_error(), Some(libc::ENOENT | libc::EAFNOSUPPORT | libc::EOPNOTSUPP)) =>
        {
            Ok(Vec::new())
        }
        Err(error) => Err(error),
    }
}

const fn address_family(family: Family) -> AddressFamily {
    match family {
        Family::Ipv4 => AddressFamily::Inet,
        Family::Ipv6 => AddressFamily::Inet6,
    }
}

/// KERNEL: metrics of a route that is to be removed would have to be the same in every respect; without them they do not matter.
fn encode_route(route: &SideRoute, with_metrics: bool) -> RouteMessage {
    let (kind, scope) = match (route.way, route.family()) {
        (Way::Interface(_), Family::Ipv4) => (RouteType::Unicast, RouteScope::Link),
        (Way::Interface(_), Family::Ipv6) => (RouteType::Unicast, RouteScope::Universe),
        (Way::Nowhere, _) => (RouteType::BlackHole, RouteScope::Universe),
    };
    let mut message = RouteMessage::default();
    message.header = RouteHeader {
        address_family: address_family(route.family()),
        destination_prefix_length: route.destination.prefix_len(),
        table: RouteHeader::RT_TABLE_UNSPEC,
        protocol: RouteProtocol::from(route.protocol),
        scope,
        kind,
        ..RouteHeader::default()
    };
    message.attributes = vec![RouteAttribute::Table(route.table), RouteAttribute::Priority(route.metric)];
    if route.destination.prefix_len() > 0 {
        message.attributes.push(RouteAttribute::Destination(route.destination.network().into()));
    }
    if let Way::Interface(ifindex) = route.way {
        message.attributes.push(RouteAttribute::Oif(ifindex));
    }
    if let Some(mtu) = route.mtu.filter(|_| with_metrics) {
        message.attributes.push(RouteAttribute::Metrics(vec![RouteMetric::Mtu(mtu)]));
    }
    message
}

/// Reads the payload of a route message. `None` unless it is of a kind that is made here.
fn decode_route(payload: &[u8]) -> Option<SideRoute> {
    let message = RouteMessage::parse(payload).ok()?;
    let header = &message.header;
    let mut address = match header.address_family {
        AddressFamily::Inet => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        AddressFamily::Inet6 => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
        _ => return None,
    };
    let (mut table, mut metric) = (u32::from(header.table), 0);
    let (mut ifindex, mut mtu) = (None, None);
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Table(number) => table = *number,
            RouteAttribute::Destination(RouteAddress::Inet(destination)) => address = (*destination).into(),
            RouteAttribute::Destination(RouteAddress::Inet6(destination)) => address = (*destination).into(),
            RouteAttribute::Oif(number) => ifindex = Some(*number),
            RouteAttribute::Priority(priority) => metric = *priority,
            RouteAttribute::Metrics(metrics) => {
                mtu = metrics.iter().find_map(|metric| match metric {
                    RouteMetric::Mtu(mtu) => Some(*mtu),
                    _ => None,
                });
            }
            RouteAttribute::Gateway(_) | RouteAttribute::Via(_) | RouteAttribute::MultiPath(_) => {
                return None;
            }
            _ => {}
        }
    }
    let way = match header.kind {
        RouteType::Unicast => Way::Interface(ifindex?),
        RouteType::BlackHole => Way::Nowhere,
        _ => return None,
    };
    let destination = IpNet::new(address, header.destination_prefix_length).ok()?;
    let protocol = u8::from(header.protocol);
    Some(SideRoute { table, destination, way, metric, mtu, protocol })
}

fn encode_rule(rule: &Rule) -> RuleMessage {
    let mut message = RuleMessage::default();
    message.header.family = address_family(rule.family);
    message.header.action = RuleAction::ToTable;
    message.attributes = vec![
        RuleAttribute::Priority(rule.priority),
        RuleAttribute::Table(rule.table),
        RuleAttribute::Protocol(RouteProtocol::from(rule.protocol)),
    ];
    message.attributes.extend(rule.from.map(|name| RuleAttribute::Iifname(name.to_owned())));
    message
}

/// Reads the payload of a rule message. `None` unless it is of a kind that is made here.
fn decode_rule(payload: &[u8], from: &'static str) -> Option<Rule> {
    let message = RuleMessage::parse(payload).ok()?;
    let header = &message.header;
    let family = match header.family {
        AddressFamily::Inet => Family::Ipv4,
        AddressFamily::Inet6 => Family::Ipv6,
        _ => return None,
    };
    if header.action != RuleAction::ToTable || (header.dst_len, header.src_len, header.tos) != (0, 0, 0) {
        return None;
    }
    let mut rule = Rule { family, priority: 0, table: u32::from(header.table), from: None, protocol: 0 };
    for attribute in &message.attributes {
        match attribute {
            RuleAttribute::Priority(priority) => rule.priority = *priority,
            RuleAttribute::Table(table) => rule.table = *table,
            RuleAttribute::Protocol(protocol) => rule.protocol = u8::from(*protocol),
            RuleAttribute::Iifname(name) if name == from => rule.from = Some(from),
            RuleAttribute::Iifname(_)
            | RuleAttribute::Oifname(_)
            | RuleAttribute::FwMark(_)
            | RuleAttribute::UidRange(_)
            | RuleAttribute::IpProtocol(_)
            | RuleAttribute::SourcePortRange(_)
            | RuleAttribute::DestinationPortRange(_) => return None,
            _ => {}
        }
    }
    Some(rule)
}

/// What is read of any bytes is written and read as the same.
#[cfg(test)]
pub(super) fn fuzz(payload: &[u8]) {
    use netlink_packet_core::Emitable;
    fn written(message: &impl Emitable) -> Vec<u8> {
        let mut bytes = vec![0; message.buffer_len()];
        message.emit(&mut bytes);
        bytes
    }
    if let Some(rule) = decode_rule(payload, "cutover0") {
        assert_eq!(decode_rule(&written(&encode_rule(&rule)), "cutover0"), Some(rule));
    }
    if let Some(route) = decode_route(payload) {
        assert!(route.destination.prefix_len() <= route.destination.max_prefix_len());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use netlink_packet_core::Emitable;
    use proptest::prelude::*;

    const TUNNEL: &str = "cutover0";

    fn payload(message: &impl Emitable) -> Vec<u8> {
        let mut bytes = vec![0; message.buffer_len()];
        message.emit(&mut bytes);
        bytes
    }

    fn any_route() -> impl Strategy<Value = SideRoute> {
        let ipv4 = (any::<[u8; 4]>(), 0..=32_u8).prop_map(|(a, length)| (IpAddr::from(a), length));
        let ipv6 = (any::<[u8; 16]>(), 0..=128_u8).prop_map(|(a, length)| (IpAddr::from(a), length));
        let way = prop_oneof![any::<u32>().prop_map(Way::Interface), Just(Way::Nowhere)];
        let mtu = proptest::option::of(1280..9000_u32);
        (prop_oneof![ipv4, ipv6], way, 1..u32::MAX, mtu, 1..u32::MAX, any::<u8>()).prop_map(
            |((address, length), way, metric, mtu, table, protocol)| SideRoute {
                table,
                destination: IpNet::new(address, length).expect("a valid length").trunc(),
                way,
                metric,
                mtu,
                protocol,
            },
        )
    }

    fn any_rule() -> impl Strategy<Value = Rule> {
        let family = prop_oneof![Just(Family::Ipv4), Just(Family::Ipv6)];
        let from = prop_oneof![Just(None), Just(Some(TUNNEL))];
        (family, any::<u32>(), 1..u32::MAX, from, any::<u8>()).prop_map(
            |(family, priority, table, from, protocol)| Rule { family, priority, table, from, protocol },
        )
    }

    proptest! {
        #[test]
        fn a_route_reads_back_as_it_was_written(route in any_route()) {
            prop_assert_eq!(decode_route(&payload(&encode_route(&route, true))), Some(route));
        }

        #[test]
        fn a_rule_reads_back_as_it_was_written(rule in any_rule()) {
            prop_assert_eq!(decode_rule(&payload(&encode_rule(&rule)), TUNNEL), Some(rule));
        }

        #[test]
        fn any_bytes_are_read_without_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = decode_route(&bytes);
            let _ = decode_rule(&bytes, TUNNEL);
        }
    }

    #[test]
    fn rules_of_another_kind_are_not_of_ours() {
        let rule = Rule { family: Family::Ipv4, priority: 7, table: 8, from: None, protocol: 3 };
        let others: [fn(&mut RuleMessage); 4] = [
            |message| message.header.action = RuleAction::Blackhole,
            |message| message.header.src_len = 24,
            |message| message.attributes.push(RuleAttribute::Iifname("eth0".to_owned())),
            |message| message.attributes.push(RuleAttribute::FwMark(1)),
        ];
        for (position, change) in others.iter().enumerate() {
            let mut message = encode_rule(&rule);
            change(&mut message);
            assert_eq!(decode_rule(&payload(&message), TUNNEL), None, "change {position}");
        }
    }
}
