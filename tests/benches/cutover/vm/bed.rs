//! A cloud with one guest, and one way for the network to follow it.

use super::port;
use anyhow::Result;
use cutover_tests::Cloud;
use cutover_tests::blackout::Blackout;
use cutover_tests::cloud::{Instance, Migration};
use cutover_tests::hypervisor::Guest;

/// What the bench moves.
pub(super) trait Bed {
    /// What it is called in the results.
    fn name(&self) -> &'static str;

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
    name: &'static str,
    instance: Instance,
    cloud: Cloud,
}

impl WithAgents {
    pub(super) fn new(name: &'static str, trigger: &str) -> Self {
        let mut cloud = Cloud::with(|agent| agent.set("CutoverTrigger", trigger));
        let instance = cloud.spawn(&Guest::new(&port()));
        Self { name, instance, cloud }
    }
}

impl Bed for WithAgents {
    fn name(&self) -> &'static str {
        self.name
    }

    fn cloud(&self) -> &Cloud {
        &self.cloud
    }

    fn instance(&self) -> &Instance {
        &self.instance
    }

    fn prepare(&mut self) -> Result<Migration> {
        Ok(self.cloud.prepare(&self.instance))
    }

    fn follow(&mut self, _: &Migration) -> Result<()> {
        Ok(())
    }

    fn complete(&mut self, migration: Migration, blackout: &mut Blackout) -> Result<()> {
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
