//! The length of an interface's queue (IFLA_TXQLEN), in packets.

use super::inquiry;
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::link::{LinkAttribute, LinkMessage};
use std::io;

// linux/if_link.h
const IFLA_TXQLEN: u16 = 13;

/// The queue of an interface.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Queue {
    /// How many packets it has room for.
    pub(crate) length: u32,
    /// The interface has a carrier: somebody takes packets out, in a tap's case a hypervisor.
    pub(crate) is_read: bool,
}

/// The queue of an interface; nothing if there is no such interface.
///
/// # Errors
/// When the kernel refuses to say.
pub(crate) fn of(ifindex: u32) -> io::Result<Option<Queue>> {
    let mut message = LinkMessage::default();
    message.header.index = ifindex;
    let Some(link) = inquiry::link(message)? else { return Ok(None) };
    let is_read = inquiry::link_byte(&link, libc::IFLA_CARRIER) != Some(0);
    Ok(inquiry::link_number(&link, IFLA_TXQLEN).map(|length| Queue { length, is_read }))
}

/// Makes it so long. An interface that is gone has none.
///
/// KERNEL (6.18; dev_qdisc_change_tx_queue_len): what is sent to an interface that is up at this moment is lost: some microseconds to
/// milliseconds in which it has no queue.
///
/// # Errors
/// When the kernel refuses.
pub(crate) fn set_length(ifindex: u32, packets: u32) -> io::Result<()> {
    let mut message = LinkMessage::default();
    message.header.index = ifindex;
    message.attributes.push(LinkAttribute::TxQueueLen(packets));
    inquiry::change(&RouteNetlinkMessage::SetLink(message), 0, libc::ENODEV)
}
