//! Every decision of Cutover, and nothing else.
//!
//! Facts go in (resources of the datastore, links, announcements, time), wanted sets come out (routes,
//! watches, interfaces, statuses) together with the next deadline. There is no clock, no I/O, no thread and
//! no lock here, so the whole machine runs in tests in milliseconds. The agent feeds it; appliers compare the
//! wanted sets with what the kernel and the datastore really hold.
//!
//! The parts, in the order in which data flows: [`model`] (resources), [`roles`] (no memory), [`machine`]
//! (the only memory), [`engine`] (puts them together), [`wanted`] (what comes out), [`notice`] (what to log).

pub mod chains;
pub mod conversation;
pub mod engine;
pub mod fact;
mod interface_prefix;
mod labels;
pub mod machine;
pub mod memory;
pub mod model;
pub mod notice;
pub mod roles;
pub mod selector;
pub mod shared;
pub mod time;
pub mod view;
pub mod wanted;

pub use engine::Engine;
pub use fact::Fact;
pub use interface_prefix::InterfacePrefixes;
pub use model::{Endpoint, EndpointKey, LiveMigration};
pub use notice::Notice;
pub use time::BootTime;
pub use wanted::Wanted;
