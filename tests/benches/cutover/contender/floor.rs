//! The least that can be done from user space: a bare thread that sleeps in epoll on the same ring buffer and
//! sends one message that was encoded in advance. It looks nothing up, checks nothing but the error number, and
//! tells nobody but the bench. It has the priority of the fast path, so that the two differ in what they do only.

#![expect(unsafe_code, reason = "reads a record of the kernel program's")]

use super::{Contender, Finish, receive};
use crate::lane::{Lane, METRIC, PROTOCOL};
use crate::site::{Site, Watcher};
use anyhow::{Result, ensure};
use aya::maps::{MapData, RingBuf};
use cutover_common::abi::Announcement;
use cutover_daemon::clock;
use cutover_daemon::netlink::RouteSocket;
use cutover_daemon::priority::raise_priority;
use cutover_engine::BootTime;
use netlink_packet_core::{
    NLM_F_ACK, NLM_F_CREATE, NLM_F_REQUEST, NetlinkHeader, NetlinkMessage, NetlinkPayload,
};
use netlink_packet_route::route::{
    RouteAttribute, RouteHeader, RouteMessage, RouteProtocol, RouteScope, RouteType,
};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use std::io::{PipeWriter, pipe};
use std::net::IpAddr;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::JoinHandle;
use std::time::Duration;

/// Where the error number is in an acknowledgement (struct nlmsghdr, then struct nlmsgerr).
const ERROR_RANGE: std::ops::Range<usize> = 16..20;

pub(crate) struct Floor<'a> {
    watcher: Watcher<'a>,
    lane: Lane,
    finishes: Receiver<Result<Finish>>,
    undo: RouteSocket,
    stop: Option<PipeWriter>,
    thread: Option<JoinHandle<()>>,
}

impl<'a> Floor<'a> {
    pub(crate) fn new(site: &'a Site, lane: Lane) -> Result<Self> {
        let mut watcher = Watcher::load(site, "floor")?;
        let ring = watcher.take_ring()?;
        let socket = site.host.namespace().run(open)?;
        let message = encode(&lane)?;
        let (sender, finishes) = channel();
        let (until_closed, stop) = pipe()?;
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
        epoll.add(&ring, EpollEvent::new(EpollFlags::EPOLLIN, 0))?;
        epoll.add(&until_closed, EpollEvent::new(EpollFlags::EPOLLIN, 1))?;
        let mut worker = Worker { epoll, ring, socket, message, sender };
        let thread = std::thread::Builder::new().name("floor".into()).spawn(move || {
            // The pipe is closed by the bench, not by this thread, which only has to know of it.
            let _until_closed = until_closed;
            worker.run();
        })?;
        let undo = site.open_socket()?;
        Ok(Self { watcher, lane, finishes, undo, stop: Some(stop), thread: Some(thread) })
    }
}

impl Contender for Floor<'_> {
    fn name(&self) -> &'static str {
        "floor: bare thread, epoll, prepared message"
    }

    fn lane(&self) -> &Lane {
        &self.lane
    }

    fn arm(&mut self) -> Result<()> {
        self.watcher.arm(&self.lane).map(drop)
    }

    fn finished(&mut self) -> Result<Finish> {
        receive(&self.finishes)
    }

    fn clear(&mut self) -> Result<()> {
        self.lane.clear(&mut self.undo)
    }
}

impl Drop for Floor<'_> {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            // A panic was printed by the thread.
            let _ = thread.join();
        }
    }
}

struct Worker {
    epoll: Epoll,
    ring: RingBuf<MapData>,
    socket: Socket,
    message: Vec<u8>,
    sender: Sender<Result<Finish>>,
}

impl Worker {
    fn run(&mut self) {
        raise_priority(Duration::ZERO);
        let mut events = [EpollEvent::empty(); 2];
        while let Ok(count) = self.epoll.wait(&mut events, EpollTimeout::NONE) {
            if events[..count].iter().any(|event| event.data() == 1) {
                return;
            }
            while let Some(record) = self.ring.next() {
                // SAFETY: the kernel program submits records of this type only, and it is made of integers.
                let record = unsafe { record.as_ptr().cast::<Announcement>().read_unaligned() };
                let finish = add(&self.socket, &self.message)
                    .map(|()| Finish { seen_at: Some(BootTime(record.seen_at_ns)), routed_at: clock::now() });
                if self.sender.send(finish).is_err() {
                    return;
                }
            }
        }
    }
}

fn add(socket: &Socket, message: &[u8]) -> Result<()> {
    socket.send(message, 0)?;
    let mut answer = [0; 64];
    let length = socket.recv(&mut &mut answer[..], 0)?;
    ensure!(length >= ERROR_RANGE.end && answer[ERROR_RANGE] == [0; 4], "the route was refused");
    Ok(())
}

fn open() -> Result<Socket> {
    let mut socket = Socket::new(NETLINK_ROUTE)?;
    socket.bind_auto()?;
    socket.connect(&SocketAddr::new(0, 0))?;
    // The acknowledgement is then a header and a number, without the request.
    socket.set_cap_ack(true)?;
    Ok(socket)
}

fn encode(lane: &Lane) -> Result<Vec<u8>> {
    let Some(IpAddr::V4(address)) = lane.addresses.first() else {
        anyhow::bail!("the floor takes one IPv4 address");
    };
    let mut route = RouteMessage::default();
    route.header = RouteHeader {
        address_family: AddressFamily::Inet,
        destination_prefix_length: 32,
        table: RouteHeader::RT_TABLE_MAIN,
        protocol: RouteProtocol::from(PROTOCOL),
        scope: RouteScope::Link,
        kind: RouteType::Unicast,
        ..RouteHeader::default()
    };
    route.attributes = vec![
        RouteAttribute::Destination((*address).into()),
        RouteAttribute::Oif(lane.ifindex()),
        RouteAttribute::Priority(METRIC),
    ];
    let mut header = NetlinkHeader::default();
    header.flags = NLM_F_REQUEST | NLM_F_ACK | NLM_F_CREATE;
    header.sequence_number = 1;
    let payload = NetlinkPayload::InnerMessage(RouteNetlinkMessage::NewRoute(route));
    let mut message = NetlinkMessage::new(header, payload);
    message.finalize();
    let mut bytes = vec![0; message.buffer_len()];
    message.serialize(&mut bytes);
    Ok(bytes)
}
