//! Measures. The comparisons are made in one run, because the machine is never the same twice.

use crate::step::Step;
use crate::{RunOptions, setup, workspace};
use anyhow::{Result, bail};
use clap::Args;

#[derive(Args)]
pub(crate) struct Options {
    /// What to measure; everything, written to docs/benchmarks.md, when nothing is named
    what: Vec<String>,
    /// Write what is named to docs/benchmarks.md, too, in place of what it says about that
    #[arg(long)]
    write: bool,
    #[command(flatten)]
    setup: RunOptions,
}

/// Builds what users run (optimised), then runs the benches of the tests' crate.
pub(crate) fn run(options: Options) -> Result<()> {
    if !workspace::is_root() {
        bail!("the benches make network namespaces and load BPF programs: run them as root");
    }
    setup::for_running(setup::FOR_TESTS, options.setup.consent())?;
    Step::cargo()
        .args(["build", "--locked", "--release", "--package", "cutover-agent", "--bin", "cutover"])
        .run()?;
    let bench =
        Step::cargo().args(["bench", "--locked", "--package", "cutover-tests", "--bench", "cutover", "--"]);
    let report = workspace::root().join("docs/benchmarks.md");
    let report = ["--report".as_ref(), report.as_os_str()];
    let bench = if options.write || options.what.is_empty() { bench.args(report) } else { bench };
    bench.args(options.what).run()
}
