//! What FRR does with the routes of a migration, by its configuration. What zebra and bgpd make of a kernel route was found
//! out with FRR 8.4 to 10.7; docs/bgp.md tells it.

use super::super::{
    ANNOUNCES, ELEVATED_ANNOUNCED, Family, INTO_KERNEL, KERNEL_METRIC, LEARNS, LOCAL_WINS, ONLY_VMS,
    PRIORITIES, REMOTE_WINS, RESTART, Wanted, local_pref, no_peer,
};
use super::config::{Config, Instance, Space};
use super::route_map::{Outcome, Route, apply, metrics};
use crate::doctor::finding::{Check, Finding};
use std::collections::BTreeSet;

/// KERNEL: zebra takes the high octet of a metric for the distance, and the rest for the metric.
const DISTANCE_SHIFT: u32 = 24;
/// What every route from bgpd has in the kernel.
const KERNEL_METRIC_OF_BGP: u32 = 20;
/// What bgpd gives routes without a word.
const LOCAL_PREF: u32 = 100;
const WEIGHT_OF_OWN: u32 = 32_768;
const DISTANCES: (u32, u32) = (20, 200);
const ADVICE: &str = "as cutover bgp frr prints it";

/// Judges a configuration.
pub(super) fn judge(config: &Config, wanted: &Wanted) -> Vec<Finding> {
    let Some(bgp) = &config.bgp else {
        return vec![ANNOUNCES.error("there is no router bgp", "let cutover bgp frr print one")];
    };
    let mut findings = vec![if bgp.restarts_gracefully {
        RESTART.ok("bgpd restarts gracefully")
    } else {
        RESTART.warning(
            format!("router bgp {} does not restart gracefully", bgp.autonomous_system),
            "bgp graceful-restart in router bgp",
        )
    }];
    // zebra's own, and those of FRR's daemons (zebra/rt_netlink.h).
    if let protocol @ (11 | 42 | 186..=198) = wanted.protocol {
        findings.push(LEARNS.error(
            format!("DeviceRouteProtocol {protocol} is one of FRR's own, which it does not learn, and removes when it starts"),
            "DeviceRouteProtocol = 3",
        ));
        return findings;
    }
    let judges: Vec<Judge<'_>> = wanted
        .families
        .iter()
        .map(|family| {
            let space = if family.is_ipv6 { &bgp.ipv6 } else { &bgp.ipv4 };
            Judge { config, bgp, space, family: *family }
        })
        .collect();
    let announces_any = judges.iter().any(|judge| !judge.peers().is_empty());
    for judge in &judges {
        if announces_any && judge.peers().is_empty() {
            findings.push(no_peer(judge.family));
        } else {
            findings.extend(judge.all());
        }
    }
    findings
}

struct Judge<'a> {
    config: &'a Config,
    bgp: &'a Instance,
    space: &'a Space,
    family: Family,
}

struct Peer {
    name: String,
    is_external: bool,
    import: Option<String>,
    export: Option<String>,
}

impl Judge<'_> {
    fn all(&self) -> Vec<Finding> {
        let family = self.family;
        let peers = self.peers();
        if peers.is_empty() {
            let what = format!("{family}: no neighbor is active in router bgp");
            return vec![
                ANNOUNCES.error(what, format!("neighbor … activate in its address-family, {ADVICE}")),
            ];
        }
        let Some(map) = &self.space.kernel else {
            let what = format!("{family}: routes of the kernel are not redistributed");
            return vec![LEARNS.error(what, format!("redistribute kernel route-map …, {ADVICE}"))];
        };
        let mut findings = self.numbers();
        if !findings.is_empty() {
            return findings;
        }
        let own = |metric: u32| self.redistributed(map, metric);
        let (normal, elevated) = (own(self.family.normal), own(self.family.elevated));
        if let Some(finding) = self.other_numbers(map, &normal, &elevated) {
            return vec![finding];
        }
        let name = if map.is_empty() { "redistribute kernel".to_owned() } else { format!("route-map {map}") };
        let Some((normal, elevated)) = self.both(&LEARNS, &name, &normal, &elevated, &mut findings) else {
            return findings;
        };
        findings.push(LEARNS.ok(format!("{family}: routes of VMs are redistributed")));
        findings.push(self.only_vms(map));
        for peer in &peers {
            self.peer(peer, &name, &normal, &elevated, &mut findings);
        }
        findings
    }

    /// The neighbours of this family, with what they have from their groups.
    fn peers(&self) -> Vec<Peer> {
        let neighbours = self.bgp.neighbours.iter().filter(|(_, neighbour)| !neighbour.is_group);
        let peers = neighbours.filter_map(|(name, neighbour)| {
            let group = neighbour.group.as_deref();
            let by_default = !self.family.is_ipv6 && self.bgp.ipv4_by_default;
            let active = |name: &str| self.space.active.get(name).copied();
            if !active(name).or_else(|| active(group?)).unwrap_or(by_default) {
                return None;
            }
            let of_group = group.and_then(|group| self.bgp.neighbours.get(group));
            let remote = neighbour.remote_as.as_ref().or_else(|| of_group?.remote_as.as_ref());
            let own = self.bgp.autonomous_system.to_string();
            let map = |direction: &str| {
                let of = |name: &str| self.space.maps.get(&(name.to_owned(), direction.to_owned()));
                of(name).or_else(|| of(group?)).cloned()
            };
            Some(Peer {
                name: name.clone(),
                is_external: remote.is_some_and(|remote| *remote != own && remote != "internal"),
                import: map("in"),
                export: map("out"),
            })
        });
        peers.collect()
    }

    /// Priorities with which no configuration of FRR can work.
    fn numbers(&self) -> Vec<Finding> {
        let normal = self.family.normal;
        let ip = self.family.to_string();
        if normal >> DISTANCE_SHIFT < 2 {
            return vec![REMOTE_WINS.error(
                format!("{ip}: {ip}NormalRoutePriority is {normal}, whose high octet zebra takes for the distance: {} wins over every route from BGP", normal >> DISTANCE_SHIFT),
                format!("{ip}NormalRoutePriority = 100665344 (6 x 2^24 + 2048) and {ip}ElevatedRoutePriority = 10 for all hosts, and what cutover bgp frr prints then"),
            )];
        }
        vec![]
    }

    fn redistributed(&self, map: &str, metric: u32) -> Vec<Outcome> {
        let low = metric & ((1 << DISTANCE_SHIFT) - 1);
        self.through(Some(map).filter(|map| !map.is_empty()), &self.route(low, WEIGHT_OF_OWN))
    }

    fn route(&self, metric: u32, weight: u32) -> Route {
        Route {
            net: self.family.sample,
            is_ipv6: self.family.is_ipv6,
            metric,
            local_pref: LOCAL_PREF,
            weight,
            distance: None,
            communities: BTreeSet::new(),
            path: 0,
        }
    }

    fn through(&self, map: Option<&str>, route: &Route) -> Vec<Outcome> {
        match map {
            Some(map) => apply(self.config, map, route),
            None => vec![Outcome { is_permitted: true, route: route.clone(), is_uncertain: false }],
        }
    }

    /// A route-map that was written for other priorities.
    fn other_numbers(&self, map: &str, normal: &[Outcome], elevated: &[Outcome]) -> Option<Finding> {
        let denied = |outcomes: &[Outcome]| outcomes.iter().all(|outcome| !outcome.is_permitted);
        let numbers = metrics(self.config.route_maps.get(map)?);
        if numbers.is_empty() || !(denied(normal) || denied(elevated)) {
            return None;
        }
        let low = |metric: u32| metric & ((1 << DISTANCE_SHIFT) - 1);
        let list: Vec<String> = numbers.iter().map(u32::to_string).collect();
        Some(PRIORITIES.error(
            format!(
                "{}: route-map {map} is written for metrics {}, those of the settings appear as {} and {}",
                self.family,
                list.join(", "),
                low(self.family.normal),
                low(self.family.elevated)
            ),
            "let cutover bgp frr print the configuration again",
        ))
    }

    /// What both routes are behind a route-map, or a finding that they are not, or cannot be known.
    fn both(
        &self,
        check: &'static Check,
        map: &str,
        normal: &[Outcome],
        elevated: &[Outcome],
        findings: &mut Vec<Finding>,
    ) -> Option<(Route, Route)> {
        let only = |outcomes: &[Outcome]| {
            let is_clear = outcomes.iter().all(|outcome| !outcome.is_uncertain && *outcome == outcomes[0]);
            is_clear.then(|| outcomes[0].clone())
        };
        let (Some(normal), Some(elevated)) = (only(normal), only(elevated)) else {
            findings.push(check.notice(
                format!(
                    "{}: could not tell what {map} does: it depends on what cannot be known here",
                    self.family
                ),
                "compare it with what cutover bgp frr prints",
            ));
            return None;
        };
        for (which, outcome) in [("normal", &normal), ("elevated", &elevated)] {
            if !outcome.is_permitted {
                findings.push(check.error(
                    format!("{}: {map} denies {which} routes of VMs", self.family),
                    format!("permit them in {map}, {ADVICE}"),
                ));
                return None;
            }
        }
        Some((normal.route, elevated.route))
    }

    fn only_vms(&self, map: &str) -> Finding {
        let net = if self.family.is_ipv6 { "::/0" } else { "0.0.0.0/0" }.parse().expect("a prefix");
        let low = self.family.normal & ((1 << DISTANCE_SHIFT) - 1);
        let route = Route { net: Some(net), ..self.route(low, WEIGHT_OF_OWN) };
        let outcomes = self.through(Some(map).filter(|map| !map.is_empty()), &route);
        if outcomes.iter().all(|outcome| outcome.is_permitted && !outcome.is_uncertain) {
            return ONLY_VMS.warning(
                format!(
                    "{}: the host's default route is redistributed if the kernel has it from somebody else",
                    self.family
                ),
                format!("match … address prefix-list with only routes to one address, {ADVICE}"),
            );
        }
        ONLY_VMS.ok(format!("{}: only routes to one address are redistributed", self.family))
    }

    fn peer(
        &self,
        peer: &Peer,
        learning: &str,
        normal: &Route,
        elevated: &Route,
        findings: &mut Vec<Finding>,
    ) {
        let family = self.family;
        if peer.is_external && self.bgp.wants_policy && (peer.import.is_none() || peer.export.is_none()) {
            findings.push(ANNOUNCES.error(
                format!(
                    "{family}: eBGP neighbor {} has no route-map in both directions, so nothing is exchanged",
                    peer.name
                ),
                format!("neighbor {} route-map … in, and … out, {ADVICE}", peer.name),
            ));
            return;
        }
        let out = |route: &Route| self.through(peer.export.as_deref(), route);
        let name = |map: &Option<String>| {
            map.as_ref().map_or("no route-map".to_owned(), |map| format!("route-map {map}"))
        };
        let (to_peer, from_peer) = (name(&peer.export), name(&peer.import));
        let Some((sent_normal, sent_elevated)) =
            self.both(&ANNOUNCES, &to_peer, &out(normal), &out(elevated), findings)
        else {
            return;
        };
        findings.push(ANNOUNCES.ok(format!("{family}: routes of VMs are announced to {}", peer.name)));
        findings.push(self.told(peer, learning, &sent_normal, &sent_elevated));
        let arrived = |sent: &Route| Route {
            weight: 0,
            distance: None,
            local_pref: if peer.is_external { LOCAL_PREF } else { sent.local_pref },
            path: sent.path + u32::from(peer.is_external),
            ..sent.clone()
        };
        let taken = |sent: &Route| self.through(peer.import.as_deref(), &arrived(sent));
        let Some((remote_normal, remote_elevated)) =
            self.both(&INTO_KERNEL, &from_peer, &taken(&sent_normal), &taken(&sent_elevated), findings)
        else {
            return;
        };
        findings.push(INTO_KERNEL.ok(format!("{family}: routes of {} get into the kernel", peer.name)));
        findings.push(self.remote_wins(peer, (learning, &from_peer), normal, &remote_elevated));
        findings.push(self.local_wins(peer, elevated, &remote_normal));
        findings.push(self.kernel_metric());
    }

    fn told(&self, peer: &Peer, learning: &str, normal: &Route, elevated: &Route) -> Finding {
        let (family, name) = (self.family, &peer.name);
        // MED does not count: it is compared only between routes from the same AS, which hosts often are not.
        let is_told = if peer.is_external {
            elevated.communities.difference(&normal.communities).next().is_some()
                || elevated.path < normal.path
        } else {
            elevated.local_pref > normal.local_pref
        };
        if is_told {
            return ELEVATED_ANNOUNCED.ok(format!("{family}: {name} is told which routes are elevated"));
        }
        let change = if peer.is_external {
            format!("set community 65000:100 where {learning} matches elevated routes")
        } else {
            format!(
                "set local-preference {} where {learning} matches elevated routes, and {} for normal ones",
                local_pref(family.elevated),
                local_pref(family.normal)
            )
        };
        ELEVATED_ANNOUNCED
            .error(format!("{family}: elevated and normal routes are announced alike to {name}"), change)
    }

    fn distance(&self, peer: &Peer, route: &Route) -> u32 {
        let (external, internal) = self.space.distances.unwrap_or(DISTANCES);
        route.distance.unwrap_or(if peer.is_external { external } else { internal })
    }

    /// On the source: first bgpd has to prefer the remote route, then zebra.
    fn remote_wins(
        &self,
        peer: &Peer,
        (learning, import): (&str, &str),
        local: &Route,
        remote: &Route,
    ) -> Finding {
        let family = self.family;
        if (local.weight, local.local_pref) >= (remote.weight, remote.local_pref) {
            return REMOTE_WINS.error(
                format!(
                    "{family}: for bgpd, local normal routes (weight {}, LOCAL_PREF {}) win over elevated ones of {} (weight {}, LOCAL_PREF {})",
                    local.weight, local.local_pref, peer.name, remote.weight, remote.local_pref
                ),
                format!("set weight 0 and the two LOCAL_PREFs in {learning}; with eBGP also set local-preference in {import}; {ADVICE}"),
            );
        }
        let (own, other) = (family.normal >> DISTANCE_SHIFT, self.distance(peer, remote));
        if other >= own {
            return REMOTE_WINS.error(
                format!("{family}: for zebra, local normal routes (distance {own}) win over elevated ones of {} (distance {other})", peer.name),
                format!("set distance {} for elevated routes in {import}, {ADVICE}", own - 1),
            );
        }
        REMOTE_WINS.ok(format!("{family}: elevated routes of {} win over local ones", peer.name))
    }

    /// On the target: first zebra has to prefer the local route, then bgpd.
    fn local_wins(&self, peer: &Peer, local: &Route, remote: &Route) -> Finding {
        let family = self.family;
        let (own, other) = (family.elevated >> DISTANCE_SHIFT, self.distance(peer, remote));
        let is_for_bgpd = (local.weight, local.local_pref) > (remote.weight, remote.local_pref);
        if own < other && is_for_bgpd {
            return LOCAL_WINS
                .ok(format!("{family}: local elevated routes win over normal ones of {}", peer.name));
        }
        LOCAL_WINS.error(
            format!(
                "{family}: local elevated routes (distance {own}, LOCAL_PREF {}) do not win over normal ones of {} (distance {other}, LOCAL_PREF {})",
                local.local_pref, peer.name, remote.local_pref
            ),
            format!("the LOCAL_PREFs and distances that cutover bgp frr prints, and {family}ElevatedRoutePriority below 2^24"),
        )
    }

    fn kernel_metric(&self) -> Finding {
        let (family, elevated) = (self.family, self.family.elevated);
        if elevated < KERNEL_METRIC_OF_BGP {
            return KERNEL_METRIC
                .ok(format!("{family}: elevated routes have a lower metric than those of bgpd"));
        }
        KERNEL_METRIC.notice(
            format!("{family}: routes of bgpd have metric {KERNEL_METRIC_OF_BGP} in the kernel, which wins over an elevated {elevated} until zebra has taken them away, some milliseconds"),
            format!("{family}ElevatedRoutePriority = 10 for all hosts"),
        )
    }
}
