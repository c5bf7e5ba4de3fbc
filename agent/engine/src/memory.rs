//! What has to survive the death of the agent, and what is found in the kernel when it starts again.

use crate::machine::Machine;
use crate::model::{Endpoint, EndpointKey};
use crate::time::BootTime;
use crate::wanted::{Tunnel, WantedRoute};
use cutover_common::MacAddr;
use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

/// The memory of every machine that is not idle, and every endpoint that is held. The agent keeps it in a file.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Memory {
    /// One entry for each endpoint that has something to remember.
    pub endpoints: Vec<Remembered>,
    /// Ports that were here, or on their way here, and have migrated a moment ago.
    #[serde(default)]
    pub aftermaths: Vec<Aftermath>,
    /// Statuses of other hosts, of ports that are here or were: what of them is gone at the next start was removed meanwhile.
    #[serde(default)]
    pub statuses_elsewhere: Vec<StatusElsewhere>,
    /// Virtual machines that are leaving or have left.
    #[serde(default)]
    pub departures: Vec<Departure>,
    /// Virtual machines that are arriving or have arrived.
    #[serde(default)]
    pub arrivals: Vec<Arrival>,
}

impl Memory {
    /// Endpoints of other hosts that have to be followed from the start.
    pub fn others(&self) -> impl Iterator<Item = &EndpointKey> {
        let sources = self.endpoints.iter().filter_map(|entry| entry.machine.source.as_ref());
        let sources = sources.chain(self.departures.iter().map(|departure| &departure.to));
        sources.chain(self.aftermaths.iter().flat_map(|aftermath| &aftermath.lives_on))
    }
}

/// A port after its migration.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Aftermath {
    /// The endpoint that this host has, had or would have.
    pub port: EndpointKey,
    /// When something happened to the port last.
    pub since: BootTime,
    /// When the host where it lives has reported `up` first, if it has since the migration.
    pub reported_at: Option<BootTime>,
    /// The highest revision of another host's status when the migration ended: what was reported up to it was reported before.
    #[serde(default)]
    pub reported_before: i64,
    /// The endpoints that the migration was about. What happens to others says nothing of where the port lives.
    #[serde(default)]
    pub sides: BTreeSet<EndpointKey>,
    /// The uid of the migration.
    pub uid: String,
    /// This host had a part in it.
    #[serde(default)]
    pub is_ours: bool,
    /// The port's endpoints on other hosts.
    pub lives_on: BTreeSet<EndpointKey>,
}

impl Aftermath {
    /// Whether this endpoint may be the one where the port lives. Memories of before do not know the sides, and a migration may name
    /// one only.
    pub(crate) fn is_about(&self, endpoint: &EndpointKey) -> bool {
        self.sides.len() < 2 || self.sides.contains(endpoint)
    }
}

/// A status that another host has reported.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct StatusElsewhere {
    /// Of which endpoint.
    pub endpoint: EndpointKey,
    /// Which write of it was seen last; the datastore's number, 0 if it is not known.
    pub revision: i64,
}

/// A virtual machine that is leaving an endpoint of this host, or has left it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Departure {
    /// What it leaves.
    pub endpoint: EndpointKey,
    /// The migration.
    pub uid: String,
    /// Where it goes.
    pub to: EndpointKey,
    /// When the migration was seen.
    pub began_at: BootTime,
    /// What is routed to it.
    pub prefixes: BTreeSet<IpNet>,
    /// The way to where it goes, once its agent has said so.
    pub tunnel: Option<Tunnel>,
    /// What comes out of the tunnel there reaches the tap.
    pub is_ready: bool,
    /// Since when the peer has said that it is not, while packets are forwarded.
    pub is_unready_since: Option<BootTime>,
    /// It has announced itself there.
    pub is_announced: bool,
    /// When it stopped here.
    pub stopped_at: Option<BootTime>,
    /// Somebody has said that it goes on here, whatever the peer says.
    pub has_resumed: bool,
    /// Since when what still comes here is forwarded.
    pub started_at: Option<BootTime>,
    /// When this is over. Not before the migration is.
    pub ends_at: Option<BootTime>,
    /// Number of its tap, as long as there has been one.
    #[serde(default)]
    pub tap: Option<u32>,
    /// For the record: when this migration was seen, which another one may have begun before.
    #[serde(default)]
    pub seen_at: Option<BootTime>,
    /// For the record: when it was heard that it has announced itself there.
    #[serde(default)]
    pub heard_at: Option<BootTime>,
    /// For the record: when something was forwarded for the first time.
    #[serde(default)]
    pub forwarded_at: Option<BootTime>,
}

/// A virtual machine that is arriving at an endpoint of this host, or has arrived.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Arrival {
    /// Where it arrives.
    pub endpoint: EndpointKey,
    /// The migration.
    pub uid: String,
    /// Where it comes from.
    pub from: EndpointKey,
    /// When it was first expected.
    pub began_at: BootTime,
    /// What may come out of the tunnel for it, as of when that was known last.
    #[serde(default)]
    pub prefixes: BTreeSet<IpNet>,
    /// Tracked connections have been made for it.
    #[serde(default)]
    pub has_connections: bool,
    /// Identifier of the tunnel (VNI).
    pub tunnel_id: u32,
    /// The source's end of the tunnel, once its agent has said so.
    pub peer: Option<IpAddr>,
    /// What comes out of the tunnel reaches the tap. Not known of the last life.
    #[serde(skip)]
    pub is_ready: bool,
    /// When this host heard that it has stopped there.
    pub stopped_at: Option<BootTime>,
    /// When this host heard that what still comes there is forwarded.
    pub forwarded_at: Option<BootTime>,
    /// It has announced itself here, or is known to run here in another way.
    pub is_announced: bool,
    /// It is not here, and the peer is to know.
    pub has_failed: bool,
    /// When this is over.
    pub ends_at: Option<BootTime>,
}

/// One endpoint with something to remember.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Remembered {
    /// Which endpoint.
    pub key: EndpointKey,
    /// What it looked like, so that it can be held if the datastore does not show it at the next start.
    pub endpoint: Endpoint,
    /// Its machine.
    pub machine: Machine,
    /// It was seen being deleted, and held since.
    #[serde(default)]
    pub was_deleted: bool,
    /// What of its prefixes another endpoint of this host has, or would have, before it does; all of them if its tap is
    /// another's. The other one may have nothing to remember.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub withheld: BTreeSet<IpNet>,
}

/// What the kernel still has from the agent's last life.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct LeftBehind {
    /// Watches by ifindex: their generation and the hardware address that they are for.
    pub watches: BTreeMap<u32, (u64, MacAddr)>,
    /// Routes to workload interfaces, of every protocol and metric: which of them are ours and elevated is for the
    /// settings to say, and those of the datastore are not known yet.
    pub routes: BTreeSet<WantedRoute>,
}
