//! Whether two builds of the same sources give the same bytes: the program that users run, and the kernel objects that it carries.
//!
//! Both builds begin with nothing and are made in the same folder, because paths are among what a debugger and the kernel's verifier show:
//! the verifier quotes source lines, which the compiler finds by their paths.

use crate::step::{Step, say};
use crate::workspace;
use anyhow::{Context as _, Result, bail, ensure};
use clap::Args;
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

/// The kernel objects that the program carries, as the daemon's build script calls them.
const OBJECTS: [&str; 4] =
    ["cutover-ebpf", "cutover-ebpf-debug", "cutover-ebpf-tunnel", "cutover-ebpf-leaving"];

#[derive(Args)]
pub(crate) struct Options {
    /// Only the kernel objects, which takes a fraction of the time
    #[arg(long)]
    objects: bool,
}

/// What was built, by name.
type Built = BTreeMap<String, Vec<u8>>;

/// Builds twice and compares.
pub(crate) fn run(options: &Options) -> Result<()> {
    let folder = workspace::target().join("reproduce");
    let first = build(&folder, options)?;
    let second = build(&folder, options)?;
    fs::remove_dir_all(&folder).with_context(|| folder.display().to_string())?;
    let different = compare(&first, &second);
    for (name, bytes) in &second {
        let verdict = if different.contains(name) { "DIFFERENT" } else { "the same" };
        say(format_args!("{:>10} bytes  {name}: {verdict}", bytes.len()));
    }
    ensure!(different.is_empty(), "two builds give different bytes: {}", different.join(", "));
    Ok(())
}

/// Builds in an empty folder.
fn build(folder: &Path, options: &Options) -> Result<Built> {
    if folder.exists() {
        fs::remove_dir_all(folder).with_context(|| folder.display().to_string())?;
    }
    let step = Step::cargo().env("CARGO_INCREMENTAL", "0");
    if options.objects {
        step.args(["check", "--locked", "--release", "--package", "cutover-daemon", "--lib", "--target-dir"])
    } else {
        step.args(["build", "--locked", "--release", "--package", "cutover-agent", "--bin", "cutover"])
            .args(["--target-dir"])
    }
    .args([folder])
    .run()?;
    let mut built = Built::new();
    let out = out_dir(&folder.join("release/build"))?;
    for name in OBJECTS {
        built.insert(name.to_owned(), read(&out.join(name))?);
    }
    if !options.objects {
        built.insert("cutover".to_owned(), read(&folder.join("release/cutover"))?);
    }
    Ok(built)
}

fn read(path: &Path) -> Result<Vec<u8>> {
    fs::read(path).with_context(|| path.display().to_string())
}

/// Where the daemon's build script has put the objects.
fn out_dir(builds: &Path) -> Result<PathBuf> {
    let entries = fs::read_dir(builds).with_context(|| builds.display().to_string())?;
    let outs = entries.filter_map(|entry| Some(entry.ok()?.path().join("out")));
    let mut found = outs.filter(|out| OBJECTS.iter().all(|name| out.join(name).is_file()));
    match (found.next(), found.next()) {
        (Some(out), None) => Ok(out),
        (None, _) => bail!("no kernel objects below {}", builds.display()),
        (Some(_), Some(_)) => bail!("several builds of the kernel objects below {}", builds.display()),
    }
}

/// The names of what is not the same, or only there once.
fn compare(first: &Built, second: &Built) -> Vec<String> {
    let names = first.keys().chain(second.keys().filter(|name| !first.contains_key(*name)));
    names.filter(|name| first.get(*name) != second.get(*name)).cloned().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_differs_and_what_is_missing_is_named() {
        let built = |parts: &[(&str, u8)]| -> Built {
            parts.iter().map(|(name, byte)| ((*name).to_owned(), vec![*byte])).collect()
        };
        let first = built(&[("a", 1), ("b", 2), ("c", 3)]);
        assert!(compare(&first, &first).is_empty());
        assert_eq!(compare(&first, &built(&[("a", 1), ("b", 3), ("d", 4)])), ["b", "c", "d"]);
    }
}
