//! Faults of releases that a rehearsal does not show, because they come and go. Only what was seen in a release is said of it.

use crate::doctor::finding::{Area, Check, Finding};
use crate::doctor::rehearsal::observed::{Observed, Session};

pub(in crate::doctor::bgp) static RELEASE: Check = Check {
    area: Area::Bgp,
    name: "release",
    wants: "The daemon's release is not known to lose routes of VMs now and then",
    why: "What happens once in many migrations is not seen when one is rehearsed.",
};

/// What is known of the release that rehearsed.
pub(super) fn judge(observed: &Observed) -> Option<Finding> {
    let (name, number) = observed.version.split_once(' ')?;
    let mut parts = number.trim_start_matches('v').split('.').map(|part| part.parse::<u32>().ok());
    let release = (parts.next()??, parts.next().flatten().unwrap_or(0));
    match name {
        "FRR" if (10, 3) <= release => Some(RELEASE.notice(
            format!("{}: zebra now and then forgets routes to a new tap while another interface goes (seen in 10.3 and 10.7)", observed.version),
            "nothing, where the agent sees the process zebra: it writes such routes again after 0.1 s (docs/bgp-frr.md); or FRR 8.4",
        )),
        "BIRD" if release.0 >= 3 && is_mesh(observed) => Some(RELEASE.notice(
            format!("{}: in a full mesh a third host is now and then without a route for some milliseconds when a VM has moved (3.1.8: 375 of 18000 moves)", observed.version),
            "BIRD 2 with add paths on, or a route reflector (docs/bgp-bird.md, Gaps)",
        )),
        _ => None,
    }
}

/// Whether there is more than one peer of the host's own AS in a family: mostly other hosts.
fn is_mesh(observed: &Observed) -> bool {
    let is_peer = |session: &&Session| !session.is_external && !session.is_of_vm && !session.is_shut;
    let count = |is_ipv6| {
        let of_family = |session: &&Session| session.families[usize::from(is_ipv6)];
        observed.sessions.iter().filter(is_peer).filter(of_family).count()
    };
    count(false) > 1 || count(true) > 1
}
