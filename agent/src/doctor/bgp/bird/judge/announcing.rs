//! What peers are told: of VMs here which routes are elevated, nothing of the host's own, and nothing wrong of other hosts.

use super::super::super::{ELEVATED_ANNOUNCED, ONLY_VMS, RE_EXPORT, local_pref};
use super::super::protocol::{Bgp, Kernel};
use super::super::run::{Route, Value, run};
use super::routes::{UPLINK, Wire};
use super::{Agreed, Both, Judge};
use crate::doctor::finding::Finding;
use ipnet::IpNet;
use std::collections::BTreeSet;

impl Judge<'_> {
    /// What a route says to the peer, and whether that tells elevated from normal.
    pub(super) fn announced(
        &self,
        peer: &Bgp,
        sent: &Both<Vec<Route>>,
        findings: &mut Vec<Finding>,
    ) -> Both<Wire> {
        let usual = |metric: u32| Wire {
            local_pref: local_pref(metric),
            communities: BTreeSet::new(),
            path: 0,
            med: 0,
        };
        let wire = |routes: &[Route]| match Agreed::of(routes.iter().map(|route| Wire::of(route, peer))) {
            Agreed::On(wire) => Some(wire),
            Agreed::Unclear => None,
        };
        let (Some(normal), Some(elevated)) = (wire(&sent.normal), wire(&sent.elevated)) else {
            findings.push(self.unclear(
                &ELEVATED_ANNOUNCED,
                &peer.export_name(),
                "its priority depends on what cannot be known here",
            ));
            return Both { normal: usual(self.family.normal), elevated: usual(self.family.elevated) };
        };
        let both = Both { normal, elevated };
        findings.push(self.wire(peer, &both));
        both
    }

    fn wire(&self, peer: &Bgp, wire: &Both<Wire>) -> Finding {
        let (family, name) = (self.family, &peer.name);
        let (normal, elevated) = (&wire.normal, &wire.elevated);
        if peer.is_external {
            let is_told = elevated.communities.difference(&normal.communities).next().is_some()
                || elevated.path < normal.path
                || elevated.med < normal.med;
            return if is_told {
                ELEVATED_ANNOUNCED.ok(format!("{family}: {name} is told which routes are elevated"))
            } else {
                ELEVATED_ANNOUNCED.error(
                    format!(
                        "{family}: {} announces elevated and normal routes alike to {name}",
                        peer.export_name()
                    ),
                    format!(
                        "if krt_metric < {} then bgp_community.add((65000, 100)); in that filter",
                        family.normal
                    ),
                )
            };
        }
        let formula = format!("bgp_local_pref = 2147483647 - krt_metric; in {}", peer.export_name());
        if elevated.local_pref <= normal.local_pref {
            return ELEVATED_ANNOUNCED.error(
                format!(
                    "{family}: {} gives elevated routes LOCAL_PREF {} and normal ones {}",
                    peer.export_name(),
                    elevated.local_pref,
                    normal.local_pref
                ),
                formula,
            );
        }
        let usual = (local_pref(family.normal), local_pref(family.elevated));
        if (normal.local_pref, elevated.local_pref) != usual {
            return ELEVATED_ANNOUNCED.notice(
                format!(
                    "{family}: {name} is told LOCAL_PREF {} and {}, other hosts use {} and {}",
                    normal.local_pref, elevated.local_pref, usual.0, usual.1
                ),
                format!("nothing, if all hosts do the same; otherwise {formula}"),
            );
        }
        ELEVATED_ANNOUNCED.ok(format!("{family}: {name} is told which routes are elevated"))
    }

    pub(super) fn only_vms(&self, peer: &Bgp, kernel: &Kernel, findings: &mut Vec<Finding>) {
        let mut route = self.local(0, kernel);
        let default: IpNet =
            if self.family.is_ipv6 { "::/0" } else { "0.0.0.0/0" }.parse().expect("a prefix");
        route.insert("net".into(), Value::Net(default));
        route.insert("ifname".into(), Value::Text(UPLINK.into()));
        let learnt = run(self.config, &kernel.import, &route);
        let learnt: Vec<Route> = learnt.into_iter().filter(|it| it.is_accepted).map(|it| it.route).collect();
        let outcomes = self.each(&peer.export, &learnt);
        if !outcomes.is_empty() && outcomes.iter().all(|outcome| outcome.is_accepted && !outcome.is_uncertain)
        {
            findings.push(ONLY_VMS.warning(
                format!(
                    "{}: {} announces the host's default route to {}",
                    self.family,
                    peer.export_name(),
                    peer.name
                ),
                format!(
                    "if ifname !~ \"{}*\" then reject; in that filter",
                    self.wanted.prefixes.join("*\" && ifname !~ \"")
                ),
            ));
        } else {
            findings.push(
                ONLY_VMS.ok(format!("{}: the default route is not announced to {}", self.family, peer.name)),
            );
        }
    }

    /// Whether a route from one peer keeps its priority towards the next one.
    pub(super) fn re_export(&self, peer: &Bgp, taken: &Both<Vec<Route>>, findings: &mut Vec<Finding>) {
        let again = |routes: &[Route]| -> Vec<Route> {
            let outcomes = self.each(&peer.export, routes);
            outcomes.into_iter().filter(|it| it.is_accepted && !it.is_uncertain).map(|it| it.route).collect()
        };
        let told =
            |routes: &[Route]| match Agreed::of(again(routes).iter().map(|route| Wire::of(route, peer))) {
                Agreed::On(wire) => Some(wire),
                Agreed::Unclear => None,
            };
        let is_lost = match (told(&taken.normal), told(&taken.elevated)) {
            (Some(normal), Some(elevated)) if peer.is_external => {
                elevated.communities == normal.communities
                    && elevated.path >= normal.path
                    && elevated.med >= normal.med
            }
            (Some(normal), Some(elevated)) => elevated.local_pref <= normal.local_pref,
            // Nothing is passed on, or it cannot be told what.
            _ => false,
        };
        findings.push(if is_lost {
            RE_EXPORT.warning(
                format!("{}: {} passes elevated routes of other hosts on as normal ones", self.family, peer.export_name()),
                format!("if source = RTS_BGP then reject; at the beginning of {}, or on a reflector accept; in place of reject;", peer.export_name()),
            )
        } else {
            RE_EXPORT.ok(format!("{}: routes of other hosts keep their priority towards {}", self.family, peer.name))
        });
    }
}
