//! What has to survive the death of the agent, and what is found in the kernel when it starts again.

use crate::machine::Machine;
use crate::model::{Endpoint, EndpointKey};
use crate::wanted::WantedRoute;
use cutover_common::MacAddr;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

/// The memory of every machine that is not idle, and every endpoint that is held. The agent keeps it in a file.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Memory {
    /// One entry for each endpoint that has something to remember.
    pub endpoints: Vec<Remembered>,
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
}

/// What the kernel still has from the agent's last life.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Found {
    /// Watches by ifindex: their generation and the hardware address that they are for.
    pub watches: BTreeMap<u32, (u64, MacAddr)>,
    /// Routes to workload interfaces, of every protocol and metric: which of them are ours and elevated is for the
    /// settings to say, and those of the datastore are not known yet.
    pub routes: BTreeSet<WantedRoute>,
}
