//! Chores of the workspace, one sub-command each; `cargo xtask` is an alias in `.cargo/config.toml`.
//!
//! Every chore says in one line what it is about to run, and a failure names the command that failed. Nothing
//! in the workspace depends on this crate.

mod bench;
mod book;
mod chaos;
mod check;
mod demo;
mod dist;
mod ebpf;
mod fuzz;
mod kernels;
mod package;
mod programs;
mod reproduce;
mod residue;
mod setup;
mod step;
mod suite;
#[cfg(test)]
mod unsafe_code;
mod workspace;

use anyhow::Result;
use clap::{Args, Parser, Subcommand};
use setup::Consent;
use std::process::ExitCode;

#[derive(Parser)]
#[command(
    name = "xtask",
    bin_name = "cargo xtask",
    about = "Chores of the Cutover workspace",
    disable_version_flag = true
)]
struct Cli {
    #[command(subcommand)]
    chore: Chore,
}

#[derive(Subcommand)]
enum Chore {
    /// Install what is missing to build and to test; says what it does, does nothing when all is there
    Setup(SetupOptions),
    /// Build the kernel object and put it at target/bpf/cutover.o
    BuildEbpf,
    /// Set up, build, and play one migration between two real agents; needs root
    Demo(RunOptions),
    /// Set up and run every test; needs root, because the tests make network namespaces and load programs
    #[command(args_conflicts_with_subcommands = true)]
    Test {
        #[command(subcommand)]
        part: Option<Part>,
        /// Only the tests that need neither root nor a network: common, engine, libraries of the agent, xtask
        #[arg(long)]
        quick: bool,
        #[command(flatten)]
        setup: RunOptions,
    },
    /// Formatting, pages, lints on the host and the kernel side, documentation, dependencies
    Check(check::Options),
    /// Measure, as ratios in one run; the whole set is written to docs/benchmarks.md; needs root
    Bench(bench::Options),
    /// Migrations on real agents while everything else breaks, from a seed; what fails is replayed and made shorter; needs root
    Chaos(chaos::Options),
    /// Migrations on real agents for an hour while nothing breaks, and nothing of theirs is left over; needs root
    Soak(chaos::SoakOptions),
    /// Build what users install and pack it, in target/dist: Debian packages, a tarball, an SBOM, checksums
    Dist(dist::Options),
    /// Build what users install twice, from nothing, and compare the bytes
    Reproduce(reproduce::Options),
    /// Check the pages of docs/ and make a book of them, in target/book/html
    Book,
    /// Fuzz the frame classifier
    Fuzz(fuzz::Options),
}

/// Tests that can be run by themselves.
#[derive(Subcommand)]
enum Part {
    /// Those that depend on the kernel, on Debian's 5.10, 6.1 and 6.12 in emulated machines
    Kernels(kernels::Options),
    /// Those of the Debian package, on Debian 12 and 13 with their systemd
    Package(RunOptions),
}

/// How far `setup` may go.
#[derive(Args, Clone, Copy)]
struct SetupOptions {
    /// Also install missing Debian packages with apt-get, as root; implied by CI=true
    #[arg(long)]
    packages: bool,
}

impl SetupOptions {
    fn consent(self) -> Consent {
        if self.packages || is_continuous_integration() { Consent::Given } else { Consent::Withheld }
    }
}

/// Whether nobody is there to read what was left out.
fn is_continuous_integration() -> bool {
    std::env::var("CI").is_ok_and(|ci| ci == "true" || ci == "1")
}

/// How far a chore that sets up first may go.
#[derive(Args, Clone, Copy)]
struct RunOptions {
    /// Do not install missing Debian packages, but say what is missing
    #[arg(long)]
    no_packages: bool,
}

impl RunOptions {
    fn consent(self) -> Consent {
        if self.no_packages { Consent::Withheld } else { Consent::Given }
    }
}

fn main() -> ExitCode {
    match run(Cli::parse().chore) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            step::say(format_args!("error: {error:#}"));
            ExitCode::FAILURE
        }
    }
}

fn run(chore: Chore) -> Result<()> {
    match chore {
        Chore::Setup(options) => setup::run(options.consent()),
        Chore::BuildEbpf => ebpf::run(),
        Chore::Demo(options) => demo::run(options),
        Chore::Test { part: Some(Part::Kernels(options)), .. } => kernels::run(&options),
        Chore::Test { part: Some(Part::Package(options)), .. } => package::run(options),
        Chore::Test { quick: true, .. } => suite::quick(),
        Chore::Test { setup, .. } => suite::full(setup),
        Chore::Check(options) => check::run(options),
        Chore::Bench(options) => bench::run(options),
        Chore::Chaos(options) => chaos::run(options),
        Chore::Soak(options) => chaos::soak(&options),
        Chore::Dist(options) => dist::run(&options),
        Chore::Reproduce(options) => reproduce::run(&options),
        Chore::Book => book::run(),
        Chore::Fuzz(options) => fuzz::run(options),
    }
}
