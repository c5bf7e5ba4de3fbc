//! Nova's configuration: whether a migration waits for the network of the target.

use super::finding::{Area, Check, Finding};
use super::oslo::{Entry, Files, boolean};
use cutover_daemon::processes::Processes;
use cutover_daemon::settings::{DatastoreType, Settings};
use std::fs;
use std::path::PathBuf;

static FILE: Check = Check {
    area: Area::Nova,
    name: "file",
    wants: "Nova's configuration can be read",
    why: "How Nova migrates decides whether the network is ready when the VM arrives.",
};
static WAITS: Check = Check {
    area: Area::Nova,
    name: "wait-for-vif-plug",
    wants: "[compute] live_migration_wait_for_vif_plug is not False",
    why: "With True, Nova copies the VM only when Neutron says that the network of the target is ready. With False, both go on at the same time, and the VM can run on the target before traffic can flow to it. Old versions of Calico wanted False, so it is often left over. Nova reads it on the target of a migration: every compute host needs it.",
};
static TIMEOUT: Check = Check {
    area: Area::Nova,
    name: "vif-plugging",
    wants: "vif_plugging_timeout is not 0, and vif_plugging_is_fatal is not False",
    why: "A timeout of 0 is not to wait at all; a timeout that is not fatal lets the VM move to a host whose network is not ready.",
};
static HOST: Check = Check {
    area: Area::Nova,
    name: "host",
    wants: "FelixHostname is what Nova calls the host, to the letter",
    why: "Endpoints and migrations carry Nova's name; with another one the agent takes them for another host's.",
};

pub(super) static CHECKS: &[&Check] = &[&FILE, &WAITS, &TIMEOUT, &HOST];

/// Where distributions and deployment tools put it, in the order in which they are read if they are there.
const PLACES: [&[&str]; 4] = [
    &["/etc/nova/nova.conf", "/etc/nova/nova-compute.conf"],
    &["/etc/nova/nova-cpu.conf"],
    &["/etc/kolla/nova-compute/nova.conf"],
    &["/var/snap/openstack-hypervisor/common/etc/nova/nova.conf"],
];

/// Finds and judges the files.
pub(super) fn examine(named: &[PathBuf], processes: &Processes, settings: &Settings) -> Vec<Finding> {
    let paths = if named.is_empty() { found(processes) } else { named.to_vec() };
    if paths.is_empty() {
        let is_openstack = settings.datastore_type == DatastoreType::Etcdv3;
        let what = "there is no nova.conf in any of the usual places";
        return vec![if is_openstack {
            FILE.notice(what, "name it with --nova-conf, if Nova has VMs on this host")
        } else {
            FILE.ok("Nova is not used here")
        }];
    }
    let mut files = Files::default();
    let mut findings = Vec::new();
    for path in &paths {
        match fs::read(path) {
            Ok(bytes) => files.add(path, &String::from_utf8_lossy(&bytes)),
            Err(error) => findings.push(FILE.error(
                format!("{}: cannot read: {error}", path.display()),
                "make it readable, or name the right one with --nova-conf",
            )),
        }
    }
    if findings.is_empty() {
        let hostname = nix::unistd::gethostname().unwrap_or_default();
        findings.extend(judge(&files, &paths, &settings.felix_hostname, &hostname.to_string_lossy()));
    }
    findings
}

/// The files of the running service, or those that are in one of the places.
fn found(processes: &Processes) -> Vec<PathBuf> {
    let service = processes.running("nova-compute").next();
    let named: Vec<PathBuf> = service
        .map(|process| process.values_of(&["--config-file"]))
        .unwrap_or_default()
        .into_iter()
        .map(PathBuf::from)
        .collect();
    if !named.is_empty() {
        return named;
    }
    let existing = |place: &&[&str]| -> Vec<PathBuf> {
        place.iter().map(PathBuf::from).filter(|path| path.exists()).collect()
    };
    PLACES.iter().map(existing).find(|files| !files.is_empty()).unwrap_or_default()
}

/// What the files say. `hostname` is the system's, which Nova takes if nobody names the host.
pub(super) fn judge(files: &Files, paths: &[PathBuf], felix: &str, hostname: &str) -> Vec<Finding> {
    let names: Vec<String> = paths.iter().map(|path| path.display().to_string()).collect();
    let mut findings: Vec<Finding> = files
        .refused
        .iter()
        .map(|line| FILE.error(line.clone(), "correct the line; Nova does not start with it"))
        .collect();
    if findings.is_empty() {
        findings.push(FILE.ok(format!("{} can be read", names.join(" and "))));
    }
    findings.extend(waits(files));
    findings.extend(timeout(files));
    findings.extend(host(files, felix, hostname));
    findings
}

fn place(entry: &Entry) -> String {
    format!("{}:{}", entry.file.display(), entry.line)
}

const WAIT_OPTION: &str = "live_migration_wait_for_vif_plug";

fn waits(files: &Files) -> Vec<Finding> {
    let mut findings: Vec<Finding> = files
        .elsewhere("compute", WAIT_OPTION)
        .map(|entry| {
            WAITS.warning(
                format!(
                    "{}: {WAIT_OPTION} is in section [{}], where it has no effect",
                    place(entry),
                    entry.section
                ),
                "move it to section [compute], or remove it: True is the default",
            )
        })
        .collect();
    let remove = |entry: &Entry| {
        format!("remove the line {}, or make it True, and restart nova-compute", place(entry))
    };
    findings.push(match flag(files, "compute", WAIT_OPTION) {
        Flag::Is(true, _) | Flag::Unset => WAITS.ok("a migration waits for the network of the target"),
        Flag::Is(false, entry) => {
            WAITS.error(format!("{}: {WAIT_OPTION} = {}", place(entry), entry.value), remove(entry))
        }
        Flag::Unclear(entry) => unclear(&WAITS, entry),
    });
    findings
}

fn timeout(files: &Files) -> Vec<Finding> {
    let mut findings = Vec::new();
    let key = "vif_plugging_timeout";
    if let Some(entry) = files.value("DEFAULT", key) {
        match entry.value.trim().parse::<i64>() {
            Ok(0) => findings.push(TIMEOUT.error(
                format!("{}: {key} = 0", place(entry)),
                format!("remove the line {}: the default is 300", place(entry)),
            )),
            Ok(_) => {}
            Err(_) => findings.push(unclear(&TIMEOUT, entry)),
        }
    }
    match flag(files, "DEFAULT", "vif_plugging_is_fatal") {
        Flag::Is(true, _) | Flag::Unset => {}
        Flag::Is(false, entry) => findings.push(TIMEOUT.warning(
            format!("{}: vif_plugging_is_fatal = {}", place(entry), entry.value),
            format!("remove the line {}: True is the default", place(entry)),
        )),
        Flag::Unclear(entry) => findings.push(unclear(&TIMEOUT, entry)),
    }
    if findings.is_empty() {
        findings.push(TIMEOUT.ok("a migration fails if the network of the target is not ready in time"));
    }
    findings
}

fn host(files: &Files, felix: &str, hostname: &str) -> Option<Finding> {
    let (nova, from) = match files.value("DEFAULT", "host") {
        Some(entry) if entry.value.contains('$') => return Some(unclear(&HOST, entry)),
        Some(entry) => (entry.value.as_str(), place(entry)),
        None => (hostname, "the name of the system".to_owned()),
    };
    if felix.is_empty() || nova.is_empty() {
        return None;
    }
    Some(if nova == felix {
        HOST.ok(format!("Nova calls this host {nova}, too"))
    } else {
        HOST.error(
            format!("Nova calls this host {nova} ({from}), FelixHostname is {felix}"),
            format!("FelixHostname = {nova}"),
        )
    })
}

enum Flag<'a> {
    Unset,
    Is(bool, &'a Entry),
    /// Not a boolean, or another option's value.
    Unclear(&'a Entry),
}

fn flag<'a>(files: &'a Files, section: &str, key: &str) -> Flag<'a> {
    match files.value(section, key) {
        None => Flag::Unset,
        Some(entry) => boolean(&entry.value).map_or(Flag::Unclear(entry), |value| Flag::Is(value, entry)),
    }
}

fn unclear(check: &'static Check, entry: &Entry) -> Finding {
    let what = format!("{}: {} = {}", place(entry), entry.key, entry.value);
    if entry.value.contains('$') {
        return check
            .notice(format!("could not tell: {what} takes another option's value"), "see what that one is");
    }
    check.error(
        format!("{what} is not valid"),
        format!("remove the line {}; Nova does not start with it", place(entry)),
    )
}

#[cfg(test)]
mod tests {
    use super::super::finding::Level;
    use super::*;

    fn problems(text: &str) -> Vec<(&'static str, Level, String)> {
        let path = PathBuf::from("nova.conf");
        let mut files = Files::default();
        files.add(&path, text);
        judge(&files, &[path], "compute-2", "compute-2")
            .into_iter()
            .filter(|finding| finding.level != Level::Ok)
            .map(|finding| (finding.check.name, finding.level, finding.what))
            .collect()
    }

    #[test]
    fn each_fault_is_exactly_one_finding() {
        const WAIT: &str = "wait-for-vif-plug";
        for (text, check, level, part) in [
            ("[compute]\nlive_migration_wait_for_vif_plug = False\n", WAIT, Level::Error, "nova.conf:2"),
            ("[compute]\nlive_migration_wait_for_vif_plug=false\n", WAIT, Level::Error, "= false"),
            ("[compute]\nlive_migration_wait_for_vif_plug: off\n", WAIT, Level::Error, "= off"),
            ("[COMPUTE]\nlive_migration_wait_for_vif_plug = 0\n", WAIT, Level::Error, "= 0"),
            ("[compute]\nlive_migration_wait_for_vif_plug = True # x\n", WAIT, Level::Error, "not valid"),
            ("[compute]\nlive_migration_wait_for_vif_plug = $other\n", WAIT, Level::Notice, "another option"),
            (
                "[libvirt]\nlive_migration_wait_for_vif_plug = False\n",
                WAIT,
                Level::Warning,
                "section [libvirt]",
            ),
            (
                "[DEFAULT]\nlive_migration_wait_for_vif_plug = True\n",
                WAIT,
                Level::Warning,
                "section [DEFAULT]",
            ),
            (
                "[ compute ]\nlive_migration_wait_for_vif_plug = False\n",
                WAIT,
                Level::Warning,
                "section [ compute ]",
            ),
            (
                "[compute ]\nlive_migration_wait_for_vif_plug = True\n",
                WAIT,
                Level::Warning,
                "section [compute ]",
            ),
            // Indented lines go on with what is before them.
            (
                "[compute]\nlive_migration_wait_for_vif_plug = True\n  # since 2024\n",
                WAIT,
                Level::Error,
                "not valid",
            ),
            ("[compute]\nlive_migration_wait_for_vif_plug =\n  True\n", WAIT, Level::Error, "not valid"),
            ("[compute]\n  live_migration_wait_for_vif_plug = True\n", "file", Level::Error, "nova.conf:2"),
            ("[compute]\n\tlive_migration_wait_for_vif_plug = False\n", "file", Level::Error, "nova.conf:2"),
            ("[DEFAULT]\nhost = compute-2\n\n  debug = True\n", "file", Level::Error, "nova.conf:4"),
            ("[DEFAULT]\nhost = compute-2\n  # the second\n", "host", Level::Error, "# the second"),
            ("[DEFAULT]\nhost = compute-2\n [compute]\n", "host", Level::Error, "[compute]"),
            ("[DEFAULT]\nvif_plugging_timeout = 300\n ; s\n", "vif-plugging", Level::Error, "not valid"),
            ("[DEFAULT]\nvif_plugging_timeout = 0\n", "vif-plugging", Level::Error, "= 0"),
            ("[DEFAULT]\nvif_plugging_timeout = soon\n", "vif-plugging", Level::Error, "not valid"),
            ("[DEFAULT]\nvif_plugging_is_fatal = no\n", "vif-plugging", Level::Warning, "= no"),
            ("[DEFAULT]\nhost = Compute-2\n", "host", Level::Error, "Compute-2 (nova.conf:2)"),
            ("[DEFAULT]\nhost = $my_ip\n", "host", Level::Notice, "another option"),
            ("[DEFAULT]\nnonsense\n", "file", Level::Error, "nova.conf:2"),
        ] {
            let found = problems(text);
            assert_eq!(found.len(), 1, "{text:?}: {found:?}");
            assert_eq!((found[0].0, found[0].1), (check, level), "{text:?}: {found:?}");
            assert!(found[0].2.contains(part), "{part:?} is not in {found:?}");
        }
    }

    #[test]
    fn what_is_right_has_no_finding() {
        for text in [
            "",
            "[compute]\nlive_migration_wait_for_vif_plug = True\n",
            "[compute]\n# live_migration_wait_for_vif_plug = False\n",
            "[compute]\nother = 1\n  live_migration_wait_for_vif_plug = False\n",
            "[ DEFAULT ]\nhost = other\n[default]\nhost = other\n",
            "[DEFAULT]\nvif_plugging_timeout =\n  300\n",
            "[compute]\nlive_migration_wait_for_vif_plug = False\nlive_migration_wait_for_vif_plug = yes\n",
            "[DEFAULT]\nvif_plugging_timeout = 300\nvif_plugging_is_fatal = True\nhost = compute-2\n",
            "[DEFAULT]\ntransport_url = rabbit://a:b@c\n  rabbit://d\n[libvirt]\nvirt_type = kvm\n",
        ] {
            assert_eq!(problems(text), [], "{text:?}");
        }
    }

    #[test]
    fn the_systems_name_counts_if_nova_has_none() {
        let found = host(&Files::default(), "compute-2", "Compute-2").unwrap();
        assert_eq!(found.level, Level::Error);
        assert_eq!(found.change.unwrap(), "FelixHostname = Compute-2");
    }
}
