//! Counts routes as they come, as cheaply as that can be done: the machine has as many processors as a contender needs, and
//! what the observer takes would count against it. So notifications are fetched in bulk, and only their heads are read.

#![expect(unsafe_code, reason = "recvmmsg(2)")]

use anyhow::{Result, bail};
use cutover_daemon::clock;
use cutover_engine::BootTime;
use cutover_tests::Host;
use netlink_sys::{Socket, protocols::NETLINK_ROUTE};
use nix::sys::socket::{setsockopt, sockopt};
use std::io;
use std::os::fd::{AsRawFd as _, BorrowedFd};
use std::thread::sleep;
use std::time::Duration;

/// How often notifications are fetched, and so how exact the times are.
const PERIOD: Duration = Duration::from_millis(1);

/// Notifications fetched by one system call.
const AT_ONCE: usize = 128;

/// The head of a message (16 bytes) and of a route (12 bytes); what comes after is not looked at.
const HEAD_BYTES: usize = 28;

/// RTNLGRP_IPV4_ROUTE, RTNLGRP_IPV6_ROUTE of linux/rtnetlink.h.
const GROUPS: [u32; 2] = [7, 11];

/// LIMIT: room for far more notifications than a host of these benches has routes.
const RECEIVE_BUFFER_BYTES: usize = 256 << 20;

/// A count of what comes from now on.
pub(crate) struct Observer {
    socket: Socket,
    added: usize,
}

impl Observer {
    /// Begins to count the routes that a host gets.
    pub(crate) fn start(host: &Host) -> Result<Self> {
        Ok(Self { socket: host.namespace().run(subscribe)?, added: 0 })
    }

    /// When the last of `count` routes came.
    pub(crate) fn wait(mut self, count: usize, limit: Duration) -> Result<BootTime> {
        let began_at = clock::now();
        loop {
            self.fetch()?;
            let now = clock::now();
            if self.added >= count {
                return Ok(now);
            }
            if now.since(began_at) > limit {
                bail!("{} of {count} routes within {limit:?}", self.added);
            }
            sleep(PERIOD);
        }
    }

    /// Takes everything that is queued.
    fn fetch(&mut self) -> io::Result<()> {
        let mut heads = [[0_u8; HEAD_BYTES]; AT_ONCE];
        loop {
            let fetched = fetch(&self.socket, &mut heads)?;
            self.added += heads[..fetched].iter().filter(|head| is_addition(head)).count();
            if fetched < AT_ONCE {
                return Ok(());
            }
        }
    }
}

fn subscribe() -> io::Result<Socket> {
    let mut socket = Socket::new(NETLINK_ROUTE)?;
    socket.bind_auto()?;
    // SAFETY: the socket is open for the whole call.
    let descriptor = unsafe { BorrowedFd::borrow_raw(socket.as_raw_fd()) };
    setsockopt(&descriptor, sockopt::RcvBufForce, &RECEIVE_BUFFER_BYTES)?;
    for group in GROUPS {
        socket.add_membership(group)?;
    }
    Ok(socket)
}

/// As many messages as there are, at most [`AT_ONCE`], each cut to its head.
fn fetch(socket: &Socket, heads: &mut [[u8; HEAD_BYTES]; AT_ONCE]) -> io::Result<usize> {
    let mut parts =
        heads.each_mut().map(|head| libc::iovec { iov_base: head.as_mut_ptr().cast(), iov_len: HEAD_BYTES });
    let mut messages = parts.each_mut().map(|part| {
        // SAFETY: all zero is a header without an address and without anything to receive into.
        let mut message: libc::mmsghdr = unsafe { core::mem::zeroed() };
        message.msg_hdr.msg_iov = part;
        message.msg_hdr.msg_iovlen = 1;
        message
    });
    // SAFETY: the headers point to parts and the parts to heads, which outlive the call; each says how long it is.
    let fetched = unsafe {
        libc::recvmmsg(
            socket.as_raw_fd(),
            messages.as_mut_ptr(),
            AT_ONCE as libc::c_uint,
            libc::MSG_DONTWAIT,
            core::ptr::null_mut(),
        )
    };
    match usize::try_from(fetched) {
        Ok(fetched) => Ok(fetched),
        Err(_) => match io::Error::last_os_error() {
            error if error.kind() == io::ErrorKind::WouldBlock => Ok(0),
            error => Err(error),
        },
    }
}

/// Whether a message says that a route of the protocol of these benches was added to the main table.
fn is_addition(head: &[u8; HEAD_BYTES]) -> bool {
    let kind = u16::from_ne_bytes([head[4], head[5]]);
    let [table, protocol, kind_of_route] = [head[20], head[21], head[23]];
    kind == libc::RTM_NEWROUTE
        && table == libc::RT_TABLE_MAIN
        && protocol == libc::RTPROT_BOOT
        && kind_of_route == libc::RTN_UNICAST
}
