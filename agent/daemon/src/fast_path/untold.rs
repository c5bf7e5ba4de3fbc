//! Announcements that the source's agent has not been told of yet.
//!
//! Owns who tells of each: the thread that has written its routes or, if those wait for others, one that has nothing else to do. Telling
//! wakes threads of a real-time priority, which is why it comes after the routes; but the source can forward without them.

use crate::peers::Herald;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// How long the routes of an announcement may take before another thread tells of it.
///
/// LIMIT: several times what they take on a host where nobody has the lock of links.
pub(super) const UNTOLD_FOR: Duration = Duration::from_millis(1);

/// By the generation of the watch.
///
/// LIMIT: a thread of the reserve that loses its processor while it holds them makes the lead wait for it. That is some dozen instructions.
#[derive(Debug, Default)]
pub(super) struct Untold(Mutex<Vec<u64>>);

impl Untold {
    /// One has been taken from the ring.
    pub(super) fn add(&self, generation: u64) {
        self.generations().push(generation);
    }

    /// Tells of it, unless somebody has.
    pub(super) fn tell(&self, generation: u64, herald: &Herald) {
        if self.forget(generation) {
            herald.announced(generation);
        }
    }

    /// Nobody is to tell of it any more. Says whether anybody had to.
    pub(super) fn forget(&self, generation: u64) -> bool {
        let mut generations = self.generations();
        let place = generations.iter().position(|untold| *untold == generation);
        place.map(|place| generations.swap_remove(place)).is_some()
    }

    /// Tells of all of them.
    pub(super) fn tell_all(&self, herald: &Herald) {
        let taken = std::mem::take(&mut *self.generations());
        taken.into_iter().for_each(|generation| herald.announced(generation));
    }

    pub(super) fn is_empty(&self) -> bool {
        self.generations().is_empty()
    }

    fn generations(&self) -> MutexGuard<'_, Vec<u64>> {
        // They are whole at every point where their holder could panic.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
