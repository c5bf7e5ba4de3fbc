//! The run directory: created for root only, locked by the one agent that uses it, and the record of finished
//! migrations in it.
//!
//! Its other tenants have files of their own: [`crate::state_file`], [`crate::control`], the status files.

use cutover_engine::notice::MigrationRecord;
use nix::fcntl::{Flock, FlockArg};
use serde::Serialize;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

const LOCK: &str = "agent.lock";
const MIGRATIONS: &str = "migrations.jsonl";
/// LIMIT: about ten thousand migrations; then the file becomes `migrations.jsonl.1` and a new one begins.
const MIGRATIONS_BYTES_MAX: u64 = 4 * 1024 * 1024;

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

#[derive(Serialize)]
struct Line<'a> {
    finished_at_unix_seconds: u64,
    #[serde(flatten)]
    record: &'a MigrationRecord,
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
        match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(lock) => Ok(Self { path: path.to_owned(), _lock: lock }),
            Err((_, nix::errno::Errno::EWOULDBLOCK)) => Err(RunDirError::Taken { path: path.to_owned() }),
            Err((_, error)) => Err(unusable(error.into())),
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
        let path = self.path.join(MIGRATIONS);
        if fs::metadata(&path).is_ok_and(|metadata| metadata.len() > MIGRATIONS_BYTES_MAX) {
            fs::rename(&path, path.with_extension("jsonl.1"))?;
        }
        let finished = crate::clock::wall().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        let line = Line { finished_at_unix_seconds: finished, record };
        let mut text = serde_json::to_vec(&line).map_err(io::Error::other)?;
        text.push(b'\n');
        OpenOptions::new().create(true).append(true).mode(0o600).open(path)?.write_all(&text)
    }

    /// What an agent leaves in a run directory, for `cutover cleanup`.
    #[must_use]
    pub fn leftovers(path: &Path) -> Vec<PathBuf> {
        let names = [
            "state.json",
            "state.json.new",
            "state.json.unreadable",
            MIGRATIONS,
            "migrations.jsonl.1",
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

#[cfg(test)]
mod tests {
    use super::*;
    use cutover_engine::machine::Phases;

    #[test]
    fn only_one_agent_at_a_time() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("run");
        let first = RunDir::lock(&path).unwrap();
        assert!(matches!(RunDir::lock(&path), Err(RunDirError::Taken { .. })));
        drop(first);
        RunDir::lock(&path).unwrap();
    }

    #[test]
    fn finished_migrations_are_one_line_each() {
        let dir = tempfile::tempdir().unwrap();
        let run_dir = RunDir::lock(dir.path()).unwrap();
        let record = MigrationRecord {
            uid: "u1".into(),
            endpoint: "b-openstack-vm1-port1".into(),
            source: None,
            arrived: true,
            phases: Phases::default(),
        };
        run_dir.record(&record).unwrap();
        run_dir.record(&record).unwrap();
        let text = fs::read_to_string(dir.path().join("migrations.jsonl")).unwrap();
        assert_eq!(text.lines().count(), 2);
        for line in text.lines() {
            assert_eq!(serde_json::from_str::<serde_json::Value>(line).unwrap()["uid"], "u1");
        }
    }
}
