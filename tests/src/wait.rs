//! Waiting for a condition with a deadline. Owns no condition; everything in the lab that waits calls it.

use std::fmt::Display;
use std::sync::OnceLock;
use std::thread;
use std::time::{Duration, Instant};

/// How long a condition that the agent brings about at once may take on a loaded machine.
///
/// LIMIT: only failing tests wait this long.
pub const SOON: Duration = Duration::from_secs(10);

/// How often a condition is looked at.
const PERIOD: Duration = Duration::from_millis(2);

/// LIMIT: how many times the limit may be lost. On a machine that gives less than that, nothing comes to an end.
const LOST_MAX: u32 = 10;

/// How many times longer everything may take: a whole number, for machines that are slow by nature, such as an emulated one.
const PATIENCE: &str = "CUTOVER_TEST_PATIENCE";

/// A limit for this machine. Every deadline of the lab goes through here; what has to last for a time does not.
///
/// # Panics
/// When `CUTOVER_TEST_PATIENCE` is something else than a whole number from 1 on.
#[must_use]
pub fn patient(limit: Duration) -> Duration {
    static FACTOR: OnceLock<u32> = OnceLock::new();
    let factor = FACTOR.get_or_init(|| factor(std::env::var(PATIENCE).ok().as_deref()));
    limit * *factor
}

fn factor(value: Option<&str>) -> u32 {
    let Some(value) = value else { return 1 };
    let number = value.parse().ok().filter(|number| *number >= 1);
    number.unwrap_or_else(|| panic!("{PATIENCE} is {value:?}, and not a whole number from 1 on"))
}

/// Whether `condition` became true within `limit`.
pub fn holds_within(limit: Duration, condition: impl FnMut() -> bool) -> bool {
    holds_within_but_for(limit, || Duration::ZERO, condition)
}

/// The same, but for time that somebody could not use ([`crate::Starved`]), which is asked for when the limit is over.
pub fn holds_within_but_for(
    limit: Duration,
    lost: impl Fn() -> Duration,
    mut condition: impl FnMut() -> bool,
) -> bool {
    let limit = patient(limit);
    let began_at = Instant::now();
    loop {
        if condition() {
            return true;
        }
        let took = began_at.elapsed();
        if took >= limit && took >= limit + lost().min(limit * LOST_MAX) {
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
    assert!(holds_within(limit, condition), "not within {:?}: {what}", patient(limit));
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
    assert!(in_time, "not within {:?}: {what}", patient(limit));
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patience_is_a_whole_number_and_one_without_a_word() {
        assert_eq!([None, Some("1"), Some("6")].map(factor), [1, 1, 6]);
        for wrong in ["", "0", "-1", "1.5", "much"] {
            assert!(std::panic::catch_unwind(|| factor(Some(wrong))).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn what_is_lost_is_waited_for_in_addition_and_not_for_ever() {
        let limit = Duration::from_millis(20);
        let took = |lost: Duration| {
            let began_at = Instant::now();
            assert!(!holds_within_but_for(limit, || lost, || false));
            began_at.elapsed()
        };
        assert!(took(Duration::from_millis(50)) >= Duration::from_millis(70));
        // It ends.
        assert!(took(Duration::MAX) >= limit * (LOST_MAX + 1));
    }

    #[test]
    #[should_panic(expected = "the tide")]
    fn what_does_not_come_is_named() {
        until(Duration::from_millis(1), "the tide", || false);
    }
}
