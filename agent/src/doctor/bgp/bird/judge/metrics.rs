//! With which metric routes from other hosts get into the kernel, and whether that lets the right ones win.

use super::super::super::{Family, KERNEL_METRIC, METRIC_OPTION, ONE_STEP};
use super::super::protocol::Kernel;
use super::super::run::{Route, Value};
use super::{Agreed, Both, Judge};
use crate::doctor::finding::Finding;
use cutover_bgp::Priorities;

impl Judge<'_> {
    /// With which metric routes from other hosts get into the kernel.
    pub(super) fn metrics(&self, kernel: &Kernel, kept: &Both<Vec<Route>>, findings: &mut Vec<Finding>) {
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
        if is_right(normal, elevated) && self.is_own(normal, elevated) {
            findings.push(KERNEL_METRIC.error(
                format!(
                    "{family}: other hosts' routes get metric {normal}, elevated ones {elevated}, as local ones do: in IPv6 the kernel uses only one of two routes with the same metric, and BIRD 3 may put its own in the place of a VM's and leave none when it ends"
                ),
                format!("{}in protocol kernel {}", self.fixed(), kernel.name),
            ));
        } else if is_right(normal, elevated) {
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

    /// Whether a route from another host and one of this host's can have the same metric, where BIRD may be version 3. BIRD 1 leaves what
    /// is not its own alone.
    fn is_own(&self, normal: i64, elevated: i64) -> bool {
        let own = [self.family.normal, self.family.elevated].map(i64::from);
        !self.is_bird_1 && (own.contains(&normal) || own.contains(&elevated))
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
            || {
                format!(
                    "an elevated priority below {elevated} in the settings, and a metric between the two "
                )
            },
            |metric| format!("metric {metric}; "),
        )
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
