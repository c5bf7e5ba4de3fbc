//! What a real Neutron wrote, replayed on a real etcd to real agents on every host, in real time. Needs root.
//!
//! One test for all recordings: they wait more than they work, so more of them run at once than there are processors.

mod judge;
mod member;
mod outage;
mod recording;
mod replay;
mod whole_run;
mod written;

use outage::Outage;
use recording::Recording;
use replay::Replay;
use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;
use std::thread;

/// LIMIT: more at once and the two processors of a small machine are busy all the time, which makes everything late.
const AT_ONCE: usize = 6;

#[test]
fn every_recording() {
    let names = Recording::names();
    assert_eq!(names.len(), 30);
    let chosen = std::env::var("CUTOVER_RECORDINGS").unwrap_or_default();
    let names = names.into_iter().filter(|name| name.starts_with(&chosen));
    let queue: VecDeque<(String, Option<Outage>)> = names
        .flat_map(|name| outage::all(&name).into_iter().map(move |outage| (name.clone(), outage)))
        .collect();
    let (queue, failed) = (Mutex::new(queue), Mutex::new(Vec::new()));
    thread::scope(|scope| {
        for _ in 0..AT_ONCE {
            scope.spawn(|| {
                while let Some((name, outage)) = take(&queue) {
                    let recording = Recording::read(&name);
                    if catch_unwind(AssertUnwindSafe(|| Replay::run(&recording, outage))).is_err() {
                        failed.lock().expect("nobody panics with the lock").push((name, outage));
                    }
                }
            });
        }
    });
    let failed = failed.into_inner().expect("nobody panics with the lock");
    assert!(failed.is_empty(), "these failed, see above: {failed:?}");
}

fn take<T>(queue: &Mutex<VecDeque<T>>) -> Option<T> {
    queue.lock().expect("nobody panics with the lock").pop_front()
}
