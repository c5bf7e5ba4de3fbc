//! The run directory: created for root only, and locked by the one agent that uses it.
//!
//! Its tenants have files of their own: [`crate::state_file`], [`crate::control`], [`crate::migrations`], what sysctls were
//! before, the status files.

use crate::{lock, migrations};
use cutover_engine::notice::MigrationRecord;
use nix::errno::Errno;
use nix::fcntl::Flock;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

const LOCK: &str = "agent.lock";

/// The directory cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum RunDirError {
    /// It cannot be created, or its lock file cannot be opened.
    #[error("{path}: cannot use the run directory: {error}; make it writable for root or set CutoverRunDir", path = path.display())]
    Unusable {
        /// The directory.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },
    /// Another agent has it.
    #[error("{path}: another agent is running with this run directory; stop it or set CutoverRunDir", path = path.display())]
    Taken {
        /// The directory.
        path: PathBuf,
    },
}

/// The directory, ours as long as this value lives, also beyond the death of the process: the lock goes with it.
#[derive(Debug)]
pub struct RunDir {
    path: PathBuf,
    _lock: Flock<File>,
}

impl RunDir {
    /// Creates and locks it.
    ///
    /// # Errors
    /// It cannot be used, or another agent has it.
    pub fn lock(path: &Path) -> Result<Self, RunDirError> {
        let unusable = |error| RunDirError::Unusable { path: path.to_owned(), error };
        fs::DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(unusable)?;
        let file = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .mode(0o600)
            .open(path.join(LOCK))
            .map_err(unusable)?;
        match lock::exclusively(file, lock::PATIENCE) {
            Ok(lock) => Ok(Self { path: path.to_owned(), _lock: lock }),
            Err(Errno::EWOULDBLOCK) => Err(RunDirError::Taken { path: path.to_owned() }),
            Err(error) => Err(unusable(error.into())),
        }
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Adds a finished migration to the record.
    ///
    /// # Errors
    /// The file cannot be written; the migration is then only in the log.
    pub fn record(&self, record: &MigrationRecord) -> io::Result<()> {
        migrations::append(&self.path, record)
    }

    /// What an agent leaves in a run directory, for `cutover cleanup`.
    #[must_use]
    pub fn leftovers(path: &Path) -> Vec<PathBuf> {
        let names = [
            "state.json",
            "state.json.new",
            "state.json.unreadable",
            "sysctls.json",
            "sysctls.json.new",
            migrations::CURRENT,
            migrations::ROTATED,
            crate::control::SOCKET,
            "status",
            LOCK,
        ];
        let mut found: Vec<_> =
            names.into_iter().map(|name| path.join(name)).filter(|file| file.exists()).collect();
        if path.exists() {
            found.push(path.to_owned());
        }
        found
    }
}

/// Replaces a file of ours as a whole, `NAME.json` by way of `NAME.json.new`: after a crash there is the old or the new one.
pub(crate) fn replace_file(path: &Path, text: &[u8]) -> io::Result<()> {
    let beside = path.with_extension("json.new");
    // One that a crash left behind would keep its mode.
    match fs::remove_file(&beside) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = OpenOptions::new().create_new(true).write(true).mode(0o600).open(&beside)?;
    file.write_all(text)?;
    fs::rename(&beside, path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_one_agent_at_a_time() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("run");
        let first = RunDir::lock(&path).unwrap();
        assert!(matches!(RunDir::lock(&path), Err(RunDirError::Taken { .. })));
        drop(first);
        RunDir::lock(&path).unwrap();
    }
}
