//! Neighbours that change without end: what a guest brings about that solicits with one address after the other, and what a large
//! network does on an uplink. Written by netlink, as fast as the kernel takes it; each change is one notification.

use crate::namespace::Namespace;
use netlink_packet_core::{
    NLM_F_CREATE, NLM_F_REPLACE, NLM_F_REQUEST, NetlinkHeader, NetlinkMessage, NetlinkPayload,
};
use netlink_packet_route::neighbour::{
    NeighbourAddress, NeighbourAttribute, NeighbourHeader, NeighbourMessage, NeighbourState,
};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

/// LIMIT: far below what the kernel's table holds, which all namespaces share (gc_thresh3, 1024).
const ADDRESSES: u8 = 200;
/// LIMIT: so few at once that others get the lock (RTNL) as well.
const DATAGRAM_MESSAGES: usize = 32;

/// Changes of neighbours on an interface, ready to be written again and again.
#[derive(Debug)]
pub struct Changes {
    socket: Socket,
    datagrams: Vec<Vec<u8>>,
}

impl Changes {
    /// Those of an interface.
    ///
    /// # Panics
    /// When there is none of this name.
    #[must_use]
    pub fn on(namespace: &Namespace, interface: &str) -> Self {
        let (socket, ifindex) = namespace.run(|| {
            let ifindex = nix::net::if_::if_nametoindex(interface).expect("the interface exists");
            (Socket::new(NETLINK_ROUTE).expect("a netlink socket"), ifindex)
        });
        // Whoever is written a second time has another hardware address.
        let changes: Vec<Vec<u8>> = [1, 2]
            .into_iter()
            .flat_map(|mac| (0..ADDRESSES).map(move |number| change(ifindex, number, mac)))
            .collect();
        Self { socket, datagrams: changes.chunks(DATAGRAM_MESSAGES).map(<[Vec<u8>]>::concat).collect() }
    }

    /// How many notifications [`Self::write`] causes.
    #[must_use]
    pub fn count(&self) -> usize {
        2 * usize::from(ADDRESSES)
    }

    /// Writes all of them once.
    ///
    /// # Panics
    /// When the kernel refuses.
    pub fn write(&self) {
        for datagram in &self.datagrams {
            self.socket.send_to(datagram, &SocketAddr::new(0, 0), 0).expect("the kernel takes it");
        }
    }
}

fn change(ifindex: u32, number: u8, mac: u8) -> Vec<u8> {
    let mut message = NeighbourMessage::default();
    message.header = NeighbourHeader {
        family: AddressFamily::Inet,
        ifindex,
        state: NeighbourState::Stale,
        ..NeighbourHeader::default()
    };
    message.attributes = vec![
        NeighbourAttribute::Destination(NeighbourAddress::Inet(Ipv4Addr::new(198, 18, 0, number))),
        NeighbourAttribute::LinkLayerAddress(vec![2, 0, 0, 0, mac, number]),
    ];
    let mut header = NetlinkHeader::default();
    header.flags = NLM_F_REQUEST | NLM_F_CREATE | NLM_F_REPLACE;
    let payload = NetlinkPayload::InnerMessage(RouteNetlinkMessage::NewNeighbour(message));
    let mut message = NetlinkMessage::new(header, payload);
    message.finalize();
    let mut bytes = vec![0; message.buffer_len().next_multiple_of(4)];
    message.serialize(&mut bytes);
    bytes
}

/// A flood that goes on until this is dropped.
#[derive(Debug)]
pub struct NeighbourFlood {
    goes_on: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl NeighbourFlood {
    /// Begins; returns when it has gone once through all addresses.
    #[must_use]
    pub fn start(namespace: &Namespace, interface: &str) -> Self {
        let changes = Changes::on(namespace, interface);
        changes.write();
        let goes_on = Arc::new(AtomicBool::new(true));
        let told = Arc::clone(&goes_on);
        let thread = std::thread::spawn(move || {
            while told.load(Ordering::Relaxed) {
                changes.write();
            }
        });
        Self { goes_on, thread: Some(thread) }
    }
}

impl Drop for NeighbourFlood {
    fn drop(&mut self) {
        self.goes_on.store(false, Ordering::Relaxed);
        let panicked = self.thread.take().is_some_and(|thread| thread.join().is_err());
        assert!(!panicked || std::thread::panicking(), "the flood ended early");
    }
}
