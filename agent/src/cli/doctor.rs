//! `cutover doctor`: whether this host is fit for live migrations, and what to change.

use super::check_config::with_resources;
use super::{ConfigFile, Failure, print};
use crate::doctor::{self, Configuration, Files, Level, Report, Subject, reference};
use cutover_daemon::settings::{Severity, Sources};
use std::path::{Path, PathBuf};

/// Arguments of `cutover doctor`.
#[derive(Debug, clap::Args)]
#[command(after_help = EXIT_CODES)]
pub struct DoctorArguments {
    /// Where the settings are.
    #[command(flatten)]
    pub file: ConfigFile,
    /// Nova's configuration; several in the order in which Nova reads them [default: those of the running nova-compute, else
    /// /etc/nova/nova.conf and other usual places]
    #[arg(long, value_name = "FILE")]
    pub nova_conf: Vec<PathBuf>,
    /// BIRD's configuration; several for the two daemons of BIRD 1 [default: that of the running daemon, else /etc/bird/bird.conf]
    #[arg(long, value_name = "FILE")]
    pub bird_conf: Vec<PathBuf>,
    /// FRR's configuration [default: what vtysh says if it runs, else /etc/frr/frr.conf]
    #[arg(long, value_name = "FILE")]
    pub frr_conf: Option<PathBuf>,
    /// The BIRD that rehearses the configuration [default: the one that runs, else the one that is installed]
    #[arg(long, value_name = "PROGRAM")]
    pub bird: Option<PathBuf>,
    /// The folder of the FRR that rehearses the configuration [default: that of the one that runs, else /usr/lib/frr]
    #[arg(long, value_name = "FOLDER")]
    pub frr_dir: Option<PathBuf>,
    /// Check the host for running beside Calico's Felix (CutoverRole = routes), whatever the settings say yet
    #[arg(long)]
    pub beside_felix: bool,
    /// Print JSON instead of a table
    #[arg(long)]
    pub json: bool,
    /// Print the reference page of all checks
    #[arg(long, hide = true, conflicts_with = "json")]
    pub markdown: bool,
}

const EXIT_CODES: &str = "Exit codes: 0 nothing found that is an error, 1 errors found, 64 wrong usage, 77 no errors found, but \
not everything could be seen without root, 78 the agent would not start with these settings.";

/// Looks at everything and prints what it found.
///
/// # Errors
/// When something of level error was found, or not everything could be looked at.
pub fn run(arguments: &DoctorArguments) -> Result<(), Failure> {
    if arguments.markdown {
        return print(&reference::markdown());
    }
    let configuration = match Sources::read(arguments.file.config.as_deref()) {
        Ok(sources) => {
            let (loaded, unusable_resources) = with_resources(&sources);
            Configuration::Read { loaded: Box::new(loaded), unusable_resources }
        }
        Err(error) => Configuration::Unreadable { reason: error.to_string() },
    };
    let is_startable = match &configuration {
        Configuration::Read { loaded, .. } => {
            loaded.problems.iter().all(|problem| problem.severity != Severity::Fatal)
        }
        Configuration::Unreadable { .. } => false,
    };
    let report = doctor::examine(&Subject {
        configuration,
        beside_felix: arguments.beside_felix,
        nova_conf: arguments.nova_conf.clone(),
        bgp: Files {
            bird: arguments.bird_conf.clone(),
            frr: arguments.frr_conf.clone(),
            bird_program: arguments.bird.as_deref().map(whole),
            frr_folder: arguments.frr_dir.as_deref().map(whole),
        },
    });
    print(&if arguments.json { format!("{:#}\n", report.json()) } else { report.table() })?;
    conclude(&report, is_startable)
}

/// A program that is not looked for in the folders of programs.
fn whole(path: &Path) -> PathBuf {
    let is_looked_for = path.components().count() < 2;
    let whole = if is_looked_for { None } else { std::path::absolute(path).ok() };
    whole.unwrap_or_else(|| path.to_owned())
}

fn conclude(report: &Report, is_startable: bool) -> Result<(), Failure> {
    let errors = report.count(Level::Error);
    let advice = "each finding says what to change";
    if !is_startable {
        return Err(Failure::configuration(format!(
            "the agent would not start with these settings; {advice}"
        )));
    }
    if errors > 0 {
        let plural = if errors == 1 { "" } else { "s" };
        return Err(Failure::other(format!("{errors} error{plural} found; {advice}")));
    }
    if report.findings().iter().any(doctor::Finding::is_for_lack_of_privilege) {
        return Err(Failure::privilege(
            "no errors found, but not everything could be looked at; run it as root",
        ));
    }
    Ok(())
}
