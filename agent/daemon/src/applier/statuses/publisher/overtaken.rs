//! Steps that were not taken because a LiveMigration was written that the agent had not seen. Pure.
//!
//! What overtook one step overtakes every other one that answers to as little. All wait until the agent has seen more, when some may not be
//! wanted any more. Not for ever: an agent whose reader does not get any further reports in the end, and so does one in a cloud in which
//! LiveMigrations are written all the time.

use cutover_engine::BootTime;
use std::time::Duration;

/// LIMIT: longer than the reader needs to give up a member that is silent and to read everything from the next one. Nova waits
/// for minutes.
const PATIENCE: Duration = Duration::from_secs(12);

/// LIMIT: who was overtaken so often, having seen more each time, is not behind: there is always another one.
const TRIES: u32 = 20;

#[derive(Debug)]
pub(super) struct Overtaken {
    waiting: Option<Waiting>,
    patience: Duration,
}

#[derive(Clone, Copy, Debug)]
struct Waiting {
    /// What had been seen by the last try.
    seen: i64,
    /// When that was tried first.
    since: BootTime,
    /// How often there was a try that had seen more than the one before.
    tries: u32,
}

impl Default for Overtaken {
    fn default() -> Self {
        Self { waiting: None, patience: PATIENCE }
    }
}

impl Overtaken {
    #[cfg(test)]
    pub(super) fn with_patience(patience: Duration) -> Self {
        Self { waiting: None, patience }
    }

    /// A step that answers to what was written up to the revision `seen` was overtaken.
    pub(super) fn note(&mut self, seen: i64, now: BootTime) {
        let tries = self.waiting.map_or(0, |waiting| waiting.tries);
        if self.waiting.is_none_or(|waiting| waiting.seen != seen) {
            self.waiting = Some(Waiting { seen, since: now, tries: tries + 1 });
        }
    }

    /// A step was taken, or failed for another reason.
    pub(super) fn forget(&mut self) {
        self.waiting = None;
    }

    /// What a step that is taken now depends on: that nothing was written after the revision `seen`; or on nothing. `None` if
    /// none is to be taken.
    pub(super) fn condition(&self, seen: i64, now: BootTime) -> Option<Condition> {
        let unless_overtaken = Some(Condition::NothingAfter(seen));
        let Some(waiting) = self.waiting else { return unless_overtaken };
        if waiting.tries >= TRIES || now >= waiting.since + self.patience {
            return Some(Condition::None);
        }
        if waiting.seen == seen { None } else { unless_overtaken }
    }

    /// When steps have waited for long enough, if they wait.
    pub(super) fn over_at(&self) -> Option<BootTime> {
        self.waiting.map(|waiting| waiting.since + self.patience)
    }
}

/// What a step depends on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Condition {
    /// No LiveMigration was written after this revision.
    NothingAfter(i64),
    /// Nothing.
    None,
}

impl Condition {
    pub(super) const fn seen(self) -> Option<i64> {
        match self {
            Self::NothingAfter(seen) => Some(seen),
            Self::None => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const START: BootTime = BootTime(1_000);

    #[test]
    fn nothing_is_tried_again_before_more_is_seen() {
        let mut overtaken = Overtaken::default();
        assert_eq!(overtaken.condition(7, START), Some(Condition::NothingAfter(7)));
        overtaken.note(7, START);
        assert_eq!(overtaken.condition(7, START + PATIENCE / 2), None);
        assert_eq!(overtaken.condition(8, START), Some(Condition::NothingAfter(8)));
        // A datastore that was set back.
        assert_eq!(overtaken.condition(3, START), Some(Condition::NothingAfter(3)));
        assert_eq!(overtaken.condition(7, START + PATIENCE), Some(Condition::None));
        overtaken.forget();
        assert_eq!(overtaken.condition(7, START + PATIENCE), Some(Condition::NothingAfter(7)));
    }

    #[test]
    fn patience_counts_from_the_last_progress_and_tries_are_counted() {
        let mut overtaken = Overtaken::default();
        for seen in 0..i64::from(TRIES) - 1 {
            let now = START + PATIENCE.mul_f64(0.9) * u32::try_from(seen).unwrap();
            overtaken.note(seen, now);
            overtaken.note(seen, now + Duration::from_secs(1));
            assert_eq!(overtaken.condition(seen + 1, now), Some(Condition::NothingAfter(seen + 1)));
        }
        overtaken.note(i64::from(TRIES), START);
        assert_eq!(overtaken.condition(i64::from(TRIES), START), Some(Condition::None));
    }
}
