//! Felix beside the agent (`CutoverRole = routes`): what it has programmed, and whether the two get in each other's way.
//!
//! Reads only: nothing here changes a table of Felix's. [`Observer`] follows Felix's chains and tells the engine of each interface
//! that has some, `settings` and `program` read what Felix runs with and which version it is, `rivalry` finds out that both write routes.

mod backend;
mod legacy;
mod nf_tables;
mod observer;
mod program;
pub(crate) mod rivalry;
pub mod settings;

#[cfg(test)]
pub(crate) use nf_tables::fuzz_message as fuzz_nf_tables;
pub use observer::{Observer, Report, Running};
pub use program::{Origin as VersionOrigin, Version};

use crate::settings::Settings;
use std::path::Path;
use std::time::Duration;

/// Every Felix of the network namespace of the calling thread, with what it runs with.
#[must_use]
pub fn running(settings: &Settings) -> Vec<Running> {
    let shared = rivalry::Shared::of(settings);
    settings::running(Path::new("/proc")).iter().map(|felix| rivalry::settings_of(felix, shared)).collect()
}

/// Where Felix has chains, looked at once, in the network namespace of the calling thread.
///
/// # Errors
/// They cannot be seen.
pub fn look(within: Duration) -> Result<Report, String> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.map_err(|error| error.to_string())?.block_on(observer::look(within))
}
