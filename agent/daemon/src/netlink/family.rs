//! The two families of addresses, for whoever keeps them apart because the kernel does.
//!
//! KERNEL (measured on 6.18): a change of an IPv4 route waits for the lock of links (RTNL), which anything in any network
//! namespace can hold for a large part of a second. A change of an IPv6 route does not. Older kernels make both wait.

use cutover_engine::wanted::WantedRoute;
use std::net::IpAddr;
use tokio::sync::mpsc;

/// Which family.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Family {
    /// IPv4.
    Ipv4,
    /// IPv6.
    Ipv6,
}

impl Family {
    /// Both of them.
    pub const BOTH: [Self; 2] = [Self::Ipv4, Self::Ipv6];

    /// That of an address.
    #[must_use]
    pub const fn of(address: &IpAddr) -> Self {
        match address {
            IpAddr::V4(_) => Self::Ipv4,
            IpAddr::V6(_) => Self::Ipv6,
        }
    }

    /// Whether it is that of a route.
    #[must_use]
    pub fn has(self, route: &WantedRoute) -> bool {
        Self::of(&route.destination.addr()) == self
    }
}

/// One for each family.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct ByFamily<T> {
    /// That of IPv4.
    pub ipv4: T,
    /// That of IPv6.
    pub ipv6: T,
}

impl<T> ByFamily<T> {
    /// Makes both.
    pub fn each(mut make: impl FnMut(Family) -> T) -> Self {
        Self { ipv4: make(Family::Ipv4), ipv6: make(Family::Ipv6) }
    }

    /// That of one family.
    #[must_use]
    pub const fn of(&self, family: Family) -> &T {
        match family {
            Family::Ipv4 => &self.ipv4,
            Family::Ipv6 => &self.ipv6,
        }
    }
}

impl<T> ByFamily<mpsc::Receiver<T>> {
    /// What comes next, of whichever family; nothing when one of the senders is gone. Cancelling loses nothing.
    pub async fn recv(&mut self) -> Option<(Family, T)> {
        tokio::select! {
            event = self.ipv4.recv() => Some((Family::Ipv4, event?)),
            event = self.ipv6.recv() => Some((Family::Ipv6, event?)),
        }
    }
}
