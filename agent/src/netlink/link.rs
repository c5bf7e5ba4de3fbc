//! Links as the kernel speaks of them.
//!
//! Owns the reading of link messages into the engine's [`Link`]. Reads the few fields that are needed and
//! nothing else, so that no attribute that somebody invents can keep a link from being seen.

use cutover_engine::fact::Link;
use netlink_packet_core::NlasIterator;
use std::io;
use std::net::{Ipv4Addr, UdpSocket};
use std::os::fd::AsRawFd as _;

const IFINFO_BYTES: usize = 16;

/// Reads the payload of a link message. `None` if it is not about a link as such.
///
/// KERNEL: a bridge announces the arrival and departure of its ports with link messages of family AF_BRIDGE on
/// the same multicast group: RTM_DELLINK then means that a link left a bridge, not that it is gone.
#[must_use]
pub fn decode(payload: &[u8]) -> Option<Link> {
    let (header, attributes) = payload.split_at_checked(IFINFO_BYTES)?;
    if i32::from(header[0]) != libc::AF_UNSPEC {
        return None;
    }
    let ifindex = u32::from_ne_bytes(*header[4..].first_chunk()?);
    let flags = u32::from_ne_bytes(*header[8..].first_chunk()?);
    let name = NlasIterator::new(attributes)
        .map_while(Result::ok)
        .find(|attribute| attribute.kind() == libc::IFLA_IFNAME)
        .and_then(|attribute| {
            let name = attribute.value().split(|&byte| byte == 0).next()?;
            Some(String::from_utf8_lossy(name).into_owned())
        })?;
    Some(Link {
        ifindex,
        name,
        admin_up: flags & libc::IFF_UP as u32 != 0,
        running: flags & libc::IFF_RUNNING as u32 != 0,
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

/// Whether an interface of the network namespace of the calling thread is up and something is at its other end. One that is gone is not.
///
/// # Errors
/// When it cannot be told.
pub(crate) fn is_running(ifindex: u32) -> io::Result<bool> {
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?;
    // SAFETY: an ifreq of zeros is valid.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    // SAFETY: the name in an ifreq has the IF_NAMESIZE bytes that if_indextoname(3) may write.
    let found = unsafe { libc::if_indextoname(ifindex, request.ifr_name.as_mut_ptr()) };
    if found.is_null() {
        let error = io::Error::last_os_error();
        return if error.raw_os_error() == Some(libc::ENXIO) { Ok(false) } else { Err(error) };
    }
    // SAFETY: SIOCGIFFLAGS reads and writes one ifreq, which lives until the call returns.
    let asked = unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCGIFFLAGS, &raw mut request) };
    if asked < 0 {
        let error = io::Error::last_os_error();
        return if error.raw_os_error() == Some(libc::ENODEV) { Ok(false) } else { Err(error) };
    }
    // SAFETY: SIOCGIFFLAGS has filled in the flags.
    let flags = unsafe { request.ifr_ifru.ifru_flags };
    Ok(i32::from(flags) & libc::IFF_RUNNING != 0)
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
        let expected = Link { ifindex: 7, name: "tap1".into(), admin_up: true, running: false };
        assert_eq!(decode(&payload(&message(LinkFlags::Up))), Some(expected.clone()));
        let running = message(LinkFlags::Up | LinkFlags::Running);
        assert_eq!(decode(&payload(&running)), Some(Link { running: true, ..expected }));
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
