//! Installs what is missing, says what it does, and does nothing when all is there.
//!
//! Each chore asks for what it needs: [`for_building`], [`for_running`], [`for_packing`], [`for_checking`], [`for_fuzzing`].
//! Tools go where cargo and rustup put them. `setup` installs Debian packages only when told to; the demo, the tests
//! and the benches, which only root can run, install the ones they miss unless told not to.

mod bpffs;
mod cargo_tool;
mod daemons;
mod kernels;
mod packages;
mod roots;
mod suites;
mod toolchain;

pub(crate) use kernels::{KERNELS, Kernel};
pub(crate) use packages::{Consent, FOR_DEMO, FOR_KERNELS, FOR_TESTS};
pub(crate) use toolchain::NIGHTLY;

use crate::step::say;
use anyhow::Result;
use std::path::PathBuf;

/// The `setup` chore: everything that building, the demo and the tests need.
pub(crate) fn run(consent: Consent) -> Result<()> {
    for_testing(consent)?;
    say(format_args!("set up: {NIGHTLY} for the kernel program, {}", cargo_tool::BPF_LINKER));
    Ok(())
}

/// What the agent's build needs.
pub(crate) fn for_building() -> Result<()> {
    toolchain::install_nightly()?;
    cargo_tool::BPF_LINKER.install()
}

/// What the demo, the tests and the benches need on top.
pub(crate) fn for_running(needed: &[packages::Needed], consent: Consent) -> Result<()> {
    for_building()?;
    packages::install(needed, consent)?;
    bpffs::mount()
}

/// What the tests need: also daemons of other versions, as far as they can be had.
pub(crate) fn for_testing(consent: Consent) -> Result<()> {
    for_running(FOR_TESTS, consent)?;
    daemons::fetch();
    for_package(consent)
}

/// What packing needs on top of building.
pub(crate) fn for_packing(consent: Consent) -> Result<()> {
    for_building()?;
    packages::install(packages::FOR_PACKING, consent)
}

/// What the tests of the package need: what packs it, and systems to install it on, as far as they can be had.
pub(crate) fn for_package(consent: Consent) -> Result<()> {
    for_running(packages::FOR_PACKAGE, consent)?;
    for_packing(consent)?;
    roots::fetch();
    Ok(())
}

/// What the checks need on top of building.
pub(crate) fn for_checking() -> Result<()> {
    for_building()?;
    toolchain::install_lints()
}

/// What checking the dependencies needs.
pub(crate) fn for_dependencies() -> Result<()> {
    cargo_tool::CARGO_DENY.install()
}

/// What makes HTML of the pages; an error where it cannot be had.
pub(crate) fn mdbook() -> Result<PathBuf> {
    daemons::mdbook()
}

/// What fuzzing needs.
pub(crate) fn for_fuzzing() -> Result<()> {
    toolchain::install_nightly()?;
    cargo_tool::CARGO_FUZZ.install()
}
