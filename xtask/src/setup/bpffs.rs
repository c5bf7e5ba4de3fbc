//! The file system that pins live in.

use crate::step::{Step, say};
use crate::workspace::is_root;
use anyhow::{Context as _, Result, bail};

const MOUNT_POINT: &str = "/sys/fs/bpf";

/// Mounts it if it is not mounted, which systemd does on most hosts but nobody does in a container.
pub(super) fn mount() -> Result<()> {
    let mounts =
        std::fs::read_to_string("/proc/self/mounts").context("/proc/self/mounts could not be read")?;
    if is_mounted(&mounts) {
        return Ok(());
    }
    if !is_root() {
        say(format_args!("no BPF file system at {MOUNT_POINT}; what needs root will mount it"));
        return Ok(());
    }
    if !std::path::Path::new(MOUNT_POINT).is_dir() {
        bail!("{MOUNT_POINT} does not exist: this kernel is built without BPF, or /sys is not mounted");
    }
    Step::new("mount").args(["-t", "bpf", "bpf", MOUNT_POINT]).run()
}

fn is_mounted(mounts: &str) -> bool {
    mounts.lines().any(|line| {
        let mut fields = line.split(' ').skip(1);
        fields.next() == Some(MOUNT_POINT) && fields.next() == Some("bpf")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_bpf_file_system_at_that_place_counts() {
        assert!(is_mounted("sysfs /sys sysfs rw 0 0\nnone /sys/fs/bpf bpf rw,mode=700 0 0\n"));
        assert!(!is_mounted("tmpfs /sys/fs/bpf tmpfs rw 0 0\n"));
        assert!(!is_mounted("bpf /run/bpf bpf rw 0 0\n"));
        assert!(!is_mounted(""));
    }
}
