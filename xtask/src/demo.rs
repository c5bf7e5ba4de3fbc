//! One migration between two real agents, for people who want to see it.

use crate::step::Step;
use crate::{RunOptions, setup, workspace};
use anyhow::{Result, bail};

/// Sets up, builds, and hands over to `cutover-demo`.
pub(crate) fn run(options: RunOptions) -> Result<()> {
    if !workspace::is_root() {
        bail!("the demo makes network namespaces and loads BPF programs: run it as root");
    }
    setup::for_running(setup::FOR_DEMO, options.consent())?;
    Step::cargo()
        .args(["build", "--locked", "--profile", "demo", "--package", "cutover-agent", "--bin", "cutover"])
        .args(["--package", "cutover-tests", "--bin", "cutover-demo"])
        .run()?;
    Step::new(workspace::target().join("demo/cutover-demo")).run()
}
