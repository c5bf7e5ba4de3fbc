//! The scripts of all stages, and how many of them a stage plays side by side.

use crate::orders::Script;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

/// LIMIT: so many machines that a round is a tenth of a second on a machine that has nothing else to do: an agent writes down every
/// migration of its host whenever one of them has changed.
const AT_ONCE_MAX: usize = 32;

/// Scripts that are still to be played, for several stages.
pub(crate) struct Queue {
    scripts: Mutex<Vec<Script>>,
    /// How many may still go back.
    patience: AtomicUsize,
    /// How many a stage takes: fewer where they take too long, because the machine has other things to do.
    at_once: AtomicUsize,
}

impl Queue {
    pub(crate) fn new(scripts: Vec<Script>) -> Self {
        assert!(!scripts.is_empty(), "no script");
        let patience = AtomicUsize::new(3 * scripts.len());
        Self { scripts: Mutex::new(scripts), patience, at_once: AtomicUsize::new(AT_ONCE_MAX) }
    }

    pub(super) fn take(&self) -> Vec<Script> {
        let mut scripts = self.scripts.lock().expect("nobody panics with the lock");
        let left = scripts.len().saturating_sub(self.at_once.load(Relaxed));
        scripts.split_off(left)
    }

    /// Of so many that were played side by side, these were late.
    pub(super) fn put_back(&self, played: usize, late: Vec<Script>) {
        let enough = self.patience.fetch_update(Relaxed, Relaxed, |left| left.checked_sub(late.len()));
        assert!(enough.is_ok(), "this machine is too slow to say anything");
        let _ = self.at_once.fetch_update(Relaxed, Relaxed, |now| Some(at_once(now, played, late.len())));
        self.scripts.lock().expect("nobody panics with the lock").extend(late);
    }
}

/// How many are to be played side by side after some of those that were have been late. Of the stages, which play at the same time, some
/// took more than there are to be now.
fn at_once(now: usize, played: usize, late: usize) -> usize {
    match late {
        0 => (now + 1).min(AT_ONCE_MAX),
        _ if late > played / 4 => now.min(played / 2).max(1),
        _ => now,
    }
}

#[test]
fn fewer_are_played_at_once_where_they_are_late() {
    assert_eq!(at_once(32, 32, 0), 32);
    assert_eq!(at_once(32, 32, 8), 32, "some are always");
    assert_eq!(at_once(32, 32, 9), 16);
    assert_eq!(at_once(16, 32, 32), 16, "of before");
    assert_eq!(at_once(16, 16, 16), 8);
    assert_eq!(at_once(1, 1, 1), 1);
    assert_eq!(at_once(1, 1, 0), 2);
}
