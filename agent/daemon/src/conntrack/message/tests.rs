//! What Linux 6.18 dumps, read; what is written, read again; and bytes that no kernel sends.

use super::*;
use crate::conntrack::samples;
use proptest::prelude::*;

/// What follows the netlink headers of a dump in a network namespace with these connections, all over its loopback.
mod dumped {
    /// SCTP whose INIT and INIT ACK have been seen.
    pub(super) const SCTP: &str = "\
        020000003400018014000180080001000a41000208000200c00002071c00028005000100840000000600020000090000\
        060003000f1c0000340002801400018008000100c0000207080002000a4100021c000280050001008400000006000200\
        0f1c00000600030000090000080003000000018a080008000000000508000c00a63b9be508000b000000000108000700\
        00000002200004801c0003800500010002000000080002000707070708000300deadbeef";
    /// An echo and its answer.
    pub(super) const ICMP: &str = "\
        020000003c00018014000180080001000a41000208000200c000020724000280050001000100000006000400004d0000\
        050005000800000005000600000000003c0002801400018008000100c0000207080002000a4100022400028005000100\
        0100000006000400004d000005000500000000000500060000000000080003000000018a080008000000000508000c00\
        7d99e14c08000b0000000001080007000000001d";
    /// A protocol that the kernel does not know (50).
    pub(super) const OTHER: &str = "\
        020000002400018014000180080001000a41000208000200c00002070c00028005000100320000002400028014000180\
        08000100c0000207080002000a4100020c00028005000100320000000800030000000188080008000000000508000c00\
        a424f30f08000b00000000010800070000000257";
    /// A datagram of IPv6 that nobody has answered, with label 127.
    pub(super) const UDP6: &str = "\
        0a0000004c0001802c00018014000300fd0000650000000000000000000000021400040020010db80000000000000000\
        000000071c0002800500010011000000060002009c40000006000300003500004c0002802c0001801400030020010db8\
        00000000000000000000000714000400fd0000650000000000000000000000021c000280050001001100000006000200\
        00350000060003009c4000000800030000000008080008000000000508000c008baefa2b08000b000000000108000700\
        0000001d1400160000000000000000000000000000000080";
    /// TCP to 203.0.113.5, which is translated to 10.65.0.2.
    pub(super) const FLOATING: &str = "\
        02000000340001801400018008000100c000020708000200cb0071051c000280050001000600000006000200aed10000\
        06000300001600003400028014000180080001000a41000208000200c00002071c000280050001000600000006000200\
        0016000006000300aed1000008000300000001ae080008000000000508000c00dadb01fd08000b000000000108000700\
        0006977f300004802c0001800500010003000000050002000a000000050003000a000000060004002300000006000500\
        23000000";
    /// TCP of IPv6.
    pub(super) const TCP6: &str = "\
        0a0000004c0001802c00018014000300fd0000650000000000000000000000021400040020010db80000000000000000\
        000000071c0002800500010006000000060002009791000006000300005000004c0002802c0001801400030020010db8\
        00000000000000000000000714000400fd0000650000000000000000000000021c000280050001000600000006000200\
        005000000600030097910000080003000000000e080008000000000508000c00816f0f9208000b000000000108000700\
        0006977f300004802c0001800500010003000000050002000a000000050003000a000000060004002300000006000500\
        23000000";
    /// An echo of IPv6.
    pub(super) const ICMPV6: &str = "\
        0a000000540001802c00018014000300fd0000650000000000000000000000021400040020010db80000000000000000\
        0000000724000280050001003a00000006000700004d000005000800800000000500090000000000540002802c000180\
        1400030020010db800000000000000000000000714000400fd0000650000000000000000000000022400028005000100\
        3a00000006000700004d000005000800810000000500090000000000080003000000000a080008000000000508000c00\
        236e6dc108000b0000000001080007000000001d";
}

fn bytes(hex: &str) -> Vec<u8> {
    let digit = |at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap();
    (0..hex.len()).step_by(2).map(digit).collect()
}

/// All of them.
pub(super) fn dumps() -> Vec<Vec<u8>> {
    use dumped::{FLOATING, ICMP, ICMPV6, OTHER, SCTP, TCP6, UDP6};
    [SCTP, ICMP, OTHER, UDP6, FLOATING, TCP6, ICMPV6].map(bytes).into()
}

fn read(hex: &str) -> Dumped {
    parse(&bytes(hex), |_, _| true).unwrap()
}

fn tuple(source: &str, destination: &str, protocol: u8, key: Key) -> Tuple {
    Tuple { source: source.parse().unwrap(), destination: destination.parse().unwrap(), protocol, key }
}

#[test]
fn tcp_is_read() {
    let floating = read(dumped::FLOATING);
    assert_eq!(floating.original, tuple("192.0.2.7", "203.0.113.5", 6, Key::Ports(44_753, 22)));
    assert_eq!(floating.reply, tuple("10.65.0.2", "192.0.2.7", 6, Key::Ports(22, 44_753)));
    assert_eq!(floating.status, 0x1ae);
    assert_eq!(floating.timeout_s, Some(431_999));
    assert_eq!(floating.state, Some(State::Tcp { state: 3, flags: [0x23, 0x23], scale: [10, 10] }));
    assert_eq!((floating.mark, floating.labels, floating.zone), (5, None, 0));
    assert_eq!(floating.id, Some(0xdadb_01fd));
    assert!(!floating.has_helper && !floating.has_master && !floating.is_adjusted);

    let ipv6 = read(dumped::TCP6);
    assert_eq!(ipv6.original, tuple("fd00:65::2", "2001:db8::7", 6, Key::Ports(38_801, 80)));
    assert_eq!(ipv6.reply, ipv6.original.answered(&ipv6.original));
    assert_eq!(ipv6.status, status::SEEN_REPLY | status::ASSURED | status::CONFIRMED);
}

#[test]
fn other_protocols_are_read() {
    let udp = read(dumped::UDP6);
    assert_eq!(udp.original, tuple("fd00:65::2", "2001:db8::7", 17, Key::Ports(40_000, 53)));
    assert_eq!((udp.status, udp.timeout_s, udp.state), (status::CONFIRMED, Some(29), None));
    assert_eq!(udp.labels.map(u128::from_le_bytes), Some(1 << 127));

    let echo = read(dumped::ICMP);
    assert_eq!(echo.original, tuple("10.65.0.2", "192.0.2.7", 1, Key::Icmp(77, 8, 0)));
    assert_eq!(echo.reply, tuple("192.0.2.7", "10.65.0.2", 1, Key::Icmp(77, 0, 0)));
    let echo = read(dumped::ICMPV6);
    assert_eq!(echo.original, tuple("fd00:65::2", "2001:db8::7", 58, Key::Icmp(77, 128, 0)));
    assert_eq!(echo.reply, tuple("2001:db8::7", "fd00:65::2", 58, Key::Icmp(77, 129, 0)));

    let sctp = read(dumped::SCTP);
    assert_eq!(sctp.original, tuple("10.65.0.2", "192.0.2.7", 132, Key::Ports(9, 3868)));
    assert_eq!(sctp.state, Some(State::Sctp { state: 2, tags: [0x0707_0707, 0xdead_beef] }));

    let other = read(dumped::OTHER);
    assert_eq!(other.original, tuple("10.65.0.2", "192.0.2.7", 50, Key::Nothing));
}

#[test]
fn what_concerns_nobody_is_not_looked_at() {
    assert_eq!(parse(&bytes(dumped::SCTP), |_, _| false), None);
}

#[test]
fn what_keeps_a_connection_here_is_seen() {
    let others = [
        (attribute::HELPER, Dumped { has_helper: true, ..read(dumped::ICMP) }),
        (attribute::TUPLE_MASTER, Dumped { has_master: true, ..read(dumped::ICMP) }),
        (attribute::SEQUENCE_REPLY, Dumped { is_adjusted: true, ..read(dumped::ICMP) }),
    ];
    for (kind, expected) in others {
        let mut attributes = Attributes::after(&bytes(dumped::ICMP));
        attributes.put(kind, &[0; 4]);
        assert_eq!(parse(&attributes.into_bytes(), |_, _| true), Some(expected));
    }
    for number in [0, 0x1234_u32] {
        let mut attributes = Attributes::after(&bytes(dumped::ICMP));
        attributes.nest(attribute::SYNPROXY, |inner| inner.put(1, &number.to_be_bytes()));
        let read = parse(&attributes.into_bytes(), |_, _| true).unwrap();
        assert_eq!(read.is_adjusted, number != 0, "made by ctnetlink, or by a proxy");
    }
    let mut attributes = Attributes::after(&bytes(dumped::ICMP));
    attributes.put(attribute::ZONE, &7_u16.to_be_bytes());
    assert_eq!(parse(&attributes.into_bytes(), |_, _| true).unwrap().zone, 7);
}

/// A range of one address with one number in it.
fn translation(body: &[u8], kind: u16) -> Option<(IpAddr, u16)> {
    let inside = find(&body[HEADER_BYTES..], kind)?;
    let address = |kinds: [u16; 2]| {
        let [low, high] = kinds.map(|kind| find(inside, kind));
        assert_eq!(low, high);
        low
    };
    let ipv4 = address(translation::IPV4).map(|bytes| IpAddr::from(<[u8; 4]>::try_from(bytes).unwrap()));
    let ipv6 = address(translation::IPV6).map(|bytes| IpAddr::from(<[u8; 16]>::try_from(bytes).unwrap()));
    let numbers = find(inside, translation::PROTOCOL).unwrap();
    let [low, high] = translation::NUMBERS.map(|kind| find(numbers, kind).and_then(be16).unwrap());
    assert_eq!(low, high);
    Some((ipv4.or(ipv6).unwrap(), low))
}

#[test]
fn a_translation_is_written_beside_the_tuples_that_there_are_without_it() {
    let body = create(&samples::floating());
    let read = parse(&body, |_, _| true).unwrap();
    assert_eq!(read.original, samples::floating().original);
    assert_eq!(read.reply, tuple("203.0.113.5", "192.0.2.7", 6, Key::Ports(22, 33_000)));
    let at = |text: &str, port: u16| Some((text.parse().unwrap(), port));
    assert_eq!(translation(&body, attribute::NAT_DESTINATION), at("10.65.0.2", 22));
    assert_eq!(translation(&body, attribute::NAT_SOURCE), at("192.0.2.7", 33_000));

    let body = create(&samples::hairpin());
    assert_eq!(translation(&body, attribute::NAT_DESTINATION), at("10.65.0.2", 53));
    assert_eq!(translation(&body, attribute::NAT_SOURCE), at("203.0.113.5", 33_000));

    for entry in [samples::tcp(1), samples::udp(1), samples::echo()] {
        let body = create(&entry);
        assert_eq!(translation(&body, attribute::NAT_DESTINATION), None);
        assert_eq!(translation(&body, attribute::NAT_SOURCE), None);
    }
}

#[test]
fn tcp_is_made_liberal_and_its_end_may_be_a_beginning() {
    for (state, given, made) in [
        (3, 0x00, 0x0a),
        (3, 0xf3, 0x0b),
        (1, 0x01, 0x0b),
        (4, 0x05, 0x0f),
        (6, 0x01, 0x0b),
        (7, 0x01, 0x0f),
        (8, 0x00, 0x0e),
    ] {
        let entry =
            Entry { state: State::Tcp { state, flags: [given; 2], scale: [7, 8] }, ..samples::tcp(1) };
        let read = parse(&create(&entry), |_, _| true).unwrap();
        assert_eq!(read.state, Some(State::Tcp { state, flags: [made; 2], scale: [7, 8] }));
    }
}

#[test]
fn a_dump_is_asked_for_by_address() {
    let ipv4 = dump_of("10.65.0.2".parse().unwrap(), Position::ReplySource);
    assert_eq!(ipv4, bytes("02000000100002800c000180080001000a4100020c0019800800020001000000"));
    let ipv6 = dump_of("fd00:65::2".parse().unwrap(), Position::OriginalDestination);
    assert_eq!(
        ipv6,
        bytes("0a0000001c0001801800018014000400fd0000650000000000000000000000020c0019800800010002000000")
    );
}

proptest! {
    #[test]
    fn what_is_written_is_read(entry in samples::any_entry()) {
        let read = parse(&create(&entry), |_, _| true).unwrap();
        prop_assert_eq!(read.original, entry.original);
        prop_assert_eq!(read.reply, entry.original.answered(&entry.reply));
        prop_assert_eq!(read.status & status::CONFIRMED, status::CONFIRMED);
        prop_assert_eq!(read.status & status::SEEN_REPLY != 0, entry.seen_reply);
        prop_assert_eq!(read.status & status::ASSURED != 0, entry.assured);
        prop_assert_eq!(read.timeout_s, Some(entry.timeout_s));
        prop_assert_eq!(read.mark, entry.mark);
        prop_assert_eq!(read.labels, entry.labels.filter(|labels| labels != &[0; 16]));
        if !matches!(entry.state, State::Nothing | State::Tcp { .. }) {
            prop_assert_eq!(read.state, Some(entry.state));
        }
        let reread = parse(&name(&entry.original), |_, _| true);
        prop_assert_eq!(reread, None, "the question names one tuple only");
    }

    #[test]
    fn no_bytes_are_too_strange(bytes in prop::collection::vec(any::<u8>(), 0..256)) {
        let _ = parse(&bytes, |_, _| true);
    }

    /// Real messages with a few bytes changed get further than random ones.
    #[test]
    fn no_damage_is_too_strange(
        which in 0_usize..3,
        damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8),
        length in any::<prop::sample::Index>(),
    ) {
        let mut bytes = bytes([dumped::FLOATING, dumped::SCTP, dumped::UDP6][which]);
        for (at, value) in damage {
            let at = at.index(bytes.len());
            bytes[at] = value;
        }
        bytes.truncate(length.index(bytes.len()));
        let _ = parse(&bytes, |_, _| true);
    }
}
