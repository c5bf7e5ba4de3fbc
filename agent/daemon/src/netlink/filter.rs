//! The kernel-side filter of the monitor's socket.
//!
//! Owns a classic BPF program that drops, inside the kernel, notifications about routes and neighbours that
//! cannot concern us. A host with a hundred thousand BGP routes, or one in a large network whose neighbours come and go, then neither
//! wakes the agent nor fills its receive buffer when they change. It is an economy only: whatever passes is checked again in user space.

use super::socket_filter::{
    self, ACCEPT, DROP, FLAGS, TYPE, in_packet_order, jump_if, load_byte, load_half, load_word, skip_one_if,
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
const INTERFACE: u32 = 20;
const NEIGHBOUR_FLAGS: u32 = 26;

/// LIMIT: a jump leads over 255 instructions at most, and each interface takes two. A host has few that are not its VMs'; what comes
/// from more of them is dropped by the monitor.
const OTHERS_MAX: usize = 64;

/// What is let through.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct Filter {
    protocols: BTreeSet<u8>,
    others: Vec<u32>,
}

impl Filter {
    /// Lets through routes of these protocols, and neighbours unless they are on these interfaces.
    pub(super) fn new(protocols: &BTreeSet<u8>, others: &BTreeSet<u32>) -> Self {
        Self { protocols: protocols.clone(), others: others.iter().copied().take(OTHERS_MAX).collect() }
    }

    /// Puts the filter on a socket, in place of the one that it may have.
    ///
    /// # Errors
    /// What setsockopt(2) says.
    pub(super) fn attach(&self, socket: &impl AsFd) -> io::Result<()> {
        socket_filter::attach(socket, program(self))
    }
}

/// A neighbour that was ours can become one of any state, so states say nothing.
fn neighbours(others: &[u32]) -> Vec<libc::sock_filter> {
    let mut part = vec![
        load_half(FLAGS),
        skip_one_unless(libc::BPF_JSET, in_packet_order(NLM_F_MULTIPART)),
        ACCEPT,
        load_byte(FAMILY),
        jump_if(libc::AF_INET as u32, 2),
        skip_one_if(libc::BPF_JEQ, libc::AF_INET6 as u32),
        DROP,
        load_byte(NEIGHBOUR_FLAGS),
        skip_one_unless(libc::BPF_JSET, u32::from(libc::NTF_PROXY)),
        DROP,
        load_word(INTERFACE),
    ];
    for ifindex in others {
        part.extend([skip_one_unless(libc::BPF_JEQ, ifindex.to_be()), DROP]);
    }
    part.push(ACCEPT);
    part
}

fn program(filter: &Filter) -> Vec<libc::sock_filter> {
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
    let neighbour = neighbours(&filter.others);

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
    for &protocol in &filter.protocols {
        program.push(skip_one_unless(libc::BPF_JEQ, u32::from(protocol)));
        program.push(ACCEPT);
    }
    program.push(DROP);
    program
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
        let others: BTreeSet<u32> = (100..200).collect();
        let program = program(&Filter::new(&BTreeSet::from([3, 80]), &others));
        let on = |family: u8, ifindex: u32, flags: u8| {
            let mut body = [family, 0, 0, 0, 0, 0, 0, 0, 0x80, 0, flags, 0];
            body[4..8].copy_from_slice(&ifindex.to_ne_bytes());
            body
        };
        let neighbour = |family| on(family, 7, 0);
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
            (libc::RTM_NEWNEIGH, 0, on(2, 7, libc::NTF_PROXY), false, "a proxy"),
            (libc::RTM_NEWNEIGH, 0, on(2, 100, 0), false, "on an uplink"),
            (libc::RTM_DELNEIGH, 0, on(10, 163, 0), false, "on the last of those that fit"),
            (libc::RTM_DELNEIGH, 0, on(10, 164, 0), true, "on one more"),
            (libc::RTM_NEWNEIGH, NLM_F_MULTIPART, on(2, 100, 0), true, "an answer with others behind it"),
            (libc::RTM_NEWLINK, 0, [0; 12], true, "links always"),
            (libc::RTM_DELLINK, 0, [0; 12], true, "links always"),
            (libc::NLMSG_DONE as u16, NLM_F_MULTIPART, [0; 12], true, "end of a dump"),
        ] {
            assert_eq!(passes(&program, &message(message_type, flags, &body)), expected, "{why}");
        }
    }
}
