//! Whose endpoints the datastore has, if it has none of this host's: under another name of the host, or in another region.
//!
//! One look for people, by the agent when something is lost and by `cutover doctor`. What it means is a pure function of it.

use super::etcd::{Cluster, Keys, look_at_hosts};
use super::resource::Resource;
use super::{read_file, resource_files};
use crate::settings::{DatastoreType, Settings};
use std::collections::BTreeSet;
use std::path::PathBuf;

/// Namespaces with the hosts that have endpoints in them.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Whereabouts(pub BTreeSet<(String, String)>);

/// Looks at the datastore that the settings name; nothing if it cannot be read.
pub async fn look(settings: &Settings) -> Option<Whereabouts> {
    match settings.datastore_type {
        DatastoreType::Dir => {
            let directory = settings.cutover_datastore_dir.clone();
            tokio::task::spawn_blocking(move || of_directory(directory)).await.ok()?
        }
        DatastoreType::Etcdv3 => look_at_hosts(&Cluster::new(settings).ok()?).await.ok(),
    }
}

fn of_directory(directory: PathBuf) -> Option<Whereabouts> {
    let mut found = Whereabouts::default();
    for path in resource_files(&directory).ok()? {
        let documents = read_file(&path).map(|(_, documents)| documents).unwrap_or_default();
        for document in documents {
            if let Resource::Endpoint(key, _) = document.parsed.resource {
                let namespace = key.workload.split_once('/').map_or("", |(namespace, _)| namespace);
                found.0.insert((namespace.to_owned(), key.host.clone()));
            }
        }
    }
    Some(found)
}

impl Whereabouts {
    /// Another name under which this host may be meant.
    #[must_use]
    pub fn alike(&self, host: &str) -> Option<&str> {
        let first_label = |name: &str| name.split('.').next().unwrap_or_default().to_lowercase();
        let hosts = self.0.iter().map(|(_, other)| other.as_str());
        let mut alike = hosts.filter(|other| *other != host && first_label(other) == first_label(host));
        alike.next()
    }

    /// Another namespace than that of the region in which this host has endpoints.
    #[must_use]
    pub fn elsewhere(&self, host: &str, namespace: &str) -> Option<&str> {
        let mut others = self.0.iter().filter(|(other, its_host)| its_host == host && other != namespace);
        others.next().map(|(other, _)| other.as_str())
    }

    /// What most probably is the matter, in words.
    #[must_use]
    pub fn explain(&self, settings: &Settings) -> Option<String> {
        let host = &settings.felix_hostname;
        if let Some(alike) = self.alike(host) {
            return Some(format!(
                "The datastore has endpoints of the host {alike}, and this one is {host}; set FelixHostname = {alike} if it is meant"
            ));
        }
        if settings.datastore_type == DatastoreType::Etcdv3 {
            let namespace = Keys::new(host, &settings.openstack_region).namespace();
            if let Some(other) = self.elsewhere(host, &namespace) {
                return Some(format!(
                    "The datastore has endpoints of {host} in the namespace {other}, and OpenstackRegion leads to {namespace}; {}",
                    region_setting(other)
                ));
            }
        }
        self.0.is_empty().then(|| "The datastore has no endpoints of any host".to_owned())
    }
}

/// What to set so that a namespace is the region's.
#[must_use]
pub fn region_setting(namespace: &str) -> String {
    match namespace.strip_prefix("openstack-region-") {
        Some(region) => format!("set OpenstackRegion = {region} if it is meant"),
        None => "take OpenstackRegion out of the settings if that is meant".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(host: &str, region: &str) -> Settings {
        Settings { felix_hostname: host.into(), openstack_region: region.into(), ..Settings::default() }
    }

    fn explained(found: &[(&str, &str)], settings: &Settings) -> String {
        let found = found.iter().map(|(namespace, host)| ((*namespace).to_owned(), (*host).to_owned()));
        Whereabouts(found.collect()).explain(settings).unwrap_or_default()
    }

    #[test]
    fn a_wrong_name_and_a_wrong_region_are_told_apart() {
        let here = settings("compute-2", "");
        for alike in ["Compute-2", "compute-2.example.org"] {
            let text = explained(&[("openstack", alike), ("openstack", "compute-3")], &here);
            assert!(text.contains(&format!("FelixHostname = {alike}")), "{text}");
        }
        let text = explained(&[("openstack-region-west", "compute-2")], &here);
        assert!(text.contains("OpenstackRegion = west"), "{text}");
        let text = explained(&[("openstack", "compute-2")], &settings("compute-2", "west"));
        assert!(text.contains("take OpenstackRegion out"), "{text}");
        assert!(explained(&[], &here).contains("no endpoints of any host"));
        assert_eq!(explained(&[("openstack", "compute-22")], &here), "");
    }
}
