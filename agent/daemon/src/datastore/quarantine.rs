//! What a datastore holds and cannot read, for `cutover status`. The readers note it; whoever shows it asks for all of it.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

/// Values that cannot be read, by what the log calls them, each with the reason. Copies are about the same.
#[derive(Clone, Debug, Default)]
pub struct Quarantine(Arc<Mutex<BTreeMap<String, String>>>);

impl Quarantine {
    fn entries(&self) -> std::sync::MutexGuard<'_, BTreeMap<String, String>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Everything that is in it.
    #[must_use]
    pub fn list(&self) -> BTreeMap<String, String> {
        self.entries().clone()
    }

    pub(super) fn put(&self, name: String, reason: String) {
        self.entries().insert(name, reason);
    }

    pub(super) fn release(&self, name: &str) {
        self.entries().remove(name);
    }

    pub(super) fn replace(&self, entries: BTreeMap<String, String>) {
        *self.entries() = entries;
    }
}
