//! What a reviewer does not have to look at: formatting, pages, lints, documentation, dependencies.

use crate::setup::{self, NIGHTLY};
use crate::step::Step;
use crate::{book, workspace};
use anyhow::Result;
use clap::Args;

#[derive(Args)]
pub(crate) struct Options {
    /// Leave out the dependencies, whose checker takes minutes to install for the first time
    #[arg(long)]
    no_deny: bool,
}

/// Runs every check, the quick ones first.
pub(crate) fn run(options: Options) -> Result<()> {
    setup::for_checking()?;
    Step::cargo().args(["fmt", "--all", "--check"]).run()?;
    book::check()?;
    if !options.no_deny {
        dependencies()?;
    }
    Step::cargo().args(["clippy", "--locked", "--all-targets", "--", "--deny", "warnings"]).run()?;
    // By itself, without the features that the command line asks for.
    Step::cargo()
        .args(["clippy", "--locked", "--package", "cutover-bgp", "--", "--deny", "warnings"])
        .run()?;
    for features in ["", "log"] {
        lint_kernel_side(features)?;
    }
    Step::cargo()
        .args(["doc", "--locked", "--no-deps", "--document-private-items"])
        .env("RUSTDOCFLAGS", "--deny warnings")
        .run()
}

/// Licences, sources and duplicates. Advisories need a database from the network, so they are not part of it.
fn dependencies() -> Result<()> {
    setup::for_dependencies()?;
    Step::new("cargo-deny").args(["--locked", "check", "bans", "licenses", "sources"]).run()
}

/// The kernel program as it is built for the kernel, with the flags of the daemon's build script.
fn lint_kernel_side(features: &str) -> Result<()> {
    Step::new("rustup")
        .args(["run", NIGHTLY, "cargo", "clippy", "--locked", "--package", "cutover-ebpf", "--release"])
        .args(["--target", "bpfel-unknown-none", "-Z", "build-std=core", "--features", features])
        .args(["--target-dir".as_ref(), workspace::target().join("bpf-clippy").as_os_str()])
        .args(["--", "--deny", "warnings"])
        .env("CARGO_ENCODED_RUSTFLAGS", format!("--cfg=bpf_target_arch=\"{}\"", std::env::consts::ARCH))
        .run()
}
