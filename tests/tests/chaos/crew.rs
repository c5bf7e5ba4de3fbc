//! How many stages play at the same time, and who plays which plan: fewer stages where agents are late to start, because the machine has
//! other things to do.

use std::sync::{Condvar, Mutex, MutexGuard};
use std::time::Duration;

/// LIMIT: stages wait more than they work, so there are more of them than processors.
pub(crate) const STAGES: usize = 4;

/// An agent that took longer than that to start, was late. Alone on a machine with two processors it takes half a second, with three more
/// stages beside it two seconds.
const LATE_START: Duration = Duration::from_secs(4);

/// Plans by number, for several stages.
pub(crate) struct Crew {
    plans: u64,
    state: Mutex<State>,
    changed: Condvar,
}

struct State {
    next: u64,
    playing: usize,
    at_once: usize,
    has_failed: bool,
}

impl Crew {
    pub(crate) const fn new(plans: u64) -> Self {
        let state = State { next: 0, playing: 0, at_once: STAGES, has_failed: false };
        Self { plans, state: Mutex::new(state), changed: Condvar::new() }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("nobody panics with the lock")
    }

    /// The next plan, when there may be one stage more; nothing if all have been played or one has failed.
    pub(crate) fn take(&self) -> Option<u64> {
        let mut state = self.state();
        while state.playing >= state.at_once && !state.is_over(self.plans) {
            state = self.changed.wait(state).expect("nobody panics with the lock");
        }
        if state.is_over(self.plans) {
            return None;
        }
        state.playing += 1;
        state.next += 1;
        Some(state.next - 1)
    }

    /// One was played, in which no agent took longer to start.
    pub(crate) fn put_back(&self, slowest_start: Duration, has_failed: bool) {
        let mut state = self.state();
        state.playing -= 1;
        state.at_once = at_once(state.at_once, slowest_start);
        state.has_failed |= has_failed;
        drop(state);
        self.changed.notify_all();
    }

    /// How many have been begun.
    pub(crate) fn begun(&self) -> u64 {
        self.state().next
    }
}

impl State {
    const fn is_over(&self, plans: u64) -> bool {
        self.has_failed || self.next >= plans
    }
}

/// How many stages there are to be after a plan.
fn at_once(now: usize, slowest_start: Duration) -> usize {
    if slowest_start > LATE_START { (now - 1).max(1) } else { (now + 1).min(STAGES) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fewer_play_at_once_where_agents_are_late() {
        let [early, late] = [Duration::from_secs(1), LATE_START * 2];
        assert_eq!([STAGES, 2, 1].map(|now| at_once(now, late)), [STAGES - 1, 1, 1]);
        assert_eq!([STAGES, 2, 1].map(|now| at_once(now, early)), [STAGES, 3, 2]);
    }

    #[test]
    fn each_plan_is_played_once_and_none_after_a_failure() {
        let crew = Crew::new(3);
        assert_eq!([crew.take(), crew.take(), crew.take(), crew.take()], [Some(0), Some(1), Some(2), None]);
        let crew = Crew::new(9);
        assert_eq!((crew.take(), crew.take()), (Some(0), Some(1)));
        crew.put_back(Duration::ZERO, true);
        assert_eq!((crew.take(), crew.begun()), (None, 2));
    }
}
