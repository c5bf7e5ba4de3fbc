//! Felix's unit: whether systemd would start it although Felix does not run.
//!
//! Reads the links that `systemctl enable` makes, and asks no systemd: what is enabled is told by files alone. A unit that asks for
//! Felix's by a line of its own is not looked for.

use super::finding::{Area, Check, Finding};
use cutover_daemon::felix::settings::UNIT;
use cutover_daemon::processes::Processes;
use std::fs;
use std::path::{Path, PathBuf};

static UNITS: Check = Check {
    area: Area::Agent,
    name: "units",
    wants: "Where Felix must not run, its unit is not enabled",
    why: "The next boot starts it. Of two units in conflict, as cutover.service is with Felix's, systemd starts one; which one is decided by chance once a third unit requires the one that would lose. Then no agent moves the routes of VMs, or Felix and its own way of moving them are back.",
};

pub(super) static CHECKS: &[&Check] = &[&UNITS];

/// Where units are, below the root of the file system, the first one first.
const FOLDERS: [&str; 5] = [
    "etc/systemd/system",
    "run/systemd/system",
    "usr/local/lib/systemd/system",
    "usr/lib/systemd/system",
    "lib/systemd/system",
];
/// There only if systemd was booted: sd_booted(3).
const BOOTED: &str = "run/systemd/system";
/// Folders with the units that another one asks for have these names.
const ASKS: [&str; 3] = [".wants", ".requires", ".upholds"];

/// The links by which Felix's unit is enabled; nothing if there is no systemd.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct InstalledUnits {
    enabled_by: Option<Vec<PathBuf>>,
}

impl InstalledUnits {
    /// Below this root.
    pub(super) fn look(root: &Path) -> Self {
        if !root.join(BOOTED).is_dir() {
            return Self { enabled_by: None };
        }
        let folders = FOLDERS.map(|folder| root.join(folder));
        // Where /usr is merged, the last folder is the one before it.
        let links = folders[..4].iter().flat_map(|folder| asking(folder));
        let enabled_by = if exists(&folders) { links.collect() } else { Vec::new() };
        Self { enabled_by: Some(enabled_by) }
    }
}

/// Whether there is such a unit. The first folder that has it counts; an empty file or a link to /dev/null masks it.
fn exists(folders: &[PathBuf]) -> bool {
    let found = folders.iter().map(|folder| folder.join(UNIT)).find(|path| path.symlink_metadata().is_ok());
    // Neither has anything to read.
    found.is_some_and(|path| fs::read(path).is_ok_and(|text| !text.is_empty()))
}

/// The links in a folder of units by which other units ask for it.
fn asking(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path());
    let asks =
        |path: &PathBuf| path.to_str().is_some_and(|path| ASKS.iter().any(|suffix| path.ends_with(suffix)));
    let links = entries.filter(asks).map(|path| path.join(UNIT));
    let mut links: Vec<PathBuf> = links.filter(|link| link.symlink_metadata().is_ok()).collect();
    links.sort();
    links
}

/// `felix_may` run beside the agent.
pub(super) fn judge(seen: &InstalledUnits, processes: &Processes, felix_may: bool) -> Vec<Finding> {
    let Some(links) = &seen.enabled_by else { return Vec::new() };
    // One that runs is told by itself.
    if felix_may || processes.felix().next().is_some() {
        return Vec::new();
    }
    if links.is_empty() {
        return vec![UNITS.ok("Felix's unit is not enabled")];
    }
    let links: Vec<String> = links.iter().map(|link| link.display().to_string()).collect();
    vec![UNITS.warning(
        format!("{UNIT} does not run, but is enabled by {}", links.join(", ")),
        format!(
            "systemctl disable {UNIT}, and see that no unit that requires it is enabled; \
             or CutoverRole = routes and docs/beside-felix.md"
        ),
    )]
}

#[cfg(test)]
mod tests {
    use super::super::finding::Level;
    use super::*;
    use cutover_daemon::processes::Process;
    use std::os::unix::fs::symlink;

    /// A host with systemd and this file of Felix's unit.
    fn host(unit: &str) -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        for folder in ["run/systemd/system", "etc/systemd/system", "usr/lib/systemd/system"] {
            fs::create_dir_all(root.path().join(folder)).unwrap();
        }
        symlink("usr/lib", root.path().join("lib")).unwrap();
        fs::write(root.path().join("usr/lib/systemd/system").join(UNIT), unit).unwrap();
        root
    }

    fn enable(root: &Path, by: &str) {
        let folder = root.join("etc/systemd/system").join(by);
        fs::create_dir_all(&folder).unwrap();
        symlink("/lib/systemd/system/calico-felix.service", folder.join(UNIT)).unwrap();
    }

    fn found(root: &Path, processes: &Processes, felix_may: bool) -> Vec<(Level, String)> {
        let found = judge(&InstalledUnits::look(root), processes, felix_may);
        found.into_iter().map(|finding| (finding.level, finding.what)).collect()
    }

    fn nobody() -> Processes {
        Processes::default()
    }

    #[test]
    fn a_unit_of_felix_that_the_next_boot_starts_is_named() {
        let host = host("[Service]\nExecStart=/usr/bin/calico-felix\n");
        let root = host.path();
        assert!(matches!(&found(root, &nobody(), false)[..], [(Level::Ok, _)]));
        enable(root, "multi-user.target.wants");
        enable(root, "neutron-agents.service.requires");
        let [(Level::Warning, what)] = &found(root, &nobody(), false)[..] else { panic!("not one warning") };
        for part in ["multi-user.target.wants", "neutron-agents.service.requires"] {
            let link = root.join("etc/systemd/system").join(part).join(UNIT);
            assert_eq!(what.matches(link.to_str().unwrap()).count(), 1, "{what}");
        }
        assert!(what.starts_with("calico-felix.service does not run, but is enabled by "), "{what}");
        assert_eq!(found(root, &nobody(), true), [], "it may run beside");
        let runs = Processes(vec![Process {
            pid: 5,
            name: "calico-felix".into(),
            arguments: Vec::new(),
            executable: None,
        }]);
        assert_eq!(found(root, &runs, false), [], "that is told by itself");
    }

    #[test]
    fn what_systemd_does_not_start_is_not_named() {
        let is_fine = |root: &Path| matches!(&found(root, &nobody(), false)[..], [(Level::Ok, _)]);
        // Masked, once by a link and once by an empty file; and a link that an uninstalled package left.
        let masked = host("[Service]\n");
        enable(masked.path(), "multi-user.target.wants");
        assert!(!is_fine(masked.path()));
        symlink("/dev/null", masked.path().join("etc/systemd/system").join(UNIT)).unwrap();
        assert!(is_fine(masked.path()));
        let empty = host("");
        enable(empty.path(), "multi-user.target.wants");
        assert!(is_fine(empty.path()));
        fs::remove_file(empty.path().join("usr/lib/systemd/system").join(UNIT)).unwrap();
        assert!(is_fine(empty.path()));
    }

    #[test]
    fn without_systemd_nothing_is_said() {
        let host = host("[Service]\n");
        enable(host.path(), "multi-user.target.wants");
        fs::remove_dir_all(host.path().join("run")).unwrap();
        assert_eq!(found(host.path(), &nobody(), false), []);
    }
}
