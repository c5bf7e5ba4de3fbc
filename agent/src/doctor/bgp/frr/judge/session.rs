//! What a neighbour is told, and what becomes of what it tells: lists and route-maps in both directions, and the way into the kernel.

use super::super::super::{ANNOUNCES, ELEVATED_ANNOUNCED, INTO_KERNEL, local_pref};
use super::super::instance::{Peer, Policy};
use super::super::lists::{GRACEFUL_SHUTDOWN, Lists, NO_ADVERTISE, NO_EXPORT};
use super::super::route_map::{Outcome, Route};
use super::{ADVICE, Judge, shut_down};
use crate::doctor::finding::{Check, Finding};

impl Judge<'_> {
    /// `normal` and `elevated` are routes of VMs here as bgpd has them, by `learning`.
    pub(super) fn peer(
        &self,
        peer: &Peer,
        learning: &str,
        normal: &Route,
        elevated: &Route,
        findings: &mut Vec<Finding>,
    ) {
        let family = self.family;
        let Some((sent_normal, sent_elevated)) = self.sent(peer, normal, elevated, findings) else { return };
        findings.push(ANNOUNCES.ok(format!("{family}: routes of VMs are announced to {}", peer.name)));
        findings.push(self.told(peer, learning, &sent_normal, &sent_elevated));
        let Some((remote_normal, remote_elevated)) = self.taken(peer, &sent_normal, &sent_elevated, findings)
        else {
            return;
        };
        if self.reaches_kernel(peer, &remote_normal, &remote_elevated, findings) {
            findings.push(INTO_KERNEL.ok(format!("{family}: routes of {} get into the kernel", peer.name)));
        }
        findings.push(self.remote_wins(peer, (learning, &import(peer)), normal, &remote_elevated));
        findings.push(self.local_wins(peer, elevated, &remote_normal));
        findings.push(self.kernel_metric());
    }

    /// What the neighbour is told of both routes.
    fn sent(
        &self,
        peer: &Peer,
        normal: &Route,
        elevated: &Route,
        findings: &mut Vec<Finding>,
    ) -> Option<(Route, Route)> {
        let family = self.family;
        if peer.is_external && self.config.refuses(&peer.export) {
            findings.push(ANNOUNCES.error(
                format!(
                    "{family}: eBGP neighbor {} has no route-map out, so nothing is announced to it",
                    peer.name
                ),
                format!("neighbor {} route-map … out, {ADVICE}", peer.name),
            ));
            return None;
        }
        // Whether there is something that they wait for is not known.
        if peer.is_conditional {
            findings.push(self.unclear(&ANNOUNCES, &format!("the advertise-map of neighbor {}", peer.name)));
            return None;
        }
        let stops = |route: &Route| {
            route.communities.contains(NO_ADVERTISE)
                || (peer.is_external && route.communities.contains(NO_EXPORT))
        };
        if stops(normal) || stops(elevated) {
            findings.push(ANNOUNCES.error(
                format!(
                    "{family}: routes of VMs have a community with which they are not announced to {}",
                    peer.name
                ),
                "no set community no-export or no-advertise where they are learnt",
            ));
            return None;
        }
        let policy = &peer.export;
        if !self.lists(&ANNOUNCES, policy, &[normal, elevated], findings) {
            return None;
        }
        let map = name(&policy.map);
        let out = |route: &Route| self.through(policy.map.as_deref(), route);
        let (mut normal, mut elevated) =
            self.both(&ANNOUNCES, &map, &out(normal), &out(elevated), findings)?;
        for route in [&mut normal, &mut elevated] {
            if self.config.is_shutting_down() || peer.is_shutting_down {
                shut_down(route);
            }
            if !peer.has_communities {
                route.communities.clear();
            }
        }
        Some((normal, elevated))
    }

    /// What bgpd makes of the same routes of another host.
    fn taken(
        &self,
        peer: &Peer,
        normal: &Route,
        elevated: &Route,
        findings: &mut Vec<Finding>,
    ) -> Option<(Route, Route)> {
        if peer.is_external && self.config.refuses(&peer.import) {
            findings.push(INTO_KERNEL.error(
                format!(
                    "{}: eBGP neighbor {} has no route-map in, so nothing is taken from it",
                    self.family, peer.name
                ),
                format!("neighbor {} route-map … in, {ADVICE}", peer.name),
            ));
            return None;
        }
        let arrived = |sent: &Route| Route {
            protocol: "bgp",
            weight: peer.weight,
            distance: None,
            local_pref: sent.local_pref.filter(|_| !peer.is_external),
            path: sent.path + u32::from(peer.is_external),
            ..sent.clone()
        };
        let (normal, elevated) = (arrived(normal), arrived(elevated));
        if !self.lists(&INTO_KERNEL, &peer.import, &[&normal, &elevated], findings) {
            return None;
        }
        let taken = |route: &Route| self.through(peer.import.map.as_deref(), route);
        let (mut normal, mut elevated) =
            self.both(&INTO_KERNEL, &import(peer), &taken(&normal), &taken(&elevated), findings)?;
        for route in [&mut normal, &mut elevated] {
            let is_shutting_down =
                self.config.is_shutting_down() || route.communities.contains(GRACEFUL_SHUTDOWN);
            if peer.is_external && is_shutting_down {
                shut_down(route);
            }
        }
        Some((normal, elevated))
    }

    /// Whether the lists of a neighbour permit routes of VMs; otherwise a finding says that they do not, or that it cannot be known.
    fn lists(
        &self,
        check: &'static Check,
        policy: &Policy,
        routes: &[&Route],
        findings: &mut Vec<Finding>,
    ) -> bool {
        type Permits = fn(&Lists, &str, &Route) -> Option<bool>;
        let lists: [(&str, &Option<String>, Permits); 3] = [
            ("distribute-list", &policy.distribute_list, Lists::access_list),
            ("prefix-list", &policy.prefix_list, Lists::prefix_list),
            ("filter-list", &policy.filter_list, Lists::as_path_list),
        ];
        for route in routes {
            for (kind, name, permits) in lists {
                let Some(name) = name else { continue };
                match permits(&self.config.lists, name, route) {
                    Some(true) => {}
                    Some(false) => {
                        findings.push(check.error(
                            format!("{}: {kind} {name} denies routes of VMs", self.family),
                            format!("permit them in {kind} {name}"),
                        ));
                        return false;
                    }
                    None => {
                        findings.push(self.unclear(check, &format!("{kind} {name}")));
                        return false;
                    }
                }
            }
        }
        true
    }

    /// Whether routes of the neighbour get into the kernel; otherwise a finding says why not.
    fn reaches_kernel(
        &self,
        peer: &Peer,
        normal: &Route,
        elevated: &Route,
        findings: &mut Vec<Finding>,
    ) -> bool {
        let family = self.family;
        if self.config.has_no_rib {
            findings.push(INTO_KERNEL.error(
                format!("{family}: bgpd keeps the routes of {} to itself (bgp no-rib)", peer.name),
                "no bgp no-rib",
            ));
            return false;
        }
        let ip = if family.is_ipv6 { "ipv6" } else { "ip" };
        let maps = [
            ("table-map", self.space.table_map.as_deref(), false),
            ("protocol bgp route-map", self.config.zebra_map(family.is_ipv6), true),
        ];
        for (option, map, is_in_zebra) in maps {
            let Some(map) = map else { continue };
            let option = if is_in_zebra { format!("{ip} {option} {map}") } else { format!("{option} {map}") };
            let behind = |route: &Route| -> Vec<Outcome> {
                self.through(Some(map), &Route { is_in_zebra, ..route.clone() })
            };
            if self.both(&INTO_KERNEL, &option, &behind(normal), &behind(elevated), findings).is_none() {
                return false;
            }
        }
        true
    }

    fn told(&self, peer: &Peer, learning: &str, normal: &Route, elevated: &Route) -> Finding {
        let (family, name) = (self.family, &peer.name);
        if elevated.communities.contains(GRACEFUL_SHUTDOWN)
            && (peer.is_external || elevated.local_pref == Some(0))
        {
            return ELEVATED_ANNOUNCED.error(
                format!("{family}: elevated and normal routes are announced to {name} as those of a host that is about to go away, with LOCAL_PREF 0 or as good as that"),
                "no bgp graceful-shutdown, if the maintenance is over; and no community graceful-shutdown in a route-map",
            );
        }
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
}

fn name(map: &Option<String>) -> String {
    map.as_ref().map_or("no route-map".to_owned(), |map| format!("route-map {map}"))
}

/// What is called the route-map of what comes in.
fn import(peer: &Peer) -> String {
    name(&peer.import.map)
}
