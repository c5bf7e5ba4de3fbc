//! Roots of Debian with a systemd, for the tests of the package: made by mmdebstrap below the build folder, which is only read afterwards.
//!
//! What cannot be had is said and left out; tests that want it say so, too.

use super::suites::{KEYRING, MIRROR};
use crate::step::{Step, say};
use crate::workspace::{has_program, target};
use anyhow::{Context as _, Result, bail};
use std::fs;

/// Debian 12 and 13.
const SUITES: [&str; 2] = ["bookworm", "trixie"];

/// What a compute host has, as far as the package needs it.
const PACKAGES: &str = "dbus,iproute2,systemd,systemd-sysv";

/// What is not needed to install a package that is there.
const TIDY: &str = "rm -rf \"$1\"/var/lib/apt/lists/* \"$1\"/var/cache/apt/*.bin";

/// Makes those that are not there yet. Never fails: without them there are fewer tests.
pub(super) fn fetch() {
    for suite in SUITES {
        if let Err(error) = make(suite) {
            say(format_args!("SKIPPED the tests of the package on Debian {suite}: {error:#}"));
        }
    }
}

fn make(suite: &str) -> Result<()> {
    let root = target().join("roots").join(suite);
    if root.is_dir() {
        return Ok(());
    }
    for program in ["mmdebstrap", "systemd-nspawn"] {
        if !has_program(program) {
            bail!("{program} is not installed");
        }
    }
    let partial = root.with_extension("partial");
    let _ = fs::remove_dir_all(&partial);
    fs::create_dir_all(root.with_file_name(""))?;
    let source = format!("deb [signed-by={KEYRING}] {MIRROR} {suite} main");
    Step::new("mmdebstrap")
        .args([
            "--quiet",
            "--variant=apt",
            &format!("--include={PACKAGES}"),
            &format!("--customize-hook={TIDY}"),
            suite,
        ])
        .args([partial.as_os_str(), source.as_ref()])
        .run()?;
    // ORDER: a folder of this name is whole.
    fs::rename(&partial, &root).with_context(|| format!("{} could not be moved", partial.display()))
}
