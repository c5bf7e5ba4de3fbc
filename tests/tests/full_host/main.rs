//! Ten thousand endpoints at once on one host, beside the BGP daemons that hear of every route. Not among the other tests of these
//! daemons, because it takes the whole machine for most of a minute; for the same reason one after the other.

mod bird;
mod frr;

use std::sync::{Mutex, MutexGuard, PoisonError};

/// Held by the test whose turn it is.
fn turn() -> MutexGuard<'static, ()> {
    static TURN: Mutex<()> = Mutex::new(());
    // One that failed has left nothing of its own.
    TURN.lock().unwrap_or_else(PoisonError::into_inner)
}
