//! Chores of the workspace, one sub-command each; `cargo xtask` is an alias in `.cargo/config.toml`.
//!
//! Every chore says in one line what it is about to run, and a failure names the command that failed. Nothing
//! in the workspace depends on this crate.

mod bench;
mod check;
mod demo;
mod ebpf;
mod fuzz;
mod residue;
mod setup;
mod step;
mod suite;
mod workspace;

use anyhow::Result;
use clap::{Args, Parser, Subcommand};
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
    Demo(SetupOptions),
    /// Set up and run every test; needs root, because the tests make network namespaces and load programs
    Test {
        /// Only the tests that need neither root nor a network: common, engine, agent library, xtask
        #[arg(long)]
        quick: bool,
        #[command(flatten)]
        setup: SetupOptions,
    },
    /// Formatting, lints on the host and the kernel side, documentation, dependencies
    Check(check::Options),
    /// Measure, as ratios in one run; the whole set is written to docs/benchmarks.md; needs root
    Bench(bench::Options),
    /// Fuzz the frame classifier
    Fuzz(fuzz::Options),
}

/// How far `setup`, and every chore that sets up first, may go.
#[derive(Args, Clone, Copy)]
struct SetupOptions {
    /// Also install missing Debian packages with apt-get, as root; implied by CI=true
    #[arg(long)]
    packages: bool,
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
        Chore::Setup(options) => setup::run(options),
        Chore::BuildEbpf => ebpf::run(),
        Chore::Demo(options) => demo::run(options),
        Chore::Test { quick: true, setup } => suite::quick(setup),
        Chore::Test { quick: false, setup } => suite::full(setup),
        Chore::Check(options) => check::run(options),
        Chore::Bench(options) => bench::run(options),
        Chore::Fuzz(options) => fuzz::run(options),
    }
}
