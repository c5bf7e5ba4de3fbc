//! A virtual machine that leaves: when its connections are read.

use super::exchange::Topic;
use super::report::{self, HandoverStatus};
use super::table::Trouble;
use super::transfer::Reading;
use crate::conntrack::{Entries, Entry};
use cutover_engine::BootTime;
use cutover_engine::wanted::{HandoverStage, WantedHandover};
use ipnet::IpNet;
use std::sync::Arc;
use std::time::Duration;

/// LIMIT: how old what the target has may be when the virtual machine stops, if somebody says that it does; the last difference takes
/// some milliseconds then.
const READ_EVERY: Duration = Duration::from_millis(500);

/// LIMIT: one part in five of one processor, however large the table is and however many leave at once.
const REST_FACTOR: u32 = 4;

/// How often the kernel may be read, for all that leave together.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Pace {
    rest_until: Option<BootTime>,
}

impl Pace {
    fn after(self, due: BootTime) -> BootTime {
        self.rest_until.map_or(due, |rest| rest.max(due))
    }
}

/// One of them.
#[derive(Debug)]
pub(super) struct Leaving {
    prefixes: Vec<IpNet>,
    stage: HandoverStage,
    /// When it is to be read.
    due: BootTime,
    /// What was read since it does not run here any more has been made liberal, too.
    is_finished: bool,
    newest: Option<Arc<Reading>>,
    loosened: usize,
}

impl Leaving {
    pub(super) const fn new() -> Self {
        Self {
            prefixes: Vec::new(),
            stage: HandoverStage::Leaving,
            due: BootTime(0),
            is_finished: false,
            newest: None,
            loosened: 0,
        }
    }

    pub(super) fn take(&mut self, wanted: &WantedHandover) {
        let prefixes: Vec<IpNet> = wanted.prefixes.iter().copied().collect();
        if self.stage != wanted.stage || self.prefixes != prefixes {
            (self.stage, self.prefixes) = (wanted.stage, prefixes);
            (self.due, self.is_finished) = (BootTime(0), false);
        }
    }

    /// When it is to be read. `is_asked`: the target wants to know; `is_used`: this host tracks connections. That one has left is
    /// urgent, and of interest here as well.
    pub(super) fn due(&self, is_asked: bool, is_used: bool, pace: Pace) -> Option<BootTime> {
        match self.stage {
            HandoverStage::Left => (!self.is_finished && (is_asked || is_used)).then_some(self.due),
            _ => is_asked.then(|| pace.after(self.due)),
        }
    }

    /// Which of several that are due comes first: one that has left, then the one that has waited for longest.
    pub(super) fn urgency(&self) -> (bool, BootTime) {
        (self.stage != HandoverStage::Left, self.due)
    }

    /// What was read last, once there will be nothing more.
    pub(super) fn last(&self) -> Option<&Arc<Reading>> {
        self.newest.as_ref().filter(|_| self.is_finished)
    }

    /// Reads them.
    pub(super) fn read(
        &mut self,
        clock: impl Fn() -> BootTime,
        pace: &mut Pace,
        read: impl FnOnce(&[IpNet]) -> Result<Entries, Trouble>,
    ) -> Result<Arc<Reading>, Trouble> {
        let at = clock();
        let entries = read(&self.prefixes)?;
        let number = self.newest.as_ref().map_or(1, |newest| newest.number + 1);
        let reading = Reading { number, at, entries, is_last: self.stage == HandoverStage::Left };
        let ended_at = clock();
        pace.rest_until = Some(ended_at + ended_at.since(at) * REST_FACTOR);
        self.due = ended_at + READ_EVERY;
        Ok(Arc::clone(self.newest.insert(Arc::new(reading))))
    }

    /// What was read is on its way. Once it has left, what comes for it may pass here, wherever it is in its windows.
    pub(super) fn finish(
        &mut self,
        loosen: impl FnOnce(&[Entry]) -> Result<usize, Trouble>,
    ) -> Result<(), Trouble> {
        let Some(newest) = self.newest.as_ref().filter(|newest| newest.is_last) else { return Ok(()) };
        if !newest.entries.carried.is_empty() {
            self.loosened = loosen(&newest.entries.carried)?;
        }
        self.is_finished = true;
        Ok(())
    }

    /// The kernel did not do it.
    pub(super) const fn failed(&mut self, again_at: BootTime) {
        self.due = again_at;
    }

    pub(super) fn status(&self, topic: &Topic) -> HandoverStatus {
        let mut status = HandoverStatus::of(topic, self.stage);
        if let Some(newest) = &self.newest {
            status.connections = newest.entries.carried.len();
            status.left = report::left(&newest.entries.left);
            status.is_last = newest.is_last;
        }
        status.loosened = self.loosened;
        status
    }
}

#[cfg(test)]
mod tests {
    use super::super::trials::{at, entries, tcp};
    use super::*;
    use std::collections::BTreeSet;

    fn wanted(stage: HandoverStage) -> WantedHandover {
        let prefixes = BTreeSet::from(["10.65.0.2/32".parse().unwrap()]);
        WantedHandover { uid: "u".to_owned(), prefixes, stage, is_always: false, has_made: false }
    }

    fn leaving(stage: HandoverStage) -> Leaving {
        let mut one = Leaving::new();
        one.take(&wanted(stage));
        one
    }

    #[test]
    fn it_is_read_while_somebody_asks_and_not_too_often() {
        let (mut one, mut pace) = (leaving(HandoverStage::Leaving), Pace::default());
        assert_eq!(one.due(false, true, pace), None, "nobody asks");
        assert_eq!(one.due(true, true, pace), Some(BootTime(0)));
        let clock = std::cell::Cell::new(1000);
        let tick = || at(clock.replace(clock.get() + 300));
        let first = one.read(tick, &mut pace, |_| Ok(entries(&[tcp(1)]))).unwrap();
        assert_eq!((first.number, first.is_last, first.at), (1, false, at(1000)));
        one.finish(|_| panic!("it runs here")).unwrap();
        assert_eq!(one.due(true, true, pace), Some(at(1300 + 1200)), "four times as long as it took");
        assert_eq!(
            leaving(HandoverStage::Leaving).due(true, true, pace),
            Some(at(2500)),
            "others wait as well"
        );
        pace = Pace::default();
        assert_eq!(one.due(true, true, pace), Some(at(1300) + READ_EVERY));
    }

    #[test]
    fn who_has_left_comes_first_and_then_who_has_waited_for_longest() {
        let (mut one, other, left) =
            (leaving(HandoverStage::Leaving), leaving(HandoverStage::Leaving), leaving(HandoverStage::Left));
        one.read(|| at(1), &mut Pace::default(), |_| Ok(entries(&[]))).unwrap();
        assert!(left.urgency() < other.urgency() && other.urgency() < one.urgency());
    }

    #[test]
    fn one_that_has_left_is_read_at_once_and_once() {
        let (mut one, mut pace) = (leaving(HandoverStage::Leaving), Pace { rest_until: Some(at(9000)) });
        one.read(|| at(1), &mut pace, |_| Ok(entries(&[tcp(1)]))).unwrap();
        one.take(&wanted(HandoverStage::Left));
        assert_eq!(one.due(false, true, pace), Some(BootTime(0)), "whoever forwards wants to know himself");
        assert_eq!(one.due(false, false, pace), None, "but not where nothing is tracked");
        let failed = one.read(|| at(2), &mut pace, |_| Err(super::super::trials::trouble()));
        assert!(failed.is_err());
        one.failed(at(50));
        assert_eq!(one.due(false, true, pace), Some(at(50)));
        let last = one.read(|| at(60), &mut pace, |_| Ok(entries(&[tcp(1), tcp(2)]))).unwrap();
        assert_eq!((last.number, last.is_last), (2, true));
        one.finish(|entries| Ok(entries.len())).unwrap();
        assert_eq!((one.due(true, true, pace), one.loosened), (None, 2));
        assert_eq!(one.last().map(|last| last.number), Some(2), "for whoever asks later");
        one.take(&wanted(HandoverStage::Left));
        assert_eq!(one.due(true, true, pace), None, "the same again");
        one.take(&wanted(HandoverStage::Leaving));
        assert!(one.due(true, true, pace).is_some() && one.last().is_none(), "it goes on here");
    }
}
