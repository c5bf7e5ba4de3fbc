//! The length of an interface's queue (IFLA_TXQLEN), in packets.

use super::inquiry;
use netlink_packet_core::{NLM_F_ACK, NlasIterator};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::link::{LinkAttribute, LinkMessage};
use std::io;

// linux/if_link.h
const IFLA_TXQLEN: u16 = 13;
const IFINFO_BYTES: usize = 16;

/// How long it is; nothing if there is no such interface.
///
/// # Errors
/// When the kernel refuses to say.
pub(crate) fn length(ifindex: u32) -> io::Result<Option<u32>> {
    let mut message = LinkMessage::default();
    message.header.index = ifindex;
    match inquiry::ask(&RouteNetlinkMessage::GetLink(message), NLM_F_ACK) {
        Ok(found) => {
            Ok(found.iter().find(|(kind, _)| *kind == libc::RTM_NEWLINK).and_then(|(_, it)| decode(it)))
        }
        Err(error) if error.raw_os_error() == Some(libc::ENODEV) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Makes it so long. An interface that is gone has none.
///
/// # Errors
/// When the kernel refuses.
pub(crate) fn set_length(ifindex: u32, packets: u32) -> io::Result<()> {
    let mut message = LinkMessage::default();
    message.header.index = ifindex;
    message.attributes.push(LinkAttribute::TxQueueLen(packets));
    match inquiry::ask(&RouteNetlinkMessage::SetLink(message), NLM_F_ACK) {
        Err(error) if error.raw_os_error() != Some(libc::ENODEV) => Err(error),
        _ => Ok(()),
    }
}

fn decode(payload: &[u8]) -> Option<u32> {
    let attributes = payload.get(IFINFO_BYTES..)?;
    let found = NlasIterator::new(attributes).map_while(Result::ok).find(|it| it.kind() == IFLA_TXQLEN)?;
    found.value().first_chunk().map(|bytes| u32::from_ne_bytes(*bytes))
}
