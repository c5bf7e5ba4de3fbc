//! Makes the kernel silent for another process, or hard to follow: its netlink socket that follows links, routes and neighbours receives
//! nothing any more, as if the kernel had stopped in the middle of an answer, or has room for a few notifications only. A socket that it
//! opens afterwards is not affected.

#![expect(unsafe_code, reason = "pidfd_getfd(2) and SO_ATTACH_FILTER")]

use nix::sys::socket::{setsockopt, sockopt};
use std::fs;
use std::io;
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd};

/// The group of neighbours (RTNLGRP_NEIGH) in a mask of groups.
const NEIGHBOURS: u32 = 1 << (libc::RTNLGRP_NEIGH - 1);

/// Deafens the process. Says how many sockets it had of that kind.
///
/// # Panics
/// Without the privilege.
#[must_use]
pub fn deafen(pid: i32) -> usize {
    sockets(pid).iter().map(drop_everything).count()
}

/// Gives the process a receive buffer of this size. Says how many sockets it had of that kind.
///
/// KERNEL: 0 is raised to SOCK_MIN_RCVBUF, 2304 bytes on 64 bits: two or three notifications.
///
/// # Panics
/// Without the privilege.
#[must_use]
pub fn resize(pid: i32, bytes: usize) -> usize {
    let resize = |socket: &OwnedFd| {
        setsockopt(socket, sockopt::RcvBufForce, &bytes).expect("a socket");
    };
    sockets(pid).iter().map(resize).count()
}

/// Its sockets of that kind.
fn sockets(pid: i32) -> Vec<OwnedFd> {
    let inodes = following(pid);
    let following = descriptors(pid).into_iter().filter(|(_, inode)| inodes.contains(inode));
    following.map(|(number, _)| duplicate(pid, number).expect("pidfd_getfd needs root")).collect()
}

/// The inodes of sockets of the process's network namespace that are notified of neighbours.
///
/// KERNEL: the columns of /proc/net/netlink are sk, Eth, Pid, Groups, Rmem, Wmem, Dump, Locks, Drops, Inode.
fn following(pid: i32) -> Vec<String> {
    let table = fs::read_to_string(format!("/proc/{pid}/net/netlink")).expect("the process exists");
    let inode = |line: &str| {
        let columns: Vec<&str> = line.split_whitespace().collect();
        let groups = u32::from_str_radix(columns.get(3)?, 16).ok()?;
        let is_route = columns[1] == libc::NETLINK_ROUTE.to_string();
        (is_route && groups & NEIGHBOURS != 0).then(|| columns.last().copied().unwrap_or_default().to_owned())
    };
    table.lines().filter_map(inode).collect()
}

/// The process's descriptors of sockets, each with its inode.
fn descriptors(pid: i32) -> Vec<(i32, String)> {
    let folder = fs::read_dir(format!("/proc/{pid}/fd")).expect("the process exists");
    let socket = |entry: fs::DirEntry| {
        let target = fs::read_link(entry.path()).ok()?;
        let inode = target.to_str()?.strip_prefix("socket:[")?.strip_suffix(']')?.to_owned();
        Some((entry.file_name().to_str()?.parse().ok()?, inode))
    };
    folder.flatten().filter_map(socket).collect()
}

fn duplicate(pid: i32, number: i32) -> io::Result<OwnedFd> {
    let owned = |result: libc::c_long| {
        let number = i32::try_from(result).ok().filter(|number| *number >= 0);
        // SAFETY: the kernel has just made this descriptor for us, and nobody else knows of it.
        number.map(|number| unsafe { OwnedFd::from_raw_fd(number) }).ok_or_else(io::Error::last_os_error)
    };
    // SAFETY: takes two numbers.
    let process = owned(unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) })?;
    // SAFETY: takes a descriptor that is open and two numbers.
    owned(unsafe { libc::syscall(libc::SYS_pidfd_getfd, process.as_raw_fd(), number, 0) })
}

fn drop_everything(socket: &OwnedFd) {
    let mut drop_it = libc::sock_filter { code: (libc::BPF_RET | libc::BPF_K) as u16, jt: 0, jf: 0, k: 0 };
    let program = libc::sock_fprog { len: 1, filter: &raw mut drop_it };
    // SAFETY: `program` points at one instruction, which lives until after the call; the kernel copies both.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_ATTACH_FILTER,
            (&raw const program).cast(),
            size_of::<libc::sock_fprog>() as libc::socklen_t,
        )
    };
    assert_eq!(result, 0, "{}", io::Error::last_os_error());
}
