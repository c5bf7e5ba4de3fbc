//! What tests can leave behind on the machine: namespaces, pins, links, processes, folders.
//!
//! Only names that begin with `cut`, as the lab gives them, and only what was not there before: what belongs
//! to others is never reported. Names that carry the number of a process that still runs belong to it.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::thread::sleep;
use std::time::{Duration, Instant};

/// Folders in which every entry named `cut…` is ours.
const FOLDERS: [&str; 7] =
    ["/dev/shm", "/run/netns", "/sys/fs/bpf", "/sys/class/net", "/run", "/tmp", "/var/tmp"];

/// LIMIT: the kernel takes namespaces and their links down in the background, within a second or so.
const KERNEL_CLEANS_UP_WITHIN: Duration = Duration::from_secs(5);

/// Everything of ours on the machine at one moment.
pub(crate) struct Residue(BTreeSet<String>);

impl Residue {
    /// What is there now.
    pub(crate) fn found() -> Self {
        let mut found = BTreeSet::new();
        for folder in FOLDERS {
            for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
                if is_ours(&entry.file_name().to_string_lossy()) {
                    found.insert(entry.path().display().to_string());
                }
            }
        }
        found.extend(processes());
        Self(found)
    }

    /// What is there now and was not before, after the kernel had time to clean up.
    pub(crate) fn grown(&self) -> Vec<String> {
        let deadline = Instant::now() + KERNEL_CLEANS_UP_WITHIN;
        loop {
            let left = Self::found().without(self);
            if left.is_empty() || Instant::now() > deadline {
                return left;
            }
            sleep(Duration::from_millis(50));
        }
    }

    fn without(&self, before: &Self) -> Vec<String> {
        self.0.difference(&before.0).cloned().collect()
    }
}

/// Whether the lab made something of this name, and the process that it was made for is gone.
fn is_ours(name: &str) -> bool {
    let Some(rest) = name.strip_prefix("cut") else { return false };
    let digits = rest.len() - rest.trim_start_matches(|c: char| c.is_ascii_digit()).len();
    match &rest[..digits] {
        "" => rest.starts_with("over") || rest.starts_with('-'),
        pid => !Path::new("/proc").join(pid).exists(),
    }
}

/// Programs of this workspace's build folder that are running, other than this one and cargo's.
fn processes() -> impl Iterator<Item = String> {
    let target = crate::workspace::target();
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(move |entry| {
        let name = entry.file_name();
        let pid = name.to_str()?.parse::<u32>().ok()?;
        let program = fs::read_link(entry.path().join("exe")).ok()?;
        (program.starts_with(&target) && pid != std::process::id())
            .then(|| format!("process {pid} {}", program.display()))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_running_processes_are_left_alone() {
        assert!(!is_ours(&format!("cut{}-host1", std::process::id())));
        // Above the largest number that a process can have.
        assert!(is_ours("cut4194305-host1"));
        assert!(is_ours("cutover"));
        assert!(!is_ours("cuttlefish"));
        assert!(!is_ours("docker0"));
    }

    #[test]
    fn only_what_is_new_is_reported() {
        let folder = Path::new("/tmp/cut4194306-residue");
        let before = Residue::found();
        fs::create_dir_all(folder).unwrap();
        let after = Residue::found();
        fs::remove_dir(folder).unwrap();
        let left = folder.display().to_string();
        assert!(after.without(&before).contains(&left));
        assert!(!after.without(&after).contains(&left));
        assert!(!before.grown().contains(&left));
    }
}
