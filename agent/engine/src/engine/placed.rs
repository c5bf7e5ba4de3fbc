//! What an endpoint has got in the wanted sets, and why it did not get more.

use super::claims::Rank;
use crate::model::EndpointKey;
use crate::notice::Notice;
use crate::wanted::WantedRoute;
use ipnet::IpNet;
use std::collections::BTreeSet;
use std::sync::Arc;

/// What is noted about an endpoint, so that it can be taken back.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Placed {
    pub(super) rank: Rank,
    pub(super) interface: String,
    /// The interface with this number is set up, and perhaps watched, for it.
    pub(super) ifindex: Option<u32>,
    /// Number of the bridge that its routes lead to, if its tap is a port.
    pub(super) bridge: Option<u32>,
    /// The routes that it has or would have if nobody else came first.
    pub(super) routes: Vec<WantedRoute>,
    /// Those that it would have if its interface were not down.
    pub(super) suspended: Vec<WantedRoute>,
    /// What its watch would install.
    pub(super) watched: Vec<IpNet>,
    /// What of its prefixes others have before it does, if there is something to remember about it.
    pub(super) withheld: BTreeSet<IpNet>,
    pub(super) conflicts: Vec<Conflict>,
}

impl Placed {
    /// Whether somebody else has a route to this prefix, which it claims.
    pub(super) fn is_denied(&self, prefix: &IpNet) -> bool {
        let is_denied = |conflict: &Conflict| matches!(conflict, Conflict::Prefix { prefix: denied, .. } if denied == prefix);
        self.conflicts.iter().any(is_denied)
    }
}

/// What an endpoint would have if nobody else came first.
#[derive(Debug, Default)]
pub(super) struct Claims {
    /// Its routes.
    pub(super) routes: Vec<WantedRoute>,
    /// Those of an interface that is down.
    pub(super) suspended: Vec<WantedRoute>,
    /// The prefixes that it would claim after an announcement.
    pub(super) watched: Vec<IpNet>,
}

/// Why an endpoint does not get what it names.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Conflict {
    NotAWorkloadInterface,
    Interface { winner: Arc<EndpointKey> },
    Prefix { prefix: IpNet, winner: Arc<EndpointKey> },
}

impl Conflict {
    /// Whether somebody who knows of the one need not hear of the other.
    pub(super) fn is_same(&self, other: &Self, same_interface: bool) -> bool {
        match (self, other) {
            (Self::Prefix { prefix, .. }, Self::Prefix { prefix: other, .. }) => prefix == other,
            _ => same_interface && core::mem::discriminant(self) == core::mem::discriminant(other),
        }
    }

    pub(super) fn notice(&self, endpoint: &EndpointKey, interface: &str) -> Notice {
        let (endpoint, interface) = (endpoint.clone(), interface.to_owned());
        match self {
            Self::NotAWorkloadInterface => Notice::NotAWorkloadInterface { endpoint, interface },
            Self::Interface { winner } => {
                Notice::InterfaceConflict { endpoint, winner: EndpointKey::clone(winner), interface }
            }
            Self::Prefix { prefix, winner } => {
                Notice::PrefixConflict { endpoint, winner: EndpointKey::clone(winner), prefix: *prefix }
            }
        }
    }
}
