//! What the datastore holds at one time of a replay, by key, and how endpoints are read by a test that does not trust
//! the agent's own reader.

use cutover_common::MacAddr;
use cutover_tests::Port;
use ipnet::IpNet;
use serde_json::Value;
use std::collections::BTreeMap;

/// Every key with its latest value.
#[derive(Default)]
pub(crate) struct Written(BTreeMap<String, String>);

impl Written {
    pub(crate) fn put(&mut self, key: &str, value: &str) {
        self.0.insert(key.to_owned(), value.to_owned());
    }

    pub(crate) fn delete(&mut self, key: &str) {
        self.0.remove(key);
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (&String, &String)> {
        self.0.iter()
    }

    /// The port as the endpoint on a host shows it.
    pub(crate) fn port(&self, host: &str, endpoint: &str) -> Option<Port> {
        self.of_kind("workloadendpoints")
            .filter(|document| document["spec"]["node"] == host && document["spec"]["endpoint"] == endpoint)
            .find_map(|document| port(&document))
    }

    /// Whether an endpoint on a host has a tap of this name.
    pub(crate) fn needs_tap(&self, host: &str, interface: &str) -> bool {
        self.of_kind("workloadendpoints").any(|document| {
            document["spec"]["node"] == host && document["spec"]["interfaceName"] == interface
        })
    }

    /// Source host and uid of the migration of a port to a host, when it comes from another one.
    pub(crate) fn migration_to(&self, host: &str, endpoint: &str) -> Option<(String, String)> {
        self.of_kind("livemigrations").find_map(|document| {
            let spec = &document["spec"];
            let source = spec["source"]["workloadEndpoint"]["hostname"].as_str()?;
            let target = &spec["target"]["workloadEndpoint"];
            (target["hostname"] == host && target["endpointID"] == endpoint && source != host).then(|| {
                (source.to_owned(), document["metadata"]["uid"].as_str().unwrap_or_default().to_owned())
            })
        })
    }

    fn of_kind(&self, kind: &str) -> impl Iterator<Item = Value> {
        let part = format!("/{kind}/");
        self.0
            .iter()
            .filter(move |(key, _)| key.contains(&part))
            .filter_map(|(_, value)| serde_json::from_str(value).ok())
    }
}

/// The port that an endpoint describes. Addresses that are none are left out (W30).
pub(crate) fn port(endpoint: &Value) -> Option<Port> {
    let spec = &endpoint["spec"];
    let text = |field: &str| spec[field].as_str().map(str::to_owned);
    let networks = spec["ipNetworks"].as_array()?.iter();
    let nats = spec["ipNATs"].as_array().into_iter().flatten();
    Some(Port {
        workload: text("workload")?,
        endpoint: text("endpoint")?,
        interface: text("interfaceName")?,
        mac: spec["mac"].as_str()?.parse::<MacAddr>().ok()?,
        addresses: networks.filter_map(|network| network.as_str()?.parse::<IpNet>().ok()).collect(),
        floating: nats
            .filter_map(|nat| {
                Some((nat["internalIP"].as_str()?.parse().ok()?, nat["externalIP"].as_str()?.parse().ok()?))
            })
            .collect(),
        labels: Vec::new(),
    })
}

/// The host and the port that the name in a key of an endpoint or a migration is about.
pub(crate) fn host_and_port(key: &str) -> Option<(String, String)> {
    let name = key.rsplit('/').next()?.replace("--", "\0");
    let parts: Vec<String> = name.split('-').map(|part| part.replace('\0', "-")).collect();
    let [host, _, _, port] = <[String; 4]>::try_from(parts).ok()?;
    Some((host, port))
}
