//! The orchestrator's documents, and the directory that they are put into. Knows what they look like
//! (compatible with Calico's etcd model), not in which order a driver writes them: that is [`crate::driver`].

use crate::vm;
use cutover_common::MacAddr;
use ipnet::IpNet;
use serde_json::{Value, json};
use std::fs::{self, OpenOptions};
use std::io::Write as _;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

/// A Neutron port: what stays the same wherever its VM runs.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Port {
    /// Id of the instance.
    pub workload: String,
    /// Id of the port.
    pub endpoint: String,
    /// Name of the tap, the same on every host.
    pub interface: String,
    /// The guest's hardware address.
    pub mac: MacAddr,
    /// Fixed addresses and address pairs, as prefixes.
    pub addresses: Vec<IpNet>,
    /// Floating addresses: inside, outside.
    pub floating: Vec<(IpAddr, IpAddr)>,
    /// Labels of the endpoint.
    pub labels: Vec<(String, String)>,
}

impl Port {
    /// The `number`-th port, with one address of each family.
    ///
    /// # Panics
    /// Never.
    #[must_use]
    pub fn new(number: u8) -> Self {
        Self {
            workload: format!("vm{number}"),
            endpoint: format!("port{number}"),
            interface: format!("tapport{number}"),
            mac: MacAddr([0xfa, 0x16, 0x3e, 0, 0, number]),
            addresses: vec![
                IpNet::new([10, 65, 0, number + 1].into(), 32).expect("a full prefix"),
                IpNet::new([0x2001, 0xdb8, 0, 0, 0, 0, 0, u16::from(number) + 1].into(), 128)
                    .expect("a full prefix"),
            ],
            floating: Vec::new(),
            labels: Vec::new(),
        }
    }

    /// The first IPv4 prefix.
    ///
    /// # Panics
    /// When there is none.
    #[must_use]
    pub fn ipv4(&self) -> IpNet {
        *self.addresses.iter().find(|net| net.addr().is_ipv4()).expect("an IPv4 address")
    }

    /// The first IPv6 prefix.
    ///
    /// # Panics
    /// When there is none.
    #[must_use]
    pub fn ipv6(&self) -> IpNet {
        *self.addresses.iter().find(|net| net.addr().is_ipv6()).expect("an IPv6 address")
    }

    /// Every prefix that is routed to the tap.
    #[must_use]
    pub fn routed(&self) -> Vec<IpNet> {
        let floating = self.floating.iter().map(|(_, outside)| IpNet::from(*outside));
        self.addresses.iter().copied().chain(floating).collect()
    }

    /// Hardware address of the tap, on every host.
    #[must_use]
    pub fn tap_mac(&self) -> MacAddr {
        vm::tap_mac(self.mac)
    }

    /// Name of the resource on a host: segments joined with dashes, dashes inside of them doubled.
    #[must_use]
    pub fn name_on(&self, host: &str) -> String {
        [host, "openstack", &self.workload, &self.endpoint].map(|part| part.replace('-', "--")).join("-")
    }

    /// The WorkloadEndpoint of this port on a host.
    #[must_use]
    pub fn endpoint_on(&self, host: &str, uid: &str) -> Value {
        let nats: Vec<Value> = self
            .floating
            .iter()
            .map(|(inside, outside)| json!({"internalIP": inside, "externalIP": outside}))
            .collect();
        let mut labels = serde_json::Map::new();
        labels.insert("projectcalico.org/namespace".into(), "openstack".into());
        labels.insert("projectcalico.org/orchestrator".into(), "openstack".into());
        labels.extend(self.labels.iter().map(|(key, value)| (key.clone(), value.as_str().into())));
        let mut spec = json!({
            "orchestrator": "openstack", "workload": self.workload, "node": host, "endpoint": self.endpoint,
            "interfaceName": self.interface, "mac": self.mac.to_string(),
            "ipNetworks": self.addresses, "allowedIps": [],
        });
        if !nats.is_empty() {
            spec["ipNATs"] = nats.into();
        }
        json!({
            "kind": "WorkloadEndpoint", "apiVersion": "projectcalico.org/v3",
            "metadata": {
                "name": self.name_on(host), "namespace": "openstack", "uid": uid,
                "creationTimestamp": "2026-08-22T10:00:00Z", "labels": labels,
                "annotations": {"openstack.projectcalico.org/network-id": "net1"},
            },
            "spec": spec,
        })
    }

    /// How a LiveMigration refers to this port on a host.
    #[must_use]
    pub fn reference_on(&self, host: &str) -> Value {
        json!({"workloadEndpoint": {
            "hostname": host, "orchestratorID": "openstack",
            "workloadID": format!("openstack/{}", self.workload), "endpointID": self.endpoint,
        }})
    }

    /// The LiveMigration of this port between two hosts, named after its target.
    #[must_use]
    pub fn migration(&self, source: &str, target: &str, uid: &str) -> Value {
        migration(
            &self.name_on(target),
            uid,
            &json!({"source": self.reference_on(source), "target": self.reference_on(target)}),
        )
    }
}

/// A LiveMigration with any content.
#[must_use]
pub fn migration(name: &str, uid: &str, spec: &Value) -> Value {
    json!({
        "kind": "LiveMigration", "apiVersion": "projectcalico.org/v3",
        "metadata": {
            "name": name, "namespace": "openstack", "uid": uid, "creationTimestamp": "2026-08-22T10:00:00Z",
        },
        "spec": spec,
    })
}

/// A FelixConfiguration; `name` is `default` or `node.<host>`.
#[must_use]
pub fn felix_configuration(name: &str, spec: &Value) -> Value {
    json!({
        "kind": "FelixConfiguration", "apiVersion": "projectcalico.org/v3",
        "metadata": {"name": name}, "spec": spec,
    })
}

/// A uid that no other resource of this process has.
#[must_use]
pub fn new_uid() -> String {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    format!("5b1c0000-0000-4000-8000-{:012x}", NEXT.fetch_add(1, Ordering::Relaxed))
}

/// A directory datastore, as an orchestrator sees it.
#[derive(Clone, Debug)]
pub struct Directory {
    path: PathBuf,
}

impl Directory {
    pub(crate) fn create(path: PathBuf) -> Self {
        fs::create_dir_all(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        Self { path }
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Writes a document under a file name that follows from its kind and its name, all at once.
    pub fn put(&self, document: &Value) {
        self.put_text(&file_name(document), &format!("{document:#}\n"));
    }

    /// Writes a file all at once: nobody sees half of it.
    ///
    /// # Panics
    /// When the disk is full.
    pub fn put_text(&self, name: &str, text: &str) {
        // Outside of the watched folder, so that the rename is the only thing to see.
        let folder = self.path.parent().expect("a folder of the lab");
        let mut file = tempfile::NamedTempFile::new_in(folder).expect("a temporary file");
        file.write_all(text.as_bytes()).expect("space on the disk");
        file.persist(self.path.join(name)).expect("a rename");
    }

    /// Writes the beginning of a file in place, as an editor or a copy that is interrupted does.
    ///
    /// # Panics
    /// When the disk is full.
    pub fn put_beginning(&self, name: &str, text: &str) {
        fs::write(self.path.join(name), text).expect("space on the disk");
    }

    /// Writes the rest.
    ///
    /// # Panics
    /// When there is no beginning.
    pub fn put_rest(&self, name: &str, text: &str) {
        let mut file = OpenOptions::new().append(true).open(self.path.join(name)).expect("a beginning");
        file.write_all(text.as_bytes()).expect("space on the disk");
    }

    /// Removes what [`Self::put`] wrote. It may be gone already, as for a driver.
    pub fn delete(&self, document: &Value) {
        self.delete_file(&file_name(document));
    }

    /// Removes a file. It may be gone already.
    pub fn delete_file(&self, name: &str) {
        let _ = fs::remove_file(self.path.join(name));
    }

    /// Names of the files, sorted.
    #[must_use]
    pub fn files(&self) -> Vec<String> {
        let entries = fs::read_dir(&self.path).into_iter().flatten().flatten();
        let mut names: Vec<String> =
            entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
        names.sort();
        names
    }
}

/// The file that a document goes into.
///
/// # Panics
/// When the document has no kind or no name.
#[must_use]
pub fn file_name(document: &Value) -> String {
    let kind = document["kind"].as_str().expect("a kind").to_lowercase();
    let name = document["metadata"]["name"].as_str().expect("a name");
    format!("{kind}.{name}.json")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_double_dashes_as_the_driver_does() {
        let mut port = Port::new(1);
        port.workload = "11-22".into();
        assert_eq!(port.name_on("compute-2"), "compute--2-openstack-11--22-port1");
    }

    #[test]
    fn documents_look_like_recorded_ones() {
        let mut port = Port::new(1);
        port.floating = vec![([10, 65, 0, 2].into(), [172, 16, 0, 9].into())];
        let endpoint = port.endpoint_on("compute2", "u");
        assert_eq!(endpoint["spec"]["ipNetworks"], json!(["10.65.0.2/32", "2001:db8::2/128"]));
        assert_eq!(endpoint["spec"]["interfaceName"], "tapport1");
        assert_eq!(endpoint["spec"]["ipNATs"][0]["externalIP"], "172.16.0.9");
        assert_eq!(file_name(&endpoint), "workloadendpoint.compute2-openstack-vm1-port1.json");
        let migration = port.migration("compute1", "compute2", "u");
        assert_eq!(migration["metadata"]["name"], "compute2-openstack-vm1-port1");
        assert_eq!(migration["spec"]["source"]["workloadEndpoint"]["workloadID"], "openstack/vm1");
        assert_eq!(port.routed().last().unwrap().to_string(), "172.16.0.9/32");
    }
}
