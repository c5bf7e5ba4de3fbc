//! What goes back to the orchestrator: endpoint statuses and, with etcd, the heartbeat.
//!
//! The heartbeat is Felix's where Felix runs beside the agent: two writers would have two uptimes, and each new one tells the
//! driver that the agent of the host is new.
//!
//! Starts the publishers that belong to the datastore and tells them of changed settings. It says nothing itself.

use super::parts::Parts;
use crate::applier::WantedReceiver;
use crate::applier::statuses::{self, StatusCounts};
use crate::datastore::etcd::{Cluster, Keys, OwnStatuses, Writer};
use crate::heartbeat::{self, Cadence};
use crate::progress;
use crate::settings::{Role, Settings};
use cutover_engine::Fact;
use std::path::PathBuf;
use std::time::Duration;
use tokio::sync::{mpsc, watch};

/// The settings of the running publishers.
#[derive(Debug)]
pub(super) struct Reporting {
    enabled: watch::Sender<bool>,
    delay: watch::Sender<Duration>,
    /// The revision up to which what is wanted answers to every LiveMigration.
    migrations_told: watch::Sender<i64>,
    /// Nothing where the heartbeat is somebody else's.
    cadence: Option<watch::Sender<Cadence>>,
    /// How long a part of the daemon may be busy without a pause (`DataplaneWatchdogTimeout`); zero for as long as it likes.
    silence: watch::Sender<Duration>,
    /// What became of the writes of statuses.
    pub(super) counts: StatusCounts,
}

impl Reporting {
    pub(super) fn new(settings: &Settings) -> Self {
        Self {
            enabled: watch::Sender::new(settings.reports_endpoints()),
            delay: watch::Sender::new(settings.endpoint_reporting_delay),
            migrations_told: watch::Sender::new(0),
            cadence: (settings.cutover_role == Role::Full).then(|| watch::Sender::new(cadence(settings))),
            silence: watch::Sender::new(settings.dataplane_watchdog_timeout),
            counts: StatusCounts::default(),
        }
    }

    /// Takes changed settings over.
    pub(super) fn configure(&self, settings: &Settings) {
        let replace = |before: &mut Cadence| std::mem::replace(before, cadence(settings)) != *before;
        if let Some(cadence) = &self.cadence {
            cadence.send_if_modified(replace);
        }
        self.silence.send_replace(settings.dataplane_watchdog_timeout);
        let delay = settings.endpoint_reporting_delay;
        self.delay.send_if_modified(|before| std::mem::replace(before, delay) != delay);
        let enabled = settings.reports_endpoints();
        self.enabled.send_if_modified(|before| std::mem::replace(before, enabled) != enabled);
    }

    /// What is wanted answers to every LiveMigration up to this revision.
    pub(super) fn migrations_told(&self, revision: i64) {
        self.migrations_told.send_replace(revision);
    }

    /// Starts what looks after all parts.
    pub(super) fn watch_progress(&self, parts: &mut Parts) {
        let watch = progress::watch(parts.progress(), self.silence.subscribe());
        parts.start("the watch over progress", watch);
    }

    /// Starts what goes with a directory of files.
    pub(super) fn start_files(
        &self,
        parts: &mut Parts,
        run_dir: PathBuf,
        wanted: WantedReceiver,
        facts: mpsc::UnboundedSender<Fact>,
    ) {
        parts.start("the status publisher", statuses::dir::run(run_dir, wanted, facts, self.counts.clone()));
    }

    /// Starts what goes with etcd.
    pub(super) fn start_etcd(
        &self,
        parts: &mut Parts,
        (cluster, keys): (Cluster, Keys),
        own: OwnStatuses,
        ready: watch::Receiver<bool>,
        wanted: WantedReceiver,
        facts: mpsc::UnboundedSender<Fact>,
    ) {
        let writer = Writer::new(cluster);
        if let Some(cadence) = &self.cadence {
            let (writer, keys, ready, wanted) = (writer.clone(), keys.clone(), ready.clone(), wanted.clone());
            let progress = (parts.progress(), self.silence.subscribe());
            let heartbeat = heartbeat::run(writer, keys, cadence.subscribe(), ready, wanted, progress);
            parts.start("the heartbeat", heartbeat);
        }
        let inputs = statuses::Inputs {
            wanted,
            enabled: self.enabled.subscribe(),
            delay: self.delay.subscribe(),
            ready,
            migrations_told: self.migrations_told.subscribe(),
            own,
            counts: self.counts.clone(),
        };
        let publisher = statuses::etcd::run(writer, keys, inputs, facts);
        parts.start("the status publisher", publisher);
    }
}

const fn cadence(settings: &Settings) -> Cadence {
    Cadence { interval: settings.reporting_interval, lifetime: settings.reporting_ttl }
}
