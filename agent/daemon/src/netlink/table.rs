//! A table of the kernel, followed by dumps and notifications.
//!
//! Owns the one subtle thing about following the kernel: how an answer that was put together over some time
//! and the notifications that came meanwhile make one truth. Pure; used by [`super::monitor`].

use std::collections::BTreeMap;

/// What is known to be in a table of the kernel.
#[derive(Debug)]
pub(super) struct Table<K, V> {
    current: BTreeMap<K, V>,
    dump: Option<Dump<K, V>>,
}

#[derive(Debug)]
struct Dump<K, V> {
    seen: BTreeMap<K, V>,
    /// The last notification about each key since the dump was asked for.
    noted: BTreeMap<K, Option<V>>,
}

/// What a key has now; `None` if it is gone.
pub(super) type Change<K, V> = (K, Option<V>);

impl<K: Ord + Clone, V: PartialEq + Clone> Table<K, V> {
    pub(super) const fn new() -> Self {
        Self { current: BTreeMap::new(), dump: None }
    }

    pub(super) const fn current(&self) -> &BTreeMap<K, V> {
        &self.current
    }

    /// To be called before the dump is asked for.
    pub(super) fn begin_dump(&mut self) {
        self.dump = Some(Dump { seen: BTreeMap::new(), noted: BTreeMap::new() });
    }

    /// An entry of the dump.
    pub(super) fn dumped(&mut self, key: K, value: V) {
        if let Some(dump) = &mut self.dump {
            dump.seen.insert(key, value);
        }
    }

    /// A notification. Says whether it changed anything.
    pub(super) fn notified(&mut self, key: K, value: Option<V>) -> bool {
        if let Some(dump) = &mut self.dump {
            dump.noted.insert(key.clone(), value.clone());
        }
        self.put(key, value)
    }

    /// Everything that matches is gone, which the kernel did not say entry by entry.
    pub(super) fn vanished(&mut self, matches: impl Fn(&K, &V) -> bool) -> Vec<K> {
        if let Some(dump) = &mut self.dump {
            dump.seen.retain(|key, value| !matches(key, value));
        }
        let gone: Vec<K> = self
            .current
            .iter()
            .filter(|(key, value)| matches(key, value))
            .map(|(key, _)| key.clone())
            .collect();
        for key in &gone {
            self.notified(key.clone(), None);
        }
        gone
    }

    /// What is known and neither in the dump so far nor spoken of since it began.
    pub(super) fn unseen(&self) -> impl Iterator<Item = &K> {
        self.dump.iter().flat_map(|dump| {
            self.current.keys().filter(|key| !dump.seen.contains_key(*key) && !dump.noted.contains_key(*key))
        })
    }

    /// The dump is over. What it did not contain is gone, as far as `was_asked_for` says that it should have
    /// been in it. Returns what differs from before.
    ///
    /// ORDER: a notification that came meanwhile wins over the dump. The dump saw the entry before or after
    /// the change, and cannot tell; the last notification tells the state after the last change.
    pub(super) fn end_dump(&mut self, was_asked_for: impl Fn(&K, &V) -> bool) -> Vec<Change<K, V>> {
        let Some(Dump { mut seen, noted }) = self.dump.take() else { return Vec::new() };
        for (key, value) in noted {
            match value {
                Some(value) => seen.insert(key, value),
                None => seen.remove(&key),
            };
        }
        let gone =
            self.current.iter().filter(|(key, value)| !seen.contains_key(*key) && was_asked_for(key, value));
        let mut changes: Vec<Change<K, V>> = gone.map(|(key, _)| (key.clone(), None)).collect();
        changes.extend(
            seen.into_iter()
                .filter(|(key, value)| self.current.get(key) != Some(value))
                .map(|(key, value)| (key, Some(value))),
        );
        for (key, value) in &changes {
            self.put(key.clone(), value.clone());
        }
        changes
    }

    /// The dump proves nothing about absence.
    pub(super) fn abandon_dump(&mut self) {
        self.dump = None;
    }

    fn put(&mut self, key: K, value: Option<V>) -> bool {
        match value {
            Some(value) => self.current.insert(key, value.clone()) != Some(value),
            None => self.current.remove(&key).is_some(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn absence_counts_at_the_end_only() {
        let mut table = Table::new();
        table.notified(1, Some('a'));
        table.notified(2, Some('b'));
        table.begin_dump();
        table.dumped(1, 'a');
        assert_eq!(table.current().len(), 2);
        assert_eq!(table.end_dump(|_, _| true), [(2, None)]);
    }

    #[test]
    fn what_was_not_asked_for_stays() {
        let mut table = Table::new();
        table.notified(1, Some('a'));
        table.begin_dump();
        assert_eq!(table.end_dump(|&key, _| key != 1), []);
        assert_eq!(table.current().get(&1), Some(&'a'));
    }

    #[test]
    fn an_abandoned_dump_changes_nothing() {
        let mut table = Table::new();
        table.notified(1, Some('a'));
        table.begin_dump();
        table.abandon_dump();
        assert_eq!(table.end_dump(|_, _| true), []);
        assert_eq!(table.current().len(), 1);
    }

    #[test]
    fn what_vanishes_during_a_dump_does_not_come_back_with_it() {
        let mut table = Table::new();
        table.notified(1, Some('a'));
        table.begin_dump();
        table.dumped(1, 'a');
        assert_eq!(table.vanished(|_, _| true), [1]);
        assert_eq!(table.end_dump(|_, _| true), []);
        assert!(table.current().is_empty());
    }

    #[derive(Clone, Copy, Debug)]
    enum Step {
        /// Somebody changes the kernel's table, which notifies.
        Change(u8, Option<u8>),
        /// The kernel reads the entries below this key that it has not read yet into the dump.
        Read(u8),
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let step = prop_oneof![
            (0..6_u8, proptest::option::of(0..3_u8)).prop_map(|(key, value)| Step::Change(key, value)),
            (0..7_u8).prop_map(Step::Read),
        ];
        proptest::collection::vec(step, 0..40)
    }

    proptest! {
        /// A model kernel whose dump is read piece by piece while its table changes, with answers and
        /// notifications delivered in any merged order: afterwards both tables are equal.
        #[test]
        fn follows_a_table_that_changes_while_it_is_dumped(
            before in proptest::collection::btree_map(0..6_u8, 0..3_u8, 0..6),
            stale in proptest::collection::btree_map(0..6_u8, 0..3_u8, 0..6),
            steps in steps(),
            dump_first: Vec<bool>,
        ) {
            let mut kernel = before;
            let mut table = Table::new();
            for (key, value) in stale {
                table.notified(key, Some(value));
            }
            table.begin_dump();
            let mut entries = std::collections::VecDeque::new();
            let mut notifications = std::collections::VecDeque::new();
            let mut read_up_to = 0;
            for step in steps.into_iter().chain([Step::Read(7)]) {
                match step {
                    Step::Change(key, value) => {
                        match value {
                            Some(value) => kernel.insert(key, value),
                            None => kernel.remove(&key),
                        };
                        notifications.push_back((key, value));
                    }
                    Step::Read(limit) if limit > read_up_to => {
                        entries.extend(kernel.range(read_up_to..limit).map(|(key, value)| (*key, *value)));
                        read_up_to = limit;
                    }
                    Step::Read(_) => {}
                }
            }
            for first in dump_first.into_iter().chain(std::iter::repeat(true)) {
                let entry = if first { entries.pop_front() } else { None };
                match (entry, notifications.pop_front()) {
                    (Some((key, value)), notification) => {
                        table.dumped(key, value);
                        if let Some(notification) = notification {
                            notifications.push_front(notification);
                        }
                    }
                    (None, Some((key, value))) => {
                        table.notified(key, value);
                    }
                    (None, None) if entries.is_empty() => break,
                    (None, None) => {}
                }
            }
            table.end_dump(|_, _| true);
            prop_assert_eq!(table.current(), &kernel);
        }
    }
}
