//! What is prepared for announcements.
//!
//! Owns the batches until one thread takes each. Whoever prepares and withdraws them is an ordinary thread, which can lose its processor at
//! any instruction, and a thread with a real-time priority must not wait for that: so nobody waits here for anybody. What is there is
//! exchanged as a whole, and one flag says whether a batch is taken.

use super::Prepared;
use crate::netlink::{ByFamily, Family};
use arc_swap::ArcSwap;
use cutover_engine::wanted::WantedRoute;
use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

type ByGeneration = HashMap<u64, Arc<Batch>>;

/// The batches, by the generation of the watch.
#[derive(Debug, Default)]
pub(super) struct Batches(ArcSwap<ByGeneration>);

#[derive(Debug)]
struct Batch {
    prepared: ByFamily<Arc<Prepared>>,
    /// By a thread, or because it is withdrawn.
    is_taken: AtomicBool,
}

impl Batches {
    /// From now on these routes belong to this generation, in place of those in the table of what is forwarded, if there is one.
    pub(super) fn prepare(&self, generation: u64, routes: &[WantedRoute], forward_table: Option<u32>) {
        let prepared =
            ByFamily::each(|family: Family| Arc::new(Prepared::new(family, routes, forward_table)));
        let batch = Arc::new(Batch { prepared, is_taken: AtomicBool::new(false) });
        let before = self.0.rcu(|batches| {
            let mut batches = ByGeneration::clone(batches);
            batches.insert(generation, Arc::clone(&batch));
            batches
        });
        if let Some(replaced) = before.get(&generation) {
            replaced.take();
        }
    }

    /// Nobody gets those of other generations any more.
    pub(super) fn keep_only(&self, generations: &BTreeSet<u64>) {
        let is_kept = |generation: &u64| generations.contains(generation);
        if self.0.load().keys().all(is_kept) {
            return;
        }
        let before = self.0.rcu(|batches| {
            let kept = batches.iter().filter(|(generation, _)| is_kept(generation));
            kept.map(|(generation, batch)| (*generation, Arc::clone(batch))).collect::<ByGeneration>()
        });
        // ORDER: whoever has looked just before finds it taken.
        for (_, batch) in before.iter().filter(|(generation, _)| !is_kept(generation)) {
            batch.take();
        }
    }

    /// The one of this generation, for the first who asks.
    pub(super) fn take(&self, generation: u64) -> Option<ByFamily<Arc<Prepared>>> {
        loop {
            let batches = self.0.load();
            let batch = batches.get(&generation)?;
            if batch.take() {
                let ByFamily { ipv4, ipv6 } = &batch.prepared;
                return Some(ByFamily { ipv4: Arc::clone(ipv4), ipv6: Arc::clone(ipv6) });
            }
            // Another one may be in its place by now: that was put there before this one was taken away.
            if self.0.load().get(&generation).is_none_or(|now| Arc::ptr_eq(now, batch)) {
                return None;
            }
        }
    }

    /// Whether there is one that nobody has taken.
    pub(super) fn has_any(&self) -> bool {
        self.0.load().values().any(|batch| !batch.is_taken.load(Ordering::Relaxed))
    }
}

impl Batch {
    /// Says whether it was free.
    fn take(&self) -> bool {
        !self.is_taken.swap(true, Ordering::AcqRel)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::AtomicUsize;

    fn routes(metric: u32) -> Vec<WantedRoute> {
        ["10.65.0.2/32", "2001:db8::2/128"]
            .map(|destination| WantedRoute {
                destination: destination.parse().unwrap(),
                ifindex: 7,
                metric,
                protocol: 3,
                source: None,
            })
            .into()
    }

    #[test]
    fn each_is_taken_once() {
        let batches = Batches::default();
        assert!(batches.take(1).is_none() && !batches.has_any());
        batches.prepare(1, &routes(512), None);
        assert!(batches.has_any());
        let taken = batches.take(1).unwrap();
        assert_eq!((&taken.ipv4.routes[..], &taken.ipv6.routes[..]), (&routes(512)[..1], &routes(512)[1..]));
        assert!(batches.take(1).is_none() && !batches.has_any());
    }

    #[test]
    fn what_is_prepared_again_replaces_what_was() {
        let batches = Batches::default();
        batches.prepare(1, &routes(512), None);
        batches.prepare(2, &routes(512), None);
        batches.prepare(1, &routes(300), None);
        assert_eq!(batches.take(1).unwrap().ipv4.routes[0].metric, 300);
        batches.keep_only(&BTreeSet::from([1]));
        assert!(batches.take(2).is_none());
    }

    /// The priorities change while a machine announces itself: it gets the routes of before or those of now.
    #[test]
    fn what_is_replaced_while_it_is_taken_is_taken_all_the_same() {
        for _ in 0..2_000 {
            let batches = Batches::default();
            batches.prepare(1, &routes(512), None);
            std::thread::scope(|scope| {
                scope.spawn(|| batches.prepare(1, &routes(300), None));
                let taken = scope.spawn(|| batches.take(1).is_some());
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
                for generation in 1..=ROUNDS {
                    batches.prepare(generation, &routes(512), None);
                    batches.keep_only(&BTreeSet::new());
                    withdrawn_up_to.store(generation, Ordering::SeqCst);
                }
            });
            scope.spawn(|| {
                loop {
                    let withdrawn = withdrawn_up_to.load(Ordering::SeqCst);
                    // The one that is prepared perhaps, and the last one that is withdrawn for sure.
                    let _perhaps = batches.take(withdrawn + 1);
                    if batches.take(withdrawn).is_some() {
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
