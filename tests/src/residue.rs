//! What of a lab still exists: named namespaces, pins, folders, mounts, processes, links outside of its namespaces.
//! Only looks at names that begin with the lab's prefix, so other labs and other people's things do not count.

use crate::lab::BPFFS;
use crate::namespace;
use nix::mount::{MntFlags, umount2};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::fs;
use std::path::{Path, PathBuf};

/// Everything that exists of the lab with this prefix, one line each.
#[must_use]
pub fn of(prefix: &str) -> Vec<String> {
    let mut found: Vec<String> = paths(prefix).iter().map(|path| path.display().to_string()).collect();
    found.extend(processes(prefix).iter().map(|pid| format!("process {pid}")));
    found.extend(mounts(prefix).iter().map(|path| format!("mounted {}", path.display())));
    let links = entries(Path::new("/sys/class/net"), prefix);
    found.extend(links.iter().map(|path| format!("link {}", path.display())));
    found
}

/// Removes everything that exists of the lab with this prefix.
pub(crate) fn remove(prefix: &str) {
    for pid in processes(prefix) {
        // It may be gone by now.
        let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
    }
    for path in mounts(prefix) {
        // It may be gone by now.
        let _ = umount2(&path, MntFlags::MNT_DETACH);
    }
    for path in paths(prefix) {
        if path.starts_with(namespace::DIRECTORY) {
            namespace::remove(&path);
        } else {
            let _ = fs::remove_dir_all(&path);
        }
    }
}

fn paths(prefix: &str) -> Vec<PathBuf> {
    [Path::new(namespace::DIRECTORY), Path::new(BPFFS), Path::new("/dev/shm"), &std::env::temp_dir()]
        .into_iter()
        .flat_map(|folder| entries(folder, prefix))
        .collect()
}

/// What is mounted in the lab's folders. Namespaces are mounts as well, and found by their names.
fn mounts(prefix: &str) -> Vec<PathBuf> {
    let in_path = format!("/{prefix}");
    let all = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    let points = all.lines().filter_map(|line| line.split(' ').nth(1)).filter(|path| path.contains(&in_path));
    points.filter(|path| !path.starts_with(namespace::DIRECTORY)).map(PathBuf::from).collect()
}

fn entries(folder: &Path, prefix: &str) -> Vec<PathBuf> {
    fs::read_dir(folder)
        .into_iter()
        .flatten()
        .flatten()
        .filter(|entry| entry.file_name().to_string_lossy().starts_with(prefix))
        .map(|entry| entry.path())
        .collect()
}

/// Processes that were started with a path of the lab among their arguments, as every agent is.
fn processes(prefix: &str) -> Vec<i32> {
    let in_path = format!("/{prefix}");
    fs::read_dir("/proc")
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .filter(|pid| {
            let arguments = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            String::from_utf8_lossy(&arguments).contains(&in_path)
        })
        .collect()
}
