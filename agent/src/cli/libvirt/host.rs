//! What is written for a machine of libvirt's, on the host that it is written for. Everything can be done twice, and can be broken off at
//! any place: what was done is found, and what was not is done by the next call.

use super::domain::{Domain, Port};
use super::mark::Told;
use crate::cli::Failure;
use crate::cli::store::document::{endpoint_document, migration_document, workload};
use crate::cli::store::{self, Picture, Reported, Store, StoredMigration, stamp};
use cutover_common::MacAddr;
use cutover_daemon::clock;
use cutover_daemon::datastore::resource::{self, Format, check_key};
use cutover_daemon::settings::Settings;
use cutover_engine::BootTime;
use cutover_engine::model::{EndpointKey, MigrationTarget};
use serde_json::Value;
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

/// A migration to this host of a machine that is not here: its name, and its uid, because the next attempt has the same name.
pub(super) type Stray = (String, String);

impl Host {
    /// As the settings have them.
    ///
    /// # Errors
    /// When the datastore cannot be reached.
    pub(super) fn open(settings: &Settings) -> Result<Self, Failure> {
        Ok(Self { name: settings.felix_hostname.clone(), store: store::open(settings, None)? })
    }

    /// The same while somebody waits; see `store::open_within`.
    ///
    /// # Errors
    /// When the datastore cannot be reached.
    pub(super) fn open_within(settings: &Settings, within: Duration, first: usize) -> Result<Self, Failure> {
        Ok(Self {
            name: settings.felix_hostname.clone(),
            store: store::open_within(settings, within, first)?,
        })
    }

    /// The workload of a domain's endpoints.
    fn workload(&self, uuid: &str) -> String {
        format!("{}/{uuid}", self.store.namespace())
    }

    /// The endpoint of a port here.
    fn key(&self, domain: &Domain, port: &Port) -> Result<EndpointKey, Failure> {
        let key = EndpointKey {
            host: self.name.clone(),
            orchestrator: ORCHESTRATOR.to_owned(),
            workload: self.workload(&domain.uuid),
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

    /// A machine starts here. If it comes from elsewhere, or may, a migration is written before its endpoint, so that it gets no route
    /// before it announces itself, or is known to run here.
    ///
    /// # Errors
    /// When the port cannot be used, or the datastore cannot be read or written.
    pub(super) fn start(
        &mut self,
        domain: &Domain,
        port: &Port,
        told: &Told,
        has_started: bool,
    ) -> Result<(), Failure> {
        let own = self.key(domain, port)?;
        let document = document(port, &own)?;
        let picture = self.store.look(&port.id)?;
        // Another host has it if that host has lost its power, or if the call that says that it comes was lost.
        let is_elsewhere = picture.endpoints.iter().any(|(key, _)| is_elsewhere(key, &own));
        // One that boots has none by then.
        let has_begun = has_started && picture.migrations.iter().any(|found| goes_to(found, &own));
        match told {
            Told::Comes(uid) => {
                let uid = uid_of(uid, port.mac);
                self.arrive(&own, &document, &picture, &uid, |found| found.migration.uid == uid)
            }
            Told::Boots if !is_elsewhere && !has_begun => self.boot(&own, &document, &picture),
            Told::Boots | Told::Nothing => {
                self.arrive(&own, &document, &picture, &stamp::uid()?, |_| has_begun)
            }
        }
    }

    /// The machine runs here, or is about to without having run elsewhere.
    fn boot(&mut self, own: &EndpointKey, document: &Value, picture: &Picture) -> Result<(), Failure> {
        // With a migration that an earlier stay has left it would be one that is waited for.
        for earlier in picture.migrations.iter().filter(|found| names(found, own)) {
            self.store.remove_migration(&earlier.name)?;
        }
        self.put(own, document)
    }

    /// The machine is coming to this host. Nothing of this attempt is written anew.
    fn arrive(
        &mut self,
        own: &EndpointKey,
        document: &Value,
        picture: &Picture,
        uid: &str,
        is_this_attempt: impl Fn(&StoredMigration) -> bool,
    ) -> Result<(), Failure> {
        if !picture.migrations.iter().any(|found| goes_to(found, own) && is_this_attempt(found)) {
            // ORDER: an endpoint of an earlier stay goes before its migration does, or the agent would take it for a machine that is here.
            self.store.remove_endpoint(own)?;
            for earlier in picture.migrations.iter().filter(|found| is_of_port(found, own)) {
                self.store.remove_migration(&earlier.name)?;
            }
            let elsewhere: Vec<&EndpointKey> =
                picture.endpoints.iter().map(|(key, _)| key).filter(|key| is_elsewhere(key, own)).collect();
            // In a directory of this host's own there is none. Which of several it is, nobody here knows.
            let source = if let [source] = elsewhere.as_slice() { Some(*source) } else { None };
            // ORDER: the migration first, or the target would announce the route before it knows that it must wait.
            self.create_migration(own, &migration_document(source, own, uid), uid)?;
        }
        self.put(own, document)
    }

    /// If only the answer was lost, the migration is there, and the endpoint has to follow.
    fn create_migration(&mut self, own: &EndpointKey, document: &Value, uid: &str) -> Result<(), Failure> {
        let Err(failure) = self.store.create_migration(&own.to_string(), document) else { return Ok(()) };
        let is_written = |found: &StoredMigration| goes_to(found, own) && found.migration.uid == uid;
        match self.store.look(&own.endpoint) {
            Ok(picture) if picture.migrations.iter().any(is_written) => Ok(()),
            _ => Err(failure),
        }
    }

    /// Writes an endpoint if it is not there as it should be.
    fn put(&mut self, key: &EndpointKey, document: &Value) -> Result<(), Failure> {
        if self.store.look(&key.endpoint)?.place_of(key).is_some()
            && self.store.endpoint(key)?["spec"] == document["spec"]
        {
            return Ok(());
        }
        self.store.put_endpoint(key, document)
    }

    /// The port has its tap here, and its machine has a process here for a while. An endpoint that was removed because the machine has gone
    /// is not written again by the source, where the process may be there a little longer.
    ///
    /// # Errors
    /// When the port cannot be used, another host has it, or the datastore cannot be read or written.
    pub(super) fn plug(&mut self, domain: &Domain, port: &Port, told: &Told) -> Result<(), Failure> {
        let own = self.key(domain, port)?;
        let picture = self.store.look(&port.id)?;
        if picture.place_of(&own).is_none() {
            if matches!(told, Told::Comes(_)) {
                return self.start(domain, port, told, true);
            }
            let elsewhere = picture.endpoints.iter().find(|(key, _)| is_elsewhere(key, &own));
            if let Some((other, place)) = elsewhere {
                return Err(Failure::other(format!(
                    "port {}: host {} has an endpoint of it, so none is written here; if the machine runs here and not there, \
                     remove {place} and do this again",
                    port.id, other.host
                )));
            }
        }
        self.put(&own, &document(port, &own)?)
    }

    /// Removes endpoints that the machine has here for ports that are not in its metadata any more, or have another id there.
    ///
    /// # Errors
    /// When the datastore cannot be read or written.
    pub(super) fn prune(&mut self, domain: &Domain) -> Result<(), Failure> {
        self.take_out_all(&domain.uuid, |id| domain.ports.iter().all(|port| port.id != id))
    }

    /// The machine has no process here any more: it was shut down, has gone elsewhere, or has not come. Whatever its metadata say by now,
    /// everything of it goes that this host has.
    ///
    /// # Errors
    /// When the datastore cannot be read or written.
    pub(super) fn release(&mut self, uuid: &str) -> Result<(), Failure> {
        self.take_out_all(uuid, |_| true)
    }

    fn take_out_all(&mut self, uuid: &str, is_meant: impl Fn(&str) -> bool) -> Result<(), Failure> {
        let workload = self.workload(uuid);
        let Picture { endpoints, migrations } = self.store.look_for_machine(&workload)?;
        let sides = migrations.iter().flat_map(|found| found.migration.endpoints().cloned());
        let mut keys: BTreeSet<EndpointKey> =
            endpoints.into_iter().map(|(key, _)| key).chain(sides).collect();
        keys.retain(|key| {
            let is_ours =
                key.host == self.name && key.orchestrator == ORCHESTRATOR && key.workload == workload;
            is_ours && is_meant(&key.endpoint)
        });
        Failure::all(keys.iter().filter_map(|key| self.take_out(key, &migrations).err()))
    }

    /// Removes an endpoint of this host's and the migrations that name it.
    fn take_out(&mut self, own: &EndpointKey, migrations: &[StoredMigration]) -> Result<(), Failure> {
        let (to_here, from_here): (Vec<_>, Vec<_>) =
            migrations.iter().filter(|found| names(found, own)).partition(|found| goes_to(found, own));
        // ORDER: a migration from here goes before the endpoint, as with a driver: what is sent to the machine is forwarded on. One to here
        // goes after it, or the agent would take the machine for one that is here.
        for found in from_here {
            self.store.remove_migration(&found.name)?;
        }
        self.store.remove_endpoint(own)?;
        for found in to_here {
            self.store.remove_migration(&found.name)?;
        }
        Ok(())
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

    /// Ends the migrations to this host of machines that run here, and adds their ports to `done`. One that cannot be ended keeps no other.
    ///
    /// # Errors
    /// When the datastore cannot be read or written.
    pub(super) fn complete(
        &mut self,
        running: &BTreeSet<String>,
        done: &mut Vec<String>,
    ) -> Result<(), Failure> {
        let mut failures = Vec::new();
        for found in self.store.migrations_to(&self.name)? {
            let Some(MigrationTarget::Endpoint(target)) = &found.migration.target else { continue };
            if !running.contains(workload(target)) {
                continue;
            }
            match self.end(&found, target) {
                Ok(()) => done.push(target.endpoint.clone()),
                Err(failure) => failures.push(failure.about(&format!("port {}", target.endpoint))),
            }
        }
        Failure::all(failures)
    }

    fn end(&mut self, found: &StoredMigration, target: &EndpointKey) -> Result<(), Failure> {
        // ORDER: a machine that runs here runs nowhere else, and as long as the migration is there the next attempt finds what is left.
        for (key, _) in self.store.look(&target.endpoint)?.endpoints {
            if is_elsewhere(&key, target) {
                self.store.remove_endpoint(&key)?;
            }
        }
        self.store.remove_migration(&found.name)
    }

    /// Migrations to this host of machines that have no process here.
    ///
    /// # Errors
    /// When the datastore cannot be read.
    pub(super) fn strays(&mut self, here: &BTreeSet<String>) -> Result<BTreeSet<Stray>, Failure> {
        let mut strays = BTreeSet::new();
        for found in self.store.migrations_to(&self.name)? {
            if let Some(MigrationTarget::Endpoint(target)) = &found.migration.target
                && !here.contains(workload(target))
            {
                strays.insert((found.name, found.migration.uid));
            }
        }
        Ok(strays)
    }

    /// Removes these migrations and what they have brought here.
    ///
    /// # Errors
    /// When the datastore cannot be read or written.
    pub(super) fn abandon(&mut self, strays: &BTreeSet<Stray>) -> Result<(), Failure> {
        if strays.is_empty() {
            return Ok(());
        }
        let mut failures = Vec::new();
        for found in self.store.migrations_to(&self.name)? {
            let Some(MigrationTarget::Endpoint(target)) = found.migration.target.clone() else { continue };
            if strays.contains(&(found.name.clone(), found.migration.uid.clone())) {
                failures.extend(self.take_out(&target, &[found]).err());
            }
        }
        Failure::all(failures)
    }
}

/// What the agent will read, with nothing in it that the agent would leave out.
fn document(port: &Port, key: &EndpointKey) -> Result<Value, Failure> {
    let Some(tap) = &port.tap else {
        return Err(Failure::configuration(format!(
            "port {}: its interface has no name yet; give it one with <target dev='…'/>",
            port.id
        )));
    };
    let document = endpoint_document(key, tap, port.mac, &port.addresses)?;
    let problem = match resource::parse(&document.to_string(), Format::Json) {
        Ok(parsed) if parsed.notices.is_empty() => return Ok(document),
        Ok(parsed) => parsed.notices.join("; "),
        Err(refusal) => refusal.to_string(),
    };
    Err(Failure::configuration(format!(
        "port {}: the agent would not take its endpoint as it is: {problem}; correct the domain's metadata",
        port.id
    )))
}

/// A uid for each port of one attempt.
fn uid_of(attempt: &str, mac: MacAddr) -> String {
    // The last of the five parts of a UUID is as long as a hardware address, and differs between ports.
    let beginning = attempt.get(..24).unwrap_or(attempt);
    format!("{beginning}{}", mac.to_string().replace(':', ""))
}

fn is_elsewhere(key: &EndpointKey, here: &EndpointKey) -> bool {
    key.is_same_port(here) && key.host != here.host
}

/// Two machines may have ports with the same id, and one has nothing to do with the other's migrations.
fn is_of_port(found: &StoredMigration, port: &EndpointKey) -> bool {
    found.migration.endpoints().any(|key| key.is_same_port(port))
}

fn names(found: &StoredMigration, endpoint: &EndpointKey) -> bool {
    found.migration.endpoints().any(|key| key == endpoint)
}

fn goes_to(found: &StoredMigration, target: &EndpointKey) -> bool {
    matches!(&found.migration.target, Some(MigrationTarget::Endpoint(key)) if key == target)
}

#[cfg(test)]
mod tests;
