//! Felix beside the agent (`CutoverRole = routes`): what it has programmed, and whether the two get in each other's way.
//!
//! Reads only: nothing here changes a table of Felix's. [`Observer`] follows Felix's chains and tells the engine of each interface
//! that has some, `settings` reads what Felix runs with, `rivalry` finds out that both write routes.

mod backend;
mod legacy;
mod nf_tables;
mod observer;
pub(crate) mod rivalry;
pub mod settings;

pub use observer::{Observer, Report, Running};

use std::time::Duration;

/// Where Felix has chains, looked at once, in the network namespace of the calling thread.
///
/// # Errors
/// They cannot be seen.
pub fn look(within: Duration) -> Result<Report, String> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.map_err(|error| error.to_string())?.block_on(observer::look(within))
}
