//! What the datastore holds after some writes, for who reads it as a whole.

use crate::script::{HostId, Write};
use std::collections::BTreeMap;

/// What the datastore holds after some writes: by what it is about, the last write and its number.
pub(crate) type Contents = BTreeMap<Subject, (usize, Write)>;

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) enum Subject {
    MigrationTo(HostId),
    EndpointOn(HostId),
}

pub(crate) fn contents(writes: &[Write]) -> Contents {
    let mut contents = Contents::new();
    for (number, &write) in writes.iter().enumerate() {
        match write {
            Write::Migration { to, .. } => _ = contents.insert(Subject::MigrationTo(to), (number, write)),
            Write::MigrationGone { to } => _ = contents.remove(&Subject::MigrationTo(to)),
            Write::Endpoint { host, .. } => _ = contents.insert(Subject::EndpointOn(host), (number, write)),
            Write::EndpointGone { host } => _ = contents.remove(&Subject::EndpointOn(host)),
        }
    }
    contents
}

impl Subject {
    /// The write that takes it away.
    pub(crate) const fn gone(self) -> Write {
        match self {
            Self::MigrationTo(to) => Write::MigrationGone { to },
            Self::EndpointOn(host) => Write::EndpointGone { host },
        }
    }
}
