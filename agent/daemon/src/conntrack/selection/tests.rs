//! What is carried of connections as they are on a host with two VMs, and what is not.

use super::*;
use crate::conntrack::entry::Key;
use crate::conntrack::samples;

fn addresses() -> Vec<IpNet> {
    ["10.65.0.2/32", "203.0.113.5/32", "fd00:65::2/128"].map(|prefix| prefix.parse().unwrap()).to_vec()
}

fn selection(addresses: &[IpNet]) -> Selection<'_> {
    Selection { addresses, host: BTreeSet::from(["192.168.77.2".parse().unwrap()]) }
}

/// As the kernel says it.
fn dumped(entry: &Entry) -> Dumped {
    let mut bits = status::CONFIRMED;
    bits |= if entry.seen_reply { status::SEEN_REPLY } else { 0 };
    bits |= if entry.assured { status::ASSURED } else { 0 };
    Dumped {
        original: entry.original,
        reply: entry.reply,
        status: bits,
        timeout_s: Some(entry.timeout_s),
        state: (entry.state != State::Nothing).then_some(entry.state),
        mark: entry.mark,
        labels: entry.labels,
        zone: 0,
        has_helper: false,
        has_master: false,
        is_adjusted: false,
        id: Some(1),
    }
}

fn udp(original: (&str, &str), reply: (&str, &str)) -> Dumped {
    let tuple = |(source, destination): (&str, &str), key| Tuple {
        source: source.parse().unwrap(),
        destination: destination.parse().unwrap(),
        protocol: 17,
        key,
    };
    Dumped {
        original: tuple(original, Key::Ports(4000, 53)),
        reply: tuple(reply, Key::Ports(53, 4000)),
        ..dumped(&samples::udp(1))
    }
}

#[test]
fn the_vms_own_are_carried_as_they_are() {
    let addresses = addresses();
    let mut entries = samples::all();
    let Some(State::Tcp { flags, .. }) = entries.iter_mut().map(|entry| &mut entry.state).next() else {
        unreachable!("the first one is TCP");
    };
    *flags = [0xff; 2];
    for entry in entries {
        let dumped = dumped(&entry);
        assert!(selection(&addresses).concerns(&dumped.original, &dumped.reply), "{entry:?}");
        let carried = selection(&addresses).carry(&dumped).unwrap();
        assert_eq!(carried, Entry { state: with_kept_flags(entry.state), ..entry });
    }
}

#[test]
fn each_reason_to_stay_is_told() {
    let addresses = addresses();
    let plain = dumped(&samples::udp(1));
    for (dumped, left) in [
        (Dumped { zone: 1, ..plain.clone() }, Left::Zone),
        (Dumped { has_helper: true, ..plain.clone() }, Left::Helper),
        (Dumped { has_master: true, ..plain.clone() }, Left::Expected),
        (Dumped { is_adjusted: true, ..plain.clone() }, Left::Adjusted),
        (Dumped { status: status::DYING, ..plain.clone() }, Left::Dying),
        (Dumped { timeout_s: None, ..plain }, Left::Unreadable),
        (Dumped { state: None, ..dumped(&samples::tcp(1)) }, Left::Unreadable),
        // The metadata service, a name server of the host's own, the gateway, DHCP.
        (udp(("10.65.0.2", "169.254.169.254"), ("192.168.77.2", "10.65.0.2")), Left::OfThisHost),
        (udp(("10.65.0.2", "9.9.9.9"), ("192.168.77.2", "10.65.0.2")), Left::OfThisHost),
        (udp(("fd00:65::2", "fe80::1"), ("fe80::1", "fd00:65::2")), Left::OfThisHost),
        (udp(("10.65.0.2", "255.255.255.255"), ("255.255.255.255", "10.65.0.2")), Left::OfThisHost),
        // What leaves or comes with the host's address.
        (udp(("10.65.0.2", "192.0.2.7"), ("192.0.2.7", "192.168.77.2")), Left::TranslatedElsewhere),
        (udp(("192.0.2.7", "192.168.77.2"), ("10.65.0.2", "192.0.2.7")), Left::TranslatedElsewhere),
        (udp(("192.0.2.7", "10.65.0.2"), ("10.65.0.2", "192.168.77.2")), Left::TranslatedElsewhere),
    ] {
        assert_eq!(selection(&addresses).carry(&dumped), Err(left), "{dumped:?}");
    }
}

/// The other VM stays, and its host goes on translating for it.
#[test]
fn what_is_translated_for_another_vm_here_is_carried_as_it_will_be_on_the_wire() {
    let addresses = addresses();
    let dumped = udp(("10.65.0.2", "203.0.113.77"), ("10.65.0.9", "10.65.0.2"));
    let carried = selection(&addresses).carry(&dumped).unwrap();
    assert_eq!(carried.original, dumped.original);
    assert_eq!(carried.reply, dumped.original.answered(&dumped.original));
}

#[test]
fn others_do_not_concern_it() {
    let addresses = addresses();
    for (original, reply) in [
        (("192.0.2.7", "192.0.2.8"), ("192.0.2.8", "192.0.2.7")),
        // An address of the VM that leads to somebody else.
        (("192.0.2.7", "203.0.113.5"), ("10.65.0.9", "192.0.2.7")),
        (("10.65.0.20", "192.0.2.8"), ("192.0.2.8", "10.65.0.20")),
    ] {
        let dumped = udp(original, reply);
        assert!(!selection(&addresses).concerns(&dumped.original, &dumped.reply), "{original:?}");
    }
}

#[test]
fn what_a_flow_table_has_is_carried_with_usual_times() {
    let addresses = addresses();
    for (entry, timeout_s) in [(samples::tcp(1), 432_000), (samples::udp(1), 120)] {
        let plain = dumped(&entry);
        let bits = plain.status | status::OFFLOADED;
        let dumped = Dumped { status: bits, timeout_s: None, state: None, ..plain };
        let carried = selection(&addresses).carry(&dumped).unwrap();
        assert_eq!((carried.timeout_s, carried.assured), (timeout_s, true));
        assert!(protocol::remembers(entry.original.protocol, carried.state));
    }
}
