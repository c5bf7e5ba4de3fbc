//! The real agent on kernels of Debian that this machine does not run: the test programs that depend on the kernel, in guests.
//!
//! A guest is an emulated machine (no KVM) that boots the kernel with an initramfs of what was just built. It sees no disk and no
//! network, and leaves nothing but files below `target/kernels`. A kernel that cannot be had is said and left out, but fails
//! continuous integration.

mod guest;
mod image;

use crate::setup::{FOR_KERNELS, KERNELS, Kernel};
use crate::step::{Step, say};
use crate::{RunOptions, is_continuous_integration, setup};
use anyhow::{Context as _, Result, bail};
use clap::Args;
use image::Tests;
use std::path::PathBuf;

/// A test program with what it is told.
struct Part {
    program: &'static str,
    arguments: &'static [&'static str],
}

/// What every guest runs, in this order.
///
/// LIMIT: both kernels of `cargo xtask test` together take a few minutes on two processors.
const PLAN: [Part; 2] = [
    Part { program: "bpf_kernel", arguments: &["--test-threads=2"] },
    Part { program: "scenarios", arguments: &["--test-threads=2", "kernels::"] },
];

/// Which kernels.
#[derive(Args)]
pub(crate) struct Options {
    /// 5.10, 6.1 or 6.12; all of them when nothing is named
    names: Vec<String>,
    #[command(flatten)]
    setup: RunOptions,
}

/// Sets up, builds, and runs what is named.
pub(crate) fn run(options: &Options) -> Result<()> {
    let kernels = if options.names.is_empty() { KERNELS.iter().collect() } else { named(&options.names)? };
    setup::for_running(FOR_KERNELS, options.setup.consent())?;
    Step::cargo().args(["build", "--locked", "--package", "cutover-agent", "--bin", "cutover"]).run()?;
    run_on(&kernels)
}

/// The kernels of every run of the tests. The agent has been built.
pub(crate) fn run_always() -> Result<()> {
    run_on(&KERNELS.iter().filter(|kernel| kernel.always).collect::<Vec<_>>())
}

fn named(names: &[String]) -> Result<Vec<&'static Kernel>> {
    let find = |name: &String| {
        let found = KERNELS.iter().find(|kernel| kernel.name == name);
        found.with_context(|| format!("there is no kernel {name}: {}", KERNELS.map(|it| it.name).join(", ")))
    };
    names.iter().map(find).collect()
}

/// One after the other: each has two processors.
fn run_on(kernels: &[&Kernel]) -> Result<()> {
    if std::env::consts::ARCH != "x86_64" {
        say(format_args!("SKIPPED other kernels: guests are x86-64 and run the programs of this build"));
        return Ok(());
    }
    let tests = build()?;
    for kernel in kernels {
        if let Err(error) = kernel.fetch() {
            if is_continuous_integration() {
                return Err(error);
            }
            say(format_args!("SKIPPED the tests on another kernel: {error:#}"));
            continue;
        }
        say(format_args!("booting Linux {}", kernel.name));
        guest::run(kernel, &image::make(kernel, &tests)?)?;
    }
    Ok(())
}

/// Builds the test programs. All of them, with the same command as for running them here: with another selection of packages cargo would
/// build what they depend on once more.
fn build() -> Result<Tests> {
    let messages = Step::cargo().args(["test", "--locked", "--no-run", "--message-format=json"]).output()?;
    let built: Tests = messages.lines().filter_map(test_program).collect();
    let missing = PLAN.iter().find(|part| !built.contains_key(part.program));
    if let Some(part) = missing {
        bail!("cargo did not say where the test program {} is", part.program);
    }
    Ok(built.into_iter().filter(|(name, _)| PLAN.iter().any(|part| part.program == name)).collect())
}

/// Name and place of a test program, if this line of cargo's JSON messages is about one.
fn test_program(line: &str) -> Option<(String, PathBuf)> {
    let message: serde_json::Value = serde_json::from_str(line).ok()?;
    let is_test = message["target"]["kind"].as_array()?.iter().any(|kind| kind == "test");
    let path = message["executable"].as_str().filter(|_| is_test)?;
    Some((message["target"]["name"].as_str()?.to_owned(), path.into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn test_programs_are_found_among_the_messages() {
        let test = r#"{"reason":"compiler-artifact","target":{"kind":["test"],"name":"bpf_kernel"},"executable":"/target/debug/deps/bpf_kernel-1f"}"#;
        let library = r#"{"reason":"compiler-artifact","target":{"kind":["lib"],"name":"cutover_tests"},"executable":"/target/debug/deps/cutover_tests-2e"}"#;
        assert_eq!(
            test_program(test),
            Some(("bpf_kernel".into(), "/target/debug/deps/bpf_kernel-1f".into()))
        );
        assert_eq!(test_program(library), None);
        assert_eq!(test_program("warning: text"), None);
    }

    #[test]
    fn kernels_are_named_by_their_series() {
        let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
        let found = named(&names(&["6.12", "5.10"])).unwrap();
        assert_eq!(found.iter().map(|kernel| kernel.name).collect::<Vec<_>>(), ["6.12", "5.10"]);
        let error = named(&names(&["6.6"])).unwrap_err().to_string();
        assert_eq!(error, "there is no kernel 6.6: 5.10, 6.1, 6.12");
    }
}
