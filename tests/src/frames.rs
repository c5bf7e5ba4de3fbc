//! Builders of Ethernet frames: everything a guest may send when it resumes, and everything that only looks
//! like it. Written from the RFCs, without the agent's classifier, so the two check each other.

use cutover_common::MacAddr;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// The hardware address of everybody.
pub const BROADCAST: MacAddr = MacAddr([0xff; 6]);
/// Smallest Ethernet payload that needs no padding.
const PAYLOAD_MIN: usize = 46;

/// An Ethernet frame without its check sum.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Frame(Vec<u8>);

impl Frame {
    /// Any bytes at all.
    #[must_use]
    pub fn raw(bytes: Vec<u8>) -> Self {
        Self(bytes)
    }

    fn ethernet(destination: MacAddr, source: MacAddr, ether_type: u16, payload: &[u8]) -> Self {
        let mut bytes = Vec::with_capacity(14 + payload.len().max(PAYLOAD_MIN));
        bytes.extend(destination.0);
        bytes.extend(source.0);
        bytes.extend(ether_type.to_be_bytes());
        bytes.extend(payload);
        bytes.resize(bytes.len().max(14 + PAYLOAD_MIN), 0);
        Self(bytes)
    }

    /// What goes over the wire.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.0
    }

    /// The same frame in a VLAN: `tpid` is 0x8100 (802.1Q) or 0x88a8 (802.1ad).
    #[must_use]
    pub fn tagged(&self, tpid: u16, vlan: u16) -> Self {
        let mut bytes = self.0[..12].to_vec();
        bytes.extend(tpid.to_be_bytes());
        bytes.extend(vlan.to_be_bytes());
        bytes.extend(&self.0[12..]);
        Self(bytes)
    }

    /// The same frame, seemingly sent by another station; what is inside stays.
    #[must_use]
    pub fn from_station(&self, source: MacAddr) -> Self {
        let mut bytes = self.0.clone();
        bytes[6..12].copy_from_slice(&source.0);
        Self(bytes)
    }

    /// The first `length` bytes of the frame.
    #[must_use]
    pub fn truncated(&self, length: usize) -> Self {
        Self(self.0[..length.min(self.0.len())].to_vec())
    }
}

/// What hypervisors send right before the virtual CPUs run (RFC 903): a request for one's own address.
#[must_use]
pub fn rarp(mac: MacAddr) -> Frame {
    let none = Ipv4Addr::UNSPECIFIED;
    Frame::ethernet(BROADCAST, mac, 0x8035, &arp_body(3, (mac, none), (mac, none)))
}

/// Gratuitous ARP as a request (RFC 5227, "ARP announcement").
#[must_use]
pub fn garp_request(mac: MacAddr, address: Ipv4Addr) -> Frame {
    Frame::ethernet(BROADCAST, mac, 0x0806, &arp_body(1, (mac, address), (MacAddr::ZERO, address)))
}

/// Gratuitous ARP as a reply.
#[must_use]
pub fn garp_reply(mac: MacAddr, address: Ipv4Addr) -> Frame {
    Frame::ethernet(BROADCAST, mac, 0x0806, &arp_body(2, (mac, address), (BROADCAST, address)))
}

/// An ordinary question: who has `wanted`?
#[must_use]
pub fn arp_request(mac: MacAddr, address: Ipv4Addr, wanted: Ipv4Addr) -> Frame {
    Frame::ethernet(BROADCAST, mac, 0x0806, &arp_body(1, (mac, address), (MacAddr::ZERO, wanted)))
}

/// A duplicate address probe (RFC 5227): sender address zero.
#[must_use]
pub fn arp_probe(mac: MacAddr, address: Ipv4Addr) -> Frame {
    arp_request(mac, Ipv4Addr::UNSPECIFIED, address)
}

fn arp_body(operation: u16, sender: (MacAddr, Ipv4Addr), target: (MacAddr, Ipv4Addr)) -> Vec<u8> {
    let mut body = vec![0, 1, 8, 0, 6, 4];
    body.extend(operation.to_be_bytes());
    for (mac, address) in [sender, target] {
        body.extend(mac.0);
        body.extend(address.octets());
    }
    body
}

/// Neighbour advertisement (RFC 4861) to all nodes, unsolicited, with the target's link-layer address.
#[must_use]
pub fn unsolicited_na(mac: MacAddr, address: Ipv6Addr) -> Frame {
    neighbour_advertisement(mac, address, address, false, 255)
}

/// Neighbour advertisement with everything that a test may want to be wrong.
#[must_use]
pub fn neighbour_advertisement(
    mac: MacAddr,
    source: Ipv6Addr,
    target: Ipv6Addr,
    solicited: bool,
    hop_limit: u8,
) -> Frame {
    const OVERRIDE: u8 = 0x20;
    const SOLICITED: u8 = 0x40;
    let mut message = vec![136, 0, 0, 0, OVERRIDE | if solicited { SOLICITED } else { 0 }, 0, 0, 0];
    message.extend(target.octets());
    message.extend([2, 1]);
    message.extend(mac.0);
    ipv6(mac, source, Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1), 58, hop_limit, message)
}

/// Neighbour solicitation for `target`; with an unspecified source it is a duplicate address probe.
#[must_use]
pub fn neighbour_solicitation(mac: MacAddr, source: Ipv6Addr, target: Ipv6Addr) -> Frame {
    let mut message = vec![135, 0, 0, 0, 0, 0, 0, 0];
    message.extend(target.octets());
    ipv6(mac, source, Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1), 58, 255, message)
}

/// A datagram from the guest to `destination`.
///
/// # Panics
/// When the families differ.
#[must_use]
pub fn udp(mac: MacAddr, source: IpAddr, destination: IpAddr, payload: &[u8]) -> Frame {
    let length = u16::try_from(8 + payload.len()).expect("a datagram");
    let mut datagram = Vec::new();
    for field in [4000, 4000, length, 0] {
        datagram.extend(u16::to_be_bytes(field));
    }
    datagram.extend(payload);
    match (source, destination) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => ipv4(mac, source, destination, 17, &datagram),
        (IpAddr::V6(source), IpAddr::V6(destination)) => ipv6(mac, source, destination, 17, 64, datagram),
        _ => panic!("{source} and {destination} are of two families"),
    }
}

fn ipv4(mac: MacAddr, source: Ipv4Addr, destination: Ipv4Addr, protocol: u8, payload: &[u8]) -> Frame {
    let length = u16::try_from(20 + payload.len()).expect("a packet");
    let mut packet = vec![0x45, 0];
    packet.extend(length.to_be_bytes());
    packet.extend([0, 0, 0, 0, 64, protocol, 0, 0]);
    packet.extend(source.octets());
    packet.extend(destination.octets());
    let sum = internet_checksum(&packet);
    packet[10..12].copy_from_slice(&sum.to_be_bytes());
    packet.extend(payload);
    Frame::ethernet(BROADCAST, mac, 0x0800, &packet)
}

/// An IPv6 packet; the check sum of the upper layer is put where its protocol wants it.
fn ipv6(
    mac: MacAddr,
    source: Ipv6Addr,
    destination: Ipv6Addr,
    next_header: u8,
    hop_limit: u8,
    mut payload: Vec<u8>,
) -> Frame {
    let length = u16::try_from(payload.len()).expect("a packet");
    let mut pseudo = Vec::new();
    pseudo.extend(source.octets());
    pseudo.extend(destination.octets());
    pseudo.extend(u32::from(length).to_be_bytes());
    pseudo.extend([0, 0, 0, next_header]);
    pseudo.extend(&payload);
    let sum = internet_checksum(&pseudo).to_be_bytes();
    let place = if next_header == 58 { 2 } else { 6 };
    payload[place..place + 2].copy_from_slice(&sum);

    let mut packet = vec![0x60, 0, 0, 0];
    packet.extend(length.to_be_bytes());
    packet.extend([next_header, hop_limit]);
    packet.extend(source.octets());
    packet.extend(destination.octets());
    packet.extend(payload);
    let all_nodes = MacAddr([0x33, 0x33, 0, 0, 0, 1]);
    Frame::ethernet(all_nodes, mac, 0x86dd, &packet)
}

fn internet_checksum(bytes: &[u8]) -> u16 {
    let mut sum: u32 =
        bytes.chunks(2).map(|pair| u32::from(pair[0]) << 8 | pair.get(1).copied().map_or(0, u32::from)).sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !u16::try_from(sum).expect("folded")
}

/// The `number`-th frame of an endless series of rubbish with the guest's source address: cut-off ARP and
/// IPv6 headers, unknown EtherTypes, towers of tags. None of it is an announcement.
#[must_use]
pub fn junk(mac: MacAddr, number: u64) -> Frame {
    // A linear congruential generator (constants of Knuth's MMIX): repeatable, and random enough for rubbish.
    let mut state = number.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
    let mut next = move || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 56) as u8
    };
    let ether_type: u16 = match next() % 5 {
        0 => 0x0806,
        1 => 0x86dd,
        2 => 0x8100,
        3 => 0x0800,
        _ => 0x9000,
    };
    let mut bytes = Vec::new();
    bytes.extend(BROADCAST.0);
    bytes.extend(mac.0);
    bytes.extend(ether_type.to_be_bytes());
    // Too short for a whole ARP body or a neighbour advertisement, so never valid by accident.
    let length = usize::from(next() % 24);
    bytes.extend((0..length).map(|_| next()));
    Frame(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAC: MacAddr = MacAddr([0xfa, 0x16, 0x3e, 0, 0, 1]);

    fn ethernet(frame: &Frame) -> (MacAddr, MacAddr, u16, &[u8]) {
        let bytes = frame.bytes();
        let mac = |at: usize| MacAddr(bytes[at..at + 6].try_into().unwrap());
        (mac(0), mac(6), u16::from_be_bytes([bytes[12], bytes[13]]), &bytes[14..])
    }

    #[test]
    fn arp_frames_parse_back() {
        let address = Ipv4Addr::new(10, 65, 0, 2);
        let (destination, source, ether_type, body) = {
            let frame = garp_request(MAC, address);
            let (a, b, c, d) = ethernet(&frame);
            (a, b, c, d.to_vec())
        };
        assert_eq!((destination, source, ether_type), (BROADCAST, MAC, 0x0806));
        assert_eq!(body[..8], [0, 1, 8, 0, 6, 4, 0, 1]);
        assert_eq!(body[8..14], MAC.0);
        assert_eq!(body[14..18], address.octets());
        assert_eq!(body[24..28], address.octets());
        assert_eq!(body.len(), PAYLOAD_MIN);

        assert_eq!(ethernet(&rarp(MAC)).2, 0x8035);
        assert_eq!(rarp(MAC).bytes()[20..22], [0, 3]);
        assert_eq!(garp_reply(MAC, address).bytes()[20..22], [0, 2]);
        assert_eq!(arp_probe(MAC, address).bytes()[28..32], [0; 4]);
    }

    #[test]
    fn neighbour_advertisements_parse_back_and_sum_up() {
        let address: Ipv6Addr = "2001:db8::2".parse().unwrap();
        let frame = unsolicited_na(MAC, address);
        let (_, source, ether_type, packet) = ethernet(&frame);
        assert_eq!((source, ether_type), (MAC, 0x86dd));
        assert_eq!((packet[6], packet[7]), (58, 255));
        assert_eq!(packet[8..24], address.octets());
        let message = &packet[40..];
        assert_eq!((message[0], message[4]), (136, 0x20));
        assert_eq!(message[8..24], address.octets());
        assert_eq!(message[24..32], [2, 1, 0xfa, 0x16, 0x3e, 0, 0, 1]);
        // With the check sum in place the sum over everything is zero (RFC 1071).
        let mut pseudo = packet[8..40].to_vec();
        pseudo.extend([0, 0, 0, 32, 0, 0, 0, 58]);
        pseudo.extend(&message[..32]);
        assert_eq!(internet_checksum(&pseudo), 0);
    }

    #[test]
    fn tags_go_in_between() {
        let tagged = rarp(MAC).tagged(0x8100, 42).tagged(0x88a8, 7);
        assert_eq!(tagged.bytes()[12..22], [0x88, 0xa8, 0, 7, 0x81, 0, 0, 42, 0x80, 0x35]);
    }

    #[test]
    fn junk_is_repeatable_and_short() {
        assert_eq!(junk(MAC, 5), junk(MAC, 5));
        assert_ne!(junk(MAC, 5), junk(MAC, 6));
        assert!((0..1000).all(|number| junk(MAC, number).bytes().len() < 14 + 28));
    }
}
