//! Whether an answer came from one walk through the kernel's table.
//!
//! KERNEL (measured on 6.18; fib6_dump_table in net/ipv6/ip6_fib.c, the same since before 5.8): a dump of IPv6 routes that does not
//! fit into one datagram leaves the table and comes back for the next. If the tree changed meanwhile, it begins at the root
//! again and skips as many entries as it has passed: what was removed before that place makes it skip entries that nobody
//! touched, what was added makes it repeat some. It is always the entries next to the border of a datagram, so that one
//! dump after the other misses the same; and none is marked with NLM_F_DUMP_INTR. IPv4 has no such gap: its dump remembers the key.
//! Within one datagram the table is locked: such an answer is exact.

/// LIMIT: a message of the largest route, one with some hops to choose from, leaves room for this much.
const ROOM_BYTES: usize = 4096;
/// What the kernel fills at most (netlink_dump in net/netlink/af_netlink.c): 32 KiB without its own bookkeeping.
const LARGE_BYTES: usize = 32 * 1024 - 512;
/// What it takes if it has no larger piece of memory at the moment: a page without its bookkeeping.
const SMALL_BYTES: usize = 4096 - 512;
/// LIMIT: routes to one interface, without hops to choose from, have a fourth of this.
const SMALL_ROOM_BYTES: usize = 512;

/// How the entries of one answer came.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct Walk {
    datagrams: usize,
    bytes: usize,
    last: Option<u64>,
}

impl Walk {
    /// An answer that tells nothing.
    pub(super) const fn not_one() -> Self {
        Self { datagrams: usize::MAX, bytes: 0, last: None }
    }

    /// An entry came in this datagram.
    pub(super) fn entry(&mut self, datagram: u64, bytes: usize) {
        if self.last.replace(datagram) != Some(datagram) {
            self.datagrams += 1;
            self.bytes = bytes;
        }
    }

    /// Whether the kernel certainly did not leave its table before the end. A datagram that is nearly full may have been followed
    /// by a walk that skipped the rest.
    pub(super) const fn is_one(&self) -> bool {
        let has_room = self.bytes + SMALL_ROOM_BYTES <= SMALL_BYTES
            || (self.bytes > 4096 && self.bytes + ROOM_BYTES <= LARGE_BYTES);
        self.datagrams == 0 || (self.datagrams == 1 && has_room)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_one_walk_if_its_only_datagram_has_room_left() {
        for (datagrams, expected) in [
            (&[][..], true),
            (&[(1, 116)], true),
            (&[(1, 116), (1, 116)], true),
            // A page that is full: the rest may be missing.
            (&[(1, 3712)], false),
            (&[(1, 23_200)], true),
            (&[(1, 32_364)], false),
            (&[(1, 116), (2, 116)], false),
        ] {
            let mut walk = Walk::default();
            for &(datagram, bytes) in datagrams {
                walk.entry(datagram, bytes);
            }
            assert_eq!(walk.is_one(), expected, "{datagrams:?}");
        }
    }
}
