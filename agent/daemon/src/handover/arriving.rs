//! A virtual machine that arrives: what is made for it, replaced, and taken back.

use super::exchange::Topic;
use super::report::{self, HandoverStatus};
use super::table::{Table, Trouble};
use super::transfer::{End, Part};
use crate::clock;
use crate::conntrack::{Credit, ENTRIES_MAX, Entry, Left, Ours, Refusal, Tuple};
use crate::retry::BackOff;
use cutover_engine::BootTime;
use cutover_engine::wanted::{HandoverStage, WantedHandover};
use ipnet::IpNet;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::time::Duration;

/// LIMIT: what could not be made is tried again less and less often: a whole reading may be some megabytes.
const PAUSE_MAX: Duration = Duration::from_secs(8);

/// LIMIT: how often the engine is told that it is one more.
const TOLD_EVERY: Duration = Duration::from_secs(1);

/// What is routed to virtual machines of this host: asked for when it is needed, which is seldom.
pub(super) type Staying<'a> = &'a dyn Fn() -> Vec<IpNet>;

/// A connection that was made here.
#[derive(Debug)]
struct Made {
    ours: Ours,
    /// Of all that it was made with, but for its time.
    content: u64,
}

fn content(entry: &Entry) -> u64 {
    let mut hasher = DefaultHasher::new();
    Entry { timeout_s: 0, ..entry.clone() }.hash(&mut hasher);
    hasher.finish()
}

/// One of them.
#[derive(Debug)]
pub(super) struct Arriving {
    prefixes: Vec<IpNet>,
    stage: HandoverStage,
    is_always: bool,
    /// It is not wanted any more.
    has_ended: bool,
    /// What was left of the last stay of the virtual machine has gone.
    is_cleared: bool,
    /// Some have been made, perhaps in an earlier life of the agent.
    has_made: bool,
    /// What was made, and is not known to have been replaced by the kernel's own.
    ours: HashMap<Tuple, Made>,
    credit: Credit,
    /// When everything is to be asked for once more, because not all of it could be made.
    again_at: Option<BootTime>,
    back_off: BackOff,
    /// On which parts come.
    connection: u64,
    /// What the whole reading that is coming in has had so far.
    whole: Option<HashSet<Tuple>>,
    /// All of what was known at the source has come once.
    is_whole: bool,
    is_last: bool,
    /// What the engine was told last, and when.
    told: Option<(usize, bool, BootTime)>,
    left: BTreeMap<Left, usize>,
    kept: usize,
    refused: BTreeMap<Refusal, usize>,
    withdrawn: usize,
}

impl Default for Arriving {
    fn default() -> Self {
        Self {
            prefixes: Vec::new(),
            stage: HandoverStage::Expected,
            is_always: false,
            has_ended: false,
            is_cleared: false,
            has_made: false,
            ours: HashMap::new(),
            credit: Credit::of_a_vm(clock::now()),
            again_at: None,
            back_off: BackOff::up_to(PAUSE_MAX),
            told: None,
            connection: 0,
            whole: None,
            is_whole: false,
            is_last: false,
            left: BTreeMap::new(),
            kept: 0,
            refused: BTreeMap::new(),
            withdrawn: 0,
        }
    }
}

impl Arriving {
    pub(super) fn take(&mut self, wanted: &WantedHandover) {
        self.prefixes = wanted.prefixes.iter().copied().collect();
        (self.stage, self.is_always, self.has_ended) = (wanted.stage, wanted.is_always, false);
        self.has_made |= wanted.has_made;
        if self.stage == HandoverStage::Arrived {
            // The kernel has it now.
            self.is_cleared = true;
        }
    }

    /// Nobody wants it any more. What was made for one that is still expected is not of use to anybody.
    pub(super) const fn end(&mut self) {
        if let HandoverStage::Expected = self.stage {
            self.stage = HandoverStage::Failed;
        }
        self.has_ended = true;
    }

    /// What an earlier migration has left to be taken back is this one's, if it clears up before it makes anything. Says whether it is.
    pub(super) fn takes_over(&mut self) -> bool {
        let takes_over = self.is_open() && self.stage == HandoverStage::Expected && !self.is_cleared;
        self.has_made |= takes_over;
        takes_over
    }

    /// Whether what the source knows is of use.
    fn is_open(&self) -> bool {
        !self.has_ended && self.stage != HandoverStage::Failed && !self.prefixes.is_empty()
    }

    /// Whether the source is to be asked now.
    pub(super) fn asks(&self, now: BootTime) -> bool {
        self.is_open() && self.again_at.is_none_or(|at| at <= now)
    }

    /// When it is to be asked once more.
    pub(super) fn again_at(&self, now: BootTime) -> Option<BootTime> {
        self.again_at.filter(|at| self.is_open() && *at > now)
    }

    /// Whether connections are made also where none are tracked yet.
    pub(super) const fn is_always(&self) -> bool {
        self.is_always
    }

    /// A part has come. What is not made of it is asked for once more.
    pub(super) fn deliver(
        &mut self,
        table: &mut dyn Table,
        connection: u64,
        part: Part,
        staying: Staying<'_>,
        now: BootTime,
    ) -> Result<(), Trouble> {
        // What comes late on an older connection is older as well.
        if connection < self.connection || !self.asks(now) {
            return Ok(());
        }
        if part.is_whole {
            self.whole = Some(HashSet::new());
        } else if connection != self.connection {
            // The beginning of it was not for us.
            return Ok(());
        }
        self.connection = connection;
        let is_end = part.end.is_some();
        let used = self.use_part(table, part, staying, now);
        match used {
            Ok(true) if is_end => self.back_off.reset(),
            Ok(true) => {}
            Ok(false) | Err(_) => self.again_at = Some(now + self.back_off.next_pause()),
        }
        used.map(drop)
    }

    /// Says whether all of it that can be made has been.
    fn use_part(
        &mut self,
        table: &mut dyn Table,
        part: Part,
        staying: Staying<'_>,
        now: BootTime,
    ) -> Result<bool, Trouble> {
        if self.stage == HandoverStage::Expected && !self.is_cleared {
            // ORDER: what is left of its last stay is not fresher than what comes. An address that another one of this host has
            // by now is not among the prefixes.
            table.forget(&self.prefixes, &self.others(staying))?;
            self.is_cleared = true;
        }
        if let Some(whole) = &mut self.whole {
            let room = ENTRIES_MAX - whole.len().min(ENTRIES_MAX);
            whole.extend(part.changed.iter().take(room).map(|entry| entry.original));
        }
        let mut changed = part.changed;
        changed.retain(|entry| self.is_news(entry, now));
        // Once it runs here, what the kernel has is fresher.
        let replaced: HashSet<Tuple> = match self.stage {
            HandoverStage::Expected => {
                changed.iter().map(|it| it.original).filter(|it| self.ours.contains_key(it)).collect()
            }
            _ => HashSet::new(),
        };
        let mut is_whole = true;
        let room = (ENTRIES_MAX + replaced.len()).saturating_sub(self.ours.len());
        for (limit, refusal) in [(room, Refusal::TooMany), (self.credit.left(now), Refusal::TooOften)] {
            if let Some(beyond @ 1..) = changed.len().checked_sub(limit) {
                changed.truncate(limit);
                *self.refused.entry(refusal).or_default() += beyond;
                is_whole &= refusal == Refusal::TooMany;
            }
        }
        self.credit.use_up(changed.len());
        let injected = table.inject(&changed, &self.prefixes, &replaced);
        is_whole &= injected.unknown == 0;
        self.kept += injected.kept;
        for (refusal, count) in injected.refused {
            *self.refused.entry(refusal).or_default() += count;
            is_whole &= !matches!(refusal, Refusal::TooOften | Refusal::NoRoom);
        }
        let contents: HashMap<Tuple, u64> =
            changed.iter().map(|entry| (entry.original, content(entry))).collect();
        for ours in injected.ours {
            let content = contents.get(&ours.original).copied().unwrap_or_default();
            self.ours.insert(ours.original, Made { ours, content });
        }
        let mut gone = part.gone;
        if part.end.is_some()
            && let Some(whole) = self.whole.take()
        {
            gone.extend(self.ours.keys().filter(|tuple| !whole.contains(tuple)));
        }
        if self.stage == HandoverStage::Expected {
            let gone: Vec<Ours> =
                gone.iter().filter_map(|tuple| self.ours.remove(tuple)).map(|made| made.ours).collect();
            self.withdraw(table, gone)?;
        }
        Ok(is_whole)
    }

    /// Whether making it would change anything: it is not there as it is, or would end too early.
    fn is_news(&self, entry: &Entry, now: BootTime) -> bool {
        let Some(Made { ours, content: of_ours }) = self.ours.get(&entry.original) else { return true };
        let half = Duration::from_secs(u64::from(entry.timeout_s / 2));
        let lasts = ours.expires_at.since(now) >= half;
        self.stage == HandoverStage::Expected && !(*of_ours == content(entry) && lasts)
    }

    /// A transfer is complete. Returns whether it was the first one.
    pub(super) fn ended(&mut self, end: End) -> bool {
        (self.left, self.is_last) = (end.left, end.is_last);
        !std::mem::replace(&mut self.is_whole, true)
    }

    /// How many connections there are, if the engine is to be told.
    pub(super) fn news(&mut self, now: BootTime) -> Option<usize> {
        let count = self.ours.len();
        let is_known = self.told.is_some_and(|(before, is_last, at)| {
            is_last == self.is_last && (before == count || now.since(at) < TOLD_EVERY)
        });
        if is_known {
            return None;
        }
        self.told = Some((count, self.is_last, now));
        Some(count)
    }

    /// Whether something is to be taken back.
    pub(super) fn has_work(&self) -> bool {
        self.stage == HandoverStage::Failed && (!self.ours.is_empty() || (self.has_made && !self.is_cleared))
    }

    pub(super) fn is_over(&self) -> bool {
        self.has_ended && !self.has_work()
    }

    /// Where nothing is tracked there is nothing to be taken back.
    pub(super) fn let_go(&mut self) {
        self.ours.clear();
        self.is_cleared = true;
    }

    /// Takes back what was made for one that did not come. If an earlier life of the agent did that, everything of its addresses goes.
    /// Returns how many there were.
    pub(super) fn take_back(
        &mut self,
        table: &mut dyn Table,
        staying: Staying<'_>,
    ) -> Result<usize, Trouble> {
        let before = self.withdrawn;
        if self.is_cleared {
            let ours = self.ours.drain().map(|(_, made)| made.ours).collect();
            self.withdraw(table, ours)?;
        } else {
            if !self.prefixes.is_empty() {
                self.withdrawn += table.forget(&self.prefixes, &self.others(staying))?;
            }
            self.is_cleared = true;
        }
        Ok(self.withdrawn - before)
    }

    fn withdraw(&mut self, table: &mut dyn Table, ours: Vec<Ours>) -> Result<(), Trouble> {
        if ours.is_empty() {
            return Ok(());
        }
        match table.withdraw(&ours) {
            Ok(withdrawn) => {
                self.withdrawn += withdrawn.deleted;
                Ok(())
            }
            Err(error) => {
                // What they were made with does not matter any more.
                self.ours.extend(ours.into_iter().map(|ours| (ours.original, Made { ours, content: 0 })));
                Err(error)
            }
        }
    }

    /// What is routed to others here.
    fn others(&self, staying: Staying<'_>) -> Vec<IpNet> {
        staying().into_iter().filter(|prefix| !self.prefixes.contains(prefix)).collect()
    }

    pub(super) fn status(&self, topic: &Topic) -> HandoverStatus {
        HandoverStatus {
            connections: self.ours.len(),
            is_last: self.is_last,
            left: report::left(&self.left),
            kept: self.kept,
            refused: report::refused(&self.refused),
            withdrawn: self.withdrawn,
            ..HandoverStatus::of(topic, self.stage)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::transfer::{Reading, parts};
    use super::super::trials::{Fake, at, reading, tcp};
    use super::*;
    use std::collections::BTreeSet;

    const STAYING: &str = "10.65.0.3/32";

    fn wanted(stage: HandoverStage) -> WantedHandover {
        let prefixes = BTreeSet::from(["10.65.0.2/32".parse().unwrap()]);
        WantedHandover { uid: "u".to_owned(), prefixes, stage, is_always: false, has_made: true }
    }

    fn arriving(stage: HandoverStage) -> Arriving {
        let mut one = Arriving::default();
        one.take(&wanted(stage));
        one
    }

    fn staying() -> Vec<IpNet> {
        ["10.65.0.2/32", STAYING].map(|prefix| prefix.parse().unwrap()).to_vec()
    }

    fn transfer(
        one: &mut Arriving,
        table: &mut Fake,
        connection: u64,
        (before, now): (Option<&Reading>, &Reading),
    ) {
        for part in parts(before, now) {
            one.deliver(table, connection, part, &staying, at(1)).unwrap();
        }
    }

    #[test]
    fn what_is_left_of_the_last_stay_goes_before_anything_is_made() {
        let (mut one, mut table) = (arriving(HandoverStage::Expected), Fake::with(&[tcp(9)]));
        transfer(&mut one, &mut table, 1, (None, &reading(1, &[tcp(1)])));
        transfer(&mut one, &mut table, 1, (Some(&reading(1, &[tcp(1)])), &reading(2, &[tcp(1), tcp(2)])));
        assert_eq!(table.there(), [tcp(1), tcp(2)]);
        assert_eq!(table.forgotten, 1, "once");
        assert_eq!(table.stayed, [STAYING.parse::<IpNet>().unwrap()], "not its own");
    }

    #[test]
    fn before_it_runs_here_the_source_knows_better_and_afterwards_the_kernel_does() {
        let (mut one, mut table) = (arriving(HandoverStage::Expected), Fake::default());
        let later = Entry { mark: 7, ..tcp(1) };
        let (first, second) = (reading(1, &[tcp(1), tcp(2)]), reading(2, std::slice::from_ref(&later)));
        transfer(&mut one, &mut table, 1, (None, &first));
        transfer(&mut one, &mut table, 1, (Some(&first), &second));
        assert_eq!(table.there(), std::slice::from_ref(&later), "one replaced, one withdrawn");
        one.take(&wanted(HandoverStage::Arrived));
        let third = reading(3, &[tcp(1), tcp(3)]);
        transfer(&mut one, &mut table, 1, (Some(&second), &third));
        assert_eq!(table.there(), [later.clone(), tcp(3)]);
        transfer(&mut one, &mut table, 1, (Some(&third), &reading(4, &[])));
        assert_eq!(table.there(), [later, tcp(3)], "Felix on the source has deleted them there");
        assert_eq!(one.ours.len(), 2);
    }

    #[test]
    fn a_new_connection_brings_everything_and_an_old_one_nothing() {
        let (mut one, mut table) = (arriving(HandoverStage::Expected), Fake::default());
        transfer(&mut one, &mut table, 4, (None, &reading(1, &[tcp(1), tcp(2)])));
        let (first, second) = (reading(2, &[tcp(2), tcp(3)]), reading(3, &[tcp(3)]));
        transfer(&mut one, &mut table, 5, (Some(&first), &second));
        assert_eq!(table.there(), [tcp(1), tcp(2)], "a difference to something that is not known");
        transfer(&mut one, &mut table, 5, (None, &first));
        assert_eq!(table.there(), [tcp(2), tcp(3)]);
        transfer(&mut one, &mut table, 4, (None, &reading(9, &[])));
        assert_eq!(table.there(), [tcp(2), tcp(3)]);
    }

    #[test]
    fn what_was_made_for_one_that_did_not_come_is_taken_back() {
        for ends in [false, true] {
            let (mut one, mut table) = (arriving(HandoverStage::Expected), Fake::default());
            transfer(&mut one, &mut table, 1, (None, &reading(1, &[tcp(1), tcp(2)])));
            table.add(tcp(5));
            if ends {
                one.end()
            } else {
                one.take(&wanted(HandoverStage::Failed))
            }
            table.is_broken = true;
            assert!(one.take_back(&mut table, &staying).is_err() && one.has_work());
            table.is_broken = false;
            assert_eq!(one.take_back(&mut table, &staying).unwrap(), 2);
            assert_eq!(table.there(), [tcp(5)], "somebody else's");
            assert!(!one.has_work() && one.is_over() == ends);
            transfer(&mut one, &mut table, 1, (None, &reading(2, &[tcp(1)])));
            assert_eq!(table.there(), [tcp(5)], "too late");
        }
    }

    #[test]
    fn what_an_earlier_life_made_is_taken_back_by_its_addresses() {
        let (mut one, mut table) = (arriving(HandoverStage::Failed), Fake::with(&[tcp(1)]));
        assert!(one.has_work());
        assert_eq!(one.take_back(&mut table, &staying).unwrap(), 1);
        assert!(!one.has_work() && table.there().is_empty());
    }

    #[test]
    fn what_an_earlier_migration_left_is_the_next_ones_until_that_has_made_something() {
        let expected = || WantedHandover { has_made: false, ..wanted(HandoverStage::Expected) };
        let (mut next, mut table) = (Arriving::default(), Fake::with(&[tcp(1)]));
        next.take(&expected());
        assert!(next.takes_over());
        next.take(&WantedHandover { has_made: false, ..wanted(HandoverStage::Failed) });
        assert!(next.has_work());
        assert_eq!(next.take_back(&mut table, &staying).unwrap(), 1);
        let mut next = Arriving::default();
        next.take(&expected());
        transfer(&mut next, &mut table, 1, (None, &reading(1, &[tcp(2)])));
        assert!(!next.takes_over(), "it has cleared up");
        for stage in [HandoverStage::Arrived, HandoverStage::Failed] {
            assert!(!arriving(stage).takes_over());
        }
    }

    #[test]
    fn one_that_runs_here_keeps_everything() {
        let (mut one, mut table) = (arriving(HandoverStage::Arrived), Fake::with(&[tcp(1)]));
        transfer(&mut one, &mut table, 1, (None, &reading(1, &[tcp(2)])));
        one.end();
        assert!(!one.has_work() && one.is_over());
        assert_eq!((table.there(), table.forgotten), (vec![tcp(1), tcp(2)], 0));
    }

    #[test]
    fn whoever_sends_without_end_fills_nothing() {
        let (mut one, mut table) = (arriving(HandoverStage::Expected), Fake::default());
        let part = |first: usize, is_whole| {
            let changed = (first..first + 1024).map(|number| tcp(number as u32)).collect();
            Part { is_whole, changed, ..Part::default() }
        };
        for number in 0..80 {
            one.deliver(&mut table, 1, part(number * 1024, number == 0), &Vec::new, at(1)).unwrap();
        }
        assert_eq!((one.ours.len(), one.whole.as_ref().unwrap().len()), (ENTRIES_MAX, ENTRIES_MAX));
        assert_eq!(one.refused[&Refusal::TooMany], 80 * 1024 - ENTRIES_MAX);
        assert!(one.asks(at(1)), "there will never be more");
    }

    /// What did not work comes again with a whole reading, in which only what is missing is made.
    #[test]
    fn what_could_not_be_made_is_asked_for_again() {
        let (mut one, mut table) = (arriving(HandoverStage::Expected), Fake::default());
        table.is_broken = true;
        let first = reading(1, &[tcp(1), tcp(2)]);
        let failed = one.deliver(&mut table, 1, parts(None, &first).remove(0), &staying, at(0));
        assert!(failed.is_err() && !one.asks(at(0)));
        let again_at = one.again_at(at(0)).unwrap();
        assert!(one.asks(again_at) && one.again_at(again_at).is_none());
        table.is_broken = false;
        table.refuses = 1;
        let mut next = |connection, table: &mut Fake, at| {
            one.deliver(table, connection, parts(None, &first).remove(0), &staying, at).unwrap();
            one.again_at(at)
        };
        let again_at = next(2, &mut table, again_at).expect("one is missing");
        table.made = 0;
        assert_eq!(next(3, &mut table, again_at), None);
        assert_eq!((table.there(), table.made), (vec![tcp(1), tcp(2)], 1), "only the one that was missing");
    }

    #[test]
    fn where_nothing_was_made_nothing_is_taken_back() {
        let mut one = Arriving::default();
        one.take(&WantedHandover { has_made: false, ..wanted(HandoverStage::Failed) });
        assert!(!one.has_work());
        let mut one = arriving(HandoverStage::Failed);
        assert!(one.has_work(), "an earlier life may have");
        one.let_go();
        assert!(!one.has_work(), "nothing is tracked any more");
    }

    #[test]
    fn the_engine_is_told_of_what_is_new_and_not_too_often() {
        let (mut one, mut table) = (arriving(HandoverStage::Expected), Fake::default());
        transfer(&mut one, &mut table, 1, (None, &reading(1, &[tcp(1)])));
        let end = |is_last| End { number: 1, is_last, left: BTreeMap::new() };
        assert!(one.ended(end(false)) && !one.ended(end(false)));
        assert_eq!((one.news(at(0)), one.news(at(9000))), (Some(1), None));
        transfer(&mut one, &mut table, 1, (Some(&reading(1, &[tcp(1)])), &reading(2, &[tcp(1), tcp(2)])));
        assert_eq!((one.news(at(500)), one.news(at(1500))), (None, Some(2)));
        one.ended(end(true));
        assert_eq!(one.news(at(1501)), Some(2), "the last one at once");
    }
}
