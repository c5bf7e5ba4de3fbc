//! `cutover cleanup`.

use super::{ConfigFile, Failure};

/// Arguments of `cutover cleanup`.
#[derive(Debug, clap::Args)]
pub struct CleanupArguments {
    /// Where the settings are.
    #[command(flatten)]
    pub file: ConfigFile,
    /// Only list what would be removed
    #[arg(long)]
    pub dry_run: bool,
    /// Print JSON instead of lines
    #[arg(long)]
    pub json: bool,
}

/// Removes what the agent left.
///
/// # Errors
/// When something could not be removed.
pub fn run(arguments: &CleanupArguments) -> Result<(), Failure> {
    arguments.file.load()?;
    Err(Failure::other("cleanup is not connected yet"))
}
