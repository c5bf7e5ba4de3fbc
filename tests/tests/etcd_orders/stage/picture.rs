//! What the hosts show at one time, and whether a machine has come to rest in it.

use super::{Node, host_name};
use crate::guest::Guest;
use crate::orders::HostNumber;
use cutover_tests::route_history::Route;
use ipnet::IpNet;
use serde_json::Value;
use std::collections::BTreeMap;

/// What one host shows at one time.
pub(super) struct Picture {
    endpoints: BTreeMap<String, Value>,
    routes: BTreeMap<IpNet, Vec<u32>>,
}

impl Picture {
    pub(super) fn of(node: &Node) -> Self {
        let status = node.agent.ask_status().expect("the agent answers");
        let shown = status["endpoints"].as_array().into_iter().flatten();
        let name = |endpoint: &Value| endpoint["name"].as_str().unwrap_or_default().to_owned();
        let endpoints = shown.map(|endpoint| (name(endpoint), endpoint.clone())).collect();
        let mut routes: BTreeMap<IpNet, Vec<u32>> = BTreeMap::new();
        for Route { destination, metric, .. } in node.watch.routes() {
            routes.entry(destination).or_default().push(metric);
        }
        Self { endpoints, routes }
    }

    pub(super) fn of_guest(&self, guest: &Guest, host: HostNumber) -> Option<&Value> {
        self.endpoints.get(&guest.port.name_on(&host_name(host)))
    }

    pub(super) fn metrics(&self, to: &IpNet) -> &[u32] {
        self.routes.get(to).map_or(&[], Vec::as_slice)
    }
}

/// What is still to happen for a machine before its next phase begins.
pub(super) fn not_calm(guest: &Guest, pictures: &[Picture]) -> Option<String> {
    for (host, picture) in pictures.iter().enumerate() {
        let has_any = guest.port.routed().iter().any(|to| !picture.metrics(to).is_empty());
        let has_all = guest.port.routed().iter().all(|to| !picture.metrics(to).is_empty());
        let shown = picture.of_guest(guest, host);
        let reported = shown.is_some_and(|shown| shown["status"] == "up" && shown["status_due"] == false);
        let armed = shown.is_some_and(|shown| shown["watch"].is_u64());
        let is_held = shown.is_some_and(|shown| shown["held"] == true);
        let wanted = if guest.awaited_on(host) {
            (!has_any && armed && reported, "armed, reported, and without routes")
        } else if guest.lives_on(host) {
            (has_all && reported && !is_held, "routed and reported")
        } else if !guest.endpoints.contains_key(&host) {
            (!has_any && shown.is_none(), "gone")
        } else {
            continue;
        };
        if let (false, what) = wanted {
            return Some(format!(
                "{} on {} is not {what}: {shown:#?}\n{:?}",
                guest.number,
                host_name(host),
                guest.script
            ));
        }
    }
    None
}
