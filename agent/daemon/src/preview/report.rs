//! The report: plain values, for people and programs.

use crate::clock;
use crate::control::Losses;
use crate::felix::Running;
use crate::settings::Settings;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::net::IpAddr;

/// Changes when a program that reads the report has to be changed.
pub const SCHEMA: u32 = 1;

/// What would change, and what there is to know before it does.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Report {
    /// [`SCHEMA`].
    pub schema: u32,
    /// When that was so: one look, and things may have changed since.
    pub taken_at: String,
    /// This host's name, by which it looks for its endpoints.
    pub hostname: String,
    /// `full` or `routes`.
    pub role: String,
    /// Version of the agent that would do it.
    pub version: String,
    /// The agent that runs with this run directory, by its process.
    pub agent: Option<u32>,
    /// Every Felix that runs here.
    pub felix: Vec<Running>,
    /// Whether all of the datastore could be read. If not, nothing that is left over is removed.
    pub complete: bool,
    /// What of the datastore could not be read, by name, each with the reason.
    pub quarantine: BTreeMap<String, String>,
    /// Settings of the datastore that forbid taking over what it says about settings.
    pub refused_settings: Vec<String>,
    /// How many endpoints of this host the datastore has.
    pub endpoints: usize,
    /// Routes that are wanted and there already, which nobody touches.
    pub routes_kept: usize,
    /// Routes that would be written, in this order.
    pub routes: Vec<RouteWrite>,
    /// After how many seconds that is done which is done later (`CutoverEndpointGrace`).
    pub grace_seconds: f64,
    /// Permanent neighbours that would be written.
    pub neighbours: Vec<NeighbourWrite>,
    /// Settings that would be written.
    pub sysctls: Vec<SysctlWrite>,
    /// Interfaces, and `host`, that could not be set up or not completely, each with the reason.
    pub unprepared: BTreeMap<String, String>,
    /// Interfaces that would get a program that waits for their VM, because it is on its way here.
    pub watches: Vec<String>,
    /// Endpoints of this host whose interface does not exist: they get no route before it does.
    pub endpoints_without_interface: Vec<Absent>,
    /// Interfaces with the name of a VM's that no endpoint of this host has.
    pub interfaces_without_endpoint: Vec<Alone>,
    /// Routes of others to addresses of VMs of this host, which are used instead of the agent's.
    pub in_the_way: Vec<InTheWay>,
    /// What would be kept although the datastore does not show it, until `cutover release` confirms that it is gone.
    pub losses: Losses,
}

impl Report {
    pub(super) fn of(settings: &Settings) -> Self {
        Self {
            schema: SCHEMA,
            taken_at: clock::wall_text(),
            hostname: settings.felix_hostname.clone(),
            role: settings.cutover_role.word().to_owned(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            agent: None,
            felix: Vec::new(),
            complete: false,
            quarantine: BTreeMap::new(),
            refused_settings: Vec::new(),
            endpoints: 0,
            routes_kept: 0,
            routes: Vec::new(),
            grace_seconds: settings.cutover_endpoint_grace.as_secs_f64(),
            neighbours: Vec::new(),
            sysctls: Vec::new(),
            unprepared: BTreeMap::new(),
            watches: Vec::new(),
            endpoints_without_interface: Vec::new(),
            interfaces_without_endpoint: Vec::new(),
            in_the_way: Vec::new(),
            losses: Losses::default(),
        }
    }

    /// How many changes would be made.
    #[must_use]
    pub const fn changes(&self) -> usize {
        self.routes.len() + self.neighbours.len() + self.sysctls.len() + self.watches.len()
    }

    /// Whether nothing would change, and nothing is kept that somebody has to decide about.
    #[must_use]
    pub const fn is_settled(&self) -> bool {
        self.changes() == 0 && self.losses.view.count() == 0
    }
}

/// What is done to something.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Write {
    /// It is made.
    Add,
    /// It takes the place of another one.
    Replace,
    /// It is removed.
    Remove,
}

/// A route.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct RouteText {
    /// Destination prefix.
    pub destination: String,
    /// Name of the outgoing interface, or its number if it has no name.
    pub interface: String,
    /// Metric.
    pub metric: u32,
    /// Number of the protocol: who made it, or would.
    pub protocol: u8,
    /// Source address.
    pub source: Option<IpAddr>,
}

/// A change of a route.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct RouteWrite {
    /// What is done.
    pub write: Write,
    /// The route that is made, or removed.
    #[serde(flatten)]
    pub route: RouteText,
    /// Of whom it takes the place.
    pub in_place_of: Option<RouteText>,
    /// Not at once, but when the grace time is over.
    pub is_later: bool,
}

/// A change of a permanent neighbour.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct NeighbourWrite {
    /// What is done.
    pub write: Write,
    /// The address.
    pub address: IpAddr,
    /// Name of its interface.
    pub interface: String,
    /// Hardware address that it gets.
    pub mac: Option<String>,
    /// Hardware address that it has.
    pub is: Option<String>,
}

/// A change of a sysctl.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct SysctlWrite {
    /// As sysctl(8) takes it, with slashes: names of interfaces may have dots.
    pub name: String,
    /// What it is.
    pub is: String,
    /// What it would be.
    pub to_be: String,
}

/// An endpoint without an interface.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Absent {
    /// Its name.
    pub endpoint: String,
    /// The name of the interface that it has in the datastore.
    pub interface: String,
}

/// An interface without an endpoint.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Alone {
    /// Its name.
    pub interface: String,
    /// Something is at its other end.
    pub has_carrier: bool,
    /// Routes to it with the agent's protocol.
    pub routes: usize,
}

/// A route of somebody else.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct InTheWay {
    /// Destination prefix.
    pub destination: String,
    /// Name of the outgoing interface; nothing if there are several.
    pub interface: Option<String>,
    /// The next hop, if it is a router.
    pub gateway: Option<IpAddr>,
    /// Its metric.
    pub metric: u32,
    /// Its protocol.
    pub protocol: u8,
    /// The metric of the agent's.
    pub wanted_metric: u32,
}
