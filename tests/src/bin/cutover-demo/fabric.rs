//! In place of BGP: copies the routes of the compute hosts to the client, with the hosts as next hops and with
//! their priority, which is what the daemons of a real fabric carry. Knows no policy and no distance.

use anyhow::{Context as _, Result, bail};
use cutover_tests::route_history::Route;
use cutover_tests::scene::Node;
use cutover_tests::{Host, RouteWatch};
use netlink_packet_core::{
    NLM_F_ACK, NLM_F_APPEND, NLM_F_CREATE, NLM_F_REQUEST, NetlinkHeader, NetlinkMessage, NetlinkPayload,
};
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteHeader, RouteMessage, RouteProtocol, RouteType,
};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};
use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

/// How often the routes of the hosts are looked at.
const PERIOD: Duration = Duration::from_micros(200);

/// The stand-in, running.
pub(crate) struct Fabric {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Result<()>>,
}

/// A compute host as the fabric sees it.
struct Speaker {
    watch: RouteWatch,
    ifindex: u32,
    next_hops: [IpAddr; 2],
}

/// A route of the client.
type Path = (Route, IpAddr);

impl Fabric {
    /// Follows the routes on the taps of `nodes` from now on.
    pub(crate) fn start(client: &Host, nodes: &[&Node]) -> Result<Self> {
        let speakers: Vec<Speaker> = nodes
            .iter()
            .map(|node| Speaker {
                watch: RouteWatch::start(node.host.namespace()),
                ifindex: node.tap().ifindex(),
                next_hops: [node.host.ipv4().into(), node.host.ipv6().into()],
            })
            .collect();
        let socket = client.namespace().run(|| {
            let mut socket = Socket::new(NETLINK_ROUTE)?;
            socket.bind_auto()?;
            socket.connect(&SocketAddr::new(0, 0))?;
            std::io::Result::Ok(socket)
        })?;
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = thread::spawn(move || {
            let mut installed = BTreeSet::new();
            while !stopped.load(Ordering::Relaxed) {
                let wanted: BTreeSet<Path> = speakers.iter().flat_map(Speaker::advertised).collect();
                // New paths first, as a BGP daemon does it.
                for path in wanted.difference(&installed) {
                    request(&socket, RouteNetlinkMessage::NewRoute(message(path)))?;
                }
                for path in installed.difference(&wanted) {
                    request(&socket, RouteNetlinkMessage::DelRoute(message(path)))?;
                }
                installed = wanted;
                thread::sleep(PERIOD);
            }
            Ok(())
        });
        Ok(Self { stop, thread })
    }

    /// Stops; the client keeps its routes.
    pub(crate) fn stop(self) -> Result<()> {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }
}

impl Speaker {
    fn advertised(&self) -> Vec<Path> {
        let routes = self.watch.history().current();
        let ours = routes.into_iter().filter(|route| route.ifindex == self.ifindex && route.protocol == 3);
        ours.map(|route| {
            let next_hop = self.next_hops[usize::from(route.destination.addr().is_ipv6())];
            (route, next_hop)
        })
        .collect()
    }
}

fn message((route, next_hop): &Path) -> RouteMessage {
    let to = route.destination;
    let mut message = RouteMessage::default();
    message.header = RouteHeader {
        address_family: if to.addr().is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 },
        destination_prefix_length: to.prefix_len(),
        table: RouteHeader::RT_TABLE_MAIN,
        protocol: RouteProtocol::Bgp,
        kind: RouteType::Unicast,
        ..RouteHeader::default()
    };
    message.attributes = vec![
        RouteAttribute::Destination(RouteAddress::from(to.addr())),
        RouteAttribute::Gateway(RouteAddress::from(*next_hop)),
        RouteAttribute::Priority(route.metric),
    ];
    message
}

/// Sends one request and waits until the kernel has done it.
fn request(socket: &Socket, request: RouteNetlinkMessage) -> Result<()> {
    let what = format!("{request:?}");
    let mut header = NetlinkHeader::default();
    header.flags = NLM_F_REQUEST | NLM_F_ACK;
    if matches!(request, RouteNetlinkMessage::NewRoute(_)) {
        header.flags |= NLM_F_CREATE | NLM_F_APPEND;
    }
    let mut message = NetlinkMessage::new(header, NetlinkPayload::from(request));
    message.finalize();
    let mut bytes = vec![0; message.buffer_len()];
    message.serialize(&mut bytes);
    socket.send(&bytes, 0)?;
    let (answer, _) = socket.recv_from_full()?;
    let answer: NetlinkMessage<RouteNetlinkMessage> = NetlinkMessage::deserialize(&answer)?;
    match answer.payload {
        NetlinkPayload::Error(error) if error.code.is_none() => Ok(()),
        NetlinkPayload::Error(error) => Err(error.to_io()).with_context(|| what),
        other => bail!("the kernel answered {other:?} to {what}"),
    }
}
