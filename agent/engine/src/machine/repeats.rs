//! When `up` is written once more after another host's status of the port was removed. Owns the times; the machine acts on them.

use crate::time::BootTime;
use core::time::Duration;
use serde::{Deserialize, Serialize};

/// How long after the removal, beyond the write at once.
///
/// LIMIT: a driver hands the removal and `up` to different threads. An `up` that begins before the removal is committed
/// finds a port in service, changes nothing, and is overtaken: 1.2 s were seen, 2.5 s under load. The third one is for a
/// driver whose watch is broken: it notices after 10 s of silence and reads everything after a pause of up to 5 s.
const AFTER: [Duration; 3] = [Duration::from_secs(3), Duration::from_secs(6), Duration::from_secs(20)];

/// Writes of `up` that are still to come.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Repeats {
    /// When the removal was heard of.
    since: BootTime,
    /// The next one.
    next_at: BootTime,
}

impl Repeats {
    /// All of them.
    pub(super) fn after(removal: BootTime) -> Self {
        Self { since: removal, next_at: removal + AFTER[0] }
    }

    /// When the next one is due.
    pub(super) const fn next_at(self) -> BootTime {
        self.next_at
    }

    /// Those that are not due by `now`, if there are any.
    pub(super) fn later_than(self, now: BootTime) -> Option<Self> {
        let next_at = AFTER.iter().map(|after| self.since + *after).find(|at| *at > now)?;
        Some(Self { next_at, ..self })
    }
}
