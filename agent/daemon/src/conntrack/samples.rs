//! Entries for tests.

use super::entry::{Entry, Key, State, Tuple};
use proptest::prelude::*;
use std::net::IpAddr;

fn tuple(source: &str, destination: &str, protocol: u8, key: Key) -> Tuple {
    Tuple { source: source.parse().unwrap(), destination: destination.parse().unwrap(), protocol, key }
}

fn entry(original: Tuple, reply: Tuple, state: State) -> Entry {
    Entry { original, reply, seen_reply: true, assured: true, timeout_s: 300, state, mark: 0, labels: None }
}

/// From the VM 10.65.0.2 to a server, told apart by a number.
pub(crate) fn tcp(number: u16) -> Entry {
    let original = tuple("10.65.0.2", "192.0.2.80", 6, Key::Ports(40_000 + number, 80));
    let state = State::Tcp { state: 3, flags: [0x23, 0x23], scale: [7, 7] };
    Entry { timeout_s: 431_000, ..entry(original, original.answered(&original), state) }
}

/// From a client to the VM.
pub(crate) fn udp(number: u16) -> Entry {
    let original = tuple("2001:db8::7", "fd00:65::2", 17, Key::Ports(50_000 + number, 53));
    entry(original, original.answered(&original), State::Nothing)
}

/// From a client to the floating address 203.0.113.5 of the VM.
pub(crate) fn floating() -> Entry {
    let original = tuple("192.0.2.7", "203.0.113.5", 6, Key::Ports(33_000, 22));
    let reply = tuple("10.65.0.2", "192.0.2.7", 6, Key::Ports(22, 33_000));
    entry(original, reply, State::Tcp { state: 3, flags: [0x23, 0x23], scale: [7, 7] })
}

/// From the VM to its own floating address.
pub(crate) fn hairpin() -> Entry {
    let original = tuple("10.65.0.2", "203.0.113.5", 17, Key::Ports(33_000, 53));
    let reply = tuple("10.65.0.2", "203.0.113.5", 17, Key::Ports(53, 33_000));
    entry(original, reply, State::Nothing)
}

pub(crate) fn echo() -> Entry {
    let original = tuple("fd00:65::2", "2001:db8::7", 58, Key::Icmp(77, 128, 0));
    let like = tuple("::", "::", 58, Key::Icmp(0, 129, 0));
    entry(original, original.answered(&like), State::Nothing)
}

pub(crate) fn sctp() -> Entry {
    let original = tuple("10.65.0.2", "192.0.2.80", 132, Key::Ports(9, 3868));
    let state = State::Sctp { state: 4, tags: [0xdead_beef, 7] };
    entry(original, original.answered(&original), state)
}

pub(crate) fn all() -> Vec<Entry> {
    let original = tuple("10.65.0.2", "192.0.2.80", 33, Key::Ports(9, 10));
    let state = State::Dccp { state: 4, role: 0, handshake: u64::MAX / 3 };
    let dccp = entry(original, original.answered(&original), state);
    let original = tuple("10.65.0.2", "192.0.2.80", 50, Key::Nothing);
    let other = entry(original, original.answered(&original), State::Nothing);
    let mut labelled = floating();
    (labelled.mark, labelled.labels) = (u32::MAX, Some([0xff; 16]));
    vec![tcp(1), udp(1), floating(), hairpin(), echo(), sctp(), dccp, other, labelled]
}

fn address(is_ipv6: bool) -> BoxedStrategy<IpAddr> {
    if is_ipv6 {
        any::<[u8; 16]>().prop_map(IpAddr::from).boxed()
    } else {
        any::<[u8; 4]>().prop_map(IpAddr::from).boxed()
    }
}

/// Entries that the kernel could spell, sensible or not.
pub(crate) fn any_entry() -> impl Strategy<Value = Entry> {
    let state = prop_oneof![
        Just((17, State::Nothing)),
        Just((1, State::Nothing)),
        Just((58, State::Nothing)),
        Just((50, State::Nothing)),
        any::<(u8, [u8; 2], [u8; 2])>()
            .prop_map(|(state, flags, scale)| (6, State::Tcp { state, flags, scale })),
        any::<(u8, [u32; 2])>().prop_map(|(state, tags)| (132, State::Sctp { state, tags })),
        any::<(u8, u8, u64)>()
            .prop_map(|(state, role, handshake)| (33, State::Dccp { state, role, handshake })),
    ];
    (any::<bool>(), state).prop_flat_map(|(is_ipv6, (protocol, state))| {
        let key = move || match protocol {
            1 | 58 => any::<(u16, u8, u8)>().prop_map(|(id, kind, code)| Key::Icmp(id, kind, code)).boxed(),
            50 => Just(Key::Nothing).boxed(),
            _ => {
                any::<(u16, u16)>().prop_map(|(source, destination)| Key::Ports(source, destination)).boxed()
            }
        };
        let tuple =
            move || {
                (address(is_ipv6), address(is_ipv6), key())
                    .prop_map(move |(source, destination, key)| Tuple { source, destination, protocol, key })
            };
        let rest = (any::<bool>(), any::<bool>(), any::<u32>(), any::<u32>(), any::<Option<[u8; 16]>>());
        (tuple(), tuple(), rest).prop_map(
            move |(original, reply, (seen_reply, assured, timeout_s, mark, labels))| Entry {
                original,
                reply,
                seen_reply,
                assured,
                timeout_s,
                state,
                mark,
                labels,
            },
        )
    })
}
