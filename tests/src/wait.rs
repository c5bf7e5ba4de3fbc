//! Waiting for a condition with a deadline. Owns no condition; everything in the lab that waits calls it.

use std::fmt::Display;
use std::thread;
use std::time::{Duration, Instant};

/// How long a condition that the agent brings about at once may take on a loaded machine.
///
/// LIMIT: only failing tests wait this long.
pub const SOON: Duration = Duration::from_secs(10);

/// How often a condition is looked at.
const PERIOD: Duration = Duration::from_millis(2);

/// Whether `condition` became true within `limit`.
pub fn holds_within(limit: Duration, mut condition: impl FnMut() -> bool) -> bool {
    let deadline = Instant::now() + limit;
    loop {
        if condition() {
            return true;
        }
        if Instant::now() >= deadline {
            return false;
        }
        thread::sleep(PERIOD);
    }
}

/// Returns as soon as `condition` is true.
///
/// # Panics
/// When it is not within `limit`; `what` says what was waited for.
#[track_caller]
pub fn until(limit: Duration, what: impl Display, condition: impl FnMut() -> bool) {
    assert!(holds_within(limit, condition), "not within {limit:?}: {what}");
}

/// Returns the first value that `attempt` finds.
///
/// # Panics
/// When there is none within `limit`.
#[track_caller]
pub fn for_some<T>(limit: Duration, what: impl Display, mut attempt: impl FnMut() -> Option<T>) -> T {
    let mut found = None;
    let in_time = holds_within(limit, || {
        found = attempt();
        found.is_some()
    });
    assert!(in_time, "not within {limit:?}: {what}");
    found.expect("holds_within said so")
}

/// Checks over and over again for `period` that `condition` holds.
///
/// # Panics
/// When it does not.
#[track_caller]
pub fn throughout(period: Duration, what: impl Display, mut condition: impl FnMut() -> bool) {
    let started = Instant::now();
    while started.elapsed() < period {
        assert!(condition(), "after {:?} of {period:?} no longer: {what}", started.elapsed());
        thread::sleep(PERIOD);
    }
}
