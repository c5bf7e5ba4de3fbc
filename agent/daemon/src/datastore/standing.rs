//! Why a datastore is not followed at the moment, for `cutover status`. Its reader notes it; whoever shows it asks.

use crate::clock;
use cutover_engine::BootTime;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// Nothing while the datastore is followed. Copies are about the same.
#[derive(Clone, Debug, Default)]
pub struct Standing(Arc<Mutex<State>>);

#[derive(Debug, Default)]
struct State {
    trouble: Option<(BootTime, String)>,
    /// How often one has begun.
    troubles: u64,
}

impl Standing {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What is the matter, and for how long it has been.
    #[must_use]
    pub fn reason(&self) -> Option<(String, Duration)> {
        self.state().trouble.as_ref().map(|(since, reason)| (reason.clone(), clock::now().since(*since)))
    }

    /// How often it has ceased to be followed.
    #[must_use]
    pub fn troubles(&self) -> u64 {
        self.state().troubles
    }

    /// The time goes on if only the reason is another one.
    pub(super) fn is_bad(&self, reason: impl Into<String>) {
        let mut state = self.state();
        state.troubles += u64::from(state.trouble.is_none());
        let since = state.trouble.as_ref().map_or_else(clock::now, |(since, _)| *since);
        state.trouble = Some((since, reason.into()));
    }

    pub(super) fn is_good(&self) {
        self.state().trouble = None;
    }
}
