//! Who else is notified of routes and neighbours: how much of it waits to be read, and how much was lost.
//!
//! Owns the reading of the kernel's list of netlink sockets. Waits for nobody ([`crate::applier::pace`] does) and judges nothing
//! (the doctor does). One look takes some 15 µs, and 0.6 ms where there are a thousand sockets, so nobody looks without a reason.

use super::Family;
use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

/// KERNEL: the sockets of the network namespace of the calling thread (`netlink_native_seq_show` in net/netlink/af_netlink.c).
const LISTING: &str = "/proc/thread-self/net/netlink";
/// Descriptors of this process.
const OWN: &str = "/proc/self/fd";

/// Protocol of rtnetlink, as the list has it.
const NETLINK_ROUTE: &str = "0";

/// Whoever hears of routes.
pub const OF_ROUTES: u32 = of_routes(Family::Ipv4) | of_routes(Family::Ipv6);
/// Whoever hears of routes of one family.
pub const fn of_routes(family: Family) -> u32 {
    match family {
        Family::Ipv4 => bit(libc::RTNLGRP_IPV4_ROUTE),
        Family::Ipv6 => bit(libc::RTNLGRP_IPV6_ROUTE),
    }
}

/// Whoever hears of neighbours, or of settings of interfaces such as forwarding.
pub const OF_INTERFACES: u32 =
    bit(libc::RTNLGRP_NEIGH) | bit(libc::RTNLGRP_IPV4_NETCONF) | bit(libc::RTNLGRP_IPV6_NETCONF);

/// KERNEL: the list shows the first 32 groups, one bit each.
const fn bit(group: u32) -> u32 {
    1 << (group - 1)
}

/// A socket that is notified of something.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Listener {
    /// Its address: of the first socket of a process the number of that process, of others any number.
    pub port: u32,
    /// What tells it apart, as long as it is open.
    pub inode: u64,
    /// What it is notified of, one bit each.
    pub groups: u32,
    /// What waits to be read, with the kernel's bookkeeping: that is what counts against the receive buffer.
    pub queued_bytes: u64,
    /// Notifications that did not fit into the receive buffer since the socket was opened.
    pub lost: u64,
}

/// Reads the kernel's list. Sockets without groups, and of other protocols, are left out.
fn parse(text: &str) -> impl Iterator<Item = Listener> {
    text.lines().filter_map(|line| {
        let mut fields = line.split_ascii_whitespace();
        // sk, Eth, Pid, Groups, Rmem, Wmem, Dump, Locks, Drops, Inode; the heading has no numbers.
        let _address = fields.next()?;
        let protocol = fields.next()?;
        let port = fields.next()?.parse().ok()?;
        let groups = u32::from_str_radix(fields.next()?, 16).ok()?;
        let queued_bytes = fields.next()?.parse().ok()?;
        let lost = fields.nth(3)?.parse().ok()?;
        let inode = fields.next()?.parse().ok()?;
        let is_listener = protocol == NETLINK_ROUTE && groups != 0;
        is_listener.then_some(Listener { port, inode, groups, queued_bytes, lost })
    })
}

/// Every listener of the network namespace of a process.
///
/// # Errors
/// The process is gone, or /proc is not there.
pub fn in_namespace_of(process: &Path) -> io::Result<Vec<Listener>> {
    Ok(parse(&fs::read_to_string(process.join("net/netlink"))?).collect())
}

/// The inodes of the sockets among the descriptors in a folder such as `/proc/1/fd`.
///
/// # Errors
/// The process is gone, or somebody else's.
pub fn sockets_in(descriptors: &Path) -> io::Result<BTreeSet<u64>> {
    // Descriptors come and go.
    let links = fs::read_dir(descriptors)?.flatten().filter_map(|entry| fs::read_link(entry.path()).ok());
    Ok(links.filter_map(|link| inode(&link)).collect())
}

fn inode(link: &Path) -> Option<u64> {
    link.to_str()?.strip_prefix("socket:[")?.strip_suffix(']')?.parse().ok()
}

/// Looks at other processes' listeners again and again.
#[derive(Debug)]
pub struct Listeners {
    listing: PathBuf,
    groups: u32,
    text: Vec<u8>,
    /// Listeners of this process.
    own: BTreeSet<u64>,
    /// Those of others, as far as they have been seen.
    others: BTreeSet<u64>,
}

impl Listeners {
    /// At those that are notified of one of these groups, in the network namespace of the thread that looks.
    pub fn of(groups: u32) -> Self {
        Self {
            listing: LISTING.into(),
            groups,
            text: Vec::new(),
            own: BTreeSet::new(),
            others: BTreeSet::new(),
        }
    }

    /// What is there now.
    ///
    /// # Errors
    /// /proc is not there.
    pub fn look(&mut self) -> io::Result<Vec<Listener>> {
        self.text.clear();
        File::open(&self.listing)?.read_to_end(&mut self.text)?;
        let text = String::from_utf8_lossy(&self.text);
        let mut found: Vec<Listener> =
            parse(&text).filter(|listener| listener.groups & self.groups != 0).collect();
        let is_known =
            |listener: &Listener| self.own.contains(&listener.inode) || self.others.contains(&listener.inode);
        if !found.iter().all(is_known) {
            // Whose it is does not change; who is gone need not be remembered.
            self.own = sockets_in(Path::new(OWN))?;
            let others = found.iter().map(|listener| listener.inode);
            self.others = others.filter(|inode| !self.own.contains(inode)).collect();
        }
        found.retain(|listener| !self.own.contains(&listener.inode));
        Ok(found)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use netlink_sys::Socket;
    use std::os::fd::{AsRawFd as _, RawFd};

    /// What Linux 6.18 prints: the kernel's own sockets, one that only asks, BIRD's listener, somebody's of nf_tables, and zebra's.
    const TEXT: &str = "\
sk               Eth Pid        Groups   Rmem     Wmem     Dump  Locks    Drops    Inode
00000000b2d98591 0   0          00000000 0        0        0     2        0        4       
00000000c1d98591 0   811        00000000 0        0        0     2        0        9100    
00000000c2d98591 0   3573943287 80000551 213824   0        0     2        1203     9101    
00000000c3d98591 12  900        00000040 832      0        0     2        7        9102    
00000000c4d98591 0   812        01801155 832      0        1     2        0        9103    
half a line 0 0
";

    #[test]
    fn listeners_are_read() {
        let found: Vec<Listener> = parse(TEXT).collect();
        let bird = Listener {
            port: 3_573_943_287,
            inode: 9101,
            groups: 0x8000_0551,
            queued_bytes: 213_824,
            lost: 1203,
        };
        let zebra = Listener { port: 812, inode: 9103, groups: 0x0180_1155, queued_bytes: 832, lost: 0 };
        assert_eq!(found, [bird, zebra]);
        assert!(bird.groups & OF_ROUTES != 0 && bird.groups & OF_INTERFACES == 0);
        assert!(zebra.groups & OF_ROUTES != 0 && zebra.groups & OF_INTERFACES != 0);
        assert_eq!((OF_ROUTES, OF_INTERFACES), (0x440, 0x0180_0004));
    }

    #[test]
    fn sockets_are_told_by_their_links() {
        assert_eq!(inode(Path::new("socket:[4711]")), Some(4711));
        for other in ["pipe:[4711]", "socket:[x]", "/dev/null", "socket:4711"] {
            assert_eq!(inode(Path::new(other)), None, "{other}");
        }
    }

    fn listener() -> (Socket, RawFd) {
        let mut socket = Socket::new(netlink_sys::protocols::NETLINK_ROUTE).unwrap();
        socket.bind_auto().unwrap();
        socket.add_membership(libc::RTNLGRP_IPV6_ROUTE).unwrap();
        let descriptor = socket.as_raw_fd();
        (socket, descriptor)
    }

    /// Whatever else runs on this machine, a listener of this process is seen and known for its own, also one that comes later.
    #[test]
    fn own_listeners_are_not_waited_for() {
        let mut listeners = Listeners::of(OF_ROUTES);
        for _ in 0..2 {
            let (_socket, descriptor) = listener();
            let link = fs::read_link(format!("{OWN}/{descriptor}")).unwrap();
            let own = inode(&link).unwrap();
            let all = in_namespace_of(Path::new("/proc/thread-self")).unwrap();
            assert!(all.iter().any(|listener| listener.inode == own), "{all:?}");
            let others = listeners.look().unwrap();
            assert!(others.iter().all(|listener| listener.inode != own), "{others:?}");
        }
    }
}
