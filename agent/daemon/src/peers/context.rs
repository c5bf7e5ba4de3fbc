//! What every connection needs to know, and who has been complained about in the log.

use super::book::Book;
use super::identity::Identity;
use super::table::Table;
use crate::applier::tunnels::Starter;
use crate::bpf::LastFrames;
use crate::handover::Exchange;
use cutover_engine::{BootTime, Fact};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::mpsc;

/// Copies are about the same.
#[derive(Clone, Debug)]
pub(super) struct Context {
    pub(super) identity: Arc<Identity>,
    pub(super) book: Book,
    pub(super) table: Table,
    pub(super) ears: Ears,
    pub(super) exchange: Exchange,
    /// When the last frames came on taps that virtual machines are about to leave.
    pub(super) last_frames: LastFrames,
    pub(super) complaints: Complaints,
}

/// Who is told what peers have said.
#[derive(Clone, Debug)]
pub(super) struct Ears {
    /// Hears everything.
    pub(super) facts: mpsc::UnboundedSender<Fact>,
    /// Is told that a virtual machine has announced itself at the other end, and does not have to wait for anybody's decision.
    pub(super) starter: Starter,
}

/// LIMIT: as many lines as an operator reads. What is one too many is in the log at debug.
const COMPLAINTS_MAX: usize = 200;

/// LIMIT: what still does not work after this time may be news to whoever looks now.
const SAID_FOR: Duration = Duration::from_secs(600);

/// What the log says does not work: one line when it fails, one when it works again.
#[derive(Clone, Debug, Default)]
pub(super) struct Complaints(Arc<Mutex<BTreeMap<String, BootTime>>>);

impl Complaints {
    fn said(&self) -> MutexGuard<'_, BTreeMap<String, BootTime>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether that is to be said.
    pub(super) fn begin(&self, about: &str, now: BootTime) -> bool {
        let mut said = self.said();
        if said.len() >= COMPLAINTS_MAX {
            said.retain(|_, at| now.since(*at) < SAID_FOR);
        }
        let is_known = said.get(about).is_some_and(|at| now.since(*at) < SAID_FOR);
        if is_known || said.len() >= COMPLAINTS_MAX {
            return false;
        }
        said.insert(about.to_owned(), now);
        true
    }

    /// Whether there was one.
    pub(super) fn end(&self, about: &str) -> bool {
        self.said().remove(about).is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_line_each_and_not_too_many() {
        let (complaints, now) = (Complaints::default(), BootTime(7));
        assert!(complaints.begin("a", now) && !complaints.begin("a", now));
        assert!(complaints.end("a") && !complaints.end("a") && complaints.begin("a", now));
        let said = |now| (0..1000).filter(|number: &u32| complaints.begin(&number.to_string(), now)).count();
        assert_eq!(said(now), COMPLAINTS_MAX - 1);
        assert_eq!(said(now), 0);
        assert!(complaints.begin("a", now + SAID_FOR), "it has been a while");
        assert_eq!(said(now + SAID_FOR), COMPLAINTS_MAX - 1, "those before make room");
    }
}
