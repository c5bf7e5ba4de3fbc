//! Ordered maps and sets whose copies share what is equal.
//!
//! What the engine wants is published as a value, with tens of thousands of entries on a full host, of which one event
//! changes a handful. Copying such a map costs nothing, changing a copy costs a few entries, and comparing two
//! copies costs no more than what was changed between them. [`crate::wanted`] is made of these; nothing else needs
//! them.
//!
//! Entries are kept in sorted chunks. A chunk that two copies share is compared by its address.

#[cfg(test)]
mod tests;

use core::borrow::Borrow;
use core::fmt;
use core::ops::Index;
use std::sync::Arc;

/// LIMIT: what a change copies, against how many chunks a comparison looks at: 64 entries are some kilobytes, and
/// ten thousand are in about two hundred chunks.
const CHUNK_MAX: usize = 64;

type Chunk<K, V> = Arc<Vec<(K, V)>>;

/// An ordered map, cheap to copy and to compare with a copy.
#[derive(Clone)]
pub struct SharedMap<K, V> {
    /// INVARIANT: sorted, no key twice, no chunk empty.
    chunks: Arc<Vec<Chunk<K, V>>>,
    len: usize,
}

/// What one map has in place of another one's entry.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Difference<'a, K, V> {
    /// Which entry.
    pub key: &'a K,
    /// Its value before; nothing if it was not there.
    pub before: Option<&'a V>,
    /// Its value now; nothing if it is gone.
    pub now: Option<&'a V>,
}

impl<K, V> SharedMap<K, V> {
    /// How many entries there are.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.len
    }

    /// Whether there are none.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// All entries in order.
    pub fn iter(&self) -> impl DoubleEndedIterator<Item = (&K, &V)> + Clone {
        self.chunks.iter().flat_map(|chunk| chunk.iter()).map(|(key, value)| (key, value))
    }

    /// All keys in order.
    pub fn keys(&self) -> impl DoubleEndedIterator<Item = &K> + Clone {
        self.iter().map(|(key, _)| key)
    }

    /// All values in the order of their keys.
    pub fn values(&self) -> impl DoubleEndedIterator<Item = &V> + Clone {
        self.iter().map(|(_, value)| value)
    }

    /// Where `key` is, or where it belongs.
    fn place<Q: Ord + ?Sized>(&self, key: &Q) -> (usize, Result<usize, usize>)
    where
        K: Borrow<Q>,
    {
        let begins_before =
            |chunk: &Chunk<K, V>| chunk.first().is_some_and(|(first, _)| first.borrow() <= key);
        let chunk = self.chunks.partition_point(begins_before).saturating_sub(1);
        let within = self
            .chunks
            .get(chunk)
            .map_or(Err(0), |entries| entries.binary_search_by(|(other, _)| other.borrow().cmp(key)));
        (chunk, within)
    }

    /// The value of `key`.
    #[must_use]
    pub fn get<Q: Ord + ?Sized>(&self, key: &Q) -> Option<&V>
    where
        K: Borrow<Q>,
    {
        let (chunk, within) = self.place(key);
        within.ok().map(|position| &self.chunks[chunk][position].1)
    }

    /// Whether there is an entry of `key`.
    #[must_use]
    pub fn contains_key<Q: Ord + ?Sized>(&self, key: &Q) -> bool
    where
        K: Borrow<Q>,
    {
        self.place(key).1.is_ok()
    }

    /// The entries from `key` on.
    pub fn starting_at<Q: Ord + ?Sized>(&self, key: &Q) -> impl Iterator<Item = (&K, &V)>
    where
        K: Borrow<Q>,
    {
        let (chunk, Ok(position) | Err(position)) = self.place(key);
        let first = self.chunks.get(chunk).map_or(&[][..], |entries| &entries[position..]);
        let rest = self.chunks.iter().skip(chunk + 1).flat_map(|entries| entries.iter());
        first.iter().chain(rest).map(|(key, value)| (key, value))
    }
}

impl<K: Ord + Clone, V: Clone> SharedMap<K, V> {
    /// Puts an entry in. Returns the value that it replaces.
    pub fn insert(&mut self, key: K, value: V) -> Option<V> {
        let (chunk, within) = self.place(&key);
        let chunks = Arc::make_mut(&mut self.chunks);
        let Some(entries) = chunks.get_mut(chunk) else {
            chunks.push(Arc::new(vec![(key, value)]));
            self.len = 1;
            return None;
        };
        let position = match within {
            Ok(position) => {
                return Some(core::mem::replace(&mut Arc::make_mut(entries)[position].1, value));
            }
            Err(position) => position,
        };
        self.len += 1;
        if entries.len() < CHUNK_MAX {
            Arc::make_mut(entries).insert(position, (key, value));
        } else if position == CHUNK_MAX {
            // Sorted input fills every chunk.
            chunks.insert(chunk + 1, Arc::new(vec![(key, value)]));
        } else {
            let entries = Arc::make_mut(entries);
            let mut upper = entries.split_off(CHUNK_MAX / 2);
            match position.checked_sub(CHUNK_MAX / 2) {
                Some(position) => upper.insert(position, (key, value)),
                None => entries.insert(position, (key, value)),
            }
            chunks.insert(chunk + 1, Arc::new(upper));
        }
        None
    }

    /// Takes an entry out. Returns its value.
    pub fn remove<Q: Ord + ?Sized>(&mut self, key: &Q) -> Option<V>
    where
        K: Borrow<Q>,
    {
        let (chunk, Ok(position)) = self.place(key) else { return None };
        let chunks = Arc::make_mut(&mut self.chunks);
        let entries = Arc::make_mut(&mut chunks[chunk]);
        let (_, value) = entries.remove(position);
        self.len -= 1;
        let left = entries.len();
        if left == 0 {
            chunks.remove(chunk);
        } else if left < CHUNK_MAX / 4 {
            self.put_together(chunk);
        }
        Some(value)
    }

    /// Puts a chunk that shrinks and its neighbour into one, so that the number of chunks follows that of the entries.
    fn put_together(&mut self, chunk: usize) {
        let chunks = Arc::make_mut(&mut self.chunks);
        let fits = |first: &usize| {
            chunks
                .get(*first)
                .zip(chunks.get(first + 1))
                .is_some_and(|(a, b)| a.len() + b.len() <= CHUNK_MAX / 2)
        };
        if let Some(first) = [Some(chunk), chunk.checked_sub(1)].into_iter().flatten().find(fits) {
            let second = chunks.remove(first + 1);
            Arc::make_mut(&mut chunks[first]).extend(second.iter().cloned());
        }
    }
}

impl<K: Ord, V: PartialEq> SharedMap<K, V> {
    /// What differs from an earlier copy, in the order of the keys. Parts that are shared are not looked at.
    pub fn differences<'a>(&'a self, before: &'a Self) -> impl Iterator<Item = Difference<'a, K, V>> {
        let is_same = Arc::ptr_eq(&self.chunks, &before.chunks);
        let end = |map: &Self| if is_same { map.chunks.len() } else { 0 };
        let mut old = Cursor { chunks: &before.chunks, chunk: end(before), position: 0 };
        let mut new = Cursor { chunks: &self.chunks, chunk: end(self), position: 0 };
        core::iter::from_fn(move || {
            loop {
                if old.skip_shared(&new) {
                    new.chunk += 1;
                    continue;
                }
                let (key, before, now) = match (old.entry(), new.entry()) {
                    (None, None) => return None,
                    (Some((key, value)), None) => (key, Some(value), None),
                    (None, Some((key, value))) => (key, None, Some(value)),
                    (Some((old_key, before)), Some((new_key, now))) => match old_key.cmp(new_key) {
                        core::cmp::Ordering::Less => (old_key, Some(before), None),
                        core::cmp::Ordering::Equal => (new_key, Some(before), Some(now)),
                        core::cmp::Ordering::Greater => (new_key, None, Some(now)),
                    },
                };
                if before.is_some() {
                    old.step();
                }
                if now.is_some() {
                    new.step();
                }
                if before != now {
                    return Some(Difference { key, before, now });
                }
            }
        })
    }
}

/// A place in a map.
struct Cursor<'a, K, V> {
    chunks: &'a [Chunk<K, V>],
    chunk: usize,
    position: usize,
}

impl<'a, K, V> Cursor<'a, K, V> {
    fn entry(&self) -> Option<(&'a K, &'a V)> {
        self.chunks.get(self.chunk)?.get(self.position).map(|(key, value)| (key, value))
    }

    fn step(&mut self) {
        self.position += 1;
        if self.chunks.get(self.chunk).is_some_and(|entries| self.position == entries.len()) {
            (self.chunk, self.position) = (self.chunk + 1, 0);
        }
    }

    /// Skips the chunk if both cursors are at the beginning of the same one.
    fn skip_shared(&mut self, other: &Self) -> bool {
        let shared = match (self.chunks.get(self.chunk), other.chunks.get(other.chunk)) {
            (Some(own), Some(others)) => {
                self.position == 0 && other.position == 0 && Arc::ptr_eq(own, others)
            }
            _ => false,
        };
        self.chunk += usize::from(shared);
        shared
    }
}

impl<K, V> Default for SharedMap<K, V> {
    fn default() -> Self {
        Self { chunks: Arc::default(), len: 0 }
    }
}

impl<K: Ord, V: PartialEq> PartialEq for SharedMap<K, V> {
    fn eq(&self, other: &Self) -> bool {
        self.len == other.len && self.differences(other).next().is_none()
    }
}

impl<K: Ord, V: Eq> Eq for SharedMap<K, V> {}

impl<K: fmt::Debug, V: fmt::Debug> fmt::Debug for SharedMap<K, V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.iter()).finish()
    }
}

impl<K: Ord + Clone, V: Clone> Extend<(K, V)> for SharedMap<K, V> {
    fn extend<I: IntoIterator<Item = (K, V)>>(&mut self, entries: I) {
        for (key, value) in entries {
            self.insert(key, value);
        }
    }
}

impl<K: Ord + Clone, V: Clone> FromIterator<(K, V)> for SharedMap<K, V> {
    fn from_iter<I: IntoIterator<Item = (K, V)>>(entries: I) -> Self {
        let mut map = Self::default();
        map.extend(entries);
        map
    }
}

impl<K: Ord + Clone, V: Clone, const N: usize> From<[(K, V); N]> for SharedMap<K, V> {
    fn from(entries: [(K, V); N]) -> Self {
        entries.into_iter().collect()
    }
}

impl<K: Ord + Borrow<Q>, V, Q: Ord + ?Sized> Index<&Q> for SharedMap<K, V> {
    type Output = V;

    fn index(&self, key: &Q) -> &V {
        self.get(key).expect("there is such an entry")
    }
}

/// An ordered set, cheap to copy and to compare with a copy.
#[derive(Clone, PartialEq, Eq)]
pub struct SharedSet<T: Ord> {
    entries: SharedMap<T, ()>,
}

impl<T: Ord> SharedSet<T> {
    /// How many there are.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there are none.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// All of them in order.
    pub fn iter(&self) -> impl DoubleEndedIterator<Item = &T> + Clone {
        self.entries.keys()
    }

    /// The first one.
    #[must_use]
    pub fn first(&self) -> Option<&T> {
        self.iter().next()
    }

    /// Whether this one is there.
    #[must_use]
    pub fn contains<Q: Ord + ?Sized>(&self, item: &Q) -> bool
    where
        T: Borrow<Q>,
    {
        self.entries.contains_key(item)
    }

    /// What differs from an earlier copy: each with whether it is there now.
    pub fn differences<'a>(&'a self, before: &'a Self) -> impl Iterator<Item = (&'a T, bool)> {
        self.entries.differences(&before.entries).map(|difference| (difference.key, difference.now.is_some()))
    }
}

impl<T: Ord + Clone> SharedSet<T> {
    /// Puts one in. Says whether it is new.
    pub fn insert(&mut self, item: T) -> bool {
        self.entries.insert(item, ()).is_none()
    }

    /// Takes one out. Says whether it was there.
    pub fn remove<Q: Ord + ?Sized>(&mut self, item: &Q) -> bool
    where
        T: Borrow<Q>,
    {
        self.entries.remove(item).is_some()
    }
}

impl<T: Ord> Default for SharedSet<T> {
    fn default() -> Self {
        Self { entries: SharedMap::default() }
    }
}

impl<T: Ord + fmt::Debug> fmt::Debug for SharedSet<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.iter()).finish()
    }
}

impl<T: Ord + Clone> Extend<T> for SharedSet<T> {
    fn extend<I: IntoIterator<Item = T>>(&mut self, items: I) {
        self.entries.extend(items.into_iter().map(|item| (item, ())));
    }
}

impl<T: Ord + Clone> FromIterator<T> for SharedSet<T> {
    fn from_iter<I: IntoIterator<Item = T>>(items: I) -> Self {
        let mut set = Self::default();
        set.extend(items);
        set
    }
}

impl<T: Ord + Clone, const N: usize> From<[T; N]> for SharedSet<T> {
    fn from(items: [T; N]) -> Self {
        items.into_iter().collect()
    }
}
