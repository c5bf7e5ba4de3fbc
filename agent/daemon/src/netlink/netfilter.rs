//! A socket for requests to nfnetlink: how a request is put together, and how the answers are read. Knows no subsystem.

use super::socket::{OpenError, set_receive_buffer};
use netlink_packet_core::{Emitable as _, NLMSG_DONE, NLMSG_ERROR, NetlinkBuffer, NetlinkHeader};
use netlink_sys::Socket;
use netlink_sys::protocols::NETLINK_NETFILTER;
use nix::sys::socket::{setsockopt, sockopt};
use nix::sys::time::{TimeVal, TimeValLike as _};
use std::io;
use std::ops::ControlFlow;

/// One in the network namespace of the calling thread, on which nobody waits for longer than that.
pub(crate) fn open(receive_buffer_bytes: usize, timeout_s: i64) -> Result<Socket, OpenError> {
    let failed = |step| move |error| OpenError { step, error };
    let mut socket = Socket::new(NETLINK_NETFILTER).map_err(failed("socket"))?;
    socket.bind_auto().map_err(failed("bind"))?;
    set_receive_buffer(&mut socket, receive_buffer_bytes).map_err(failed("SO_RCVBUF"))?;
    setsockopt(&socket, sockopt::ReceiveTimeout, &TimeVal::seconds(timeout_s))
        .map_err(|error| failed("SO_RCVTIMEO")(error.into()))?;
    Ok(socket)
}

/// Appends a message. Its body is a multiple of four bytes long.
pub(crate) fn put(datagram: &mut Vec<u8>, kind: u16, flags: u16, sequence: u32, body: &[u8]) {
    let mut header = NetlinkHeader::default();
    header.length = u32::try_from(header.buffer_len() + body.len()).unwrap_or(u32::MAX);
    header.message_type = kind;
    header.flags = flags;
    header.sequence_number = sequence;
    let start = datagram.len();
    datagram.resize(start + header.buffer_len(), 0);
    header.emit(&mut datagram[start..]);
    datagram.extend(body);
}

/// One message of the kernel's.
pub(crate) struct Answer<'a> {
    kind: u16,
    pub(crate) flags: u16,
    pub(crate) sequence: u32,
    pub(crate) payload: &'a [u8],
}

impl Answer<'_> {
    /// The positive error, or 0 for the end, if this ends something.
    pub(crate) fn error(&self) -> Option<i32> {
        let code = || self.payload.first_chunk().map_or(0, |code| i32::from_ne_bytes(*code));
        matches!(self.kind, NLMSG_DONE | NLMSG_ERROR).then(|| code().saturating_neg())
    }
}

/// Reads messages until one of them is the last. Says as well whether some were lost before.
pub(crate) fn receive_until<T>(
    socket: &Socket,
    buffer: &mut [u8],
    mut take: impl FnMut(&Answer<'_>) -> ControlFlow<T>,
) -> io::Result<(T, bool)> {
    let mut is_overrun = false;
    loop {
        let (length, sender) = match socket.recv_from(&mut &mut *buffer, 0) {
            Ok(received) => received,
            Err(error) => match error.raw_os_error() {
                Some(libc::EINTR) => continue,
                Some(libc::ENOBUFS) => {
                    is_overrun = true;
                    continue;
                }
                _ => return Err(error),
            },
        };
        // Another process with CAP_NET_ADMIN can send to this socket, too.
        if sender.port_number() != 0 {
            continue;
        }
        let mut rest = &buffer[..length];
        while let Ok(message) = NetlinkBuffer::new_checked(rest) {
            let answer = Answer {
                kind: message.message_type(),
                flags: message.flags(),
                sequence: message.sequence_number(),
                payload: message.payload(),
            };
            if let ControlFlow::Break(last) = take(&answer) {
                return Ok((last, is_overrun));
            }
            match rest.get((message.length() as usize).next_multiple_of(4)..) {
                Some(next) => rest = next,
                None => break,
            }
        }
    }
}
