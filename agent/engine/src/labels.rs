//! Labels of endpoints. Most endpoints of a cloud have the same ones, and there are very many endpoints: equal labels are
//! kept once. Used by [`crate::model`]; the engine puts the equal ones together.

use core::ops::{Deref, DerefMut};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// Labels by name. Copies share what they hold until one of them is changed.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug, Default, Serialize, Deserialize)]
#[serde(from = "BTreeMap<String, String>", into = "BTreeMap<String, String>")]
pub struct Labels(Arc<BTreeMap<String, String>>);

impl Deref for Labels {
    type Target = BTreeMap<String, String>;

    fn deref(&self) -> &Self::Target {
        &self.0
    }
}

impl DerefMut for Labels {
    fn deref_mut(&mut self) -> &mut Self::Target {
        Arc::make_mut(&mut self.0)
    }
}

impl From<BTreeMap<String, String>> for Labels {
    fn from(labels: BTreeMap<String, String>) -> Self {
        Self(Arc::new(labels))
    }
}

impl From<Labels> for BTreeMap<String, String> {
    fn from(labels: Labels) -> Self {
        Arc::unwrap_or_clone(labels.0)
    }
}

impl<const N: usize> From<[(String, String); N]> for Labels {
    fn from(labels: [(String, String); N]) -> Self {
        BTreeMap::from(labels).into()
    }
}

/// Every set of labels that is in use.
#[derive(Clone, Debug, Default)]
pub(crate) struct KnownLabels {
    known: BTreeSet<Labels>,
    /// How many there were when those that nobody uses any more were dropped last.
    swept_at: usize,
}

impl KnownLabels {
    /// LIMIT: below this many it is not worth looking for unused ones.
    const FEW: usize = 64;

    /// The same labels, shared with everybody who has them.
    pub(crate) fn share(&mut self, labels: Labels) -> Labels {
        if let Some(known) = self.known.get(&labels) {
            return known.clone();
        }
        if self.known.len() >= Self::FEW.max(2 * self.swept_at) {
            self.known.retain(|labels| Arc::strong_count(&labels.0) > 1);
            self.swept_at = self.known.len();
        }
        self.known.insert(labels.clone());
        labels
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(value: usize) -> Labels {
        [("group".to_owned(), value.to_string())].into()
    }

    #[test]
    fn equal_ones_are_kept_once() {
        let mut known = KnownLabels::default();
        let (a, b) = (known.share(labels(1)), known.share(labels(1)));
        assert!(Arc::ptr_eq(&a.0, &b.0));
        assert!(!Arc::ptr_eq(&a.0, &known.share(labels(2)).0));
    }

    #[test]
    fn a_change_is_not_shared() {
        let mut known = KnownLabels::default();
        let mut own = known.share(labels(1));
        own.insert("more".into(), "yes".into());
        assert_eq!(known.share(labels(1)), labels(1));
    }

    #[test]
    fn what_nobody_uses_is_not_kept_for_ever() {
        let mut known = KnownLabels::default();
        let used = known.share(labels(0));
        for value in 1..10_000 {
            known.share(labels(value));
        }
        assert!(known.known.len() <= KnownLabels::FEW + 1, "{} sets", known.known.len());
        assert!(Arc::ptr_eq(&used.0, &known.share(labels(0)).0));
    }
}
