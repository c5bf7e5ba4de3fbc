//! `cutover agent`: the daemon in the foreground.

use super::{ConfigFile, Failure, datastore_dir};
use crate::agent::{self, RunError};
use crate::logging::one_line;

/// Arguments of `cutover agent`.
#[derive(Debug, clap::Args)]
pub struct AgentArguments {
    /// Where the settings are.
    #[command(flatten)]
    pub file: ConfigFile,
}

/// Runs the agent until it is told to stop.
///
/// # Errors
/// When it cannot start or cannot go on.
pub fn run(arguments: &AgentArguments) -> Result<(), Failure> {
    let sources = arguments.file.sources()?;
    let loaded = arguments.file.load()?;
    datastore_dir(&loaded.settings)?;
    if !nix::unistd::geteuid().is_root() {
        return Err(Failure::privilege("the agent changes routes and loads BPF programs; run it as root"));
    }
    // Two threads: the loop must go on while an applier is inside a long system call.
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .thread_name("cutover")
        .enable_all()
        .build()
        .map_err(|error| Failure::other(format!("cannot start the runtime: {error}")))?;
    let result = runtime.block_on(agent::run(arguments.file.config.clone(), sources, loaded));
    // Appliers in the middle of a system call are not waited for: whatever they leave half done is reconciled.
    runtime.shutdown_background();
    result.map_err(|error| match error {
        RunError::RunDir(_) => Failure::unavailable(error.to_string()),
        _ => Failure::other(one_line(&error).to_string()),
    })
}
