//! How a command fails: one line and an exit code of sysexits.h.

use cutover_daemon::logging::printable;
use std::fmt;
use std::process::ExitCode;

/// Why a command ends without success. The text says what, where and how to mend it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Failure {
    code: u8,
    text: String,
}

impl Failure {
    /// The command line is wrong (64).
    pub fn usage(text: impl Into<String>) -> Self {
        Self { code: 64, text: text.into() }
    }

    /// A service that is needed does not answer, or not in time (69).
    pub fn unavailable(text: impl Into<String>) -> Self {
        Self { code: 69, text: text.into() }
    }

    /// A privilege is missing (77).
    pub fn privilege(text: impl Into<String>) -> Self {
        Self { code: 77, text: text.into() }
    }

    /// The configuration is wrong (78).
    pub fn configuration(text: impl Into<String>) -> Self {
        Self { code: 78, text: text.into() }
    }

    /// What was looked at is not as it is to be (2).
    pub fn differs(text: impl Into<String>) -> Self {
        Self { code: 2, text: text.into() }
    }

    /// Anything else (1).
    pub fn other(text: impl Into<String>) -> Self {
        Self { code: 1, text: text.into() }
    }

    /// The same, with what it is about in front.
    #[must_use]
    pub fn about(self, what: &str) -> Self {
        Self { text: format!("{what}: {}", self.text), ..self }
    }

    /// The same with another text.
    #[must_use]
    pub fn with_text(self, text: impl Into<String>) -> Self {
        Self { text: text.into(), ..self }
    }

    /// Whether it may pass by itself: something that is needed did not answer.
    pub const fn may_pass(&self) -> bool {
        self.code == 69
    }

    /// Success if there are none, else all of them in one line. What may pass makes the whole of it something that may.
    ///
    /// # Errors
    /// When there are any.
    pub fn all(failures: impl IntoIterator<Item = Self>) -> Result<(), Self> {
        let failures: Vec<Self> = failures.into_iter().collect();
        let texts: Vec<&str> = failures.iter().map(|failure| failure.text.as_str()).collect();
        let text = texts.join("; ");
        match failures.iter().find(|failure| failure.may_pass()).or(failures.first()) {
            None => Ok(()),
            Some(decisive) => Err(decisive.clone().with_text(text)),
        }
    }

    /// What the process exits with.
    #[must_use]
    pub fn exit_code(&self) -> ExitCode {
        ExitCode::from(self.code)
    }
}

/// Always one line.
impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&printable(&self.text.replace(['\n', '\r'], " ")))
    }
}

impl std::error::Error for Failure {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn several_are_one_line_and_may_pass_if_one_of_them_may() {
        assert_eq!(Failure::all([]), Ok(()));
        let (wrong, silent) = (Failure::configuration("wrong"), Failure::unavailable("no answer"));
        assert_eq!(Failure::all([wrong.clone()]), Err(wrong.clone()));
        let both = Failure::all([wrong, silent]).unwrap_err();
        assert_eq!(both, Failure::unavailable("wrong; no answer"));
        assert!(both.may_pass());
    }
}
