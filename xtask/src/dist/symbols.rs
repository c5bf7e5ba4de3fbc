//! The program as it is installed, without symbols, and a file with nothing else, which a debugger finds by the number of the build.

use super::stage::{Stage, mode};
use crate::step::Step;
use anyhow::{Context as _, Result, bail};
use std::fs;
use std::path::Path;

/// Where the program goes.
pub(super) const PROGRAM: &str = "usr/bin/cutover";

/// Where debuggers look for symbols.
const SYMBOLS: &str = "usr/lib/debug/.build-id";

/// Puts the program into one folder and its symbols into another. Returns the number of the build.
pub(super) fn split(program: &Path, stage: &Stage, symbols: &Stage) -> Result<String> {
    let notes = Step::new("readelf").args(["--notes"]).args([program]).output()?;
    let Some(build_id) = build_id(&notes) else {
        bail!("{} has no build id: the linker has to be told to write one", program.display());
    };
    let (folder, name) = build_id.split_at(2);
    let debug = symbols.place(format!("{SYMBOLS}/{folder}/{name}.debug"))?;
    let installed = stage.place(PROGRAM)?;
    objcopy(&["--only-keep-debug", "--compress-debug-sections"], program, &debug)?;
    mode(&debug, 0o644)?;
    let link = format!("--add-gnu-debuglink={}", debug.display());
    objcopy(&["--strip-unneeded", "--remove-section=.comment", &link], program, &installed)?;
    mode(&installed, 0o755)?;
    check(&installed, &debug, build_id)?;
    Ok(build_id.to_owned())
}

/// Whether a debugger will find from one what is in the other.
fn check(installed: &Path, debug: &Path, id: &str) -> Result<()> {
    const LINES: &str = " .debug_line ";
    let ask = |option: &str, path: &Path| Step::new("readelf").args(["--wide", option]).args([path]).answer();
    let ask = |option: &str, path: &Path| {
        ask(option, path).with_context(|| format!("readelf cannot read {}", path.display()))
    };
    for path in [installed, debug] {
        if build_id(&ask("--notes", path)?) != Some(id) {
            bail!("{} has not the build id {id}", path.display());
        }
    }
    let name = debug.file_name().unwrap_or_default().to_string_lossy();
    if !ask("--string-dump=.gnu_debuglink", installed)?.contains(&*name) {
        bail!("{} has no link to {name}", installed.display());
    }
    let has_lines = |path| ask("--section-headers", path).map(|sections| sections.contains(LINES));
    if has_lines(installed)? || !has_lines(debug)? {
        bail!("the symbols of {} are not in {}", installed.display(), debug.display());
    }
    Ok(())
}

fn objcopy(options: &[&str], from: &Path, to: &Path) -> Result<()> {
    Step::new("objcopy").args(options).args([from, to]).run()?;
    fs::metadata(to).with_context(|| to.display().to_string()).map(drop)
}

/// The number in what `readelf --notes` prints.
fn build_id(notes: &str) -> Option<&str> {
    let number = notes.lines().find_map(|line| line.split_once("Build ID: "))?.1.trim();
    (number.len() > 2 && number.bytes().all(|byte| byte.is_ascii_hexdigit())).then_some(number)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_build_is_known_by_its_number() {
        let notes = "Displaying notes found in: .note.gnu.build-id\n  GNU  0x00000014\tNT_GNU_BUILD_ID\n    Build ID: 0fa1b2c3\n";
        assert_eq!(build_id(notes), Some("0fa1b2c3"));
        assert_eq!(
            build_id("  GNU  0x14\tNT_GNU_BUILD_ID (unique)\t    Build ID: 0fa1b2c3\n"),
            Some("0fa1b2c3"),
            "--wide"
        );
        assert_eq!(build_id("Displaying notes found in: .note.ABI-tag\n"), None);
        assert_eq!(build_id("    Build ID: ../../etc\n"), None);
    }
}
