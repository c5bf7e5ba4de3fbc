//! Debian packages that the demo and the tests run programs of. Installed only when told to.

use crate::SetupOptions;
use crate::step::{Step, say};
use crate::workspace::{has_program, is_root};
use anyhow::{Result, bail};

/// Program and the Debian package that has it.
const NEEDED: [(&str, &str); 2] = [("ip", "iproute2"), ("bpftool", "bpftool")];

/// Installs what is missing when told to; otherwise says what to do about it.
pub(super) fn install(options: SetupOptions) -> Result<()> {
    let missing: Vec<_> =
        NEEDED.iter().filter(|(program, _)| !has_program(program)).map(|(_, package)| *package).collect();
    if missing.is_empty() {
        return Ok(());
    }
    let packages = missing.join(" ");
    let told_to = options.packages || std::env::var("CI").is_ok_and(|ci| ci == "true" || ci == "1");
    if !has_program("apt-get") {
        bail!("missing programs: install the packages that your system has for {packages}");
    }
    if !told_to || !is_root() {
        bail!(
            "missing Debian packages: run `apt-get install {packages}`, or this chore as root with --packages"
        );
    }
    say(format_args!("installing Debian packages: {packages}"));
    let apt = || Step::new("apt-get").env("DEBIAN_FRONTEND", "noninteractive");
    apt().args(["update", "--quiet=2"]).run()?;
    apt().args(["install", "--yes", "--quiet=2", "--no-install-recommends"]).args(missing).run()
}
