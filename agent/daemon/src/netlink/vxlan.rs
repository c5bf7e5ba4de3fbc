//! The device of the tunnel as the kernel speaks of it: VXLAN with the Generic Protocol Extension, so that it carries bare IP packets, and
//! with its tunnels from metadata, so that one device does for all of them.
//!
//! Owns how it is made and what makes a device one of ours. It does not know what the device is for.

use super::inquiry::{self, IFINFO_BYTES};
use netlink_packet_core::{NLM_F_ACK, NLM_F_CREATE, NLM_F_EXCL, NlasIterator};
use netlink_packet_route::address::{AddressAttribute, AddressMessage, AddressScope};
use netlink_packet_route::link::{
    InfoData, InfoKind, InfoVxlan, LinkAttribute, LinkFlags, LinkInfo, LinkMessage,
};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use std::io;
use std::net::Ipv4Addr;

/// KERNEL: the most that such a device can have. What is too long for the underlay is fragmented outside.
const MTU: u32 = 65_535;

// linux/if_link.h
const IFLA_LINKINFO: u16 = 18;
const IFLA_INFO_KIND: u16 = 1;
const IFLA_INFO_DATA: u16 = 2;
const IFLA_VXLAN_PORT: u16 = 15;
const IFLA_VXLAN_COLLECT_METADATA: u16 = 25;
const IFLA_VXLAN_GPE: u16 = 27;
/// The type of a nested attribute may have flags in it.
const NLA_TYPE_MASK: u16 = 0x3fff;

/// A device that has the name.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Device {
    pub(crate) ifindex: u32,
    pub(crate) is_up: bool,
    /// The port of one that is made as ours are; nothing of any other.
    pub(crate) port: Option<u16>,
}

/// The device of this name, if there is one.
pub(crate) fn find(name: &str) -> io::Result<Option<Device>> {
    let mut message = LinkMessage::default();
    message.attributes.push(LinkAttribute::IfName(name.to_owned()));
    Ok(inquiry::link(message)?.and_then(|link| decode(&link)))
}

/// Makes the device, which is down then.
pub(crate) fn create(name: &str, port: u16) -> io::Result<()> {
    let vxlan = vec![
        InfoVxlan::CollectMetadata(true),
        InfoVxlan::Gpe,
        InfoVxlan::Port(port),
        // KERNEL: it would learn by default, which GPE does not allow.
        InfoVxlan::Learning(false),
    ];
    let mut message = LinkMessage::default();
    message.attributes = vec![
        LinkAttribute::IfName(name.to_owned()),
        LinkAttribute::Mtu(MTU),
        LinkAttribute::LinkInfo(vec![
            LinkInfo::Kind(InfoKind::Vxlan),
            LinkInfo::Data(InfoData::Vxlan(vxlan)),
        ]),
    ];
    let flags = NLM_F_ACK | NLM_F_CREATE | NLM_F_EXCL;
    inquiry::ask(&RouteNetlinkMessage::NewLink(message), flags).map(drop)
}

/// Gives it an address by which nobody reaches anybody; it may have it already.
///
/// KERNEL (6.18; __fib_validate_source): where `rp_filter` is not 0, an interface without an IPv4 address is checked as strictly as can be,
/// whatever the value. One of scope host is announced by no daemon, and is nobody's source.
pub(crate) fn add_address(ifindex: u32, address: Ipv4Addr) -> io::Result<()> {
    let mut message = AddressMessage::default();
    message.header.family = AddressFamily::Inet;
    message.header.index = ifindex;
    message.header.prefix_len = 32;
    message.header.scope = AddressScope::Host;
    message.attributes =
        vec![AddressAttribute::Local(address.into()), AddressAttribute::Address(address.into())];
    inquiry::change(&RouteNetlinkMessage::NewAddress(message), NLM_F_CREATE | NLM_F_EXCL, libc::EEXIST)
}

/// Sets it up.
pub(crate) fn set_up(ifindex: u32) -> io::Result<()> {
    let mut message = LinkMessage::default();
    message.header.index = ifindex;
    message.header.flags = LinkFlags::Up;
    // No multicast: nobody listens, and the kernel would join groups with messages to nobody.
    message.header.change_mask = LinkFlags::Up | LinkFlags::Multicast;
    inquiry::ask(&RouteNetlinkMessage::NewLink(message), NLM_F_ACK).map(drop)
}

/// Removes it, and everything on it; it may be gone already.
pub(crate) fn remove(ifindex: u32) -> io::Result<()> {
    let mut message = LinkMessage::default();
    message.header.index = ifindex;
    inquiry::change(&RouteNetlinkMessage::DelLink(message), 0, libc::ENODEV)
}

/// Reads the few fields that matter, so that no attribute that somebody invents keeps the device from being seen.
fn decode(payload: &[u8]) -> Option<Device> {
    let (header, attributes) = payload.split_at_checked(IFINFO_BYTES)?;
    let ifindex = u32::from_ne_bytes(*header[4..].first_chunk()?);
    let flags = u32::from_ne_bytes(*header[8..].first_chunk()?);
    let info = value(attributes, IFLA_LINKINFO).unwrap_or_default();
    let is_vxlan = value(info, IFLA_INFO_KIND)
        .is_some_and(|kind| kind.split(|&byte| byte == 0).next() == Some(b"vxlan"));
    let data = value(info, IFLA_INFO_DATA).filter(|_| is_vxlan).unwrap_or_default();
    let has_metadata =
        value(data, IFLA_VXLAN_COLLECT_METADATA).is_some_and(|is_set| is_set.first() == Some(&1));
    let is_ours = has_metadata && value(data, IFLA_VXLAN_GPE).is_some();
    let port = value(data, IFLA_VXLAN_PORT).filter(|_| is_ours).and_then(<[u8]>::first_chunk);
    Some(Device {
        ifindex,
        is_up: flags & libc::IFF_UP as u32 != 0,
        port: port.map(|port| u16::from_be_bytes(*port)),
    })
}

fn value(attributes: &[u8], wanted: u16) -> Option<&[u8]> {
    NlasIterator::new(attributes)
        .map_while(Result::ok)
        .find(|attribute| attribute.kind() & NLA_TYPE_MASK == wanted)
        .map(|attribute| {
            // Borrowed from the message and not from the iterator.
            let start = attribute.value().as_ptr() as usize - attributes.as_ptr() as usize;
            &attributes[start..start + attribute.value().len()]
        })
}

/// A port is read of nothing but a device that could be ours.
#[cfg(test)]
pub(super) fn fuzz(payload: &[u8]) {
    if let Some(device) = decode(payload).filter(|device| device.port.is_some()) {
        assert!(payload.len() > IFINFO_BYTES && payload[4..8] == device.ifindex.to_ne_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use netlink_packet_core::Emitable;
    use proptest::prelude::*;

    fn payload(kind: InfoKind, data: Option<InfoData>) -> Vec<u8> {
        let mut message = LinkMessage::default();
        message.header.index = 7;
        message.header.flags = LinkFlags::Up;
        let info = [LinkInfo::Kind(kind)].into_iter().chain(data.map(LinkInfo::Data)).collect();
        message.attributes = vec![LinkAttribute::Mtu(1500), LinkAttribute::LinkInfo(info)];
        let mut bytes = vec![0; message.buffer_len()];
        message.emit(&mut bytes);
        bytes
    }

    #[test]
    fn only_a_device_that_is_made_like_ours_is_one() {
        let metadata = InfoVxlan::CollectMetadata(true);
        for (data, port) in [
            (vec![metadata.clone(), InfoVxlan::Gpe, InfoVxlan::Port(4790)], Some(4790)),
            (vec![InfoVxlan::CollectMetadata(false), InfoVxlan::Gpe, InfoVxlan::Port(4790)], None),
            (vec![metadata, InfoVxlan::Port(4790)], None),
            (vec![InfoVxlan::Id(7), InfoVxlan::Port(4790)], None),
        ] {
            let device = decode(&payload(InfoKind::Vxlan, Some(InfoData::Vxlan(data.clone()))));
            assert_eq!(device, Some(Device { ifindex: 7, is_up: true, port }), "{data:?}");
        }
        let bridge = decode(&payload(InfoKind::Bridge, None));
        assert_eq!(bridge, Some(Device { ifindex: 7, is_up: true, port: None }));
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_without_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = decode(&bytes);
        }
    }
}
