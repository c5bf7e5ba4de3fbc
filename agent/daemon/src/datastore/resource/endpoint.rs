//! WorkloadEndpoint documents.

use super::{Envelope, Metadata, Refusal, Resource, name};
use cutover_common::MacAddr;
use cutover_engine::model::{Endpoint, EndpointKey};
use ipnet::IpNet;
use serde::Deserialize;
use serde_json::Value;
use std::collections::BTreeSet;
use std::net::IpAddr;

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct EndpointSpec {
    orchestrator: Option<String>,
    workload: Option<String>,
    node: Option<String>,
    endpoint: Option<String>,
    interface_name: Option<String>,
    mac: Option<String>,
    // Elements are looked at one by one: a strange one must not cost the others.
    ip_networks: Option<Vec<Value>>,
    #[serde(rename = "ipNATs")]
    ip_nats: Option<Vec<Value>>,
}

/// LIMIT: IFNAMSIZ is 16 with the terminating zero.
const INTERFACE_NAME_MAX_BYTES: usize = 15;

pub(super) fn interpret(
    envelope: Envelope<EndpointSpec>,
    notices: &mut Vec<String>,
) -> Result<Resource, Refusal> {
    let metadata = envelope.metadata.unwrap_or_default();
    let spec = envelope.spec.ok_or_else(|| Refusal::of("there is no spec"))?;
    let key = key(&metadata, &spec)?;
    name::check_key(&key)?;
    let mut notice = |text: String| notices.push(format!("WorkloadEndpoint {key}: {text}"));

    if let Some(name) = metadata.name.filter(|name| *name != key.to_string()) {
        notice(format!("its name is {name:?}, but its spec says {key}; the spec counts"));
    }
    let interface = interface(spec.interface_name)?;
    let mac = spec.mac.filter(|text| !text.is_empty()).and_then(|text| match text.parse::<MacAddr>() {
        Ok(mac) => Some(mac),
        Err(reason) => {
            notice(format!("mac {text:?} is left out: {reason}"));
            None
        }
    });
    let networks = spec.ip_networks.unwrap_or_default();
    if networks.is_empty() {
        return Err(Refusal::of("there are no ipNetworks"));
    }
    let mut prefixes = BTreeSet::new();
    for element in &networks {
        match network(element) {
            Ok(prefix) => drop(prefixes.insert(prefix)),
            Err(reason) => notice(format!("ipNetworks element {element} is left out: {reason}")),
        }
    }
    if prefixes.is_empty() {
        return Err(Refusal::of(format!("none of its ipNetworks is usable: {}", Value::from(networks))));
    }
    for element in &spec.ip_nats.unwrap_or_default() {
        match element.get("externalIP").ok_or_else(|| "there is no externalIP".to_owned()).and_then(address) {
            Ok(address) => drop(prefixes.insert(address.into())),
            Err(reason) => notice(format!("ipNATs element {element} is left out: {reason}")),
        }
    }
    let labels = metadata.labels.unwrap_or_default().into();
    let uid = metadata.uid.unwrap_or_default().into();
    Ok(Resource::Endpoint(key, Endpoint { uid, interface, mac, prefixes, labels }))
}

/// From the spec; what is missing there is in the name.
fn key(metadata: &Metadata, spec: &EndpointSpec) -> Result<EndpointKey, Refusal> {
    let namespace = metadata.namespace.as_deref().filter(|namespace| !namespace.is_empty());
    let namespace =
        namespace.ok_or_else(|| Refusal::of("there is no metadata.namespace; write openstack"))?;
    let from_name = metadata.name.as_deref().and_then(|name| name::parse_name(namespace, name));
    let part = |member: &str, given: &Option<String>, named: fn(EndpointKey) -> String| {
        let given = given.clone().filter(|text| !text.is_empty());
        given.or_else(|| from_name.clone().map(named)).ok_or_else(|| {
            Refusal::of(format!(
                "there is no spec.{member}, and metadata.name does not have four segments to take it from"
            ))
        })
    };
    let workload = match spec.workload.as_deref().filter(|text| !text.is_empty()) {
        Some(workload) => format!("{namespace}/{workload}"),
        None => part("workload", &None, |key| key.workload)?,
    };
    Ok(EndpointKey {
        host: part("node", &spec.node, |key| key.host)?,
        orchestrator: part("orchestrator", &spec.orchestrator, |key| key.orchestrator)?,
        workload,
        endpoint: part("endpoint", &spec.endpoint, |key| key.endpoint)?,
    })
}

/// The name goes into paths below /proc/sys and into requests to the kernel.
fn interface(name: Option<String>) -> Result<String, Refusal> {
    let name = name.unwrap_or_default();
    let reason = if name.is_empty() {
        "there is no interfaceName".to_owned()
    } else if name.len() > INTERFACE_NAME_MAX_BYTES {
        format!("interfaceName {name:?} is longer than {INTERFACE_NAME_MAX_BYTES} bytes")
    } else if name == "." || name == ".." {
        format!("interfaceName {name:?} is not a name")
    } else if let Some(bad) =
        name.chars().find(|c| *c == '/' || *c == ':' || c.is_whitespace() || c.is_control())
    {
        format!("interfaceName {name:?} contains {bad:?}")
    } else {
        return Ok(name);
    };
    Err(Refusal::of(reason))
}

fn text(element: &Value) -> Result<&str, String> {
    element.as_str().ok_or_else(|| "it is not text".to_owned())
}

/// A prefix, or an address for which its full length is meant; bits beyond the length are cut off.
fn network(element: &Value) -> Result<IpNet, String> {
    let text = text(element)?;
    if !text.contains('/') {
        return address(element).map(IpNet::from);
    }
    let prefix: IpNet = text.parse().map_err(|_| "it is not an address with a prefix length".to_owned())?;
    // A default route to a virtual machine is never what was meant.
    if prefix.prefix_len() == 0 {
        return Err("it is every address there is".to_owned());
    }
    of_a_machine(prefix.addr())?;
    Ok(prefix.trunc())
}

fn address(element: &Value) -> Result<IpAddr, String> {
    let address = text(element)?.parse().map_err(|_| "it is not an address".to_owned())?;
    of_a_machine(address)?;
    Ok(address)
}

/// Tenants choose address pairs: none of them may draw the host's own multicast, as a routing protocol's, to a tap.
fn of_a_machine(address: IpAddr) -> Result<(), String> {
    let broadcast = matches!(address, IpAddr::V4(address) if address.is_broadcast());
    if broadcast || address.is_multicast() || address.is_loopback() || address.is_unspecified() {
        return Err("a virtual machine cannot have it".to_owned());
    }
    Ok(())
}
