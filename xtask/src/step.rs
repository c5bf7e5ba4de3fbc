//! One command at a time: said before it runs, named when it fails.

use anyhow::{Context as _, Result, bail};
use std::ffi::OsStr;
use std::fmt;
use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};

/// Tells the user, on standard error, so that the output of a chore can be piped.
pub(crate) fn say(message: fmt::Arguments<'_>) {
    // There is nobody left to tell when standard error is closed.
    let _ = writeln!(std::io::stderr(), "xtask: {message}");
}

/// A command that ends the chore when it fails.
pub(crate) struct Step(Command);

impl Step {
    /// `program`, found in PATH unless it is a path, started in the root of the workspace.
    pub(crate) fn new(program: impl AsRef<OsStr>) -> Self {
        let mut command = Command::new(program);
        command.current_dir(crate::workspace::root()).stdin(Stdio::null());
        Self(command)
    }

    /// The cargo that was asked to run this chore.
    pub(crate) fn cargo() -> Self {
        Self::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
    }

    /// Further arguments.
    pub(crate) fn args<A: AsRef<OsStr>>(mut self, arguments: impl IntoIterator<Item = A>) -> Self {
        self.0.args(arguments);
        self
    }

    /// One variable of the environment.
    pub(crate) fn env(mut self, name: &str, value: impl AsRef<OsStr>) -> Self {
        self.0.env(name, value);
        self
    }

    /// Started in this folder instead.
    pub(crate) fn within(mut self, folder: &Path) -> Self {
        self.0.current_dir(folder);
        self
    }

    /// Runs to the end with the output going where ours goes.
    pub(crate) fn run(self) -> Result<()> {
        say(format_args!("{self}"));
        self.quietly()
    }

    /// Runs to the end and returns standard output; standard error goes where ours goes.
    pub(crate) fn output(mut self) -> Result<String> {
        say(format_args!("{self}"));
        let output = self.0.stderr(Stdio::inherit()).output();
        let output = output.with_context(|| format!("`{self}` could not be started"))?;
        if !output.status.success() {
            bail!("`{self}` failed: {}", output.status);
        }
        String::from_utf8(output.stdout)
            .with_context(|| format!("`{self}` printed something that is not text"))
    }

    /// Runs to the end without a word: one of many.
    pub(crate) fn quietly(mut self) -> Result<()> {
        let status = self.0.status().with_context(|| format!("`{self}` could not be started"))?;
        if !status.success() {
            bail!("`{self}` failed: {status}");
        }
        Ok(())
    }

    /// Standard output of a command that only asks a question; `None` when it cannot be asked or fails.
    pub(crate) fn answer(mut self) -> Option<String> {
        let output = self.0.stderr(Stdio::null()).output().ok()?;
        output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
    }
}

/// The command as one would type it: the name of the program without its folder, then the arguments.
impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let program = Path::new(self.0.get_program());
        let name = if program.starts_with(crate::workspace::root()) {
            program.strip_prefix(crate::workspace::root()).unwrap_or(program).as_os_str()
        } else {
            program.file_name().unwrap_or(program.as_os_str())
        };
        write!(f, "{}", name.to_string_lossy())?;
        for argument in self.0.get_args() {
            let argument = argument.to_string_lossy();
            if argument.is_empty() || argument.contains(' ') {
                write!(f, " '{argument}'")?
            } else {
                write!(f, " {argument}")?
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_names_the_command() {
        let error = Step::new("false").args(["--loudly", "a b"]).run().unwrap_err().to_string();
        assert!(error.starts_with("`false --loudly 'a b'` failed: exit status: 1"), "{error}");
        let error = Step::new("cutover-no-such-program").run().unwrap_err().to_string();
        assert_eq!(error, "`cutover-no-such-program` could not be started");
    }

    #[test]
    fn an_unanswered_question_is_no_failure() {
        assert_eq!(Step::new("echo").args(["42"]).answer().as_deref(), Some("42"));
        assert_eq!(Step::new("false").answer(), None);
        assert_eq!(Step::new("cutover-no-such-program").answer(), None);
    }
}
