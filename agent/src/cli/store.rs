//! What a datastore has to offer so that an orchestrator's part can be played in it: by `cutover migrate`, and by what libvirt calls.

mod cluster;
pub(super) mod document;
mod files;
pub(super) mod stamp;

use super::{DatastorePlace, Failure, datastore};
use cluster::ClusterStore;
use cutover_daemon::datastore::etcd::Keys;
use cutover_daemon::settings::Settings;
use cutover_engine::model::{EndpointKey, LiveMigration, MigrationTarget};
use serde_json::Value;
use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

/// The namespace of resources in files; the one that Neutron's driver has without a region.
const NAMESPACE: &str = "openstack";

/// The datastore of the settings. Status files are looked for in the run directory of the settings unless another place is given.
///
/// # Errors
/// When etcd cannot be reached, or the settings for it are wrong.
pub(super) fn open(settings: &Settings, status_dir: Option<PathBuf>) -> Result<Box<dyn Store>, Failure> {
    Ok(match datastore(settings)? {
        DatastorePlace::Directory(dir) => {
            open_directory(dir.to_owned(), status_dir.unwrap_or_else(|| own_status_dir(settings)))
        }
        DatastorePlace::Cluster(cluster) => Box::new(ClusterStore::connect(&cluster, keys(settings), 0)?),
    })
}

/// The same for whoever has no time: a member of etcd that has not answered within `within` is left for the next one. Number `first` is
/// asked first, so that another attempt does not begin with the one that failed.
///
/// # Errors
/// When etcd cannot be reached, or the settings for it are wrong.
pub(super) fn open_within(
    settings: &Settings,
    within: Duration,
    first: usize,
) -> Result<Box<dyn Store>, Failure> {
    Ok(match datastore(settings)? {
        DatastorePlace::Directory(dir) => open_directory(dir.to_owned(), own_status_dir(settings)),
        DatastorePlace::Cluster(cluster) => {
            Box::new(ClusterStore::connect(&cluster.answering_within(within), keys(settings), first)?)
        }
    })
}

fn own_status_dir(settings: &Settings) -> PathBuf {
    settings.cutover_run_dir.join("status")
}

fn keys(settings: &Settings) -> Keys {
    Keys::new(&settings.felix_hostname, &settings.openstack_region)
}

/// A directory of files.
pub(super) fn open_directory(dir: PathBuf, status_dir: PathBuf) -> Box<dyn Store> {
    Box::new(files::Files::new(dir, status_dir))
}

/// A datastore that can be written. Everything is about one resource at a time, as with the driver.
pub(super) trait Store {
    /// Where the resources are, for people.
    fn place(&self) -> String;

    /// Where the status of an endpoint is, for people.
    fn status_place(&self, endpoint: &EndpointKey) -> String;

    /// The namespace of endpoints and migrations.
    fn namespace(&self) -> String;

    /// Whether writes that change nothing are made where the driver makes them.
    fn repeats(&self) -> bool;

    /// What there is of a port.
    fn look(&mut self, port: &str) -> Result<Picture, Failure>;

    /// What there is of a machine, by the workload of its endpoints.
    fn look_for_machine(&mut self, workload: &str) -> Result<Picture, Failure>;

    /// Migrations whose target is an endpoint of a host.
    fn migrations_to(&mut self, host: &str) -> Result<Vec<StoredMigration>, Failure>;

    /// The document of an endpoint as it is written.
    fn endpoint(&mut self, key: &EndpointKey) -> Result<Value, Failure>;

    /// Writes a migration that does not exist.
    fn create_migration(&mut self, name: &str, document: &Value) -> Result<(), Failure>;

    /// Writes an endpoint that does not exist.
    fn create_endpoint(&mut self, key: &EndpointKey, document: &Value) -> Result<(), Failure>;

    /// Writes an endpoint, or writes it over what is there, in one step.
    fn put_endpoint(&mut self, key: &EndpointKey, document: &Value) -> Result<(), Failure>;

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

/// What there is of one port, or of one machine.
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

/// Whether a migration goes to an endpoint of a host.
fn goes_to(migration: &LiveMigration, host: &str) -> bool {
    matches!(&migration.target, Some(MigrationTarget::Endpoint(key)) if key.host == host)
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
