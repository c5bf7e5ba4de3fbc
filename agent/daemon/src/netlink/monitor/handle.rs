//! The way from the agent to its running monitor.

use crate::netlink::events::MonitorSettings;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use tokio::sync::{mpsc, watch};

/// Tells a running monitor what to do. The monitor ends when the last handle is gone.
#[derive(Clone, Debug)]
pub struct MonitorHandle {
    commands: mpsc::UnboundedSender<Command>,
    full_reads: watch::Receiver<u64>,
    overruns: Arc<AtomicU64>,
}

impl MonitorHandle {
    pub(super) const fn new(
        commands: mpsc::UnboundedSender<Command>,
        full_reads: watch::Receiver<u64>,
        overruns: Arc<AtomicU64>,
    ) -> Self {
        Self { commands, full_reads, overruns }
    }

    /// Asks for a full read.
    pub fn resync(&self) {
        // The monitor only goes when the process does.
        let _ = self.commands.send(Command::Resync);
    }

    /// Hands over other settings.
    pub fn configure(&self, settings: MonitorSettings) {
        let _ = self.commands.send(Command::Configure(settings));
    }

    /// How many full reads are complete. Until it is 1 nothing is known about absence: links that exist may
    /// not have been reported.
    #[must_use]
    pub fn full_reads(&self) -> watch::Receiver<u64> {
        self.full_reads.clone()
    }

    /// How often notifications of the kernel were lost, so that everything had to be read again.
    #[must_use]
    pub fn overruns(&self) -> u64 {
        self.overruns.load(Ordering::Relaxed)
    }
}

/// What it is told.
#[derive(Debug)]
pub(super) enum Command {
    Resync,
    Configure(MonitorSettings),
}
