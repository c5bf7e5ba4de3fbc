//! When the log is told that libvirt is heard, or why not. No I/O, and time is an argument.
//!
//! A daemon that is started over and over would fill the log: within a minute after a line there is no other, and after that only one
//! that says something else than the last.

use cutover_engine::BootTime;
use std::time::Duration;

/// LIMIT: two lines a minute at the most, as the first change is told at once.
const QUIET: Duration = Duration::from_secs(60);

/// What was said last.
#[derive(Debug)]
pub(super) struct Said<T> {
    now: Option<T>,
    last: Option<T>,
    quiet_until: Option<BootTime>,
}

impl<T> Default for Said<T> {
    fn default() -> Self {
        Self { now: None, last: None, quiet_until: None }
    }
}

impl<T: Clone + PartialEq> Said<T> {
    /// This is how it stands.
    pub(super) fn set(&mut self, now: T) {
        self.now = Some(now);
    }

    /// What is to be said now, if anything is. The first change after a while is said at once.
    pub(super) fn due(&mut self, at: BootTime) -> Option<T> {
        if self.now == self.last || self.quiet_until.is_some_and(|until| at < until) {
            return None;
        }
        self.quiet_until = Some(at + QUIET);
        self.last.clone_from(&self.now);
        self.now.clone()
    }

    /// When to ask again without being told anything.
    pub(super) fn due_at(&self) -> Option<BootTime> {
        self.quiet_until.filter(|_| self.now != self.last)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_is_said_at_once_and_flapping_once_a_minute() {
        let mut said = Said::default();
        let second = |second: u64| BootTime(second * 1_000_000_000);
        assert_eq!(said.due(second(0)), None);
        said.set("heard");
        assert_eq!(said.due(second(1)), Some("heard"));
        assert_eq!((said.due(second(2)), said.due_at()), (None, None));
        for at in 3..50 {
            said.set(if at % 2 == 0 { "lost" } else { "heard" });
            assert_eq!(said.due(second(at)), None);
        }
        assert_eq!(said.due_at(), None, "it is as was said");
        said.set("lost");
        assert_eq!(said.due_at(), Some(second(61)));
        assert_eq!(said.due(second(61)), Some("lost"));
        said.set("heard");
        assert_eq!(said.due(second(500)), Some("heard"), "at once after a while");
    }
}
