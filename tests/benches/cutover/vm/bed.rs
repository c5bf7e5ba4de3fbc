//! A cloud with one guest, and one way for the network to follow it.

use super::port;
use anyhow::{Result, ensure};
use cutover_engine::BootTime;
use cutover_tests::Cloud;
use cutover_tests::blackout::Blackout;
use cutover_tests::cloud::{Instance, Migration};
use cutover_tests::hypervisor::Guest;

/// What the bench moves.
pub(super) trait Bed {
    /// Where the guest is at home.
    fn cloud(&self) -> &Cloud;

    /// The guest.
    fn instance(&self) -> &Instance;

    /// Everything up to the process on the other host that waits for the guest.
    fn prepare(&mut self) -> Result<Migration>;

    /// Called when the migration has begun: does what is to be done when it switches over.
    fn follow(&mut self, migration: &Migration) -> Result<()>;

    /// Everything from the switch-over to the time when nothing of the migration is left. Puts into `blackout` what only
    /// the contender itself knows.
    fn complete(&mut self, migration: Migration, blackout: &mut Blackout) -> Result<()>;
}

/// Agents on both hosts, and `cutover migrate`.
pub(super) struct WithAgents {
    /// The agents talk to each other.
    forwards: bool,
    instance: Instance,
    cloud: Cloud,
}

impl WithAgents {
    pub(super) fn new(settings: &[(&str, &str)]) -> Self {
        let mut cloud = Cloud::with(|agent| {
            for (name, value) in settings {
                agent.set(name, value);
            }
        });
        cloud.plug_usual_taps();
        let instance = cloud.spawn(&Guest::new(&port()));
        let forwards = !settings.contains(&("CutoverPeering", "off"));
        Self { forwards, instance, cloud }
    }
}

impl Bed for WithAgents {
    fn cloud(&self) -> &Cloud {
        &self.cloud
    }

    fn instance(&self) -> &Instance {
        &self.instance
    }

    fn prepare(&mut self) -> Result<Migration> {
        let migration = self.cloud.prepare(&self.instance);
        if self.forwards {
            self.cloud.wait_ready_to_forward(&self.instance, &migration);
        }
        Ok(migration)
    }

    fn follow(&mut self, _: &Migration) -> Result<()> {
        Ok(())
    }

    fn complete(&mut self, migration: Migration, blackout: &mut Blackout) -> Result<()> {
        let forward = self.cloud.hosts[self.instance.at].forward(&self.instance.guest.ports[0]);
        blackout.forwarded_at = forward.and_then(|it| it["started_at"].as_u64()).map(BootTime);
        ensure!(blackout.forwarded_at.is_some() == self.forwards, "whether the source forwards");
        let uids = migration.uids.clone();
        let _lookout = self.cloud.complete(&mut self.instance, migration);
        for uid in uids {
            let phases = self.cloud.hosts[self.instance.at].wait_recorded(&uid);
            *blackout = blackout.with_phases(&phases);
        }
        self.cloud.wait_settled(&self.instance);
        Ok(())
    }
}
