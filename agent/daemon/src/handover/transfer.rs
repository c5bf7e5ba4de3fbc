//! A reading as it goes to the target: whole at first, then what has changed, in parts of a bounded size. Pure.

use crate::conntrack::{Difference, Entries, Entry, Left, Tuple};
use cutover_engine::BootTime;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// LIMIT: some 30 kB as text; of the largest entries 64 KiB at most.
pub const ENTRIES_PER_PART: usize = 128;

/// What the source knew at one moment.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Reading {
    /// Counts up from 1 in each migration.
    pub number: u64,
    /// When it was made.
    pub at: BootTime,
    /// What was there.
    pub entries: Entries,
    /// The virtual machine does not run there any more.
    pub is_last: bool,
}

/// One part of a transfer.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Part {
    /// A whole reading begins: what came before and is not in it is gone.
    pub is_whole: bool,
    /// Connections that are there, or are not what they were.
    pub changed: Vec<Entry>,
    /// Connections that are gone, by their original tuples.
    pub gone: Vec<Tuple>,
    /// The transfer ends with this part.
    pub end: Option<End>,
}

/// The end of a transfer.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct End {
    /// Number of the reading.
    pub number: u64,
    /// The virtual machine does not run there any more.
    pub is_last: bool,
    /// Connections that are not carried, by the reason.
    pub left: BTreeMap<Left, usize>,
}

/// What is to be said to somebody who has the reading `before`, or none.
#[must_use]
pub fn parts(before: Option<&Reading>, now: &Reading) -> Vec<Part> {
    let Difference { changed, gone } = match before {
        Some(before) => now.entries.since(&before.entries, now.at.since(before.at)),
        None => Difference { changed: now.entries.carried.clone(), gone: Vec::new() },
    };
    let in_part = |entries: &[Entry]| Part { changed: entries.to_vec(), ..Part::default() };
    let mut parts: Vec<Part> = changed.chunks(ENTRIES_PER_PART).map(in_part).collect();
    let in_part = |tuples: &[Tuple]| Part { gone: tuples.to_vec(), ..Part::default() };
    parts.extend(gone.chunks(ENTRIES_PER_PART).map(in_part));
    if parts.is_empty() {
        parts.push(Part::default());
    }
    parts[0].is_whole = before.is_none();
    let last = parts.len() - 1;
    let Reading { number, is_last, .. } = *now;
    parts[last].end = Some(End { number, is_last, left: now.entries.left.clone() });
    parts
}

#[cfg(test)]
mod tests {
    use super::super::trials::{reading, tcp};
    use super::*;

    #[test]
    fn a_whole_reading_comes_in_parts() {
        let entries: Vec<Entry> = (0..300).map(tcp).collect();
        let parts = parts(None, &reading(1, &entries));
        let shape: Vec<_> =
            parts.iter().map(|it| (it.is_whole, it.changed.len(), it.end.is_some())).collect();
        assert_eq!(shape, [(true, 128, false), (false, 128, false), (false, 44, true)]);
        let all: Vec<Entry> = parts.into_iter().flat_map(|part| part.changed).collect();
        assert_eq!(all, entries);
    }

    #[test]
    fn afterwards_only_what_has_changed_comes() {
        let before = reading(1, &[tcp(1), tcp(2)]);
        let now = reading(2, &[tcp(2), tcp(3)]);
        let [new, gone] = &parts(Some(&before), &now)[..] else { panic!() };
        assert_eq!((new.is_whole, &new.changed[..], gone.gone.len()), (false, &[tcp(3)][..], 1));
        assert_eq!(gone.gone, [tcp(1).original]);
        let [nothing] = &parts(Some(&now), &Reading { is_last: true, number: 3, ..now.clone() })[..] else {
            panic!()
        };
        let end = End { number: 3, is_last: true, left: BTreeMap::new() };
        assert_eq!(*nothing, Part { end: Some(end), ..Part::default() });
    }

    /// Someone who sees nothing any more also says so.
    #[test]
    fn a_reading_without_anything_is_whole_as_well() {
        let parts = parts(None, &reading(1, &[]));
        assert!(parts.len() == 1 && parts[0].is_whole && parts[0].end.is_some(), "{parts:?}");
    }
}
