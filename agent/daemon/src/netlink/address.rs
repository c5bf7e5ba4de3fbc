//! Addresses of the host as the kernel speaks of them.
//!
//! Owns the reading of address messages. An address matters twice: routes may have it as their source, and the first one of IPv6 on
//! an interface says that IPv6 was switched on and something is at the other end.

use netlink_packet_core::NlasIterator;
use std::net::IpAddr;

// linux/if_addr.h
const IFA_ADDRESS: u16 = 1;
const IFA_LOCAL: u16 = 2;
/// `struct ifaddrmsg`: family, length of the prefix, flags, scope, number of the interface.
const HEADER_BYTES: usize = 8;

/// An address of an interface.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct HostAddress {
    pub(super) ifindex: u32,
    pub(super) address: IpAddr,
}

impl HostAddress {
    /// Whether routes may have it as their source. LIMIT: every tap has a link-local one of IPv6, and nobody's routes have those.
    pub(super) const fn can_be_source(&self) -> bool {
        match self.address {
            // Hosts of unnumbered fabrics have 169.254.0.0/16.
            IpAddr::V4(_) => true,
            IpAddr::V6(address) => !address.is_unicast_link_local(),
        }
    }
}

/// Reads the payload of an address message.
pub(super) fn decode(payload: &[u8]) -> Option<HostAddress> {
    let (header, attributes) = payload.split_at_checked(HEADER_BYTES)?;
    let ifindex = u32::from_ne_bytes(*header[4..].first_chunk()?);
    let value = |wanted| {
        let mut attributes = NlasIterator::new(attributes).map_while(Result::ok);
        attributes.find(|attribute| attribute.kind() == wanted).map(|attribute| attribute.value().to_vec())
    };
    // KERNEL: between two points IFA_ADDRESS is the other end's.
    let octets = value(IFA_LOCAL).or_else(|| value(IFA_ADDRESS))?;
    let address = match i32::from(header[0]) {
        libc::AF_INET => IpAddr::from(<[u8; 4]>::try_from(octets).ok()?),
        libc::AF_INET6 => IpAddr::from(<[u8; 16]>::try_from(octets).ok()?),
        _ => return None,
    };
    Some(HostAddress { ifindex, address })
}

#[cfg(test)]
mod tests {
    use super::*;
    use netlink_packet_core::Emitable;
    use netlink_packet_route::AddressFamily;
    use netlink_packet_route::address::{AddressAttribute, AddressMessage};
    use proptest::prelude::*;

    fn payload(family: AddressFamily, attributes: Vec<AddressAttribute>) -> Vec<u8> {
        let mut message = AddressMessage::default();
        message.header.family = family;
        message.header.index = 7;
        message.attributes = attributes;
        let mut bytes = vec![0; message.buffer_len()];
        message.emit(&mut bytes);
        bytes
    }

    #[test]
    fn the_address_is_the_hosts_own() {
        let address = |text: &str| text.parse::<IpAddr>().unwrap();
        let (own, peer, ipv6) = (address("192.0.2.1"), address("192.0.2.2"), address("2001:db8::1"));
        for (family, attributes, expected) in [
            (
                AddressFamily::Inet,
                vec![AddressAttribute::Address(peer), AddressAttribute::Local(own)],
                Some(own),
            ),
            (AddressFamily::Inet, vec![AddressAttribute::Address(own)], Some(own)),
            (AddressFamily::Inet6, vec![AddressAttribute::Address(ipv6)], Some(ipv6)),
            (AddressFamily::Inet6, vec![AddressAttribute::Address(own)], None),
            (AddressFamily::Inet, vec![], None),
        ] {
            let expected = expected.map(|address| HostAddress { ifindex: 7, address });
            assert_eq!(decode(&payload(family, attributes)), expected);
        }
    }

    #[test]
    fn every_tap_has_a_link_local_address_of_ipv6_which_is_nobodys_source() {
        for (text, expected) in
            [("fe80::1", false), ("169.254.0.1", true), ("2001:db8::1", true), ("10.0.0.1", true)]
        {
            let address = HostAddress { ifindex: 7, address: text.parse().unwrap() };
            assert_eq!(address.can_be_source(), expected, "{text}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_without_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = decode(&bytes);
        }
    }
}
