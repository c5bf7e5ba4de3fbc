//! The kernel-side filter of the monitor's socket.
//!
//! Owns a classic BPF program that drops, inside the kernel, notifications about routes and neighbours that
//! cannot concern us. A host with a hundred thousand BGP routes then neither wakes the agent nor fills its
//! receive buffer when they change. It is an economy only: whatever passes is checked again in user space.

use super::socket_filter::{
    self, ACCEPT, DROP, FLAGS, TYPE, in_packet_order, jump_if, load_byte, load_half, skip_one_if,
    skip_one_unless,
};
use netlink_packet_core::{NLM_F_MULTIPART, NLM_F_REPLACE};
use std::collections::BTreeSet;
use std::io;
use std::os::fd::AsFd;

/// Offsets into a netlink message: after the header comes `rtmsg` or `ndmsg`.
const FAMILY: u32 = 16;
const TABLE: u32 = 20;
const PROTOCOL: u32 = 21;

fn program(protocols: &BTreeSet<u8>) -> Vec<libc::sock_filter> {
    let route = [
        // Answers to a dump carry many messages in one buffer; the first says nothing about the others.
        load_half(FLAGS),
        skip_one_unless(libc::BPF_JSET, in_packet_order(NLM_F_MULTIPART)),
        ACCEPT,
        load_byte(TABLE),
        skip_one_if(libc::BPF_JEQ, u32::from(libc::RT_TABLE_MAIN)),
        DROP,
        // Whatever replaces a route may have replaced one of ours, which is not announced on its own.
        load_half(FLAGS),
        skip_one_unless(libc::BPF_JSET, in_packet_order(NLM_F_REPLACE)),
        ACCEPT,
        load_byte(PROTOCOL),
    ];
    let neighbour = [
        load_half(FLAGS),
        skip_one_unless(libc::BPF_JSET, in_packet_order(NLM_F_MULTIPART)),
        ACCEPT,
        load_byte(FAMILY),
        skip_one_unless(libc::BPF_JEQ, libc::AF_INET as u32),
        ACCEPT,
        skip_one_unless(libc::BPF_JEQ, libc::AF_INET6 as u32),
        ACCEPT,
        DROP,
    ];

    let mut program = vec![load_half(TYPE)];
    // Behind the four jumps comes ACCEPT, then the part about neighbours, then the one about routes.
    let to_neighbour = 2;
    let to_route = to_neighbour + neighbour.len();
    program.push(jump_if(in_packet_order(libc::RTM_NEWROUTE), to_route + 2));
    program.push(jump_if(in_packet_order(libc::RTM_DELROUTE), to_route + 1));
    program.push(jump_if(in_packet_order(libc::RTM_NEWNEIGH), to_neighbour));
    program.push(jump_if(in_packet_order(libc::RTM_DELNEIGH), to_neighbour - 1));
    program.push(ACCEPT);
    program.extend(neighbour);
    program.extend(route);
    for &protocol in protocols {
        program.push(skip_one_unless(libc::BPF_JEQ, u32::from(protocol)));
        program.push(ACCEPT);
    }
    program.push(DROP);
    program
}

/// Puts the filter on a socket, in place of the one that it may have.
///
/// # Errors
/// What setsockopt(2) says.
pub(super) fn attach(socket: &impl AsFd, protocols: &BTreeSet<u8>) -> io::Result<()> {
    socket_filter::attach(socket, program(protocols))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::netlink::socket_filter::machine::{message, passes};

    fn route(table: u8, protocol: u8) -> [u8; 12] {
        [2, 32, 0, 0, table, protocol, 253, 1, 0, 0, 0, 0]
    }

    #[test]
    fn what_concerns_us_passes_and_the_rest_does_not() {
        let program = program(&BTreeSet::from([3, 80]));
        let neighbour = |family: u8| [family, 0, 0, 0, 7, 0, 0, 0, 0x80, 0, 0, 0];
        for (message_type, flags, body, expected, why) in [
            (libc::RTM_NEWROUTE, 0, route(254, 3), true, "ours"),
            (libc::RTM_DELROUTE, 0, route(254, 80), true, "ours, second protocol"),
            (libc::RTM_NEWROUTE, 0x400, route(254, 12), false, "of a routing daemon"),
            (libc::RTM_DELROUTE, 0, route(254, 12), false, "of a routing daemon"),
            (libc::RTM_DELROUTE, 0, route(255, 3), false, "of another table"),
            (libc::RTM_NEWROUTE, NLM_F_REPLACE, route(254, 12), true, "may have replaced ours"),
            (libc::RTM_NEWROUTE, NLM_F_REPLACE, route(100, 12), false, "another table cannot replace ours"),
            (libc::RTM_NEWROUTE, NLM_F_MULTIPART, route(254, 12), true, "an answer with others behind it"),
            (libc::RTM_NEWNEIGH, 0, neighbour(2), true, "IPv4 neighbour"),
            (libc::RTM_DELNEIGH, 0, neighbour(10), true, "IPv6 neighbour"),
            (libc::RTM_NEWNEIGH, 0, neighbour(7), false, "bridge"),
            (libc::RTM_NEWNEIGH, NLM_F_MULTIPART, neighbour(7), true, "an answer with others behind it"),
            (libc::RTM_NEWLINK, 0, [0; 12], true, "links always"),
            (libc::RTM_DELLINK, 0, [0; 12], true, "links always"),
            (libc::NLMSG_DONE as u16, NLM_F_MULTIPART, [0; 12], true, "end of a dump"),
        ] {
            assert_eq!(passes(&program, &message(message_type, flags, &body)), expected, "{why}");
        }
    }
}
