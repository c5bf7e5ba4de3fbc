//! Records every change of routes and neighbours in a namespace. Independent of the agent: a socket and a
//! decoder of its own. It never writes, and it fails the test rather than lose a notification.

#![expect(unsafe_code, reason = "borrows the descriptor of a socket")]

use crate::namespace::Namespace;
use crate::route_history::{self, Change, Event, History, Neighbour, Route};
use crate::wait;
use cutover_common::MacAddr;
use cutover_daemon::clock;
use ipnet::IpNet;
use netlink_packet_core::{
    NLM_F_DUMP, NLM_F_REPLACE, NLM_F_REQUEST, NetlinkHeader, NetlinkMessage, NetlinkPayload,
};
use netlink_packet_route::link::LinkFlags;
use netlink_packet_route::neighbour::{
    NeighbourAddress, NeighbourAttribute, NeighbourMessage, NeighbourState,
};
use netlink_packet_route::route::{RouteAddress, RouteAttribute, RouteMessage};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{setsockopt, sockopt};
use std::collections::BTreeSet;
use std::io;
use std::net::IpAddr;
use std::os::fd::{AsFd as _, AsRawFd as _, BorrowedFd};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

/// RTNLGRP_LINK, _NEIGH, _IPV4_ROUTE, _IPV6_ROUTE of linux/rtnetlink.h.
const GROUPS: [u32; 4] = [1, 3, 7, 11];
/// LIMIT: a test that floods the kernel with more than this before anybody reads fails, it does not lie.
const RECEIVE_BUFFER_BYTES: usize = 16 << 20;
/// RT_TABLE_MAIN and RTN_UNICAST of linux/rtnetlink.h.
const MAIN_TABLE: u32 = 254;
const UNICAST: u8 = 1;

/// A recording in progress.
#[derive(Debug)]
pub struct RouteWatch {
    recording: Arc<Mutex<Recording>>,
    stop: Option<io::PipeWriter>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct Recording {
    socket: Socket,
    table: u32,
    history: History,
    /// What the history comes to.
    current: BTreeSet<Route>,
}

/// A place in a recording: changes after it are the ones that a test is about.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Mark(usize);

impl RouteWatch {
    /// Begins to record. What exists already is the initial state.
    ///
    /// # Panics
    /// Without root.
    #[must_use]
    pub fn start(namespace: &Namespace) -> Self {
        Self::start_with(namespace, || ())
    }

    /// Begins to record another table than the main one.
    ///
    /// # Panics
    /// Without root.
    #[must_use]
    pub fn start_of_table(namespace: &Namespace, table: u32) -> Self {
        Self::start_of(namespace, table, || ())
    }

    /// The same, where the thread that records does `prepare` first.
    ///
    /// # Panics
    /// Without root.
    #[must_use]
    pub fn start_with(namespace: &Namespace, prepare: impl FnOnce() + Send + 'static) -> Self {
        Self::start_of(namespace, MAIN_TABLE, prepare)
    }

    fn start_of(namespace: &Namespace, table: u32, prepare: impl FnOnce() + Send + 'static) -> Self {
        let (socket, initial) = namespace.run(|| {
            let socket = subscribe().expect("a netlink socket");
            // ORDER: subscribed before dumped, so no change falls between the two.
            (socket, dump_table(table).expect("a dump of the routes"))
        });
        let current = initial.clone();
        let history = History { initial, events: Vec::new() };
        let recording = Arc::new(Mutex::new(Recording { socket, table, history, current }));
        let (until_closed, stop) = io::pipe().expect("a pipe");
        let shared = Arc::clone(&recording);
        let thread = std::thread::spawn(move || {
            prepare();
            record(&shared, &until_closed);
        });
        Self { recording, stop: Some(stop), thread: Some(thread) }
    }

    /// This moment, for [`Self::since`].
    #[must_use]
    pub fn mark(&self) -> Mark {
        let mut recording = self.lock();
        recording.drain();
        Mark(recording.history.events.len())
    }

    /// Everything that has happened until now.
    ///
    /// KERNEL: notifications are queued before the system call that caused them returns, so what has happened
    /// before this call is in.
    ///
    /// # Panics
    /// When the kernel had to drop notifications.
    #[must_use]
    pub fn history(&self) -> History {
        let mut recording = self.lock();
        recording.drain();
        recording.history.clone()
    }

    /// What has happened since `mark`; the routes at that moment are the initial ones.
    #[must_use]
    pub fn since(&self, Mark(position): Mark) -> History {
        let mut before = self.history();
        let events = before.events.split_off(position);
        History { initial: before.current(), events }
    }

    /// Waits until nobody has written anything for `period`.
    ///
    /// # Panics
    /// When that takes longer than `limit`.
    #[track_caller]
    pub fn wait_quiet(&self, limit: Duration, period: Duration) {
        wait::until(limit, format_args!("nobody writes for {period:?}"), || {
            let mark = self.mark();
            !wait::holds_within(period, || !self.since(mark).writes().is_empty())
        });
    }

    /// The routes to `destination` now.
    #[must_use]
    pub fn routes_to(&self, destination: IpNet) -> BTreeSet<Route> {
        let mut recording = self.lock();
        recording.drain();
        recording.current.iter().filter(|route| route.destination == destination).cloned().collect()
    }

    /// All routes now.
    #[must_use]
    pub fn routes(&self) -> BTreeSet<Route> {
        let mut recording = self.lock();
        recording.drain();
        recording.current.clone()
    }

    /// The metrics of the routes to `destination` now, the best one first.
    #[must_use]
    pub fn metrics_to(&self, destination: IpNet) -> Vec<u32> {
        self.routes_to(destination).iter().map(|route| route.metric).collect()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Recording> {
        self.recording.lock().expect("the recording thread has not panicked")
    }
}

impl Drop for RouteWatch {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            // A panic of the thread has poisoned the lock, which whoever looked has noticed.
            let _ = thread.join();
        }
    }
}

/// Takes notifications as they come, so that their times are right.
fn record(shared: &Mutex<Recording>, until_closed: &io::PipeReader) {
    let descriptor = shared.lock().expect("just made").socket.as_raw_fd();
    loop {
        // SAFETY: the socket lives in `shared`, which outlives this loop.
        let socket = unsafe { BorrowedFd::borrow_raw(descriptor) };
        let mut ready =
            [PollFd::new(socket, PollFlags::POLLIN), PollFd::new(until_closed.as_fd(), PollFlags::POLLIN)];
        if poll(&mut ready, PollTimeout::NONE).is_err() {
            continue;
        }
        if ready[1].revents().is_some_and(|events| !events.is_empty()) {
            return;
        }
        shared.lock().expect("nobody panics with the lock").drain();
    }
}

impl Recording {
    /// Takes everything that is queued.
    fn drain(&mut self) {
        let mut buffer = Vec::with_capacity(1 << 16);
        loop {
            buffer.clear();
            match self.socket.recv(&mut buffer, libc::MSG_DONTWAIT) {
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(error) => panic!("notifications were lost: {error}"),
            }
            let at = clock::now();
            for message in messages(&buffer) {
                let replaced = message.header.flags & NLM_F_REPLACE != 0;
                if let NetlinkPayload::InnerMessage(message) = message.payload
                    && let Some(change) = change(&message, replaced, self.table)
                {
                    route_history::apply(&mut self.current, &change);
                    self.history.events.push(Event { at, change });
                }
            }
        }
    }
}

fn subscribe() -> io::Result<Socket> {
    let mut socket = Socket::new(NETLINK_ROUTE)?;
    socket.bind_auto()?;
    // SAFETY: the socket is open for the whole call.
    let descriptor = unsafe { BorrowedFd::borrow_raw(socket.as_raw_fd()) };
    setsockopt(&descriptor, sockopt::RcvBufForce, &RECEIVE_BUFFER_BYTES)?;
    for group in GROUPS {
        socket.add_membership(group)?;
    }
    Ok(socket)
}

/// The unicast routes of the main table in the namespace of this thread.
///
/// # Errors
/// When the kernel does not answer.
pub fn dump_routes() -> io::Result<BTreeSet<Route>> {
    dump_table(MAIN_TABLE)
}

fn dump_table(table: u32) -> io::Result<BTreeSet<Route>> {
    let mut found = BTreeSet::new();
    for family in [AddressFamily::Inet, AddressFamily::Inet6] {
        let mut request = RouteMessage::default();
        request.header.address_family = family;
        for message in dump(RouteNetlinkMessage::GetRoute(request))? {
            if let RouteNetlinkMessage::NewRoute(message) = message {
                found.extend(route(&message, table));
            }
        }
    }
    Ok(found)
}

/// The neighbours of both families in the namespace of this thread.
///
/// # Errors
/// When the kernel does not answer.
pub fn dump_neighbours() -> io::Result<BTreeSet<Neighbour>> {
    let mut found = BTreeSet::new();
    for family in [AddressFamily::Inet, AddressFamily::Inet6] {
        let mut request = NeighbourMessage::default();
        request.header.family = family;
        for message in dump(RouteNetlinkMessage::GetNeighbour(request))? {
            if let RouteNetlinkMessage::NewNeighbour(message) = message {
                found.extend(neighbour(&message));
            }
        }
    }
    Ok(found)
}

fn dump(request: RouteNetlinkMessage) -> io::Result<Vec<RouteNetlinkMessage>> {
    let mut socket = Socket::new(NETLINK_ROUTE)?;
    socket.bind_auto()?;
    socket.connect(&SocketAddr::new(0, 0))?;
    let mut header = NetlinkHeader::default();
    header.flags = NLM_F_REQUEST | NLM_F_DUMP;
    let mut message = NetlinkMessage::new(header, NetlinkPayload::from(request));
    message.finalize();
    let mut bytes = vec![0; message.buffer_len()];
    message.serialize(&mut bytes);
    socket.send(&bytes, 0)?;

    let mut answers = Vec::new();
    let mut buffer = Vec::with_capacity(1 << 16);
    loop {
        buffer.clear();
        socket.recv(&mut buffer, 0)?;
        for message in messages(&buffer) {
            match message.payload {
                NetlinkPayload::Done(_) => return Ok(answers),
                NetlinkPayload::Error(error) => return Err(error.to_io()),
                NetlinkPayload::InnerMessage(message) => answers.push(message),
                _ => {}
            }
        }
    }
}

/// The messages of one datagram.
fn messages(mut bytes: &[u8]) -> Vec<NetlinkMessage<RouteNetlinkMessage>> {
    let mut found = Vec::new();
    while bytes.len() >= 16 {
        let length = usize::try_from(u32::from_ne_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]))
            .expect("at least 32 bits");
        let message = NetlinkMessage::deserialize(bytes)
            .unwrap_or_else(|error| panic!("the kernel sent {bytes:x?}: {error}"));
        found.push(message);
        // NLMSG_ALIGNTO of linux/netlink.h.
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    found
}

fn change(message: &RouteNetlinkMessage, replaced: bool, table: u32) -> Option<Change> {
    match message {
        RouteNetlinkMessage::NewRoute(message) => {
            Some(Change::Added { route: route(message, table)?, replaced })
        }
        RouteNetlinkMessage::DelRoute(message) => Some(Change::Removed(route(message, table)?)),
        RouteNetlinkMessage::NewNeighbour(message) => Some(Change::NeighbourSet(neighbour(message)?)),
        RouteNetlinkMessage::DelNeighbour(message) => Some(Change::NeighbourRemoved(neighbour(message)?)),
        RouteNetlinkMessage::NewLink(message) if !message.header.flags.contains(LinkFlags::Up) => {
            Some(Change::LinkDown(message.header.index))
        }
        // KERNEL: of family AF_BRIDGE it says that a port has left its bridge.
        RouteNetlinkMessage::DelLink(message) if message.header.interface_family == AddressFamily::Unspec => {
            Some(Change::LinkDown(message.header.index))
        }
        _ => None,
    }
}

/// The route of a message, if it is one of this table.
fn route(message: &RouteMessage, wanted: u32) -> Option<Route> {
    let header = &message.header;
    let any: IpAddr = match header.address_family {
        AddressFamily::Inet => [0; 4].into(),
        AddressFamily::Inet6 => [0_u16; 8].into(),
        _ => return None,
    };
    let mut address = any;
    let (mut metric, mut ifindex, mut table) = (0, 0, u32::from(header.table));
    let (mut gateway, mut source) = (None, None);
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Destination(value) => address = ip(value)?,
            RouteAttribute::Priority(value) => metric = *value,
            RouteAttribute::Oif(value) => ifindex = *value,
            RouteAttribute::Table(value) => table = *value,
            RouteAttribute::Gateway(value) => gateway = ip(value),
            RouteAttribute::PrefSource(value) => source = ip(value),
            _ => {}
        }
    }
    (table == wanted && u8::from(header.kind) == UNICAST).then_some(Route {
        destination: IpNet::new(address, header.destination_prefix_length).ok()?,
        metric,
        ifindex,
        protocol: header.protocol.into(),
        scope: header.scope.into(),
        gateway,
        source,
    })
}

fn ip(address: &RouteAddress) -> Option<IpAddr> {
    match address {
        RouteAddress::Inet(address) => Some((*address).into()),
        RouteAddress::Inet6(address) => Some((*address).into()),
        _ => None,
    }
}

fn neighbour(message: &NeighbourMessage) -> Option<Neighbour> {
    let (mut address, mut mac) = (None, None);
    for attribute in &message.attributes {
        match attribute {
            NeighbourAttribute::Destination(NeighbourAddress::Inet(value)) => address = Some((*value).into()),
            NeighbourAttribute::Destination(NeighbourAddress::Inet6(value)) => {
                address = Some((*value).into());
            }
            NeighbourAttribute::LinkLayerAddress(value) => {
                mac = <[u8; 6]>::try_from(value.as_slice()).ok().map(MacAddr);
            }
            _ => {}
        }
    }
    Some(Neighbour {
        address: address?,
        ifindex: message.header.ifindex,
        mac,
        permanent: message.header.state == NeighbourState::Permanent,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Lab;
    use crate::wait;

    #[test]
    fn adds_and_deletes_are_seen_in_order() {
        let lab = Lab::new();
        let host = lab.host("compute1");
        let tap = host.plug("tapport1", "fe:16:3e:00:00:01".parse().unwrap());
        let watch = RouteWatch::start(host.namespace());
        let (ipv4, ipv6): (IpNet, IpNet) =
            ("10.65.0.2/32".parse().unwrap(), "2001:db8::2/128".parse().unwrap());
        let before = clock::now();
        for to in [ipv4, ipv6] {
            host.namespace().ip(&format!(
                "route add {to} dev tapport1 scope link proto 3 metric 512\n\
                 route add {to} dev tapport1 scope link proto 3 metric 1024\n\
                 route del {to} dev tapport1 metric 512\n\
                 neigh add {} lladdr fa:16:3e:00:00:01 nud permanent dev tapport1",
                to.addr()
            ));
        }
        for to in [ipv4, ipv6] {
            assert_eq!(watch.history().metrics(to), [vec![], vec![512], vec![512, 1024], vec![1024]]);
            let route = watch.routes_to(to).pop_first().unwrap();
            assert_eq!((route.ifindex, route.protocol), (tap.ifindex(), 3));
            assert!(watch.history().added_at(to, 512).unwrap() > before);
        }
        assert_eq!(watch.history().writes_to(tap.ifindex()).len(), 8);
        // The kernel adds routes of its own when an uplink has its carrier, and that can be now.
        let is_whole = || watch.history().current() == host.namespace().run(dump_routes).unwrap();
        wait::until(wait::SOON, "the history leads to what is there", is_whole);
        let permanent: Vec<IpAddr> = host
            .namespace()
            .run(dump_neighbours)
            .unwrap()
            .into_iter()
            .filter(|neighbour| neighbour.permanent && neighbour.mac.is_some())
            .map(|neighbour| neighbour.address)
            .filter(|address| !address.is_multicast())
            .collect();
        assert_eq!(permanent, [ipv4.addr(), ipv6.addr()]);

        let mark = watch.mark();
        tap.remove();
        wait::until(wait::SOON, "the routes go with the tap", || watch.metrics_to(ipv4).is_empty());
        wait::until(wait::SOON, "those of both families", || watch.metrics_to(ipv6).is_empty());
        assert_eq!(watch.since(mark).metrics(ipv6), [vec![1024], vec![]]);
        wait::until(wait::SOON, "the history leads to what is there", is_whole);
    }

    #[test]
    fn another_table_is_another_record() {
        let lab = Lab::new();
        let host = lab.host("compute1");
        let to: IpNet = "10.65.0.2/32".parse().unwrap();
        let add = |table| format!("route add {to} dev lo table {table}");
        host.namespace().ip(&add(7179));
        let (main, other) =
            (RouteWatch::start(host.namespace()), RouteWatch::start_of_table(host.namespace(), 7179));
        assert_eq!((main.routes_to(to).len(), other.routes_to(to).len()), (0, 1));
        host.namespace().ip(&format!("route del {to} dev lo table 7179\n{}", add(7180)));
        assert_eq!((main.routes_to(to).len(), other.routes_to(to).len()), (0, 0));
    }
}
