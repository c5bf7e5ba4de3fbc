//! What libvirt has said of the machines here, and when there is something to do about it. No I/O, and time is an argument.

use super::host::Stray;
use cutover_daemon::libvirt::{Event, What};
use cutover_daemon::retry::BackOff;
use cutover_engine::BootTime;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// LIMIT: for what libvirt says at about the same time, and for the machine's announcement: the agent hears of it within milliseconds, and
/// an orchestrator takes seconds to end a migration.
pub(super) const SETTLED_AFTER: Duration = Duration::from_secs(1);

/// LIMIT: what no event tells of, a hook that was late or could not do its part, is found within a minute.
const LOOK_EVERY: Duration = Duration::from_secs(60);

/// LIMIT: the migration is written before the process is started, and one that takes its memory at once takes minutes to start.
const STRAY_AFTER: Duration = Duration::from_secs(600);

/// As far as libvirt has told.
#[derive(Debug)]
pub(super) struct Course {
    /// Machines that run here, and since when that is known.
    running: BTreeMap<String, BootTime>,
    /// Machines with a process here, whatever it does.
    here: BTreeSet<String>,
    /// When migrations of machines that run here are ended. No event moves it, or a host where something always happens would end none.
    due: Option<BootTime>,
    /// When the datastore is looked at though nothing has happened.
    look_at: BootTime,
    back_off: BackOff,
    /// Migrations of machines that are not here, and since when.
    strays: BTreeMap<Stray, BootTime>,
}

impl Course {
    pub(super) fn new(now: BootTime) -> Self {
        Self {
            running: BTreeMap::new(),
            here: BTreeSet::new(),
            due: None,
            look_at: now + LOOK_EVERY,
            back_off: BackOff::new(),
            strays: BTreeMap::new(),
        }
    }

    /// libvirt has said something.
    pub(super) fn take(&mut self, event: Event) {
        let Event { domain, what, at } = event;
        match what {
            What::Running => {
                self.here.insert(domain.clone());
                self.running.entry(domain).or_insert(at);
                self.due.get_or_insert(at + SETTLED_AFTER);
            }
            // It is stopped on its way out, or waits for what is on its way in: it does not run here.
            What::Stopped | What::Present => {
                self.running.remove(&domain);
                self.here.insert(domain);
            }
            What::Gone => {
                self.running.remove(&domain);
                self.here.remove(&domain);
            }
        }
    }

    /// When the next attempt is due.
    pub(super) fn next_at(&self) -> BootTime {
        self.due.map_or(self.look_at, |due| due.min(self.look_at))
    }

    /// Machines that have been running here for long enough.
    pub(super) fn settled(&self, now: BootTime) -> BTreeSet<String> {
        let settled = self.running.iter().filter(|(_, since)| **since + SETTLED_AFTER <= now);
        settled.map(|(domain, _)| domain.clone()).collect()
    }

    /// Machines with a process here.
    pub(super) const fn here(&self) -> &BTreeSet<String> {
        &self.here
    }

    /// These are the migrations to this host of machines that are not here. Says which of them have been so for too long.
    pub(super) fn seen(&mut self, now: BootTime, strays: &BTreeSet<Stray>) -> BTreeSet<Stray> {
        let before = std::mem::take(&mut self.strays);
        let since = |stray: &Stray| before.get(stray).copied().unwrap_or(now);
        self.strays = strays.iter().map(|stray| (stray.clone(), since(stray))).collect();
        let over = self.strays.iter().filter(|(_, since)| now.since(**since) >= STRAY_AFTER);
        over.map(|(stray, _)| stray.clone()).collect()
    }

    /// libvirt is not heard: a machine that ran here may run elsewhere by now, and one that was not here may be.
    pub(super) fn wait(&mut self, now: BootTime) {
        self.due = self.due.map(|_| now + SETTLED_AFTER);
        self.look_at = now + LOOK_EVERY;
        self.strays.clear();
    }

    /// Everything that was due is done.
    pub(super) fn done(&mut self, now: BootTime) {
        let unsettled = self.running.values().map(|since| *since + SETTLED_AFTER).filter(|due| *due > now);
        self.due = unsettled.min();
        self.look_at = now + LOOK_EVERY;
        self.back_off.reset();
    }

    /// Something that was due could not be done.
    pub(super) fn failed(&mut self, now: BootTime) {
        self.due = Some(now + self.back_off.next_pause());
        self.look_at = now + LOOK_EVERY;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BEGAN: BootTime = BootTime(1_000_000_000_000);

    fn at(ms: u64) -> BootTime {
        BEGAN + Duration::from_millis(ms)
    }

    fn event(domain: &str, what: What, ms: u64) -> Event {
        Event { domain: domain.to_owned(), what, at: at(ms) }
    }

    fn names<const N: usize>(names: [&str; N]) -> BTreeSet<String> {
        names.map(str::to_owned).into()
    }

    fn stray(uid: &str) -> BTreeSet<Stray> {
        [("compute2-openstack-vm-port".to_owned(), uid.to_owned())].into()
    }

    #[test]
    fn a_machine_that_has_come_is_settled_after_a_second_whatever_happens_to_others() {
        let mut course = Course::new(BEGAN);
        course.take(event("a", What::Present, 0));
        assert_eq!(course.next_at(), BEGAN + LOOK_EVERY, "nothing is known of it");
        course.take(event("a", What::Running, 100));
        for ms in [300, 600, 1050] {
            course.take(event("b", What::Stopped, ms));
            course.take(event("b", What::Running, ms));
            course.take(event("a", What::Running, ms));
            assert_eq!(course.next_at(), at(1100), "no event moves it");
        }
        assert_eq!(course.settled(at(1099)), names([]));
        assert_eq!(course.settled(at(1100)), names(["a"]));
        course.done(at(1100));
        assert_eq!(course.next_at(), at(2050));
        assert_eq!(course.settled(at(2050)), names(["a", "b"]));
        course.done(at(2050));
        assert_eq!(course.next_at(), at(2050) + LOOK_EVERY);
    }

    #[test]
    fn the_last_word_counts_in_whatever_order_they_come() {
        use What::{Gone, Present, Running, Stopped};
        let cases: [(&[What], bool, bool); 8] = [
            (&[Present, Running], true, true),
            (&[Running, Stopped], false, true),
            (&[Running, Present], false, true),
            (&[Stopped, Running], true, true),
            (&[Running, Stopped, Gone], false, false),
            (&[Gone, Present], false, true),
            (&[Running, Gone, Running], true, true),
            (&[Gone], false, false),
        ];
        for (words, runs, is_here) in cases {
            let mut course = Course::new(BEGAN);
            for (ms, &word) in (0..).zip(words) {
                course.take(event("a", word, ms));
            }
            assert_eq!(course.settled(at(2000)).contains("a"), runs, "{words:?}");
            assert_eq!(course.here().contains("a"), is_here, "{words:?}");
        }
    }

    #[test]
    fn one_that_stopped_in_between_has_to_settle_anew() {
        let mut course = Course::new(BEGAN);
        course.take(event("a", What::Running, 0));
        course.take(event("a", What::Stopped, 500));
        course.take(event("a", What::Running, 900));
        assert_eq!(course.settled(at(1000)), names([]));
        course.done(at(1000));
        assert_eq!(course.next_at(), at(1900));
    }

    #[test]
    fn after_failures_the_pauses_grow_though_machines_come() {
        let mut course = Course::new(BEGAN);
        course.take(event("a", What::Running, 0));
        let mut now = at(1000);
        for pause_ms in [100, 200, 400, 800, 1600, 3200, 6400, 10_000, 10_000] {
            course.failed(now);
            course.take(Event { at: now, ..event("b", What::Gone, 0) });
            course.take(Event { at: now, ..event("b", What::Running, 0) });
            assert_eq!(course.next_at(), now + Duration::from_millis(pause_ms));
            now = course.next_at();
        }
        course.done(now);
        course.failed(now);
        assert_eq!(course.next_at(), now + Duration::from_millis(100));
    }

    #[test]
    fn while_libvirt_is_not_heard_nothing_is_done_and_nothing_is_forgotten() {
        let mut course = Course::new(BEGAN);
        course.take(event("a", What::Running, 0));
        assert_eq!(course.seen(at(0), &stray("first")), BTreeSet::new());
        for ms in [1000, 2000, 3000] {
            assert_eq!(course.next_at(), at(ms));
            course.wait(at(ms));
        }
        assert_eq!(course.settled(course.next_at()), names(["a"]));
        assert_eq!(
            course.seen(BEGAN + STRAY_AFTER, &stray("first")),
            BTreeSet::new(),
            "it may have been here"
        );
        course.done(at(4000));
        course.wait(at(5000));
        assert_eq!(course.next_at(), at(5000) + LOOK_EVERY);
    }

    #[test]
    fn a_migration_of_a_machine_that_is_not_here_is_given_up_after_its_time_and_not_before() {
        let mut course = Course::new(BEGAN);
        let (none, first, second) = (BTreeSet::new(), stray("first"), stray("second"));
        assert_eq!(course.seen(at(0), &first), none);
        let almost = BEGAN + (STRAY_AFTER - Duration::from_millis(1));
        assert_eq!(course.seen(almost, &first), none);
        assert_eq!(course.seen(BEGAN + STRAY_AFTER, &first), first);
        // Another attempt, or a time in which the machine was here, begins anew.
        assert_eq!(course.seen(BEGAN + STRAY_AFTER, &second), none);
        assert_eq!(course.seen(BEGAN + STRAY_AFTER * 2, &none), none);
        assert_eq!(course.seen(BEGAN + STRAY_AFTER * 2, &second), none);
        assert_eq!(course.seen(BEGAN + STRAY_AFTER * 3, &second), second);
    }
}
