//! Which route wins where there are two: on the source, on the target, for the daemon and for the kernel.

use super::super::{
    FamilyMetrics, KERNEL_METRIC, LOCAL_WINS, METRIC_OPTION, ONE_STEP, REMOTE_WINS, local_pref,
};
use super::{DISTANCE_SHIFT, Judge};
use crate::doctor::finding::Finding;
use crate::doctor::rehearsal::observed::{Act, Origin, Scene, Session};
use cutover_bgp::Priorities;

impl Judge<'_> {
    /// On the source.
    pub(super) fn remote_wins(&self, number: usize, peer: &Session) -> Option<Finding> {
        let scene = self.scene(Act::Source, Some(number))?;
        let (family, name) = (self.family, &peer.name);
        if scene.chosen == Some(Origin::Bgp) && scene.best().is_some_and(|best| best.origin == Origin::Bgp) {
            return Some(REMOTE_WINS.ok(format!("{family}: elevated routes of {name} win over local ones")));
        }
        let distance = family.normal >> DISTANCE_SHIFT;
        if self.is_frr() && distance < 2 {
            return Some(REMOTE_WINS.error(
                format!("{family}: {family}NormalRoutePriority is {}, whose high octet zebra takes for the distance: {distance} wins over every route from BGP", family.normal),
                format!("{family}NormalRoutePriority = 100665344 (6 x 2^24 + 2048) and {family}ElevatedRoutePriority = 10 for all hosts, and what cutover bgp frr prints then"),
            ));
        }
        let (who, change) = if !self.is_frr() {
            let condition = if peer.is_external {
                "(65000, 100) ~ bgp_community".to_owned()
            } else {
                format!("bgp_local_pref > {}", local_pref(family.normal))
            };
            (
                "BIRD",
                format!(
                    "if {condition} then preference = 200; in the import filter of {name}, and less for local normal routes"
                ),
            )
        } else if scene.best().is_some_and(|best| best.origin == Origin::Bgp) {
            (
                "zebra",
                format!(
                    "set distance {} for elevated routes in the route-map for what comes from {name}, as cutover bgp frr prints it",
                    distance - 1
                ),
            )
        } else {
            ("bgpd", "set weight 0 and the two LOCAL_PREFs where routes are redistributed; with eBGP also set local-preference for what comes in; as cutover bgp frr prints it".to_owned())
        };
        Some(REMOTE_WINS.error(
            format!("{family}: for {who}, local normal routes win over elevated ones of {name}"),
            change,
        ))
    }

    /// On the target: what counts is what the peers are told.
    pub(super) fn local_wins(&self, number: usize, peer: &Session, elevated: &Scene) -> Finding {
        let (family, name) = (self.family, &peer.name);
        let Some(scene) = self.scene(Act::Target, Some(number)) else {
            return LOCAL_WINS.notice(
                format!("{family}: could not tell what happens beside a route of {name}"),
                "compare it with what cutover bgp prints",
            );
        };
        let is_told = self.peers().all(|(other, _)| {
            let [of_elevated, of_target] = [elevated, scene].map(|scene| scene.told.get(&other));
            of_elevated.is_none_or(|expected| {
                of_target.is_some_and(|told| expected.iter().all(|it| told.contains(it)))
            })
        });
        let is_chosen = scene.chosen == Some(Origin::Kernel);
        if is_told && is_chosen {
            return LOCAL_WINS.ok(format!("{family}: local elevated routes win over normal ones of {name}"));
        }
        if is_told {
            return LOCAL_WINS.notice(
                format!("{family}: normal routes of {name} win over local elevated ones, which are announced all the same, beside the best route (add paths) or in its place (secondary)"),
                "see that both ends of every session have add paths",
            );
        }
        LOCAL_WINS.error(
            format!("{family}: local elevated routes do not win over normal ones of {name}: not everybody is told of them"),
            self.advice(
                format!("if krt_metric < {} then preference = 250; in the import filter of protocol kernel", family.normal),
                format!("the LOCAL_PREFs and distances that cutover bgp frr prints, and {family}ElevatedRoutePriority below 2^24"),
            ),
        )
    }

    /// With which metric routes of a peer are in the kernel, and whether that lets the right ones win.
    pub(super) fn metrics(&self, normal: &Scene, elevated: &Scene) -> Vec<Finding> {
        let metric = |scene: &Scene| scene.installed().map(|route| route.metric);
        let (Some(normal), Some(elevated)) = (metric(normal), metric(elevated)) else { return Vec::new() };
        if self.is_frr() {
            return vec![self.metric_of_frr(elevated)];
        }
        let family = self.family;
        let is_right = elevated < family.normal && normal > family.elevated;
        let told = format!("{family}: other hosts' routes get metric {normal}, elevated ones {elevated}");
        let change = format!("{}in protocol kernel", fixed(family));
        if is_right && self.is_own(normal, elevated) {
            let why = "as local ones do: in IPv6 the kernel uses only one of two routes with the same metric, and BIRD 3 may put its own in the place of a VM's and leave none when it ends";
            return vec![KERNEL_METRIC.error(format!("{told}, {why}"), change)];
        }
        if is_right {
            return vec![
                METRIC_OPTION.ok(format!("{family}: the kernel protocol leaves room between the priorities")),
                KERNEL_METRIC.ok(told),
                one_step(family, normal, elevated),
            ];
        }
        if normal == elevated && self.observed.generation > 1 {
            return vec![METRIC_OPTION.error(
                format!(
                    "{family}: every route of other hosts gets metric {normal}; local ones have {} and {}",
                    family.normal, family.elevated
                ),
                change,
            )];
        }
        vec![
            KERNEL_METRIC
                .error(format!("{told}; local ones have {} and {}", family.normal, family.elevated), change),
        ]
    }

    fn metric_of_frr(&self, metric: u32) -> Finding {
        let (family, elevated) = (self.family, self.family.elevated);
        if metric >= family.normal {
            return KERNEL_METRIC.error(
                format!("{family}: routes of bgpd have metric {metric} in the kernel, which loses to normal ones of VMs here, {}", family.normal),
                format!("{family}NormalRoutePriority = 100665344 for all hosts"),
            );
        }
        if elevated < metric {
            return KERNEL_METRIC
                .ok(format!("{family}: elevated routes have a lower metric than those of bgpd"));
        }
        KERNEL_METRIC.notice(
            format!("{family}: routes of bgpd have metric {metric} in the kernel, which wins over an elevated {elevated} until zebra has taken them away, some milliseconds"),
            format!("{family}ElevatedRoutePriority = 10 for all hosts"),
        )
    }

    /// Whether a route from another host and one of this host's can have the same metric. BIRD 1 leaves what is not its own alone.
    const fn is_own(&self, normal: u32, elevated: u32) -> bool {
        let FamilyMetrics { normal: own_normal, elevated: own_elevated, .. } = self.family;
        self.observed.generation > 1
            && (normal == own_normal
                || normal == own_elevated
                || elevated == own_normal
                || elevated == own_elevated)
    }
}

fn one_step(family: FamilyMetrics, normal: u32, elevated: u32) -> Finding {
    if normal == elevated {
        return ONE_STEP.ok(format!("{family}: other hosts' routes keep their metric"));
    }
    ONE_STEP.notice(
        format!(
            "{family}: other hosts' routes change their metric with their priority, {normal} and {elevated}"
        ),
        format!("{}in protocol kernel, unless you want to see the metrics", fixed(family)),
    )
}

/// The option that makes every route right.
fn fixed(family: FamilyMetrics) -> String {
    let FamilyMetrics { normal, elevated, .. } = family;
    let between = Priorities { normal, elevated }.between();
    between.map_or_else(
        || format!("an elevated priority below {elevated} in the settings, and a metric between the two "),
        |metric| format!("metric {metric}; "),
    )
}
