//! A virtual machine that arrives: what is made for it, replaced, and taken back.

use super::exchange::Topic;
use super::report::{self, HandoverStatus};
use super::table::{Table, Trouble};
use super::transfer::{End, Part};
use crate::conntrack::{ENTRIES_MAX, Left, Ours, Refusal, Tuple};
use cutover_engine::wanted::{HandoverStage, WantedHandover};
use ipnet::IpNet;
use std::collections::{BTreeMap, HashMap, HashSet};

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
    /// What was made, and is not known to have been replaced by the kernel's own.
    ours: HashMap<Tuple, Ours>,
    /// On which parts come.
    connection: u64,
    /// What the whole reading that is coming in has had so far.
    whole: Option<HashSet<Tuple>>,
    /// All of what was known at the source has come once.
    is_whole: bool,
    is_last: bool,
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
            ours: HashMap::new(),
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

    /// Whether it is of use to ask the source.
    pub(super) fn asks(&self) -> bool {
        !self.has_ended && self.stage != HandoverStage::Failed && !self.prefixes.is_empty()
    }

    /// Whether connections are made also where none are tracked yet.
    pub(super) const fn is_always(&self) -> bool {
        self.is_always
    }

    /// A part has come.
    pub(super) fn deliver(
        &mut self,
        table: &mut dyn Table,
        connection: u64,
        part: Part,
        staying: &[IpNet],
    ) -> Result<(), Trouble> {
        // What comes late on an older connection is older as well.
        if connection < self.connection || !self.asks() {
            return Ok(());
        }
        if part.is_whole {
            self.whole = Some(HashSet::new());
        } else if connection != self.connection {
            // The beginning of it was not for us.
            return Ok(());
        }
        self.connection = connection;
        if self.stage == HandoverStage::Expected && !self.is_cleared {
            // ORDER: what is left of its last stay is not fresher than what comes. An address that another one of this host has
            // by now is not among the prefixes.
            table.forget(&self.prefixes, &self.others(staying))?;
            self.is_cleared = true;
        }
        if let Some(whole) = &mut self.whole {
            whole.extend(
                part.changed
                    .iter()
                    .take(ENTRIES_MAX - whole.len().min(ENTRIES_MAX))
                    .map(|entry| entry.original),
            );
        }
        // Once it runs here, what the kernel has is fresher.
        let replaced: HashSet<Tuple> = match self.stage {
            HandoverStage::Expected => {
                part.changed.iter().map(|it| it.original).filter(|it| self.ours.contains_key(it)).collect()
            }
            _ => HashSet::new(),
        };
        let room = (ENTRIES_MAX + replaced.len()).saturating_sub(self.ours.len());
        let (changed, beyond) = part.changed.split_at(part.changed.len().min(room));
        let injected = table.inject(changed, &self.prefixes, &replaced);
        if !beyond.is_empty() {
            *self.refused.entry(Refusal::TooMany).or_default() += beyond.len();
        }
        self.kept += injected.kept;
        for (refusal, count) in injected.refused {
            *self.refused.entry(refusal).or_default() += count;
        }
        self.ours.extend(injected.ours.into_iter().map(|ours| (ours.original, ours)));
        let mut gone = part.gone;
        if part.end.is_some()
            && let Some(whole) = self.whole.take()
        {
            gone.extend(self.ours.keys().filter(|tuple| !whole.contains(tuple)));
        }
        if self.stage == HandoverStage::Expected {
            let gone: Vec<Ours> = gone.iter().filter_map(|tuple| self.ours.remove(tuple)).collect();
            self.withdraw(table, gone)?;
        }
        Ok(())
    }

    /// A transfer is complete. Returns whether it was the first one, and how many connections there are.
    pub(super) fn ended(&mut self, end: End) -> (bool, usize) {
        (self.left, self.is_last) = (end.left, end.is_last);
        (!std::mem::replace(&mut self.is_whole, true), self.ours.len())
    }

    /// Whether something is to be taken back.
    pub(super) fn has_work(&self) -> bool {
        self.stage == HandoverStage::Failed && (!self.ours.is_empty() || !self.is_cleared)
    }

    pub(super) fn is_over(&self) -> bool {
        self.has_ended && !self.has_work()
    }

    /// Takes back what was made for one that did not come. If an earlier life of the agent did that, everything of its addresses goes.
    /// Returns how many there were.
    pub(super) fn take_back(&mut self, table: &mut dyn Table, staying: &[IpNet]) -> Result<usize, Trouble> {
        let before = self.withdrawn;
        if self.is_cleared {
            let ours = self.ours.drain().map(|(_, ours)| ours).collect();
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
                self.ours.extend(ours.into_iter().map(|ours| (ours.original, ours)));
                Err(error)
            }
        }
    }

    /// What is routed to others here.
    fn others(&self, staying: &[IpNet]) -> Vec<IpNet> {
        staying.iter().filter(|prefix| !self.prefixes.contains(prefix)).copied().collect()
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
    use super::super::trials::{Fake, reading, tcp};
    use super::*;
    use crate::conntrack::Entry;
    use std::collections::BTreeSet;

    const STAYING: &str = "10.65.0.3/32";

    fn wanted(stage: HandoverStage) -> WantedHandover {
        let prefixes = BTreeSet::from(["10.65.0.2/32".parse().unwrap()]);
        WantedHandover { uid: "u".to_owned(), prefixes, stage, is_always: false }
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
            one.deliver(table, connection, part, &staying()).unwrap();
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
        assert_eq!((one.kept, one.ours.len()), (1, 2));
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
            table.entries.push(tcp(5));
            if ends {
                one.end()
            } else {
                one.take(&wanted(HandoverStage::Failed))
            }
            table.is_broken = true;
            assert!(one.take_back(&mut table, &staying()).is_err() && one.has_work());
            table.is_broken = false;
            assert_eq!(one.take_back(&mut table, &staying()).unwrap(), 2);
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
        assert_eq!(one.take_back(&mut table, &staying()).unwrap(), 1);
        assert!(!one.has_work() && table.there().is_empty());
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
            one.deliver(&mut table, 1, part(number * 1024, number == 0), &[]).unwrap();
        }
        assert_eq!((one.ours.len(), one.whole.as_ref().unwrap().len()), (ENTRIES_MAX, ENTRIES_MAX));
        assert_eq!(one.refused[&Refusal::TooMany], 80 * 1024 - ENTRIES_MAX);
    }
}
