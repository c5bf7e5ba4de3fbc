//! The run directory: created for root only, refused if somebody else can change it, and locked by the one agent that uses it.
//!
//! Its tenants have files of their own: [`crate::state_file`], [`crate::control`], [`crate::migrations`], what sysctls were
//! before, the status files.

use crate::applier::statuses::dir::DIRECTORY as STATUSES;
use crate::ownership::{Refusal, Way};
use crate::sysctls::former;
use crate::{lock, migrations, state_file};
use cutover_engine::notice::{DepartureRecord, MigrationRecord};
use nix::errno::Errno;
use nix::fcntl::Flock;
use nix::unistd::Uid;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

const LOCK: &str = "agent.lock";

/// What the agent and `cutover cleanup` read or write through again. The control socket is made anew at every start.
const TENANTS: [&str; 8] = [
    LOCK,
    state_file::FILE,
    former::FILE,
    migrations::CURRENT,
    migrations::ROTATED,
    migrations::DEPARTURES_CURRENT,
    migrations::DEPARTURES_ROTATED,
    STATUSES,
];

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
    /// Somebody else than root can change it, something in it, or the way to it.
    #[error("{path}: {refusal}", path = path.display())]
    Unsafe {
        /// The directory.
        path: PathBuf,
        /// What is wrong, with the command that mends it.
        refusal: Refusal,
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
    /// It cannot be used, somebody else than root and this user can change it, or another agent has it.
    pub fn lock(path: &Path) -> Result<Self, RunDirError> {
        let unusable = |error| RunDirError::Unusable { path: path.to_owned(), error };
        // ORDER: nothing is made where somebody else could exchange it, and nothing is opened in what somebody else has made meanwhile.
        if !Self::check(path, Uid::effective())? {
            fs::DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(unusable)?;
            Self::check(path, Uid::effective())?;
        }
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

    /// Whether it exists; and that nobody but root and `user` can change it, what the agent reads in it, or the way to it.
    ///
    /// # Errors
    /// Somebody else can, or it cannot be told.
    pub fn check(path: &Path, user: Uid) -> Result<bool, RunDirError> {
        let unusable = |error| RunDirError::Unusable { path: path.to_owned(), error };
        let refused = |refusal| RunDirError::Unsafe { path: path.to_owned(), refusal };
        let way = Way::to(path).map_err(unusable)?;
        if way.arrives() && !path.is_dir() {
            return Err(unusable(io::ErrorKind::NotADirectory.into()));
        }
        way.judge(user).map_err(refused)?;
        for name in TENANTS {
            let way = Way::beyond(path, Path::new(name)).map_err(unusable)?;
            way.judge(user).map_err(refused)?;
        }
        Ok(way.arrives())
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

    /// Adds a migration away from here to the record.
    ///
    /// # Errors
    /// As [`Self::record`].
    pub fn record_departure(&self, record: &DepartureRecord) -> io::Result<()> {
        migrations::append_departure(&self.path, record)
    }

    /// What an agent leaves in a run directory, for `cutover cleanup`.
    #[must_use]
    pub fn leftovers(path: &Path) -> Vec<PathBuf> {
        let names = [
            state_file::FILE,
            "state.json.new",
            "state.json.unreadable",
            former::FILE,
            "sysctls.json.new",
            migrations::CURRENT,
            migrations::ROTATED,
            migrations::DEPARTURES_CURRENT,
            migrations::DEPARTURES_ROTATED,
            crate::peers::FILE,
            "peer.json.new",
            crate::control::SOCKET,
            STATUSES,
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
    use std::os::unix::fs::PermissionsExt as _;

    #[test]
    fn only_one_agent_at_a_time() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("run");
        let first = RunDir::lock(&path).unwrap();
        assert!(matches!(RunDir::lock(&path), Err(RunDirError::Taken { .. })));
        drop(first);
        RunDir::lock(&path).unwrap();
    }

    fn set_mode(path: &Path, mode: u32) {
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    }

    /// The permissions with which each of these is refused or taken, whatever it is.
    const VERDICTS: [(u32, bool); 5] =
        [(0o770, false), (0o755, true), (0o707, false), (0o1777, false), (0o700, true)];

    #[test]
    fn what_others_may_write_to_is_refused_by_name() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("run");
        drop(RunDir::lock(&path).unwrap());
        fs::create_dir(path.join(STATUSES)).unwrap();
        for name in [
            "state.json",
            "sysctls.json",
            "migrations.jsonl",
            "migrations.jsonl.1",
            "departures.jsonl",
            "departures.jsonl.1",
        ] {
            fs::write(path.join(name), "").unwrap();
        }
        let tenants = TENANTS.map(|name| path.join(name));
        for tenant in [&[path.clone()][..], &tenants].concat() {
            for (mode, is_taken) in VERDICTS {
                set_mode(&tenant, mode);
                match RunDir::lock(&path) {
                    Ok(_) => assert!(is_taken, "{tenant:?} with {mode:o}"),
                    Err(RunDirError::Unsafe { refusal, .. }) => {
                        assert!(!is_taken, "{tenant:?} with {mode:o}: {refusal}");
                        assert_eq!(refusal.change(), format!("chmod go-w {}", tenant.display()));
                    }
                    Err(error) => panic!("{error}"),
                }
            }
        }
    }

    #[test]
    fn nothing_is_made_below_a_folder_that_others_may_write_to() {
        let dir = tempfile::tempdir().unwrap();
        set_mode(dir.path(), 0o770);
        let error = RunDir::lock(&dir.path().join("a/run")).unwrap_err();
        assert!(matches!(error, RunDirError::Unsafe { .. }), "{error}");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
        set_mode(dir.path(), 0o1777);
        RunDir::lock(&dir.path().join("a/run")).unwrap();
    }

    #[test]
    fn a_file_is_no_run_directory() {
        let error = RunDir::lock(Path::new("/dev/null")).unwrap_err();
        assert!(matches!(error, RunDirError::Unusable { .. }), "{error}");
    }
}
