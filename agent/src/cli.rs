//! The command line: what there is to say, and how every command ends.
//!
//! Owns the arguments, the exit codes and the one line that an error is. What a command does is in its own file.

pub mod agent;
pub mod bgp;
pub mod check_config;
pub mod cleanup;
pub mod doctor;
mod failure;
pub mod libvirt;
pub mod migrate;
mod pages;
pub mod release;
pub mod status;
mod store;
pub mod timeline;
pub mod watch;

pub use failure::Failure;

use crate::doctor::rehearsal;
use clap::error::ErrorKind;
use clap::{Args, Parser, Subcommand};
use cutover_daemon::datastore::etcd::{Cluster, ClusterError};
use cutover_daemon::libvirt as events;
use cutover_daemon::settings::{DatastoreType, FelixConfiguration, Loaded, Settings, Sources, load};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// The route follows the virtual machine: data-plane agent for live migration on L3-routed hosts.
#[derive(Debug, Parser)]
#[command(name = "cutover", version, after_help = EXIT_CODES)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

const EXIT_CODES: &str = "Exit codes: 0 success, 1 failure, 64 wrong usage, 69 something needed is not available, \
77 a privilege is missing, 78 wrong configuration.";

#[derive(Debug, Subcommand)]
enum Command {
    /// Runs the agent in the foreground; it logs to standard error
    Agent(agent::AgentArguments),
    /// Shows endpoints, roles, states, routes and watches of the running agent
    Status(status::StatusArguments),
    /// Shows the same live in the terminal, migrating endpoints first
    Watch(watch::WatchArguments),
    /// Shows finished and running migrations to this host with the time of every phase
    Timeline(timeline::TimelineArguments),
    /// Plays the orchestrator's part in a migration
    Migrate(migrate::MigrateArguments),
    /// Plays the orchestrator's part where libvirt is the only one: what its hook calls, and what ends migrations
    Libvirt(libvirt::LibvirtArguments),
    /// Prints a configuration of the BGP daemon that carries route priority to the other hosts
    Bgp(bgp::BgpArguments),
    /// Shows the effective settings with the source of each, and every problem
    CheckConfig(check_config::CheckConfigArguments),
    /// Checks kernel, settings, datastore, network, BGP daemon and Nova of this host, and says what to change
    Doctor(doctor::DoctorArguments),
    /// Confirms that endpoints which vanished all at once, and are kept, are really gone
    Release(release::ReleaseArguments),
    /// Removes everything that the agent left in the kernel and on disk
    Cleanup(cleanup::CleanupArguments),
    /// What the doctor starts itself as
    #[command(name = rehearsal::COMMAND, hide = true)]
    Rehearse,
    /// What `cargo xtask dist` calls
    #[command(name = "write-pages", hide = true)]
    WritePages {
        /// An empty folder
        folder: PathBuf,
    },
    /// What the agent starts itself as to listen to libvirt
    #[command(name = events::COMMAND, hide = true)]
    LibvirtEvents {
        /// libvirt's name for the hypervisor
        uri: String,
    },
}

/// The configuration file, which every command takes.
#[derive(Clone, Debug, Default, Args)]
pub struct ConfigFile {
    /// Configuration file [default: /etc/calico/felix.cfg, which need not exist]
    #[arg(short, long = "config-file", value_name = "FILE")]
    pub config: Option<PathBuf>,
}

impl ConfigFile {
    /// Reads environment and file.
    ///
    /// # Errors
    /// When the file cannot be read or parsed.
    pub fn sources(&self) -> Result<Sources, Failure> {
        Sources::read(self.config.as_deref()).map_err(|error| Failure::configuration(error.to_string()))
    }

    /// Reads environment and file, without any resources, and accepts them only if the agent could start with them.
    ///
    /// # Errors
    /// When the file cannot be read or parsed, or a value stops the start.
    pub fn load(&self) -> Result<Loaded, Failure> {
        accept(load(&self.sources()?, NO_RESOURCES))
    }
}

const NO_RESOURCES: &[FelixConfiguration] = &[];

/// Passes settings on unless one of their problems stops the start.
///
/// # Errors
/// The first such problem.
pub fn accept(loaded: Loaded) -> Result<Loaded, Failure> {
    let stop = loaded.fatal().next().map(|problem| Failure::configuration(problem.to_string()));
    stop.map_or(Ok(loaded), Err)
}

/// Where the resources are.
#[derive(Debug)]
pub enum DatastorePlace<'settings> {
    /// A directory of files.
    Directory(&'settings Path),
    /// An etcd cluster.
    Cluster(Cluster),
}

/// Where the resources are, as the settings say.
///
/// # Errors
/// When a file that etcd's TLS needs is missing or unusable, or half of a pair is not set.
pub fn datastore(settings: &Settings) -> Result<DatastorePlace<'_>, Failure> {
    match settings.datastore_type {
        DatastoreType::Dir => Ok(DatastorePlace::Directory(&settings.cutover_datastore_dir)),
        DatastoreType::Etcdv3 => {
            Cluster::new(settings).map(DatastorePlace::Cluster).map_err(|error| cluster_failure(&error))
        }
    }
}

/// What may pass is tried again by the service manager; what is wrong has to be corrected first.
fn cluster_failure(error: &ClusterError) -> Failure {
    if error.may_pass() {
        Failure::unavailable(error.to_string())
    } else {
        Failure::configuration(error.to_string())
    }
}

/// The directory of resource files, for a command that edits them.
///
/// # Errors
/// When the settings name another kind of datastore.
pub fn datastore_dir(settings: &Settings) -> Result<&Path, Failure> {
    match datastore(settings)? {
        DatastorePlace::Directory(directory) => Ok(directory),
        DatastorePlace::Cluster(_) => Err(Failure::configuration(
            "DatastoreType is etcdv3, but this command knows only the directory datastore; \
             set DatastoreType = dir in the configuration file, or FELIX_DATASTORETYPE=dir",
        )),
    }
}

/// Runs the command that the arguments name.
pub fn main() -> ExitCode {
    let result = match Arguments::try_parse() {
        Ok(Arguments { command: Command::LibvirtEvents { uri } }) => return events::helper::run(&uri),
        Ok(arguments) => run(&arguments.command),
        Err(error) if matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion) => {
            print(&error.render().to_string())
        }
        Err(error) => Err(Failure::usage(one_line(&error))),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            // Nobody is left to tell if standard error is closed.
            let _ = writeln!(io::stderr(), "cutover: {failure}");
            failure.exit_code()
        }
    }
}

fn run(command: &Command) -> Result<(), Failure> {
    match command {
        Command::Agent(arguments) => agent::run(arguments),
        Command::Status(arguments) => status::run(arguments),
        Command::Watch(arguments) => watch::run(arguments),
        Command::Timeline(arguments) => timeline::run(arguments),
        Command::Migrate(arguments) => migrate::run(arguments),
        Command::Libvirt(arguments) => libvirt::run(arguments),
        Command::Bgp(arguments) => bgp::run(arguments),
        Command::CheckConfig(arguments) => check_config::run(arguments),
        Command::Doctor(arguments) => doctor::run(arguments),
        Command::Release(arguments) => release::run(arguments),
        Command::Cleanup(arguments) => cleanup::run(arguments),
        Command::Rehearse => rehearsal::perform().map_err(|error| Failure::other(error.to_string())),
        Command::WritePages { folder } => pages::write(folder),
        // It says in its own words how it ended, and [`main`] has run it.
        Command::LibvirtEvents { .. } => Ok(()),
    }
}

/// Writes to standard output. A reader that went away, as `head` does, is no error.
///
/// # Errors
/// When standard output cannot be written.
pub fn print(text: &str) -> Result<(), Failure> {
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            Err(Failure::other(format!("standard output: cannot write: {error}")))
        }
        _ => Ok(()),
    }
}

/// Tells of something that does not stop the command. Nobody is left to tell if standard error is closed.
fn warn(text: impl std::fmt::Display) {
    let _ = writeln!(io::stderr(), "cutover: warning: {text}");
}

fn one_line(error: &clap::Error) -> String {
    if error.kind() == ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand {
        return "no command given; cutover --help lists them".to_owned();
    }
    let text = error.render().to_string();
    let lines = text.lines().map(str::trim).take_while(|line| !line.starts_with("Usage:"));
    let lines: Vec<&str> =
        lines.filter(|line| !line.is_empty() && !line.starts_with("For more information")).collect();
    let text = lines.join(" ");
    format!("{}; --help says what is right", text.strip_prefix("error: ").unwrap_or(&text))
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory as _;

    #[test]
    fn the_arguments_are_consistent() {
        Arguments::command().debug_assert();
    }
}
