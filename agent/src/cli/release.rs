//! `cutover release`: the operator's word that what the agent keeps is really gone.

use super::{ConfigFile, Failure, print, status};
use cutover_daemon::control;
use cutover_daemon::settings;

/// Arguments of `cutover release`.
#[derive(Debug, clap::Args)]
pub struct ReleaseArguments {
    /// Where the settings are.
    #[command(flatten)]
    pub file: ConfigFile,
    /// How many endpoints and interfaces cutover status shows as kept
    pub count: usize,
}

/// Tells the agent whose run directory the settings name.
///
/// # Errors
/// No agent answers, or it keeps another number of things than the operator has seen.
pub fn run(arguments: &ReleaseArguments) -> Result<(), Failure> {
    let run_dir = settings::load(&arguments.file.sources()?, &[]).settings.cutover_run_dir;
    let answer =
        control::release(&run_dir, arguments.count).map_err(|error| status::refused(&run_dir, &error))?;
    if answer.released {
        return print(&format!("released {}: their routes go\n", answer.kept));
    }
    Err(Failure::other(format!(
        "{} are kept now and not {}; nothing was released; see cutover status",
        answer.kept, arguments.count
    )))
}
