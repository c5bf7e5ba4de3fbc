//! The run directory: whether the agent trusts it, and whether its memory can be written to it.

use super::finding::{Area, Check, Finding};
use cutover_daemon::ownership::Refusal;
use cutover_daemon::run_dir::{RunDir, RunDirError};
use nix::sys::statvfs::statvfs;
use nix::unistd::{AccessFlags, Uid, access};
use std::fs;
use std::path::{Path, PathBuf};

static RUN_DIR: Check = Check {
    area: Area::Agent,
    name: "run-dir",
    wants: "CutoverRunDir, what the agent reads in it and the way to it are root's alone; it is writable, and has space",
    why: "Without state.json, what a restarting agent knows of running migrations is lost; whoever can write to it can make the agent believe anything. So the agent does not start if somebody else than root can.",
};

pub(super) static CHECKS: &[&Check] = &[&RUN_DIR];

/// LIMIT: the file of ten thousand endpoints in migration is far smaller, and is written beside the old one.
const FREE_MIN_BYTES: u64 = 16 * 1024 * 1024;

/// The directory, or the one above it in which it would be made.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct RunDirOwners {
    pub(super) path: PathBuf,
    /// Nothing if it does not exist yet.
    pub(super) is_directory: Option<bool>,
    /// Why the agent does not start with it, as far as this process may see it.
    pub(super) refusal: Option<Refusal>,
    pub(super) is_writable: bool,
    pub(super) free_bytes: Option<u64>,
}

impl RunDirOwners {
    pub(super) fn look(path: &Path) -> Self {
        let existing = path.ancestors().find(|path| path.exists()).unwrap_or(Path::new("/"));
        // The agent runs as root, whoever asks here.
        let refusal = match RunDir::check(path, Uid::from_raw(0)) {
            Err(RunDirError::Unsafe { refusal, .. }) => Some(refusal),
            _ => None,
        };
        Self {
            path: path.to_owned(),
            is_directory: fs::metadata(path).ok().map(|metadata| metadata.is_dir()),
            refusal,
            is_writable: access(existing, AccessFlags::W_OK | AccessFlags::X_OK).is_ok(),
            // The type differs between architectures.
            #[allow(
                clippy::useless_conversion,
                reason = "the fields are 32 bits wide on some architectures"
            )]
            free_bytes: statvfs(existing).ok().map(|file_system| {
                u64::from(file_system.blocks_available()) * u64::from(file_system.fragment_size())
            }),
        }
    }
}

pub(super) fn judge(seen: &RunDirOwners) -> Vec<Finding> {
    let path = seen.path.display();
    let mut findings = Vec::new();
    if seen.is_directory == Some(false) {
        let change = format!("remove {path}, or set CutoverRunDir");
        return vec![RUN_DIR.error(format!("{path} is no directory"), change)];
    }
    findings.extend(seen.refusal.as_ref().map(|refusal| RUN_DIR.error(refusal.what(), refusal.change())));
    if !seen.is_writable {
        let what = format!("{path} cannot be written");
        findings.push(if nix::unistd::geteuid().is_root() {
            RUN_DIR.error(what, format!("make {path} writable for root, or set CutoverRunDir"))
        } else {
            RUN_DIR.needs_root(what)
        });
    }
    if let Some(free) = seen.free_bytes.filter(|free| *free < FREE_MIN_BYTES) {
        let what = format!("the file system of {path} has {} KiB left", free / 1024);
        findings.push(RUN_DIR.warning(what, "make room there, or set CutoverRunDir to another one"));
    }
    if findings.is_empty() {
        findings.push(RUN_DIR.ok(format!("{path} can be used")));
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::super::finding::Level;
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;

    /// What doctor sees of a directory with these permissions, below one that only its owner may write to.
    fn with_mode(mode: u32) -> RunDirOwners {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("run");
        fs::create_dir(&path).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        RunDirOwners::look(&path)
    }

    #[test]
    fn each_fault_is_exactly_one_finding() {
        let fine = RunDirOwners {
            path: "/run/x".into(),
            is_directory: Some(true),
            refusal: None,
            is_writable: true,
            free_bytes: Some(1 << 30),
        };
        let refused = with_mode(0o770).refusal;
        assert!(refused.is_some());
        for (seen, expected, part) in [
            (fine.clone(), Level::Ok, "can be used"),
            (RunDirOwners { is_directory: None, ..fine.clone() }, Level::Ok, "can be used"),
            (RunDirOwners { free_bytes: None, ..fine.clone() }, Level::Ok, "can be used"),
            (RunDirOwners { is_directory: Some(false), ..fine.clone() }, Level::Error, "no directory"),
            (RunDirOwners { refusal: refused, ..fine.clone() }, Level::Error, "mode 0770"),
            (RunDirOwners { free_bytes: Some(4096), ..fine.clone() }, Level::Warning, "4 KiB"),
        ] {
            let found = judge(&seen);
            assert_eq!(found.len(), 1, "{found:?}");
            assert_eq!(found[0].level, expected, "{found:?}");
            assert!(found[0].what.contains(part), "{found:?}");
        }
        let found = judge(&RunDirOwners { is_writable: false, ..fine });
        assert!(found[0].what.contains("cannot be written"), "{found:?}");
    }

    #[test]
    fn a_directory_that_does_not_exist_yet_is_judged_by_the_one_above() {
        let folder = tempfile::tempdir().unwrap();
        let seen = RunDirOwners::look(&folder.path().join("a/b"));
        assert_eq!(seen.is_directory, None);
        assert!(seen.is_writable);
        assert!(seen.free_bytes.is_some());
    }
}
