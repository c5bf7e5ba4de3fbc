//! When to detach programs from taps that are not watched any more. Pure; the watch applier asks.
//!
//! Detaching can hold the kernel's lock of links for 8 to 16 ms, and the IPv4 route of a VM that announces itself meanwhile waits for it. So
//! programs are detached one at a time, when no announcement is awaited.

use cutover_engine::BootTime;
use std::time::Duration;

/// How long no announcement may have been awaited before, and the pause between two detachments.
pub(super) const PAUSE: Duration = Duration::from_millis(50);
/// LIMIT: somebody can be awaited for hours, or the next one before the last has come. What is left attached costs each frame of a running
/// machine some nanoseconds, so it goes all the same after so long, and then those that are awaited may wait for some milliseconds.
const AT_THE_LATEST: Duration = Duration::from_secs(60);
/// Pause between two detachments while announcements are awaited.
const PAUSE_IF_AWAITED: Duration = Duration::from_secs(1);
/// How often is looked whether somebody still is.
const LOOK_AGAIN: Duration = Duration::from_millis(200);

/// What is known about the time so far.
#[derive(Debug, Default)]
pub(super) struct Quiet {
    /// Something is to be detached.
    idle_since: Option<BootTime>,
    /// Since when no announcement has been awaited and no watch has ended.
    quiet_since: Option<BootTime>,
    /// When it was tried last.
    tried_at: BootTime,
    /// How much there was to be detached.
    idle: usize,
}

/// What to do.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Next {
    /// There is nothing to be detached.
    Nothing,
    DetachOne,
    LookAgainAt(BootTime),
}

impl Quiet {
    /// `idle` is the number of taps to detach from.
    pub(super) fn next(&mut self, idle: usize, is_awaiting: bool, now: BootTime) -> Next {
        if idle == 0 {
            *self = Self { tried_at: self.tried_at, ..Self::default() };
            return Next::Nothing;
        }
        let idle_since = *self.idle_since.get_or_insert(now);
        // Whoever was just let go may still have routes to be written.
        if is_awaiting || idle > self.idle {
            self.quiet_since = None;
        }
        self.idle = idle;
        let (from, pause) = if is_awaiting {
            (idle_since + AT_THE_LATEST, PAUSE_IF_AWAITED)
        } else {
            (*self.quiet_since.get_or_insert(now) + PAUSE, PAUSE)
        };
        let at = from.max(self.tried_at + pause);
        if at <= now {
            self.tried_at = now;
            Next::DetachOne
        } else if is_awaiting {
            Next::LookAgainAt(at.min(now + LOOK_AGAIN))
        } else {
            Next::LookAgainAt(at)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(ms: u64) -> BootTime {
        BootTime(1_000_000_000_000) + Duration::from_millis(ms)
    }

    /// When each is detached from, in milliseconds, if the quiet is asked whenever it wants to be and at these moments.
    fn detached(
        mut idle: usize,
        is_awaiting: impl Fn(u64) -> bool,
        asked_at: &[u64],
        until: u64,
    ) -> Vec<u64> {
        let (mut quiet, mut detached, mut wake) = (Quiet::default(), Vec::new(), Some(0));
        for now in 0..until {
            if wake != Some(now) && !asked_at.contains(&now) {
                continue;
            }
            let mut next = quiet.next(idle, is_awaiting(now), at(now));
            if next == Next::DetachOne {
                detached.push(now);
                idle -= 1;
                next = quiet.next(idle, is_awaiting(now), at(now));
            }
            wake = match next {
                Next::Nothing => None,
                Next::LookAgainAt(then) => {
                    assert!(then > at(now), "it spins");
                    Some(now + u64::try_from(then.since(at(now)).as_millis()).unwrap())
                }
                Next::DetachOne => panic!("two in one moment"),
            };
        }
        detached
    }

    #[test]
    fn one_after_the_other_whatever_else_happens() {
        let often: Vec<u64> = (0..1_000).collect();
        for asked_at in [&[][..], &often] {
            assert_eq!(detached(4, |_| false, asked_at, 1_000), [50, 100, 150, 200]);
        }
    }

    #[test]
    fn not_while_somebody_is_awaited_nor_right_after_that() {
        let is_awaiting = |now| now < 1_000;
        let detached = detached(3, is_awaiting, &[1_000], 2_000);
        assert_eq!(detached, [1_050, 1_100, 1_150]);
    }

    /// Somebody comes between the first and the second.
    #[test]
    fn whoever_is_awaited_anew_is_waited_for_as_well() {
        let is_awaiting = |now| (70..300).contains(&now);
        assert_eq!(detached(2, is_awaiting, &[70, 300], 2_000), [50, 350]);
    }

    #[test]
    fn who_is_never_done_does_not_keep_them_for_ever() {
        let detached = detached(3, |_| true, &[], 70_000);
        assert_eq!(detached, [60_000, 61_000, 62_000]);
    }

    /// It has just announced itself, and its IPv4 routes are perhaps being written.
    #[test]
    fn one_more_starts_the_pause_anew() {
        let mut quiet = Quiet::default();
        assert_eq!(quiet.next(1, false, at(0)), Next::LookAgainAt(at(50)));
        assert_eq!(quiet.next(2, false, at(49)), Next::LookAgainAt(at(99)));
        assert_eq!(quiet.next(2, false, at(99)), Next::DetachOne);
        assert_eq!(quiet.next(1, false, at(99)), Next::LookAgainAt(at(149)));
        assert_eq!(quiet.next(0, false, at(149)), Next::Nothing);
        // The next one much later.
        assert_eq!(quiet.next(1, false, at(5_000)), Next::LookAgainAt(at(5_050)));
    }
}
