//! What was seen on the stage: a plain value, from which the judge draws its conclusions and which travels between processes.

use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::net::IpAddr;

/// Everything that was seen in one rehearsal.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Observed {
    /// The daemon's name and version, in its own words.
    pub(crate) version: String,
    /// Its generation: 1, 2 or 3 of BIRD.
    pub(crate) generation: u32,
    /// Why nothing could be played: the daemon does not take the configuration.
    pub(crate) refused: Option<String>,
    /// The same, if the daemon is not to blame: it is not there.
    pub(crate) absent: Option<String>,
    /// What the daemon does not take of it, in its own words.
    pub(crate) complaints: Vec<String>,
    /// What the configuration needs and the stage does not have, by name.
    pub(crate) missing: Vec<String>,
    /// Protocols that carry routes between routers and had nobody to talk to.
    pub(crate) others: Vec<String>,
    /// The families that the daemon has to do with.
    pub(crate) families: [bool; 2],
    /// Whether bgpd restarts gracefully.
    pub(crate) restarts_gracefully: bool,
    /// Numbers that it compares metrics with, as far as it names them.
    pub(crate) numbers: Vec<u32>,
    /// The BGP sessions of the configuration.
    pub(crate) sessions: Vec<Session>,
    /// What happened to each route.
    pub(crate) scenes: Vec<Scene>,
    /// Whether the daemon ended when it was told to.
    pub(crate) is_stopped: bool,
}

/// A session of the configuration with one of our speakers.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Session {
    /// As the daemon calls it.
    pub(crate) name: String,
    /// Whom it is with.
    pub(crate) neighbour: Option<IpAddr>,
    /// Through which interface, if it is with a link-local address or unnumbered.
    pub(crate) interface: Option<String>,
    /// With a VM, which need not know of the others.
    pub(crate) is_of_vm: bool,
    /// Switched off in the configuration.
    pub(crate) is_shut: bool,
    /// Whether it was established.
    pub(crate) is_up: bool,
    /// Whether it ended before the rehearsal did.
    pub(crate) has_ended: bool,
    /// What was the last thing that happened to it, if it was not, or has.
    pub(crate) trouble: String,
    /// Between two AS.
    pub(crate) is_external: bool,
    /// Whether it carries IPv4 and IPv6.
    pub(crate) families: [bool; 2],
}

/// What is done with a route.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
pub(crate) enum Act {
    /// A VM that runs here.
    Normal,
    /// One that has just arrived.
    Elevated,
    /// The same when its convergence time is over.
    Back,
    /// Elevated here, beside a normal one of a peer: this host is the target.
    Target,
    /// Normal here, beside an elevated one of a peer: this host is the source.
    Source,
    /// A VM of a peer.
    RemoteNormal,
    /// One that has just arrived at a peer.
    RemoteElevated,
    /// [`Self::Normal`] after another VM has come.
    Beside,
    /// The host's own way out.
    Default,
    /// [`Self::RemoteNormal`] after the daemon has been stopped.
    Stopped,
}

/// A route, and what became of it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct Scene {
    /// What was done with it.
    pub(crate) act: Act,
    /// Where it leads.
    pub(crate) destination: IpNet,
    /// Which of the places that VMs may have addresses in.
    pub(crate) sample: usize,
    /// Which session's peer announced it.
    pub(crate) from: Option<usize>,
    /// What the peers were told of it, by session.
    pub(crate) told: BTreeMap<usize, Vec<Announcement>>,
    /// What the kernel has, best first.
    pub(crate) kernel: Vec<KernelRoute>,
    /// What the daemon has.
    pub(crate) paths: Vec<Path>,
    /// Which of them zebra has chosen: the kernel's or that of BGP. BIRD chooses once.
    pub(crate) chosen: Option<Origin>,
}

/// A route in the kernel.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct KernelRoute {
    /// Its metric.
    pub(crate) metric: u32,
    /// To the VM here; otherwise the daemon's.
    pub(crate) is_of_vm: bool,
}

/// Where a path comes from.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) enum Origin {
    /// The kernel of this host.
    Kernel,
    /// One of the sessions.
    Bgp,
    /// Somewhere else.
    Other,
}

/// A path that the daemon has.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct Path {
    /// Where it comes from.
    pub(crate) origin: Origin,
    /// Whether it is the one that is used.
    pub(crate) is_best: bool,
    /// Whether its next hop is nowhere.
    pub(crate) is_unreachable: bool,
}

/// What a route says to a peer.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Announcement {
    /// LOCAL_PREF.
    pub(crate) local_pref: Option<u32>,
    /// MULTI_EXIT_DISC.
    pub(crate) med: Option<u32>,
    /// AS_PATH.
    pub(crate) path: Vec<u32>,
    /// Standard communities.
    pub(crate) communities: Vec<u32>,
    /// Everything else: extended and large communities.
    pub(crate) more: Vec<Attribute>,
}

/// An attribute as it was on the wire.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
pub(crate) struct Attribute {
    /// Optional, transitive, partial.
    pub(crate) flags: u8,
    /// Its number.
    pub(crate) kind: u8,
    /// What it says.
    pub(crate) value: Vec<u8>,
}

impl Scene {
    /// Whether it is about IPv6.
    pub(crate) fn is_ipv6(&self) -> bool {
        self.destination.addr().is_ipv6()
    }

    /// The path that the daemon uses.
    pub(crate) fn best(&self) -> Option<&Path> {
        self.paths.iter().find(|path| path.is_best)
    }

    /// The daemon's route in the kernel.
    pub(crate) fn installed(&self) -> Option<&KernelRoute> {
        self.kernel.iter().find(|route| !route.is_of_vm)
    }
}
