//! Builds the kernel program for the agent to embed, or stops with one line that names `cargo xtask setup`.
//!
//! Two objects of the taps' programs end up in `OUT_DIR`: `cutover-ebpf`, which is silent, and `cutover-ebpf-debug`, which writes log
//! lines from inside the kernel and is loaded only when the agent logs at debug. Two more hold what is loaded only while a migration needs
//! it: `cutover-ebpf-tunnel` the programs of the tunnel between its two hosts, `cutover-ebpf-leaving` that of the tap which is about to be
//! left. A toolchain that is missing is asked for before anything is built, because what the compiler says about it does not help anybody.

#![expect(unsafe_code, reason = "sets a variable of its own process before it starts anything")]

use anyhow::{Context as _, Result};
use aya_build::{Package, Toolchain, build_ebpf};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs};

/// The toolchain of the kernel program: `core` for a BPF target is built from source, which only a nightly does.
const NIGHTLY: &str = "nightly-2026-05-20";
/// The release series of bpf-linker that understands the LLVM of [`NIGHTLY`].
const LINKER_SERIES: &str = "0.10.";
const PACKAGE: &str = "cutover-ebpf";

fn main() {
    if let Err(missing) = check_tools() {
        instruct(&format!("error=the kernel program cannot be built: {missing}; run: cargo xtask setup"));
        return;
    }
    if let Err(error) = build() {
        instruct(&format!("error=the kernel program was not built: {error:#}"));
    }
}

fn build() -> Result<()> {
    let manifest_dir = PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").context("CARGO_MANIFEST_DIR")?);
    let workspace =
        manifest_dir.ancestors().nth(2).context("the daemon is two folders below the workspace")?;
    let out_dir = PathBuf::from(env::var_os("OUT_DIR").context("OUT_DIR")?);
    for input in ["Cargo.toml", "Cargo.lock", "common/Cargo.toml", "common/src"] {
        instruct(&format!("rerun-if-changed={}", workspace.join(input).display()));
    }
    // SAFETY: nothing else runs in this process yet that could read the environment.
    // The build of the object would report each of its steps as a warning; its real warnings still come through.
    unsafe { env::set_var("CARGO_TERM_QUIET", "true") };
    // ORDER: both builds leave their object under the same name, and the silent one has to keep it.
    build_object(workspace, &["log"])?;
    let object = out_dir.join(PACKAGE);
    fs::rename(&object, out_dir.join(format!("{PACKAGE}-debug")))
        .with_context(|| format!("{} could not be renamed", object.display()))?;
    build_object(workspace, &[])
}

fn build_object(workspace: &Path, features: &[&str]) -> Result<()> {
    let root_dir = workspace.join("ebpf");
    let root_dir = root_dir.to_str().context("the path of the workspace is not UTF-8")?;
    let package = Package { name: PACKAGE, root_dir, no_default_features: false, features };
    build_ebpf([package], Toolchain::Custom(NIGHTLY))
}

/// What is missing, in a few words.
fn check_tools() -> Result<(), String> {
    let sysroot = answer("rustup", &["run", NIGHTLY, "rustc", "--print", "sysroot"])
        .ok_or_else(|| format!("the toolchain {NIGHTLY} is not installed"))?;
    if !Path::new(&sysroot).join("lib/rustlib/src/rust/library/core").is_dir() {
        return Err(format!("the toolchain {NIGHTLY} has no rust-src"));
    }
    match answer("bpf-linker", &["--version"]) {
        None => Err("bpf-linker is not installed".into()),
        Some(version) if !version.starts_with(&format!("bpf-linker {LINKER_SERIES}")) => {
            Err(format!("{version} is installed, {LINKER_SERIES}x is needed"))
        }
        Some(_) => Ok(()),
    }
}

/// What a tool prints, if it is there and content.
fn answer(tool: &str, arguments: &[&str]) -> Option<String> {
    // A question must not install anything.
    let output = Command::new(tool).args(arguments).env("RUSTUP_AUTO_INSTALL", "0").output().ok()?;
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

fn instruct(instruction: &str) {
    println!("cargo::{instruction}");
}
