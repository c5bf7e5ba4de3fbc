//! The BGP instance of the default VRF: `router bgp`, its neighbours, and what is said for each address family.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

/// LOCAL_PREF of routes without one.
const LOCAL_PREF: u32 = 100;

/// `router bgp`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Instance {
    pub(super) autonomous_system: u32,
    pub(super) restarts_gracefully: bool,
    /// `bgp graceful-shutdown`.
    pub(super) is_shutting_down: bool,
    /// `bgp shutdown`.
    pub(super) is_shut: bool,
    /// Whether IPv4 is active without a word.
    ipv4_by_default: bool,
    /// Whether eBGP without a policy exchanges nothing, if it is said.
    pub(super) wants_policy: Option<bool>,
    pub(super) default_local_pref: u32,
    /// By address, interface or name of the peer group.
    neighbours: BTreeMap<String, Neighbour>,
    pub(super) ipv4: Space,
    pub(super) ipv6: Space,
}

/// What is said about a neighbour or a group for all families.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
struct Neighbour {
    remote_as: Option<String>,
    group: Option<String>,
    is_group: bool,
    is_shut: bool,
    is_shutting_down: bool,
    /// Where its session goes out.
    interface: Option<String>,
}

/// An address family.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct Space {
    /// `redistribute kernel`, if it is there.
    pub(super) kernel: Option<Redistribution>,
    /// eBGP, iBGP.
    pub(super) distances: Option<(u32, u32)>,
    /// A route-map between bgpd's table and zebra.
    pub(super) table_map: Option<String>,
    active: BTreeMap<String, bool>,
    /// By neighbour and direction.
    policies: BTreeMap<(String, String), Policy>,
    weights: BTreeMap<String, u32>,
    /// Neighbours that are told all paths.
    all_paths: BTreeSet<String>,
    /// Neighbours that are told no communities.
    without_communities: BTreeSet<String>,
    /// Neighbours that are told some routes only while there are others.
    conditional: BTreeSet<String>,
}

/// What is done with the routes of the kernel on their way into bgpd.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct Redistribution {
    /// Instead of the kernel's.
    pub(super) metric: Option<u32>,
    pub(super) map: Option<String>,
}

/// What stands in the way of routes to or from a neighbour, in the order in which bgpd asks.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct Policy {
    pub(super) distribute_list: Option<String>,
    pub(super) prefix_list: Option<String>,
    pub(super) filter_list: Option<String>,
    pub(super) map: Option<String>,
}

/// A neighbour in one family, with what it has from its group.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Peer {
    pub(super) name: String,
    pub(super) is_external: bool,
    pub(super) interface: Option<String>,
    pub(super) import: Policy,
    pub(super) export: Policy,
    /// What its routes have before any route-map.
    pub(super) weight: u32,
    pub(super) has_all_paths: bool,
    pub(super) has_communities: bool,
    pub(super) is_conditional: bool,
    /// It is told that this host is about to go away.
    pub(super) is_shutting_down: bool,
}

impl Instance {
    pub(super) fn new(autonomous_system: u32) -> Self {
        Self {
            autonomous_system,
            restarts_gracefully: false,
            is_shutting_down: false,
            is_shut: false,
            ipv4_by_default: true,
            wants_policy: None,
            default_local_pref: LOCAL_PREF,
            neighbours: BTreeMap::new(),
            ipv4: Space::default(),
            ipv6: Space::default(),
        }
    }

    pub(super) fn space(&self, is_ipv6: bool) -> &Space {
        if is_ipv6 { &self.ipv6 } else { &self.ipv4 }
    }

    /// The neighbours that are active in a family.
    pub(super) fn peers(&self, is_ipv6: bool) -> Vec<Peer> {
        let space = self.space(is_ipv6);
        let neighbours = self.neighbours.iter().filter(|(_, neighbour)| !neighbour.is_group);
        let peers = neighbours.filter_map(|(name, neighbour)| {
            let group = neighbour.group.as_deref();
            let of_group = group.and_then(|group| self.neighbours.get(group));
            let says = |of: fn(&Neighbour) -> bool| of(neighbour) || of_group.is_some_and(of);
            let active = |name: &str| space.active.get(name).copied();
            let by_default = !is_ipv6 && self.ipv4_by_default;
            let is_active = active(name).or_else(|| active(group?)).unwrap_or(by_default);
            if !is_active || says(|it| it.is_shut) {
                return None;
            }
            let remote = neighbour.remote_as.as_ref().or_else(|| of_group?.remote_as.as_ref());
            let own = self.autonomous_system.to_string();
            let has = |set: &BTreeSet<String>| set.contains(name) || group.is_some_and(|it| set.contains(it));
            let interface = neighbour.interface.clone().or_else(|| of_group?.interface.clone());
            Some(Peer {
                name: name.clone(),
                is_external: remote.is_some_and(|remote| *remote != own && remote != "internal"),
                interface,
                import: space.policy(name, group, "in"),
                export: space.policy(name, group, "out"),
                weight: *space.weights.get(name).or_else(|| space.weights.get(group?)).unwrap_or(&0),
                has_all_paths: has(&space.all_paths),
                has_communities: !has(&space.without_communities),
                is_conditional: has(&space.conditional),
                is_shutting_down: says(|it| it.is_shutting_down),
            })
        });
        peers.collect()
    }

    pub(super) fn line(&mut self, words: &[&str]) {
        match words {
            ["bgp", "graceful-restart"] => self.restarts_gracefully = true,
            ["bgp", "graceful-shutdown"] => self.is_shutting_down = true,
            ["bgp", "shutdown", ..] => self.is_shut = true,
            ["bgp", "ebgp-requires-policy"] => self.wants_policy = Some(true),
            ["no", "bgp", "ebgp-requires-policy"] => self.wants_policy = Some(false),
            ["no", "bgp", "default", "ipv4-unicast"] => self.ipv4_by_default = false,
            ["bgp", "default", "local-preference", number] => {
                self.default_local_pref = number.parse().unwrap_or(LOCAL_PREF);
            }
            ["neighbor", name, "peer-group"] => self.neighbour(name).is_group = true,
            ["neighbor", name, "peer-group", group] => self.neighbour(name).group = Some((*group).to_owned()),
            ["neighbor", name, "remote-as", number] => {
                self.neighbour(name).remote_as = Some((*number).to_owned());
            }
            // With a round-trip time it is shut only above that.
            ["neighbor", name, "shutdown", rest @ ..] if rest.first() != Some(&"rtt") => {
                self.neighbour(name).is_shut = true;
            }
            ["neighbor", name, "graceful-shutdown"] => self.neighbour(name).is_shutting_down = true,
            ["neighbor", name, "update-source", interface] => {
                self.neighbour(name).interface = Some((*interface).to_owned());
            }
            // An address with its interface, or an interface without an address.
            ["neighbor", name, "interface", interface] if name.parse::<IpAddr>().is_ok() => {
                self.neighbour(name).interface = Some((*interface).to_owned());
            }
            ["neighbor", name, "interface", rest @ ..] => {
                let at = |word: &str| rest.iter().position(|it| *it == word).and_then(|at| rest.get(at + 1));
                let (remote, group) = (at("remote-as").copied(), at("peer-group").copied());
                let neighbour = self.neighbour(name);
                neighbour.interface = Some((*name).to_owned());
                neighbour.remote_as = remote.map(str::to_owned).or(neighbour.remote_as.take());
                neighbour.group = group.map(str::to_owned).or(neighbour.group.take());
            }
            // Older ones write the IPv4 family without a block.
            _ => self.ipv4.line(words),
        }
    }

    fn neighbour(&mut self, name: &str) -> &mut Neighbour {
        self.neighbours.entry(name.to_owned()).or_default()
    }
}

impl Space {
    /// What is said of a neighbour, else of its group.
    fn policy(&self, name: &str, group: Option<&str>, direction: &str) -> Policy {
        let of = |name: &str| self.policies.get(&(name.to_owned(), direction.to_owned()));
        let own = of(name).cloned().unwrap_or_default();
        let groups = group.and_then(of).cloned().unwrap_or_default();
        Policy {
            distribute_list: own.distribute_list.or(groups.distribute_list),
            prefix_list: own.prefix_list.or(groups.prefix_list),
            filter_list: own.filter_list.or(groups.filter_list),
            map: own.map.or(groups.map),
        }
    }

    pub(super) fn line(&mut self, words: &[&str]) {
        match words {
            ["redistribute", "kernel", rest @ ..] => {
                let after = |word: &str| {
                    let at = rest.iter().position(|it| *it == word)?;
                    rest.get(at + 1).map(|it| (*it).to_owned())
                };
                let metric = after("metric").and_then(|number| number.parse().ok());
                self.kernel = Some(Redistribution { metric, map: after("route-map") });
            }
            ["distance", "bgp", external, internal, ..] => {
                self.distances = external.parse().ok().zip(internal.parse().ok());
            }
            ["table-map", map] => self.table_map = Some((*map).to_owned()),
            ["neighbor", name, "activate"] => drop(self.active.insert((*name).to_owned(), true)),
            ["no", "neighbor", name, "activate"] => drop(self.active.insert((*name).to_owned(), false)),
            [
                "neighbor",
                name,
                kind @ ("route-map" | "prefix-list" | "distribute-list" | "filter-list"),
                list,
                direction @ ("in" | "out"),
            ] => {
                let policy = self.policies.entry(((*name).to_owned(), (*direction).to_owned())).or_default();
                let place = match *kind {
                    "route-map" => &mut policy.map,
                    "prefix-list" => &mut policy.prefix_list,
                    "distribute-list" => &mut policy.distribute_list,
                    _ => &mut policy.filter_list,
                };
                *place = Some((*list).to_owned());
            }
            ["neighbor", name, "weight", number] => {
                self.weights.extend(number.parse().ok().map(|number| ((*name).to_owned(), number)));
            }
            ["neighbor", name, "addpath-tx-all-paths"] => drop(self.all_paths.insert((*name).to_owned())),
            ["no", "neighbor", name, "send-community"]
            | ["no", "neighbor", name, "send-community", "both" | "all" | "standard"] => {
                self.without_communities.insert((*name).to_owned());
            }
            ["neighbor", name, "advertise-map", ..] => drop(self.conditional.insert((*name).to_owned())),
            _ => {}
        }
    }
}
