//! What peers are told: of VMs here which routes are elevated, nothing of the host's own, and nothing wrong of other hosts.

use super::super::super::{ELEVATED_ANNOUNCED, ONLY_VMS, RE_EXPORT, local_pref};
use super::super::protocol::{Bgp, Kernel};
use super::super::run::{Outcome, Route, Value, run};
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
            has_more: false,
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
            } else if normal.has_more || elevated.has_more {
                let why = "extended and large communities are not followed";
                self.unclear(&ELEVATED_ANNOUNCED, &peer.export_name(), why)
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
        let accepted = learnt.iter().filter(|outcome| outcome.is_accepted).map(|it| it.route.clone());
        let sent = self.each(&peer.export, &accepted.collect::<Vec<_>>());
        let all = || learnt.iter().chain(&sent);
        let (family, filter, name) = (self.family, peer.export_name(), &peer.name);
        findings.push(if all().any(|outcome| outcome.is_uncertain) {
            self.unclear(&ONLY_VMS, &filter, "something in it is not understood")
        } else if !sent.iter().any(|outcome| outcome.is_accepted) {
            ONLY_VMS.ok(format!("{family}: the default route is not announced to {name}"))
        } else if all().all(|outcome| outcome.is_accepted) {
            ONLY_VMS.warning(
                format!("{family}: {filter} announces the host's default route to {name}"),
                format!(
                    "if ifname !~ \"{}*\" then reject; in that filter",
                    self.wanted.prefixes.join("*\" && ifname !~ \"")
                ),
            )
        } else {
            let why = "whether it announces the host's default route depends on what cannot be known here";
            self.unclear(&ONLY_VMS, &filter, why)
        });
    }

    /// Whether a route from one peer keeps its priority towards the next one.
    pub(super) fn re_export(&self, peer: &Bgp, taken: &Both<Vec<Route>>, findings: &mut Vec<Finding>) {
        let again = |routes: &[Route]| self.each(&peer.export, routes);
        let (normal, elevated) = (again(&taken.normal), again(&taken.elevated));
        let keeps = || {
            RE_EXPORT.ok(format!(
                "{}: routes of other hosts keep their priority towards {}",
                self.family, peer.name
            ))
        };
        let all = || normal.iter().chain(&elevated);
        if all().all(|outcome| !outcome.is_accepted && !outcome.is_uncertain) {
            findings.push(keeps());
            return;
        }
        let told = |outcomes: &[Outcome]| {
            let routes = outcomes.iter().filter(|outcome| outcome.is_accepted);
            match Agreed::of(routes.map(|outcome| Wire::of(&outcome.route, peer))) {
                Agreed::On(wire) => Some(wire),
                Agreed::Unclear => None,
            }
        };
        let is_clear = all().all(|outcome| !outcome.is_uncertain);
        let is_lost = match (told(&normal), told(&elevated)) {
            (Some(normal), Some(elevated)) if is_clear && peer.is_external => {
                let is_alike = elevated.communities == normal.communities
                    && elevated.path >= normal.path
                    && elevated.med >= normal.med;
                let is_known = !is_alike || !(normal.has_more || elevated.has_more);
                is_known.then_some(is_alike)
            }
            (Some(normal), Some(elevated)) if is_clear => Some(elevated.local_pref <= normal.local_pref),
            _ => None,
        };
        let Some(is_lost) = is_lost else {
            let why = "what it passes on depends on what cannot be known here";
            findings.push(self.unclear(&RE_EXPORT, &peer.export_name(), why));
            return;
        };
        findings.push(if is_lost {
            RE_EXPORT.warning(
                format!("{}: {} passes elevated routes of other hosts on as normal ones", self.family, peer.export_name()),
                format!("if source = RTS_BGP then reject; at the beginning of {}, or on a reflector accept; in place of reject;", peer.export_name()),
            )
        } else {
            keeps()
        });
    }
}
