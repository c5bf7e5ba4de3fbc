//! Permanent neighbours as the kernel speaks of them.
//!
//! Owns the translation both ways. Only permanent unicast entries exist here: everything else in the
//! neighbour tables (learnt, proxied, offloaded) belongs to others and reads as absent.

use super::batch::{BatchBuilder, PreparedBatch};
use cutover_common::MacAddr;
use netlink_packet_core::{NLM_F_CREATE, NLM_F_REPLACE, NlasIterator};
use netlink_packet_route::neighbour::{
    NeighbourAttribute, NeighbourHeader, NeighbourMessage, NeighbourState,
};
use netlink_packet_route::route::RouteType;
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use std::net::IpAddr;

// linux/neighbour.h
const NDA_DST: u16 = 1;
const NDA_LLADDR: u16 = 2;
const NTF_EXT_LEARNED: u8 = 0x10;
/// `struct ndmsg`: family, padding, number of the interface, state, flags, type.
const HEADER_BYTES: usize = 12;

/// Who has an address on an interface.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct NeighbourKey {
    /// The interface.
    pub ifindex: u32,
    /// The address.
    pub address: IpAddr,
}

/// A permanent neighbour.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Neighbour {
    /// Which entry.
    pub key: NeighbourKey,
    /// Hardware address of whoever has the address.
    pub mac: MacAddr,
}

/// One change to the neighbour tables.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum NeighbourChange {
    /// Makes the entry exist and be permanent, whatever was there.
    Add(Neighbour),
    /// Makes the entry not exist.
    Remove(NeighbourKey),
}

impl NeighbourChange {
    /// The entry that is changed.
    #[must_use]
    pub const fn key(&self) -> NeighbourKey {
        match self {
            Self::Add(neighbour) => neighbour.key,
            Self::Remove(key) => *key,
        }
    }
}

/// Encodes changes, to be sent in this order.
pub fn prepare<'a>(changes: impl IntoIterator<Item = &'a NeighbourChange>) -> PreparedBatch {
    let mut builder = BatchBuilder::default();
    for change in changes {
        let message = encode(change);
        match change {
            NeighbourChange::Add(_) => {
                builder.push(RouteNetlinkMessage::NewNeighbour(message), NLM_F_CREATE | NLM_F_REPLACE, &[])
            }
            NeighbourChange::Remove(_) => {
                builder.push(RouteNetlinkMessage::DelNeighbour(message), 0, &[libc::ENOENT, libc::ENODEV])
            }
        }
    }
    builder.finish()
}

/// Which neighbour to look up (RTM_GETNEIGH without NLM_F_DUMP, since 5.0).
pub(super) fn question(key: NeighbourKey) -> NeighbourMessage {
    let family = if key.address.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
    let mut message = NeighbourMessage::default();
    message.header = NeighbourHeader { family, ifindex: key.ifindex, ..NeighbourHeader::default() };
    message.attributes.push(NeighbourAttribute::Destination(key.address.into()));
    message
}

fn encode(change: &NeighbourChange) -> NeighbourMessage {
    let mut message = question(change.key());
    if let NeighbourChange::Add(neighbour) = change {
        message.header.state = NeighbourState::Permanent;
        message.header.kind = RouteType::Unicast;
        message.attributes.push(NeighbourAttribute::LinkLayerAddress(neighbour.mac.0.to_vec()));
    }
    message
}

/// The interface that a neighbour message is about: all that has to be read of most of them.
#[must_use]
pub(super) fn interface(payload: &[u8]) -> Option<u32> {
    payload.get(4..8)?.first_chunk().map(|number| u32::from_ne_bytes(*number))
}

/// Reads the payload of a neighbour message: which entry, and its hardware address if it is of the kind that
/// we make. `None` if it is not about an IPv4 or IPv6 neighbour at all. LIMIT: allocates nothing, because a guest can have thousands
/// of entries made and changed in a second.
#[must_use]
pub fn decode(payload: &[u8]) -> Option<(NeighbourKey, Option<MacAddr>)> {
    let (header, attributes) = payload.split_at_checked(HEADER_BYTES)?;
    let state = u16::from_ne_bytes(*header[8..].first_chunk()?);
    let flags = header[10];
    // A proxy entry is in a table of its own: it says nothing about the neighbour of the same address.
    if flags & libc::NTF_PROXY != 0 {
        return None;
    }
    let mut address = None;
    let mut mac = None;
    for attribute in NlasIterator::new(attributes) {
        let attribute = attribute.ok()?;
        match attribute.kind() {
            NDA_DST => address = decode_address(header[0], attribute.value()),
            NDA_LLADDR => mac = <[u8; 6]>::try_from(attribute.value()).ok().map(MacAddr),
            _ => {}
        }
    }
    let ours = state == libc::NUD_PERMANENT && flags & NTF_EXT_LEARNED == 0;
    Some((NeighbourKey { ifindex: interface(payload)?, address: address? }, mac.filter(|_| ours)))
}

fn decode_address(family: u8, octets: &[u8]) -> Option<IpAddr> {
    match i32::from(family) {
        libc::AF_INET => <[u8; 4]>::try_from(octets).ok().map(IpAddr::from),
        libc::AF_INET6 => <[u8; 16]>::try_from(octets).ok().map(IpAddr::from),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use netlink_packet_core::Emitable;
    use netlink_packet_route::neighbour::NeighbourFlags;
    use proptest::prelude::*;

    fn payload(message: &NeighbourMessage) -> Vec<u8> {
        let mut bytes = vec![0; message.buffer_len()];
        message.emit(&mut bytes);
        bytes
    }

    fn example() -> Neighbour {
        Neighbour {
            key: NeighbourKey { ifindex: 7, address: "2001:db8::2".parse().unwrap() },
            mac: MacAddr([0xfa, 0x16, 0x3e, 0, 0, 1]),
        }
    }

    proptest! {
        #[test]
        fn what_is_written_reads_back_equal(v4: bool, octets: [u8; 16], ifindex: u32, mac: [u8; 6]) {
            let address = if v4 {
                IpAddr::from([octets[0], octets[1], octets[2], octets[3]])
            } else {
                IpAddr::from(octets)
            };
            let neighbour = Neighbour { key: NeighbourKey { ifindex, address }, mac: MacAddr(mac) };
            prop_assert_eq!(
                decode(&payload(&encode(&NeighbourChange::Add(neighbour)))),
                Some((neighbour.key, Some(neighbour.mac)))
            );
        }

        #[test]
        fn any_bytes_are_read_without_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = decode(&bytes);
        }
    }

    #[test]
    fn entries_of_others_read_as_absent() {
        for state in [NeighbourState::Reachable, NeighbourState::Stale, NeighbourState::Noarp] {
            let mut message = encode(&NeighbourChange::Add(example()));
            message.header.state = state;
            assert_eq!(decode(&payload(&message)), Some((example().key, None)), "{state:?}");
        }
        let mut learnt = encode(&NeighbourChange::Add(example()));
        learnt.header.flags = NeighbourFlags::ExtLearned;
        assert_eq!(decode(&payload(&learnt)), Some((example().key, None)));
    }

    #[test]
    fn proxies_and_bridges_are_not_about_neighbours() {
        let mut proxy = encode(&NeighbourChange::Add(example()));
        proxy.header.flags = NeighbourFlags::Proxy;
        assert_eq!(decode(&payload(&proxy)), None);
        let mut bridge = encode(&NeighbourChange::Add(example()));
        bridge.header.family = AddressFamily::Bridge;
        assert_eq!(decode(&payload(&bridge)), None);
    }
}
