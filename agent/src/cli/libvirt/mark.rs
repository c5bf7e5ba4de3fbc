//! Files in the run directory that tell a machine that comes here from one that boots, from the one call that knows to those that do not.
//!
//! `migrate` leaves `coming-UUID`. `prepare` is the first call of the start that belongs to it, and makes `arriving-UUID` of that, which is
//! there until the machine has started or is gone. So the end of one attempt does not forget the next, which libvirt may have announced
//! already. Both are gone after a reboot, as the machine is.

use crate::cli::Failure;
use crate::cli::store::stamp;
use cutover_daemon::clock;
use cutover_daemon::settings::Settings;
use std::fs::{self, DirBuilder};
use std::io::{self, ErrorKind};
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// LIMIT: `prepare` follows `migrate` within moments, unless other hooks take their time or the migration fails in between. A mark that
/// is forgotten too early gives a machine a route while it runs elsewhere; one that is kept too long delays that of one that boots by a second.
const FOLLOWS_WITHIN: Duration = Duration::from_secs(600);

/// LIMIT: a process that takes its memory at once takes minutes to start.
const STARTS_WITHIN: Duration = Duration::from_secs(3600);

/// What is known of a machine that starts here.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Told {
    /// It comes from elsewhere. What the uids of its migrations are made of: the same for as long as it is the same attempt.
    Comes(String),
    /// Nobody has said that it comes.
    Boots,
    /// No file can be written here, or what is there cannot be read: it may have been said, and nobody knows.
    Nothing,
}

/// The files of one machine.
pub(super) struct Mark {
    folder: PathBuf,
    uuid: String,
}

impl Mark {
    pub(super) fn of(settings: &Settings, uuid: &str) -> Self {
        Self { folder: settings.cutover_run_dir.clone(), uuid: uuid.to_owned() }
    }

    fn coming(&self) -> PathBuf {
        self.folder.join(format!("coming-{}", self.uuid))
    }

    fn arriving(&self) -> PathBuf {
        self.folder.join(format!("arriving-{}", self.uuid))
    }

    /// A machine is about to come here.
    ///
    /// # Errors
    /// When that cannot be written down.
    pub(super) fn announce(&self) -> Result<(), Failure> {
        let (path, uid) = (self.coming(), stamp::uid()?);
        self.make_folder()
            .and_then(|()| fs::write(&path, uid))
            .map_err(|error| failure(&path, "cannot be written", &error))
    }

    /// A machine is being started here, of which one announcement may tell, and no earlier one.
    ///
    /// # Errors
    /// When the files cannot be changed.
    pub(super) fn prepare(&self) -> Result<(), Failure> {
        self.clear()?;
        self.take_over()
    }

    /// What is known now.
    pub(super) fn told(&self) -> Told {
        // `prepare` does that, unless it was kept from it.
        if self.take_over().is_err() {
            return Told::Nothing;
        }
        let path = self.arriving();
        match age(&path) {
            Ok(Some(age)) if age <= STARTS_WITHIN => match fs::read_to_string(&path) {
                Ok(uid) if uid.len() == 36 && uid.is_ascii() => Told::Comes(uid),
                // Whoever wrote it ran out of space.
                _ => Told::Nothing,
            },
            Ok(_) if self.can_be_written() => Told::Boots,
            _ => Told::Nothing,
        }
    }

    /// It has started, or is gone.
    ///
    /// # Errors
    /// When the file cannot be removed.
    pub(super) fn clear(&self) -> Result<(), Failure> {
        remove(&self.arriving())
    }

    fn take_over(&self) -> Result<(), Failure> {
        let coming = self.coming();
        match age(&coming).map_err(|error| failure(&coming, "cannot be looked at", &error))? {
            None => Ok(()),
            Some(age) if age > FOLLOWS_WITHIN => remove(&coming),
            Some(_) => fs::rename(&coming, self.arriving())
                .map_err(|error| failure(&coming, "cannot be renamed", &error)),
        }
    }

    /// Whether what was said before can have been written down.
    fn can_be_written(&self) -> bool {
        let probe = self.folder.join(format!("probe-{}", self.uuid));
        let is_so = self.make_folder().and_then(|()| fs::write(&probe, "probe")).is_ok();
        let _ = fs::remove_file(&probe);
        is_so
    }

    fn make_folder(&self) -> io::Result<()> {
        DirBuilder::new().recursive(true).mode(0o700).create(&self.folder)
    }
}

/// How long ago a file was written, if it is there. What was written in the future was written just now: somebody has set the clock.
fn age(path: &Path) -> io::Result<Option<Duration>> {
    match fs::metadata(path).and_then(|metadata| metadata.modified()) {
        Ok(at) => Ok(Some(clock::wall().duration_since(at).unwrap_or_default())),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

fn remove(path: &Path) -> Result<(), Failure> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(failure(path, "cannot be removed", &error)),
        _ => Ok(()),
    }
}

fn failure(path: &Path, what: &str, error: &io::Error) -> Failure {
    Failure::other(format!("{}: {what}: {error}; see CutoverRunDir", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;
    use std::time::SystemTime;
    use tempfile::TempDir;

    fn mark() -> (TempDir, Mark) {
        let folder = tempfile::tempdir().unwrap();
        let mark = Mark { folder: folder.path().join("run"), uuid: "0f4ac1d2".to_owned() };
        (folder, mark)
    }

    #[track_caller]
    fn comes(mark: &Mark) -> String {
        match mark.told() {
            Told::Comes(uid) => uid,
            other => panic!("{other:?}"),
        }
    }

    fn grow_old(path: &Path, by: Duration) {
        let file = File::options().write(true).open(path).unwrap();
        file.set_modified(SystemTime::now().checked_sub(by).unwrap()).unwrap();
    }

    #[test]
    fn a_machine_that_was_announced_comes_until_it_has_started() {
        let (_folder, mark) = mark();
        mark.prepare().unwrap();
        assert_eq!(mark.told(), Told::Boots);
        mark.announce().unwrap();
        mark.prepare().unwrap();
        let uid = comes(&mark);
        assert_eq!(comes(&mark), uid, "it is the same attempt");
        mark.clear().unwrap();
        assert_eq!(mark.told(), Told::Boots);
        // Whatever kept `prepare` from it.
        mark.announce().unwrap();
        assert_ne!(comes(&mark), uid);
    }

    #[test]
    fn the_end_of_one_attempt_does_not_forget_the_next() {
        let (_folder, mark) = mark();
        mark.announce().unwrap();
        mark.prepare().unwrap();
        let first = comes(&mark);
        // The next one is announced while the first is being released.
        mark.announce().unwrap();
        mark.clear().unwrap();
        mark.prepare().unwrap();
        assert_ne!(comes(&mark), first);
    }

    #[test]
    fn what_was_announced_long_ago_or_for_another_start_counts_no_more() {
        let (_folder, mark) = mark();
        mark.announce().unwrap();
        grow_old(&mark.coming(), FOLLOWS_WITHIN + Duration::from_secs(60));
        mark.prepare().unwrap();
        assert_eq!((mark.told(), mark.coming().exists()), (Told::Boots, false));
        mark.announce().unwrap();
        mark.prepare().unwrap();
        grow_old(&mark.arriving(), STARTS_WITHIN + Duration::from_secs(60));
        assert_eq!(mark.told(), Told::Boots);
        mark.announce().unwrap();
        mark.prepare().unwrap();
        mark.prepare().unwrap();
        assert_eq!(mark.told(), Told::Boots, "it is another start");
    }

    #[test]
    fn where_nothing_can_be_written_nobody_knows() {
        let (_folder, mark) = mark();
        // Root may write into every folder, and into no file as if it were one.
        fs::write(&mark.folder, "").unwrap();
        assert!(mark.announce().unwrap_err().to_string().contains("see CutoverRunDir"));
        assert!(mark.prepare().is_err());
        assert_eq!(mark.told(), Told::Nothing);
        fs::remove_file(&mark.folder).unwrap();
        mark.announce().unwrap();
        fs::write(mark.coming(), "").unwrap();
        assert_eq!(mark.told(), Told::Nothing, "it was written only in part");
    }
}
