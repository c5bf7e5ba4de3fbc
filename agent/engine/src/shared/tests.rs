//! Against the collections of the standard library.

use super::*;
use proptest::prelude::*;
use std::collections::BTreeMap;

#[derive(Clone, Copy, Debug)]
enum Step {
    Insert(u16, u8),
    Remove(u16),
    /// Remember a copy to compare with.
    Copy,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        8 => (0..400_u16, 0..3_u8).prop_map(|(key, value)| Step::Insert(key, value)),
        5 => (0..400_u16).prop_map(Step::Remove),
        1 => Just(Step::Copy),
    ];
    prop::collection::vec(step, 0..600)
}

fn check(map: &SharedMap<u16, u8>, model: &BTreeMap<u16, u8>) {
    assert!(map.iter().eq(model.iter()));
    assert!(map.iter().rev().eq(model.iter().rev()));
    assert_eq!(map.len(), model.len());
    for chunk in map.chunks.iter() {
        assert!(!chunk.is_empty() && chunk.len() <= CHUNK_MAX);
    }
}

fn difference(before: &BTreeMap<u16, u8>, now: &BTreeMap<u16, u8>) -> Vec<(u16, Option<u8>, Option<u8>)> {
    let keys: std::collections::BTreeSet<u16> = before.keys().chain(now.keys()).copied().collect();
    let both = keys.into_iter().map(|key| (key, before.get(&key).copied(), now.get(&key).copied()));
    both.filter(|(_, before, now)| before != now).collect()
}

proptest! {
    #[test]
    fn a_map_is_a_map(first in prop::collection::btree_map(0..400_u16, 0..3_u8, 0..300), steps in steps()) {
        let mut model = first.clone();
        let mut map: SharedMap<u16, u8> = first.into_iter().collect();
        let (mut copy, mut copied) = (map.clone(), model.clone());
        for step in steps {
            match step {
                Step::Insert(key, value) => prop_assert_eq!(map.insert(key, value), model.insert(key, value)),
                Step::Remove(key) => prop_assert_eq!(map.remove(&key), model.remove(&key)),
                Step::Copy => {
                    copy = map.clone();
                    copied.clone_from(&model);
                    prop_assert!(map == copy);
                }
            }
        }
        check(&map, &model);
        check(&copy, &copied);
        for key in 0..400 {
            prop_assert_eq!(map.get(&key), model.get(&key));
            prop_assert!(map.starting_at(&key).next() == model.range(key..).next());
        }
        let found: Vec<_> =
            map.differences(&copy).map(|it| (*it.key, it.before.copied(), it.now.copied())).collect();
        prop_assert_eq!(&found, &difference(&copied, &model));
        prop_assert_eq!(map == copy, model == copied);
        prop_assert_eq!(map.differences(&SharedMap::default()).count(), model.len());
    }
}

#[test]
fn what_is_shared_is_not_looked_at() {
    /// Counts how often values are compared.
    #[derive(Clone, Debug)]
    struct Counted(u32, std::rc::Rc<core::cell::Cell<usize>>);
    impl PartialEq for Counted {
        fn eq(&self, other: &Self) -> bool {
            self.1.set(self.1.get() + 1);
            self.0 == other.0
        }
    }
    let compared = std::rc::Rc::default();
    let entry = |key: u32| (key, Counted(key, std::rc::Rc::clone(&compared)));
    let before: SharedMap<u32, Counted> = (0..10_000).map(entry).collect();
    let mut now = before.clone();
    assert_eq!(now.differences(&before).count(), 0);
    assert_eq!(compared.get(), 0, "the same");
    now.insert(5_000, Counted(0, std::rc::Rc::clone(&compared)));
    assert_eq!(now.differences(&before).map(|difference| *difference.key).collect::<Vec<_>>(), [5_000]);
    assert!(compared.get() <= CHUNK_MAX, "{} for one entry", compared.get());
}

#[test]
fn sorted_input_fills_the_chunks() {
    let set: SharedSet<u32> = (0..6_400).collect();
    assert_eq!(set.entries.chunks.len(), 100);
}

#[test]
fn a_map_that_shrinks_has_fewer_chunks() {
    let mut set: SharedSet<u32> = (0..6_400).collect();
    for item in (0..6_400).filter(|item| item % 64 != 0) {
        set.remove(&item);
    }
    assert_eq!(set.len(), 100);
    assert!(set.entries.chunks.len() <= 20, "{} chunks", set.entries.chunks.len());
}
