//! `cutover agent --observe`: what the agent would change on this host if it were started now, and where the host differs from it.
//!
//! Reads what a start reads (memory, datastore, kernel), asks the same engine, and lets the same appliers find the difference; their
//! changes go nowhere. It writes nothing: no kernel state, no file, no key of a datastore, no lock, and nobody can connect to it. So it
//! may run beside Felix, and beside an agent.
//!
//! It is one look. ORDER: the datastore is read before the kernel, as the engine takes the kernel's word first and the datastore's
//! afterwards; what changes in between is seen in one of them only.

mod look;
mod report;

pub use report::{
    Absent, Alone, InTheWay, NeighbourWrite, Report, RouteText, RouteWrite, SCHEMA, SysctlWrite, Write,
};

use crate::control;
use crate::datastore::dir::{self, Directory};
use crate::datastore::etcd::{Cluster, ClusterError, Etcd, Keys};
use crate::datastore::{Datastore, Event};
use crate::run_dir::{RunDir, RunDirError};
use crate::settings::{self, DatastoreType, FelixConfiguration, Loaded, Settings, Sources};
use crate::state_file::StateFile;
use cutover_engine::Fact;
use cutover_engine::memory::Memory;
use nix::unistd::Uid;
use std::collections::BTreeSet;
use std::io;
use std::time::Duration;
use thiserror::Error;
use tokio::time::{Instant, timeout_at};

/// There is nothing to report.
#[derive(Debug, Error)]
pub enum PreviewError {
    /// The run directory cannot be used, by an agent either.
    #[error(transparent)]
    RunDir(#[from] RunDirError),
    /// The memory of the last life cannot be read.
    #[error("cannot read the memory of the agent's last life: {0}")]
    Memory(#[source] io::Error),
    /// The datastore cannot be watched.
    #[error(transparent)]
    Directory(#[from] dir::StartError),
    /// The settings do not lead to an etcd cluster.
    #[error(transparent)]
    Cluster(#[from] ClusterError),
    /// The datastore did not tell everything in time.
    #[error("the datastore was not read within {within} s: {reason}", within = within.as_secs())]
    Datastore {
        /// How long it was waited for.
        within: Duration,
        /// What is known about why.
        reason: String,
    },
    /// The kernel does not say what it holds.
    #[error("cannot read what the kernel holds: {0}")]
    Kernel(#[source] io::Error),
}

/// What a start would read before it decides anything.
struct Read {
    settings: Settings,
    memory: Memory,
    /// Up to the one that says that the datastore is in sync.
    facts: Vec<Fact>,
    /// Interfaces that the agent that runs watches already.
    armed: BTreeSet<String>,
    report: Report,
}

/// Looks once, in the network namespace of the calling thread. The datastore may take so long. The settings are those without any
/// resources.
///
/// # Errors
/// Something that a start needs cannot be read.
pub async fn look(sources: &Sources, loaded: Loaded, within: Duration) -> Result<Report, PreviewError> {
    let memory = remembered(&loaded.settings)?;
    let read = read(sources, loaded.settings, memory, within).await?;
    look::report(read).await
}

/// Nothing where no agent has run since the host was started.
fn remembered(settings: &Settings) -> Result<Memory, PreviewError> {
    let run_dir = &settings.cutover_run_dir;
    if !RunDir::check(run_dir, Uid::effective())? {
        return Ok(Memory::default());
    }
    StateFile::new(run_dir).and_then(|file| file.peek()).map_err(PreviewError::Memory)
}

async fn read(
    sources: &Sources,
    settings: Settings,
    memory: Memory,
    within: Duration,
) -> Result<Read, PreviewError> {
    let deadline = Instant::now() + within;
    // Whoever reports statuses needs it. Nobody does here.
    let mut _own_statuses = None;
    let mut datastore = match settings.datastore_type {
        DatastoreType::Dir => Datastore::Directory(Directory::start(settings.cutover_datastore_dir.clone())?),
        DatastoreType::Etcdv3 => {
            let keys = Keys::new(&settings.felix_hostname, &settings.openstack_region);
            let (etcd, own) = Etcd::start(Cluster::new(&settings)?, keys, &memory);
            _own_statuses = Some(own);
            Datastore::Etcd(etcd)
        }
    };
    let mut configurations = Vec::new();
    let mut facts = Vec::new();
    let complete = loop {
        match timeout_at(deadline, datastore.next()).await {
            Ok(Some(Event::Configurations(all))) => configurations = all,
            Ok(Some(Event::Facts(batch))) => {
                facts.extend(batch);
                let in_sync = facts.iter().find_map(|fact| match fact {
                    Fact::InSync { complete } => Some(*complete),
                    _ => None,
                });
                if let Some(complete) = in_sync {
                    break complete;
                }
            }
            Ok(Some(Event::MigrationsTold(_))) => {}
            Ok(None) => return Err(unread(within, "its reader has ended".to_owned())),
            Err(_) => {
                let reason = datastore.standing().reason().map(|(reason, _)| reason);
                return Err(unread(within, reason.unwrap_or_else(|| "it is not there".to_owned())));
            }
        }
    };
    let (settings, refused_settings) = with(sources, settings, &configurations);
    let status = control::ask(&settings.cutover_run_dir).ok();
    let report = Report {
        complete,
        quarantine: datastore.quarantine().list(),
        agent: status.as_ref().map(|status| status.pid),
        refused_settings,
        ..Report::of(&settings)
    };
    let endpoints = status.into_iter().flat_map(|status| status.endpoints);
    let armed = endpoints.filter(|endpoint| endpoint.watch.is_some()).map(|endpoint| endpoint.interface);
    Ok(Read { settings, memory, facts, armed: armed.collect(), report })
}

const fn unread(within: Duration, reason: String) -> PreviewError {
    PreviewError::Datastore { within, reason }
}

/// As the agent takes over what resources say: not at all, if one of them forbids it.
fn with(
    sources: &Sources,
    before: Settings,
    configurations: &[FelixConfiguration],
) -> (Settings, Vec<String>) {
    let loaded = settings::load(sources, configurations);
    let fatal: Vec<String> = loaded.fatal().map(ToString::to_string).collect();
    if fatal.is_empty() { (before.reloaded(loaded.settings), fatal) } else { (before, fatal) }
}
