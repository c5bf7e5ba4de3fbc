//! FRR's configuration, judged by sending the routes that matter through its route-maps; and the running daemons.

mod config;
mod instance;
mod judge;
mod lists;
mod route_map;
mod running;
#[cfg(test)]
mod tests;

use super::{CONFIGURATION, VmRoute, Wanted};
use crate::doctor::finding::Finding;
use config::Config;
use cutover_daemon::processes::{Process, Processes};
use running::Vtysh;
use std::path::Path;

/// The processes that are FRR's bgpd. OpenBGPD's has the same name, but not FRR's folder, and no zebra beside it.
pub(super) fn daemons(processes: &Processes) -> impl Iterator<Item = &Process> {
    let has_zebra = processes.named(&["zebra", "watchfrr"]).next().is_some();
    processes.named(&["bgpd"]).filter(move |bgpd| has_zebra || is_in_folder(bgpd))
}

fn is_in_folder(bgpd: &Process) -> bool {
    let called = bgpd.arguments.first().map(Path::new);
    let is_in_it = |file: &Path| file.components().any(|part| part.as_os_str() == "frr");
    bgpd.executable.as_deref().or(called).is_some_and(is_in_it)
}

/// Judges a file.
pub(super) fn examine_file(file: &Path, wanted: &Wanted) -> Vec<Finding> {
    match std::fs::read(file) {
        Ok(bytes) => {
            judged(&String::from_utf8_lossy(&bytes), &format!("{} can be read", file.display()), wanted)
        }
        Err(error) => vec![CONFIGURATION.error(
            format!("{}: cannot read: {error}", file.display()),
            "make it readable, or name the right one with --frr-conf",
        )],
    }
}

/// Judges the configuration that is in force, and asks the daemons.
pub(super) fn examine_running(
    bgpd: &Process,
    processes: &Processes,
    wanted: &Wanted,
    routes: &[VmRoute],
) -> Vec<Finding> {
    let vtysh = Vtysh::of(bgpd);
    let text = match vtysh.configuration() {
        Ok(text) => text,
        Err(error) => {
            return vec![CONFIGURATION.notice(
                format!("could not ask FRR for its configuration: {error}"),
                "run cutover doctor as root, with vtysh installed, or name the file with --frr-conf",
            )];
        }
    };
    let mut findings = judged(&text, "FRR tells its configuration", wanted);
    findings.extend(processes.named(&["zebra"]).map(running::restarts));
    findings.extend(vtysh.examine(routes));
    findings
}

fn judged(text: &str, said: &str, wanted: &Wanted) -> Vec<Finding> {
    let mut findings = vec![CONFIGURATION.ok(said)];
    findings.extend(judge::judge(&Config::of(text), wanted));
    findings
}
