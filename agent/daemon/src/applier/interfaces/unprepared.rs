//! What could not be set up, and why: for `cutover status` and the doctor.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// What is set up on its own.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) enum Item {
    Host,
    Interface(u32),
}

/// Name and reason of each. Copies are the same list.
#[derive(Clone, Default, Debug)]
pub struct Unprepared {
    entries: Arc<Mutex<BTreeMap<Item, (String, String)>>>,
}

impl Unprepared {
    /// The reasons by the name of the interface, or `host`.
    #[must_use]
    pub fn list(&self) -> BTreeMap<String, String> {
        self.lock().values().cloned().collect()
    }

    /// Notes why something is not set up completely. Says whether that is news.
    pub(super) fn set(&self, item: Item, name: &str, reason: String) -> bool {
        let entry = (name.to_owned(), reason);
        self.lock().insert(item, entry.clone()) != Some(entry)
    }

    /// It is set up, or nobody wants it any more.
    pub(super) fn clear(&self, item: Item) {
        self.lock().remove(&item);
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<Item, (String, String)>> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
