//! What became of the statuses: written here, or removed elsewhere.

use super::Engine;
use crate::model::EndpointKey;
use crate::time::BootTime;

impl Engine {
    pub(super) fn status_written(&mut self, key: &EndpointKey, due_since: BootTime, at: BootTime) {
        self.locals.change(key, |local| local.machine.reported(due_since, at));
    }

    /// Another host's status of a port went away. If the virtual machine is here, its port has to be put back
    /// into service.
    pub(super) fn status_removed_elsewhere(&mut self, now: BootTime, key: EndpointKey) {
        if self.is_local(&key) {
            return;
        }
        let here = EndpointKey { host: self.policy.hostname.clone(), ..key };
        self.locals.change(&here, |local| local.machine.port_disturbed(now));
    }
}
