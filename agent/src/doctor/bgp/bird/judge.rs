//! What BIRD does with the routes of a migration, by its configuration: local and remote ones, normal and elevated ones are
//! sent through its filters, and what comes out is compared.

use super::super::{
    ANNOUNCES, ELEVATED_ANNOUNCED, Family, INTO_KERNEL, KERNEL_METRIC, LEARNS, LOCAL_WINS, METRIC_OPTION,
    NEXT_HOP, ONE_STEP, ONLY_VMS, PRIORITIES, RE_EXPORT, REMOTE_WINS, RESTART, Wanted, local_pref, no_peer,
};
use super::config::Config;
use super::protocol::{Bgp, Kernel, Protocols};
use super::run::{Filter, Outcome, Route, Value, run};
use crate::bgp::Priorities;
use crate::doctor::finding::{Check, Finding, Level};
use ipnet::IpNet;
use std::collections::BTreeSet;

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
    let has_peers = |family: &Family| !Protocols::of(config, family.is_ipv6, is_bird_1).peers.is_empty();
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

/// A route on its way through BIRD: normal or elevated.
#[derive(Clone, PartialEq, Debug)]
struct Both<T> {
    normal: T,
    elevated: T,
}

impl Judge<'_> {
    fn all(&self) -> Vec<Finding> {
        let protocols = Protocols::of(self.config, self.family.is_ipv6, self.is_bird_1);
        let Some(kernel) = &protocols.kernel else {
            let what = format!("{}: no protocol kernel for the main table", self.family);
            return vec![
                LEARNS.error(what, "protocol kernel with learn, in each family; cutover bgp bird prints one"),
            ];
        };
        if protocols.peers.is_empty() {
            let what = format!("{}: no BGP protocol has this family", self.family);
            return vec![ANNOUNCES.error(what, "a protocol bgp for each peer; cutover bgp bird prints them")];
        }
        let mut findings = self.learns(kernel);
        findings.extend(restart(kernel));
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
        for peer in &protocols.peers {
            self.peer(peer, kernel, &learnt, &mut findings);
            if !peer.is_external && !peer.is_direct && !protocols.has_direct {
                findings.push(NEXT_HOP.warning(
                    format!("{}: next hops of {} are looked up in BIRD's table, which has no routes of the host's own networks", self.family, peer.name),
                    format!("direct; and gateway direct; in {}, if all hosts share a network; otherwise a protocol direct", peer.name),
                ));
            }
        }
        findings
    }

    fn learns(&self, kernel: &Kernel) -> Vec<Finding> {
        if kernel.learns {
            return vec![LEARNS.ok(format!("{}: {} learns", self.family, kernel.name))];
        }
        vec![LEARNS.error(
            format!("{}: {} does not learn routes of others ({})", self.family, kernel.name, kernel.place),
            format!("learn; in protocol kernel {}", kernel.name),
        )]
    }

    /// What the filters of a session with a peer do.
    fn peer(&self, peer: &Bgp, kernel: &Kernel, learnt: &Both<Vec<Route>>, findings: &mut Vec<Finding>) {
        let sent = Both {
            normal: self.each(&peer.export, &learnt.normal),
            elevated: self.each(&peer.export, &learnt.elevated),
        };
        let Some(sent) = self.accepted(&ANNOUNCES, &peer.export_name(), &sent, findings) else { return };
        findings.push(ANNOUNCES.ok(format!("{}: routes of VMs are announced to {}", self.family, peer.name)));
        self.only_vms(peer, kernel, findings);
        let on_the_wire = self.announced(peer, &sent, findings);
        let arrived = Both {
            normal: self.remote(peer, &on_the_wire.normal),
            elevated: self.remote(peer, &on_the_wire.elevated),
        };
        let taken = self.through(&peer.import, &arrived);
        let Some(taken) = self.accepted(&INTO_KERNEL, &peer.import_name(), &taken, findings) else { return };
        self.preferences(peer, learnt, &taken, findings);
        self.re_export(peer, &taken, findings);
        let kept = Both {
            normal: self.each(&kernel.export, &taken.normal),
            elevated: self.each(&kernel.export, &taken.elevated),
        };
        let Some(kept) = self.accepted(&INTO_KERNEL, &kernel.export_name(), &kept, findings) else { return };
        findings
            .push(INTO_KERNEL.ok(format!("{}: routes of {} get into the kernel", self.family, peer.name)));
        self.metrics(kernel, &kept, findings);
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
    ) -> Option<Both<Vec<Route>>> {
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
        if all().any(|outcome| !outcome.is_accepted) {
            findings.push(self.unclear(
                check,
                filter,
                "it depends on what cannot be known here, such as addresses",
            ));
        }
        Some(passed)
    }

    fn unclear(&self, check: &'static Check, filter: &str, why: &str) -> Finding {
        check.notice(
            format!("{}: could not tell what {filter} does: {why}", self.family),
            "compare it with what cutover bgp bird prints",
        )
    }

    /// What a route says to the peer, and whether that tells elevated from normal.
    fn announced(&self, peer: &Bgp, sent: &Both<Vec<Route>>, findings: &mut Vec<Finding>) -> Both<Wire> {
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

    fn only_vms(&self, peer: &Bgp, kernel: &Kernel, findings: &mut Vec<Finding>) {
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

    /// Which route BIRD takes where it has a local and a remote one.
    fn preferences(
        &self,
        peer: &Bgp,
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
        } else {
            LOCAL_WINS.error(
                format!("{family}: local elevated routes have preference {local_elevated}, normal ones of {} have {remote_normal}", peer.name),
                format!("if krt_metric < {} then preference = 250; in the import filter of protocol kernel", family.normal),
            )
        });
    }

    /// Whether a route from one peer keeps its priority towards the next one.
    fn re_export(&self, peer: &Bgp, taken: &Both<Vec<Route>>, findings: &mut Vec<Finding>) {
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

    /// With which metric routes from other hosts get into the kernel.
    fn metrics(&self, kernel: &Kernel, kept: &Both<Vec<Route>>, findings: &mut Vec<Finding>) {
        let set = |routes: &[Route]| match Agreed::of(routes.iter().map(metric)) {
            Agreed::On(metric) => Some(metric),
            Agreed::Unclear => None,
        };
        let (Some(normal_set), Some(elevated_set)) = (set(&kept.normal), set(&kept.elevated)) else {
            let why = "the metric depends on what cannot be known here";
            findings.push(self.unclear(&KERNEL_METRIC, &kernel.export_name(), why));
            return;
        };
        // KERNEL: an IPv6 route without a metric has 1024.
        let seen = |set: i64| match (kernel.metric, set) {
            (0, 0) if self.family.is_ipv6 => 1024,
            (0, set) => set,
            (fixed, _) => fixed,
        };
        let (normal, elevated) = (seen(normal_set), seen(elevated_set));
        let is_right = |normal: i64, elevated: i64| {
            elevated < i64::from(self.family.normal) && normal > i64::from(self.family.elevated)
        };
        let family = self.family;
        if is_right(normal, elevated) {
            findings
                .push(METRIC_OPTION.ok(format!("{family}: {} has metric {}", kernel.name, kernel.metric)));
            findings.push(
                KERNEL_METRIC.ok(format!(
                    "{family}: other hosts' routes get metric {normal}, elevated ones {elevated}"
                )),
            );
            findings.push(self.one_step(kernel, normal, elevated));
        } else if kernel.metric != 0 {
            findings.push(METRIC_OPTION.error(
                format!(
                    "{family}: {} gives every route metric {} ({})",
                    kernel.name, kernel.metric, kernel.place
                ),
                format!("{}in protocol kernel {}", self.fixed(), kernel.name),
            ));
        } else {
            findings.push(KERNEL_METRIC.error(
                format!(
                    "{family}: other hosts' routes get metric {normal}, elevated ones {elevated}; local ones have {} and {}",
                    family.normal, family.elevated
                ),
                format!("{}in protocol kernel {}", self.fixed(), kernel.name),
            ));
        }
    }

    fn one_step(&self, kernel: &Kernel, normal: i64, elevated: i64) -> Finding {
        let family = self.family;
        if normal == elevated {
            return ONE_STEP.ok(format!("{family}: other hosts' routes keep their metric"));
        }
        ONE_STEP.notice(
            format!("{family}: other hosts' routes change their metric with their priority, {normal} and {elevated}"),
            format!("{}in protocol kernel {}, unless you want to see the metrics", self.fixed(), kernel.name),
        )
    }

    /// The option that makes every route right.
    fn fixed(&self) -> String {
        let Family { normal, elevated, .. } = self.family;
        let between = Priorities { normal, elevated }.between();
        between.map_or_else(
            || "metric 0; and krt_metric = 2147483647 - bgp_local_pref; in its export filter, ".to_owned(),
            |metric| format!("metric {metric}; "),
        )
    }

    /// A route of a VM here, as the kernel protocol learns it.
    fn local(&self, metric: u32, kernel: &Kernel) -> Route {
        let interface = format!("{}0a1b2c3d", self.wanted.prefixes.first().map_or("tap", String::as_str));
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
        route
    }

    /// A route of a VM elsewhere, as a peer announces it.
    fn remote(&self, peer: &Bgp, wire: &Wire) -> Route {
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
        route
    }

    /// What all routes of VMs have in common.
    fn route(&self) -> Route {
        let net = self.family.sample.map_or(Value::Host(self.family.is_ipv6), Value::Net);
        Route::from([
            ("net".into(), net),
            ("bgp_community".into(), Value::Undefined),
            ("bgp_med".into(), Value::Undefined),
        ])
    }
}

/// A name that no VM's interface has.
const UPLINK: &str = "eth0";

/// What of a route reaches the peer.
#[derive(Clone, PartialEq, Debug)]
struct Wire {
    local_pref: i64,
    communities: BTreeSet<(i64, i64)>,
    path: i64,
    med: i64,
}

impl Wire {
    /// Nothing if something of it cannot be known.
    fn of(route: &Route, peer: &Bgp) -> Option<Self> {
        let or = |name: &str, default: i64| match route.get(name)? {
            Value::Number(number) | Value::Path(number) => Some(*number),
            Value::Undefined => Some(default),
            _ => None,
        };
        Some(Self {
            local_pref: or("bgp_local_pref", peer.default_local_pref)?,
            path: or("bgp_path", 0)?,
            med: or("bgp_med", 0)?,
            communities: match route.get("bgp_community")? {
                Value::Communities(all) => all.clone(),
                Value::Undefined => BTreeSet::new(),
                _ => return None,
            },
        })
    }
}

fn number(route: &Route, name: &str) -> Option<i64> {
    match route.get(name)? {
        Value::Number(number) => Some(*number),
        _ => None,
    }
}

/// 0 for none.
fn metric(route: &Route) -> Option<i64> {
    match route.get("krt_metric")? {
        Value::Number(number) => Some(*number),
        Value::Undefined => Some(0),
        _ => None,
    }
}

fn restart(kernel: &Kernel) -> Option<Finding> {
    if kernel.persists || kernel.restarts_gracefully {
        return Some(RESTART.ok(format!("{} leaves routes in the kernel", kernel.name)));
    }
    Some(RESTART.warning(
        format!("{} takes its routes out of the kernel when BIRD stops ({})", kernel.name, kernel.place),
        format!("persist; in protocol kernel {}", kernel.name),
    ))
}
