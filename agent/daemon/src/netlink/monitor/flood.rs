//! Floods: when notifications about neighbours are no longer worth hearing, and when to read again after an overrun. Pure.
//!
//! Whoever is at the other end of a tap can have as many neighbours made and changed as the table holds, as fast as it sends
//! solicitations from one address after the other, and each change is notified. Only permanent ones matter, and they change rarely.

use cutover_engine::BootTime;
use std::time::Duration;

/// LIMIT: so many notifications about neighbours that come to nothing are heard in a second. That takes some milliseconds, and a host
/// whose guests behave has a few.
const IN_VAIN_MAX: u32 = 2_000;
const SECOND: Duration = Duration::from_secs(1);

/// LIMIT: so long no neighbours are heard of then; afterwards they are read. A permanent neighbour that somebody takes away in a flood
/// is back that much later. Links and routes are heard of all the time.
pub(super) const PAUSE: Duration = SECOND;

/// Counts notifications about neighbours that come to nothing.
#[derive(Debug, Default)]
pub(super) struct Flood {
    since: BootTime,
    in_vain: u32,
}

impl Flood {
    /// One more. Says whether that is too many.
    pub(super) fn came_to_nothing(&mut self, now: BootTime) -> bool {
        if now.since(self.since) >= SECOND {
            *self = Self { since: now, in_vain: 0 };
        }
        self.in_vain += 1;
        self.in_vain > IN_VAIN_MAX
    }
}

/// The pause after the second overrun in a row; each is twice the one before.
const FIRST: Duration = Duration::from_millis(20);
/// LIMIT: a table that changes faster than it is read is read so often: links and routes of which the word was lost are known that much
/// later, and the time of a read.
const LAST: Duration = SECOND;
/// LIMIT: an overrun so long after another has nothing to do with it.
const QUIET: Duration = Duration::from_secs(10);

/// Counts overruns in a row.
#[derive(Debug, Default)]
pub(super) struct Overruns {
    last: Option<BootTime>,
    in_a_row: u32,
    /// When the next read may begin.
    rest_until: BootTime,
}

impl Overruns {
    /// One more. Returns when to read again, which is no earlier for whoever else wants to. Another one before that
    /// does not put it off.
    pub(super) fn note(&mut self, now: BootTime) -> BootTime {
        if now < self.rest_until {
            self.last = Some(now);
            return self.rest_until;
        }
        let goes_on = self.last.replace(now).is_some_and(|last| now.since(last) < QUIET);
        self.in_a_row = if goes_on { self.in_a_row.saturating_add(1) } else { 1 };
        let pause = match self.in_a_row.checked_sub(2) {
            None => Duration::ZERO,
            Some(doublings) => FIRST.saturating_mul(1 << doublings.min(16)).min(LAST),
        };
        self.rest_until = now + pause;
        self.rest_until
    }

    /// The moment in which a read may begin that is wanted at `at`.
    pub(super) fn not_before_rest(&self, at: BootTime) -> BootTime {
        at.max(self.rest_until)
    }

    /// Whether the last one was not the first one.
    pub(super) const fn go_on(&self) -> bool {
        self.in_a_row > 1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(ms: u64) -> BootTime {
        BootTime(1_000_000_000_000) + Duration::from_millis(ms)
    }

    #[test]
    fn so_many_in_a_second_are_a_flood_and_the_same_in_two_are_none() {
        let mut flood = Flood::default();
        assert!((0..IN_VAIN_MAX).all(|_| !flood.came_to_nothing(at(0))));
        assert!(flood.came_to_nothing(at(999)));
        assert!((0..IN_VAIN_MAX).all(|_| !flood.came_to_nothing(at(1_000))));
        assert!((0..IN_VAIN_MAX).all(|_| !flood.came_to_nothing(at(2_000))));
    }

    #[test]
    fn the_first_overrun_is_read_after_at_once_and_the_next_ones_ever_later() {
        let mut overruns = Overruns::default();
        let pauses: Vec<u128> =
            (0..9).map(|round| overruns.note(at(round * 1000)).since(at(round * 1000)).as_millis()).collect();
        assert_eq!(pauses, [0, 20, 40, 80, 160, 320, 640, 1000, 1000]);
        assert!(overruns.go_on());
        assert_eq!(overruns.not_before_rest(at(8_500)), at(9_000), "whoever wants it");
        assert_eq!(overruns.not_before_rest(at(9_500)), at(9_500));
        assert_eq!(overruns.note(at(9_000 + 10_000)), at(9_000 + 10_000));
        assert!(!overruns.go_on());
        let mut now = at(30_000);
        for _ in 0..100 {
            let read_at = overruns.note(now);
            assert!(read_at <= now + LAST, "however many");
            now = read_at;
        }
    }

    #[test]
    fn overruns_before_the_next_read_do_not_put_it_off() {
        let mut overruns = Overruns::default();
        for round in 0..10 {
            overruns.note(at(round * 1000));
        }
        let read_at = overruns.not_before_rest(at(0));
        for _ in 0..3 {
            assert_eq!(overruns.note(at(9_500)), read_at);
        }
        assert_eq!(read_at, at(10_000));
    }
}
