//! What became of the writes of statuses, for the metrics. Copies are about the same.

use super::Outcome;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// The counters.
#[derive(Clone, Debug, Default)]
pub struct StatusCounts(Arc<Counts>);

#[derive(Debug, Default)]
struct Counts {
    done: AtomicU64,
    overtaken: AtomicU64,
    failed: AtomicU64,
}

impl StatusCounts {
    /// A write or a removal has ended.
    pub(super) fn note<E>(&self, result: &Result<Outcome, E>) {
        let counter = match result {
            Ok(Outcome::Done) => &self.0.done,
            Ok(Outcome::Overtaken) => &self.0.overtaken,
            Err(_) => &self.0.failed,
        };
        counter.fetch_add(1, Ordering::Relaxed);
    }

    /// How many have ended like this: `done`, `overtaken` (a LiveMigration was written meanwhile, so it was not done) and `failed`.
    #[must_use]
    pub fn read(&self) -> [(&'static str, u64); 3] {
        let Counts { done, overtaken, failed } = &*self.0;
        [("done", done), ("overtaken", overtaken), ("failed", failed)]
            .map(|(name, counter)| (name, counter.load(Ordering::Relaxed)))
    }
}
