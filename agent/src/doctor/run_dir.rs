//! The run directory: whether the agent's memory can be written to it.

use super::finding::{Area, Check, Finding};
use nix::sys::statvfs::statvfs;
use nix::unistd::{AccessFlags, access};
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

static RUN_DIR: Check = Check {
    area: Area::Agent,
    name: "run-dir",
    wants: "CutoverRunDir is root's alone, writable, and has space",
    why: "Without state.json, what a restarting agent knows of running migrations is lost; whoever can write to it can make the agent believe anything.",
};

pub(super) static CHECKS: &[&Check] = &[&RUN_DIR];

/// LIMIT: the file of ten thousand endpoints in migration is far smaller, and is written beside the old one.
const FREE_MIN_BYTES: u64 = 16 * 1024 * 1024;

/// The directory, or the one above it in which it would be made.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Seen {
    pub(super) path: PathBuf,
    /// Nothing if it does not exist yet.
    pub(super) own: Option<Own>,
    pub(super) is_writable: bool,
    pub(super) free_bytes: Option<u64>,
}

/// What is known of a directory that exists.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Own {
    pub(super) is_directory: bool,
    pub(super) owner: u32,
    pub(super) mode: u32,
}

impl Seen {
    pub(super) fn look(path: &Path) -> Self {
        let own = fs::metadata(path).ok().map(|metadata| Own {
            is_directory: metadata.is_dir(),
            owner: metadata.uid(),
            mode: metadata.mode() & 0o7777,
        });
        let existing = path.ancestors().find(|path| path.exists()).unwrap_or(Path::new("/"));
        Self {
            path: path.to_owned(),
            own,
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

pub(super) fn judge(seen: &Seen) -> Vec<Finding> {
    let path = seen.path.display();
    let mut findings = Vec::new();
    if let Some(own) = seen.own {
        if !own.is_directory {
            let change = format!("remove {path}, or set CutoverRunDir");
            return vec![RUN_DIR.error(format!("{path} is no directory"), change)];
        }
        if own.owner != 0 {
            let what = format!("{path} belongs to user {}", own.owner);
            findings.push(RUN_DIR.warning(what, format!("chown root: {path}")));
        }
        if own.mode & 0o022 != 0 {
            let what = format!("others than root may write to {path} (mode {:04o})", own.mode);
            findings.push(RUN_DIR.warning(what, format!("chmod 0700 {path}")));
        }
    }
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

    #[test]
    fn each_fault_is_exactly_one_finding() {
        let own = Own { is_directory: true, owner: 0, mode: 0o700 };
        let fine =
            Seen { path: "/run/x".into(), own: Some(own), is_writable: true, free_bytes: Some(1 << 30) };
        let with = |own| Seen { own: Some(own), ..fine.clone() };
        for (seen, expected, part) in [
            (fine.clone(), Level::Ok, "can be used"),
            (Seen { own: None, ..fine.clone() }, Level::Ok, "can be used"),
            (Seen { free_bytes: None, ..fine.clone() }, Level::Ok, "can be used"),
            (with(Own { mode: 0o755, ..own }), Level::Ok, "can be used"),
            (with(Own { is_directory: false, ..own }), Level::Error, "no directory"),
            (with(Own { owner: 1000, ..own }), Level::Warning, "user 1000"),
            (with(Own { mode: 0o1777, ..own }), Level::Warning, "1777"),
            (Seen { free_bytes: Some(4096), ..fine.clone() }, Level::Warning, "4 KiB"),
        ] {
            let found = judge(&seen);
            assert_eq!(found.len(), 1, "{found:?}");
            assert_eq!(found[0].level, expected, "{found:?}");
            assert!(found[0].what.contains(part), "{found:?}");
        }
        let found = judge(&Seen { is_writable: false, ..fine });
        assert!(found[0].what.contains("cannot be written"), "{found:?}");
    }

    #[test]
    fn a_directory_that_does_not_exist_yet_is_judged_by_the_one_above() {
        let folder = tempfile::tempdir().unwrap();
        let seen = Seen::look(&folder.path().join("a/b"));
        assert_eq!(seen.own, None);
        assert!(seen.is_writable);
        assert!(seen.free_bytes.is_some());
    }
}
