//! Rules like Felix's on both hosts: what was established on the source goes on when the virtual machine runs on the target, whoever
//! is to speak next.

use crate::bed::*;
use cutover_daemon::conntrack::{Conntrack, Entries};
use cutover_tests::firewall::{self, OPEN_PORT, counted, retransmission_timeouts};
use cutover_tests::frames;
use cutover_tests::host::Host;
use cutover_tests::namespace::Namespace;
use cutover_tests::scene::{Node, SOURCE, TARGET};
use cutover_tests::wait;
use std::io::{Read as _, Write as _};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::thread;
use std::time::Duration;

const BYTES: usize = 60_000_000;

/// A bed whose hosts have rules.
fn guarded() -> Bed {
    guarded_with(&[])
}

fn guarded_with(settings: &[(&str, &str)]) -> Bed {
    let bed = Bed::with(|agent| settings.iter().for_each(|(name, value)| agent.set(name, value)));
    for node in [&bed.scene.source, &bed.scene.target] {
        firewall::filter(node.host.namespace(), &bed.scene.port.interface);
    }
    bed
}

/// The virtual machine connects to the client.
fn connect(bed: &Bed, address: IpAddr) -> (TcpStream, TcpStream) {
    let own: IpAddr = match address {
        IpAddr::V4(_) => bed.client.ipv4().into(),
        IpAddr::V6(_) => bed.client.ipv6().into(),
    };
    let listener = bed.client.namespace().run(|| TcpListener::bind((own, 0))).unwrap();
    let to = listener.local_addr().unwrap();
    let vm = bed.scene.vm.namespace().run(|| TcpStream::connect(to)).unwrap();
    (vm, listener.accept().unwrap().0)
}

/// What a host knows of the virtual machine's connections.
fn tracked(bed: &Bed, host: &Host) -> Entries {
    let addresses: Vec<_> = bed.scene.port.routed().into_iter().collect();
    host.namespace().run(|| Conntrack::open().unwrap().read(&addresses).unwrap())
}

/// What the status of an agent says of them.
fn handover(node: &Node) -> serde_json::Value {
    shown(node, "handovers").unwrap_or_default()
}

#[track_caller]
fn wait_taken_over(bed: &Bed, count: usize) {
    let is_it = || handover(&bed.scene.target)["connections"] == count;
    if !wait::holds_within(wait::SOON, is_it) {
        let (source, target) = (&bed.scene.source, &bed.scene.target);
        panic!(
            "not {count} connections: {:#} {:#}\n{}\n{}",
            handover(source),
            handover(target),
            source.agent.log_text(),
            target.agent.log_text()
        );
    }
}

/// Some bytes get from one to the other.
#[track_caller]
fn say(from: &mut TcpStream, to: &mut TcpStream) {
    from.write_all(b"some bytes").unwrap();
    to.set_read_timeout(Some(wait::patient(wait::SOON))).unwrap();
    to.read_exact(&mut [0; 10]).unwrap();
}

fn no_packet_was_dropped(bed: &Bed) {
    for node in [&bed.scene.source, &bed.scene.target] {
        let drops = ["denied", "invalid"].map(|counter| counted(&node.host, counter));
        assert_eq!(drops, [0, 0], "denied and invalid on {}", node.host.name());
    }
}

/// Data for a virtual machine that nobody may connect to, in a stream that never pauses; the client's router never hears of the move. How
/// long TCP is silent meanwhile is for the bench with real guests to say: here the steps of the test take longest.
#[test]
fn a_busy_download_goes_on() {
    let mut bed = guarded();
    let sessions: Vec<_> = bed.scene.port.addresses.iter().map(|net| connect(&bed, net.addr())).collect();
    let count = sessions.len();
    bed.start_migration();
    wait_taken_over(&bed, count);
    let mut ends = Vec::new();
    let mut senders = Vec::new();
    for (vm, mut client) in sessions {
        senders.push(thread::spawn(move || {
            let piece = vec![1; 100_000];
            (0..BYTES / piece.len()).try_for_each(|_| client.write_all(&piece)).map(|()| client)
        }));
        ends.push(vm);
    }
    let readers: Vec<_> = ends
        .into_iter()
        .map(|mut vm| {
            vm.set_read_timeout(Some(wait::patient(wait::SOON))).unwrap();
            let (half, reached) = std::sync::mpsc::channel();
            let reader = thread::spawn(move || {
                let mut buffer = vec![0; 1_000_000];
                let mut got = 0;
                while got < BYTES {
                    got += vm.read(&mut buffer)?;
                    if got > BYTES / 3 {
                        let _ = half.send(());
                    }
                }
                std::io::Result::Ok(got)
            });
            (reader, reached)
        })
        .collect();
    for (_, reached) in &readers {
        reached.recv().expect("a third has come");
    }
    // A whole window that is lost would be waited for, whatever is tracked: so nothing is.
    let at_target = bed.scene.target.tap().open();
    bed.tell("pause");
    wait_for(&bed.scene.source, "forwards", "is_active", true);
    // What was in the queue of the source's tap is taken before it stops.
    thread::sleep(Duration::from_millis(20));
    drop(bed.scene.vm.pause());
    at_target.send(&frames::rarp(bed.scene.port.mac));
    bed.scene.vm.resume(at_target);
    for (reader, _) in readers {
        assert_eq!(reader.join().unwrap().unwrap(), BYTES);
    }
    for sender in senders {
        sender.join().unwrap().unwrap();
    }
    no_packet_was_dropped(&bed);
    assert_eq!(handover(&bed.scene.source)["loosened"], count);
    bed.succeed();
    for host in [&bed.scene.source.host, &bed.scene.target.host] {
        wait_gone(host);
    }
}

/// One that was not there yet when the target was told of the others.
#[test]
fn a_connection_that_begins_during_the_migration_is_taken_over() {
    let mut bed = guarded();
    let uid = bed.start_migration();
    let address = bed.scene.port.addresses.first().unwrap().addr();
    let (mut vm, mut client) = connect(&bed, address);
    wait_taken_over(&bed, 1);
    bed.arrive();
    bed.succeed();
    say(&mut vm, &mut client);
    say(&mut client, &mut vm);
    no_packet_was_dropped(&bed);
    let timeline = bed.scene.target.agent.run_ok(&["timeline", &uid]);
    assert!(
        timeline.contains("handed over") && timeline.contains("tracked connections taken over: "),
        "{timeline}"
    );
}

/// The virtual machine has asked once, and only the other side speaks from then on.
#[test]
fn datagrams_of_the_other_side_alone_go_on() {
    let mut bed = guarded();
    let address: IpAddr = bed.scene.port.addresses.first().unwrap().addr();
    let bind = |namespace: &Namespace, to: SocketAddr| namespace.run(|| UdpSocket::bind(to)).unwrap();
    let client = bind(bed.client.namespace(), (IpAddr::from(bed.client.ipv4()), 9).into());
    let vm = bind(bed.scene.vm.namespace(), (address, 0).into());
    vm.send_to(b"more", client.local_addr().unwrap()).unwrap();
    let from = client.recv_from(&mut [0; 16]).unwrap().1;
    bed.start_migration();
    wait_taken_over(&bed, 1);
    bed.arrive();
    wait_for(&bed.scene.source, "forwards", "is_active", true);
    vm.set_read_timeout(Some(wait::patient(wait::SOON))).unwrap();
    for _ in 0..5 {
        client.send_to(b"22", from).unwrap();
        assert_eq!(vm.recv(&mut [0; 16]).unwrap(), 2);
    }
    no_packet_was_dropped(&bed);
    bed.succeed();
}

/// Sessions to a floating address. The client's router never hears of the move, so what the client says is forwarded by a source that translates the
/// address itself.
#[test]
fn sessions_to_a_floating_address_go_on_whoever_speaks_first() {
    let floating: Vec<(IpAddr, IpAddr)> = [("10.65.0.2", "203.0.113.5"), ("2001:db8::2", "fd00:113::5")]
        .map(|(inside, outside)| (inside.parse().unwrap(), outside.parse().unwrap()))
        .to_vec();
    let mut bed = Bed::with_floating(floating.clone());
    for node in [&bed.scene.source, &bed.scene.target] {
        firewall::filter(node.host.namespace(), &bed.scene.port.interface);
        firewall::translate(node.host.namespace(), &floating);
    }
    let mut sessions = Vec::new();
    for (inside, outside) in &floating {
        for _ in 0..2 {
            let at = |address: &IpAddr| SocketAddr::new(*address, OPEN_PORT);
            let listener = bed.scene.vm.namespace().run(|| TcpListener::bind(at(inside))).unwrap();
            let client = bed.client.namespace().run(|| TcpStream::connect(at(outside))).unwrap();
            sessions.push((listener.accept().unwrap().0, client));
        }
    }
    let before = [bed.client.namespace(), bed.scene.vm.namespace()].map(retransmission_timeouts);
    bed.start_migration();
    wait_taken_over(&bed, sessions.len());
    bed.arrive();
    wait_for(&bed.scene.source, "forwards", "is_active", true);
    for (number, (vm, client)) in sessions.iter_mut().enumerate() {
        let (first, second) = if number % 2 == 0 { (vm, client) } else { (client, vm) };
        for _ in 0..3 {
            say(first, second);
            say(second, first);
        }
    }
    let after = [bed.client.namespace(), bed.scene.vm.namespace()].map(retransmission_timeouts);
    assert_eq!(after, before);
    no_packet_was_dropped(&bed);
    // One that begins now.
    let (inside, outside) = floating[0];
    let at = |address| SocketAddr::new(address, OPEN_PORT);
    let listener = bed.scene.vm.namespace().run(|| TcpListener::bind(at(inside))).unwrap();
    let mut client = bed.client.namespace().run(|| TcpStream::connect(at(outside))).unwrap();
    say(&mut client, &mut listener.accept().unwrap().0);
    bed.succeed();
    for host in [&bed.scene.source.host, &bed.scene.target.host] {
        wait_gone(host);
    }
}

/// The counterpart: where it is off, the target knows nothing.
#[test]
fn switched_off_nothing_is_handed_over_and_the_target_drops_what_comes() {
    let mut bed = guarded_with(&[("CutoverConntrack", "off")]);
    let address = bed.scene.port.addresses.first().unwrap().addr();
    let (_vm, mut client) = connect(&bed, address);
    bed.start_migration();
    bed.arrive();
    client.write_all(b"for the target").unwrap();
    wait::until(wait::SOON, "the target drops it", || counted(&bed.scene.target.host, "denied") > 0);
    assert!(shown(&bed.scene.target, "handovers").is_none());
    bed.succeed();
}

/// The source goes on tracking what it forwards, so the rules that say otherwise go with the agent that made them; the forward stays.
#[test]
fn an_agent_that_is_started_without_it_takes_its_table_away_and_forwards_on() {
    let mut bed = guarded();
    let table = |bed: &Bed| {
        let traces = traces(&bed.scene.source.host);
        traces.iter().filter(|trace| trace.contains("table inet")).count()
    };
    bed.start_migration();
    bed.arrive();
    wait_for(&bed.scene.source, "forwards", "is_active", true);
    assert_eq!(table(&bed), 1);
    bed.scene.source.agent.terminate();
    bed.scene.source.agent.set("CutoverConntrack", "off");
    bed.scene.source.agent.start_in_sync();
    wait::until(wait::SOON, "the table is gone", || table(&bed) == 0);
    wait_for(&bed.scene.source, "forwards", "is_active", true);
    bed.succeed();
}

#[test]
fn what_was_taken_over_is_taken_back_when_the_migration_fails() {
    let bed = guarded();
    let address = bed.scene.port.addresses.first().unwrap().addr();
    let (mut vm, mut client) = connect(&bed, address);
    bed.start_migration();
    wait_taken_over(&bed, 1);
    bed.scene.driver.roll_back(SOURCE, TARGET);
    wait::until(wait::SOON, "nothing is left on the target", || {
        tracked(&bed, &bed.scene.target.host).carried.is_empty()
    });
    say(&mut vm, &mut client);
    no_packet_was_dropped(&bed);
}

/// What an agent has made it takes back in its next life as well.
#[test]
fn a_target_that_is_killed_takes_over_again_and_takes_back_what_its_last_life_made() {
    let mut bed = guarded();
    let address = bed.scene.port.addresses.first().unwrap().addr();
    let (_vm, _client) = connect(&bed, address);
    bed.start_migration();
    wait_taken_over(&bed, 1);
    bed.scene.target.agent.kill();
    assert_eq!(tracked(&bed, &bed.scene.target.host).carried.len(), 1);
    bed.scene.target.agent.start_in_sync();
    wait_taken_over(&bed, 1);
    bed.scene.target.agent.kill();
    bed.scene.driver.roll_back(SOURCE, TARGET);
    bed.scene.target.agent.spawn();
    wait::until(wait::SOON, "nothing is left on the target", || {
        tracked(&bed, &bed.scene.target.host).carried.is_empty()
    });
}

/// A source that is killed is asked again when it is back, and the target keeps what it has until then.
#[test]
fn a_source_that_is_killed_costs_nothing() {
    let mut bed = guarded();
    let address = bed.scene.port.addresses.first().unwrap().addr();
    let (mut vm, mut client) = connect(&bed, address);
    bed.start_migration();
    wait_taken_over(&bed, 1);
    bed.scene.source.agent.kill();
    thread::sleep(Duration::from_millis(100));
    assert_eq!(tracked(&bed, &bed.scene.target.host).carried.len(), 1);
    bed.scene.source.agent.start_in_sync();
    let (_other, _peer) = connect(&bed, address);
    wait_taken_over(&bed, 2);
    bed.wait_ready();
    bed.arrive();
    wait_for(&bed.scene.source, "forwards", "is_active", true);
    say(&mut client, &mut vm);
    no_packet_was_dropped(&bed);
    bed.succeed();
}
