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
    let release = release(number)?;
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

/// The first two numbers of a version, whatever follows.
fn release(text: &str) -> Option<(u32, u32)> {
    let mut numbers = text.split(|it: char| !it.is_ascii_digit()).filter(|part| !part.is_empty());
    Some((numbers.next()?.parse().ok()?, numbers.next().and_then(|part| part.parse().ok()).unwrap_or(0)))
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

#[cfg(test)]
mod tests {
    use super::*;

    fn observed(version: &str, peers: usize) -> Observed {
        let peer = Session { families: [true, false], ..Session::default() };
        Observed { version: version.to_owned(), sessions: vec![peer; peers], ..Observed::default() }
    }

    #[test]
    fn only_what_was_seen_is_said() {
        let is_known = |version: &str, peers| judge(&observed(version, peers)).is_some();
        assert!(!is_known("FRR 8.4.4", 2) && !is_known("BIRD 2.0.12", 2) && !is_known("", 2));
        assert!(is_known("FRR 10.3", 1) && is_known("FRR 10.3-dev", 1) && is_known("FRR 10.7.1", 1));
        assert!(!is_known("FRR 10.2.4", 1) && !is_known("FRR 9.1", 1));
        assert!(is_known("BIRD 3.1.8", 2) && is_known("BIRD v3.4.0", 2), "a mesh");
        assert!(!is_known("BIRD 3.1.8", 1), "a reflector");
        let mut tor = observed("BIRD 3.1.8", 2);
        tor.sessions.iter_mut().for_each(|session| session.is_external = true);
        assert_eq!(judge(&tor), None);
    }
}
