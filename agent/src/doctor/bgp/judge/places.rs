//! VMs may have addresses in several places, and filters may look at them: what is the same everywhere is a verdict, and the rest is said
//! to depend on addresses.

use super::Judge;
use crate::doctor::finding::{Finding, Level};
use crate::doctor::rehearsal::FamilyMetrics;
use crate::doctor::rehearsal::observed::{Act, Observed};
use std::net::IpAddr;

/// What holds in one family.
pub(super) fn agreed(observed: &Observed, family: FamilyMetrics) -> Vec<Finding> {
    let normal = observed.scenes.iter().filter(|it| it.act == Act::Normal && it.is_ipv6() == family.is_ipv6);
    let places = normal.map(|scene| {
        let judge = Judge { observed, family, sample: scene.sample };
        (scene.destination.addr(), judge.all())
    });
    merged(&places.collect::<Vec<_>>())
}

fn merged(places: &[(IpAddr, Vec<Finding>)]) -> Vec<Finding> {
    let mut found: Vec<Finding> = Vec::new();
    for (_, findings) in places {
        for finding in findings {
            if found.contains(finding) {
                continue;
            }
            let here = places.iter().filter(|(_, it)| it.contains(finding)).map(|(address, _)| *address);
            let here: Vec<IpAddr> = here.collect();
            let is_everywhere = here.len() == places.len();
            // What is behind a filter that stops it somewhere is as it is where it gets through.
            if is_everywhere || is_only_cut_short(finding, places) {
                found.push(finding.clone());
            } else if finding.level > Level::Notice {
                let addresses: Vec<String> = here.iter().map(IpAddr::to_string).collect();
                found.push(finding.check.notice(
                    format!(
                        "it depends on addresses of VMs; with {}: {}",
                        addresses.join(" and "),
                        finding.what
                    ),
                    finding.change.clone().unwrap_or_default(),
                ));
            } else if finding.level == Level::Notice {
                found.push(finding.clone());
            }
        }
    }
    found
}

/// Nobody who got as far as this check says otherwise.
fn is_only_cut_short(finding: &Finding, places: &[(IpAddr, Vec<Finding>)]) -> bool {
    places.iter().all(|(_, it)| it.contains(finding) || it.iter().all(|other| other.check != finding.check))
}

#[cfg(test)]
mod tests {
    use super::super::super::{ANNOUNCES, INTO_KERNEL};
    use super::*;

    #[test]
    fn what_differs_is_not_said_to_be_right() {
        let place = |text: &str, findings: &[Finding]| (text.parse::<IpAddr>().unwrap(), findings.to_vec());
        let (good, bad, more) = (ANNOUNCES.ok("told"), ANNOUNCES.error("not told", "x"), INTO_KERNEL.ok("y"));
        let alike = [
            place("10.0.0.1", &[good.clone(), more.clone()]),
            place("10.0.1.1", &[good.clone(), more.clone()]),
        ];
        assert_eq!(merged(&alike), [good.clone(), more.clone()]);
        let differ = merged(&[place("10.0.0.1", &[good, more.clone()]), place("10.0.1.1", &[bad])]);
        assert_eq!(
            differ.iter().map(|it| (it.check.name, it.level)).collect::<Vec<_>>(),
            [("into-kernel", Level::Ok), ("announces", Level::Notice)]
        );
        assert!(differ[1].what.contains("10.0.1.1"));
    }
}
