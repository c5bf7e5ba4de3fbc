//! The Rust toolchain of the kernel program, and the lints of both toolchains.

use crate::step::{Step, say};
use anyhow::{Result, bail};
use std::path::PathBuf;

/// The nightly that builds the kernel program: only nightly builds `core` for a BPF target.
/// The agent's build script names the same one; a test sees to it.
pub(crate) const NIGHTLY: &str = "nightly-2026-05-20";

/// The nightly with the source of `core`.
pub(super) fn install_nightly() -> Result<()> {
    if !crate::workspace::has_program("rustup") {
        bail!("rustup is needed to install {NIGHTLY} for the kernel program: see https://rustup.rs");
    }
    if sysroot().is_some_and(|sysroot| sysroot.join("lib/rustlib/src/rust/library/core").is_dir()) {
        return Ok(());
    }
    say(format_args!("{NIGHTLY} with rust-src is missing; the kernel program is built with it"));
    Step::new("rustup")
        .args(["toolchain", "install", NIGHTLY, "--profile", "minimal", "--component", "rust-src"])
        .args(["--no-self-update"])
        .run()
}

/// clippy for both toolchains, and rustfmt.
pub(super) fn install_lints() -> Result<()> {
    let has = |tool: &str| Step::cargo().args([tool, "--version"]).answer().is_some();
    if !has("clippy") || !has("fmt") {
        say(format_args!("clippy or rustfmt is missing in the toolchain in use"));
        Step::new("rustup").args(["component", "add", "clippy", "rustfmt"]).run()?;
    }
    if !sysroot().is_some_and(|sysroot| sysroot.join("bin/cargo-clippy").is_file()) {
        say(format_args!("clippy is missing in {NIGHTLY}"));
        Step::new("rustup").args(["component", "add", "clippy", "--toolchain", NIGHTLY]).run()?;
    }
    Ok(())
}

/// Where the nightly is, if it is installed.
fn sysroot() -> Option<PathBuf> {
    // A question must not install anything.
    Step::new("rustup")
        .args(["run", NIGHTLY, "rustc", "--print", "sysroot"])
        .env("RUSTUP_AUTO_INSTALL", "0")
        .answer()
        .map(PathBuf::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_build_script_names_the_same_toolchain() {
        let script = std::fs::read_to_string(crate::workspace::root().join("agent/daemon/build.rs")).unwrap();
        assert!(script.contains(&format!("\"{NIGHTLY}\"")));
    }
}
