//! Reading, making and taking back, in one namespace without packets: the kernel's table is what is tested.

use crate::stage::{Stage, at, vm};
use cutover_daemon::conntrack::{
    Conntrack, ENTRIES_MAX, Entry, Key, Left, Refusal, State, Tuple, Withdrawn, is_tracking,
};
use cutover_tests::felix::Family;
use cutover_tests::firewall::load;
use cutover_tests::namespace::Namespace;
use cutover_tests::{Lab, wait};
use ipnet::IpNet;
use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};

/// A namespace of a lab.
pub(crate) struct Table {
    pub(crate) namespace: Namespace,
    _lab: Lab,
}

impl Table {
    pub(crate) fn new() -> Self {
        let lab = Lab::new();
        Self { namespace: Namespace::create(&format!("{}table", lab.prefix())), _lab: lab }
    }

    /// With connection tracking of this namespace.
    pub(crate) fn with<T: Send>(&self, work: impl FnOnce(&mut Conntrack) -> T + Send) -> T {
        self.namespace.run(|| work(&mut Conntrack::open().expect("a socket")))
    }
}

/// An established connection of an address, told apart from others by a number. Every third one is UDP, every fifth IPv6.
pub(crate) fn connection(of: (Ipv4Addr, Ipv6Addr), number: u32) -> Entry {
    let (source, destination): (IpAddr, IpAddr) = if number.is_multiple_of(5) {
        (of.1.into(), Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, (number >> 16) as u16, 7).into())
    } else {
        (of.0.into(), Ipv4Addr::new(192, 0, 2, (number >> 16) as u8).into())
    };
    let is_udp = number.is_multiple_of(3);
    let (protocol, state) = if is_udp {
        (17, State::Nothing)
    } else {
        (6, State::Tcp { state: 3, flags: [0x03; 2], scale: [7, 7] })
    };
    let port = (number & 0xffff) as u16;
    let tuple = |source, destination, key| Tuple { source, destination, protocol, key };
    Entry {
        original: tuple(source, destination, Key::Ports(port, 443)),
        reply: tuple(destination, source, Key::Ports(443, port)),
        seen_reply: true,
        assured: true,
        timeout_s: if is_udp { 120 } else { 400_000 },
        state,
        mark: number & 1,
        labels: None,
    }
}

pub(crate) const VM: (Ipv4Addr, Ipv6Addr) =
    (Ipv4Addr::new(10, 65, 0, 2), Ipv6Addr::new(0xfd00, 0x65, 0, 0, 0, 0, 0, 2));
pub(crate) const OTHER: (Ipv4Addr, Ipv6Addr) =
    (Ipv4Addr::new(10, 65, 0, 9), Ipv6Addr::new(0xfd00, 0x65, 0, 0, 0, 0, 0, 9));

pub(crate) fn prefixes((ipv4, ipv6): (Ipv4Addr, Ipv6Addr)) -> Vec<IpNet> {
    vec![IpAddr::from(ipv4).into(), IpAddr::from(ipv6).into()]
}

fn connections(of: (Ipv4Addr, Ipv6Addr), count: u32) -> Vec<Entry> {
    (0..count).map(|number| connection(of, number)).collect()
}

fn originals(entries: &[Entry]) -> BTreeSet<Tuple> {
    entries.iter().map(|entry| entry.original).collect()
}

#[test]
fn what_is_made_is_read_and_made_once() {
    let table = Table::new();
    let entries = connections(VM, 300);
    let (vm, none) = (prefixes(VM), HashSet::new());
    table.with(|conntrack| {
        let injected = conntrack.inject(&entries, &vm, &none);
        assert_eq!((injected.done, injected.kept, injected.refused.len()), (300, 0, 0), "{injected:?}");
        let mut read = conntrack.read(&vm).unwrap();
        read.carried.sort_by_key(|entry| entry.original);
        let mut expected = entries.clone();
        expected.sort_by_key(|entry| entry.original);
        for (read, expected) in read.carried.iter_mut().zip(&expected) {
            // It runs on.
            assert!(expected.timeout_s - read.timeout_s <= 10, "{read:?}");
            read.timeout_s = expected.timeout_s;
        }
        assert_eq!((read.carried, read.left, read.is_partial), (expected, BTreeMap::new(), false));

        // Whose they are is not known any more: they stay.
        let again = conntrack.inject(&entries, &vm, &none);
        assert_eq!((again.done, again.kept, again.ours.len()), (0, 300, 0), "{again:?}");
        // It is known: they are replaced, and their times are as given.
        let ours: HashSet<Tuple> = injected.ours.iter().map(|ours| ours.original).collect();
        let shorter: Vec<Entry> =
            entries.iter().map(|entry| Entry { timeout_s: 60, ..entry.clone() }).collect();
        let replaced = conntrack.inject(&shorter, &vm, &ours);
        assert_eq!((replaced.done, replaced.kept), (300, 0), "{replaced:?}");
        let read = conntrack.read(&vm).unwrap().carried;
        assert!(read.len() == 300 && read.iter().all(|entry| entry.timeout_s <= 60));
        // Half of them are gone, as after a kill between the two halves of a replacement.
        assert_eq!(conntrack.withdraw(&replaced.ours[..150]).unwrap().deleted, 150);
        let mended = conntrack.inject(&shorter, &vm, &ours);
        assert_eq!((mended.done, mended.kept), (300, 0), "{mended:?}");
    });
}

#[test]
fn what_is_not_the_vms_is_refused_and_nothing_is_made_of_it() {
    let table = Table::new();
    let mut entries = connections(OTHER, 10);
    entries.extend(connections(VM, 10));
    entries[15].state = State::Sctp { state: 200, tags: [0; 2] };
    table.with(|conntrack| {
        let injected = conntrack.inject(&entries, &prefixes(VM), &HashSet::new());
        assert_eq!(injected.done, 9);
        let refused = BTreeMap::from([(Refusal::NotAllowed, 10), (Refusal::Malformed, 1)]);
        assert_eq!(injected.refused, refused);
        assert!(conntrack.read(&prefixes(OTHER)).unwrap().carried.is_empty());
    });
}

/// As many as one VM may have, twice: early, and after the last difference.
#[test]
fn as_many_as_a_migration_needs_are_made() {
    let table = Table::new();
    let entries = connections(VM, 60_000);
    table.with(|conntrack| {
        let first = conntrack.inject(&entries, &prefixes(VM), &HashSet::new());
        assert_eq!(first.done, 60_000, "{:?}", first.refused);
        let ours: HashSet<Tuple> = first.ours.iter().map(|ours| ours.original).collect();
        let second = conntrack.inject(&entries, &prefixes(VM), &ours);
        assert_eq!(second.done, 60_000, "{:?}", second.refused);
    });
}

/// And of those that are too many, the ones stay that the kernel would keep as well: who has been answered in both directions.
#[test]
fn of_more_than_one_vm_may_have_the_assured_ones_are_read() {
    const ASSURED: u32 = 60_000;
    const UNASSURED: u32 = 10_000;
    let table = Table::new();
    let made = |numbers: std::ops::Range<u32>, assured| {
        numbers.map(move |number| Entry { assured, ..connection(VM, number) }).collect::<Vec<_>>()
    };
    table.with(|conntrack| {
        // Those that are to make room are there first.
        for entries in [made(0..UNASSURED, false), made(UNASSURED..UNASSURED + ASSURED, true)] {
            let injected = conntrack.inject(&entries, &prefixes(VM), &HashSet::new());
            assert_eq!(injected.done, entries.len(), "{:?}", injected.refused);
        }
        let read = conntrack.read(&prefixes(VM)).unwrap();
        assert_eq!(read.carried.len(), ENTRIES_MAX);
        assert_eq!(read.carried.iter().filter(|entry| entry.assured).count(), ASSURED as usize);
        // The kernel may tell of one of them twice.
        let beyond = (ASSURED + UNASSURED) as usize - ENTRIES_MAX;
        assert!(read.left[&Left::TooMany] >= beyond, "{:?}", read.left);
    });
}

/// Of what the host itself says to somebody, no other host knows anything.
#[test]
fn no_connection_with_the_host_itself_is_made() {
    let table = Table::new();
    let (own, other) = ("198.51.100.1", "198.51.100.2");
    table.namespace.ip("link set lo up");
    table.namespace.ip(&format!("address add {own}/32 dev lo"));
    let with = |address: &str| {
        let address: IpAddr = address.parse().unwrap();
        let mut entry = connection(VM, 1);
        (entry.original.destination, entry.reply.source) = (address, address);
        entry
    };
    table.with(|conntrack| {
        let injected = conntrack.inject(&[with(own), with(other)], &prefixes(VM), &HashSet::new());
        assert_eq!(injected.refused, BTreeMap::from([(Refusal::NotAllowed, 1)]));
        let read = conntrack.read(&prefixes(VM)).unwrap();
        assert_eq!(originals(&read.carried), originals(&[with(other)]));
    });
}

#[test]
fn the_vms_own_are_found_in_a_large_table() {
    let table = Table::new();
    let others = connections(OTHER, 30_000);
    let entries = connections(VM, 500);
    table.with(|conntrack| {
        assert_eq!(conntrack.inject(&others, &prefixes(OTHER), &HashSet::new()).done, 30_000);
        conntrack.inject(&entries, &prefixes(VM), &HashSet::new());
        let read = conntrack.read(&prefixes(VM)).unwrap();
        assert_eq!(originals(&read.carried), originals(&entries));
        assert_eq!(conntrack.forget(&prefixes(VM), &[]).unwrap(), 500);
        assert_eq!(conntrack.read(&prefixes(OTHER)).unwrap().carried.len(), 30_000);
    });
}

/// Connections that come and go beside a dump make none of the others disappear from it.
#[test]
fn what_was_there_all_the_time_is_read_beside_others_that_come_and_go() {
    let table = Table::new();
    let entries = connections(VM, 2_000);
    let churned = connections(OTHER, 4_000);
    let is_over = AtomicBool::new(false);
    table.with(|conntrack| conntrack.inject(&entries, &prefixes(VM), &HashSet::new()));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            table.with(|conntrack| {
                while !is_over.load(Ordering::Relaxed) {
                    let made = conntrack.inject(&churned, &prefixes(OTHER), &HashSet::new()).ours;
                    conntrack.withdraw(&made).unwrap();
                }
            });
        });
        let expected = originals(&entries);
        let complete = table.with(|conntrack| {
            (0..30).all(|_| originals(&conntrack.read(&prefixes(VM)).unwrap().carried) == expected)
        });
        is_over.store(true, Ordering::Relaxed);
        assert!(complete);
    });
}

#[test]
fn what_is_left_of_an_earlier_stay_is_forgotten_and_what_is_current_is_not() {
    let table = Table::new();
    let mut entries = connections(VM, 100);
    // Of another VM on this host.
    entries.extend(connections(OTHER, 100));
    let mut between = connection(VM, 77);
    (between.original.destination, between.reply.source) = (OTHER.0.into(), OTHER.0.into());
    entries.push(between.clone());
    let all = [prefixes(VM), prefixes(OTHER)].concat();
    table.with(|conntrack| {
        assert_eq!(conntrack.inject(&entries, &all, &HashSet::new()).done, 201);
        assert_eq!(conntrack.forget(&prefixes(VM), &prefixes(OTHER)).unwrap(), 100);
        assert_eq!(conntrack.read(&prefixes(VM)).unwrap().carried.len(), 1);
        assert_eq!(conntrack.read(&prefixes(OTHER)).unwrap().carried.len(), 101);
        assert_eq!(conntrack.forget(&prefixes(VM), &[]).unwrap(), 1);
        assert_eq!(conntrack.forget(&prefixes(VM), &[]).unwrap(), 0);
    });
}

/// A connection that has had a packet where the VM did not go stays; the others are taken back.
#[test]
fn what_is_used_is_not_taken_back() {
    let stage = Stage::new();
    let client = stage.address_of_client(Family::Ipv4);
    let server = stage.client.namespace().run(|| UdpSocket::bind(at(client, 53))).unwrap();
    let vm = stage.vm.run(|| UdpSocket::bind(at(vm(Family::Ipv4), 4000))).unwrap();
    let other = stage.vm.run(|| UdpSocket::bind(at(crate::stage::vm(Family::Ipv4), 4001))).unwrap();
    for socket in [&vm, &other] {
        socket.send_to(b"?", at(client, 53)).unwrap();
        let from = server.recv_from(&mut [0; 8]).unwrap().1;
        server.send_to(b"!", from).unwrap();
        socket.recv(&mut [0; 8]).unwrap();
    }
    // Made long before the packet, as far as their times tell.
    let mut entries = crate::stage::read(&stage.source);
    entries.carried.iter_mut().for_each(|entry| entry.timeout_s = 20);
    let injected = crate::stage::inject(&stage.target, &entries);
    assert_eq!(injected.done, 2, "{injected:?}");
    stage.network_moves();
    server.send_to(b"used", vm.local_addr().unwrap()).unwrap();
    vm.recv(&mut [0; 8]).unwrap();
    let withdraw =
        || stage.target.namespace().run(|| Conntrack::open().unwrap().withdraw(&injected.ours).unwrap());
    assert_eq!(withdraw(), Withdrawn { deleted: 1, used: 1, gone: 0 });
    assert_eq!(withdraw(), Withdrawn { deleted: 0, used: 1, gone: 1 });
}

#[test]
fn whether_anything_is_tracked_is_seen() {
    let table = Table::new();
    let talk = || {
        table.namespace.run(|| {
            let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
            socket.send_to(b"x", socket.local_addr().unwrap()).unwrap();
        });
    };
    talk();
    assert!(!table.namespace.run(is_tracking), "nobody wants it");
    load(
        &table.namespace,
        "table inet t {\nchain c {\ntype filter hook input priority 0;\nct state invalid drop\n}\n}\n",
    );
    talk();
    wait::until(wait::SOON, "the host tracks", || table.namespace.run(is_tracking));
}
