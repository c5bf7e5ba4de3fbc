//! Fuzzes the frame classifier for a while; a crash ends the chore and leaves its input in
//! `common/fuzz/artifacts`.

use crate::setup::{self, NIGHTLY};
use crate::step::Step;
use crate::workspace;
use anyhow::{Context as _, Result};
use clap::Args;
use std::fs;

/// The fuzz targets, a workspace of their own because they need a nightly and a sanitizer.
const FOLDER: &str = "common/fuzz";

#[derive(Args)]
pub(crate) struct Options {
    /// How long each target runs, in seconds
    #[arg(long, default_value_t = 60)]
    seconds: u32,
}

/// Runs every target for the given time.
pub(crate) fn run(options: Options) -> Result<()> {
    setup::for_fuzzing()?;
    for target in targets()? {
        Step::new("rustup")
            .args(["run", NIGHTLY, "cargo", "fuzz", "run", "--fuzz-dir", FOLDER, &target, "--"])
            .args([&format!("-max_total_time={}", options.seconds)])
            .run()?;
    }
    Ok(())
}

/// Their names: the files of `fuzz_targets`.
fn targets() -> Result<Vec<String>> {
    let folder = workspace::root().join(FOLDER).join("fuzz_targets");
    let mut names = Vec::new();
    for entry in fs::read_dir(&folder).with_context(|| format!("{} could not be read", folder.display()))? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "rs") {
            names.extend(path.file_stem().map(|name| name.to_string_lossy().into_owned()));
        }
    }
    names.sort();
    Ok(names)
}
