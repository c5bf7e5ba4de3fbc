//! Frames by hand: every announcement as it should be, ready to be spoilt. Used by the tests of the
//! classifier in user space and, by path, by the test that runs the programs in the kernel.
#![allow(dead_code, reason = "each test uses its own part")]

use cutover_common::MacAddr;
use cutover_common::abi::{WATCH_IPV4_MAX, WATCH_IPV6_MAX, Watch};

/// The watched endpoint.
pub(crate) const MAC: MacAddr = MacAddr([0xfa, 0x16, 0x3e, 0, 0, 1]);
/// Somebody else.
pub(crate) const OTHER_MAC: MacAddr = MacAddr([0xfa, 0x16, 0x3e, 0, 0, 2]);
pub(crate) const IPV4: [u8; 4] = [10, 65, 0, 2];
pub(crate) const SECOND_IPV4: [u8; 4] = [192, 0, 2, 9];
pub(crate) const OTHER_IPV4: [u8; 4] = [10, 65, 0, 3];
pub(crate) const IPV6: [u8; 16] = [0x20, 0x01, 0x0d, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2];
pub(crate) const OTHER_IPV6: [u8; 16] = [0x20, 0x01, 0x0d, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 3];

pub(crate) const ARP: [u8; 2] = [0x08, 0x06];
pub(crate) const RARP: [u8; 2] = [0x80, 0x35];
pub(crate) const IPV6_TYPE: [u8; 2] = [0x86, 0xdd];
pub(crate) const TAG_8021Q: [u8; 2] = [0x81, 0x00];
pub(crate) const TAG_8021AD: [u8; 2] = [0x88, 0xa8];

/// Where the fields of an untagged ARP or RARP frame are.
pub(crate) mod arp {
    pub(crate) const HARDWARE_TYPE: usize = 14;
    pub(crate) const PROTOCOL_TYPE: usize = 16;
    pub(crate) const HARDWARE_LENGTH: usize = 18;
    pub(crate) const PROTOCOL_LENGTH: usize = 19;
    pub(crate) const OPERATION: usize = 20;
    pub(crate) const SENDER_MAC: usize = 22;
    pub(crate) const SENDER_IP: usize = 28;
    pub(crate) const TARGET_MAC: usize = 32;
    pub(crate) const TARGET_IP: usize = 38;
    pub(crate) const END: usize = 42;
}

/// Where the fields of an untagged neighbour advertisement are.
pub(crate) mod na {
    pub(crate) const VERSION: usize = 14;
    pub(crate) const PAYLOAD_LENGTH: usize = 18;
    pub(crate) const NEXT_HEADER: usize = 20;
    pub(crate) const HOP_LIMIT: usize = 21;
    pub(crate) const SOURCE: usize = 22;
    pub(crate) const TYPE: usize = 54;
    pub(crate) const CODE: usize = 55;
    pub(crate) const CHECKSUM: usize = 56;
    pub(crate) const FLAGS: usize = 58;
    pub(crate) const TARGET: usize = 62;
    /// End of the target; options follow.
    pub(crate) const END: usize = 78;
}

/// A strict watch for [`MAC`] with two IPv4 addresses, an IPv6 address and the link-local one.
pub(crate) fn watch() -> Watch {
    let mut ipv4 = [[0; 4]; WATCH_IPV4_MAX];
    ipv4[..2].copy_from_slice(&[IPV4, SECOND_IPV4]);
    let mut ipv6 = [[0; 16]; WATCH_IPV6_MAX];
    ipv6[..2].copy_from_slice(&[IPV6, MAC.link_local()]);
    Watch { generation: 1, flags: 0, ipv4_count: 2, ipv6_count: 2, mac: MAC.0, reserved: [0; 4], ipv4, ipv6 }
}

/// The same with flags.
pub(crate) fn watch_with(flags: u32) -> Watch {
    Watch { flags, ..watch() }
}

pub(crate) fn ethernet(source: MacAddr, ethertype: [u8; 2], content: &[u8]) -> Vec<u8> {
    [&[0xff; 6], &source.0[..], &ethertype, content].concat()
}

fn arp_content(operation: u8, sender: (MacAddr, [u8; 4]), target: (MacAddr, [u8; 4])) -> Vec<u8> {
    [&[0, 1, 8, 0, 6, 4, 0, operation], &sender.0.0[..], &sender.1[..], &target.0.0[..], &target.1[..]]
        .concat()
}

/// As a hypervisor sends it: padded to the smallest Ethernet frame.
pub(crate) fn rarp(mac: MacAddr) -> Vec<u8> {
    let mut frame = ethernet(mac, RARP, &arp_content(3, (mac, [0; 4]), (mac, [0; 4])));
    frame.resize(60, 0);
    frame
}

pub(crate) fn garp(operation: u8, mac: MacAddr, address: [u8; 4]) -> Vec<u8> {
    ethernet(mac, ARP, &arp_content(operation, (mac, address), (MacAddr::ZERO, address)))
}

/// Ordinary ARP: who has `target`, tell `sender`.
pub(crate) fn arp_request(mac: MacAddr, sender: [u8; 4], target: [u8; 4]) -> Vec<u8> {
    ethernet(mac, ARP, &arp_content(1, (mac, sender), (MacAddr::ZERO, target)))
}

/// An unsolicited neighbour advertisement with its target link-layer address option.
pub(crate) fn advertisement(mac: MacAddr, target: [u8; 16]) -> Vec<u8> {
    let all_nodes = [0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1];
    let mut content = [&[0x60, 0, 0, 0, 0, 32, 58, 255], &target[..], &all_nodes].concat();
    content.extend_from_slice(&[136, 0, 0, 0, 0x20, 0, 0, 0]);
    content.extend_from_slice(&target);
    content.extend_from_slice(&[2, 1]);
    content.extend_from_slice(&mac.0);
    ethernet(mac, IPV6_TYPE, &content)
}

/// TCP over IPv4 and over IPv6: frames that have nothing to do with announcements.
pub(crate) fn tcp(mac: MacAddr) -> [Vec<u8>; 2] {
    let mut v4 = vec![0x45, 0, 0, 60, 0, 0, 0, 0, 64, 6, 0, 0];
    v4.extend_from_slice(&IPV4);
    v4.extend_from_slice(&OTHER_IPV4);
    v4.resize(60, 0);
    let mut v6 = [&[0x60, 0, 0, 0, 0, 20, 6, 64], &IPV6[..], &OTHER_IPV6].concat();
    v6.resize(60, 0);
    [ethernet(mac, [8, 0], &v4), ethernet(mac, IPV6_TYPE, &v6)]
}

/// The frame with a VLAN tag in front of its EtherType.
pub(crate) fn tagged(frame: &[u8], tag: [u8; 2], vlan: u8) -> Vec<u8> {
    [&frame[..12], &tag, &[0, vlan], &frame[12..]].concat()
}

/// The frame with some bytes replaced.
pub(crate) fn with(frame: &[u8], offset: usize, bytes: &[u8]) -> Vec<u8> {
    let mut frame = frame.to_vec();
    frame[offset..offset + bytes.len()].copy_from_slice(bytes);
    frame
}
