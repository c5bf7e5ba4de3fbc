//! What the monitor is told and what it tells.

use super::family::{ByFamily, Family};
use super::neighbour::{Neighbour, NeighbourKey};
use super::route::ObservedRoute;
use cutover_common::MacAddr;
use cutover_engine::{BootTime, Fact, InterfacePrefixes};
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;

/// Whose route it is.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Owner {
    /// It has a route protocol of ours and is on a workload interface.
    Ours,
    /// It is on a workload interface, but somebody else made it.
    Other,
}

/// LIMIT: notifications about 10,000 routes that change at once take about 10 MiB with the kernel's
/// bookkeeping. More is not lost for good: an overrun leads to a full read.
pub const RECEIVE_BUFFER_BYTES: usize = 16 * 1024 * 1024;

/// What the monitor has to know.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct MonitorSettings {
    /// Route protocol number of our routes (`DeviceRouteProtocol`); `None` while it is not known, when no route is ours.
    pub route_protocol: Option<u8>,
    /// The protocol that was ours in the last life, and will most probably be again: its routes are told, as somebody else's.
    pub expected_protocol: Option<u8>,
    /// How the names of workload interfaces begin.
    pub interface_prefixes: InterfacePrefixes,
    /// Bridges on which routes of ours are as well (`CutoverBridges`).
    pub bridges: BTreeSet<String>,
    /// How often everything is read again (`RouteRefreshInterval`); `None` for never.
    pub refresh: Option<Duration>,
    /// How long the kernel may take for the next part of an answer (`NetlinkTimeoutSecs`); `None` for as long as it likes.
    pub answer_timeout: Option<Duration>,
    /// Size of the receive buffer in bytes; [`RECEIVE_BUFFER_BYTES`] unless a test wants an overrun.
    pub receive_buffer_bytes: usize,
}

/// What a route applier is told.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum RouteEvent {
    /// A route exists on a workload interface.
    Seen(ObservedRoute, Owner),
    /// A route does not exist any more.
    Gone(ObservedRoute),
    /// Something about a workload's link changed, or it is gone: what failed on it may succeed now.
    LinkChanged {
        /// Its number.
        ifindex: u32,
        /// It has a carrier, as `IFF_RUNNING` says it, by which others go as well.
        running: bool,
    },
    /// An interface that is no workload's changed, or an address of any interface is gone.
    ChangedElsewhere,
    /// The host has an address that can be the source of routes.
    AddressAppeared {
        /// The address.
        address: IpAddr,
    },
    /// Notifications were lost, so whoever wrote something may never have been told that it is gone. `held` is all that there
    /// is, but for what was written after the kernel was asked.
    Recount {
        /// Every route on a workload interface.
        held: Arc<BTreeMap<ObservedRoute, Owner>>,
        /// When the kernel was asked.
        since: BootTime,
    },
    /// A full read is over: everything is known.
    Synced,
}

impl RouteEvent {
    /// Whether it is about routes of this family.
    pub(super) fn concerns(&self, family: Family) -> bool {
        match self {
            Self::Seen(route, _) | Self::Gone(route) => family.has(route),
            Self::AddressAppeared { address } => Family::of(address) == family,
            Self::LinkChanged { .. } | Self::ChangedElsewhere | Self::Recount { .. } | Self::Synced => true,
        }
    }
}

/// What the interface applier is told.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum NeighbourEvent {
    /// A permanent neighbour exists on a workload interface.
    Seen(Neighbour),
    /// There is no permanent neighbour any more.
    Gone(NeighbourKey),
    /// Something about a workload's link changed, or it is gone.
    LinkChanged {
        /// Its number.
        ifindex: u32,
    },
    /// A workload's interface has settings or an address of IPv6 that it did not have: what failed for want of IPv6 may
    /// succeed now.
    Ipv6Appeared {
        /// Its number.
        ifindex: u32,
    },
    /// As for routes, and after every full read as well. KERNEL: it does not notify when somebody writes a neighbour that exists
    /// already. If the monitor had missed that one, it would not tell of its end, either.
    Recount {
        /// Every permanent neighbour on a workload interface.
        held: Arc<BTreeMap<NeighbourKey, MacAddr>>,
        /// When the kernel was asked.
        since: BootTime,
    },
    /// A full read is over: everything is known.
    Synced,
}

/// Where the observations come out. Each stream is in order; dropping one is allowed.
#[derive(Debug)]
pub struct Streams {
    /// `LinkSeen` and `LinkRemoved`, for the engine.
    pub facts: mpsc::Receiver<Fact>,
    /// For the route applier of each family.
    pub routes: ByFamily<mpsc::Receiver<RouteEvent>>,
    /// For the interface applier.
    pub neighbours: mpsc::Receiver<NeighbourEvent>,
}
