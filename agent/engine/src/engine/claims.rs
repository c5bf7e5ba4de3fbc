//! Who wants what, when only one can have it: interfaces and prefixes with everybody who claims them, in the order in
//! which they are served. The first one wins. Used by the part of the engine that builds the wanted sets.

use crate::model::EndpointKey;
use core::ops::Bound;
use std::collections::BTreeSet;
use std::sync::Arc;

/// Who comes first.
///
/// ORDER: whoever the datastore shows comes before whoever is only held, so that an address or a tap can be taken
/// over at once.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) struct Rank {
    pub(super) is_held: bool,
    pub(super) key: Arc<EndpointKey>,
}

/// Claims to things of one kind.
#[derive(Clone, Debug)]
pub(super) struct Claims<T> {
    /// `None` comes before every rank, and is never in the set.
    claims: BTreeSet<(T, Option<Rank>)>,
}

impl<T> Default for Claims<T> {
    fn default() -> Self {
        Self { claims: BTreeSet::new() }
    }
}

impl<T: Ord + Clone> Claims<T> {
    pub(super) fn insert(&mut self, thing: T, rank: Rank) {
        self.claims.insert((thing, Some(rank)));
    }

    pub(super) fn remove(&mut self, thing: T, rank: Rank) {
        self.claims.remove(&(thing, Some(rank)));
    }

    /// Everybody who claims it; the first one has it.
    pub(super) fn of(&self, thing: &T) -> impl Iterator<Item = &Rank> {
        let from = Bound::Excluded((thing.clone(), None));
        self.claims
            .range((from, Bound::Unbounded))
            .take_while(move |(other, _)| other == thing)
            .filter_map(|(_, rank)| rank.as_ref())
    }

    /// Whoever has it.
    pub(super) fn winner(&self, thing: &T) -> Option<&Rank> {
        self.of(thing).next()
    }
}
