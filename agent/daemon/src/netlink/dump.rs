//! Requests for dumps, one after the other, and for what they leave in doubt.
//!
//! Owns what is asked of the kernel in a full read and in which order. Reading the answers is the business of
//! [`super::monitor`].

use super::neighbour::{self, NeighbourKey};
use netlink_packet_core::{
    NLM_F_ACK, NLM_F_DUMP, NLM_F_REQUEST, NetlinkHeader, NetlinkMessage, NetlinkPayload,
};
use netlink_packet_route::link::LinkMessage;
use netlink_packet_route::neighbour::NeighbourMessage;
use netlink_packet_route::route::{RouteAttribute, RouteHeader, RouteMessage, RouteProtocol, RouteType};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use std::collections::{BTreeSet, VecDeque};

/// Stands for routes of every protocol (RTPROT_UNSPEC, which no route has).
pub(super) const ANY_PROTOCOL: u8 = 0;

/// One request.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Question {
    /// All links.
    Links,
    /// Unicast routes of the main table.
    Routes {
        /// Their family.
        ipv6: bool,
        /// Their protocol, or [`ANY_PROTOCOL`].
        protocol: u8,
    },
    /// IPv6 routes of the main table to one interface, of every protocol: few enough for one walk ([`super::walk`]).
    RoutesOn {
        /// The interface.
        ifindex: u32,
    },
    /// All neighbours.
    Neighbours,
    /// One neighbour. No dump: the kernel looks it up.
    Neighbour {
        /// Which.
        key: NeighbourKey,
    },
}

impl Question {
    /// Whether it is a whole table that the kernel may read in several walks without a warning.
    pub(super) const fn is_ipv6_table(self) -> bool {
        matches!(self, Self::Routes { ipv6: true, .. })
    }
}

/// A full read. Links come first, because it takes their names to know what is a workload's.
pub(super) fn full(protocols: &BTreeSet<u8>) -> VecDeque<Question> {
    let routes = [false, true]
        .into_iter()
        .flat_map(|ipv6| protocols.iter().map(move |&protocol| Question::Routes { ipv6, protocol }));
    [Question::Links].into_iter().chain(routes).chain([Question::Neighbours]).collect()
}

/// The bytes of a request.
///
/// KERNEL: with NETLINK_GET_STRICT_CHK (4.20) the kernel returns only routes of the table, type and protocol in
/// the header and to the interface, if there is one; without it the same request returns everything, and user space drops the rest.
pub(super) fn request(step: Question, sequence: u32) -> Vec<u8> {
    let inner = match step {
        Question::Links => RouteNetlinkMessage::GetLink(LinkMessage::default()),
        Question::Neighbours => RouteNetlinkMessage::GetNeighbour(NeighbourMessage::default()),
        Question::Neighbour { key } => RouteNetlinkMessage::GetNeighbour(neighbour::question(key)),
        Question::Routes { ipv6, protocol } => RouteNetlinkMessage::GetRoute(routes(ipv6, protocol)),
        Question::RoutesOn { ifindex } => {
            let mut message = routes(true, ANY_PROTOCOL);
            message.attributes.push(RouteAttribute::Oif(ifindex));
            RouteNetlinkMessage::GetRoute(message)
        }
    };
    let mut header = NetlinkHeader::default();
    header.flags = NLM_F_REQUEST
        | match step {
            // The end of the answer.
            Question::Neighbour { .. } => NLM_F_ACK,
            _ => NLM_F_DUMP,
        };
    header.sequence_number = sequence;
    let mut message = NetlinkMessage::new(header, NetlinkPayload::InnerMessage(inner));
    message.finalize();
    let mut bytes = vec![0; message.buffer_len()];
    message.serialize(&mut bytes);
    bytes
}

fn routes(ipv6: bool, protocol: u8) -> RouteMessage {
    let mut message = RouteMessage::default();
    message.header = RouteHeader {
        address_family: if ipv6 { AddressFamily::Inet6 } else { AddressFamily::Inet },
        table: RouteHeader::RT_TABLE_MAIN,
        protocol: RouteProtocol::from(protocol),
        kind: RouteType::Unicast,
        ..RouteHeader::default()
    };
    message
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_come_before_everything_that_refers_to_them() {
        let steps = full(&BTreeSet::from([3, 80]));
        assert_eq!(steps.front(), Some(&Question::Links));
        assert_eq!(steps.len(), 1 + 2 * 2 + 1);
        assert!(steps.contains(&Question::Routes { ipv6: true, protocol: 80 }));
    }
}
