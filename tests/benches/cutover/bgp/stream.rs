//! A client's stream to the guest: a thousand numbered datagrams in a second to each of its addresses, and where each came
//! out. The hypervisors' ends of both taps are read here; the guest itself plays no part. Judges nothing.

use cutover_daemon::clock;
use cutover_engine::BootTime;
use cutover_tests::OpenTap;
use cutover_tests::namespace::Namespace;
use cutover_tests::stream::{PERIOD, sleep_until};
use cutover_tests::vm::ECHO_PORT;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::os::fd::AsFd as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{JoinHandle, sleep};
use std::time::Duration;

/// LIMIT: how long the last datagrams may be under way through three network namespaces; what comes later counts as lost.
const IN_FLIGHT: Duration = Duration::from_millis(50);

/// LIMIT: a client whose datagrams its own kernel does not take loses them, and goes on.
const STUCK: Duration = Duration::from_millis(100);

/// A datagram: whether it is one of IPv4, and its number among those.
type Number = (bool, u64);

/// When each datagram first came out on the target's tap.
type Caught = BTreeMap<Number, BootTime>;

/// A stream under way.
pub(super) struct Stream {
    stop: Arc<AtomicBool>,
    sender: Option<JoinHandle<Vec<(Number, BootTime)>>>,
    until_closed: Option<io::PipeWriter>,
    catcher: Option<JoinHandle<Caught>>,
    arriving: Arc<Arriving>,
}

/// Whether datagrams of IPv6 and of IPv4 come out on the source's tap.
type Arriving = [AtomicBool; 2];

/// One datagram.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Datagram {
    pub(super) is_ipv4: bool,
    pub(super) sent_at: BootTime,
    /// When that on the target had it.
    pub(super) delivered_at: Option<BootTime>,
}

impl Stream {
    /// Begins to send from `namespace`, and to take what comes out on both taps.
    pub(super) fn start(
        namespace: &Namespace,
        to: &[IpAddr],
        at_source: &Arc<OpenTap>,
        at_target: &Arc<OpenTap>,
    ) -> io::Result<Self> {
        let (closed, until_closed) = io::pipe()?;
        let (source, target) = (Arc::clone(at_source), Arc::clone(at_target));
        // What was there before the stream is not of the stream.
        while source.receive().is_some() || target.receive().is_some() {}
        let arriving = Arc::new(Arriving::default());
        let arrived = Arc::clone(&arriving);
        let catcher = std::thread::spawn(move || catch(&source, &target, &arrived, &closed));
        let sockets: Vec<_> =
            to.iter().map(|to| Ok((open(namespace, *to)?, *to))).collect::<io::Result<_>>()?;
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let sender = std::thread::spawn(move || send(&sockets, &stopped));
        let (sender, until_closed, catcher) = (Some(sender), Some(until_closed), Some(catcher));
        Ok(Self { stop, sender, until_closed, catcher, arriving })
    }

    /// Whether both families come out on the source's tap, as they do until the announcement.
    pub(super) fn is_at_source(&self) -> bool {
        self.arriving.iter().all(|family| family.load(Ordering::Relaxed))
    }

    /// Stops, and says what became of every datagram, in the order of sending.
    pub(super) fn finish(mut self) -> Vec<Datagram> {
        self.stop.store(true, Ordering::Relaxed);
        let sent = self.sender.take().map(|thread| thread.join().expect("the sender")).unwrap_or_default();
        sleep(IN_FLIGHT);
        drop(self.until_closed.take());
        let caught = self.catcher.take().map(|thread| thread.join().expect("the catcher"));
        let caught = caught.unwrap_or_default();
        let datagram = |(number, sent_at): (Number, BootTime)| Datagram {
            is_ipv4: number.0,
            sent_at,
            delivered_at: caught.get(&number).copied(),
        };
        sent.into_iter().map(datagram).collect()
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        drop(self.until_closed.take());
        let _ = self.sender.take().map(JoinHandle::join);
        let _ = self.catcher.take().map(JoinHandle::join);
    }
}

fn open(namespace: &Namespace, like: IpAddr) -> io::Result<UdpSocket> {
    let any: IpAddr =
        if like.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let socket = namespace.run(|| UdpSocket::bind((any, 0)))?;
    socket.set_write_timeout(Some(STUCK))?;
    Ok(socket)
}

fn send(sockets: &[(UdpSocket, IpAddr)], stop: &AtomicBool) -> Vec<(Number, BootTime)> {
    let mut sent = Vec::new();
    let mut next = clock::now();
    for number in 0_u64.. {
        if stop.load(Ordering::Relaxed) {
            break;
        }
        for (socket, to) in sockets {
            sent.push(((to.is_ipv4(), number), clock::now()));
            // What cannot be sent for want of a route is lost like any other.
            let _ = socket.send_to(&number.to_be_bytes(), SocketAddr::new(*to, ECHO_PORT));
        }
        next = next + PERIOD;
        sleep_until(next);
    }
    sent
}

/// Takes everything from both taps until the pipe is closed.
fn catch(source: &OpenTap, target: &OpenTap, arriving: &Arriving, closed: &io::PipeReader) -> Caught {
    let mut caught = Caught::new();
    loop {
        let mut ready = [
            PollFd::new(target.as_fd(), PollFlags::POLLIN),
            PollFd::new(source.as_fd(), PollFlags::POLLIN),
            PollFd::new(closed.as_fd(), PollFlags::POLLIN),
        ];
        if poll(&mut ready, PollTimeout::NONE).is_err() {
            continue;
        }
        if ready[2].revents().is_some_and(|events| !events.is_empty()) {
            return caught;
        }
        while let Some(frame) = target.receive() {
            let at = clock::now();
            if let Some(number) = number(&frame) {
                caught.entry(number).or_insert(at);
            }
        }
        while let Some(frame) = source.receive() {
            if let Some((is_ipv4, _)) = number(&frame) {
                arriving[usize::from(is_ipv4)].store(true, Ordering::Relaxed);
            }
        }
    }
}

/// The number in a frame, if it carries a datagram of the stream.
fn number(frame: &[u8]) -> Option<Number> {
    const UDP: u8 = 17;
    let (is_ipv4, protocol, udp) = match frame.get(12..14)? {
        [0x08, 0x00] => (true, *frame.get(23)?, frame.get(34..)?),
        [0x86, 0xdd] => (false, *frame.get(20)?, frame.get(54..)?),
        _ => return None,
    };
    let port = u16::from_be_bytes(udp.get(2..4)?.try_into().ok()?);
    let payload = udp.get(8..16)?.try_into().ok()?;
    (protocol == UDP && port == ECHO_PORT).then_some((is_ipv4, u64::from_be_bytes(payload)))
}
