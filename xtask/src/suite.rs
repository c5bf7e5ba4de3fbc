//! The tests. What they leave behind in the kernel is a failure, too.

use crate::residue::Residue;
use crate::step::{Step, say};
use crate::{RunOptions, kernels, setup, workspace};
use anyhow::{Result, bail};

/// Tests that need neither root nor a network namespace.
pub(crate) fn quick() -> Result<()> {
    setup::for_building()?;
    test()
        .args(["--package", "cutover-common", "--package", "cutover-engine", "--package", "xtask"])
        .run()?;
    test().args(["--package", "cutover-agent", "--lib"]).run()
}

/// Every test.
pub(crate) fn full(options: RunOptions) -> Result<()> {
    if !workspace::is_root() {
        bail!(
            "the tests make network namespaces and load BPF programs: run them as root, or `cargo xtask test --quick`"
        );
    }
    setup::for_testing(options.consent())?;
    // The lab starts the daemon as a process; cargo builds binaries only for tests of their own package.
    Step::cargo().args(["build", "--locked", "--package", "cutover-agent", "--bin", "cutover"]).run()?;
    let before = Residue::found();
    let tested = test().args(["--no-fail-fast"]).run();
    let elsewhere = kernels::run_always();
    let left = before.grown();
    for object in &left {
        say(format_args!("left behind: {object}"));
    }
    if let (Err(_), Err(error)) = (&tested, &elsewhere) {
        say(format_args!("error: {error:#}"));
    }
    tested.and(elsewhere)?;
    if !left.is_empty() {
        bail!("the tests passed, but left {} objects behind", left.len());
    }
    say(format_args!("nothing left behind"));
    Ok(())
}

fn test() -> Step {
    Step::cargo().args(["test", "--locked"])
}
