//! Who else changed IPv6 routes while they were read.
//!
//! Owns a socket that subscribes to every change of the main table, whoever makes it, for as long as a dump takes. The kernel does
//! not say of such a dump that it was disturbed ([`super::walk`]); if there was no notification, it was not. The monitor's own
//! socket cannot tell, because its filter keeps out what does not concern us. Reads no message.

use super::socket_filter::{
    self, ACCEPT, DROP, TYPE, in_packet_order, jump_if, load_byte, load_half, load_word, skip_one_if,
};
use netlink_sys::Socket;
use netlink_sys::protocols::NETLINK_ROUTE;
use std::io;

/// Offsets into a netlink message with `rtmsg` or `ifinfomsg`.
const TABLE: u32 = 20;
const LINK_FLAGS: u32 = 24;

/// linux/rtnetlink.h
const RTNLGRP_NEXTHOP: u32 = 32;

#[derive(Debug)]
pub(super) struct Witness(Socket);

impl Witness {
    /// To be called before the dump is asked for.
    ///
    /// # Errors
    /// When the socket cannot be had.
    pub(super) fn open() -> io::Result<Self> {
        let mut socket = Socket::new(NETLINK_ROUTE)?;
        socket_filter::attach(&socket, program())?;
        socket.bind_auto()?;
        for group in [libc::RTNLGRP_IPV6_ROUTE, libc::RTNLGRP_LINK, RTNLGRP_NEXTHOP] {
            socket.add_membership(group)?;
        }
        Ok(Self(socket))
    }

    /// Whether nothing has happened so far.
    ///
    /// KERNEL: a change of an IPv6 route is notified under the lock of its table (inet6_rt_notify), and a dump takes the same
    /// lock: what a walk could have seen is in the buffer when the walk is over.
    pub(super) fn saw_nothing(&self) -> bool {
        let mut bytes = [0_u8; 64];
        is_nothing(self.0.recv(&mut &mut bytes[..], libc::MSG_DONTWAIT))
    }
}

/// A full buffer is something, too: the read that is told of it may be this one.
fn is_nothing(received: io::Result<usize>) -> bool {
    received.is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock)
}

/// KERNEL: routes go without a word of their own with a link that goes down (net.ipv6.route.skip_notify_on_dev_down) and with a nexthop
/// object (net.ipv4.nexthop_compat_mode = 0).
fn program() -> Vec<libc::sock_filter> {
    vec![
        load_half(TYPE),
        jump_if(in_packet_order(libc::RTM_NEWROUTE), 3),
        jump_if(in_packet_order(libc::RTM_DELROUTE), 2),
        jump_if(in_packet_order(libc::RTM_NEWLINK), 5),
        ACCEPT,
        load_byte(TABLE),
        skip_one_if(libc::BPF_JEQ, u32::from(libc::RT_TABLE_MAIN)),
        DROP,
        ACCEPT,
        load_word(LINK_FLAGS),
        skip_one_if(libc::BPF_JSET, (libc::IFF_UP as u32).to_be()),
        ACCEPT,
        DROP,
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::netlink::socket_filter::machine::{message, passes};

    #[test]
    fn only_an_empty_buffer_is_nothing() {
        let error = |errno| Err(io::Error::from_raw_os_error(errno));
        assert!(is_nothing(error(libc::EAGAIN)));
        assert!(!is_nothing(error(libc::ENOBUFS)) && !is_nothing(error(libc::EINTR)) && !is_nothing(Ok(0)));
    }

    #[test]
    fn what_can_disturb_a_dump_is_seen_and_the_rest_is_not() {
        let route = |table: u8| [10, 128, 0, 0, table, 12, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0];
        let link = |flags: u32| {
            let mut body = vec![0, 0, 0, 0, 7, 0, 0, 0];
            body.extend(flags.to_ne_bytes());
            body.extend([0; 4]);
            body
        };
        let up = libc::IFF_UP as u32;
        for (message_type, body, expected, why) in [
            (libc::RTM_NEWROUTE, route(254).to_vec(), true, "anybody's route"),
            (libc::RTM_DELROUTE, route(254).to_vec(), true, "anybody's route"),
            (libc::RTM_DELROUTE, route(255).to_vec(), false, "another table"),
            (libc::RTM_NEWLINK, link(up | 0x40), false, "a link that is up"),
            (libc::RTM_NEWLINK, link(0x40), true, "a link that went down"),
            (libc::RTM_DELLINK, link(up), true, "a link that is gone"),
            (105, vec![0; 16], true, "a nexthop that is gone"),
        ] {
            assert_eq!(passes(&program(), &message(message_type, 0, &body)), expected, "{why}");
        }
    }
}
