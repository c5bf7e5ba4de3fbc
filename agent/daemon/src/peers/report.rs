//! How the conversations with other hosts' agents stand, for `cutover status`.

use super::book::Book;
use super::table::Table;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::watch;

/// What is asked for it. Copies are about the same; asking waits for nobody.
#[derive(Clone, Debug, Default)]
pub struct PeersReport(Arc<Mutex<Inside>>);

#[derive(Debug, Default)]
struct Inside {
    off: Option<String>,
    address: watch::Sender<Option<SocketAddr>>,
    troubles: BTreeMap<String, String>,
    sources: Option<(Book, Table)>,
}

/// How everything stands.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct PeersStatus {
    /// Why the agents do not talk to each other here, if that is not wanted.
    pub off: Option<String>,
    /// Where other hosts' agents reach this one, once that is known.
    pub address: Option<SocketAddr>,
    /// What does not work: `address`, `listener`, `records` or `keys`, each with the reason.
    pub troubles: BTreeMap<String, String>,
    /// How many other hosts have a record that can be read.
    pub known_hosts: usize,
    /// Records that cannot be read, by host, each with the reason.
    pub bad_records: BTreeMap<String, String>,
    /// Each conversation that is wanted.
    pub conversations: Vec<ConversationStatus>,
}

/// How a conversation stands.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ConversationStatus {
    /// The endpoint of this host.
    pub endpoint: String,
    /// The migration.
    pub migration_uid: String,
    /// The other host.
    pub peer: String,
    /// What this host is in the migration: `source` or `target`.
    pub side: String,
    /// Whether the two talk.
    pub is_connected: bool,
    /// Why they do not, if that is known.
    pub error: Option<String>,
    /// For how long it has been like this, in milliseconds.
    pub for_ms: u64,
}

impl PeersReport {
    /// Of a host whose agent does not talk to others, and why that is so.
    #[must_use]
    pub fn off(reason: impl Into<String>) -> Self {
        let inside = Inside { off: Some(reason.into()), ..Inside::default() };
        Self(Arc::new(Mutex::new(inside)))
    }

    fn inside(&self) -> MutexGuard<'_, Inside> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Where other hosts' agents reach this one, once that is known: this host's end of tunnels is there as well.
    #[must_use]
    pub fn own_address(&self) -> watch::Receiver<Option<SocketAddr>> {
        self.inside().address.subscribe()
    }

    /// How everything stands now.
    #[must_use]
    pub fn status(&self) -> PeersStatus {
        let inside = self.inside();
        let (known_hosts, bad_records, conversations) = match &inside.sources {
            Some((book, table)) => (book.len(), book.bad(), table.status()),
            None => Default::default(),
        };
        PeersStatus {
            off: inside.off.clone(),
            address: *inside.address.borrow(),
            troubles: inside.troubles.clone(),
            known_hosts,
            bad_records,
            conversations,
        }
    }

    pub(super) fn begin(&self, address: SocketAddr, book: Book, table: Table) {
        let mut inside = self.inside();
        inside.address.send_replace(Some(address));
        inside.sources = Some((book, table));
    }

    /// Says whether it is another trouble than before.
    pub(super) fn is_bad(&self, part: &str, reason: &str) -> bool {
        let before = self.inside().troubles.insert(part.to_owned(), reason.to_owned());
        before.as_deref() != Some(reason)
    }

    /// Says whether there was one.
    pub(super) fn is_good(&self, part: &str) -> bool {
        self.inside().troubles.remove(part).is_some()
    }
}
