//! The length of an interface's queue (IFLA_TXQLEN), in packets.

use super::inquiry;
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::link::{LinkAttribute, LinkMessage};
use std::io;

// linux/if_link.h
const IFLA_TXQLEN: u16 = 13;

/// How long it is; nothing if there is no such interface.
///
/// # Errors
/// When the kernel refuses to say.
pub(crate) fn length(ifindex: u32) -> io::Result<Option<u32>> {
    let mut message = LinkMessage::default();
    message.header.index = ifindex;
    let link = inquiry::link(message)?;
    Ok(link.and_then(|link| inquiry::link_number(&link, IFLA_TXQLEN)))
}

/// Makes it so long. An interface that is gone has none.
///
/// # Errors
/// When the kernel refuses.
pub(crate) fn set_length(ifindex: u32, packets: u32) -> io::Result<()> {
    let mut message = LinkMessage::default();
    message.header.index = ifindex;
    message.attributes.push(LinkAttribute::TxQueueLen(packets));
    inquiry::change(&RouteNetlinkMessage::SetLink(message), 0, libc::ENODEV)
}
