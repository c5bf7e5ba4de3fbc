//! The kernel object as a file of its own, for `bpftool prog load` and for packagers.

use crate::step::{Step, say};
use crate::{setup, workspace};
use anyhow::{Context as _, Result, bail};
use std::fs;
use std::io::Write as _;
use std::path::PathBuf;

/// Name of the object in the daemon's build folder: the name of the package that it is built from.
const OBJECT: &str = "cutover-ebpf";

/// Builds the daemon, whose build script builds the object, so that there is one way of building it; copies
/// the object to `target/bpf/cutover.o` and prints that path on standard output.
pub(crate) fn run() -> Result<()> {
    setup::for_building()?;
    let messages = Step::cargo()
        .args(["build", "--locked", "--package", "cutover-daemon", "--lib", "--message-format=json"])
        .output()?;
    let Some(folder) = messages.lines().find_map(out_dir) else {
        bail!("cargo did not say where the build script of cutover-daemon puts the object");
    };
    let object = folder.join(OBJECT);
    let published = workspace::target().join("bpf/cutover.o");
    let parent = published.parent().unwrap_or(&published);
    fs::create_dir_all(parent).with_context(|| format!("{} could not be made", parent.display()))?;
    fs::copy(&object, &published)
        .with_context(|| format!("{} could not be copied to {}", object.display(), published.display()))?;
    say(format_args!("the kernel object, {} bytes:", fs::metadata(&published)?.len()));
    writeln!(std::io::stdout(), "{}", published.display())?;
    Ok(())
}

/// The build folder of the daemon, if this line of cargo's JSON messages is about it.
fn out_dir(line: &str) -> Option<PathBuf> {
    let message: serde_json::Value = serde_json::from_str(line).ok()?;
    let is_daemon = message["reason"] == "build-script-executed"
        && message["package_id"].as_str()?.contains("cutover-daemon");
    is_daemon.then(|| message["out_dir"].as_str().map(PathBuf::from))?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_build_folder_is_found_among_the_messages() {
        let ours = r#"{"reason":"build-script-executed","package_id":"path+file:///src/agent/daemon#cutover-daemon@0.1.0","out_dir":"/target/out"}"#;
        let other = r#"{"reason":"build-script-executed","package_id":"registry+https://x#libc@0.2.1","out_dir":"/target/libc"}"#;
        assert_eq!(out_dir(ours), Some("/target/out".into()));
        assert_eq!(out_dir(other), None);
        assert_eq!(out_dir("warning: text"), None);
    }
}
