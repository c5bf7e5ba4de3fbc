//! Talking rtnetlink: what the kernel holds, and how to change it.
//!
//! Owns every rtnetlink socket of the agent and the translation between kernel messages and the engine's
//! vocabulary. It decides nothing: the appliers and the fast path say what to write ([`batch`], [`socket`]),
//! and [`monitor`] tells them and the engine what is there.

mod address;
pub(crate) mod attributes;
pub mod batch;
pub(crate) mod clsact;
mod dump;
mod events;
mod family;
mod filter;
#[cfg(test)]
pub(crate) mod fuzz;
mod inquiry;
mod ipv6;
pub mod link;
pub mod listeners;
mod mirror;
pub mod monitor;
pub mod neighbour;
pub(crate) mod netfilter;
pub(crate) mod notrack;
pub mod policy;
pub(crate) mod queue;
pub mod route;
pub mod snapshot;
pub mod socket;
mod socket_filter;
pub(crate) mod subscriber;
mod table;
pub(crate) mod underlay;
pub(crate) mod vxlan;
mod walk;
mod witness;

pub use batch::PreparedBatch;
pub use clsact::ClsactError;
pub use events::{MonitorSettings, NeighbourEvent, Owner, RECEIVE_BUFFER_BYTES, RouteEvent, Streams};
pub use family::{ByFamily, Family};
pub(crate) use link::exists as link_exists;
pub use monitor::{Monitor, MonitorHandle};
pub use neighbour::{Neighbour, NeighbourChange, NeighbourKey};
pub use route::{ObservedRoute, RouteChange, RouteSeen};
pub use socket::{Failure, Outcome, RouteSocket};
