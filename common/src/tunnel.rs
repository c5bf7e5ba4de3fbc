//! What may go into the tunnel between the two hosts of a migration, and what may come out of it.
//!
//! Owns the judgement about one packet and the layout of the maps that it goes by. Whoever calls it reads the packet and looks things
//! up: the programs at the two ends of the tunnel's device do that in the kernel's maps, tests in maps of their own.
//!
//! Integers are in the byte order of the host, addresses in network byte order.

use crate::counter::counters;

/// How many prefixes can be forwarded at once, and how many can be received.
///
/// LIMIT: a virtual machine has a handful, so that is room for thousands of them that migrate at once. Kernels before 5.11 count it as
/// locked memory: 1.5 MB.
pub const PREFIXES_MAX: u32 = 16_384;
/// How many tunnels there can be at once in each direction. LIMIT: one for each migration.
pub const TUNNELS_MAX: u32 = 4096;

/// EtherType of IPv4.
pub const ETHER_TYPE_IPV4: u16 = 0x0800;
/// EtherType of IPv6.
pub const ETHER_TYPE_IPV6: u16 = 0x86dd;

/// Bits of a prefix of [`Address`] in front of those of the address.
pub const FAMILY_BITS: u32 = 32;
/// Bits of a prefix of [`Delivery`] in front of those of its [`Address`].
pub const TUNNEL_ID_BITS: u32 = 32;

/// An address of either family, so that one map does for both.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct Address {
    /// 4 or 6; 0 for none.
    pub family: u32,
    /// Those of an IPv4 address are the first four, and zeros follow.
    pub octets: [u8; 16],
}

impl Address {
    /// No address.
    pub const NONE: Self = Self { family: 0, octets: [0; 16] };

    /// Of IPv4.
    #[must_use]
    #[inline(always)]
    pub const fn ipv4(octets: [u8; 4]) -> Self {
        let [a, b, c, d] = octets;
        Self { family: 4, octets: [a, b, c, d, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0] }
    }

    /// Of IPv6.
    #[must_use]
    #[inline(always)]
    pub const fn ipv6(octets: [u8; 16]) -> Self {
        Self { family: 6, octets }
    }

    /// Whether it is that of a group.
    #[must_use]
    #[inline(always)]
    pub const fn is_multicast(&self) -> bool {
        match self.family {
            4 => self.octets[0] >> 4 == 0xe,
            6 => self.octets[0] == 0xff,
            _ => false,
        }
    }

    /// Of IPv4, if it is one.
    #[must_use]
    #[inline(always)]
    pub const fn as_ipv4(&self) -> Option<[u8; 4]> {
        let [a, b, c, d, ..] = self.octets;
        if self.family == 4 { Some([a, b, c, d]) } else { None }
    }
}

/// Value of `FORWARDS`: into which tunnel.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Forward {
    /// Its identifier.
    pub tunnel_id: u32,
    /// The other end of it in the underlay.
    pub peer: Address,
    /// This end of it; [`Address::NONE`] if the kernel chooses. Of the family of `peer`.
    pub local: Address,
}

/// Value of `RECEPTIONS`.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Reception {
    /// The only sender.
    pub peer: Address,
}

/// Key of `DELIVERIES`: an address that may be sent to through a tunnel.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Delivery {
    /// Identifier of the tunnel.
    pub tunnel_id: u32,
    /// The address.
    pub address: Address,
}

/// Value of `FORWARDED` and `RECEIVED`: what has passed.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Traffic {
    /// How many packets.
    pub packets: u64,
    /// How long they were together, from their IP headers on.
    pub bytes: u64,
}

counters! {
    /// What became of a packet. The number is its position in [`TunnelCounters`].
    TunnelCounter;
    /// Value of `TUNNEL_COUNTERS`: every counter of one CPU. The map has a single entry, so that its dump shows
    /// each counter by name.
    TunnelCounters;
    /// It went into the tunnel.
    Forwarded = forwarded,
    /// It came out of the tunnel, for a virtual machine that is arriving.
    Received = received,
    /// It was to go into the tunnel, and is no IP packet.
    ForwardNotIp = forward_not_ip,
    /// It was to go into the tunnel, and nothing is forwarded that is sent to its destination.
    ForwardUnknownAddress = forward_unknown_address,
    /// It was to go into the tunnel, and is for a group. The kernel itself sends such packets when the device comes up.
    ForwardMulticast = forward_multicast,
    /// It was to go into the tunnel, and the kernel did not take its head.
    ForwardRefused = forward_refused,
    /// It came to the device on another way than through a tunnel.
    ReceiveNoKey = receive_no_key,
    /// It came through a tunnel that no reception is about.
    ReceiveUnknownTunnel = receive_unknown_tunnel,
    /// It came from another host than the one that the virtual machine comes from.
    ReceiveWrongSource = receive_wrong_source,
    /// It came out of the tunnel, and is no IP packet.
    ReceiveNotIp = receive_not_ip,
    /// It is for an address that is not that of the virtual machine.
    ReceiveForeignAddress = receive_foreign_address,
}

impl TunnelCounter {
    /// Whether it counts what was dropped.
    #[must_use]
    pub const fn is_drop(self) -> bool {
        !matches!(self, Self::Forwarded | Self::Received)
    }
}

/// Destination of an IPv4 packet that begins with `head`; nothing if it says that it is something else.
#[must_use]
#[inline(always)]
pub const fn ipv4_destination(head: &[u8; 20]) -> Option<Address> {
    if head[0] >> 4 != 4 {
        return None;
    }
    Some(Address::ipv4([head[16], head[17], head[18], head[19]]))
}

/// Destination of an IPv6 packet that begins with `head`; nothing if it says that it is something else.
#[must_use]
#[inline(always)]
pub fn ipv6_destination(head: &[u8; 40]) -> Option<Address> {
    let destination = head.last_chunk()?;
    if head[0] >> 4 != 6 {
        return None;
    }
    Some(Address::ipv6(*destination))
}

/// Into which tunnel a packet goes, by its destination.
///
/// # Errors
/// Into none: it is to be dropped, and counted as this.
#[inline(always)]
pub fn judge_departure<'a>(
    destination: Option<Address>,
    forward: impl FnOnce(&Address) -> Option<&'a Forward>,
) -> Result<&'a Forward, TunnelCounter> {
    let destination = destination.ok_or(TunnelCounter::ForwardNotIp)?;
    if destination.is_multicast() {
        return Err(TunnelCounter::ForwardMulticast);
    }
    forward(&destination).ok_or(TunnelCounter::ForwardUnknownAddress)
}

/// What is known of the tunnels that packets may come out of.
pub trait Receptions {
    /// The one of an identifier.
    fn reception(&self, tunnel_id: u32) -> Option<&Reception>;

    /// Whether this is within one of its prefixes.
    fn has(&self, delivery: &Delivery) -> bool;
}

/// Through which tunnel a packet has come that may pass, by identifier and sender in the underlay, and by its destination.
///
/// # Errors
/// It is to be dropped, and counted as this. The first of several reasons is the one nearest to the outside.
#[inline(always)]
pub fn judge_arrival(
    tunnel: Option<(u32, Address)>,
    destination: impl FnOnce() -> Option<Address>,
    receptions: &impl Receptions,
) -> Result<u32, TunnelCounter> {
    let (tunnel_id, sender) = tunnel.ok_or(TunnelCounter::ReceiveNoKey)?;
    let reception = receptions.reception(tunnel_id).ok_or(TunnelCounter::ReceiveUnknownTunnel)?;
    if reception.peer != sender {
        return Err(TunnelCounter::ReceiveWrongSource);
    }
    let address = destination().ok_or(TunnelCounter::ReceiveNotIp)?;
    if receptions.has(&Delivery { tunnel_id, address }) {
        Ok(tunnel_id)
    } else {
        Err(TunnelCounter::ReceiveForeignAddress)
    }
}

#[cfg(feature = "user")]
#[expect(unsafe_code, reason = "says that the kernel may copy these as they are")]
mod user {
    use super::{Address, Delivery, Forward, Reception, Traffic, TunnelCounters};
    use core::net::IpAddr;

    impl From<IpAddr> for Address {
        fn from(address: IpAddr) -> Self {
            match address {
                IpAddr::V4(address) => Self::ipv4(address.octets()),
                IpAddr::V6(address) => Self::ipv6(address.octets()),
            }
        }
    }

    // SAFETY: `repr(C)`, made of integers and arrays of integers only, no implicit padding (asserted below).
    unsafe impl aya::Pod for Address {}
    // SAFETY: as above.
    unsafe impl aya::Pod for Forward {}
    // SAFETY: as above.
    unsafe impl aya::Pod for Reception {}
    // SAFETY: as above.
    unsafe impl aya::Pod for Delivery {}
    // SAFETY: as above.
    unsafe impl aya::Pod for Traffic {}
    // SAFETY: as above.
    unsafe impl aya::Pod for TunnelCounters {}
}

// INVARIANT: no implicit padding, or keys that are equal would differ in it.
const _: () = {
    assert!(size_of::<Address>() == 20);
    assert!(size_of::<Forward>() == 4 + 2 * 20);
    assert!(size_of::<Reception>() == 20);
    assert!(size_of::<Delivery>() == 24);
    assert!(size_of::<Traffic>() == 16);
};

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::{BTreeMap, BTreeSet};

    const VM: Address = Address::ipv4([10, 65, 0, 2]);
    const PEER: Address = Address::ipv4([192, 0, 2, 1]);

    #[derive(Default)]
    struct Known {
        receptions: BTreeMap<u32, Reception>,
        deliveries: BTreeSet<Delivery>,
    }

    impl Receptions for Known {
        fn reception(&self, tunnel_id: u32) -> Option<&Reception> {
            self.receptions.get(&tunnel_id)
        }

        fn has(&self, delivery: &Delivery) -> bool {
            self.deliveries.contains(delivery)
        }
    }

    fn two_tunnels() -> Known {
        let other_vm = Address::ipv4([10, 65, 0, 3]);
        Known {
            receptions: [7, 8].map(|id| (id, Reception { peer: PEER })).into(),
            deliveries: [(7, VM), (8, other_vm)]
                .map(|(tunnel_id, address)| Delivery { tunnel_id, address })
                .into(),
        }
    }

    #[test]
    fn what_comes_is_let_through_or_dropped_for_the_outermost_reason() {
        let known = two_tunnels();
        let other_peer = Address::ipv4([192, 0, 2, 2]);
        let other_vm = Address::ipv4([10, 65, 0, 3]);
        let as_ipv6 = Address { family: 6, ..PEER };
        for (tunnel, destination, expected) in [
            (Some((7, PEER)), Some(VM), Ok(7)),
            (Some((8, PEER)), Some(other_vm), Ok(8)),
            (None, Some(VM), Err(TunnelCounter::ReceiveNoKey)),
            (Some((9, other_peer)), None, Err(TunnelCounter::ReceiveUnknownTunnel)),
            (Some((7, other_peer)), None, Err(TunnelCounter::ReceiveWrongSource)),
            (Some((7, as_ipv6)), Some(VM), Err(TunnelCounter::ReceiveWrongSource)),
            (Some((7, PEER)), None, Err(TunnelCounter::ReceiveNotIp)),
            // Of another virtual machine that is arriving as well, and of the same octets in the other family.
            (Some((7, PEER)), Some(other_vm), Err(TunnelCounter::ReceiveForeignAddress)),
            (Some((7, PEER)), Some(Address { family: 6, ..VM }), Err(TunnelCounter::ReceiveForeignAddress)),
        ] {
            assert_eq!(judge_arrival(tunnel, || destination, &known), expected, "{tunnel:?} {destination:?}");
        }
    }

    #[test]
    fn what_goes_has_a_destination_that_is_forwarded() {
        let forward = Forward { tunnel_id: 7, peer: PEER, local: Address::NONE };
        let known = BTreeMap::from([(VM, forward)]);
        let judge = |destination| judge_departure(destination, |address| known.get(address)).copied();
        assert_eq!(judge(Some(VM)), Ok(forward));
        assert_eq!(judge(Some(PEER)), Err(TunnelCounter::ForwardUnknownAddress));
        assert_eq!(judge(None), Err(TunnelCounter::ForwardNotIp));
        let mut all_nodes = [0; 16];
        (all_nodes[0], all_nodes[15]) = (0xff, 1);
        for group in [Address::ipv4([224, 0, 0, 22]), Address::ipv6(all_nodes)] {
            assert_eq!(judge(Some(group)), Err(TunnelCounter::ForwardMulticast));
        }
    }

    #[test]
    fn only_what_passed_is_no_drop() {
        let passed: Vec<_> = TunnelCounter::ALL.iter().filter(|counter| !counter.is_drop()).collect();
        assert_eq!(passed, [&TunnelCounter::Forwarded, &TunnelCounter::Received]);
    }

    proptest! {
        #[test]
        fn the_destination_is_read_if_the_version_is_right(mut head in any::<[u8; 40]>(), version in 0..16_u8) {
            head[0] = version << 4 | head[0] & 0xf;
            let ipv4: [u8; 20] = *head.first_chunk().unwrap();
            let expected = (version == 4).then(|| Address::ipv4([head[16], head[17], head[18], head[19]]));
            prop_assert_eq!(ipv4_destination(&ipv4), expected);
            prop_assert_eq!(expected.and_then(|address| address.as_ipv4()).is_some(), version == 4);
            let expected = (version == 6).then(|| Address::ipv6(head[24..].try_into().unwrap()));
            prop_assert_eq!(ipv6_destination(&head), expected);
        }

        /// Whatever comes, a packet passes only through a tunnel that is known, from its peer, to its addresses.
        #[test]
        fn nothing_else_passes(id in 6..10_u32, peer in 0..4_u8, vm in 0..5_u8) {
            let sender = Address::ipv4([192, 0, 2, peer]);
            let address = Address::ipv4([10, 65, 0, vm]);
            let known = two_tunnels();
            let passes = judge_arrival(Some((id, sender)), || Some(address), &known).is_ok();
            let is_right = sender == PEER && ((id == 7 && vm == 2) || (id == 8 && vm == 3));
            prop_assert_eq!(passes, is_right);
        }
    }
}
