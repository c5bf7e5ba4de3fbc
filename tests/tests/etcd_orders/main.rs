//! Every order of events that etcd can deliver, with a real etcd, real agents and real taps. Needs root.
//!
//! What the orders are is said in `orders`; the scenarios are in `scenarios`.

mod guest;
mod judge;
mod orders;
mod port_status;
mod scenarios;
mod stage;

use stage::{Queue, Stage};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::thread;

/// LIMIT: stages wait more than they work, so there are more of them than processors.
const STAGES: usize = 4;

#[test]
fn every_order_of_every_scenario() {
    let chosen = std::env::var("CUTOVER_SCENARIOS").unwrap_or_default();
    let chosen = scenarios::all().into_iter().filter(|scenario| scenario.name.starts_with(&chosen));
    let queue = Queue::new(chosen.flat_map(|scenario| scenario.scripts()).collect());
    let play = || catch_unwind(AssertUnwindSafe(|| Stage::new().play_all(&queue))).is_ok();
    let all_right = thread::scope(|scope| {
        let stages: Vec<_> = (0..STAGES).map(|_| scope.spawn(play)).collect();
        stages.into_iter().map(|stage| stage.join().unwrap_or(false)).collect::<Vec<_>>()
    });
    assert_eq!(all_right, [true; STAGES], "see above");
}
