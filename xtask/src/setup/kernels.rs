//! The kernels that the agent is tested on: the cloud kernels of three releases of Debian, unpacked below the build folder.

use super::suites::Suite;
use crate::workspace::target;
use anyhow::{Context as _, Result};
use cutover_initramfs::entry;
use std::path::{Path, PathBuf};

/// The package that always names the newest kernel of a suite.
const METAPACKAGE: &str = "linux-image-cloud-amd64";

/// A kernel of Debian.
#[derive(Debug)]
pub(crate) struct Kernel {
    /// Its series, by which it is asked for.
    pub(crate) name: &'static str,
    suite: &'static str,
    /// Whether `cargo xtask test` runs it, too: the oldest one with clsact, and the newest with tcx.
    pub(crate) always: bool,
}

/// Every one, the oldest first.
pub(crate) const KERNELS: [Kernel; 3] = [
    Kernel { name: "5.10", suite: "bullseye", always: true },
    Kernel { name: "6.1", suite: "bookworm", always: false },
    Kernel { name: "6.12", suite: "trixie", always: true },
];

impl Kernel {
    /// Where its package is unpacked, and what is made of it besides.
    pub(crate) fn folder(&self) -> PathBuf {
        target().join("kernels").join(self.name)
    }

    /// The unpacked package.
    pub(crate) fn package(&self) -> PathBuf {
        self.folder().join("package")
    }

    /// The kernel itself.
    pub(crate) fn image(&self) -> Result<PathBuf> {
        entry(&self.package().join("boot"), "vmlinuz-")
    }

    /// Unpacks it unless it is there; one that was fetched before is good enough.
    pub(crate) fn fetch(&self) -> Result<()> {
        if self.package().is_dir() {
            return Ok(());
        }
        self.unpack(&self.package()).with_context(|| format!("Linux {} of Debian {}", self.name, self.suite))
    }

    fn unpack(&self, to: &Path) -> Result<()> {
        let suite = Suite::fetch(self.suite)?;
        let package = suite.named_by(METAPACKAGE)?;
        suite.unpack(&[&package], to, |_| Ok(()))
    }
}
