//! What a datastore has to offer so that a driver's part can be played in it.

use crate::cli::Failure;
use cutover_engine::model::{EndpointKey, LiveMigration, MigrationSource, MigrationTarget};
use serde_json::Value;
use std::fmt;

/// A datastore that can be written. Everything is about one resource at a time, as with the driver.
pub(super) trait Store {
    /// Where the resources are, for people.
    fn place(&self) -> String;

    /// Where the status of an endpoint is, for people.
    fn status_place(&self, endpoint: &EndpointKey) -> String;

    /// Whether writes that change nothing are made where the driver makes them.
    fn repeats(&self) -> bool;

    /// What there is of a port.
    fn look(&mut self, port: &str) -> Result<Picture, Failure>;

    /// The document of an endpoint as it is written.
    fn endpoint(&mut self, key: &EndpointKey) -> Result<Value, Failure>;

    /// Writes a migration that does not exist.
    fn create_migration(&mut self, name: &str, document: &Value) -> Result<(), Failure>;

    /// Writes an endpoint that does not exist.
    fn create_endpoint(&mut self, key: &EndpointKey, document: &Value) -> Result<(), Failure>;

    /// Writes a migration again as it is.
    fn rewrite_migration(&mut self, name: &str) -> Result<(), Failure>;

    /// Writes an endpoint again as it is.
    fn rewrite_endpoint(&mut self, key: &EndpointKey) -> Result<(), Failure>;

    /// Removes a migration.
    fn remove_migration(&mut self, name: &str) -> Result<(), Failure>;

    /// Removes an endpoint, if it exists.
    fn remove_endpoint(&mut self, key: &EndpointKey) -> Result<(), Failure>;

    /// Removes an endpoint that [`Self::put_back`] will create again, with another uid.
    fn take_away(&mut self, key: &EndpointKey) -> Result<(), Failure>;

    /// Creates the endpoint that was taken away last.
    fn put_back(&mut self) -> Result<(), Failure>;

    /// What the host of the target says about it.
    fn reported(&mut self, migration: &str, target: &EndpointKey) -> Result<Reported, Failure>;
}

/// What there is of one port.
pub(super) struct Picture {
    /// Its endpoints, each with where it is.
    pub(super) endpoints: Vec<(EndpointKey, String)>,
    /// Migrations that name an endpoint of it.
    pub(super) migrations: Vec<StoredMigration>,
}

/// A migration that was found.
pub(super) struct StoredMigration {
    /// Where, for people.
    pub(super) place: String,
    pub(super) name: String,
    pub(super) migration: LiveMigration,
}

impl Picture {
    /// Where an endpoint is, if it exists.
    pub(super) fn place_of(&self, key: &EndpointKey) -> Option<&str> {
        self.endpoints.iter().find(|(other, _)| other == key).map(|(_, place)| place.as_str())
    }
}

/// Whether a migration names an endpoint of a port.
pub(super) fn concerns(migration: &LiveMigration, port: &str) -> bool {
    matches!(&migration.source, Some(MigrationSource::Endpoint(key)) if key.endpoint == port)
        || matches!(&migration.target, Some(MigrationTarget::Endpoint(key)) if key.endpoint == port)
}

/// A status and when it was written.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Reported {
    /// There is none.
    Nothing,
    /// It was there before the migration, and says nothing about whether the target is ready for it.
    Before(String),
    /// It was written since the migration was.
    Since(String),
}

impl fmt::Display for Reported {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Nothing => f.write_str("nothing is reported"),
            Self::Before(status) => {
                write!(f, "nothing is reported since the migration began (before, it was {status})")
            }
            Self::Since(status) => write!(f, "it is {status}"),
        }
    }
}
