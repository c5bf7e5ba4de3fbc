//! The scripts of all stages.

use crate::orders::Script;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

/// Scripts that are still to be played, for several stages.
pub(crate) struct Queue {
    scripts: Mutex<Vec<Script>>,
    /// How many may still go back.
    patience: AtomicUsize,
}

impl Queue {
    pub(crate) fn new(scripts: Vec<Script>) -> Self {
        assert!(!scripts.is_empty(), "no script");
        let patience = AtomicUsize::new(3 * scripts.len());
        Self { scripts: Mutex::new(scripts), patience }
    }

    pub(super) fn take(&self, most: usize) -> Vec<Script> {
        let mut scripts = self.scripts.lock().expect("nobody panics with the lock");
        let left = scripts.len().saturating_sub(most);
        scripts.split_off(left)
    }

    pub(super) fn put_back(&self, late: Vec<Script>) {
        let enough = self.patience.fetch_update(Relaxed, Relaxed, |left| left.checked_sub(late.len()));
        assert!(enough.is_ok(), "this machine is too slow to say anything");
        self.scripts.lock().expect("nobody panics with the lock").extend(late);
    }
}
