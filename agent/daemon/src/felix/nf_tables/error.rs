//! Why nf_tables cannot be followed.

use crate::netlink::subscriber::StepError;
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

impl From<StepError> for FollowError {
    fn from(StepError { step, error }: StepError) -> Self {
        Self::Io { step, error }
    }
}
