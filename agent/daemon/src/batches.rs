//! What is prepared for a moment that nobody knows beforehand: netlink batches that are finished, each for the first thread that asks.
//!
//! Owns them until one thread takes each. Whoever prepares and withdraws them is an ordinary thread, which can lose its processor at
//! any instruction, and a thread with a real-time priority must not wait for that: so nobody waits here for anybody. What is there is
//! exchanged as a whole, and one flag says whether a batch is taken.

use arc_swap::ArcSwap;
use std::collections::{BTreeSet, HashMap};
use std::hash::Hash;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

type ByKey<K, T> = HashMap<K, Arc<Batch<T>>>;

/// Batches by what they are for.
#[derive(Debug)]
pub(crate) struct Batches<K, T>(ArcSwap<ByKey<K, T>>);

#[derive(Debug)]
struct Batch<T> {
    prepared: Arc<T>,
    /// By a thread, or because it is withdrawn.
    is_taken: AtomicBool,
}

impl<K, T> Default for Batches<K, T> {
    fn default() -> Self {
        Self(ArcSwap::default())
    }
}

impl<K: Clone + Eq + Hash + Ord, T> Batches<K, T> {
    /// From now on this is there for it. Says whether somebody had taken the one that was there before.
    pub(crate) fn prepare(&self, key: &K, prepared: T) -> bool {
        let batch = Arc::new(Batch { prepared: Arc::new(prepared), is_taken: AtomicBool::new(false) });
        let before = self.0.rcu(|batches| {
            let mut batches = ByKey::clone(batches);
            batches.insert(key.clone(), Arc::clone(&batch));
            batches
        });
        before.get(key).is_some_and(|replaced| !replaced.take())
    }

    /// Nobody gets those for anything else any more.
    pub(crate) fn keep_only(&self, keys: &BTreeSet<K>) {
        let is_kept = |key: &K| keys.contains(key);
        if self.0.load().keys().all(is_kept) {
            return;
        }
        let before = self.0.rcu(|batches| {
            let kept = batches.iter().filter(|(key, _)| is_kept(key));
            kept.map(|(key, batch)| (key.clone(), Arc::clone(batch))).collect::<ByKey<K, T>>()
        });
        // ORDER: whoever has looked just before finds it taken.
        for (_, batch) in before.iter().filter(|(key, _)| !is_kept(key)) {
            batch.take();
        }
    }

    /// The one for this, for the first who asks.
    pub(crate) fn take(&self, key: &K) -> Option<Arc<T>> {
        loop {
            let batches = self.0.load();
            let batch = batches.get(key)?;
            if batch.take() {
                return Some(Arc::clone(&batch.prepared));
            }
            // Another one may be in its place by now: that was put there before this one was taken away.
            if self.0.load().get(key).is_none_or(|now| Arc::ptr_eq(now, batch)) {
                return None;
            }
        }
    }

    /// What is there for this, and whether somebody has taken it.
    pub(crate) fn look(&self, key: &K) -> Option<(Arc<T>, bool)> {
        let batches = self.0.load();
        let batch = batches.get(key)?;
        Some((Arc::clone(&batch.prepared), batch.is_taken.load(Ordering::Acquire)))
    }

    /// What there is for which this is so, taken or not.
    pub(crate) fn find(&self, is_it: impl Fn(&K, &T) -> bool) -> Vec<K> {
        let batches = self.0.load();
        let found = batches.iter().filter(|(key, batch)| is_it(key, &batch.prepared));
        found.map(|(key, _)| key.clone()).collect()
    }

    /// Whether there is one that nobody has taken.
    pub(crate) fn has_any(&self) -> bool {
        self.0.load().values().any(|batch| !batch.is_taken.load(Ordering::Relaxed))
    }
}

impl<T> Batch<T> {
    /// Says whether it was free.
    fn take(&self) -> bool {
        !self.is_taken.swap(true, Ordering::AcqRel)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::AtomicUsize;

    #[test]
    fn each_is_taken_once() {
        let batches = Batches::default();
        assert!(batches.take(&1).is_none() && !batches.has_any());
        assert!(!batches.prepare(&1, "a"));
        assert!(batches.has_any());
        assert_eq!(batches.look(&1), Some(("a".into(), false)));
        assert_eq!(batches.take(&1), Some("a".into()));
        assert!(batches.take(&1).is_none() && !batches.has_any());
        assert_eq!(batches.look(&1), Some(("a".into(), true)));
    }

    #[test]
    fn what_is_prepared_again_replaces_what_was() {
        let batches = Batches::default();
        batches.prepare(&1, "a");
        batches.prepare(&2, "b");
        assert!(!batches.prepare(&1, "c"), "it is withdrawn before anybody has taken it");
        assert_eq!(batches.take(&1), Some("c".into()));
        assert!(batches.prepare(&1, "d"), "the one before was taken");
        batches.keep_only(&BTreeSet::from([1]));
        assert!(batches.take(&2).is_none());
    }

    /// The priorities change while a machine announces itself: it gets the routes of before or those of now.
    #[test]
    fn what_is_replaced_while_it_is_taken_is_taken_all_the_same() {
        for _ in 0..2_000 {
            let batches = Batches::default();
            batches.prepare(&1, "a");
            std::thread::scope(|scope| {
                scope.spawn(|| batches.prepare(&1, "b"));
                let taken = scope.spawn(|| batches.take(&1).is_some());
                assert!(taken.join().unwrap());
            });
        }
    }

    /// Of one that is taken and withdrawn at the same time, whoever withdraws it knows afterwards that nobody takes it any more.
    #[test]
    fn nobody_takes_what_was_withdrawn() {
        const ROUNDS: u64 = 2_000;
        let (batches, taken_late) = (Batches::default(), AtomicUsize::new(0));
        let withdrawn_up_to = std::sync::atomic::AtomicU64::new(0);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                for number in 1..=ROUNDS {
                    batches.prepare(&number, "a");
                    batches.keep_only(&BTreeSet::new());
                    withdrawn_up_to.store(number, Ordering::SeqCst);
                }
            });
            scope.spawn(|| {
                loop {
                    let withdrawn = withdrawn_up_to.load(Ordering::SeqCst);
                    // The one that is prepared perhaps, and the last one that is withdrawn for sure.
                    let _perhaps = batches.take(&(withdrawn + 1));
                    if batches.take(&withdrawn).is_some() {
                        taken_late.fetch_add(1, Ordering::SeqCst);
                    }
                    if withdrawn == ROUNDS {
                        return;
                    }
                }
            });
        });
        assert_eq!(taken_late.into_inner(), 0);
    }
}
