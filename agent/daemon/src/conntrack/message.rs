//! Messages of ctnetlink: what the kernel says of a connection, and how it is asked, told to make one and to delete one. Pure.
//!
//! Owns the spelling (include/uapi/linux/netfilter/nfnetlink_conntrack.h) and what a made entry has to look like so that the kernel
//! goes on where another kernel stopped. It does not decide which entries are carried or accepted.

use super::entry::{Entry, Key, State, Tuple};
use crate::netlink::attributes::{Attributes, each, find};
use std::net::IpAddr;

/// NFNL_SUBSYS_CTNETLINK.
const SUBSYSTEM: u16 = 1;
/// IPCTNL_MSG_CT_*.
pub(super) const NEW: u16 = SUBSYSTEM << 8;
pub(super) const GET: u16 = SUBSYSTEM << 8 | 1;
pub(super) const DELETE: u16 = SUBSYSTEM << 8 | 2;

/// The header of nfnetlink: family, version, resource.
const HEADER_BYTES: usize = 4;

/// CTA_*.
mod attribute {
    pub(super) const TUPLE_ORIGINAL: u16 = 1;
    pub(super) const TUPLE_REPLY: u16 = 2;
    pub(super) const STATUS: u16 = 3;
    pub(super) const PROTOCOL_STATE: u16 = 4;
    pub(super) const HELPER: u16 = 5;
    pub(super) const NAT_SOURCE: u16 = 6;
    pub(super) const TIMEOUT: u16 = 7;
    pub(super) const MARK: u16 = 8;
    pub(super) const ID: u16 = 12;
    pub(super) const NAT_DESTINATION: u16 = 13;
    pub(super) const TUPLE_MASTER: u16 = 14;
    pub(super) const SEQUENCE_ORIGINAL: u16 = 15;
    pub(super) const SEQUENCE_REPLY: u16 = 16;
    pub(super) const ZONE: u16 = 18;
    pub(super) const LABELS: u16 = 22;
    pub(super) const SYNPROXY: u16 = 24;
    pub(super) const FILTER: u16 = 25;
}

/// Inside of a tuple.
mod tuple {
    pub(super) const ADDRESSES: u16 = 1;
    pub(super) const PROTOCOL: u16 = 2;
    /// CTA_IP_*: source, then destination.
    pub(super) const IPV4: [u16; 2] = [1, 2];
    pub(super) const IPV6: [u16; 2] = [3, 4];
    /// CTA_PROTO_*.
    pub(super) const NUMBER: u16 = 1;
    pub(super) const PORTS: [u16; 2] = [2, 3];
    /// Identifier, type, code.
    pub(super) const ICMP: [u16; 3] = [4, 5, 6];
    pub(super) const ICMPV6: [u16; 3] = [7, 8, 9];
}

/// Inside of what a protocol remembers: CTA_PROTOINFO_*.
mod protocol_state {
    pub(super) const TCP: u16 = 1;
    pub(super) const DCCP: u16 = 2;
    pub(super) const SCTP: u16 = 3;
    pub(super) const STATE: u16 = 1;
    pub(super) const TCP_SCALE: [u16; 2] = [2, 3];
    pub(super) const TCP_FLAGS: [u16; 2] = [4, 5];
    pub(super) const DCCP_ROLE: u16 = 2;
    pub(super) const DCCP_HANDSHAKE: u16 = 3;
    pub(super) const SCTP_TAGS: [u16; 2] = [2, 3];
}

/// Inside of a translation: CTA_NAT_* and CTA_PROTONAT_*, lowest and highest.
mod translation {
    pub(super) const IPV4: [u16; 2] = [1, 2];
    pub(super) const PROTOCOL: u16 = 3;
    pub(super) const IPV6: [u16; 2] = [4, 5];
    pub(super) const NUMBERS: [u16; 2] = [1, 2];
}

/// Bits of the status: IPS_*.
pub(super) mod status {
    pub(crate) const SEEN_REPLY: u32 = 1 << 1;
    pub(crate) const ASSURED: u32 = 1 << 2;
    pub(crate) const CONFIRMED: u32 = 1 << 3;
    pub(crate) const DYING: u32 = 1 << 9;
    pub(crate) const OFFLOADED: u32 = 1 << 14;
}

/// Flags of each direction of TCP: IP_CT_TCP_FLAG_*.
pub(super) mod tcp_flag {
    pub(crate) const WINDOW_SCALE: u8 = 0x01;
    pub(crate) const SACK_PERM: u8 = 0x02;
    pub(crate) const CLOSE_INIT: u8 = 0x04;
    pub(crate) const BE_LIBERAL: u8 = 0x08;
}

/// TCP_CONNTRACK_TIME_WAIT.
const TCP_TIME_WAIT: u8 = 7;

/// What the kernel says of one connection.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Dumped {
    pub(super) original: Tuple,
    pub(super) reply: Tuple,
    pub(super) status: u32,
    /// Missing while a flow table has the connection.
    pub(super) timeout_s: Option<u32>,
    /// Missing likewise.
    pub(super) state: Option<State>,
    pub(super) mark: u32,
    pub(super) labels: Option<[u8; 16]>,
    pub(super) zone: u16,
    pub(super) has_helper: bool,
    pub(super) has_master: bool,
    /// Its sequence numbers are shifted.
    pub(super) is_adjusted: bool,
    /// Tells it from another one with the same tuples, later.
    pub(super) id: Option<u32>,
}

/// Reads what follows the netlink header of an answer. `concerns` sees the tuples first: most connections are others'.
pub(super) fn parse(payload: &[u8], concerns: impl Fn(&Tuple, &Tuple) -> bool) -> Option<Dumped> {
    let attributes = payload.get(HEADER_BYTES..)?;
    let original = parse_tuple(find(attributes, attribute::TUPLE_ORIGINAL)?)?;
    let reply = parse_tuple(find(attributes, attribute::TUPLE_REPLY)?)?;
    if !concerns(&original, &reply) {
        return None;
    }
    let mut dumped = Dumped {
        original,
        reply,
        status: 0,
        timeout_s: None,
        state: None,
        mark: 0,
        labels: None,
        zone: 0,
        has_helper: false,
        has_master: false,
        is_adjusted: false,
        id: None,
    };
    for (kind, value) in each(attributes) {
        match kind {
            attribute::STATUS => dumped.status = be32(value)?,
            attribute::TIMEOUT => dumped.timeout_s = be32(value),
            attribute::PROTOCOL_STATE => dumped.state = parse_state(value),
            attribute::MARK => dumped.mark = be32(value)?,
            attribute::ID => dumped.id = be32(value),
            attribute::ZONE => dumped.zone = be16(value)?,
            attribute::LABELS => {
                dumped.labels = value.try_into().ok().filter(|labels: &[u8; 16]| labels != &[0; 16]);
            }
            attribute::HELPER => dumped.has_helper = true,
            attribute::TUPLE_MASTER => dumped.has_master = true,
            attribute::SEQUENCE_ORIGINAL | attribute::SEQUENCE_REPLY => dumped.is_adjusted = true,
            // KERNEL: every connection that was made by ctnetlink has it, filled with zeros (`ctnetlink_create_conntrack`). Where a VM
            // moves for the second time, that is each one.
            attribute::SYNPROXY => {
                dumped.is_adjusted |= each(value).any(|(_, number)| number.iter().any(|byte| *byte != 0));
            }
            _ => {}
        }
    }
    Some(dumped)
}

fn parse_tuple(attributes: &[u8]) -> Option<Tuple> {
    let addresses = find(attributes, tuple::ADDRESSES)?;
    let ipv4 = |kind| Some(IpAddr::from(<[u8; 4]>::try_from(find(addresses, kind)?).ok()?));
    let ipv6 = |kind| Some(IpAddr::from(<[u8; 16]>::try_from(find(addresses, kind)?).ok()?));
    let source = ipv4(tuple::IPV4[0]).or_else(|| ipv6(tuple::IPV6[0]))?;
    let destination = ipv4(tuple::IPV4[1]).or_else(|| ipv6(tuple::IPV6[1]))?;

    let attributes = find(attributes, tuple::PROTOCOL)?;
    let protocol = *find(attributes, tuple::NUMBER)?.first()?;
    let number = |kind| be16(find(attributes, kind)?);
    let byte = |kind| find(attributes, kind)?.first().copied();
    let icmp = |[id, kind, code]: [u16; 3]| Some(Key::Icmp(number(id)?, byte(kind)?, byte(code)?));
    let ports = || Some(Key::Ports(number(tuple::PORTS[0])?, number(tuple::PORTS[1])?));
    let key = ports().or_else(|| icmp(tuple::ICMP)).or_else(|| icmp(tuple::ICMPV6)).unwrap_or(Key::Nothing);
    Some(Tuple { source, destination, protocol, key })
}

fn parse_state(attributes: &[u8]) -> Option<State> {
    let byte = |attributes, kind| find(attributes, kind).and_then(|value| value.first().copied());
    if let Some(tcp) = find(attributes, protocol_state::TCP) {
        let of_both = |kinds: [u16; 2]| kinds.map(|kind| byte(tcp, kind).unwrap_or(0));
        return Some(State::Tcp {
            state: byte(tcp, protocol_state::STATE)?,
            flags: of_both(protocol_state::TCP_FLAGS),
            scale: of_both(protocol_state::TCP_SCALE),
        });
    }
    if let Some(sctp) = find(attributes, protocol_state::SCTP) {
        let [original, reply] = protocol_state::SCTP_TAGS.map(|kind| find(sctp, kind).and_then(be32));
        return Some(State::Sctp { state: byte(sctp, protocol_state::STATE)?, tags: [original?, reply?] });
    }
    let dccp = find(attributes, protocol_state::DCCP)?;
    let handshake = find(dccp, protocol_state::DCCP_HANDSHAKE)?.try_into().ok()?;
    Some(State::Dccp {
        state: byte(dccp, protocol_state::STATE)?,
        role: byte(dccp, protocol_state::DCCP_ROLE)?,
        handshake: u64::from_be_bytes(handshake),
    })
}

fn be16(value: &[u8]) -> Option<u16> {
    Some(u16::from_be_bytes(value.try_into().ok()?))
}

fn be32(value: &[u8]) -> Option<u32> {
    Some(u32::from_be_bytes(value.try_into().ok()?))
}

/// Which of a connection's addresses the kernel compares.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Position {
    OriginalSource,
    OriginalDestination,
    ReplySource,
    ReplyDestination,
}

impl Position {
    pub(super) const ALL: [Self; 4] =
        [Self::OriginalSource, Self::OriginalDestination, Self::ReplySource, Self::ReplyDestination];
    /// Where the real addresses of the two ends are, whatever is translated.
    pub(super) const ENDS: [Self; 2] = [Self::OriginalSource, Self::ReplySource];
}

/// The body of a request for a dump of everything, of one family or of both (0).
pub(super) fn dump_all(family: u8) -> Vec<u8> {
    header(family).into_bytes()
}

/// The same for the connections that have an address in a certain position.
///
/// KERNEL: by address since 5.8 (CTA_FILTER, `ctnetlink_alloc_filter`). Older kernels ignore the attribute and dump everything.
pub(super) fn dump_of(address: IpAddr, position: Position) -> Vec<u8> {
    // CTA_FILTER_F_CTA_IP_SRC, CTA_FILTER_F_CTA_IP_DST, in the host's byte order; CTA_FILTER_ORIG_FLAGS, CTA_FILTER_REPLY_FLAGS.
    let (tuple_kind, flags_kind, which) = match position {
        Position::OriginalSource => (attribute::TUPLE_ORIGINAL, 1, 0),
        Position::OriginalDestination => (attribute::TUPLE_ORIGINAL, 1, 1),
        Position::ReplySource => (attribute::TUPLE_REPLY, 2, 0),
        Position::ReplyDestination => (attribute::TUPLE_REPLY, 2, 1),
    };
    let mut attributes = header(family(address));
    attributes.nest(tuple_kind, |inner| {
        inner.nest(tuple::ADDRESSES, |inner| put_address(inner, address, tuple::IPV4, tuple::IPV6, which));
    });
    attributes.nest(attribute::FILTER, |inner| inner.put(flags_kind, &(1_u32 << which).to_ne_bytes()));
    attributes.into_bytes()
}

/// The body of a question about one connection.
pub(super) fn name(original: &Tuple) -> Vec<u8> {
    let mut attributes = header(family(original.source));
    put_tuple(&mut attributes, attribute::TUPLE_ORIGINAL, original);
    attributes.into_bytes()
}

/// The body of a request to delete one connection: that very one, if `id` says which.
pub(super) fn delete(original: &Tuple, id: Option<u32>) -> Vec<u8> {
    let mut attributes = header(family(original.source));
    put_tuple(&mut attributes, attribute::TUPLE_ORIGINAL, original);
    if let Some(id) = id {
        attributes.put(attribute::ID, &id.to_be_bytes());
    }
    attributes.into_bytes()
}

/// The body of a request to let packets of a TCP connection pass wherever they are in its windows.
pub(super) fn loosen(original: &Tuple) -> Vec<u8> {
    let mut attributes = header(family(original.source));
    put_tuple(&mut attributes, attribute::TUPLE_ORIGINAL, original);
    attributes.nest(attribute::PROTOCOL_STATE, |inner| {
        inner.nest(protocol_state::TCP, |inner| {
            for kind in protocol_state::TCP_FLAGS {
                inner.put(kind, &[tcp_flag::BE_LIBERAL; 2]);
            }
        });
    });
    attributes.into_bytes()
}

/// The body of a request to make a connection.
///
/// KERNEL: the bits that say "translated" cannot be given. The kernel sets them when it finds that a translation changes the
/// reply tuple (`nf_nat_setup_info`). So a translated connection is made with the reply tuple that it would have without, and
/// the translation beside it. With the reply tuple as it was dumped nothing is left to change, and nothing is translated ever after.
pub(super) fn create(entry: &Entry) -> Vec<u8> {
    let Entry { original, reply, .. } = entry;
    let mut attributes = header(family(original.source));
    let untranslated = original.answered(reply);
    put_tuple(&mut attributes, attribute::TUPLE_ORIGINAL, original);
    put_tuple(&mut attributes, attribute::TUPLE_REPLY, &untranslated);
    if *reply != untranslated {
        // Both, so that the other one is not left to the rules of this host.
        put_translation(&mut attributes, attribute::NAT_DESTINATION, reply.near());
        put_translation(&mut attributes, attribute::NAT_SOURCE, reply.far());
    }
    let mut bits = status::CONFIRMED;
    if entry.seen_reply {
        bits |= status::SEEN_REPLY;
    }
    if entry.assured {
        bits |= status::ASSURED;
    }
    attributes.put(attribute::STATUS, &bits.to_be_bytes());
    attributes.put(attribute::TIMEOUT, &entry.timeout_s.to_be_bytes());
    put_state(&mut attributes, entry.state);
    if entry.mark != 0 {
        attributes.put(attribute::MARK, &entry.mark.to_be_bytes());
    }
    if let Some(labels) = entry.labels {
        attributes.put(attribute::LABELS, &labels);
    }
    attributes.into_bytes()
}

fn header(family: u8) -> Attributes {
    Attributes::after(&[family, 0, 0, 0])
}

/// AF_INET, AF_INET6.
const fn family(address: IpAddr) -> u8 {
    match address {
        IpAddr::V4(_) => 2,
        IpAddr::V6(_) => 10,
    }
}

fn put_address(attributes: &mut Attributes, address: IpAddr, ipv4: [u16; 2], ipv6: [u16; 2], which: usize) {
    match address {
        IpAddr::V4(address) => attributes.put(ipv4[which], &address.octets()),
        IpAddr::V6(address) => attributes.put(ipv6[which], &address.octets()),
    }
}

fn put_tuple(attributes: &mut Attributes, kind: u16, tuple: &Tuple) {
    attributes.nest(kind, |inner| {
        inner.nest(tuple::ADDRESSES, |inner| {
            put_address(inner, tuple.source, tuple::IPV4, tuple::IPV6, 0);
            put_address(inner, tuple.destination, tuple::IPV4, tuple::IPV6, 1);
        });
        inner.nest(tuple::PROTOCOL, |inner| {
            inner.put(tuple::NUMBER, &[tuple.protocol]);
            match tuple.key {
                Key::Nothing => {}
                Key::Ports(source, destination) => {
                    inner.put(tuple::PORTS[0], &source.to_be_bytes());
                    inner.put(tuple::PORTS[1], &destination.to_be_bytes());
                }
                Key::Icmp(id, kind, code) => {
                    let kinds = if i32::from(tuple.protocol) == libc::IPPROTO_ICMPV6 {
                        tuple::ICMPV6
                    } else {
                        tuple::ICMP
                    };
                    inner.put(kinds[0], &id.to_be_bytes());
                    inner.put(kinds[1], &[kind]);
                    inner.put(kinds[2], &[code]);
                }
            }
        });
    });
}

/// To one address and one port or identifier.
///
/// KERNEL: without the port, the kernel may choose another one if it believes this one to be taken (`get_unique_tuple`); with it, the
/// connection is made as it is or not at all.
fn put_translation(attributes: &mut Attributes, kind: u16, (address, number): (IpAddr, u16)) {
    attributes.nest(kind, |inner| {
        for which in [0, 1] {
            put_address(inner, address, translation::IPV4, translation::IPV6, which);
        }
        inner.nest(translation::PROTOCOL, |inner| {
            for kind in translation::NUMBERS {
                inner.put(kind, &number.to_be_bytes());
            }
        });
    });
}

fn put_state(attributes: &mut Attributes, state: State) {
    match state {
        State::Nothing => {}
        State::Tcp { state, flags, scale } => attributes.nest(attribute::PROTOCOL_STATE, |inner| {
            inner.nest(protocol_state::TCP, |inner| {
                inner.put(protocol_state::STATE, &[state]);
                for which in [0, 1] {
                    let flags = made_flags(state, flags[which]);
                    inner.put(protocol_state::TCP_SCALE[which], &[scale[which]]);
                    // The second byte says which of them are meant.
                    inner.put(protocol_state::TCP_FLAGS[which], &[flags, flags]);
                }
            });
        }),
        State::Sctp { state, tags } => attributes.nest(attribute::PROTOCOL_STATE, |inner| {
            inner.nest(protocol_state::SCTP, |inner| {
                inner.put(protocol_state::STATE, &[state]);
                for which in [0, 1] {
                    inner.put(protocol_state::SCTP_TAGS[which], &tags[which].to_be_bytes());
                }
            });
        }),
        State::Dccp { state, role, handshake } => attributes.nest(attribute::PROTOCOL_STATE, |inner| {
            inner.nest(protocol_state::DCCP, |inner| {
                inner.put(protocol_state::STATE, &[state]);
                inner.put(protocol_state::DCCP_ROLE, &[role]);
                inner.put(protocol_state::DCCP_HANDSHAKE, &handshake.to_be_bytes());
            });
        }),
    }
}

/// KERNEL: the positions of the windows are not in a dump, so packets that are in flight would be outside of what the new entry takes
/// for the window, and be invalid: liberal. `tcp_in_window` needs to know that acknowledgements may be selective. And a
/// connection that is over may be opened again with the same ports only if it is known that its end was begun.
const fn made_flags(state: u8, flags: u8) -> u8 {
    let flags = kept_flags(flags) | tcp_flag::BE_LIBERAL | tcp_flag::SACK_PERM;
    if state >= TCP_TIME_WAIT { flags | tcp_flag::CLOSE_INIT } else { flags }
}

/// The flags that are true elsewhere: the others are about positions.
pub(super) const fn kept_flags(flags: u8) -> u8 {
    flags & (tcp_flag::WINDOW_SCALE | tcp_flag::SACK_PERM | tcp_flag::CLOSE_INIT)
}

#[cfg(test)]
pub(super) mod fuzz;

#[cfg(test)]
mod tests;
