//! The tests. What they leave behind in the kernel is a failure, too.

use crate::residue::Residue;
use crate::step::{Step, say};
use crate::{RunOptions, kernels, package, programs, setup, workspace};
use anyhow::{Result, bail};

/// Tests that need neither root nor a network namespace.
pub(crate) fn quick() -> Result<()> {
    setup::for_building()?;
    test()
        .args(["--package", "cutover-common", "--package", "cutover-engine", "--package", "xtask"])
        .run()?;
    test()
        .args([
            "--package",
            "cutover-agent",
            "--package",
            "cutover-bgp",
            "--package",
            "cutover-daemon",
            "--lib",
        ])
        .run()
}

/// Every test.
pub(crate) fn full(options: RunOptions) -> Result<()> {
    if !workspace::is_root() {
        bail!(
            "the tests make network namespaces and load BPF programs: run them as root, or `cargo xtask test --quick`"
        );
    }
    setup::for_testing(options.consent())?;
    let before = Residue::found();
    // With them cargo builds `cutover`, which the lab starts, because the command line has tests of its own.
    let programs = programs::build()?;
    package::pack()?;
    let elsewhere = programs.clone();
    let tested = programs::run(programs, move || kernels::run_always(&elsewhere));
    let examples = test().args(["--doc"]).run();
    let left = before.grown();
    for object in &left {
        say(format_args!("left behind: {object}"));
    }
    tested.and(examples)?;
    if !left.is_empty() {
        bail!("the tests passed, but left {} objects behind", left.len());
    }
    say(format_args!("nothing left behind"));
    Ok(())
}

fn test() -> Step {
    Step::cargo().args(["test", "--locked"])
}
