//! Messages of BGP as our side of a session writes and reads them (RFC 4271, 4760, 6793, 7911, 8950).
//!
//! Owns bytes. Attributes that nobody here has to understand are kept as they came, so that they can be told again byte for byte,
//! which is most of what there is to do (docs/dependencies.md names the libraries for more).

use super::super::observed::{Announcement, Attribute};
use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// LIMIT: of RFC 4271; nobody here asks for longer ones.
pub(super) const LENGTH_MAX: usize = 4096;
pub(super) const HEADER_BYTES: usize = 19;
const MARKER: [u8; 16] = [0xff; 16];
const AS_TRANS: u16 = 23_456;

const OPEN: u8 = 1;
const UPDATE: u8 = 2;
const NOTIFICATION: u8 = 3;
const KEEPALIVE: u8 = 4;

const CAPABILITIES: u8 = 2;
const MULTIPROTOCOL: u8 = 1;
const ROUTE_REFRESH: u8 = 2;
const EXTENDED_NEXT_HOP: u8 = 5;
const ROLE: u8 = 9;
const FOUR_OCTETS: u8 = 65;
const ADD_PATHS: u8 = 69;

const UNICAST: u8 = 1;

const ORIGIN: u8 = 1;
const AS_PATH: u8 = 2;
const NEXT_HOP: u8 = 3;
const MED: u8 = 4;
const LOCAL_PREF: u8 = 5;
const COMMUNITIES: u8 = 8;
const REACH: u8 = 14;
const UNREACH: u8 = 15;
/// What belongs to one hop, or to a router that is not ours: ATOMIC_AGGREGATE, AGGREGATOR, ORIGINATOR_ID, CLUSTER_LIST, AS4_PATH,
/// AS4_AGGREGATOR.
const NOT_KEPT: [u8; 6] = [6, 7, 9, 10, 17, 18];

const OPTIONAL: u8 = 0x80;
const TRANSITIVE: u8 = 0x40;
const EXTENDED_LENGTH: u8 = 0x10;
const SEQUENCE: u8 = 2;

/// What one side says of itself.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct Open {
    pub(super) autonomous_system: u32,
    pub(super) hold_time_s: u16,
    pub(super) router_id: u32,
    /// IPv4 and IPv6 unicast.
    pub(super) families: [bool; 2],
    pub(super) has_four_octets: bool,
    /// By family: bit 0 takes several paths, bit 1 tells them.
    pub(super) add_paths: [u8; 2],
    /// IPv4 routes with a next hop of IPv6.
    pub(super) has_extended_next_hop: bool,
    pub(super) role: Option<u8>,
}

/// A message that arrived.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Message {
    Open(Open),
    Update(Update),
    /// Code and subcode.
    Notification(u8, u8),
    Keepalive,
    /// Route refresh, and what else needs no answer.
    Other,
}

/// What changed in what the other side announces: destination and path identifier.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct Update {
    pub(super) gone: Vec<(IpNet, u32)>,
    pub(super) told: Vec<(IpNet, u32)>,
    pub(super) announcement: Announcement,
}

/// How updates of a session are written.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct Dialect {
    pub(super) has_four_octets: bool,
    /// By family: what arrives has path identifiers.
    pub(super) has_ids_in: [bool; 2],
    /// By family: what we tell has them.
    pub(super) has_ids_out: [bool; 2],
}

impl Open {
    /// The other half of what the daemon offers: whatever it tells, we take.
    pub(super) fn answer(&self, autonomous_system: u32, router_id: u32) -> Self {
        let mirrored = |add_paths: u8| (add_paths & 1) << 1 | (add_paths & 2) >> 1;
        Self {
            autonomous_system,
            router_id,
            hold_time_s: 180,
            add_paths: self.add_paths.map(mirrored),
            // RFC 9234: provider and customer, route server and its client, peer and peer.
            role: self.role.map(|role| match role {
                0 => 3,
                3 => 0,
                1 => 2,
                2 => 1,
                other => other,
            }),
            ..self.clone()
        }
    }

    /// What both agree on, `self` being ours.
    pub(super) fn dialect(&self, other: &Self) -> Dialect {
        let both = |own_bit: u8, other_bit: u8| {
            [0, 1].map(|family| {
                self.add_paths[family] & own_bit != 0 && other.add_paths[family] & other_bit != 0
            })
        };
        Dialect {
            has_four_octets: self.has_four_octets && other.has_four_octets,
            has_ids_in: both(1, 2),
            has_ids_out: both(2, 1),
        }
    }

    pub(super) fn encode(&self) -> Vec<u8> {
        let mut capabilities = vec![ROUTE_REFRESH, 0];
        for (family, is_there) in (1..).zip(self.families) {
            if is_there {
                capabilities.extend([MULTIPROTOCOL, 4, 0, family, 0, UNICAST]);
            }
        }
        if self.has_four_octets {
            capabilities.extend([FOUR_OCTETS, 4]);
            capabilities.extend(self.autonomous_system.to_be_bytes());
        }
        if self.has_extended_next_hop {
            capabilities.extend([EXTENDED_NEXT_HOP, 6, 0, 1, 0, UNICAST, 0, 2]);
        }
        for (family, directions) in (1..).zip(self.add_paths) {
            if directions != 0 {
                capabilities.extend([ADD_PATHS, 4, 0, family, UNICAST, directions]);
            }
        }
        if let Some(role) = self.role {
            capabilities.extend([ROLE, 1, role]);
        }
        let mut body = vec![4];
        body.extend(u16::try_from(self.autonomous_system).unwrap_or(AS_TRANS).to_be_bytes());
        body.extend(self.hold_time_s.to_be_bytes());
        body.extend(self.router_id.to_be_bytes());
        let length = u8::try_from(capabilities.len()).expect("a handful of capabilities");
        body.extend([length + 2, CAPABILITIES, length]);
        body.extend(capabilities);
        framed(OPEN, &body)
    }

    fn decode(body: &[u8]) -> Option<Self> {
        let mut bytes = Bytes(body);
        bytes.take(1)?;
        let mut open = Self {
            autonomous_system: u32::from(bytes.u16()?),
            hold_time_s: bytes.u16()?,
            router_id: bytes.u32()?,
            ..Self::default()
        };
        let mut has_families = false;
        let length = bytes.u8()?;
        let mut parameters = Bytes(bytes.take(usize::from(length))?);
        while let Some(kind) = parameters.u8() {
            let length = parameters.u8()?;
            let value = parameters.take(usize::from(length))?;
            if kind != CAPABILITIES {
                continue;
            }
            let mut capabilities = Bytes(value);
            while let Some(code) = capabilities.u8() {
                let length = capabilities.u8()?;
                let value = capabilities.take(usize::from(length))?;
                match (code, value) {
                    (MULTIPROTOCOL, &[0, family, _, UNICAST]) => {
                        has_families = true;
                        if let Some(place) = index(family) {
                            open.families[place] = true;
                        }
                    }
                    (MULTIPROTOCOL, _) => has_families = true,
                    (FOUR_OCTETS, value) => {
                        open.has_four_octets = true;
                        open.autonomous_system = u32::from_be_bytes(value.try_into().ok()?);
                    }
                    (ADD_PATHS, value) => {
                        for entry in value.chunks_exact(4) {
                            if let &[0, family, UNICAST, directions] = entry
                                && let Some(place) = index(family)
                            {
                                open.add_paths[place] = directions & 3;
                            }
                        }
                    }
                    (EXTENDED_NEXT_HOP, value) => {
                        open.has_extended_next_hop |=
                            value.chunks_exact(6).any(|entry| entry == [0, 1, 0, UNICAST, 0, 2]);
                    }
                    (ROLE, &[role]) => open.role = Some(role),
                    _ => {}
                }
            }
        }
        // Whoever names no family has IPv4.
        if !has_families {
            open.families[0] = true;
        }
        Some(open)
    }
}

/// What says that this side has told everything of a family.
pub(super) fn end_of_rib(is_ipv6: bool) -> Vec<u8> {
    if !is_ipv6 {
        return framed(UPDATE, &[0; 4]);
    }
    let attribute = attribute(OPTIONAL, UNREACH, &[0, 2, UNICAST]);
    update(&[], &attribute, &[])
}

pub(super) fn keepalive() -> Vec<u8> {
    framed(KEEPALIVE, &[])
}

/// A route; `local_pref` only where it belongs, inside of an AS.
pub(super) fn announce(
    destination: IpNet,
    announcement: &Announcement,
    next_hops: &[IpAddr],
    dialect: Dialect,
) -> Vec<u8> {
    let mut attributes = attribute(TRANSITIVE, ORIGIN, &[0]);
    let mut path = Vec::new();
    if !announcement.path.is_empty() {
        path.extend([SEQUENCE, u8::try_from(announcement.path.len()).unwrap_or(u8::MAX)]);
        for number in announcement.path.iter().take(usize::from(u8::MAX)) {
            if dialect.has_four_octets {
                path.extend(number.to_be_bytes());
            } else {
                path.extend(u16::try_from(*number).unwrap_or(AS_TRANS).to_be_bytes());
            }
        }
    }
    attributes.extend(attribute(TRANSITIVE, AS_PATH, &path));
    let nlri = nlri(destination, dialect.has_ids_out[usize::from(destination.addr().is_ipv6())].then_some(1));
    let classic = match (destination, next_hops) {
        (IpNet::V4(_), [IpAddr::V4(next_hop), ..]) => Some(*next_hop),
        _ => None,
    };
    if let Some(next_hop) = classic {
        attributes.extend(attribute(TRANSITIVE, NEXT_HOP, &next_hop.octets()));
    }
    if let Some(med) = announcement.med {
        attributes.extend(attribute(OPTIONAL, MED, &med.to_be_bytes()));
    }
    if let Some(preference) = announcement.local_pref {
        attributes.extend(attribute(TRANSITIVE, LOCAL_PREF, &preference.to_be_bytes()));
    }
    if !announcement.communities.is_empty() {
        let bytes: Vec<u8> =
            announcement.communities.iter().flat_map(|community| community.to_be_bytes()).collect();
        attributes.extend(attribute(OPTIONAL | TRANSITIVE, COMMUNITIES, &bytes));
    }
    if classic.is_none() {
        let family = if destination.addr().is_ipv6() { 2 } else { 1 };
        let hops: Vec<u8> = next_hops.iter().flat_map(|hop| ipv6(*hop).octets()).collect();
        let mut reach = vec![0, family, UNICAST, u8::try_from(hops.len()).unwrap_or_default()];
        reach.extend(hops);
        reach.push(0);
        reach.extend(&nlri);
        attributes.extend(attribute(OPTIONAL, REACH, &reach));
    }
    for more in &announcement.more {
        attributes.extend(attribute(more.flags & !EXTENDED_LENGTH, more.kind, &more.value));
    }
    update(&[], &attributes, if classic.is_some() { &nlri } else { &[] })
}

/// KERNEL: an IPv4 address in the place of one of IPv6, as daemons without an address of IPv6 write it.
fn ipv6(address: IpAddr) -> Ipv6Addr {
    match address {
        IpAddr::V4(address) => address.to_ipv6_mapped(),
        IpAddr::V6(address) => address,
    }
}

/// The length of the whole message that begins with this header, if it is one.
pub(super) fn length(header: &[u8; HEADER_BYTES]) -> Option<usize> {
    let length = usize::from(u16::from_be_bytes([header[16], header[17]]));
    (header[..16] == MARKER && (HEADER_BYTES..=LENGTH_MAX).contains(&length)).then_some(length)
}

/// Reads a whole message.
pub(super) fn decode(message: &[u8], dialect: Dialect) -> Option<Message> {
    let (header, body) = message.split_at_checked(HEADER_BYTES)?;
    Some(match header[18] {
        OPEN => Message::Open(Open::decode(body)?),
        UPDATE => Message::Update(decode_update(body, dialect)?),
        NOTIFICATION => Message::Notification(*body.first()?, *body.get(1)?),
        KEEPALIVE => Message::Keepalive,
        _ => Message::Other,
    })
}

fn decode_update(body: &[u8], dialect: Dialect) -> Option<Update> {
    let mut bytes = Bytes(body);
    let mut update = Update::default();
    let length = bytes.u16()?;
    let withdrawn = bytes.take(usize::from(length))?;
    update.gone = destinations(withdrawn, false, dialect.has_ids_in[0])?;
    let length = bytes.u16()?;
    let mut attributes = Bytes(bytes.take(usize::from(length))?);
    update.told = destinations(bytes.0, false, dialect.has_ids_in[0])?;
    let announcement = &mut update.announcement;
    while let Some(flags) = attributes.u8() {
        let kind = attributes.u8()?;
        let length =
            if flags & EXTENDED_LENGTH != 0 { attributes.u16()? } else { u16::from(attributes.u8()?) };
        let value = attributes.take(usize::from(length))?;
        match kind {
            ORIGIN | NEXT_HOP => {}
            AS_PATH => announcement.path = path(value, dialect.has_four_octets)?,
            MED => announcement.med = Some(u32::from_be_bytes(value.try_into().ok()?)),
            LOCAL_PREF => announcement.local_pref = Some(u32::from_be_bytes(value.try_into().ok()?)),
            COMMUNITIES => {
                let communities = value.chunks_exact(4).filter_map(|it| it.try_into().ok());
                announcement.communities = communities.map(u32::from_be_bytes).collect();
            }
            REACH => {
                let mut value = Bytes(value);
                let (family, kind) = (value.u16()?, value.u8()?);
                let length = value.u8()?;
                value.take(usize::from(length) + 1)?;
                if let (Some(place), UNICAST) = (u8::try_from(family).ok().and_then(index), kind) {
                    update.told.extend(destinations(value.0, place == 1, dialect.has_ids_in[place])?);
                }
            }
            UNREACH => {
                let mut value = Bytes(value);
                let (family, kind) = (value.u16()?, value.u8()?);
                if let (Some(place), UNICAST) = (u8::try_from(family).ok().and_then(index), kind) {
                    update.gone.extend(destinations(value.0, place == 1, dialect.has_ids_in[place])?);
                }
            }
            kind if NOT_KEPT.contains(&kind) => {}
            kind => announcement.more.push(Attribute { flags, kind, value: value.to_vec() }),
        }
    }
    Some(update)
}

fn path(value: &[u8], has_four_octets: bool) -> Option<Vec<u32>> {
    let mut bytes = Bytes(value);
    let mut path = Vec::new();
    while bytes.u8().is_some() {
        for _ in 0..bytes.u8()? {
            path.push(if has_four_octets { bytes.u32()? } else { u32::from(bytes.u16()?) });
        }
    }
    Some(path)
}

fn destinations(mut bytes: &[u8], is_ipv6: bool, has_ids: bool) -> Option<Vec<(IpNet, u32)>> {
    let mut found = Vec::new();
    while !bytes.is_empty() {
        let mut rest = Bytes(bytes);
        let id = if has_ids { rest.u32()? } else { 0 };
        let bits = rest.u8()?;
        let octets = rest.take(usize::from(bits).div_ceil(8))?;
        let mut address = [0; 16];
        address.get_mut(..octets.len())?.copy_from_slice(octets);
        let net = if is_ipv6 {
            IpNet::V6(Ipv6Net::new(address.into(), bits).ok()?)
        } else {
            let [a, b, c, d, ..] = address;
            IpNet::V4(Ipv4Net::new(Ipv4Addr::new(a, b, c, d), bits).ok()?)
        };
        found.push((net, id));
        bytes = rest.0;
    }
    Some(found)
}

fn nlri(destination: IpNet, id: Option<u32>) -> Vec<u8> {
    let mut bytes: Vec<u8> = id.map(|id| id.to_be_bytes().to_vec()).unwrap_or_default();
    bytes.push(destination.prefix_len());
    let octets = match destination.addr() {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    };
    bytes.extend(&octets[..usize::from(destination.prefix_len()).div_ceil(8)]);
    bytes
}

fn update(withdrawn: &[u8], attributes: &[u8], nlri: &[u8]) -> Vec<u8> {
    let length = |bytes: &[u8]| u16::try_from(bytes.len()).unwrap_or_default().to_be_bytes();
    let mut body = length(withdrawn).to_vec();
    body.extend(withdrawn);
    body.extend(length(attributes));
    body.extend(attributes);
    body.extend(nlri);
    framed(UPDATE, &body)
}

fn attribute(flags: u8, kind: u8, value: &[u8]) -> Vec<u8> {
    let mut bytes = match u8::try_from(value.len()) {
        Ok(length) => vec![flags, kind, length],
        Err(_) => {
            let [high, low] = u16::try_from(value.len()).unwrap_or_default().to_be_bytes();
            vec![flags | EXTENDED_LENGTH, kind, high, low]
        }
    };
    bytes.extend(value);
    bytes
}

fn framed(kind: u8, body: &[u8]) -> Vec<u8> {
    let mut message = MARKER.to_vec();
    message.extend(u16::try_from(HEADER_BYTES + body.len()).unwrap_or_default().to_be_bytes());
    message.push(kind);
    message.extend(body);
    message
}

/// IPv4, IPv6, or neither.
fn index(family: u8) -> Option<usize> {
    match family {
        1 => Some(0),
        2 => Some(1),
        _ => None,
    }
}

/// What is left to be read.
struct Bytes<'a>(&'a [u8]);

impl<'a> Bytes<'a> {
    fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        Some(taken)
    }

    fn u8(&mut self) -> Option<u8> {
        self.take(1).map(|bytes| bytes[0])
    }

    fn u16(&mut self) -> Option<u16> {
        Some(u16::from_be_bytes(self.take(2)?.try_into().ok()?))
    }

    fn u32(&mut self) -> Option<u32> {
        Some(u32::from_be_bytes(self.take(4)?.try_into().ok()?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn open() -> Open {
        Open {
            autonomous_system: 4_200_000_001,
            hold_time_s: 90,
            router_id: 7,
            families: [true, true],
            has_four_octets: true,
            add_paths: [2, 3],
            has_extended_next_hop: true,
            role: Some(3),
        }
    }

    #[test]
    fn what_is_offered_is_mirrored() {
        let open = open();
        let read = |bytes: &[u8]| decode(bytes, Dialect::default());
        assert_eq!(read(&open.encode()), Some(Message::Open(open.clone())));
        let answer = open.answer(64_601, 8);
        assert_eq!((answer.add_paths, answer.role), ([1, 3], Some(0)));
        let dialect = answer.dialect(&open);
        assert_eq!((dialect.has_ids_in, dialect.has_ids_out), ([true, true], [false, true]));
        assert_eq!(read(&keepalive()), Some(Message::Keepalive));
    }

    #[test]
    fn routes_are_read_as_they_are_written() {
        let announcement = Announcement {
            local_pref: Some(2_147_483_135),
            med: Some(5),
            path: vec![4_200_000_001, 64_512],
            communities: vec![0xfde8_0064],
            more: vec![Attribute { flags: 0xc0, kind: 32, value: vec![1; 300] }],
        };
        for (destination, hops) in [
            ("10.65.0.2/32", &["192.0.2.12"][..]),
            ("10.65.0.2/32", &["fe80::1"]),
            ("2001:db8::2/128", &["2001:db8::1", "fe80::1"]),
            ("0.0.0.0/0", &["192.0.2.12"]),
        ] {
            for has_ids in [false, true] {
                let dialect =
                    Dialect { has_four_octets: true, has_ids_in: [has_ids; 2], has_ids_out: [has_ids; 2] };
                let destination: IpNet = destination.parse().unwrap();
                let hops: Vec<IpAddr> = hops.iter().map(|hop| hop.parse().unwrap()).collect();
                let bytes = announce(destination, &announcement, &hops, dialect);
                let header = bytes.first_chunk().unwrap();
                assert_eq!(length(header), Some(bytes.len()));
                let Some(Message::Update(mut update)) = decode(&bytes, dialect) else { panic!("{bytes:?}") };
                update.announcement.more.iter_mut().for_each(|more| more.flags &= !EXTENDED_LENGTH);
                assert_eq!(update.told, [(destination, u32::from(has_ids))]);
                assert_eq!(update.announcement, announcement);
            }
        }
        for is_ipv6 in [false, true] {
            assert_eq!(
                decode(&end_of_rib(is_ipv6), Dialect::default()),
                Some(Message::Update(Update::default()))
            );
        }
    }

    proptest::proptest! {
        #[test]
        fn any_bytes_are_read_without_panic(bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..200)) {
            for kind in 0..6 {
                let _ = decode(&framed(kind, &bytes), Dialect::default());
            }
        }
    }
}
