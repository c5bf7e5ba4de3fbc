//! Why a datastore is not followed at the moment, for `cutover status`. Its reader notes it; whoever shows it asks.

use crate::clock;
use cutover_engine::BootTime;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// Nothing while the datastore is followed. Copies are about the same.
#[derive(Clone, Debug, Default)]
pub struct Standing(Arc<Mutex<Option<(BootTime, String)>>>);

impl Standing {
    fn trouble(&self) -> MutexGuard<'_, Option<(BootTime, String)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What is the matter, and for how long it has been.
    #[must_use]
    pub fn reason(&self) -> Option<(String, Duration)> {
        self.trouble().as_ref().map(|(since, reason)| (reason.clone(), clock::now().since(*since)))
    }

    /// The time goes on if only the reason is another one.
    pub(super) fn is_bad(&self, reason: impl Into<String>) {
        let mut trouble = self.trouble();
        let since = trouble.as_ref().map_or_else(clock::now, |(since, _)| *since);
        *trouble = Some((since, reason.into()));
    }

    pub(super) fn is_good(&self) {
        *self.trouble() = None;
    }
}
