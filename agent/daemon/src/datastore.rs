//! Where resources come from.
//!
//! A datastore turns what is written in it into facts for the engine and sets of FelixConfiguration resources for the
//! settings. It keeps the last good version of everything, refuses by name what it cannot read, and decides nothing.
//! The agent loop receives its [`Event`]s.

pub mod dir;
mod documents;
pub mod etcd;
#[cfg(test)]
pub(crate) mod fuzz;
mod quarantine;
pub mod resource;
mod standing;
mod store;
mod tree;
pub mod whereabouts;

pub use documents::{Document, read_file};
pub use quarantine::Quarantine;
pub use standing::Standing;
pub use store::ResourceId;
pub use tree::{ListError, resource_files};

use crate::settings::FelixConfiguration;
use cutover_engine::Fact;
use dir::Directory;
use etcd::Etcd;

/// What a datastore says.
#[derive(Clone, PartialEq, Debug)]
pub enum Event {
    /// All FelixConfiguration resources that there are, `default`, this host's and others. Sent before the first
    /// [`Fact::InSync`], even if there are none, and then whenever one of them changes.
    Configurations(Vec<FelixConfiguration>),
    /// Facts that belong together, in the order in which a driver makes such writes: migrations removed, migrations written,
    /// endpoints removed, endpoints written; then [`Fact::InSync`], in the first batch and whenever its completeness changes; then
    /// what became of other hosts' statuses.
    Facts(Vec<Fact>),
    /// Every LiveMigration that was written in the datastore up to this revision has been told. Only etcd has revisions.
    MigrationsTold(i64),
}

/// A running datastore of either kind.
#[derive(Debug)]
pub enum Datastore {
    /// Files.
    Directory(Directory),
    /// Calico's data in etcd.
    Etcd(Etcd),
}

impl Datastore {
    /// What cannot be read.
    #[must_use]
    pub fn quarantine(&self) -> Quarantine {
        match self {
            Self::Directory(directory) => directory.quarantine(),
            Self::Etcd(etcd) => etcd.quarantine(),
        }
    }

    /// Why it is not followed, if it is not. Files always are: what cannot be read of them is in the quarantine.
    #[must_use]
    pub fn standing(&self) -> Standing {
        match self {
            Self::Directory(_) => Standing::default(),
            Self::Etcd(etcd) => etcd.standing(),
        }
    }

    /// The next event; nothing if it has ended, which it does not do by itself.
    pub async fn next(&mut self) -> Option<Event> {
        match self {
            Self::Directory(directory) => directory.next().await,
            Self::Etcd(etcd) => etcd.next().await,
        }
    }
}

/// LIMIT: how many events may wait for the agent loop; a reader that is this far behind is waited for.
pub const EVENTS_MAX: usize = 64;
