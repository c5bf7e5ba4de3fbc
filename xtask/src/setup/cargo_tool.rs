//! Tools that cargo installs, each in the one version that this workspace is tested with.

use crate::step::{Step, say};
use anyhow::{Result, bail};
use std::fmt;

/// A program from crates.io.
pub(super) struct CargoTool {
    name: &'static str,
    version: &'static str,
    /// How it is asked for its version.
    ask: &'static [&'static str],
}

/// Links the kernel program. Its LLVM has to read what the nightly writes, so the two change together.
pub(super) const BPF_LINKER: CargoTool =
    CargoTool { name: "bpf-linker", version: "0.10.4", ask: &["bpf-linker", "--version"] };
/// Checks licences, sources and duplicates of dependencies.
pub(super) const CARGO_DENY: CargoTool =
    CargoTool { name: "cargo-deny", version: "0.20.2", ask: &["cargo-deny", "--version"] };
/// Runs the fuzzer.
pub(super) const CARGO_FUZZ: CargoTool =
    CargoTool { name: "cargo-fuzz", version: "0.13.2", ask: &["cargo-fuzz", "--version"] };

impl CargoTool {
    /// Installs exactly this version, in the place of any other.
    pub(super) fn install(&self) -> Result<()> {
        match self.installed() {
            Some(found) if found == self.version => return Ok(()),
            Some(found) => say(format_args!("{} {found} is installed, {self} is needed", self.name)),
            None => say(format_args!("{self} is missing")),
        }
        let package = format!("{}@{}", self.name, self.version);
        Step::cargo().args(["install", "--locked", "--force", &package]).run()?;
        if self.installed().as_deref() != Some(self.version) {
            bail!(
                "{self} was installed, but another one or none is found in PATH; put cargo's bin folder first"
            );
        }
        Ok(())
    }

    /// The version of the program in PATH.
    fn installed(&self) -> Option<String> {
        let (program, arguments) = self.ask.split_first()?;
        let answer = Step::new(program).args(arguments).answer()?;
        answer.split_whitespace().nth(1).map(str::to_owned)
    }
}

impl fmt::Display for CargoTool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.name, self.version)
    }
}
