//! Why nf_tables cannot be followed.

use std::io;

/// nf_tables cannot be followed.
#[derive(Debug, thiserror::Error)]
pub(in crate::felix) enum FollowError {
    /// A system call failed.
    #[error("cannot follow nf_tables: {step}: {error}")]
    Io {
        /// What was tried.
        step: &'static str,
        /// What the kernel said.
        #[source]
        error: io::Error,
    },
    /// The kernel did not finish a dump.
    #[error("cannot follow nf_tables: a dump did not end")]
    Stuck,
}

pub(super) fn failed(step: &'static str) -> impl Fn(io::Error) -> FollowError {
    move |error| FollowError::Io { step, error }
}
