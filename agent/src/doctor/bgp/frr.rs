//! FRR's configuration, which the host's own FRR rehearses; and the running daemons.

mod running;

use super::bird::root_of;
use super::{CONFIGURATION, Program, RUNNING, Request, RouteShape, VmRoute, delays, elsewhere, rehearsed};
use crate::doctor::finding::Finding;
use crate::doctor::rehearsal::unreadable;
use cutover_daemon::processes::{Process, Processes};
use running::Vtysh;
use std::path::{Path, PathBuf};

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

/// Where packages put the daemons.
const FOLDERS: [&str; 3] = ["/usr/lib/frr", "/usr/libexec/frr", "/usr/local/sbin"];
const FILE: &str = "/etc/frr/frr.conf";

/// Which programs rehearse: those that are named, or those that run, or those that are installed.
pub(super) fn program(named: Option<&Path>, bgpd: Option<&Process>) -> Program {
    let running = bgpd.and_then(|bgpd| Some(bgpd.executable.as_deref()?.parent()?.to_owned()));
    let running = running.filter(|folder| folder.join("bgpd").exists());
    let installed = || FOLDERS.iter().map(PathBuf::from).find(|folder| folder.join("bgpd").exists());
    let folder = named.map(Path::to_owned).or(running).or_else(installed);
    let folder = folder.unwrap_or_else(|| PathBuf::from(FOLDERS[0]));
    let beside = Some(folder.join("vtysh")).filter(|vtysh| vtysh.exists());
    Program::Frr { folder, vtysh: beside.unwrap_or_else(|| PathBuf::from("vtysh")) }
}

/// Rehearses a file.
pub(super) fn examine_file(
    file: &Path,
    program: Program,
    elsewhere: Option<u32>,
    wanted: &RouteShape,
) -> Vec<Finding> {
    let seen = elsewhere.map_or_else(|| file.to_owned(), |pid| root_of(pid, file));
    if let Some(reason) = unreadable(&seen) {
        return vec![CONFIGURATION.error(
            format!("{}: {reason}", file.display()),
            "make it readable, or name the right one with --frr-conf",
        )];
    }
    let mut findings = rehearsed(&Request { daemon: elsewhere, ..wanted.request(program, file) }, wanted);
    // One that cannot be read has been said to be so.
    let text = std::fs::read_to_string(seen).unwrap_or_default();
    findings.extend(delays::of_frr(&file.display().to_string(), &text));
    findings
}

/// Rehearses the configuration that is in force, and asks the daemons.
pub(super) fn examine_running(
    bgpd: &Process,
    program: Program,
    processes: &Processes,
    wanted: &RouteShape,
    routes: &[VmRoute],
) -> Vec<Finding> {
    if let Some(pid) = elsewhere(bgpd) {
        // vtysh is where its daemons are, and says nothing to others.
        let mut findings = vec![RUNNING.notice(
            format!("bgpd (process {pid}) has files of its own, as in a container: FRR could not be asked, and its {FILE} was rehearsed in place of what is in force"),
            "see vtysh -c 'show bgp summary' where it runs",
        )];
        findings.extend(examine_file(Path::new(FILE), program, Some(pid), wanted));
        return findings;
    }
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
    let request = wanted.request(program, Path::new("FRR's running configuration"));
    // Words and no file.
    let configuration = PathBuf::from("FRR's running configuration");
    let mut findings = delays::of_frr("FRR's running configuration", &text);
    findings.extend(rehearsed(&Request { text: Some(text), configuration, ..request }, wanted));
    findings.extend(processes.named(&["zebra"]).map(running::restarts));
    findings.extend(vtysh.examine(routes));
    findings
}
