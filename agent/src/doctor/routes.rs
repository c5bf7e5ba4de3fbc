//! Routes that the agent wants and the kernel does not take.

use super::finding::{Area, Check, Finding};
use cutover_daemon::control::Status;

static REFUSED: Check = Check {
    area: Area::Network,
    name: "refused-routes",
    wants: "The kernel takes every route that the agent writes, and lets every one go that has to",
    why: "A VM whose route is refused is reached by nobody; one whose old route stays is looked for where it is not.",
};

pub(super) static CHECKS: &[&Check] = &[&REFUSED];

/// Nothing without an agent that could say it.
pub(super) fn judge(status: Option<&Status>) -> Vec<Finding> {
    let Some(status) = status else { return Vec::new() };
    let refused = status.refused_routes.iter().map(|(route, reason)| {
        REFUSED.error(
            format!("{route}: {reason}"),
            "mend what the message says; the agent writes the route as soon as the kernel takes it",
        )
    });
    let findings: Vec<Finding> = refused.collect();
    if findings.is_empty() { vec![REFUSED.ok("the kernel takes them")] } else { findings }
}

#[cfg(test)]
mod tests {
    use super::super::finding::Level;
    use super::*;
    use crate::example;

    #[test]
    fn each_refused_route_is_a_finding() {
        let mut status = example::status(vec![example::endpoint()]);
        assert!(judge(None).is_empty());
        assert_eq!(judge(Some(&status)).iter().map(|finding| finding.level).collect::<Vec<_>>(), [Level::Ok]);
        for metric in ["512", "1024"] {
            let route = format!("10.65.0.2/32 dev tap1 metric {metric}");
            status.refused_routes.insert(route, "the interface is down".into());
        }
        let found = judge(Some(&status));
        assert!(found.len() == 2 && found.iter().all(|finding| finding.level == Level::Error));
        assert!(found[1].what.contains("10.65.0.2/32 dev tap1 metric 512"), "{}", found[1].what);
    }
}
