//! The real agent on kernels of Debian that this machine does not run: the test programs that depend on the kernel, in guests.
//!
//! A guest is an emulated machine (no KVM) that boots the kernel with an initramfs of what was just built. It sees no disk and no
//! network, and leaves nothing but files below `target/kernels`. A kernel that cannot be had is said and left out, but fails
//! continuous integration.

mod guest;
mod image;

use crate::programs::{self, Program};
use crate::setup::{FOR_KERNELS, KERNELS, Kernel};
use crate::step::say;
use crate::{RunOptions, is_continuous_integration, setup};
use anyhow::{Context as _, Result};
use clap::Args;
use image::Tests;

/// A test program with what it is told.
struct Part {
    program: &'static str,
    arguments: &'static [&'static str],
}

/// What every guest runs, in this order.
///
/// LIMIT: both kernels of `cargo xtask test` together take a few minutes on two processors.
const PLAN: [Part; 3] = [
    Part { program: "bpf_kernel", arguments: &["--test-threads=2"] },
    Part { program: "tunnel", arguments: &["--test-threads=2"] },
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
    run_on(&kernels, &programs::build()?)
}

/// The kernels of every run of the tests. The agent has been built.
pub(crate) fn run_always(programs: &[Program]) -> Result<()> {
    run_on(&KERNELS.iter().filter(|kernel| kernel.always).collect::<Vec<_>>(), programs)
}

fn named(names: &[String]) -> Result<Vec<&'static Kernel>> {
    let find = |name: &String| {
        let found = KERNELS.iter().find(|kernel| kernel.name == name);
        found.with_context(|| format!("there is no kernel {name}: {}", KERNELS.map(|it| it.name).join(", ")))
    };
    names.iter().map(find).collect()
}

/// One after the other: each has two processors.
fn run_on(kernels: &[&Kernel], programs: &[Program]) -> Result<()> {
    if std::env::consts::ARCH != "x86_64" {
        say(format_args!("SKIPPED other kernels: guests are x86-64 and run the programs of this build"));
        return Ok(());
    }
    let tests = select(programs)?;
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

/// Those that guests run, by name.
fn select(programs: &[Program]) -> Result<Tests> {
    let find = |part: &Part| {
        let found =
            programs.iter().find(|program| program.is_integration_test && program.name == part.program);
        let found = found.with_context(|| format!("there is no test program {}", part.program))?;
        Ok((found.name.clone(), found.path.clone()))
    };
    PLAN.iter().map(find).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kernels_are_named_by_their_series() {
        let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
        let found = named(&names(&["6.12", "5.10"])).unwrap();
        assert_eq!(found.iter().map(|kernel| kernel.name).collect::<Vec<_>>(), ["6.12", "5.10"]);
        let error = named(&names(&["6.6"])).unwrap_err().to_string();
        assert_eq!(error, "there is no kernel 6.6: 5.10, 6.1, 6.12");
    }
}
