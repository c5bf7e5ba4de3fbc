//! `cutover agent`.

use super::{ConfigFile, Failure, datastore_dir};

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
/// When it cannot start.
pub fn run(arguments: &AgentArguments) -> Result<(), Failure> {
    let loaded = arguments.file.load()?;
    datastore_dir(&loaded.settings)?;
    Err(Failure::other("the agent loop is not connected yet"))
}
