//! What one would write without eBPF: a packet socket on the tap that gets a copy of every frame, a library that
//! parses it, and an async netlink crate that adds the route. With the priority of the fast path, too.

#![expect(unsafe_code, reason = "registers a descriptor with tokio")]

use super::{Contender, Finish, receive};
use crate::lane::{Lane, METRIC, PROTOCOL};
use crate::site::Site;
use anyhow::{Context as _, Result, bail};
use cutover_common::MacAddr;
use cutover_daemon::clock;
use cutover_daemon::netlink::RouteSocket;
use cutover_daemon::priority::raise_priority;
use cutover_tests::namespace::Namespace;
use cutover_tests::packet::PacketSocket;
use etherparse::{ArpOperation, NetSlice, SlicedPacket};
use futures_util::future::try_join_all;
use netlink_packet_route::route::{RouteMessage, RouteProtocol, RouteScope};
use nix::sched::{CloneFlags, setns};
use nix::sys::socket::{MsgFlags, recv};
use rtnetlink::RouteMessageBuilder;
use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::JoinHandle;
use std::time::Duration;
use tokio::io::unix::AsyncFd;
use tokio::runtime::{Builder, Runtime};
use tokio::sync::oneshot;

const SNAPLEN: usize = 2048;

/// How many threads the async runtime has.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Threads {
    /// Everything in one: nothing has to be handed from one thread to another.
    One,
    /// One for each processor, which is what one gets without asking.
    Many,
}

pub(crate) struct PacketSocketAgent {
    name: &'static str,
    lane: Lane,
    listener: Listener,
    undo: RouteSocket,
}

impl PacketSocketAgent {
    pub(crate) fn new(site: &Site, lane: Lane, threads: Threads) -> Result<Self> {
        let guest = Guest::new(lane.mac, &lane.addresses, lane.ifindex())?;
        let listener = Listener::start(site.host.namespace(), lane.interface(), guest, threads)?;
        let undo = site.open_socket()?;
        let name = match threads {
            Threads::One => "AF_PACKET, etherparse, rtnetlink on one tokio thread",
            Threads::Many => "AF_PACKET, etherparse, rtnetlink on tokio's default threads",
        };
        Ok(Self { name, lane, listener, undo })
    }
}

impl PacketSocketAgent {
    /// The same with another name in the results.
    pub(crate) const fn called(mut self, name: &'static str) -> Self {
        self.name = name;
        self
    }
}

impl Contender for PacketSocketAgent {
    fn name(&self) -> &'static str {
        self.name
    }

    fn lane(&self) -> &Lane {
        &self.lane
    }

    fn arm(&mut self) -> Result<()> {
        Ok(())
    }

    fn finished(&mut self) -> Result<Finish> {
        self.listener.finished()
    }

    fn clear(&mut self) -> Result<()> {
        self.lane.clear(&mut self.undo)
    }
}

/// The thread that listens on one tap.
pub(crate) struct Listener {
    finishes: Receiver<Result<Finish>>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Listener {
    /// Listens for the announcements of a guest.
    pub(crate) fn start(
        namespace: &Namespace,
        interface: &str,
        guest: Guest,
        threads: Threads,
    ) -> Result<Self> {
        let packets = PacketSocket::bind(namespace, interface);
        let namespace = namespace.descriptor().try_clone_to_owned()?;
        let (sender, finishes) = channel();
        let (stop, stopped) = oneshot::channel();
        let thread = std::thread::Builder::new().name("packet-socket".into()).spawn(move || {
            raise_priority(Duration::ZERO);
            let result = setns(&namespace, CloneFlags::CLONE_NEWNET)
                .context("entering the namespace")
                .and_then(|()| runtime(threads).context("starting tokio"))
                .and_then(|runtime| runtime.block_on(listen(packets.into(), guest, &sender, stopped)));
            if let Err(error) = result {
                // The bench has gone if nobody receives it.
                let _ = sender.send(Err(error));
            }
        })?;
        Ok(Self { finishes, stop: Some(stop), thread: Some(thread) })
    }

    /// Waits until it has acted on an announcement.
    pub(crate) fn finished(&self) -> Result<Finish> {
        receive(&self.finishes)
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            // A panic was printed by the thread.
            let _ = thread.join();
        }
    }
}

/// Whom to wait for and what to do then.
pub(crate) struct Guest {
    mac: MacAddr,
    address: Ipv4Addr,
    routes: Vec<RouteMessage>,
}

impl Guest {
    /// A guest that announces the first of its addresses.
    pub(crate) fn new(mac: MacAddr, addresses: &[IpAddr], ifindex: u32) -> Result<Self> {
        let Some(IpAddr::V4(address)) = addresses.first().copied() else {
            bail!("the guest announces an IPv4 address");
        };
        let routes = addresses.iter().map(|address| route(*address, ifindex)).collect::<Result<_>>()?;
        Ok(Self { mac, address, routes })
    }
}

fn runtime(threads: Threads) -> io::Result<Runtime> {
    match threads {
        Threads::One => Builder::new_current_thread().enable_io().build(),
        Threads::Many => {
            Builder::new_multi_thread().enable_io().on_thread_start(|| raise_priority(Duration::ZERO)).build()
        }
    }
}

async fn listen(
    packets: OwnedFd,
    guest: Guest,
    sender: &Sender<Result<Finish>>,
    mut stopped: oneshot::Receiver<()>,
) -> Result<()> {
    let (connection, handle, _) = rtnetlink::new_connection()?;
    tokio::spawn(connection);
    // SAFETY: nobody else has the descriptor, and it is registered nowhere else.
    let packets = unsafe { AsyncFd::register(packets) }?;
    let mut frame = [0; SNAPLEN];
    loop {
        let length = tokio::select! {
            length = next_frame(&packets, &mut frame) => length?,
            _ = &mut stopped => return Ok(()),
        };
        if !is_rarp(&frame[..length], &guest) && !is_gratuitous_arp(&frame[..length], &guest) {
            continue;
        }
        // All at once, which is faster than one after the other.
        let added =
            try_join_all(guest.routes.iter().map(|route| handle.route().add(route.clone()).execute())).await;
        let finish = added.map(|_| Finish { seen_at: None, routed_at: clock::now() });
        if sender.send(finish.context("adding the routes")).is_err() {
            return Ok(());
        }
    }
}

async fn next_frame(packets: &AsyncFd<OwnedFd>, frame: &mut [u8]) -> io::Result<usize> {
    loop {
        let mut ready = packets.readable().await?;
        let received = ready.try_io(|packets| Ok(recv(packets.as_raw_fd(), frame, MsgFlags::empty())?));
        if let Ok(result) = received {
            return result;
        }
    }
}

/// What QEMU sends: etherparse knows ARP only under ARP's own EtherType.
fn is_rarp(frame: &[u8], guest: &Guest) -> bool {
    frame.get(12..14) == Some(&[0x80, 0x35]) && frame.get(22..28) == Some(&guest.mac.0)
}

fn is_gratuitous_arp(frame: &[u8], guest: &Guest) -> bool {
    let Ok(SlicedPacket { net: Some(NetSlice::Arp(arp)), .. }) = SlicedPacket::from_ethernet(frame) else {
        return false;
    };
    matches!(arp.operation(), ArpOperation::REQUEST | ArpOperation::REPLY)
        && arp.sender_hw_addr() == guest.mac.0
        && arp.sender_protocol_addr() == guest.address.octets()
        && arp.target_protocol_addr() == guest.address.octets()
}

fn route(address: IpAddr, ifindex: u32) -> Result<RouteMessage> {
    let prefix_length = if address.is_ipv4() { 32 } else { 128 };
    Ok(RouteMessageBuilder::<IpAddr>::new()
        .destination_prefix(address, prefix_length)?
        .output_interface(ifindex)
        .priority(METRIC)
        .protocol(RouteProtocol::from(PROTOCOL))
        .scope(if address.is_ipv4() { RouteScope::Link } else { RouteScope::Universe })
        .build())
}
