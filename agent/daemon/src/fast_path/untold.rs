//! Announcements that the source's agent has not been told of yet.
//!
//! Owns who tells of each: the thread that has written its routes or, if those wait for others, one that has nothing else to do. Telling
//! wakes threads of a real-time priority, which is why it comes after the routes; but the source can forward without them.
//!
//! KERNEL: a thread that epoll has woken for a record goes on sleeping if another one has taken it, for as long as it wanted to sleep before.
//! So a timer wakes somebody, and not a limit of that sleep.

use crate::clock;
use crate::peers::Herald;
use cutover_engine::BootTime;
use nix::sys::time::TimeSpec;
use nix::sys::timerfd::{ClockId, Expiration, TimerFd, TimerFlags, TimerSetTimeFlags};
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tracing::debug;

/// How long the routes of an announcement may take before another thread tells of it.
///
/// LIMIT: several times what they take on a host where nobody has the lock of links.
pub(super) const UNTOLD_FOR: Duration = Duration::from_millis(1);

/// LIMIT: more announcements at once have their room made while they are held.
const AT_ONCE: usize = 64;

/// By the generation of the watch, since when, in this order.
///
/// LIMIT: a thread of the reserve that loses its processor while it holds them makes the lead wait for it. That is some dozen instructions
/// and a system call.
#[derive(Debug)]
pub(super) struct Untold {
    waiting: Mutex<Vec<(u64, BootTime)>>,
    /// Expires when the first of them has waited for too long.
    timer: TimerFd,
}

impl Untold {
    pub(super) fn new() -> io::Result<Self> {
        let flags = TimerFlags::TFD_CLOEXEC | TimerFlags::TFD_NONBLOCK;
        let timer = TimerFd::new(ClockId::CLOCK_MONOTONIC, flags)?;
        Ok(Self { waiting: Mutex::new(Vec::with_capacity(AT_ONCE)), timer })
    }

    /// What becomes readable when somebody has to call [`Self::tell_overdue`].
    pub(super) fn timer(&self) -> BorrowedFd<'_> {
        self.timer.as_fd()
    }

    /// One has been taken from the ring.
    pub(super) fn add(&self, generation: u64, now: BootTime) {
        let mut waiting = self.waiting();
        waiting.push((generation, now));
        if waiting.len() == 1 {
            self.wind(Some(UNTOLD_FOR));
        }
    }

    /// Tells of it, unless somebody has.
    pub(super) fn tell(&self, generation: u64, herald: &Herald) {
        if self.forget(generation) {
            herald.announced(generation);
        }
    }

    /// Nobody is to tell of it any more. Says whether anybody had to.
    pub(super) fn forget(&self, generation: u64) -> bool {
        let mut waiting = self.waiting();
        let Some(place) = waiting.iter().position(|(untold, _)| *untold == generation) else { return false };
        waiting.remove(place);
        if waiting.is_empty() {
            self.wind(None);
        }
        true
    }

    /// Tells of those that have waited for too long.
    pub(super) fn tell_overdue(&self, herald: &Herald) {
        while let Some(generation) = self.next_overdue(clock::now()) {
            herald.announced(generation);
        }
    }

    fn next_overdue(&self, now: BootTime) -> Option<u64> {
        let mut waiting = self.waiting();
        let (generation, since) = *waiting.first()?;
        let waited = now.since(since);
        if let Some(rest) = UNTOLD_FOR.checked_sub(waited).filter(|rest| !rest.is_zero()) {
            self.wind(Some(rest));
            return None;
        }
        waiting.remove(0);
        if waiting.is_empty() {
            self.wind(None);
        }
        Some(generation)
    }

    /// Lets the timer expire so much later, or not at all; it is not readable any more.
    fn wind(&self, after: Option<Duration>) {
        let set = match after {
            Some(after) => {
                self.timer.set(Expiration::OneShot(TimeSpec::from(after)), TimerSetTimeFlags::empty())
            }
            None => self.timer.unset(),
        };
        if let Err(error) = set {
            debug!(%error, "the fast path's timer cannot be set; the source hears of an announcement when its routes are written");
        }
    }

    fn waiting(&self) -> MutexGuard<'_, Vec<(u64, BootTime)>> {
        // They are whole at every point where their holder could panic.
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

    /// Whether the timer expires within a second.
    fn expires(untold: &Untold, within_ms: u16) -> bool {
        let mut polled = [PollFd::new(untold.timer(), PollFlags::POLLIN)];
        poll(&mut polled, PollTimeout::from(within_ms)).unwrap() == 1
    }

    #[test]
    fn what_is_told_of_in_time_wakes_nobody() {
        let (untold, herald) = (Untold::new().unwrap(), Herald::default());
        untold.add(7, clock::now());
        assert!(untold.forget(7) && !untold.forget(7));
        assert!(!expires(&untold, 20));
        untold.add(8, clock::now());
        untold.tell(8, &herald);
        assert!(!expires(&untold, 20));
    }

    #[test]
    fn what_waits_for_too_long_is_told_of_by_whoever_is_woken() {
        let (untold, herald) = (Untold::new().unwrap(), Herald::default());
        let now = clock::now();
        untold.add(7, now);
        // Taken much later than the first one.
        untold.add(8, now + Duration::from_secs(3600));
        assert!(expires(&untold, 10_000));
        untold.tell_overdue(&herald);
        assert!(!untold.forget(7), "told of");
        assert!(untold.forget(8), "it has time");
        assert!(!expires(&untold, 20));
    }

    #[test]
    fn one_after_the_other_has_its_own_time() {
        let (untold, herald) = (Untold::new().unwrap(), Herald::default());
        for generation in [7, 8] {
            untold.add(generation, clock::now());
            assert!(expires(&untold, 10_000), "{generation}");
            untold.tell_overdue(&herald);
            assert!(!expires(&untold, 0) && !untold.forget(generation));
        }
    }
}
