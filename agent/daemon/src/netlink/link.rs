//! Links as the kernel speaks of them.
//!
//! Owns the reading of link messages into the engine's [`Link`]. Reads the few fields that are needed and
//! nothing else, so that no attribute that somebody invents can keep a link from being seen.

#![expect(unsafe_code, reason = "if_indextoname(3)")]

use cutover_engine::fact::Link;
use netlink_packet_core::NlasIterator;
use std::io;

const IFINFO_BYTES: usize = 16;

/// Reads the payload of a link message. `None` if it is not about a link as such.
///
/// KERNEL: a bridge announces the arrival and departure of its ports with link messages of family AF_BRIDGE on
/// the same multicast group: RTM_DELLINK then means that a link left a bridge, not that it is gone.
///
/// KERNEL: IFF_RUNNING follows the link watch, which looks at losses once a second for all namespaces together (`linkwatch_nextevent`).
/// The carrier of a tap goes as soon as its last reader closes it, and a notification of that moment says so (`tun_detach`). Seen on
/// 6.18 after a loss elsewhere: the carrier after 0.2 ms, the flag after 1.01 s. So a loss is taken from whichever tells it first. A
/// carrier that comes counts when both have it: only the link watch gives the tap the queue without which it drops everything.
///
/// KERNEL: a link that becomes or is no longer a bridge's port says so in a message of its own, of family AF_UNSPEC (NETDEV_CHANGEUPPER).
#[must_use]
pub fn decode(payload: &[u8]) -> Option<Link> {
    let (header, attributes) = payload.split_at_checked(IFINFO_BYTES)?;
    if i32::from(header[0]) != libc::AF_UNSPEC {
        return None;
    }
    let ifindex = u32::from_ne_bytes(*header[4..].first_chunk()?);
    let flags = u32::from_ne_bytes(*header[8..].first_chunk()?);
    let (mut name, mut carrier, mut master) = (None, None, None);
    for attribute in NlasIterator::new(attributes).map_while(Result::ok) {
        match attribute.kind() {
            libc::IFLA_IFNAME => name = attribute.value().split(|&byte| byte == 0).next().map(<[u8]>::to_vec),
            libc::IFLA_CARRIER => carrier = attribute.value().first().copied(),
            libc::IFLA_MASTER => master = attribute.value().first_chunk().map(|it| u32::from_ne_bytes(*it)),
            _ => {}
        }
    }
    // Whoever does not tell the carrier has nothing but the flag.
    let has_carrier = carrier != Some(0);
    Some(Link {
        ifindex,
        name: String::from_utf8_lossy(&name?).into_owned(),
        admin_up: flags & libc::IFF_UP as u32 != 0,
        running: flags & libc::IFF_RUNNING as u32 != 0 && has_carrier,
        master,
    })
}

/// Whether there is an interface of this number in the network namespace of the calling thread. nix 0.31 has a function for that,
/// which takes a null pointer, the answer for "none", for success.
///
/// # Errors
/// When it cannot be told.
pub(crate) fn exists(ifindex: u32) -> io::Result<bool> {
    let mut name = [0; libc::IF_NAMESIZE];
    // SAFETY: the buffer has the IF_NAMESIZE bytes that if_indextoname(3) may write.
    let found = unsafe { libc::if_indextoname(ifindex, name.as_mut_ptr()) };
    if !found.is_null() {
        return Ok(true);
    }
    let error = io::Error::last_os_error();
    if error.raw_os_error() == Some(libc::ENXIO) { Ok(false) } else { Err(error) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use netlink_packet_core::Emitable;
    use netlink_packet_route::AddressFamily;
    use netlink_packet_route::link::{LinkAttribute, LinkFlags, LinkMessage};
    use proptest::prelude::*;

    fn message(flags: LinkFlags) -> LinkMessage {
        let mut message = LinkMessage::default();
        message.header.index = 7;
        message.header.flags = flags;
        message.attributes = vec![LinkAttribute::Mtu(1500), LinkAttribute::IfName("tap1".into())];
        message
    }

    fn payload(message: &LinkMessage) -> Vec<u8> {
        let mut bytes = vec![0; message.buffer_len()];
        message.emit(&mut bytes);
        bytes
    }

    #[test]
    fn flags_and_name_are_read() {
        let expected = Link { ifindex: 7, name: "tap1".into(), admin_up: true, running: false, master: None };
        assert_eq!(decode(&payload(&message(LinkFlags::Up))), Some(expected.clone()));
        let running = message(LinkFlags::Up | LinkFlags::Running);
        assert_eq!(decode(&payload(&running)), Some(Link { running: true, ..expected.clone() }));
        let mut port = message(LinkFlags::Up);
        port.attributes.push(LinkAttribute::Controller(3));
        assert_eq!(decode(&payload(&port)), Some(Link { master: Some(3), ..expected }));
    }

    #[test]
    fn a_link_runs_if_flag_and_carrier_say_so() {
        let up = LinkFlags::Up;
        for (flags, carrier, expected) in [
            (up | LinkFlags::Running, Some(1), true),
            (up | LinkFlags::Running, None, true),
            // The link watch has not come to it yet.
            (up | LinkFlags::Running, Some(0), false),
            (up, Some(1), false),
            (up, None, false),
        ] {
            let mut message = message(flags);
            message.attributes.extend(carrier.map(LinkAttribute::Carrier));
            let link = decode(&payload(&message)).unwrap();
            assert_eq!(link.running, expected, "{flags:?}, carrier {carrier:?}");
        }
    }

    #[test]
    fn leaving_a_bridge_is_not_a_link_message() {
        let mut message = message(LinkFlags::Up);
        message.header.interface_family = AddressFamily::Bridge;
        assert_eq!(decode(&payload(&message)), None);
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_without_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = decode(&bytes);
        }
    }
}
