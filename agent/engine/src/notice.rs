//! What the engine has to say to people. The agent turns it into log lines and records.

use crate::chains::Chains;
use crate::machine::{Phases, Transition};
use crate::model::{EndpointKey, LiveMigration};
use crate::roles::Role;
use crate::time::BootTime;
use ipnet::IpNet;
use serde::{Deserialize, Serialize};

/// Something worth a line in the log.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Notice {
    /// A LiveMigration is new, or says something else than before.
    MigrationWritten {
        /// Its name.
        name: String,
        /// What it says.
        migration: LiveMigration,
    },
    /// A LiveMigration is gone.
    MigrationRemoved {
        /// Its name.
        name: String,
        /// Its uid.
        uid: String,
    },
    /// An endpoint of this host plays another part, or the same in another migration.
    RoleEmitted {
        /// Which endpoint.
        endpoint: EndpointKey,
        /// Its part.
        role: Role,
        /// In which migration.
        uid: String,
    },
    /// A machine changed its state.
    Transition {
        /// Whose machine.
        endpoint: EndpointKey,
        /// From where to where, and why.
        transition: Transition,
    },
    /// The migration to an endpoint is gone and nobody can tell how it ended.
    Unresolved {
        /// Which endpoint.
        endpoint: EndpointKey,
        /// Which migration.
        uid: String,
        /// The endpoint that it came from is still there: nothing but evidence ends the waiting.
        source_present: bool,
    },
    /// An endpoint vanished from the datastore while its tap exists; it is held.
    Held {
        /// Which endpoint.
        endpoint: EndpointKey,
    },
    /// A held endpoint came back in time.
    Returned {
        /// Which endpoint.
        endpoint: EndpointKey,
    },
    /// An endpoint is gone for good.
    Removed {
        /// Which endpoint.
        endpoint: EndpointKey,
    },
    /// The datastore does not show any more what most probably runs here; it is kept.
    LossSuspected {
        /// How many endpoints.
        endpoints: usize,
        /// How many interfaces with routes of an earlier life.
        interfaces: usize,
    },
    /// Nothing of that kind is kept any more: it is back, it has gone by itself, or somebody said that it is gone.
    LossSettled,
    /// Two endpoints of this host claim one interface.
    InterfaceConflict {
        /// The one that gets nothing until the other is gone.
        endpoint: EndpointKey,
        /// The one that has it.
        winner: EndpointKey,
        /// The interface.
        interface: String,
    },
    /// The interface of an endpoint has none of the prefixes of workload interfaces: it gets nothing.
    NotAWorkloadInterface {
        /// Which endpoint.
        endpoint: EndpointKey,
        /// The interface that it names.
        interface: String,
    },
    /// Two endpoints of this host claim one prefix at one metric.
    PrefixConflict {
        /// The one that does not get the route.
        endpoint: EndpointKey,
        /// The one that has it.
        winner: EndpointKey,
        /// The prefix.
        prefix: IpNet,
    },
    /// An endpoint has waited for Felix's chains for long; it is not up before they are there.
    ChainsMissing {
        /// Which endpoint.
        endpoint: EndpointKey,
        /// Its tap.
        interface: String,
        /// What is not there.
        missing: Chains,
    },
    /// So have many at once.
    ChainsMissingOfMany {
        /// How many.
        count: usize,
    },
    /// An endpoint of which [`Notice::ChainsMissing`] was said has its chains.
    ChainsComplete {
        /// Which endpoint.
        endpoint: EndpointKey,
    },
    /// What still comes for a virtual machine is forwarded to where it goes.
    ForwardStarted {
        /// The endpoint that it leaves.
        endpoint: EndpointKey,
        /// Where it goes.
        to: EndpointKey,
        /// The migration.
        uid: String,
        /// It has stopped here, and not announced itself there: packets wait in the queue of its tap.
        is_held: bool,
    },
    /// It has been held long enough that a virtual machine which has stopped announces itself somewhere: it counts as one that runs here.
    HoldGivenUp {
        /// The endpoint that it was to leave.
        endpoint: EndpointKey,
        /// The migration.
        uid: String,
    },
    /// Nothing is forwarded any more.
    ForwardEnded {
        /// The endpoint that it leaves.
        endpoint: EndpointKey,
        /// The migration.
        uid: String,
    },
    /// A migration that concerned an endpoint of this host as its target is over.
    Finished(Box<MigrationRecord>),
    /// A virtual machine that was to leave an endpoint of this host has left, or does not leave any more.
    Departed {
        /// What remains of it.
        record: Box<DepartureRecord>,
        /// Number of the tap that it was to leave: whoever has noted its last frame puts that into the record.
        tap: Option<u32>,
    },
}

/// What remains of a migration to this host.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct MigrationRecord {
    /// Its uid.
    pub uid: String,
    /// Which endpoint it moved to.
    pub endpoint: String,
    /// Where it came from, if known.
    pub source: Option<String>,
    /// Whether the virtual machine was taken to have arrived.
    pub arrived: bool,
    /// When each phase began, CLOCK_BOOTTIME in nanoseconds.
    pub phases: Phases,
}

/// What remains of a migration away from this host. Times are CLOCK_BOOTTIME in nanoseconds.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct DepartureRecord {
    /// Its uid.
    pub uid: String,
    /// Which endpoint the virtual machine was to leave.
    pub endpoint: String,
    /// Where it was to go.
    pub to: String,
    /// The migration was seen here.
    pub began_at: BootTime,
    /// This host heard that the virtual machine has stopped here.
    pub stopped_at: Option<BootTime>,
    /// This host heard that it has announced itself there.
    pub heard_at: Option<BootTime>,
    /// What still came here was forwarded for the first time.
    pub forwarded_at: Option<BootTime>,
    /// The last frame came from its tap.
    #[serde(default)]
    pub last_frame_at: Option<BootTime>,
    /// Nothing is left to be done here.
    pub ended_at: BootTime,
}
