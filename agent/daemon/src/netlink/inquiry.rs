//! Questions to the kernel that are asked now and then, by whoever can wait for the answer.
//!
//! Owns one request on a socket of its own, in the network namespace of the calling thread, with all of its answers. What they mean is
//! the business of whoever asks. What is followed all the time is read by [`super::monitor`].

use super::attributes;
use netlink_packet_core::{
    DecodeError, NLM_F_ACK, NLM_F_DUMP, NLM_F_DUMP_INTR, NLM_F_REQUEST, NetlinkBuffer, NetlinkMessage,
};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::link::LinkMessage;
use netlink_sys::protocols::NETLINK_ROUTE;
use netlink_sys::{Socket, SocketAddr};
use std::io;

/// The type of a message, and what follows its header.
pub(super) type Answer = (u16, Vec<u8>);

/// LIMIT: how often a dump that others disturb is begun anew.
const DUMPS: usize = 5;

/// `struct ifinfomsg` before a link's attributes.
pub(super) const IFINFO_BYTES: usize = 16;

const NLMSG_ERROR: u16 = libc::NLMSG_ERROR as u16;
const NLMSG_DONE: u16 = libc::NLMSG_DONE as u16;

/// One request, with everything that the kernel says to it. `flags` without NLM_F_REQUEST, but with NLM_F_DUMP or NLM_F_ACK, or
/// there is no end to wait for.
pub(super) fn ask(message: &RouteNetlinkMessage, flags: u16) -> io::Result<Vec<Answer>> {
    for _ in 1..DUMPS {
        let (found, is_whole) = ask_once(message, flags)?;
        if is_whole {
            return Ok(found);
        }
    }
    ask_once(message, flags).map(|(found, _)| found)
}

/// What the kernel says of the link that the message names; nothing if there is none.
pub(super) fn link(message: LinkMessage) -> io::Result<Option<Vec<u8>>> {
    match ask(&RouteNetlinkMessage::GetLink(message), NLM_F_ACK) {
        Ok(found) => {
            Ok(found.into_iter().find(|(kind, _)| *kind == libc::RTM_NEWLINK).map(|(_, payload)| payload))
        }
        Err(error) if error.raw_os_error() == Some(libc::ENODEV) => Ok(None),
        Err(error) => Err(error),
    }
}

/// A change. With this error it is as it should be already.
pub(super) fn change(message: &RouteNetlinkMessage, flags: u16, is_so_already: i32) -> io::Result<()> {
    match ask(message, NLM_F_ACK | flags) {
        Err(error) if error.raw_os_error() != Some(is_so_already) => Err(error),
        _ => Ok(()),
    }
}

/// An attribute of a link with a number of 32 bits, in what the kernel says of it.
pub(super) fn link_number(payload: &[u8], kind: u16) -> Option<u32> {
    link_attribute(payload, kind)?.first_chunk().map(|bytes| u32::from_ne_bytes(*bytes))
}

/// One with a number of 8 bits.
pub(super) fn link_byte(payload: &[u8], kind: u16) -> Option<u8> {
    link_attribute(payload, kind)?.first().copied()
}

fn link_attribute(payload: &[u8], kind: u16) -> Option<&[u8]> {
    attributes::find(payload.get(IFINFO_BYTES..)?, kind)
}

/// The answers, and whether the kernel does not say that something is missing.
fn ask_once(message: &RouteNetlinkMessage, flags: u16) -> io::Result<(Vec<Answer>, bool)> {
    let mut socket = Socket::new(NETLINK_ROUTE)?;
    socket.bind_auto()?;
    let kernel = SocketAddr::new(0, 0);
    socket.connect(&kernel)?;
    if matches!(message, RouteNetlinkMessage::GetRoute(_)) && flags & NLM_F_DUMP != 0 {
        // KERNEL: only then what the request says about the table counts (4.20); others get all tables, and look through them.
        let _ = socket.set_netlink_get_strict_chk(true);
    }
    let mut request = NetlinkMessage::from(message.clone());
    request.header.flags = NLM_F_REQUEST | flags;
    request.finalize();
    let mut datagram = vec![0; request.buffer_len()];
    request.serialize(&mut datagram);
    socket.send(&datagram, 0)?;
    let (mut found, mut is_whole) = (Vec::new(), true);
    loop {
        let (datagram, _) = socket.recv_from_full()?;
        if collect(&datagram, &mut found, &mut is_whole)? {
            return Ok((found, is_whole));
        }
    }
}

/// Takes what was found out of a datagram; whether it was the last one.
fn collect(mut datagram: &[u8], found: &mut Vec<Answer>, is_whole: &mut bool) -> io::Result<bool> {
    while !datagram.is_empty() {
        let message = NetlinkBuffer::new_checked(datagram).map_err(invalid)?;
        *is_whole &= message.flags() & NLM_F_DUMP_INTR == 0;
        match message.message_type() {
            NLMSG_DONE | NLMSG_ERROR => {
                // Both begin with a negative errno, or 0 for success.
                let code = message.payload().first_chunk().map_or(0, |code| i32::from_ne_bytes(*code));
                return if code == 0 { Ok(true) } else { Err(io::Error::from_raw_os_error(-code)) };
            }
            kind => found.push((kind, message.payload().to_vec())),
        }
        let aligned = (message.length() as usize).next_multiple_of(4);
        datagram = datagram.get(aligned..).unwrap_or_default();
    }
    Ok(false)
}

/// What the kernel said cannot be read.
pub(super) fn invalid(error: DecodeError) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error.to_string())
}
