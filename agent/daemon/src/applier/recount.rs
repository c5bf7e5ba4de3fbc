//! What a new count of the kernel's entries takes away from what an applier believes to be there. Pure.
//!
//! Owns when each write was sent: what was written after the kernel was asked is not in the answer and is there all the same.

use cutover_engine::BootTime;
use std::collections::BTreeMap;

/// When the applier sent what it has written since it was last counted.
#[derive(Debug)]
pub(super) struct OwnWrites<K> {
    at: BTreeMap<K, BootTime>,
}

impl<K> Default for OwnWrites<K> {
    fn default() -> Self {
        Self { at: BTreeMap::new() }
    }
}

impl<K: Ord + Copy> OwnWrites<K> {
    /// The kernel has confirmed what was sent at this time.
    pub(super) fn sent(&mut self, key: K, at: BootTime) {
        self.at.insert(key, at);
    }

    /// It is not there any more.
    pub(super) fn gone(&mut self, key: &K) {
        self.at.remove(key);
    }

    /// What is believed and not there: the kernel was asked at `since` or later, and said what `is_held`.
    pub(super) fn missing<'a>(
        &mut self,
        believed: impl IntoIterator<Item = &'a K>,
        is_held: impl Fn(&K) -> bool,
        since: BootTime,
    ) -> Vec<K>
    where
        K: 'a,
    {
        self.at.retain(|_, at| *at >= since);
        believed.into_iter().filter(|key| !is_held(key) && !self.at.contains_key(key)).copied().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_neither_held_nor_was_written_after_the_question_is_missing() {
        let mut writes = OwnWrites::default();
        for (key, at) in [(1, 9), (2, 10), (3, 11), (4, 11)] {
            writes.sent(key, BootTime(at));
        }
        writes.gone(&4);
        let believed = [0, 1, 2, 3, 4, 5];
        assert_eq!(writes.missing(&believed, |key| *key == 5, BootTime(10)), [0, 1, 4]);
        assert_eq!(writes.missing(&believed, |key| *key == 5, BootTime(12)), [0, 1, 2, 3, 4]);
    }
}
