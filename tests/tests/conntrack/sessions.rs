//! Sessions that go on after the VM has moved.

use crate::stage::{Stage, addresses, at, floating, loosen, read, vm};
use cutover_daemon::conntrack::Left;
use cutover_tests::felix::{BOTH, Family};
use cutover_tests::firewall::{OPEN_PORT, counted, load, retransmission_timeouts};
use cutover_tests::namespace::Namespace;
use cutover_tests::wait;
use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, SockaddrStorage, recvfrom, sendto, socket,
};
use std::io::{self, Read as _, Write as _};
use std::net::{IpAddr, Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::thread;
use std::time::{Duration, Instant};

/// What does not arrive for so long does not arrive: packets of the lab take microseconds.
const NEVER: Duration = Duration::from_millis(700);

/// The VM's half and the client's half of one TCP connection.
struct Session {
    vm: TcpStream,
    client: TcpStream,
}

/// The VM connects to the client.
fn from_vm(stage: &Stage, family: Family) -> Session {
    let listener = listen(stage.client.namespace(), at(stage.address_of_client(family), 0));
    let address = listener.local_addr().unwrap();
    let vm = stage.vm.run(|| TcpStream::connect(address)).unwrap();
    Session { vm, client: listener.accept().unwrap().0 }
}

/// The client connects to an address of the VM.
fn to_vm(stage: &Stage, family: Family, address: IpAddr) -> Session {
    let listener = listen(&stage.vm, at(vm(family), OPEN_PORT));
    let client = stage.client.namespace().run(|| TcpStream::connect(at(address, OPEN_PORT))).unwrap();
    Session { vm: listener.accept().unwrap().0, client }
}

fn listen(namespace: &Namespace, address: SocketAddr) -> TcpListener {
    namespace.run(|| TcpListener::bind(address)).unwrap()
}

/// Bytes get from one to the other.
#[track_caller]
fn gets_through(from: &mut TcpStream, to: &mut TcpStream, text: &[u8]) {
    gets_through_within(wait::patient(wait::SOON), from, to, text).unwrap();
}

fn gets_through_within(
    limit: Duration,
    from: &mut TcpStream,
    to: &mut TcpStream,
    text: &[u8],
) -> io::Result<()> {
    from.write_all(text)?;
    to.set_read_timeout(Some(limit))?;
    let mut got = vec![0; text.len()];
    to.read_exact(&mut got)?;
    assert_eq!(got, text);
    Ok(())
}

impl Session {
    #[track_caller]
    fn exchange(&mut self) {
        gets_through(&mut self.vm, &mut self.client, b"from the VM");
        gets_through(&mut self.client, &mut self.vm, b"from the client");
    }
}

/// Data for a VM whose group has no rule for anything that comes in: the first packet on the target is the client's.
#[test]
fn a_download_into_a_vm_without_ingress_rules_goes_on() {
    for family in BOTH {
        let stage = Stage::new();
        let mut session = from_vm(&stage, family);
        session.exchange();
        let (entries, injected) = stage.hand_over();
        assert_eq!((entries.carried.len(), injected.done), (1, 1), "{entries:?} {injected:?}");
        stage.network_moves();
        stage.vm_moves();
        let before = retransmission_timeouts(stage.client.namespace());
        gets_through(&mut session.client, &mut session.vm, &[7; 4096]);
        session.exchange();
        assert_eq!(retransmission_timeouts(stage.client.namespace()), before);
        assert_eq!((counted(&stage.target, "denied"), counted(&stage.target, "invalid")), (0, 0));
    }
}

#[test]
fn without_the_hand_over_it_stalls() {
    for family in BOTH {
        let stage = Stage::new();
        let mut session = from_vm(&stage, family);
        session.exchange();
        stage.network_moves();
        stage.vm_moves();
        let before = retransmission_timeouts(stage.client.namespace());
        let error = gets_through_within(NEVER, &mut session.client, &mut session.vm, &[7; 4096]).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
        assert!(retransmission_timeouts(stage.client.namespace()) > before);
        assert!(counted(&stage.target, "denied") > 0);
    }
}

/// A stream that never pauses, moved in the middle: first the VM, then, with some of the data on the way over the source, the network.
#[test]
fn a_busy_download_is_moved_without_a_retransmission_timeout() {
    for family in BOTH {
        let stage = Stage::new();
        let timeouts = || retransmission_timeouts(stage.client.namespace());
        let before = timeouts();
        let got = move_busy_download(&stage, family, true);
        assert_eq!((got.ok(), timeouts()), (Some(BYTES), before), "{family:?}");
        for host in [&stage.source, &stage.target] {
            assert_eq!((counted(host, "denied"), counted(host, "invalid")), (0, 0));
        }
    }
}

/// The source does not see what the VM acknowledges, and believes the client to be far ahead.
#[test]
fn a_source_that_forwards_and_is_not_told_drops_what_it_forwards() {
    for family in BOTH {
        let stage = Stage::new();
        let before = retransmission_timeouts(stage.client.namespace());
        let got = move_busy_download(&stage, family, false);
        assert!(got.is_err(), "{got:?}");
        assert!(counted(&stage.source, "invalid") > 0);
        assert!(retransmission_timeouts(stage.client.namespace()) > before);
    }
}

const BYTES: usize = 300_000_000;

/// Returns how much the VM got, or how much it had when nothing came any more.
fn move_busy_download(stage: &Stage, family: Family, is_loosened: bool) -> Result<usize, usize> {
    let Session { mut vm, mut client } = from_vm(stage, family);
    vm.set_read_timeout(Some(wait::patient(Duration::from_secs(3)))).unwrap();
    let hanging = client.try_clone().unwrap();
    let sender = thread::spawn(move || {
        let piece = vec![1; 100_000];
        // Nobody may be left to take it.
        (0..BYTES / piece.len()).try_for_each(|_| client.write_all(&piece)).is_ok()
    });
    let mut buffer = vec![0; 1_000_000];
    let mut steps = 0;
    let mut got = 0;
    while got < BYTES {
        let Ok(more @ 1..) = vm.read(&mut buffer) else { break };
        got += more;
        if steps == 0 && got > BYTES / 3 {
            let (entries, injected) = stage.hand_over();
            assert_eq!(injected.done, 1, "{entries:?} {injected:?}");
            if is_loosened {
                assert_eq!(loosen(&stage.source, &entries), 1);
            }
            stage.vm_moves();
            stage.source_forwards();
            steps = 1;
        } else if steps == 1 && got > 2 * (BYTES / 3) {
            stage.network_moves();
            steps = 2;
        }
    }
    // Whoever waits for room in a connection that is dead would wait for a quarter of an hour.
    let _ = hanging.shutdown(Shutdown::Both);
    let is_sent = sender.join().unwrap();
    if is_sent && got == BYTES { Ok(got) } else { Err(got) }
}

/// The floating address: what the VM says has to come from it, also if the VM is the first to speak after the move.
#[test]
fn a_session_to_a_floating_address_goes_on_whoever_speaks_first() {
    for family in BOTH {
        for vm_is_first in [true, false] {
            let stage = Stage::new();
            let mut session = to_vm(&stage, family, floating(family));
            session.exchange();
            let (entries, injected) = stage.hand_over();
            assert_eq!(injected.done, 1, "{entries:?} {injected:?}");
            // What the kernel made of it is what it was.
            let made = read(&stage.target).carried;
            assert_eq!(made.len(), 1);
            assert_eq!(
                (made[0].original, made[0].reply),
                (entries.carried[0].original, entries.carried[0].reply)
            );
            stage.network_moves();
            stage.vm_moves();
            if vm_is_first {
                gets_through(&mut session.vm, &mut session.client, b"the VM is first");
            }
            gets_through(&mut session.client, &mut session.vm, b"and the client");
            session.exchange();
            assert_eq!((counted(&stage.target, "denied"), counted(&stage.target, "invalid")), (0, 0));
        }
    }
}

#[test]
fn without_the_hand_over_the_vm_speaks_with_the_wrong_address() {
    for family in BOTH {
        let stage = Stage::new();
        let mut session = to_vm(&stage, family, floating(family));
        session.exchange();
        stage.network_moves();
        stage.vm_moves();
        let error =
            gets_through_within(NEVER, &mut session.vm, &mut session.client, b"the VM is first").unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
        // The client knows no such connection, and says so.
        session.vm.set_read_timeout(Some(wait::patient(wait::SOON))).unwrap();
        let error = session.vm.read(&mut [0]).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
    }
}

/// The VM has asked once, and only the other side speaks from then on.
#[test]
fn datagrams_of_the_other_side_alone_go_on() {
    for family in BOTH {
        for is_handed_over in [true, false] {
            let stage = Stage::new();
            let client = stage
                .client
                .namespace()
                .run(|| UdpSocket::bind(at(stage.address_of_client(family), 9)))
                .unwrap();
            let vm = stage.vm.run(|| UdpSocket::bind(at(vm(family), 0))).unwrap();
            vm.send_to(b"more", client.local_addr().unwrap()).unwrap();
            let from = client.recv_from(&mut [0; 16]).unwrap().1;
            client.send_to(b"1", from).unwrap();
            assert_eq!(vm.recv(&mut [0; 16]).unwrap(), 1);
            if is_handed_over {
                assert_eq!(stage.hand_over().1.done, 1);
            }
            stage.network_moves();
            stage.vm_moves();
            let limit = if is_handed_over { wait::patient(wait::SOON) } else { NEVER };
            vm.set_read_timeout(Some(limit)).unwrap();
            for _ in 0..3 {
                client.send_to(b"22", from).unwrap();
                let got = vm.recv(&mut [0; 16]);
                assert_eq!(got.is_ok(), is_handed_over, "{got:?}");
            }
        }
    }
}

/// A request that nobody has answered when the network moves: the answer is the first packet of its connection on the target.
#[test]
fn an_answer_to_a_connection_that_was_not_yet_one_is_let_in() {
    for family in BOTH {
        for is_handed_over in [true, false] {
            let stage = Stage::new();
            let listener = listen(stage.client.namespace(), at(stage.address_of_client(family), 0));
            let address = listener.local_addr().unwrap();
            // What the VM sends goes over the source to the end, so that it makes no connection of its own on the target.
            stage.network_moves();
            thread::scope(|scope| {
                let connecting = scope
                    .spawn(|| stage.vm.run(|| TcpStream::connect_timeout(&address, Duration::from_secs(4))));
                wait::until(wait::SOON, "the source has seen the request", || {
                    read(&stage.source).carried.iter().any(|entry| !entry.seen_reply)
                });
                if is_handed_over {
                    assert_eq!(stage.hand_over().1.done, 1);
                }
                let connected = connecting.join().unwrap();
                assert_eq!(connected.is_ok(), is_handed_over, "{family:?}: {connected:?}");
            });
        }
    }
}

/// An echo that is answered after the move.
#[test]
fn an_echo_that_is_answered_after_the_move_arrives() {
    for family in BOTH {
        for is_handed_over in [true, false] {
            let stage = Stage::new();
            let client = stage.client.namespace();
            client.set_sysctl("net/ipv4/icmp_echo_ignore_all", "1");
            client.set_sysctl("net/ipv6/icmp/echo_ignore_all", "1");
            let (of_client, of_vm) = (raw(client, family), raw(&stage.vm, family));
            let (request, reply) = match family {
                Family::Ipv4 => (8, 0),
                Family::Ipv6 => (128, 129),
            };
            send(&of_vm, echo(request), stage.address_of_client(family));
            receive(&of_client, request, wait::patient(wait::SOON)).expect("the request arrives");
            if is_handed_over {
                let (entries, injected) = stage.hand_over();
                assert_eq!(injected.done, 1, "{entries:?} {injected:?}");
            }
            stage.network_moves();
            stage.vm_moves();
            send(&of_client, echo(reply), vm(family));
            let limit = if is_handed_over { wait::patient(wait::SOON) } else { NEVER };
            assert_eq!(receive(&of_vm, reply, limit).is_some(), is_handed_over);
        }
    }
}

fn raw(namespace: &Namespace, family: Family) -> OwnedFd {
    let (domain, protocol) = match family {
        Family::Ipv4 => (AddressFamily::Inet, SockProtocol::Icmp),
        Family::Ipv6 => (AddressFamily::Inet6, SockProtocol::IcmpV6),
    };
    namespace.run(|| socket(domain, SockType::Raw, SockFlag::SOCK_NONBLOCK, protocol)).expect("root")
}

/// Identifier 77, first in its row. The kernel fills in the checksum of ICMPv6 only.
fn echo(kind: u8) -> [u8; 8] {
    let sum = (u32::from(kind) << 8) + 77 + 1;
    let [high, low] = (!(sum as u16)).to_be_bytes();
    [kind, 0, high, low, 0, 77, 0, 1]
}

fn send(socket: &OwnedFd, message: [u8; 8], to: IpAddr) {
    let to = SockaddrStorage::from(at(to, 0));
    sendto(socket.as_raw_fd(), &message, &to, MsgFlags::empty()).unwrap();
}

/// The first message of that type and with our identifier.
fn receive(socket: &OwnedFd, kind: u8, within: Duration) -> Option<()> {
    let deadline = Instant::now() + within;
    while Instant::now() < deadline {
        let mut buffer = [0; 256];
        match recvfrom::<SockaddrStorage>(socket.as_raw_fd(), &mut buffer) {
            // IPv4 comes with its header.
            Ok((length, _)) => {
                let start = if buffer[0] >> 4 == 4 && length >= 28 { 20 } else { 0 };
                if buffer[start] == kind && buffer[start + 4..start + 6] == [0, 77] {
                    return Some(());
                }
            }
            Err(_) => thread::sleep(Duration::from_millis(1)),
        }
    }
    None
}

/// The VM speaks to itself by its floating address, and to the metadata service, which each host has for itself.
#[test]
fn a_hairpin_is_carried_and_the_metadata_service_is_not() {
    let stage = Stage::new();
    load(
        stage.source.namespace(),
        "add rule ip floating prerouting ip daddr 169.254.169.254 dnat to 192.168.77.2",
    );
    let vm = stage.vm.run(|| UdpSocket::bind(at(vm(Family::Ipv4), 4000))).unwrap();
    vm.send_to(b"metadata", "169.254.169.254:80").unwrap();
    vm.send_to(b"to itself", at(floating(Family::Ipv4), 4000)).unwrap();
    vm.set_read_timeout(Some(wait::patient(wait::SOON))).unwrap();
    let (entries, injected) = wait::for_some(wait::SOON, "both are tracked", || {
        let entries = read(&stage.source);
        let is_all = entries.carried.len() == 1 && entries.left.len() == 1;
        is_all.then(|| stage.hand_over())
    });
    assert_eq!(entries.left.iter().collect::<Vec<_>>(), [(&Left::OfThisHost, &1)]);
    assert_eq!(injected.done, 1, "{injected:?}");
    let made = read(&stage.target).carried;
    assert_eq!((made[0].original, made[0].reply), (entries.carried[0].original, entries.carried[0].reply));
    assert!(addresses().iter().any(|prefix| prefix.contains(&made[0].reply.destination)));
}
