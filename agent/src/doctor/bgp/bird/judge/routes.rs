//! The routes that are sent through BIRD's filters: of a VM here, of one elsewhere, and what of them reaches a peer.

use super::super::protocol::{Bgp, Kernel};
use super::super::run::{Route, Value};
use super::Judge;
use std::collections::BTreeSet;

impl Judge<'_> {
    /// A route of a VM here, as the kernel protocol learns it.
    pub(super) fn local(&self, metric: u32, kernel: &Kernel) -> Route {
        let interface = format!("{}0a1b2c3d", self.wanted.prefixes.iter().next().unwrap_or("tap"));
        let mut route = self.route();
        route.extend([
            ("source".into(), Value::Symbol("RTS_INHERIT".into())),
            ("proto".into(), Value::Text(kernel.name.clone())),
            ("ifname".into(), Value::Text(interface)),
            ("preference".into(), Value::Number(kernel.preference)),
            ("krt_metric".into(), Value::Number(metric.into())),
            ("krt_source".into(), Value::Number(self.wanted.protocol.into())),
            ("bgp_local_pref".into(), Value::Undefined),
            ("bgp_path".into(), Value::Undefined),
        ]);
        route.extend(OF_OTHERS.map(|name| (name.to_owned(), Value::Undefined)));
        route
    }

    /// A route of a VM elsewhere, as a peer announces it.
    pub(super) fn remote(&self, peer: &Bgp, wire: &Wire) -> Route {
        let communities = match wire.communities.len() {
            0 => Value::Undefined,
            _ => Value::Communities(wire.communities.clone()),
        };
        let (local_pref, path) = if peer.is_external {
            (peer.default_local_pref, wire.path + 1)
        } else {
            (wire.local_pref, wire.path)
        };
        let mut route = self.route();
        route.extend([
            ("source".into(), Value::Symbol("RTS_BGP".into())),
            ("proto".into(), Value::Text(peer.name.clone())),
            ("ifname".into(), Value::Text(UPLINK.into())),
            ("preference".into(), Value::Number(peer.preference)),
            ("krt_metric".into(), Value::Undefined),
            ("krt_source".into(), Value::Undefined),
            ("bgp_local_pref".into(), Value::Number(local_pref)),
            ("bgp_path".into(), Value::Path(path)),
            ("bgp_community".into(), communities),
            ("bgp_med".into(), Value::Number(wire.med)),
        ]);
        if wire.has_more {
            MORE.iter().for_each(|name| drop(route.remove(*name)));
        }
        route
    }

    /// What all routes of VMs have in common.
    fn route(&self) -> Route {
        let net = self.family.sample.map_or(Value::Host(self.family.is_ipv6), Value::Net);
        Route::from([
            ("net".into(), net),
            ("bgp_community".into(), Value::Undefined),
            ("bgp_ext_community".into(), Value::Undefined),
            ("bgp_large_community".into(), Value::Undefined),
            ("bgp_cluster_list".into(), Value::Undefined),
            ("bgp_med".into(), Value::Undefined),
        ])
    }
}

/// What routes of the kernel do not have either.
const OF_OTHERS: [&str; 11] = [
    "bgp_origin",
    "bgp_next_hop",
    "bgp_atomic_aggr",
    "bgp_aggregator",
    "bgp_originator_id",
    "ospf_metric1",
    "ospf_metric2",
    "ospf_tag",
    "ospf_router_id",
    "rip_metric",
    "rip_tag",
];

/// Communities that are not followed.
const MORE: [&str; 2] = ["bgp_ext_community", "bgp_large_community"];

/// A name that no VM's interface has.
pub(super) const UPLINK: &str = "eth0";

/// What of a route reaches the peer.
#[derive(Clone, PartialEq, Debug)]
pub(super) struct Wire {
    pub(super) local_pref: i64,
    pub(super) communities: BTreeSet<(i64, i64)>,
    pub(super) path: i64,
    pub(super) med: i64,
    /// Whether it has communities that are not followed.
    pub(super) has_more: bool,
}

impl Wire {
    /// Nothing if something of it cannot be known.
    pub(super) fn of(route: &Route, peer: &Bgp) -> Option<Self> {
        let or = |name: &str, default: i64| match route.get(name)? {
            Value::Number(number) | Value::Path(number) => Some(*number),
            Value::Undefined => Some(default),
            _ => None,
        };
        Some(Self {
            local_pref: or("bgp_local_pref", peer.default_local_pref)?,
            path: or("bgp_path", 0)?,
            med: or("bgp_med", 0)?,
            has_more: MORE.iter().any(|name| route.get(*name) != Some(&Value::Undefined)),
            communities: match route.get("bgp_community")? {
                Value::Communities(all) => all.clone(),
                Value::Undefined => BTreeSet::new(),
                _ => return None,
            },
        })
    }
}
