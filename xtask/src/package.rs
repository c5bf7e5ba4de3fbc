//! The Debian package on Debian 12 and 13, each with a real systemd: makes what the test program `package` installs.

use crate::programs;
use crate::{RunOptions, dist, setup, workspace};
use anyhow::{Result, bail};

/// Two of the same version, so that there is something to upgrade to and to go back to.
const REVISIONS: [u32; 2] = [1, 2];

/// Its name.
const PROGRAM: &str = "package";

/// Sets up, builds, packs, and runs these tests alone.
pub(crate) fn run(options: RunOptions) -> Result<()> {
    if !workspace::is_root() {
        bail!("the tests of the package boot systems and install it there: run them as root");
    }
    setup::for_package(options.consent())?;
    let programs = programs::build()?;
    pack()?;
    let program =
        programs.into_iter().filter(|program| program.is_integration_test && program.name == PROGRAM);
    programs::run(program.collect(), || Ok(()))
}

/// Packs what the tests have been built with: the same files as for users, and a program that is not optimised.
pub(crate) fn pack() -> Result<()> {
    let target = workspace::target();
    dist::pack_for_tests(&target.join("debug/cutover"), &REVISIONS, &target.join("packages"))
}
