//! Names whose step was not taken because a LiveMigration was written that the agent had not seen.
//!
//! Such a step waits until the agent has seen more, when it may not be wanted any more. It does not wait for ever: an agent whose
//! reader is behind, or a cloud in which LiveMigrations are written all the time, still reports.

use cutover_engine::BootTime;
use std::collections::BTreeMap;
use std::time::Duration;

/// LIMIT: far longer than a reader that is alive is behind.
const PATIENCE: Duration = Duration::from_millis(500);

#[derive(Default)]
pub(super) struct Overtaken {
    names: BTreeMap<String, Waiting>,
}

struct Waiting {
    /// What had been seen by the last try.
    seen: i64,
    /// When it was overtaken first.
    since: BootTime,
}

impl Overtaken {
    /// A step that answers to what was written up to the revision `seen` was overtaken.
    pub(super) fn note(&mut self, name: &str, seen: i64, now: BootTime) {
        let waiting = self.names.entry(name.to_owned()).or_insert(Waiting { seen, since: now });
        waiting.seen = seen;
    }

    /// Nothing is left to do about other names.
    pub(super) fn keep(&mut self, is_left: impl Fn(&str) -> bool) {
        self.names.retain(|name, _| is_left(name));
    }

    pub(super) fn is_empty(&self) -> bool {
        self.names.is_empty()
    }

    /// A step was taken.
    pub(super) fn succeeded(&mut self, name: &str) {
        self.names.remove(name);
    }

    /// Whether a step has to wait, because no more has been seen.
    pub(super) fn holds(&self, name: &str, seen: i64, now: BootTime) -> bool {
        self.names.get(name).is_some_and(|waiting| waiting.seen == seen) && !self.is_too_long(name, now)
    }

    /// Whether it has waited for so long that it is taken in any case.
    pub(super) fn is_too_long(&self, name: &str, now: BootTime) -> bool {
        self.names.get(name).is_some_and(|waiting| now >= waiting.since + PATIENCE)
    }

    /// When the next one has waited for long enough.
    pub(super) fn next_after(&self, now: BootTime) -> Option<BootTime> {
        self.names.values().map(|waiting| waiting.since + PATIENCE).filter(|due| *due > now).min()
    }
}
