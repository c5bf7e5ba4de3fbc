//! What the engine wants to be the case. Appliers close the difference to what is.

use crate::conversation::WantedConversation;
use crate::model::{EndpointKey, Trigger, Validation};
use crate::roles::Role;
use crate::shared::{SharedMap, SharedSet};
use crate::time::BootTime;
use cutover_common::MacAddr;
use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;

/// Everything that should exist, all at once. Copies are cheap, and comparing two of them says what changed.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Wanted {
    /// The datastore has not been in sync yet, and all of this is what the memory of the last life knows: routes and watches, which may be
    /// added, and forwards that are over. Nothing may be taken away because it is not among them.
    pub is_recalled: bool,
    /// Routes of the main table.
    pub routes: SharedSet<WantedRoute>,
    /// Routes that are wanted but for their interface, which is down: the kernel has taken them away, so nobody adds them. One that is there
    /// was added when the interface was up again, of which the engine hears last, and stays.
    pub suspended: SharedSet<WantedRoute>,
    /// Routes of ours that nobody wants may be removed from interfaces without a known endpoint. False at
    /// start for a grace time, and as long as the datastore could not be read completely.
    pub leftovers_may_go: bool,
    /// The same for statuses of ports of which this life has known no endpoint. They may belong to a port that has just
    /// migrated, and removing one too early would take it out of service.
    pub unknown_statuses_may_go: bool,
    /// Interfaces of endpoints, also of removed ones: routes of ours on them that are not in `routes` are removed at once.
    pub known_interfaces: SharedSet<u32>,
    /// The same for bridges on which an earlier life may have left routes of others: number of the bridge, and a destination that some endpoint
    /// there has or had. Routes of ours to it are removed at once, the others with the leftovers.
    pub known_on_bridges: SharedSet<(u32, IpNet)>,
    /// Numbers of the taps whose virtual machines are about to leave: when the last frame of each comes is to be noted.
    pub leaving: SharedSet<u32>,
    /// Watches by ifindex.
    pub watches: SharedMap<u32, WantedWatch>,
    /// Interface settings by ifindex.
    pub interfaces: SharedMap<u32, WantedInterface>,
    /// Status of each endpoint of this host that is to be reported, and of each port that is migrating or has migrated a moment
    /// ago, here or elsewhere: there it stays as reported if there is no such endpoint here. What is not here has its status removed.
    pub statuses: SharedMap<Arc<EndpointKey>, WantedStatus>,
    /// An endpoint waits for Felix's chains (`CutoverRole = routes`): whoever cannot be told of them looks more often.
    pub chains_awaited: bool,
    /// Endpoints about which the ready command has not said yet that they are ready. None without a command.
    pub checks: SharedMap<Arc<EndpointKey>, WantedCheck>,
    /// By the endpoint that a virtual machine leaves: what is forwarded to where it goes, or is about to be.
    pub forwards: SharedMap<Arc<EndpointKey>, WantedForward>,
    /// Only while [`Wanted::is_recalled`], and the one thing that is to be taken away then: destinations that the memory says are
    /// forwarded no more. Where they lead nobody takes anything for them by now.
    pub forwards_over: SharedSet<IpNet>,
    /// By the endpoint to which a virtual machine comes: what is taken from the tunnel for it.
    pub receptions: SharedMap<Arc<EndpointKey>, WantedReception>,
    /// By the endpoint of this host: with whose agent to talk about its migration, and what to say.
    pub conversations: SharedMap<Arc<EndpointKey>, WantedConversation>,
    /// By the endpoint of this host: what becomes of the tracked connections of the virtual machine that leaves or comes.
    pub handovers: SharedMap<Arc<EndpointKey>, WantedHandover>,
}

/// The tunnel between the two hosts of one migration.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub struct Tunnel {
    /// Its identifier (VNI, 24 bits), which the target draws by lot.
    pub id: u32,
    /// The other host's end of it in the underlay.
    pub peer: IpAddr,
}

/// What still comes for a virtual machine that is leaving, or has left.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct WantedForward {
    /// The way to where it goes.
    pub tunnel: Tunnel,
    /// Its prefixes.
    pub prefixes: BTreeSet<IpNet>,
    /// False while everything is only made ready: nothing is forwarded then.
    pub is_active: bool,
    /// It is to become active at once when the target's agent says that the virtual machine has announced itself there.
    pub awaits_word: bool,
    /// It is to become active at once also when somebody says that the virtual machine has stopped here.
    pub awaits_stop: bool,
}

/// What comes out of the tunnel for a virtual machine that is arriving, or has arrived.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct WantedReception {
    /// Where it comes from.
    pub tunnel: Tunnel,
    /// Name of the tap.
    pub interface: String,
    /// Its number: what waits for the virtual machine waits there.
    pub ifindex: u32,
    /// Number of the interface that leads to it: the tap, or the bridge whose port it is.
    pub outlet: u32,
    /// The prefixes that may be sent through the tunnel; everything else that comes out of it is dropped.
    pub prefixes: BTreeSet<IpNet>,
}

/// What is to become of the tracked connections of a virtual machine that is migrating.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct WantedHandover {
    /// The migration.
    pub uid: String,
    /// The virtual machine's addresses. A connection is its if one end is among them.
    pub prefixes: BTreeSet<IpNet>,
    /// Which end of the migration this host is, and how far it is.
    pub stage: HandoverStage,
    /// Connections are made also where none are tracked yet.
    pub is_always: bool,
    /// Some have been made here, perhaps in an earlier life of the agent.
    pub has_made: bool,
}

/// How far a migration is, as far as it matters to tracked connections.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum HandoverStage {
    /// This is the source, and the virtual machine runs here: what is tracked here changes with every packet.
    Leaving,
    /// This is the source, and the virtual machine does not run here any more.
    Left,
    /// This is the target, and the virtual machine is not here yet: what the source knows is made here.
    Expected,
    /// This is the target, and the virtual machine runs here: what is tracked here is fresher than what the source knows.
    Arrived,
    /// This is the target, and the virtual machine did not come: what was made here for it is taken back.
    Failed,
}

impl HandoverStage {
    /// Whether this host is the source.
    #[must_use]
    pub const fn is_of_source(self) -> bool {
        matches!(self, Self::Leaving | Self::Left)
    }
}

/// A unicast route of the main table, scope link, straight to an interface.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct WantedRoute {
    /// Destination.
    pub destination: IpNet,
    /// Outgoing interface.
    pub ifindex: u32,
    /// Priority: the lower one wins.
    pub metric: u32,
    /// Route protocol (`RTA_PROTOCOL` numbers of rtnetlink(7)).
    pub protocol: u8,
    /// Preferred source address.
    pub source: Option<IpAddr>,
}

/// A watch for the first announcement on one interface.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct WantedWatch {
    /// Name of the tap.
    pub interface: String,
    /// Identifies the arming. A watch with another generation is another watch.
    pub generation: u64,
    /// Hardware address of the guest.
    pub mac: Option<MacAddr>,
    /// Addresses of the guest (full-length prefixes only).
    pub addresses: BTreeSet<IpAddr>,
    /// Which frames count.
    pub trigger: Trigger,
    /// How strictly they are checked.
    pub validation: Validation,
    /// What to install the moment the announcement comes.
    pub routes: BTreeSet<WantedRoute>,
    /// The destinations of these routes are forwarded to where the virtual machine has been until now
    /// ([`Wanted::forwards`]): that ends with the announcement.
    pub ends_forwarding: bool,
}

/// What has to be set on an interface.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct WantedInterface {
    /// Its name, for paths under /proc/sys.
    pub name: String,
    /// Permanent neighbours.
    pub neighbours: BTreeMap<IpAddr, MacAddr>,
    /// What it needs of IPv6.
    pub ipv6: Ipv6,
    /// It is a bridge, of which only these neighbours are ours: settings and other neighbours are its operator's.
    pub is_bridge: bool,
}

/// What an interface needs of IPv6.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Ipv6 {
    /// IPv6 is somebody else's business (`Ipv6Support`): neither settings nor neighbours are touched.
    LeftAlone,
    /// No IPv6 prefix is routed here: no setting is needed, and a neighbour is one too many.
    Unused,
    /// IPv6 prefixes are routed here.
    Routed,
}

/// What is to be reported about one endpoint.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct WantedStatus {
    /// The status.
    pub status: Status,
    /// A migration to here waits for it: it is written before others.
    pub is_awaited: bool,
    /// Since when a write is due although the status may be there already, until [`crate::Fact::StatusWritten`]
    /// repeats this time. Neutron and Nova react to writes, not to values: a `up` that was there before the
    /// migration says nothing to whoever waits for the target, and an equal value written again heals a port
    /// that something else took out of service (W15, W35).
    pub due_since: Option<BootTime>,
    /// The uid of the migration that a due write is about. For information only.
    pub migration: Option<Arc<str>>,
}

impl WantedStatus {
    /// A status that is written if it differs from what is there.
    #[must_use]
    pub const fn of(status: Status) -> Self {
        Self { status, is_awaited: false, due_since: None, migration: None }
    }
}

/// An endpoint that the ready command has to be asked about.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct WantedCheck {
    /// What is asked. As long as this stays the same, so does the answer.
    pub question: Arc<Question>,
    /// A migration to here waits for it: it is asked before others.
    pub is_awaited: bool,
    /// The endpoint's role. For information only: a change is no reason to ask again.
    pub role: Role,
    /// The migration that confers the role, empty without one. For information only.
    pub migration_uid: String,
}

/// What the ready command is asked about one endpoint.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Question {
    /// Whom to ask ([`crate::model::Policy::ready_command`]).
    pub command: Arc<Path>,
    /// Name of the tap.
    pub interface: String,
    /// Its number.
    pub ifindex: u32,
    /// The guest's hardware address.
    pub mac: Option<MacAddr>,
    /// Every prefix that is routed to the tap.
    pub prefixes: BTreeSet<IpNet>,
}

/// Status of an endpoint as Neutron understands it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Status {
    /// Ready to carry traffic.
    Up,
    /// Not ready.
    Down,
    /// Whatever was reported last stays; nothing is written for the first time either. An endpoint that a
    /// migration is heading for is in this state until it is ready: a premature `down` or `up` would reach
    /// Neutron as the status of the port that still runs elsewhere. So is one that would be up if the ready command
    /// had said so: a policy engine that is slow takes no port out of service.
    AsReported,
}
