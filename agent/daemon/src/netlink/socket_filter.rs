//! Classic BPF on netlink sockets: the few instructions that it takes, and attaching.
//!
//! Owns nothing of what is let through: [`super::filter`] and [`super::witness`] say that.

#![expect(unsafe_code, reason = "setsockopt(2) with SO_ATTACH_FILTER")]

use std::io;
use std::os::fd::{AsFd, AsRawFd};

/// Offsets into a netlink message: the header has 16 bytes.
pub(super) const TYPE: u32 = 4;
pub(super) const FLAGS: u32 = 6;

pub(super) const ACCEPT: libc::sock_filter = statement(libc::BPF_RET, u32::MAX);
pub(super) const DROP: libc::sock_filter = statement(libc::BPF_RET, 0);

pub(super) const fn statement(code: u32, k: u32) -> libc::sock_filter {
    libc::sock_filter { code: code as u16, jt: 0, jf: 0, k }
}

/// Goes on after the next instruction if the accumulator equals `k`, else with the next instruction.
pub(super) const fn skip_one_if(comparison: u32, k: u32) -> libc::sock_filter {
    libc::sock_filter { code: (libc::BPF_JMP | comparison | libc::BPF_K) as u16, jt: 1, jf: 0, k }
}

/// Goes on with the next instruction if the comparison holds, else after it.
pub(super) const fn skip_one_unless(comparison: u32, k: u32) -> libc::sock_filter {
    libc::sock_filter { code: (libc::BPF_JMP | comparison | libc::BPF_K) as u16, jt: 0, jf: 1, k }
}

/// Goes on `by` instructions further if the accumulator equals `k`.
pub(super) const fn jump_if(k: u32, by: usize) -> libc::sock_filter {
    libc::sock_filter { code: (libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as u16, jt: by as u8, jf: 0, k }
}

/// KERNEL: half-words are loaded in network byte order, but netlink is in the host's.
pub(super) const fn in_packet_order(value: u16) -> u32 {
    value.to_be() as u32
}

pub(super) const fn load_byte(offset: u32) -> libc::sock_filter {
    statement(libc::BPF_LD | libc::BPF_B | libc::BPF_ABS, offset)
}

pub(super) const fn load_half(offset: u32) -> libc::sock_filter {
    statement(libc::BPF_LD | libc::BPF_H | libc::BPF_ABS, offset)
}

/// A word comes in network byte order as well: compare it with `value.to_be()`.
pub(super) const fn load_word(offset: u32) -> libc::sock_filter {
    statement(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, offset)
}

/// Puts a program on a socket, in place of the one that it may have.
///
/// # Errors
/// What setsockopt(2) says.
pub(super) fn attach(socket: &impl AsFd, mut program: Vec<libc::sock_filter>) -> io::Result<()> {
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
pub(super) mod machine {
    //! The part of the classic BPF machine that the programs use.

    pub(crate) fn passes(program: &[libc::sock_filter], message: &[u8]) -> bool {
        let mut position = 0;
        let mut accumulator = 0_u32;
        loop {
            let instruction = program[position];
            position += 1;
            let k = instruction.k;
            let at = k as usize;
            let jump = |holds: bool| usize::from(if holds { instruction.jt } else { instruction.jf });
            match u32::from(instruction.code) {
                c if c == libc::BPF_LD | libc::BPF_W | libc::BPF_ABS => {
                    let bytes: [u8; 4] = message[at..at + 4].try_into().unwrap();
                    accumulator = u32::from_be_bytes(bytes);
                }
                c if c == libc::BPF_LD | libc::BPF_H | libc::BPF_ABS => {
                    accumulator = u32::from(u16::from_be_bytes([message[at], message[at + 1]]));
                }
                c if c == libc::BPF_LD | libc::BPF_B | libc::BPF_ABS => {
                    accumulator = u32::from(message[at]);
                }
                c if c == libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K => position += jump(accumulator == k),
                c if c == libc::BPF_JMP | libc::BPF_JSET | libc::BPF_K => {
                    position += jump(accumulator & k != 0);
                }
                c if c == libc::BPF_RET => return k != 0,
                other => panic!("unexpected instruction {other:#x}"),
            }
        }
    }

    pub(crate) fn message(message_type: u16, flags: u16, body: &[u8]) -> Vec<u8> {
        let mut bytes = (16 + body.len() as u32).to_ne_bytes().to_vec();
        bytes.extend(message_type.to_ne_bytes());
        bytes.extend(flags.to_ne_bytes());
        bytes.extend([0; 8]);
        bytes.extend(body);
        bytes
    }
}
