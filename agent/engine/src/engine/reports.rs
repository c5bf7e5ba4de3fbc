//! What became of the statuses: written here, or removed elsewhere.

use super::Engine;
use crate::model::EndpointKey;
use crate::time::BootTime;
use crate::wanted::Question;
use std::sync::Arc;

impl Engine {
    /// An answer to what is not asked any more is none: what is asked now is compared with it when the sets are built.
    pub(super) fn endpoint_ready(&mut self, key: &EndpointKey, question: Arc<Question>) {
        self.locals.change(key, |local| local.ready = Some(question));
    }

    pub(super) fn status_written(&mut self, key: &EndpointKey, due_since: BootTime, at: BootTime) {
        self.locals.change(key, |local| local.machine.reported(due_since, at));
    }

    /// Another command has said nothing yet.
    pub(super) fn forget_answers(&mut self) {
        let keys: Vec<_> = self.locals.keys().cloned().collect();
        for key in keys {
            self.locals.change(&key, |local| local.ready = None);
        }
    }

    /// Another host's status of a port went away. If the virtual machine is here, its port has to be put back
    /// into service.
    pub(super) fn status_removed_elsewhere(&mut self, now: BootTime, key: EndpointKey) {
        if self.is_local(&key) {
            return;
        }
        self.forget_status_elsewhere(&key);
        let here = self.same_port_here(&key);
        self.locals.change(&here, |local| local.machine.status_removed_elsewhere(now));
    }
}
