//! Where the documents of Calico's data model are in etcd, as the Neutron driver writes them for clouds without regions, and the two that are
//! there before any port. The agent has a table of keys of its own; that both mean the same is what the tests show.

use crate::etcd::Etcd;
use crate::resources::{Port, felix_configuration};
use serde_json::{Value, json};

/// Below this is every resource.
pub const RESOURCES: &str = "/calico/resources/v3/projectcalico.org";

/// Says whether the datastore is ready: the ClusterInformation.
pub fn set_ready(etcd: &Etcd, ready: bool) {
    let document = json!({
        "kind": "ClusterInformation", "apiVersion": "projectcalico.org/v3", "metadata": {"name": "default"},
        "spec": {"clusterGUID": "8e1c", "clusterType": "openstack", "datastoreReady": ready},
    });
    etcd.put(&format!("{RESOURCES}/clusterinformations/default"), &document.to_string());
}

/// Writes a FelixConfiguration; `name` is `default` or `node.<host>`.
pub fn configure(etcd: &Etcd, name: &str, spec: &Value) {
    let document = felix_configuration(name, spec);
    etcd.put(&format!("{RESOURCES}/felixconfigurations/{name}"), &document.to_string());
}

/// A ready datastore, with the settings of a cloud whose agents report their endpoints.
pub fn set_up(etcd: &Etcd) {
    set_ready(etcd, true);
    configure(etcd, "default", &json!({"endpointReportingEnabled": true, "interfacePrefix": "tap"}));
}

/// Key of the WorkloadEndpoint of a port on a host.
#[must_use]
pub fn endpoint_key(port: &Port, host: &str) -> String {
    format!("{RESOURCES}/workloadendpoints/openstack/{}", port.name_on(host))
}

/// Key of the LiveMigration of a port to a host.
#[must_use]
pub fn migration_key(port: &Port, to: &str) -> String {
    format!("{RESOURCES}/livemigrations/openstack/{}", port.name_on(to))
}

/// Key of the status that a host reports of a port.
#[must_use]
pub fn status_key(port: &Port, host: &str) -> String {
    let Port { workload, endpoint, .. } = port;
    format!(
        "/calico/felix/v2/no-region/host/{host}/workload/openstack/openstack%2f{workload}/endpoint/{endpoint}"
    )
}
