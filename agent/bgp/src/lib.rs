//! Configurations of BGP daemons that carry route priority to the other hosts and back into their kernels.
//!
//! Pure: from [`Parameters`] to text, one file for each daemon, or what has to be added to one that a site has. Reads no
//! settings, finds no peers and loads nothing; that is `cutover bgp`'s business. What each line is for is said in the text
//! itself and in docs/bgp.md.

pub mod bird;
pub mod frr;
mod sessions;

pub use sessions::{Password, Sessions};

use std::fmt;
use std::net::{IpAddr, Ipv4Addr};
use std::str::FromStr;

/// LOCAL_PREF of a route is this less its kernel metric, so that the lower metric is the higher preference. All
/// priorities lie between 1 and one less than this.
pub const PREFERENCE_OF_METRIC_0: u32 = 2_147_483_647;

/// How the host is connected.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[cfg_attr(feature = "clap", derive(clap::ValueEnum))]
pub enum Peering {
    /// One AS: priority travels as LOCAL_PREF
    Ibgp,
    /// Another AS, as with a top-of-rack router: elevated priority travels as a community
    Ebgp,
}

/// A standard community (RFC 1997).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Community(pub u16, pub u16);

impl fmt::Display for Community {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.0, self.1)
    }
}

impl FromStr for Community {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let parts =
            text.split_once(':').and_then(|(high, low)| Some((high.parse().ok()?, low.parse().ok()?)));
        parts.map(|(high, low)| Self(high, low)).ok_or("two numbers from 0 to 65535, as in 65000:100")
    }
}

/// Somebody whom the host exchanges routes with. A session carries the family of its addresses.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Peer {
    /// Where it is.
    pub address: IpAddr,
    /// Its AS, if it is not the host's own.
    pub autonomous_system: Option<u32>,
}

impl FromStr for Peer {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        const RIGHT: &str = "an address, or with eBGP address@AS, as in 192.0.2.1@64512";
        let (address, number) =
            text.split_once('@').map_or((text, None), |(address, number)| (address, Some(number)));
        let autonomous_system = number.map(str::parse).transpose().map_err(|_| RIGHT)?;
        if autonomous_system == Some(0) {
            return Err("an AS number from 1 to 4294967295");
        }
        Ok(Self { address: address.parse().map_err(|_| RIGHT)?, autonomous_system })
    }
}

/// The metric that routes from BGP get in the kernel.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[cfg_attr(feature = "clap", derive(clap::ValueEnum))]
pub enum KernelMetric {
    /// One for all, between elevated and normal: routes are replaced in one step
    #[default]
    Fixed,
    /// One more than on the route's own host: each change of priority leaves a moment without a route, or (BIRD 2.0) the
    /// route of before
    Mapped,
}

/// Kernel metrics of one family.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Priorities {
    /// Of a machine that does not move.
    pub normal: u32,
    /// Of one that has just arrived.
    pub elevated: u32,
}

/// Everything that a configuration depends on.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Parameters {
    /// How the host is connected.
    pub peering: Peering,
    /// Its AS.
    pub autonomous_system: u32,
    /// What identifies the host among its peers; `None` leaves the choice to the daemon.
    pub router_id: Option<Ipv4Addr>,
    /// Its peers, of both families.
    pub peers: Vec<Peer>,
    /// What the sessions with them have beyond the routes.
    pub sessions: Sessions,
    /// The mark of elevated routes with eBGP.
    pub community: Community,
    /// Metrics of IPv4 routes.
    pub ipv4: Priorities,
    /// Metrics of IPv6 routes; `None` where the agent leaves IPv6 alone.
    pub ipv6: Option<Priorities>,
    /// The agent's route protocol (`DeviceRouteProtocol`).
    pub route_protocol: u8,
    /// How the names of machines' interfaces begin.
    pub interface_prefixes: Vec<String>,
    /// Bridges to which routes of machines lead whose interfaces are their ports (`CutoverBridges`). One may be an uplink as well.
    pub bridges: Vec<String>,
}

/// A family of addresses.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[cfg_attr(feature = "clap", derive(clap::ValueEnum))]
pub enum Family {
    /// IPv4
    Ipv4,
    /// IPv6
    Ipv6,
}

impl Family {
    /// 4 or 6, as names end with it.
    #[must_use]
    pub const fn digit(self) -> u8 {
        match self {
            Self::Ipv4 => 4,
            Self::Ipv6 => 6,
        }
    }

    /// Bits of an address.
    #[must_use]
    pub const fn bits(self) -> u8 {
        match self {
            Self::Ipv4 => 32,
            Self::Ipv6 => 128,
        }
    }
}

impl Priorities {
    /// The metrics of routes from BGP where these show their priority: one more than those of a host's own routes. `None` if one of
    /// them were that of an own route all the same.
    ///
    /// In IPv6 the kernel uses only one of two routes with the same metric. And BIRD 3 (3.1.8, 3.4.0) puts a route that it prefers in the
    /// place of one that somebody else has made, at its next scan, if that has the `metric` of its kernel protocol, and leaves none
    /// behind when its route ends.
    #[must_use]
    pub const fn of_others(self) -> Option<Self> {
        if self.elevated + 1 < self.normal {
            Some(Self { normal: self.normal + 1, elevated: self.elevated + 1 })
        } else {
            None
        }
    }

    /// A metric that is worse than elevated and better than normal, if there is one.
    #[must_use]
    pub const fn between(self) -> Option<u32> {
        let middle = self.elevated + (self.normal - self.elevated) / 2;
        if middle > self.elevated && middle < self.normal { Some(middle) } else { None }
    }
}

impl Parameters {
    /// The metrics of a family, unless the agent leaves it alone.
    #[must_use]
    pub const fn priorities(&self, family: Family) -> Option<Priorities> {
        match family {
            Family::Ipv4 => Some(self.ipv4),
            Family::Ipv6 => self.ipv6,
        }
    }

    /// The peers with which a family is exchanged.
    pub fn peers_of(&self, family: Family) -> impl Iterator<Item = &Peer> {
        self.peers.iter().filter(move |peer| peer.address.is_ipv4() == (family == Family::Ipv4))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn peers_and_communities_are_read_as_they_are_written() {
        assert_eq!("65000:100".parse(), Ok(Community(65000, 100)));
        assert_eq!(Community(65000, 100).to_string(), "65000:100");
        assert!(["65000", "65536:1", "a:b", ""].iter().all(|text| text.parse::<Community>().is_err()));

        let peer: Peer = "2001:db8::1@4200000001".parse().unwrap();
        assert_eq!((peer.address.is_ipv6(), peer.autonomous_system), (true, Some(4_200_000_001)));
        assert_eq!("192.0.2.1".parse::<Peer>().unwrap().autonomous_system, None);
        assert!(
            ["192.0.2", "192.0.2.1@", "192.0.2.1@0", "@1"].iter().all(|text| text.parse::<Peer>().is_err())
        );
    }
}
