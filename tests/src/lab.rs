//! One lab: its number, its folder, and the bridge between its hosts. Refuses to leave anything behind: going
//! away it fails the test when something of it still exists. Also sweeps what killed test processes left.

use crate::host::Host;
use crate::namespace::{self, Namespace};
use crate::residue;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{self, Command};
use std::sync::Once;
use std::sync::atomic::{AtomicU32, Ordering};
use tempfile::TempDir;

/// Where agents pin what has to survive them.
pub const BPFFS: &str = "/sys/fs/bpf";

/// A lab. Declare it first, so that it goes last.
#[derive(Debug)]
pub struct Lab {
    prefix: String,
    folder: Option<TempDir>,
    bridge: Option<Namespace>,
    hosts: AtomicU32,
}

impl Lab {
    /// An empty lab.
    ///
    /// # Panics
    /// Without root.
    #[must_use]
    pub fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        static ONCE: Once = Once::new();
        ONCE.call_once(|| {
            mount_bpffs();
            sweep();
        });
        let prefix = format!("cut{}-{}-", process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let bridge = Namespace::create(&format!("{prefix}bridge"));
        bridge.ip("link add br0 type bridge\nlink set br0 up");
        let folder = tempfile::Builder::new().prefix(&prefix).tempdir().expect("a temporary folder");
        fs::create_dir(folder.path().join("peer-records")).expect("space on the disk");
        Self { prefix, folder: Some(folder), bridge: Some(bridge), hosts: AtomicU32::new(0) }
    }

    /// What every name of this lab begins with: `cut<pid>-<n>-`.
    #[must_use]
    pub fn prefix(&self) -> &str {
        &self.prefix
    }

    /// Files of this lab.
    ///
    /// # Panics
    /// Never: the folder is there until the lab is dropped.
    #[must_use]
    pub fn folder(&self) -> &Path {
        self.folder.as_ref().expect("only dropping takes it").path()
    }

    /// A folder of resources for agents to share.
    ///
    /// # Panics
    /// When the disk is full.
    #[must_use]
    pub fn directory(&self) -> crate::Directory {
        crate::Directory::create(self.folder().join("resources"))
    }

    /// A folder of resources that is one host's own.
    ///
    /// # Panics
    /// When the disk is full.
    #[must_use]
    pub fn directory_of(&self, host: &str) -> crate::Directory {
        crate::Directory::create(self.folder().join(format!("resources-{host}")))
    }

    /// Where agents find each other's addresses and keys if they are told to.
    #[must_use]
    pub fn peers(&self) -> PathBuf {
        self.folder().join("peer-records")
    }

    /// A host with an uplink on the lab's bridge.
    ///
    /// # Panics
    /// Without root.
    #[must_use]
    pub fn host(&self, name: &str) -> Host {
        let number = self.hosts.fetch_add(1, Ordering::Relaxed) + 1;
        Host::create(self, name, number)
    }

    pub(crate) fn bridge(&self) -> &Namespace {
        self.bridge.as_ref().expect("only dropping takes it")
    }

    /// The pins of one host's agent.
    #[must_use]
    pub fn pin_path(&self, host: &str) -> PathBuf {
        // KERNEL: bpffs refuses names with a dot.
        Path::new(BPFFS).join(format!("{}{}", self.prefix, host.replace('.', "-")))
    }
}

impl Default for Lab {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        drop(self.bridge.take());
        drop(self.folder.take());
        let left = residue::of(&self.prefix);
        residue::remove(&self.prefix);
        assert!(std::thread::panicking() || left.is_empty(), "left behind by {}: {left:#?}", self.prefix);
    }
}

/// Mounts bpffs where the contract says it is, unless something is mounted there.
fn mount_bpffs() {
    let mounted = fs::read_to_string("/proc/self/mounts")
        .unwrap_or_default()
        .lines()
        .any(|line| line.split(' ').nth(1) == Some(BPFFS));
    if !mounted {
        let status = Command::new("mount").args(["-t", "bpf", "bpf", BPFFS]).status();
        assert!(status.is_ok_and(|status| status.success()), "mounting bpffs needs root");
    }
}

/// Removes what test processes that are dead have left: namespaces, pins and folders of `cut<pid>-…`.
fn sweep() {
    for folder in
        [Path::new(namespace::DIRECTORY), Path::new(BPFFS), Path::new("/dev/shm"), &std::env::temp_dir()]
    {
        for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            if let Some(prefix) = dead_owner(&name) {
                residue::remove(&prefix);
            }
        }
    }
}

/// The lab prefix in a name, when the process that made it is gone.
fn dead_owner(name: &str) -> Option<String> {
    let mut parts = name.strip_prefix("cut")?.splitn(3, '-');
    let pid: u32 = parts.next()?.parse().ok()?;
    let number: u32 = parts.next()?.parse().ok()?;
    parts.next()?;
    let alive = Path::new(&format!("/proc/{pid}")).exists();
    (!alive).then(|| format!("cut{pid}-{number}-"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_of_dead_processes_are_swept() {
        let own = process::id();
        assert_eq!(dead_owner(&format!("cut{own}-0-compute1")), None);
        assert_eq!(dead_owner("cut4194999-3-compute1"), Some("cut4194999-3-".into()));
        for foreign in ["cutover", "cut1", "cut4194999", "cut4194999-x-y", "netns", "cut-1-2"] {
            assert_eq!(dead_owner(foreign), None, "{foreign}");
        }
    }

    #[test]
    fn a_panicking_test_leaves_nothing() {
        let prefix = std::sync::Mutex::new(String::new());
        let result = std::thread::scope(|scope| {
            scope
                .spawn(|| {
                    let lab = Lab::new();
                    lab.prefix().clone_into(&mut prefix.lock().unwrap());
                    let host = lab.host("compute1");
                    fs::create_dir_all(lab.pin_path("compute1").join("maps")).unwrap();
                    fs::write(lab.folder().join("file"), "").unwrap();
                    assert!(!residue::of(lab.prefix()).is_empty());
                    let _tap = host.plug("tapport1", "fe:16:3e:00:00:01".parse().unwrap());
                    panic!("on purpose");
                })
                .join()
        });
        assert!(result.is_err());
        let prefix = prefix.into_inner().unwrap();
        assert!(prefix.starts_with("cut"));
        assert_eq!(residue::of(&prefix), Vec::<String>::new());
    }

    #[test]
    #[should_panic(expected = "left behind")]
    fn what_a_test_leaves_fails_it() {
        let lab = Lab::new();
        fs::create_dir_all(lab.pin_path("compute1")).unwrap();
    }
}
