//! What the agents of the two hosts of a migration tell each other.
//!
//! Each side says how things stand, whole and again whenever that changes, so what is late, lost or said twice does no harm.

use crate::model::EndpointKey;
use serde::{Deserialize, Serialize};

/// A conversation that this host wants to have about one of its endpoints.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct WantedConversation {
    /// The migration that it is about. Another migration is another conversation.
    pub uid: String,
    /// The endpoint at the other end; its host's agent is the peer.
    pub peer: EndpointKey,
    /// How things stand here. The target's agent asks the source's.
    pub says: Says,
    /// At the source: number of the tap that is about to be left. When its last frame came is told as soon as the virtual machine has
    /// announced itself at the target.
    pub tap: Option<u32>,
    /// At the target: the generation of the watch whose announcement is to be told at once, as if the engine had said it.
    pub announced_by: Option<u64>,
}

/// How things stand at one end of a migration.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Says {
    /// Where the virtual machine leaves.
    Source(SourceSays),
    /// Where it goes.
    Target(TargetSays),
}

/// How things stand where a virtual machine leaves.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct SourceSays {
    /// It does not run here any more, and nobody knows yet whether it runs there.
    pub is_stopped: bool,
    /// What still comes here for it is forwarded.
    pub is_forwarding: bool,
}

/// How things stand where a virtual machine goes.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct TargetSays {
    /// Identifier of the tunnel (VNI, 24 bits).
    pub tunnel_id: u32,
    /// What comes out of the tunnel reaches the tap.
    pub is_ready: bool,
    /// The virtual machine has announced itself here.
    pub is_announced: bool,
    /// The migration is over, and the virtual machine is not here.
    pub has_failed: bool,
}
