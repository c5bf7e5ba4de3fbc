//! When to try again what failed: one thing ([`BackOff`]), or each of many ([`Retries`]).
//!
//! Owns the waiting times. Whoever applies keeps the thing itself
//! dirty and asks here whether its time has come.

use cutover_engine::BootTime;
use std::collections::BTreeMap;
use std::time::Duration;

/// The one policy for trying again: double the pause from the first to the last.
#[derive(Debug)]
pub struct BackOff {
    pause: Duration,
    longest: Duration,
}

impl BackOff {
    /// LIMIT: quick enough for a tap that is just coming up.
    const FIRST: Duration = Duration::from_millis(100);
    /// LIMIT: slow enough not to fill the log, quick enough for an operator who has just mended something.
    const LAST: Duration = Duration::from_secs(10);

    /// Starts with the shortest pause.
    #[must_use]
    pub const fn new() -> Self {
        Self::up_to(Self::LAST)
    }

    /// The same, but no pause is longer than `longest`.
    #[must_use]
    pub const fn up_to(longest: Duration) -> Self {
        Self { pause: Self::FIRST, longest }
    }

    /// The pause before the next attempt; each is twice the one before.
    pub fn next_pause(&mut self) -> Duration {
        let pause = self.pause;
        self.pause = (pause * 2).min(self.longest);
        pause
    }

    /// It worked: the next failure starts with the shortest pause again.
    pub const fn reset(&mut self) {
        self.pause = Self::FIRST;
    }
}

impl Default for BackOff {
    fn default() -> Self {
        Self::new()
    }
}

/// What failed, and when to try it again.
#[derive(Debug)]
pub struct Retries<K> {
    entries: BTreeMap<K, Entry>,
}

#[derive(Debug)]
struct Entry {
    due_at: BootTime,
    back_off: BackOff,
}

impl<K> Default for Retries<K> {
    fn default() -> Self {
        Self { entries: BTreeMap::new() }
    }
}

impl<K: Ord> Retries<K> {
    /// Whether it is too early to try `key` again.
    #[must_use]
    pub fn holds(&self, key: &K, now: BootTime) -> bool {
        self.entries.get(key).is_some_and(|entry| entry.due_at > now)
    }

    /// `key` failed. Says whether it is the first time in a row.
    pub fn failed(&mut self, key: K, now: BootTime) -> bool {
        let (mut back_off, is_first) = match self.entries.remove(&key) {
            Some(entry) => (entry.back_off, false),
            None => (BackOff::new(), true),
        };
        let due_at = now + back_off.next_pause();
        self.entries.insert(key, Entry { due_at, back_off });
        is_first
    }

    /// Whether `key` failed and has not succeeded since.
    #[must_use]
    pub fn has_failed(&self, key: &K) -> bool {
        self.entries.contains_key(key)
    }

    /// `key` succeeded.
    pub fn succeeded(&mut self, key: &K) {
        self.entries.remove(key);
    }

    /// What matches may be tried again at once: its circumstances changed. Says whether there is anything of that kind.
    pub fn release(&mut self, matches: impl Fn(&K) -> bool) -> bool {
        let before = self.entries.len();
        self.entries.retain(|key, _| !matches(key));
        self.entries.len() < before
    }

    /// When the next try after the one at `last` is due. What was due then and was not tried waits for an event.
    #[must_use]
    pub fn next_after(&self, last: BootTime) -> Option<BootTime> {
        self.entries.values().map(|entry| entry.due_at).filter(|&due_at| due_at > last).min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_longer_each_time_and_starts_over_after_success() {
        let mut retries = Retries::default();
        let mut now = BootTime(0);
        let mut pauses = Vec::new();
        for _ in 0..9 {
            retries.failed("route", now);
            let next = retries.next_after(now).unwrap();
            assert!(retries.holds(&"route", now));
            assert!(!retries.holds(&"route", next));
            pauses.push(next.since(now).as_millis());
            now = next;
        }
        assert_eq!(pauses, [100, 200, 400, 800, 1600, 3200, 6400, 10_000, 10_000]);
        assert_eq!(retries.next_after(now), None, "due now is not due later");
        retries.succeeded(&"route");
        assert!(retries.failed("route", now), "the first in a row again");
        assert_eq!(retries.next_after(now).unwrap().since(now).as_millis(), 100);
    }

    #[test]
    fn released_means_at_once() {
        let mut retries = Retries::default();
        retries.failed(1, BootTime(0));
        retries.failed(2, BootTime(0));
        retries.release(|&key| key == 1);
        assert!(!retries.holds(&1, BootTime(0)));
        assert!(retries.holds(&2, BootTime(0)));
    }
}
