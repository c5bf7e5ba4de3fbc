//! What is written for a machine of libvirt's, on the host that it is written for. Everything can be done twice, and can be broken off at
//! any place: what was done is found, and what was not is done by the next call.

use super::domain::{Domain, Port};
use crate::cli::Failure;
use crate::cli::store::document::{endpoint_document, migration_document, workload};
use crate::cli::store::{self, Reported, Store, StoredMigration, stamp};
use cutover_daemon::clock;
use cutover_daemon::datastore::resource::check_key;
use cutover_daemon::settings::Settings;
use cutover_engine::BootTime;
use cutover_engine::model::{EndpointKey, MigrationTarget};
use std::collections::BTreeSet;
use std::time::Duration;

/// The orchestrator of all endpoints: agents look for no other in etcd.
const ORCHESTRATOR: &str = "openstack";

/// LIMIT: how often the status is looked at while libvirt waits.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// A host with its datastore.
pub(super) struct Host {
    name: String,
    store: Box<dyn Store>,
}

impl Host {
    /// As the settings have them.
    ///
    /// # Errors
    /// When the datastore cannot be reached.
    pub(super) fn open(settings: &Settings) -> Result<Self, Failure> {
        Ok(Self { name: settings.felix_hostname.clone(), store: store::open(settings, None)? })
    }

    /// The endpoint of a port here.
    fn key(&self, domain: &Domain, port: &Port) -> Result<EndpointKey, Failure> {
        let key = EndpointKey {
            host: self.name.clone(),
            orchestrator: ORCHESTRATOR.to_owned(),
            workload: format!("{}/{}", self.store.namespace(), domain.uuid),
            endpoint: port.id.clone(),
        };
        match check_key(&key) {
            Ok(()) => Ok(key),
            Err(refusal) => Err(Failure::configuration(format!(
                "port {}: {refusal}; give the port another id in the metadata",
                port.id
            ))),
        }
    }

    /// The port has its tap here, and its machine runs or is about to: its endpoint is written if it is not there as it should be.
    ///
    /// # Errors
    /// When libvirt has not said what its tap is, or the datastore cannot be read or written.
    pub(super) fn plug(&mut self, domain: &Domain, port: &Port) -> Result<(), Failure> {
        let key = self.key(domain, port)?;
        let Some(tap) = &port.tap else {
            return Err(Failure::configuration(format!(
                "port {}: its interface has no name yet; give it one with <target dev='…'/>",
                port.id
            )));
        };
        let document = endpoint_document(&key, tap, port.mac, &port.addresses)?;
        if self.store.look(&port.id)?.place_of(&key).is_some()
            && self.store.endpoint(&key)?["spec"] == document["spec"]
        {
            return Ok(());
        }
        self.store.put_endpoint(&key, &document)
    }

    /// The machine is coming to this host.
    ///
    /// # Errors
    /// When the datastore cannot be read or written.
    pub(super) fn arrive(&mut self, domain: &Domain, port: &Port) -> Result<(), Failure> {
        let target = self.key(domain, port)?;
        let picture = self.store.look(&port.id)?;
        // ORDER: an endpoint of an earlier stay goes before its migration does, or the agent would take it for a machine that is here.
        self.store.remove_endpoint(&target)?;
        for earlier in &picture.migrations {
            self.store.remove_migration(&earlier.name)?;
        }
        let elsewhere: Vec<&EndpointKey> =
            picture.endpoints.iter().map(|(key, _)| key).filter(|key| is_elsewhere(key, &target)).collect();
        // In a directory of this host's own there is none. Which of several it is, nobody here knows.
        let source = if let [source] = elsewhere.as_slice() { Some(*source) } else { None };
        let migration = migration_document(source, &target, &stamp::uid()?);
        // ORDER: the migration first, or the target would announce the route before it knows that it must wait.
        self.store.create_migration(&target.to_string(), &migration)?;
        self.plug(domain, port)
    }

    /// Waits until the agent has reported those ready that are coming to this host. Says which it has not.
    ///
    /// # Errors
    /// When the datastore cannot be read.
    pub(super) fn wait_ready(&mut self, domain: &Domain, until: BootTime) -> Result<Vec<String>, Failure> {
        let mut waiting = Vec::new();
        for port in &domain.ports {
            let target = self.key(domain, port)?;
            let migrations = self.store.look(&port.id)?.migrations;
            if let Some(found) = migrations.into_iter().find(|found| goes_to(found, &target)) {
                waiting.push((found.name, target));
            }
        }
        loop {
            let mut unready = Vec::new();
            for (name, target) in waiting {
                if self.store.reported(&name, &target)? != Reported::Since("up".to_owned()) {
                    unready.push((name, target));
                }
            }
            if unready.is_empty() || clock::now() >= until {
                return Ok(unready.into_iter().map(|(_, target)| target.endpoint).collect());
            }
            waiting = unready;
            std::thread::sleep(LOOK_EVERY);
        }
    }

    /// The machine has no process here any more: it was shut down, has gone elsewhere, or has not come.
    ///
    /// # Errors
    /// When the datastore cannot be read or written.
    pub(super) fn release(&mut self, domain: &Domain, port: &Port) -> Result<(), Failure> {
        let own = self.key(domain, port)?;
        for found in self.store.look(&port.id)?.migrations {
            // A migration from here has succeeded, or has nothing left to move; one to here has failed, or is over.
            // ORDER: it goes before the endpoint, as with a driver: what is sent to the machine is forwarded on.
            if found.migration.endpoints().any(|key| *key == own) {
                self.store.remove_migration(&found.name)?;
            }
        }
        self.store.remove_endpoint(&own)
    }

    /// Ends the migrations to this host of machines that run here. Returns their ports.
    ///
    /// # Errors
    /// When the datastore cannot be read or written.
    pub(super) fn complete(&mut self, running: &BTreeSet<String>) -> Result<Vec<String>, Failure> {
        let mut done = Vec::new();
        for found in self.store.migrations_to(&self.name)? {
            let Some(MigrationTarget::Endpoint(target)) = &found.migration.target else { continue };
            if !running.contains(workload(target)) {
                continue;
            }
            self.store.remove_migration(&found.name)?;
            // A machine that runs here runs nowhere else.
            for (key, _) in self.store.look(&target.endpoint)?.endpoints {
                if is_elsewhere(&key, target) {
                    self.store.remove_endpoint(&key)?;
                }
            }
            done.push(target.endpoint.clone());
        }
        Ok(done)
    }
}

fn is_elsewhere(key: &EndpointKey, here: &EndpointKey) -> bool {
    key.is_same_port(here) && key.host != here.host
}

fn goes_to(found: &StoredMigration, target: &EndpointKey) -> bool {
    matches!(&found.migration.target, Some(MigrationTarget::Endpoint(key)) if key == target)
}
