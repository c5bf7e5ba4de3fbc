//! What `cutover status` shows: a plain picture of what the engine knows, for people and programs.

use crate::machine::{Machine, Phases, State, Unresolved, kind_name};
use crate::model::EndpointKey;
use crate::roles::Role;
use crate::time::BootTime;
use cutover_common::MacAddr;
use serde::{Deserialize, Serialize};
use std::net::IpAddr;

/// One endpoint of this host.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct EndpointView {
    /// Resource name, as in the log.
    pub name: String,
    /// Its key.
    pub key: EndpointKey,
    /// Name of its tap.
    pub interface: String,
    /// Number of its tap, if it exists.
    pub ifindex: Option<u32>,
    /// Name of the bridge that its routes lead to, if its tap is a port of one of `CutoverBridges`.
    #[serde(default)]
    pub bridge: Option<String>,
    /// Hardware address of the virtual machine's port, if the resource says it.
    #[serde(default)]
    pub mac: Option<MacAddr>,
    /// Whether something is at the other end of the tap.
    pub running: bool,
    /// `NO_ROLE`, `SOURCE` or `TARGET`.
    pub role: String,
    /// State of the migration machine.
    pub state: State,
    /// Migration that the state is about, empty if there was none.
    pub migration_uid: String,
    /// Reported status: `up`, `down`, or `as reported`.
    pub status: String,
    /// A write of that status is due: somebody waits for it, or something took the port out of service.
    #[serde(default)]
    pub status_due: bool,
    /// The endpoint is gone from the datastore and held for the grace time.
    pub held: bool,
    /// A migration to here failed; the endpoint has no route until it is written again.
    pub not_here: bool,
    /// What has to happen before it is known how the last migration to here ended, if it is not.
    #[serde(default)]
    pub waits_for: Option<String>,
    /// Destinations with their metrics.
    pub routes: Vec<RouteView>,
    /// Generation of the armed watch.
    pub watch: Option<u64>,
    /// What announced the virtual machine in the migration that the state is about.
    pub announcement: Option<String>,
    /// Nanoseconds from the announcement in the kernel to the acknowledged routes of the fast path.
    pub announced_to_routed_ns: Option<u64>,
    /// Seconds of elevated priority that are left.
    pub elevated_for_seconds: Option<f64>,
    /// What of Felix's chains is missing, where Felix is beside the agent (`CutoverRole = routes`).
    #[serde(default)]
    pub felix: Option<FelixView>,
    /// The migration to here that is under way.
    #[serde(default)]
    pub migration: Option<MigrationView>,
    /// Known from the agent's last life only: the datastore has not been in sync since the agent was started.
    #[serde(default)]
    pub from_memory: bool,
}

/// A virtual machine that is leaving, or has left.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ForwardView {
    /// Resource name of the endpoint that it leaves.
    pub endpoint: String,
    /// The migration.
    pub migration_uid: String,
    /// Resource name of the endpoint where it goes.
    pub to: String,
    /// Number of the tap that it leaves.
    #[serde(default)]
    pub tap: Option<u32>,
    /// When the last frame came from that tap, once it is known that the virtual machine does not run here.
    #[serde(default)]
    pub last_frame_at: Option<BootTime>,
    /// Identifier of the tunnel (VNI), once the target's agent has said so.
    pub tunnel_id: Option<u32>,
    /// The target's end of the tunnel.
    pub peer: Option<IpAddr>,
    /// What is forwarded.
    pub prefixes: Vec<String>,
    /// The target is ready for it.
    pub is_ready: bool,
    /// The virtual machine has stopped here.
    pub is_stopped: bool,
    /// It has announced itself there.
    pub is_announced: bool,
    /// Packets are forwarded: the kernel has acknowledged it.
    pub is_active: bool,
    /// When the migration was seen, CLOCK_BOOTTIME in nanoseconds as all times here.
    #[serde(default)]
    pub began_at: Option<BootTime>,
    /// When the virtual machine stopped here.
    #[serde(default)]
    pub stopped_at: Option<BootTime>,
    /// When this host heard that it has announced itself there.
    #[serde(default)]
    pub heard_at: Option<BootTime>,
    /// Since when packets have been forwarded.
    #[serde(default)]
    pub started_at: Option<BootTime>,
    /// For how long they have been.
    pub since_ms: Option<u64>,
    /// How many, in the life of the agent.
    #[serde(default)]
    pub packets: u64,
    /// When this is over, if the migration is.
    pub ends_in_ms: Option<u64>,
}

/// A virtual machine that is arriving, or has arrived.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ReceptionView {
    /// Resource name of the endpoint where it arrives.
    pub endpoint: String,
    /// The migration.
    pub migration_uid: String,
    /// Resource name of the endpoint that it leaves.
    pub from: String,
    /// Identifier of the tunnel (VNI).
    pub tunnel_id: u32,
    /// The source's end of the tunnel, once its agent has said so.
    pub peer: Option<IpAddr>,
    /// What comes out of the tunnel reaches the tap.
    pub is_ready: bool,
    /// The virtual machine has stopped where it comes from.
    pub is_source_stopped: bool,
    /// The source forwards what still comes there.
    pub is_source_forwarding: bool,
    /// How many packets have come through the tunnel, in the life of the agent.
    #[serde(default)]
    pub packets: u64,
    /// When this is over, if it is.
    pub ends_in_ms: Option<u64>,
}

/// What the agent works with while its datastore has not been in sync since it was started.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct RecallView {
    /// Endpoints of this host that its memory knows.
    pub endpoints: usize,
    /// Taps on which it listens for an announcement.
    pub watched: usize,
}

/// What is kept although the datastore does not show it, because it vanished as nothing vanishes that somebody wants gone.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct LossView {
    /// Resource names of endpoints that were lost together.
    pub endpoints: Vec<String>,
    /// Interfaces with carrier and routes of the agent's last life, without an endpoint.
    pub interfaces: Vec<String>,
    /// Interfaces of endpoints of this host that have none of the prefixes of workload interfaces.
    pub shown_on_other_interfaces: Vec<String>,
}

impl LossView {
    /// How many things are kept.
    #[must_use]
    pub const fn count(&self) -> usize {
        self.endpoints.len() + self.interfaces.len()
    }
}

/// A migration to here that is not over, or whose elevated priority is not.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct MigrationView {
    /// Its uid.
    pub uid: String,
    /// Resource name of the endpoint that it comes from, if known.
    pub source: Option<String>,
    /// When each phase began, CLOCK_BOOTTIME in nanoseconds.
    pub phases: Phases,
}

/// What Felix has not programmed for an endpoint.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct FelixView {
    /// Each piece that is missing, such as `ipv4 chain to`.
    pub missing: Vec<String>,
    /// For how long the endpoint waits for it, if its tap exists.
    pub for_ms: Option<u64>,
}

/// One wanted route.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct RouteView {
    /// Destination prefix.
    pub destination: String,
    /// Metric.
    pub metric: u32,
}

impl EndpointView {
    /// The parts that come from the machine.
    pub(crate) fn describe(&mut self, machine: &Machine) {
        self.role = machine.role.to_string();
        self.state = machine.state;
        if machine.role != Role::None {
            self.migration_uid.clone_from(&machine.role_uid);
        } else if !machine.is_idle() {
            self.migration_uid.clone_from(&machine.uid);
        }
        self.not_here = machine.not_here;
        self.waits_for = machine.unresolved.map(|unresolved| waits_for(&unresolved).to_owned());
        // The same condition as for the record that is written when it is over.
        let is_under_way = machine.state != State::Base && machine.phases.targeted_at.is_some();
        self.migration = is_under_way.then(|| MigrationView {
            uid: machine.uid.clone(),
            source: machine.source.as_ref().map(ToString::to_string),
            phases: machine.phases,
        });
        self.announcement = machine.phases.kind.map(|kind| kind_name(kind).to_owned());
        self.announced_to_routed_ns = match (machine.phases.announced_at, machine.phases.routed_at) {
            (Some(announced), Some(routed)) => u64::try_from(routed.since(announced).as_nanos()).ok(),
            _ => None,
        };
    }
}

/// In words, for people.
const fn waits_for(unresolved: &Unresolved) -> &'static str {
    match unresolved.source_absent_since {
        None => "a frame of the virtual machine, or the end of the source's endpoint",
        Some(_) => "a frame of the virtual machine, or a write of its endpoint",
    }
}
