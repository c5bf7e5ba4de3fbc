//! Where Felix keeps its chains, and what they are called there.

use std::fmt;

/// What Felix programs the packet filter with. The legacy backend of iptables has the names of [`Backend::Iptables`].
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub(crate) enum Backend {
    /// Tables `ip calico` and `ip6 calico`.
    Nftables,
    /// Tables `ip filter` and `ip6 filter` of iptables-nft.
    Iptables,
    /// The table `filter` of the old interface, which nf_tables does not show.
    Legacy,
}

impl fmt::Display for Backend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Nftables => "nftables",
            Self::Iptables => "iptables (nft)",
            Self::Legacy => "iptables (legacy)",
        })
    }
}

/// Which way packets go, seen from the workload.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub(super) enum Direction {
    To,
    From,
}

/// A name of Felix's.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Name<'a> {
    /// The chain of one interface.
    Endpoint(Direction, &'a str),
    /// Where packets are led to the chains of interfaces: a chain, or a map.
    Root(Direction),
    /// A chain below that, for the interfaces with one prefix.
    Branch(Direction),
}

impl Backend {
    /// The table of a name in nf_tables.
    pub(super) fn of_table(table: &str) -> Option<Self> {
        match table {
            "calico" => Some(Self::Nftables),
            "filter" => Some(Self::Iptables),
            _ => None,
        }
    }

    /// What a chain or a map is by its name, if it matters.
    pub(super) fn name(self, name: &str) -> Option<Name<'_>> {
        let name = match self {
            Self::Nftables => name.strip_prefix("filter-")?,
            Self::Iptables | Self::Legacy => name,
        };
        let name = name.strip_prefix("cali-")?;
        for (direction, of_endpoint, dispatch) in
            [(Direction::To, "tw-", "to-wl-dispatch"), (Direction::From, "fw-", "from-wl-dispatch")]
        {
            if let Some(interface) = name.strip_prefix(of_endpoint) {
                return Some(Name::Endpoint(direction, interface));
            }
            match name.strip_prefix(dispatch) {
                Some("") => return Some(Name::Root(direction)),
                Some(rest) if rest.starts_with('-') => return Some(Name::Branch(direction)),
                _ => {}
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_both_modes() {
        for (backend, name, expected) in [
            (Backend::Nftables, "filter-cali-tw-tap1", Some(Name::Endpoint(Direction::To, "tap1"))),
            (Backend::Nftables, "cali-tw-tap1", None),
            (Backend::Nftables, "mangle-cali-tw-tap1", None),
            (Backend::Nftables, "filter-cali-from-wl-dispatch", Some(Name::Root(Direction::From))),
            (Backend::Iptables, "cali-fw-tap1", Some(Name::Endpoint(Direction::From, "tap1"))),
            (Backend::Iptables, "cali-to-wl-dispatch", Some(Name::Root(Direction::To))),
            (Backend::Iptables, "cali-to-wl-dispatch-4", Some(Name::Branch(Direction::To))),
            (Backend::Iptables, "cali-to-wl-dispatched", None),
            (Backend::Iptables, "cali-FORWARD", None),
            (Backend::Legacy, "FORWARD", None),
        ] {
            assert_eq!(backend.name(name), expected, "{backend} {name}");
        }
    }
}
