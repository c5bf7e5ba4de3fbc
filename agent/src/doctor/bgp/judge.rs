//! What a rehearsal means: from what was seen to findings.
//!
//! Pure. Which filter is to blame for what a daemon did is not known, and not claimed; what to change is said for the usual reason.

mod announcing;
mod places;
mod release;
mod winning;

pub(super) use release::RELEASE;

use super::{
    ANNOUNCES, CONFIGURATION, FamilyMetrics, INTO_KERNEL, LEARNS, NEXT_HOP, PRIORITIES, RESTART, RouteShape,
    no_peer,
};
use crate::doctor::finding::{Finding, Level};
use crate::doctor::rehearsal::observed::{Act, Observed, Origin, Scene, Session};

/// Judges what was seen.
pub(super) fn judge(observed: &Observed, configuration: &str, wanted: &RouteShape) -> Vec<Finding> {
    if let Some(absent) = &observed.absent {
        return vec![CONFIGURATION.notice(
            format!("{configuration} could not be rehearsed: {absent}"),
            "install the daemon that the host has, or name its program with --bird or --frr-dir",
        )];
    }
    if let Some(refused) = &observed.refused {
        return vec![CONFIGURATION.error(
            format!("{configuration}: {refused}"),
            "a configuration that the daemon takes; or name the daemon that it is for with --bird or --frr-dir",
        )];
    }
    let mut findings =
        vec![CONFIGURATION.ok(format!("{configuration} was rehearsed with {}", observed.version))];
    if !observed.complaints.is_empty() {
        findings.push(CONFIGURATION.warning(
            format!("{configuration}: the daemon does not take this: {}", observed.complaints.join("; ")),
            "lines that it takes; without them it does something else than they say",
        ));
    }
    findings.extend(observed.missing.iter().map(|missing| {
        CONFIGURATION.notice(
            format!("could not be set up in the rehearsal: {missing}"),
            "nothing; what depends on it was not looked at",
        )
    }));
    findings.extend(restart(observed));
    findings.extend(release::judge(observed));
    let families = wanted.families.iter().filter(|family| observed.families[usize::from(family.is_ipv6)]);
    let has_peers = |family: &FamilyMetrics| peers(observed, family.is_ipv6).next().is_some();
    let announces_any = wanted.families.iter().any(has_peers);
    let mut unclear: Vec<&Session> =
        others(observed).filter(|session| !session.is_up || session.has_ended).collect();
    let left_out = unclear.len().saturating_sub(NAMED_MAX);
    unclear.truncate(NAMED_MAX);
    findings.extend(unclear.iter().map(|session| {
        ANNOUNCES.notice(
            format!(
                "could not tell what {} is told: in the rehearsal the session {}: {}",
                session.name,
                if session.has_ended { "did not last" } else { "did not come up" },
                session.trouble
            ),
            "compare it with what cutover bgp prints",
        )
    }));
    if left_out > 0 {
        let what = format!("could not tell what {left_out} more are told");
        findings.push(ANNOUNCES.notice(what, "compare them with what cutover bgp prints"));
    }
    for family in families {
        if has_peers(family) {
            findings.extend(places::agreed(observed, *family));
        } else if announces_any {
            findings.push(no_peer(*family));
        } else if unclear.is_empty() {
            let what = format!("{family}: there is no BGP session with another host");
            findings.push(ANNOUNCES.error(what, "a session with each peer; cutover bgp prints them"));
        }
    }
    findings
}

/// LIMIT: a mesh may have a hundred sessions; the first ones show what is wrong.
const NAMED_MAX: usize = 5;

/// Whether something is worth another look with other numbers.
pub(super) fn is_bad(findings: &[Finding]) -> bool {
    findings.iter().any(|finding| finding.level >= Level::Warning)
}

/// What is said if the numbers that everybody has are right, and those of the settings are not.
pub(super) fn other_numbers(wanted: &RouteShape) -> Finding {
    let of = |family: &FamilyMetrics| format!("{family} {} and {}", family.normal, family.elevated);
    let numbers: Vec<String> = wanted.families.iter().map(of).collect();
    PRIORITIES.error(
        format!("the filters are written for metrics 1024 and 512, the settings say {}", numbers.join(", ")),
        "write the numbers of the settings into the filters; cutover bgp prints them",
    )
}

/// Sessions that are not VMs'.
fn others(observed: &Observed) -> impl Iterator<Item = &Session> {
    observed.sessions.iter().filter(|session| !session.is_of_vm && !session.is_shut)
}

/// Those that carry a family, with their numbers.
fn peers(observed: &Observed, is_ipv6: bool) -> impl Iterator<Item = (usize, &Session)> {
    let sessions = observed.sessions.iter().enumerate();
    sessions
        .filter(move |(_, it)| !it.is_of_vm && it.is_up && !it.has_ended && it.families[usize::from(is_ipv6)])
}

/// Whether routes stay in the kernel when the daemon ends.
fn restart(observed: &Observed) -> Option<Finding> {
    if observed.generation == 0 {
        return Some(if observed.restarts_gracefully {
            RESTART.ok("bgpd restarts gracefully")
        } else {
            RESTART.warning("bgpd does not restart gracefully", "bgp graceful-restart in router bgp")
        });
    }
    let of = |act: Act| observed.scenes.iter().filter(move |scene| scene.act == act);
    let mut there = of(Act::RemoteNormal).filter(|scene| scene.installed().is_some()).peekable();
    let is_gone = |scene: &Scene| {
        !of(Act::Stopped).any(|after| after.destination == scene.destination && after.installed().is_some())
    };
    let change = "compare it with what cutover bgp prints";
    let is_nowhere = |scene: &Scene| scene.paths.iter().any(|path| path.is_unreachable);
    let _offered = of(Act::RemoteNormal).next()?;
    Some(if !observed.is_stopped {
        RESTART
            .notice("could not tell what stays in the kernel: BIRD did not end when it was told to", change)
    } else if there.peek().is_none() && of(Act::RemoteNormal).any(is_nowhere) {
        RESTART.notice(
            "could not tell what stays in the kernel: BIRD had no next hops for routes of peers",
            change,
        )
    } else if there.peek().is_none() {
        RESTART.ok("BIRD writes no routes of peers that could go when it stops")
    } else if there.any(is_gone) {
        RESTART
            .warning("BIRD takes its routes out of the kernel when it stops", "persist; in protocol kernel")
    } else {
        RESTART.ok("BIRD leaves routes in the kernel")
    })
}

/// One family in one place.
struct Judge<'a> {
    observed: &'a Observed,
    family: FamilyMetrics,
    sample: usize,
}

impl Judge<'_> {
    fn is_frr(&self) -> bool {
        self.observed.generation == 0
    }

    fn scene(&self, act: Act, from: Option<usize>) -> Option<&Scene> {
        self.observed.scenes.iter().find(|scene| {
            scene.act == act
                && scene.from == from
                && scene.sample == self.sample
                && scene.is_ipv6() == self.family.is_ipv6
        })
    }

    fn peers(&self) -> impl Iterator<Item = (usize, &Session)> {
        peers(self.observed, self.family.is_ipv6)
    }

    fn all(&self) -> Vec<Finding> {
        let family = self.family;
        let (Some(normal), Some(elevated)) = (self.scene(Act::Normal, None), self.scene(Act::Elevated, None))
        else {
            return Vec::new();
        };
        let is_learnt = |scene: &Scene| scene.paths.iter().any(|path| path.origin == Origin::Kernel);
        for (which, scene) in [("normal", normal), ("elevated", elevated)] {
            if !is_learnt(scene) {
                return vec![self.not_learnt(which)];
            }
        }
        let mut findings = vec![LEARNS.ok(format!("{family}: routes of VMs are learnt from the kernel"))];
        for (number, peer) in self.peers() {
            self.peer(number, peer, normal, elevated, &mut findings);
        }
        findings
    }

    fn not_learnt(&self, which: &str) -> Finding {
        let family = self.family;
        let numbers = &self.observed.numbers;
        if self.is_frr() && !numbers.is_empty() && !numbers.contains(&low(family.normal)) {
            let list: Vec<String> = numbers.iter().map(u32::to_string).collect();
            return PRIORITIES.error(
                format!(
                    "{family}: the route-maps are written for metrics {}, those of the settings appear as {} and {}",
                    list.join(", "),
                    low(family.normal),
                    low(family.elevated)
                ),
                "let cutover bgp frr print the configuration again",
            );
        }
        let (what, change) = if self.is_frr() {
            (
                "bgpd does not take",
                "redistribute kernel route-map … in each family, as cutover bgp frr prints it",
            )
        } else {
            (
                "BIRD does not take",
                "learn; in the protocol kernel of each family, and an import filter that accepts them; cutover bgp bird prints one",
            )
        };
        LEARNS.error(format!("{family}: {what} {which} routes of VMs from the kernel"), change)
    }

    fn peer(
        &self,
        number: usize,
        peer: &Session,
        normal: &Scene,
        elevated: &Scene,
        findings: &mut Vec<Finding>,
    ) {
        let (family, name) = (self.family, &peer.name);
        let told = |scene: &'_ Scene| scene.told.get(&number).cloned().unwrap_or_default();
        for (which, scene) in [("normal", normal), ("elevated", elevated)] {
            if told(scene).is_empty() {
                findings.push(ANNOUNCES.error(
                    format!("{family}: {which} routes of VMs are not announced to {name}"),
                    self.advice(
                        format!("an export filter for {name} that accepts them"),
                        format!(
                            "route-maps and lists for {name} that permit them, as cutover bgp frr prints them"
                        ),
                    ),
                ));
                return;
            }
        }
        findings.push(self.still_announced(number, peer));
        findings.extend(self.only_vms(number, peer));
        findings.push(self.announced(peer, &told(normal), &told(elevated)));
        findings.extend(self.back(number, peer, normal));
        findings.push(self.local_wins(number, peer, elevated));
        findings.extend(self.re_export(number, peer));
        let (Some(remote_normal), Some(remote_elevated)) =
            (self.scene(Act::RemoteNormal, Some(number)), self.scene(Act::RemoteElevated, Some(number)))
        else {
            return;
        };
        if let Some(finding) = self.not_installed(peer, remote_normal, remote_elevated) {
            findings.push(finding);
            return;
        }
        findings.push(INTO_KERNEL.ok(format!("{family}: routes of {name} get into the kernel")));
        findings.push(NEXT_HOP.ok(format!("{family}: next hops of {name} are resolved")));
        findings.extend(self.remote_wins(number, peer));
        findings.extend(self.metrics(remote_normal, remote_elevated));
    }

    /// Why routes of a peer are not in the kernel, if they are not.
    fn not_installed(&self, peer: &Session, normal: &Scene, elevated: &Scene) -> Option<Finding> {
        let (family, name) = (self.family, &peer.name);
        let missing = [("normal", normal), ("elevated", elevated)];
        let (which, scene) = missing.into_iter().find(|(_, scene)| scene.installed().is_none())?;
        let mut of_peer = scene.paths.iter().filter(|path| path.origin == Origin::Bgp).peekable();
        let is_taken = of_peer.peek().is_some();
        if is_taken && of_peer.all(|path| path.is_unreachable) {
            let others = &self.observed.others;
            return Some(if others.is_empty() {
                NEXT_HOP.warning(
                    format!("{family}: the next hop of what {name} announces cannot be resolved"),
                    self.advice(
                        format!("direct; and gateway direct; in {name}, if all hosts share a network; otherwise a protocol direct"),
                        format!("a route to the next hops of {name}"),
                    ),
                )
            } else {
                NEXT_HOP.notice(
                    format!("{family}: could not tell whether next hops of {name} are resolved: in the rehearsal nobody spoke {} ", others.join(" and ")).trim_end().to_owned(),
                    "see birdc show route, or show bgp nexthop in vtysh",
                )
            });
        }
        let (what, change) = if is_taken {
            (
                "do not get from the daemon into the kernel",
                self.advice(
                    "export in protocol kernel that accepts them".to_owned(),
                    "no ip protocol bgp route-map, table-map or bgp no-rib that keeps them back".to_owned(),
                ),
            )
        } else {
            (
                "are not taken",
                self.advice(format!("an import filter of {name} that accepts them"), format!("route-maps and lists for what comes from {name} that permit them, as cutover bgp frr prints them")),
            )
        };
        Some(INTO_KERNEL.error(format!("{family}: {which} routes of {name} {what}"), change))
    }

    fn advice(&self, bird: String, frr: String) -> String {
        if self.is_frr() { frr } else { bird }
    }
}

/// What bgpd sees of a metric of the kernel: zebra takes the high octet for the distance.
const fn low(metric: u32) -> u32 {
    metric & ((1 << DISTANCE_SHIFT) - 1)
}

const DISTANCE_SHIFT: u32 = 24;
