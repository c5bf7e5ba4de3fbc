//! One look at the kernel's links, routes and neighbours, for commands that do not follow them.
//!
//! A socket of its own for each look, in the network namespace of the calling thread, and full answers. Changes nothing.

use super::dump::{ANY_PROTOCOL, Question, request};
use super::neighbour::Neighbour;
use super::route::{ObservedRoute, RouteSeen};
use super::walk::Walk;
use super::witness::Witness;
use super::{link, neighbour, route};
use cutover_common::MacAddr;
use cutover_engine::fact::Link;
use ipnet::IpNet;
use netlink_packet_core::{NetlinkBuffer, NlasIterator};
use netlink_sys::protocols::NETLINK_ROUTE;
use netlink_sys::{Socket, SocketAddr};
use std::collections::BTreeSet;
use std::io;

// linux/netlink.h
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
// linux/if_link.h
const IFINFO_BYTES: usize = 16;
const IFLA_LINKINFO: u16 = 18;
const IFLA_INFO_KIND: u16 = 1;

/// LIMIT: the kernel makes no datagram of an answer larger than 32 KiB.
const RECEIVED_AT_ONCE_BYTES: usize = 64 * 1024;
/// LIMIT: an interface with more routes than one walk can tell is asked about so many times, for all that is seen of it.
const QUESTIONS_MAX: u32 = 3;

/// A link, with what it is besides what the engine wants to know.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LinkSeen {
    /// Number, name and flags.
    pub link: Link,
    /// `tun`, `veth`, `bridge` and so on; nothing for a physical one and the loopback.
    pub kind: Option<String>,
    /// Its hardware address, if it has one of Ethernet.
    pub mac: Option<MacAddr>,
}

/// Every link.
///
/// # Errors
/// When the kernel cannot be asked.
pub fn links() -> io::Result<Vec<LinkSeen>> {
    let (payloads, _) = Questions::open()?.ask(Question::Links)?;
    Ok(payloads
        .iter()
        .filter_map(|payload| {
            Some(LinkSeen { link: link::decode(payload)?, kind: kind(payload), mac: mac(payload) })
        })
        .collect())
}

/// The unicast routes of the main table that go straight to one of these interfaces, of every protocol.
///
/// IPv6 routes are asked for interface by interface if somebody changed some while they were read: see `walk.rs`.
///
/// # Errors
/// When the kernel cannot be asked.
pub fn routes(interfaces: &BTreeSet<u32>) -> io::Result<BTreeSet<ObservedRoute>> {
    let mut questions = Questions::open()?;
    let mut found = match questions.ask(Question::Routes { ipv6: false, protocol: ANY_PROTOCOL }) {
        Ok((ipv4, _)) => decode(&ipv4),
        // KERNEL: the main table of IPv4 is made with its first route (`fib_new_table`).
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => BTreeSet::new(),
        Err(error) => return Err(error),
    };
    let witness = Witness::open();
    let (ipv6, walk) = questions.ask(Question::Routes { ipv6: true, protocol: ANY_PROTOCOL })?;
    found.extend(decode(&ipv6));
    if !walk.is_one() && !witness.is_ok_and(|witness| witness.saw_nothing()) {
        for &ifindex in interfaces {
            found.extend(routes_on(&mut questions, ifindex)?);
        }
    }
    found.retain(|route| interfaces.contains(&route.ifindex));
    Ok(found)
}

/// The unicast routes of the main table to just these destinations, of every protocol and through every interface.
///
/// # Errors
/// When the kernel cannot be asked.
pub fn routes_to(destinations: &BTreeSet<IpNet>) -> io::Result<BTreeSet<RouteSeen>> {
    let mut questions = Questions::open()?;
    let mut found = BTreeSet::new();
    for ipv6 in [false, true] {
        match questions.ask(Question::Routes { ipv6, protocol: ANY_PROTOCOL }) {
            Ok((payloads, _)) => found.extend(payloads.iter().filter_map(|payload| route::seen(payload))),
            // As in `routes`.
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => {}
            Err(error) => return Err(error),
        }
    }
    found.retain(|route| destinations.contains(&route.destination));
    Ok(found)
}

/// The permanent neighbours on these interfaces.
///
/// KERNEL: a dump of neighbours that others change meanwhile misses some, unmarked. So it is read until nothing new comes up.
///
/// # Errors
/// When the kernel cannot be asked.
pub fn neighbours(interfaces: &BTreeSet<u32>) -> io::Result<BTreeSet<Neighbour>> {
    let mut questions = Questions::open()?;
    let mut found = BTreeSet::new();
    for _ in 0..QUESTIONS_MAX {
        let before = found.len();
        let (payloads, _) = questions.ask(Question::Neighbours)?;
        let permanent = payloads.iter().filter_map(|payload| {
            let (key, mac) = neighbour::decode(payload)?;
            Some(Neighbour { key, mac: mac? })
        });
        found.extend(permanent.filter(|neighbour| interfaces.contains(&neighbour.key.ifindex)));
        if found.len() == before {
            break;
        }
    }
    Ok(found)
}

/// All that is seen of one interface's IPv6 routes.
fn routes_on(questions: &mut Questions, ifindex: u32) -> io::Result<BTreeSet<ObservedRoute>> {
    let mut found = BTreeSet::new();
    for _ in 0..QUESTIONS_MAX {
        match questions.ask(Question::RoutesOn { ifindex }) {
            Ok((routes, walk)) => {
                found.extend(decode(&routes));
                if walk.is_one() {
                    break;
                }
            }
            // It went meanwhile.
            Err(error) if error.raw_os_error() == Some(libc::ENODEV) => break,
            Err(error) => return Err(error),
        }
    }
    Ok(found)
}

fn decode(payloads: &[Vec<u8>]) -> BTreeSet<ObservedRoute> {
    payloads.iter().filter_map(|payload| route::decode(payload)).collect()
}

fn kind(payload: &[u8]) -> Option<String> {
    let info = attribute(payload.get(IFINFO_BYTES..)?, IFLA_LINKINFO)?;
    let name = attribute(&info, IFLA_INFO_KIND)?;
    let name = name.split(|&byte| byte == 0).next()?;
    Some(String::from_utf8_lossy(name).into_owned())
}

fn mac(payload: &[u8]) -> Option<MacAddr> {
    let address = attribute(payload.get(IFINFO_BYTES..)?, libc::IFLA_ADDRESS)?;
    Some(MacAddr(address.try_into().ok()?))
}

fn attribute(attributes: &[u8], wanted: u16) -> Option<Vec<u8>> {
    NlasIterator::new(attributes)
        .map_while(Result::ok)
        .find(|attribute| attribute.kind() & !(libc::NLA_F_NESTED as u16) == wanted)
        .map(|attribute| attribute.value().to_vec())
}

/// A socket for one question after the other.
///
/// KERNEL: the kernel fills at most as much of a datagram as was read at once before on the same socket, and a page if nothing was
/// (`max_recvmsg_len` in net/netlink/af_netlink.c). So the first question of a socket gets its answer in many pieces, later ones in
/// few, and a question about one interface belongs to the later ones.
#[derive(Debug)]
struct Questions {
    socket: Socket,
    sequence: u32,
    buffer: Vec<u8>,
}

impl Questions {
    fn open() -> io::Result<Self> {
        let mut socket = Socket::new(NETLINK_ROUTE)?;
        // Filtering by interface needs it; every kernel with a ring buffer for BPF has it.
        socket.set_netlink_get_strict_chk(true)?;
        socket.bind_auto()?;
        Ok(Self { socket, sequence: 0, buffer: vec![0; RECEIVED_AT_ONCE_BYTES] })
    }

    /// The payload of every message of a dump, and how they came.
    fn ask(&mut self, step: Question) -> io::Result<(Vec<Vec<u8>>, Walk)> {
        self.sequence += 1;
        self.socket.send_to(&request(step, self.sequence), &SocketAddr::new(0, 0), 0)?;
        let mut payloads = Vec::new();
        let mut walk = Walk::default();
        let mut number = 0;
        loop {
            number += 1;
            let length = self.socket.recv(&mut &mut self.buffer[..], 0)?;
            let datagram = &self.buffer[..length];
            let mut rest = datagram;
            while !rest.is_empty() {
                let refused = |error: netlink_packet_core::DecodeError| io::Error::other(error.to_string());
                let message = NetlinkBuffer::new_checked(rest).map_err(refused)?;
                match message.message_type() {
                    NLMSG_DONE => return Ok((payloads, walk)),
                    NLMSG_ERROR => {
                        let errno = message.payload().first_chunk().map_or(0, |it| i32::from_ne_bytes(*it));
                        return Err(io::Error::from_raw_os_error(-errno));
                    }
                    _ => {
                        walk.entry(number, datagram.len());
                        payloads.push(message.payload().to_vec());
                    }
                }
                let length = (message.length() as usize).next_multiple_of(4);
                rest = rest.get(length..).unwrap_or_default();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_namespace_has_a_loopback() {
        let links = links().unwrap();
        let loopback = links.iter().find(|seen| seen.link.name == "lo").unwrap();
        assert_eq!((loopback.kind.as_deref(), loopback.mac), (None, Some(MacAddr::ZERO)));
        assert_eq!(loopback.link.ifindex, 1);
        routes(&BTreeSet::from([1])).unwrap();
        neighbours(&BTreeSet::from([1])).unwrap();
        assert!(routes_to(&BTreeSet::new()).unwrap().is_empty());
    }
}
