//! Documents of resources that are new.

use super::stamp;
use crate::cli::Failure;
use cutover_common::MacAddr;
use cutover_daemon::clock;
use cutover_engine::model::EndpointKey;
use ipnet::IpNet;
use serde_json::{Value, json};
use std::collections::BTreeSet;

/// A LiveMigration, named after its target. Where the machine comes from may be unknown: a target does not need it.
pub(in crate::cli) fn migration_document(
    source: Option<&EndpointKey>,
    target: &EndpointKey,
    uid: &str,
) -> Value {
    let side = |key: &EndpointKey| {
        json!({ "workloadEndpoint": {
            "hostname": key.host, "orchestratorID": key.orchestrator, "workloadID": key.workload, "endpointID": key.endpoint,
        }})
    };
    let mut spec = json!({ "target": side(target) });
    if let Some(source) = source {
        spec["source"] = side(source);
    }
    json!({
        "apiVersion": "projectcalico.org/v3",
        "kind": "LiveMigration",
        "metadata": {
            "name": target.to_string(), "namespace": namespace(target), "uid": uid, "creationTimestamp": clock::wall_text(),
        },
        "spec": spec,
    })
}

/// A WorkloadEndpoint.
pub(in crate::cli) fn endpoint_document(
    key: &EndpointKey,
    interface: &str,
    mac: MacAddr,
    addresses: &BTreeSet<IpNet>,
) -> Result<Value, Failure> {
    let mut document = json!({
        "apiVersion": "projectcalico.org/v3",
        "kind": "WorkloadEndpoint",
        "metadata": {
            "name": key.to_string(), "namespace": namespace(key),
            "labels": { "projectcalico.org/namespace": namespace(key), "projectcalico.org/orchestrator": key.orchestrator },
        },
        "spec": {
            "orchestrator": key.orchestrator, "workload": workload(key), "node": key.host, "endpoint": key.endpoint,
            "interfaceName": interface, "mac": mac.to_string(), "ipNetworks": addresses,
        },
    });
    stamp::renew(&mut document)?;
    Ok(document)
}

/// The part of the workload before the slash.
pub(in crate::cli) fn namespace(key: &EndpointKey) -> &str {
    key.workload.split_once('/').map_or("", |(namespace, _)| namespace)
}

/// The part of the workload after the slash.
pub(in crate::cli) fn workload(key: &EndpointKey) -> &str {
    key.workload.split_once('/').map_or(key.workload.as_str(), |(_, workload)| workload)
}
