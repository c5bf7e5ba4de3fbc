//! What every connection needs to know, and who has been complained about in the log.

use super::book::Book;
use super::identity::Identity;
use super::table::Table;
use cutover_engine::Fact;
use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::mpsc;

/// Copies are about the same.
#[derive(Clone, Debug)]
pub(super) struct Context {
    pub(super) identity: Arc<Identity>,
    pub(super) book: Book,
    pub(super) table: Table,
    pub(super) facts: mpsc::UnboundedSender<Fact>,
    pub(super) complaints: Complaints,
}

/// LIMIT: as many as an operator reads. Who is one too many is in the log at debug.
const COMPLAINTS_MAX: usize = 200;

/// What the log says does not work: one line when it fails, one when it works again.
#[derive(Clone, Debug, Default)]
pub(super) struct Complaints(Arc<Mutex<BTreeSet<String>>>);

impl Complaints {
    /// Whether that is news.
    pub(super) fn begin(&self, about: &str) -> bool {
        let mut complaints = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        complaints.len() < COMPLAINTS_MAX && complaints.insert(about.to_owned())
    }

    /// Whether there was one.
    pub(super) fn end(&self, about: &str) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(about)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_line_each_and_not_too_many() {
        let complaints = Complaints::default();
        assert!(complaints.begin("a") && !complaints.begin("a"));
        assert!(complaints.end("a") && !complaints.end("a") && complaints.begin("a"));
        let said = (0..1000).filter(|number| complaints.begin(&number.to_string())).count();
        assert_eq!(said, COMPLAINTS_MAX - 1);
    }
}
