//! What this host's connection tracking says of itself, in files.

use std::fs;
use std::net::IpAddr;
use std::path::Path;

/// KERNEL: of the network namespace of the thread that reads. Not there while nf_conntrack is not loaded.
const COUNT: &str = "/proc/sys/net/netfilter/nf_conntrack_count";
const MAX: &str = "/proc/sys/net/netfilter/nf_conntrack_max";

/// Whether this host, in the network namespace of the calling thread, tracks connections at all: one file is read.
///
/// KERNEL: a loaded nf_conntrack tracks nothing until a rule wants it (`nf_ct_netns_get`), and says so nowhere but in a list of hooks that
/// came with 5.14 and is often not built. But where something does want it, every connection is in the table, also those of the host
/// itself: the one over which two agents talk is enough. So an empty table means that nobody tracks, or that nothing is there to be tracked.
#[must_use]
pub fn is_tracking() -> bool {
    tracks(&read(COUNT))
}

fn tracks(count: &Option<usize>) -> bool {
    count.is_some_and(|count| count > 0)
}

/// How many connections are in the table.
pub(super) fn count() -> usize {
    read(COUNT).unwrap_or(0)
}

/// How many more may be made here.
///
/// LIMIT: nine tenths of the table. A full one makes the kernel throw out connections of others that are not assured
/// (`early_drop`), and refuse new ones.
pub(super) fn room() -> usize {
    let max = read(MAX).unwrap_or(0);
    (max - max / 10).saturating_sub(count())
}

fn read(path: impl AsRef<Path>) -> Option<usize> {
    fs::read_to_string(path).ok()?.trim().parse().ok()
}

/// The addresses of this host, in the network namespace of the calling thread.
pub(super) fn host_addresses() -> impl Iterator<Item = IpAddr> {
    let found = nix::ifaddrs::getifaddrs().into_iter().flatten();
    found.filter_map(|interface| {
        let address = interface.address?;
        let ipv4 = address.as_sockaddr_in().map(|address| IpAddr::from(address.ip()));
        ipv4.or_else(|| address.as_sockaddr_in6().map(|address| IpAddr::from(address.ip())))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_with_something_in_it_is_in_use() {
        assert_eq!([None, Some(0), Some(1)].map(|count| tracks(&count)), [false, false, true]);
    }

    #[test]
    fn numbers_are_read_and_what_is_none_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("count");
        for (text, expected) in [("17\n", Some(17)), ("", None), ("-1", None)] {
            fs::write(&file, text).unwrap();
            assert_eq!(read(&file), expected);
        }
        assert_eq!(read(folder.path().join("none")), None);
    }
}
