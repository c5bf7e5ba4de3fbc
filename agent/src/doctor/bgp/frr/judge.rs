//! What FRR does with the routes of a migration, by its configuration. What zebra and bgpd make of a kernel route was found
//! out with FRR 8.4 to 10.7; docs/bgp.md tells it.

mod session;
mod winning;

use super::super::{ANNOUNCES, Family, LEARNS, ONLY_VMS, PRIORITIES, REMOTE_WINS, RESTART, Wanted, no_peer};
use super::config::Config;
use super::instance::{Instance, Peer, Redistribution, Space};
use super::lists::GRACEFUL_SHUTDOWN;
use super::route_map::{Outcome, Route, apply, metrics};
use crate::doctor::finding::{Check, Finding};
use ipnet::IpNet;
use std::collections::BTreeSet;
use std::net::IpAddr;

/// KERNEL: zebra takes the high octet of a metric for the distance, and the rest for the metric.
const DISTANCE_SHIFT: u32 = 24;
const WEIGHT_OF_OWN: u32 = 32_768;
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
    if bgp.is_shut {
        let what = format!("router bgp {} is shut down: it has no sessions", bgp.autonomous_system);
        findings.push(ANNOUNCES.error(what, "no bgp shutdown in router bgp"));
        return findings;
    }
    let judges: Vec<Judge<'_>> = wanted
        .families
        .iter()
        .map(|family| {
            let space = bgp.space(family.is_ipv6);
            Judge { config, bgp, space, family: *family, peers: hosts(bgp, family.is_ipv6, wanted) }
        })
        .collect();
    let announces_any = judges.iter().any(|judge| !judge.peers.is_empty());
    for judge in &judges {
        if announces_any && judge.peers.is_empty() {
            findings.push(no_peer(judge.family));
        } else {
            findings.extend(judge.all());
        }
    }
    findings
}

/// The neighbours that are other hosts or routers. One behind a VM's interface is the VM, which need not know of the others.
fn hosts(bgp: &Instance, is_ipv6: bool, wanted: &Wanted) -> Vec<Peer> {
    let mut peers = bgp.peers(is_ipv6);
    let address = |peer: &Peer| peer.name.parse::<IpAddr>().ok().map(IpNet::from);
    peers.retain(|peer| !wanted.is_vm(peer.interface.as_deref(), address(peer)));
    peers
}

struct Judge<'a> {
    config: &'a Config,
    bgp: &'a Instance,
    space: &'a Space,
    family: Family,
    peers: Vec<Peer>,
}

impl Judge<'_> {
    fn all(&self) -> Vec<Finding> {
        let family = self.family;
        if self.peers.is_empty() {
            let what = format!("{family}: no neighbor that is another host is active in router bgp");
            return vec![
                ANNOUNCES.error(what, format!("neighbor … activate in its address-family, {ADVICE}")),
            ];
        }
        let Some(kernel) = &self.space.kernel else {
            let what = format!("{family}: routes of the kernel are not redistributed");
            return vec![LEARNS.error(what, format!("redistribute kernel route-map …, {ADVICE}"))];
        };
        let mut findings = self.numbers();
        if !findings.is_empty() {
            return findings;
        }
        let own = |metric: u32| self.redistributed(kernel, metric, self.family.sample);
        let (normal, elevated) = (own(self.family.normal), own(self.family.elevated));
        if let Some(finding) = self.other_numbers(kernel, &normal, &elevated) {
            return vec![finding];
        }
        let name =
            kernel.map.as_ref().map_or("redistribute kernel".to_owned(), |map| format!("route-map {map}"));
        let Some((normal, elevated)) = self.both(&LEARNS, &name, &normal, &elevated, &mut findings) else {
            return findings;
        };
        findings.push(LEARNS.ok(format!("{family}: routes of VMs are redistributed")));
        findings.push(self.only_vms(kernel));
        for peer in &self.peers {
            self.peer(peer, &name, &normal, &elevated, &mut findings);
        }
        findings
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

    /// What bgpd makes of a route of the kernel.
    fn redistributed(&self, kernel: &Redistribution, metric: u32, net: Option<IpNet>) -> Vec<Outcome> {
        let route = Route {
            net,
            is_ipv6: self.family.is_ipv6,
            protocol: "kernel",
            is_in_zebra: false,
            metric: kernel.metric.unwrap_or_else(|| low(metric)),
            local_pref: Some(self.bgp.default_local_pref),
            weight: WEIGHT_OF_OWN,
            distance: None,
            communities: BTreeSet::new(),
            path: 0,
        };
        let mut outcomes = self.through(kernel.map.as_deref(), &route);
        if self.config.is_shutting_down() {
            outcomes.iter_mut().for_each(|outcome| shut_down(&mut outcome.route));
        }
        outcomes
    }

    fn through(&self, map: Option<&str>, route: &Route) -> Vec<Outcome> {
        match map {
            Some(map) => apply(self.config, map, route),
            None => vec![Outcome { is_permitted: true, route: route.clone(), is_uncertain: false }],
        }
    }

    /// A route-map that was written for other priorities.
    fn other_numbers(
        &self,
        kernel: &Redistribution,
        normal: &[Outcome],
        elevated: &[Outcome],
    ) -> Option<Finding> {
        let denied = |outcomes: &[Outcome]| outcomes.iter().all(|outcome| !outcome.is_permitted);
        let map = kernel.map.as_ref()?;
        let numbers = metrics(self.config.route_maps.get(map)?);
        if numbers.is_empty() || !(denied(normal) || denied(elevated)) {
            return None;
        }
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
            findings.push(self.unclear(check, map));
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

    fn unclear(&self, check: &'static Check, what: &str) -> Finding {
        check.notice(
            format!(
                "{}: could not tell what {what} does: it depends on what cannot be known here",
                self.family
            ),
            "compare it with what cutover bgp frr prints",
        )
    }

    fn only_vms(&self, kernel: &Redistribution) -> Finding {
        let net = if self.family.is_ipv6 { "::/0" } else { "0.0.0.0/0" }.parse().expect("a prefix");
        let outcomes = self.redistributed(kernel, self.family.normal, Some(net));
        if outcomes.iter().all(|outcome| !outcome.is_permitted && !outcome.is_uncertain) {
            return ONLY_VMS.ok(format!("{}: only routes to one address are redistributed", self.family));
        }
        if outcomes.iter().all(|outcome| outcome.is_permitted && !outcome.is_uncertain) {
            return ONLY_VMS.warning(
                format!(
                    "{}: the host's default route is redistributed if the kernel has it from somebody else",
                    self.family
                ),
                format!("match … address prefix-list with only routes to one address, {ADVICE}"),
            );
        }
        let map = kernel.map.as_deref().unwrap_or_default();
        self.unclear(&ONLY_VMS, &format!("route-map {map} with the host's default route"))
    }
}

/// What bgpd sees of a metric of the kernel.
fn low(metric: u32) -> u32 {
    metric & ((1 << DISTANCE_SHIFT) - 1)
}

/// What `bgp graceful-shutdown` makes of a route.
fn shut_down(route: &mut Route) {
    route.communities.insert(GRACEFUL_SHUTDOWN.to_owned());
    route.local_pref = Some(0);
}
