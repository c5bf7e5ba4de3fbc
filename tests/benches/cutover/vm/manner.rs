//! How a guest is moved: how much is sent to it, how long it stops, and whether the source's agent hears of that.

use super::bed::Bed;
use anyhow::{Context as _, Result, ensure};
use cutover_daemon::control::{self, Departing};
use cutover_engine::BootTime;
use cutover_tests::hypervisor::MIGRATION;
use cutover_tests::prompt::Prompt;
use cutover_tests::stream::{PERIOD, sleep_until};
use std::time::Duration;

/// One way.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Manner {
    /// Between two datagrams.
    pub(super) period: Duration,
    /// For how long the guest is kept paused before it goes on over there, if it is.
    pub(super) pause: Option<Duration>,
    /// The source's agent is told that the guest has stopped, as by who has an eye on the hypervisor: Hold.
    pub(super) tells: bool,
}

impl Manner {
    /// As QEMU does it, and nobody is told.
    pub(super) const PLAIN: Self = Self { period: PERIOD, pause: None, tells: false };
    /// As QEMU does it, with Hold.
    pub(super) const HOLD: Self = Self { tells: true, ..Self::PLAIN };
    /// A guest with much to copy at the end, and much traffic.
    pub(super) const LONG: Self =
        Self { period: Duration::from_micros(100), pause: Some(Duration::from_millis(300)), tells: false };
    /// The same, with Hold.
    pub(super) const LONG_HOLD: Self = Self { tells: true, ..Self::LONG };

    /// What has to be said before the migration begins.
    pub(super) fn prepare(self, bed: &dyn Bed) {
        if self.pause.is_some() {
            bed.instance().hypervisor.pause_before_switchover();
        }
    }

    /// What is to be done when the guest has stopped, in a migration that began at `since`.
    pub(super) fn follow(self, bed: &dyn Bed, since: BootTime) -> Result<()> {
        if !self.tells && self.pause.is_none() {
            return Ok(());
        }
        let (instance, cloud) = (bed.instance(), bed.cloud());
        let _prompt = Prompt::now();
        let qmp = instance.hypervisor.qmp();
        let stopped_at = qmp.wait_event_since(MIGRATION, "STOP", since).at;
        if self.tells {
            let machine = instance.guest.ports.first().context("a port")?.workload.clone();
            let run_dir = cloud.hosts[instance.at].agent().run_dir();
            let told = control::stopped(run_dir, &Departing::Workload(machine), true)?;
            ensure!(!told.is_empty(), "the agent knows of no such machine that is leaving");
        }
        if let Some(pause) = self.pause {
            let _paused = qmp.wait_status_since(MIGRATION, "pre-switchover", since);
            sleep_until(stopped_at + pause);
            instance.hypervisor.continue_migration();
        }
        Ok(())
    }
}
