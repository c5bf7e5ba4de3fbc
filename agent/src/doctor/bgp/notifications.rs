//! Whether daemons lost notifications of the kernel, and what makes them right again.

use super::{Area, Check, Finding};
use crate::overruns::{self, Overrun};
use cutover_daemon::processes::Processes;
use std::io;
use std::path::Path;

pub(super) static NOTIFICATIONS: Check = Check {
    area: Area::Bgp,
    name: "notifications",
    wants: "The daemon was told of every change of the kernel's routes",
    why: "What does not fit into its receive buffer is lost: it announces VMs that have left, and does not announce those that came. BIRD looks again at its next scan; FRR never does.",
};

pub(super) fn examine(proc: &Path, processes: &Processes) -> Vec<Finding> {
    judge(&overruns::of_daemons(proc, processes))
}

/// The kernel only counts, so nobody can tell whether what was lost mattered.
fn judge(seen: &io::Result<Vec<Overrun>>) -> Vec<Finding> {
    let daemons = match seen {
        Ok(daemons) => daemons,
        Err(error) => {
            let what = format!("cannot see whether the daemon lost notifications: {error}");
            return vec![NOTIFICATIONS.notice(what, "see that /proc is there")];
        }
    };
    let findings: Vec<Finding> = daemons.iter().filter(|daemon| daemon.lost > 0).map(lost).collect();
    match daemons[..] {
        [] => Vec::new(),
        _ if findings.is_empty() => vec![NOTIFICATIONS.ok("the daemon lost no notification")],
        _ => findings,
    }
}

fn lost(daemon: &Overrun) -> Finding {
    if daemon.is_for_good() {
        NOTIFICATIONS.warning(
            format!("{daemon}, and does not know it"),
            "restart zebra, as docs/bgp-frr.md says under Restarts; a larger buffer is zebra_options=\"  -A 127.0.0.1 -s 90000000 ...\" in /etc/frr/daemons (--nl-bufsize). The count begins anew with the process",
        )
    } else {
        NOTIFICATIONS.notice(
            daemon.to_string(),
            "nothing, if that was before its last scan of the kernel (scan time, 60 s at most if nothing is set); a larger buffer is netlink rx buffer 4194304; in the kernel protocols of BIRD 2.0.9 and newer. The count begins anew with the process",
        )
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::finding::Level;
    use super::*;

    #[test]
    fn each_daemon_that_lost_something_is_a_finding() {
        let daemon = |daemon: &str, lost| Overrun { daemon: daemon.into(), pid: 7, lost };
        let judged = |daemons: Vec<Overrun>| {
            judge(&Ok(daemons)).iter().map(|finding| finding.level).collect::<Vec<_>>()
        };
        assert_eq!(judged(Vec::new()), []);
        assert_eq!(judged(vec![daemon("zebra", 0), daemon("bird", 0)]), [Level::Ok]);
        assert_eq!(judged(vec![daemon("zebra", 1), daemon("bird", 0)]), [Level::Warning]);
        assert_eq!(judged(vec![daemon("bird", 9), daemon("bird6", 1)]), [Level::Notice, Level::Notice]);
        assert_eq!(judge(&Err(io::ErrorKind::NotFound.into()))[0].level, Level::Notice);
        let found = judge(&Ok(vec![daemon("zebra", 12)]));
        assert!(found[0].what.contains("zebra (process 7) was not told of 12 changes"), "{}", found[0].what);
    }
}
