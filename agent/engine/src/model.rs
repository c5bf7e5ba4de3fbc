//! The resources as the engine sees them: already parsed, already checked, without their envelope.

use crate::interface_prefix::InterfacePrefixes;
pub use crate::labels::Labels;
use core::fmt::{self, Write as _};
use core::time::Duration;
use cutover_common::MacAddr;
use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::Path;
use std::sync::Arc;

/// What identifies a WorkloadEndpoint, and what the sides of a LiveMigration refer to.
///
/// Never its uid: a driver re-creates a running endpoint under the same key with a new uid (W33).
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub struct EndpointKey {
    /// Host name, exactly as the orchestrator spells it.
    pub host: String,
    /// `openstack` for everything that Neutron writes.
    pub orchestrator: String,
    /// Namespace, slash, workload: `openstack/<instance uuid>`.
    pub workload: String,
    /// `<port uuid>`.
    pub endpoint: String,
}

impl EndpointKey {
    /// The same port of the same workload, on whichever host.
    #[must_use]
    pub fn is_same_port(&self, other: &Self) -> bool {
        self.orchestrator == other.orchestrator
            && self.workload == other.workload
            && self.endpoint == other.endpoint
    }
}

/// The name of the resource: the segments joined with single dashes, dashes inside them doubled.
impl fmt::Display for EndpointKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let workload = self.workload.split_once('/').map_or(self.workload.as_str(), |(_, workload)| workload);
        for (position, segment) in
            [&self.host, &self.orchestrator, workload, &self.endpoint].into_iter().enumerate()
        {
            if position > 0 {
                f.write_char('-')?;
            }
            for character in segment.chars() {
                f.write_char(character)?;
                if character == '-' {
                    f.write_char('-')?;
                }
            }
        }
        Ok(())
    }
}

/// One port of a virtual machine on one host.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Endpoint {
    /// Uid of the resource, empty if it has none. It tells one that was created anew from one that was only written again; it
    /// identifies nothing.
    #[serde(default)]
    pub uid: Box<str>,
    /// Name of its tap.
    pub interface: String,
    /// The guest's hardware address, which is not the tap's. Without it there are no permanent neighbours and
    /// only unsolicited neighbour advertisements count as announcements.
    pub mac: Option<MacAddr>,
    /// Every prefix that is routed to the tap: fixed addresses, address pairs, floating addresses.
    pub prefixes: BTreeSet<IpNet>,
    /// Labels, for LiveMigrations that choose their target by selector.
    pub labels: Labels,
}

/// What a LiveMigration says about its source.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum MigrationSource {
    /// One endpoint.
    Endpoint(EndpointKey),
    /// Every endpoint of a workload on a host.
    Workload {
        /// Host name.
        host: String,
        /// Orchestrator.
        orchestrator: String,
        /// Namespace, slash, workload.
        workload: String,
    },
}

/// What a LiveMigration says about its target.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum MigrationTarget {
    /// One endpoint.
    Endpoint(EndpointKey),
    /// Every endpoint whose labels match.
    Selector(crate::selector::Selector),
}

/// A migration in progress, from its announcement by the orchestrator to its end.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct LiveMigration {
    /// Identifies the attempt; a second attempt has another one.
    pub uid: String,
    /// Where the virtual machine runs now.
    pub source: Option<MigrationSource>,
    /// Where it is going.
    pub target: Option<MigrationTarget>,
}

impl LiveMigration {
    /// The endpoints that it names one by one.
    pub fn endpoints(&self) -> impl Iterator<Item = &EndpointKey> {
        let source = match &self.source {
            Some(MigrationSource::Endpoint(key)) => Some(key),
            _ => None,
        };
        let target = match &self.target {
            Some(MigrationTarget::Endpoint(key)) => Some(key),
            _ => None,
        };
        source.into_iter().chain(target)
    }
}

/// Which frames count as announcements.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub enum Trigger {
    /// Announcements only.
    #[default]
    Announcement,
    /// Also any frame with the endpoint's source hardware address.
    FirstFrame,
}

/// How strictly announcements are checked against the endpoint.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub enum Validation {
    /// Hardware and protocol addresses have to be the endpoint's.
    #[default]
    Strict,
    /// Any RARP and any gratuitous ARP on the tap.
    Any,
}

/// Metrics of one address family. The lower one wins in the kernel.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Priorities {
    /// Metric of a route that nobody is migrating.
    pub normal: u32,
    /// Metric of a route to a virtual machine that has just arrived.
    pub elevated: u32,
}

/// The settings that decisions depend on.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Policy {
    /// This host's name; endpoints with another host name are somebody else's.
    pub hostname: String,
    /// How the names of workload interfaces begin (`InterfacePrefix`).
    pub interface_prefixes: InterfacePrefixes,
    /// Bridges to which the routes of those lead whose taps are their ports (`CutoverBridges`).
    pub bridges: BTreeSet<String>,
    /// IPv4 metrics.
    pub ipv4: Priorities,
    /// IPv6 metrics.
    pub ipv6: Priorities,
    /// Whether IPv6 routes, neighbours and sysctls are programmed at all.
    pub ipv6_support: bool,
    /// Route protocol number of our routes (`DeviceRouteProtocol`).
    pub route_protocol: u8,
    /// Preferred source address of IPv4 routes.
    pub ipv4_source: Option<Ipv4Addr>,
    /// Preferred source address of IPv6 routes.
    pub ipv6_source: Option<Ipv6Addr>,
    /// How long routes stay elevated after a migration ended (`LiveMigrationRouteConvergenceTime`).
    pub convergence: Duration,
    /// How long an endpoint that vanished is held while its tap exists (`CutoverEndpointGrace`).
    pub grace: Duration,
    /// Which frames count.
    pub trigger: Trigger,
    /// How strictly they are checked.
    pub validation: Validation,
    /// What has to be asked before an endpoint is reported as up (`CutoverReadyCommand`).
    pub ready_command: Option<Arc<Path>>,
    /// Felix filters the packets of endpoints (`CutoverRole = routes`): none is up before its chains are there.
    pub awaits_chains: bool,
    /// What still comes for a virtual machine that has left is forwarded to where it runs (`CutoverForward`).
    pub forwards: bool,
    /// That begins when it stops here (`CutoverHold`).
    pub holds: bool,
    /// Whether tracked connections are handed over (`CutoverConntrack`).
    pub handover: Handover,
}

/// Whether the tracked connections of a virtual machine that migrates are handed over.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Handover {
    /// No.
    Off,
    /// To a target that tracks connections.
    Auto,
    /// Also to a target that does not track any yet.
    Always,
}

impl Policy {
    /// Whether an interface of this name is a workload's. A bridge is none, however its name begins: it has many of them.
    #[must_use]
    pub fn is_workload(&self, name: &str) -> bool {
        self.interface_prefixes.cover(name) && !self.bridges.contains(name)
    }

    /// Whether routes of ours may lead to an interface of this name.
    #[must_use]
    pub fn has_routes(&self, name: &str) -> bool {
        self.interface_prefixes.cover(name) || self.bridges.contains(name)
    }

    /// The metrics of the family of `address`.
    #[must_use]
    pub const fn priorities(&self, address: IpAddr) -> Priorities {
        match address {
            IpAddr::V4(_) => self.ipv4,
            IpAddr::V6(_) => self.ipv6,
        }
    }
}

impl Default for Policy {
    fn default() -> Self {
        let priorities = Priorities { normal: 1024, elevated: 512 };
        Self {
            hostname: String::new(),
            interface_prefixes: "tap".parse().unwrap_or_default(),
            bridges: BTreeSet::new(),
            ipv4: priorities,
            ipv6: priorities,
            ipv6_support: true,
            route_protocol: 3,
            ipv4_source: None,
            ipv6_source: None,
            convergence: Duration::from_secs(30),
            grace: Duration::from_secs(2),
            trigger: Trigger::Announcement,
            validation: Validation::Strict,
            ready_command: None,
            awaits_chains: false,
            forwards: false,
            holds: false,
            handover: Handover::Off,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn name_doubles_dashes_and_drops_the_namespace() {
        let key = EndpointKey {
            host: "compute-2".into(),
            orchestrator: "openstack".into(),
            workload: "openstack/11-22".into(),
            endpoint: "port1".into(),
        };
        assert_eq!(key.to_string(), "compute--2-openstack-11--22-port1");
    }
}
