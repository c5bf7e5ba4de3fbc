//! The kernel-side filter of the monitor's socket.
//!
//! Owns a classic BPF program that drops, inside the kernel, notifications about routes and neighbours that
//! cannot concern us. A host with a hundred thousand BGP routes then neither wakes the agent nor fills its
//! receive buffer when they change. It is an economy only: whatever passes is checked again in user space.

use netlink_packet_core::{NLM_F_MULTIPART, NLM_F_REPLACE};
use std::collections::BTreeSet;
use std::io;
use std::os::fd::{AsFd, AsRawFd};

/// Offsets into a netlink message: header (16 bytes), then `rtmsg` or `ndmsg`.
const TYPE: u32 = 4;
const FLAGS: u32 = 6;
const FAMILY: u32 = 16;
const TABLE: u32 = 20;
const PROTOCOL: u32 = 21;

const ACCEPT: libc::sock_filter = statement(libc::BPF_RET, u32::MAX);
const DROP: libc::sock_filter = statement(libc::BPF_RET, 0);

const fn statement(code: u32, k: u32) -> libc::sock_filter {
    libc::sock_filter { code: code as u16, jt: 0, jf: 0, k }
}

/// Goes on after the next instruction if the accumulator equals `k`, else with the next instruction.
const fn skip_one_if(comparison: u32, k: u32) -> libc::sock_filter {
    libc::sock_filter { code: (libc::BPF_JMP | comparison | libc::BPF_K) as u16, jt: 1, jf: 0, k }
}

/// Goes on with the next instruction if the comparison holds, else after it.
const fn skip_one_unless(comparison: u32, k: u32) -> libc::sock_filter {
    libc::sock_filter { code: (libc::BPF_JMP | comparison | libc::BPF_K) as u16, jt: 0, jf: 1, k }
}

/// KERNEL: half-words are loaded in network byte order, but netlink is in the host's.
const fn in_packet_order(value: u16) -> u32 {
    value.to_be() as u32
}

const fn load_byte(offset: u32) -> libc::sock_filter {
    statement(libc::BPF_LD | libc::BPF_B | libc::BPF_ABS, offset)
}

const fn load_half(offset: u32) -> libc::sock_filter {
    statement(libc::BPF_LD | libc::BPF_H | libc::BPF_ABS, offset)
}

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
    let jump_if = |message_type: u16, by: usize| libc::sock_filter {
        code: (libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as u16,
        jt: by as u8,
        jf: 0,
        k: in_packet_order(message_type),
    };
    // Behind the four jumps comes ACCEPT, then the part about neighbours, then the one about routes.
    let to_neighbour = 2;
    let to_route = to_neighbour + neighbour.len();
    program.push(jump_if(libc::RTM_NEWROUTE, to_route + 2));
    program.push(jump_if(libc::RTM_DELROUTE, to_route + 1));
    program.push(jump_if(libc::RTM_NEWNEIGH, to_neighbour));
    program.push(jump_if(libc::RTM_DELNEIGH, to_neighbour - 1));
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
    let mut program = program(protocols);
    let descriptor = libc::sock_fprog { len: program.len() as u16, filter: program.as_mut_ptr() };
    // SAFETY: `descriptor` points at `program`, which lives until after the call; the kernel copies both.
    let result = unsafe {
        libc::setsockopt(
            socket.as_fd().as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_ATTACH_FILTER,
            (&raw const descriptor).cast(),
            size_of::<libc::sock_fprog>() as libc::socklen_t,
        )
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The part of the classic BPF machine that the program uses.
    fn passes(program: &[libc::sock_filter], message: &[u8]) -> bool {
        let mut position = 0;
        let mut accumulator = 0_u32;
        loop {
            let instruction = program[position];
            position += 1;
            let k = instruction.k;
            let jump = |holds: bool| usize::from(if holds { instruction.jt } else { instruction.jf });
            match u32::from(instruction.code) {
                c if c == libc::BPF_LD | libc::BPF_H | libc::BPF_ABS => {
                    let at = k as usize;
                    accumulator = u32::from(u16::from_be_bytes([message[at], message[at + 1]]));
                }
                c if c == libc::BPF_LD | libc::BPF_B | libc::BPF_ABS => {
                    accumulator = u32::from(message[k as usize]);
                }
                c if c == libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K => position += jump(accumulator == k),
                c if c == libc::BPF_JMP | libc::BPF_JSET | libc::BPF_K => {
                    position += jump(accumulator & k != 0)
                }
                c if c == libc::BPF_RET => return k != 0,
                other => panic!("unexpected instruction {other:#x}"),
            }
        }
    }

    fn message(message_type: u16, flags: u16, body: [u8; 12]) -> Vec<u8> {
        let mut bytes = 28_u32.to_ne_bytes().to_vec();
        bytes.extend(message_type.to_ne_bytes());
        bytes.extend(flags.to_ne_bytes());
        bytes.extend([0; 8]);
        bytes.extend(body);
        bytes
    }

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
            assert_eq!(passes(&program, &message(message_type, flags, body)), expected, "{why}");
        }
    }
}
