//! What BIRD does with the routes of a migration, by its configuration: local and remote ones, normal and elevated ones are
//! sent through its filters, and what comes out is compared.

mod announcing;
mod metrics;
mod routes;

use super::super::{
    ANNOUNCES, Family, INTO_KERNEL, LEARNS, LOCAL_WINS, NEXT_HOP, PRIORITIES, REMOTE_WINS, RESTART, Wanted,
    local_pref, no_peer,
};
use super::config::Config;
use super::protocol::{Bgp, Kernel, Protocols};
use super::run::{Filter, Outcome, Route, Value, run};
use crate::doctor::finding::{Check, Finding, Level};

/// Judges a configuration for the families that it is for.
pub(in crate::doctor::bgp) fn judge(config: &Config, is_bird_1: bool, wanted: &Wanted) -> Vec<Finding> {
    let findings = with_priorities(config, is_bird_1, wanted);
    let usual = wanted.with_default_priorities();
    let is_bad = |findings: &[Finding]| findings.iter().any(|finding| finding.level >= Level::Warning);
    if *wanted != usual && is_bad(&findings) && !is_bad(&with_priorities(config, is_bird_1, &usual)) {
        let numbers: Vec<String> = wanted
            .families
            .iter()
            .map(|family| format!("{family} {} and {}", family.normal, family.elevated))
            .collect();
        return vec![PRIORITIES.error(
            format!(
                "the filters are written for metrics 1024 and 512, the settings say {}",
                numbers.join(", ")
            ),
            "write the numbers of the settings into the filters; cutover bgp prints them",
        )];
    }
    findings
}

fn with_priorities(config: &Config, is_bird_1: bool, wanted: &Wanted) -> Vec<Finding> {
    let mut findings: Vec<Finding> = Vec::new();
    let has_peers =
        |family: &Family| !Protocols::of(config, wanted, family.is_ipv6, is_bird_1).peers.is_empty();
    let announces_any = wanted.families.iter().any(has_peers);
    for family in &wanted.families {
        if announces_any && !has_peers(family) {
            findings.push(no_peer(*family));
            continue;
        }
        let judge = Judge { config, family: *family, wanted, is_bird_1 };
        for finding in judge.all() {
            if !findings.contains(&finding) {
                findings.push(finding);
            }
        }
    }
    findings
}

struct Judge<'a> {
    config: &'a Config,
    family: Family,
    wanted: &'a Wanted,
    is_bird_1: bool,
}

/// What the ways of a filter agree on.
enum Agreed<T> {
    On(T),
    /// They differ, or something was not understood.
    Unclear,
}

impl<T: PartialEq> Agreed<T> {
    fn of(values: impl IntoIterator<Item = Option<T>>) -> Self {
        let mut values = values.into_iter();
        let Some(Some(first)) = values.next() else { return Self::Unclear };
        if values.all(|value| value.as_ref() == Some(&first)) { Self::On(first) } else { Self::Unclear }
    }
}

/// What a filter lets through.
struct Accepted {
    routes: Both<Vec<Route>>,
    /// It lets them through whatever it depends on.
    is_sure: bool,
}

/// A route on its way through BIRD: normal or elevated.
#[derive(Clone, PartialEq, Debug)]
struct Both<T> {
    normal: T,
    elevated: T,
}

impl Judge<'_> {
    fn all(&self) -> Vec<Finding> {
        let protocols = Protocols::of(self.config, self.wanted, self.family.is_ipv6, self.is_bird_1);
        let Some(kernel) = &protocols.kernel else {
            let what = format!("{}: no protocol kernel for the main table", self.family);
            return vec![
                LEARNS.error(what, "protocol kernel with learn, in each family; cutover bgp bird prints one"),
            ];
        };
        if protocols.peers.is_empty() {
            let what = format!("{}: no BGP protocol with another host has this family", self.family);
            return vec![ANNOUNCES.error(what, "a protocol bgp for each peer; cutover bgp bird prints them")];
        }
        let mut findings = vec![restart(kernel, kernel.writes_nothing(self.config))];
        if !kernel.learns {
            findings.push(LEARNS.error(
                format!(
                    "{}: {} does not learn routes of others ({})",
                    self.family, kernel.name, kernel.place
                ),
                format!("learn; in protocol kernel {}", kernel.name),
            ));
        }
        let learnt = self.through(
            &kernel.import,
            &Both {
                normal: self.local(self.family.normal, kernel),
                elevated: self.local(self.family.elevated, kernel),
            },
        );
        let Some(learnt) = self.accepted(&LEARNS, &kernel.import_name(), &learnt, &mut findings) else {
            return findings;
        };
        if kernel.learns && learnt.is_sure {
            findings.push(LEARNS.ok(format!("{}: {} learns", self.family, kernel.name)));
        }
        for peer in &protocols.peers {
            self.peer(peer, &protocols, kernel, &learnt.routes, &mut findings);
        }
        findings
    }

    /// What the filters of a session with a peer do.
    fn peer(
        &self,
        peer: &Bgp,
        protocols: &Protocols,
        kernel: &Kernel,
        learnt: &Both<Vec<Route>>,
        findings: &mut Vec<Finding>,
    ) {
        let sent = Both {
            normal: self.each(&peer.export, &learnt.normal),
            elevated: self.each(&peer.export, &learnt.elevated),
        };
        let Some(sent) = self.accepted(&ANNOUNCES, &peer.export_name(), &sent, findings) else { return };
        if sent.is_sure {
            let what = format!("{}: routes of VMs are announced to {}", self.family, peer.name);
            findings.push(ANNOUNCES.ok(what));
        }
        self.only_vms(peer, kernel, findings);
        let on_the_wire = self.announced(peer, &sent.routes, findings);
        let arrived = Both {
            normal: self.remote(peer, &on_the_wire.normal),
            elevated: self.remote(peer, &on_the_wire.elevated),
        };
        let taken = self.through(&peer.import, &arrived);
        let Some(taken) = self.accepted(&INTO_KERNEL, &peer.import_name(), &taken, findings) else { return };
        let is_sure = taken.is_sure;
        let taken = self.kept(taken.routes);
        if !protocols.may_resolve(peer) {
            findings.push(NEXT_HOP.warning(
                format!("{}: next hops of {} are looked up in BIRD's table, which has no routes of the host's own networks", self.family, peer.name),
                format!("direct; and gateway direct; in {}, if all hosts share a network; otherwise a protocol direct", peer.name),
            ));
        }
        self.preferences(peer, protocols, learnt, &taken, findings);
        self.re_export(peer, &taken, findings);
        let kept = Both {
            normal: self.each(&kernel.export, &taken.normal),
            elevated: self.each(&kernel.export, &taken.elevated),
        };
        let Some(kept) = self.accepted(&INTO_KERNEL, &kernel.export_name(), &kept, findings) else { return };
        if is_sure && kept.is_sure {
            let what = format!("{}: routes of {} get into the kernel", self.family, peer.name);
            findings.push(INTO_KERNEL.ok(what));
        }
        self.metrics(kernel, &kept.routes, findings);
    }

    /// What is left of the routes of a peer when they are in the table: in BIRD 1 the attributes that belong to the kernel protocol
    /// are only kept for routes of that one.
    fn kept(&self, mut routes: Both<Vec<Route>>) -> Both<Vec<Route>> {
        if self.is_bird_1 {
            for route in routes.normal.iter_mut().chain(&mut routes.elevated) {
                for name in ["krt_metric", "krt_source"] {
                    route.insert(name.into(), Value::Undefined);
                }
            }
        }
        routes
    }

    fn each(&self, filter: &Filter, routes: &[Route]) -> Vec<Outcome> {
        routes.iter().flat_map(|route| run(self.config, filter, route)).collect()
    }

    fn through(&self, filter: &Filter, routes: &Both<Route>) -> Both<Vec<Outcome>> {
        Both {
            normal: run(self.config, filter, &routes.normal),
            elevated: run(self.config, filter, &routes.elevated),
        }
    }

    /// The routes that a filter lets through, or a finding that it does not.
    fn accepted(
        &self,
        check: &'static Check,
        filter: &str,
        outcomes: &Both<Vec<Outcome>>,
        findings: &mut Vec<Finding>,
    ) -> Option<Accepted> {
        let routes = |outcomes: &[Outcome]| -> Vec<Route> {
            outcomes
                .iter()
                .filter(|outcome| outcome.is_accepted)
                .map(|outcome| outcome.route.clone())
                .collect()
        };
        let all = || outcomes.normal.iter().chain(&outcomes.elevated);
        let passed = Both { normal: routes(&outcomes.normal), elevated: routes(&outcomes.elevated) };
        if all().any(|outcome| outcome.is_uncertain) {
            findings.push(self.unclear(check, filter, "something in it is not understood"));
            return None;
        }
        for (which, passed) in [("normal", &passed.normal), ("elevated", &passed.elevated)] {
            if passed.is_empty() {
                findings.push(check.error(
                    format!(
                        "{}: {filter} rejects {which} routes of VMs on {}",
                        self.family,
                        self.wanted.prefixes.join(" and ")
                    ),
                    format!("accept them in {filter}"),
                ));
                return None;
            }
        }
        let is_sure = all().all(|outcome| outcome.is_accepted);
        if !is_sure {
            findings.push(self.unclear(
                check,
                filter,
                "it depends on what cannot be known here, such as addresses",
            ));
        }
        Some(Accepted { routes: passed, is_sure })
    }

    fn unclear(&self, check: &'static Check, filter: &str, why: &str) -> Finding {
        check.notice(
            format!("{}: could not tell what {filter} does: {why}", self.family),
            "compare it with what cutover bgp bird prints",
        )
    }

    /// Which route BIRD takes where it has a local and a remote one.
    fn preferences(
        &self,
        peer: &Bgp,
        protocols: &Protocols,
        learnt: &Both<Vec<Route>>,
        taken: &Both<Vec<Route>>,
        findings: &mut Vec<Finding>,
    ) {
        let preference =
            |routes: &[Route]| match Agreed::of(routes.iter().map(|route| number(route, "preference"))) {
                Agreed::On(preference) => Some(preference),
                Agreed::Unclear => None,
            };
        let values =
            [&learnt.normal, &learnt.elevated, &taken.normal, &taken.elevated].map(|it| preference(it));
        let [Some(local_normal), Some(local_elevated), Some(remote_normal), Some(remote_elevated)] = values
        else {
            let filter = peer.import_name();
            findings.push(self.unclear(
                &REMOTE_WINS,
                &filter,
                "its preference depends on what cannot be known here",
            ));
            return;
        };
        let (family, import) = (self.family, peer.import_name());
        findings.push(if remote_elevated > local_normal {
            REMOTE_WINS.ok(format!("{family}: elevated routes of {} win over local ones", peer.name))
        } else {
            REMOTE_WINS.error(
                format!("{family}: {import} gives elevated routes preference {remote_elevated}, local normal ones have {local_normal}"),
                if peer.is_external {
                    format!("if (65000, 100) ~ bgp_community then preference = {}; in {import}", 200.max(local_normal + 10))
                } else {
                    format!("if bgp_local_pref > {} then preference = {}; in {import}", local_pref(family.normal), 200.max(local_normal + 10))
                },
            )
        });
        findings.push(if local_elevated > remote_normal {
            LOCAL_WINS.ok(format!("{family}: local elevated routes win over normal ones of {}", peer.name))
        } else if protocols.peers.iter().all(|other| self.is_told_anyway(other, peer, taken)) {
            LOCAL_WINS.notice(
                format!("{family}: local elevated routes have preference {local_elevated}, normal ones of {} have {remote_normal}; they are announced all the same, beside the best route (add paths) or in its place (secondary)", peer.name),
                "see that add paths is on at both ends of every session",
            )
        } else {
            LOCAL_WINS.error(
                format!("{family}: local elevated routes have preference {local_elevated}, normal ones of {} have {remote_normal}", peer.name),
                format!("if krt_metric < {} then preference = 250; in the import filter of protocol kernel", family.normal),
            )
        });
    }

    /// Whether a peer is told a local route also where the best one is `from` another host.
    fn is_told_anyway(&self, peer: &Bgp, from: &Bgp, taken: &Both<Vec<Route>>) -> bool {
        // Whoever is no reflector passes nothing on within the AS.
        let is_stopped = !(peer.is_external || from.is_external || peer.is_client || from.is_client);
        let rejects = || {
            let outcomes = self.each(&peer.export, &taken.normal);
            outcomes.iter().all(|outcome| !outcome.is_accepted && !outcome.is_uncertain)
        };
        peer.is_told_all || (peer.is_told_second && (is_stopped || rejects()))
    }
}

fn number(route: &Route, name: &str) -> Option<i64> {
    match route.get(name)? {
        Value::Number(number) => Some(*number),
        _ => None,
    }
}

fn restart(kernel: &Kernel, writes_nothing: bool) -> Finding {
    if writes_nothing {
        return RESTART.ok(format!("{} writes no routes that could go when BIRD stops", kernel.name));
    }
    if kernel.persists || kernel.restarts_gracefully {
        return RESTART.ok(format!("{} leaves routes in the kernel", kernel.name));
    }
    RESTART.warning(
        format!("{} takes its routes out of the kernel when BIRD stops ({})", kernel.name, kernel.place),
        format!("persist; in protocol kernel {}", kernel.name),
    )
}
