//! The tarball, for hosts that are not Debian, and the checksums of everything.

use super::stage::Stage;
use crate::step::Step;
use anyhow::{Context as _, Result};
use std::fs;
use std::path::{Path, PathBuf};

/// `NAME.tar.xz` with a folder of this name, below which the files are as they are below the root of a host.
pub(super) fn tar(stage: &Stage, name: &str, folder: &Path, time: u64) -> Result<PathBuf> {
    let archive = folder.join(format!("{name}.tar.xz"));
    let time = format!("--mtime=@{time}");
    let transform = format!("--transform=s,^\\.,{name},");
    let fixed =
        ["--create", "--xz", "--sort=name", "--owner=0", "--group=0", "--numeric-owner", "--format=gnu"];
    Step::new("tar")
        .args(fixed)
        .args([&time, &transform])
        .args([
            "--file".as_ref(),
            archive.as_os_str(),
            "--directory".as_ref(),
            stage.root().as_os_str(),
            ".".as_ref(),
        ])
        .run()?;
    Ok(archive)
}

/// `SHA256SUMS`, which `sha256sum --check` reads.
pub(super) fn checksums(packed: &[PathBuf], folder: &Path) -> Result<PathBuf> {
    let names = packed.iter().filter_map(|path| path.file_name());
    let sums = Step::new("sha256sum").within(folder).args(names).output()?;
    let path = folder.join("SHA256SUMS");
    fs::write(&path, sums).with_context(|| path.display().to_string())?;
    Ok(path)
}
