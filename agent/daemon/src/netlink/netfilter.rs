//! A socket for requests to nfnetlink, and how a request is put together. Knows no subsystem.

use super::socket::{OpenError, set_receive_buffer};
use netlink_packet_core::{Emitable as _, NetlinkHeader};
use netlink_sys::Socket;
use netlink_sys::protocols::NETLINK_NETFILTER;
use nix::sys::socket::{setsockopt, sockopt};
use nix::sys::time::{TimeVal, TimeValLike as _};

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
