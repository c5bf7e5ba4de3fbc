//! The writing of IPv4 routes, one thread at a time.
//!
//! Owns what is still to be written of announcements that a thread has taken. A thread that finds another one writing leaves its
//! routes to that one, because the kernel would keep it waiting as well. Sends nothing itself.

use super::Prepared;
use cutover_engine::fact::AnnouncementSeen;
use std::collections::{BTreeSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, TryLockError};

/// An announcement whose IPv4 routes are to be written, and that is to be told of then.
#[derive(Debug)]
pub(super) struct Landing {
    pub(super) seen: AnnouncementSeen,
    pub(super) ipv4: Arc<Prepared>,
}

/// Those that wait, in the order in which they were taken from the ring.
#[derive(Debug, Default)]
pub(super) struct Landings {
    waiting: Mutex<VecDeque<Landing>>,
    turn: Mutex<()>,
}

impl Landings {
    /// Adds one. [`Self::work_off`] has to be called after it.
    pub(super) fn add(&self, landing: Landing) {
        self.waiting().push_back(landing);
    }

    /// Does `land` with everything that waits, unless another thread is at it, which then does it.
    pub(super) fn work_off(&self, mut land: impl FnMut(Landing)) {
        // ORDER: looked at again after the turn is given back: what was added just before somebody found it taken is there by then.
        while !self.waiting().is_empty() {
            let _turn = match self.turn.try_lock() {
                Ok(turn) => turn,
                Err(TryLockError::WouldBlock) => return,
                // The daemon is about to end.
                Err(TryLockError::Poisoned(turn)) => turn.into_inner(),
            };
            while let Some(landing) = self.next() {
                land(landing);
            }
        }
    }

    /// The routes of other generations than these are not written any more; their announcements are told all the same.
    pub(super) fn keep_only(&self, generations: &BTreeSet<u64>) {
        for landing in self.waiting().iter_mut() {
            if !generations.contains(&landing.seen.generation) {
                landing.ipv4 = Arc::default();
                landing.seen.routed_at = None;
            }
        }
    }

    fn next(&self) -> Option<Landing> {
        self.waiting().pop_front()
    }

    fn waiting(&self) -> MutexGuard<'_, VecDeque<Landing>> {
        // The queue is whole at every point where its holder could panic.
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use cutover_common::AnnouncementKind;
    use cutover_engine::BootTime;
    use cutover_engine::wanted::WantedRoute;
    use std::sync::atomic::{AtomicUsize, Ordering};

    fn landing(generation: u64) -> Landing {
        let kind = AnnouncementKind::Rarp;
        let seen =
            AnnouncementSeen { generation, kind, seen_at: BootTime(1), taken_at: None, routed_at: None };
        Landing { seen, ipv4: Arc::default() }
    }

    #[test]
    fn what_comes_while_somebody_writes_is_left_to_him() {
        let landings = Landings::default();
        landings.add(landing(1));
        let mut landed = Vec::new();
        landings.work_off(|one| {
            if one.seen.generation == 1 {
                landings.add(landing(2));
                landings.work_off(|other| panic!("{other:?} is written at the same time"));
            }
            landed.push(one.seen.generation);
        });
        assert_eq!(landed, [1, 2]);
    }

    #[test]
    fn what_is_not_wanted_any_more_is_told_of_and_not_written() {
        let landings = Landings::default();
        let destination = "10.65.0.2/32".parse().unwrap();
        let route = WantedRoute { destination, ifindex: 7, metric: 512, protocol: 3, source: None };
        for generation in [1, 2] {
            let mut landing = landing(generation);
            landing.ipv4 = Arc::new(Prepared { routes: [route].into(), ..Prepared::default() });
            landing.seen.routed_at = Some(BootTime(2));
            landings.add(landing);
        }
        landings.keep_only(&BTreeSet::from([2]));
        let mut landed = Vec::new();
        landings
            .work_off(|one| landed.push((one.seen.generation, one.ipv4.routes.len(), one.seen.routed_at)));
        assert_eq!(landed, [(1, 0, None), (2, 1, Some(BootTime(2)))]);
    }

    /// Whoever adds one while another thread has written its last and gives its turn back.
    #[test]
    fn nothing_stays_behind_between_two_threads() {
        const EACH: usize = 20_000;
        let (landings, landed) = (Landings::default(), AtomicUsize::new(0));
        std::thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| {
                    for _ in 0..EACH {
                        landings.add(landing(1));
                        landings.work_off(|_| {
                            landed.fetch_add(1, Ordering::Relaxed);
                        });
                    }
                });
            }
        });
        assert_eq!(landed.into_inner(), 2 * EACH);
    }
}
