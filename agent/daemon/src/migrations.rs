//! `migrations.jsonl` in the run directory: one line of JSON for each finished migration to this host.
//!
//! The agent appends, `cutover timeline` reads; nobody changes a line. What is in a record is the engine's; this file
//! adds when that was for people.

use crate::clock;
use cutover_engine::notice::MigrationRecord;
use serde::{Deserialize, Serialize};
use std::fs::{self, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{FileExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

/// Name of the file that is written.
pub const CURRENT: &str = "migrations.jsonl";
/// Name of the one before it.
pub const ROTATED: &str = "migrations.jsonl.1";

/// LIMIT: about ten thousand migrations; then the file becomes [`ROTATED`] and a new one begins.
const BYTES_MAX: u64 = 4 * 1024 * 1024;

/// A line of the file.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Finished {
    /// Wall-clock time of its last phase, in whole seconds since 1970.
    pub finished_at_unix_seconds: u64,
    /// The same in nanoseconds. The first agents did not write it.
    #[serde(default)]
    pub finished_at_unix_ns: Option<u64>,
    /// The boot that the times of the phases count from. The first agents did not write it.
    #[serde(default)]
    pub boot_id: Option<String>,
    /// What happened.
    #[serde(flatten)]
    pub record: MigrationRecord,
}

/// Everything that the files hold.
#[derive(Debug, Default)]
pub struct History {
    /// In the order in which the migrations ended.
    pub finished: Vec<Finished>,
    /// What makes no sense, by file.
    pub unreadable: Vec<Unreadable>,
}

/// Lines of a file that are not records of migrations.
#[derive(Debug)]
pub struct Unreadable {
    /// Which file.
    pub path: PathBuf,
    /// How many lines.
    pub lines: usize,
    /// Number of the first one, from 1.
    pub first_line: usize,
    /// What is wrong with the first one.
    pub reason: String,
}

/// Adds a finished migration.
///
/// # Errors
/// The file cannot be written; the migration is then only in the log.
pub(crate) fn append(run_dir: &Path, record: &MigrationRecord) -> io::Result<()> {
    let path = run_dir.join(CURRENT);
    if fs::metadata(&path).is_ok_and(|metadata| metadata.len() > BYTES_MAX) {
        fs::rename(&path, run_dir.join(ROTATED))?;
    }
    let finished_at_unix_ns = clock::wall_unix_ns(record.phases.ended_at.unwrap_or_else(clock::now));
    let line = Finished {
        finished_at_unix_seconds: finished_at_unix_ns / 1_000_000_000,
        finished_at_unix_ns: Some(finished_at_unix_ns),
        boot_id: clock::boot_id().ok(),
        record: record.clone(),
    };
    let mut text = serde_json::to_vec(&line).map_err(io::Error::other)?;
    text.push(b'\n');
    let mut file = OpenOptions::new().create(true).read(true).append(true).mode(0o600).open(path)?;
    // Half a line, left by a full disk, must not take this one with it.
    let length = file.metadata()?.len();
    let mut last = [b'\n'];
    if length > 0 && file.read_at(&mut last, length - 1)? == 1 && last != [b'\n'] {
        text.insert(0, b'\n');
    }
    file.write_all(&text)
}

/// Reads both files. What makes no sense is left out and told.
///
/// # Errors
/// A file is there and cannot be read.
pub fn read(run_dir: &Path) -> io::Result<History> {
    let rotated = run_dir.join(ROTATED);
    loop {
        let before = identity(&rotated)?;
        let mut history = History::default();
        for path in [&rotated, &run_dir.join(CURRENT)] {
            read_file(path, &mut history)?;
        }
        // The agent may have begun a new file in between.
        if identity(&rotated)? == before {
            return Ok(history);
        }
    }
}

fn identity(path: &Path) -> io::Result<Option<u64>> {
    Ok(found(fs::metadata(path))?.map(|metadata| metadata.ino()))
}

fn found<T>(result: io::Result<T>) -> io::Result<Option<T>> {
    match result {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        other => other.map(Some),
    }
}

fn read_file(path: &Path, history: &mut History) -> io::Result<()> {
    let bytes = found(fs::read(path))?.unwrap_or_default();
    let mut unreadable: Option<Unreadable> = None;
    for (index, line) in bytes.split(|byte| *byte == b'\n').enumerate() {
        if line.trim_ascii().is_empty() {
            continue;
        }
        match serde_json::from_slice(line) {
            Ok(finished) => history.finished.push(finished),
            Err(error) => {
                let entry = unreadable.get_or_insert_with(|| Unreadable {
                    path: path.to_owned(),
                    lines: 0,
                    first_line: index + 1,
                    reason: error.to_string(),
                });
                entry.lines += 1;
            }
        }
    }
    history.unreadable.extend(unreadable);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use cutover_engine::BootTime;
    use cutover_engine::machine::Phases;
    use std::time::{Duration, UNIX_EPOCH};

    fn record(uid: &str) -> MigrationRecord {
        let ended_at = Some(clock::now());
        MigrationRecord {
            uid: uid.into(),
            endpoint: "b-openstack-vm1-port1".into(),
            source: None,
            arrived: true,
            phases: Phases { targeted_at: Some(BootTime(1)), ended_at, ..Phases::default() },
        }
    }

    fn uids(history: &History) -> Vec<&str> {
        history.finished.iter().map(|finished| finished.record.uid.as_str()).collect()
    }

    #[test]
    fn what_is_appended_is_read_with_its_date_and_boot() {
        let dir = tempfile::tempdir().unwrap();
        assert!(read(dir.path()).unwrap().finished.is_empty());
        append(dir.path(), &record("u1")).unwrap();
        append(dir.path(), &record("u2")).unwrap();
        let history = read(dir.path()).unwrap();
        assert_eq!(uids(&history), ["u1", "u2"]);
        assert!(history.unreadable.is_empty());
        let first = &history.finished[0];
        assert_eq!(first.boot_id, clock::boot_id().ok());
        let finished_at = UNIX_EPOCH + Duration::from_nanos(first.finished_at_unix_ns.unwrap());
        assert!(clock::wall().duration_since(finished_at).unwrap() < Duration::from_secs(60));
        assert_eq!(first.finished_at_unix_seconds, first.finished_at_unix_ns.unwrap() / 1_000_000_000);
    }

    #[test]
    fn lines_of_the_first_agents_are_understood() {
        let dir = tempfile::tempdir().unwrap();
        let line = r#"{"finished_at_unix_seconds":1700000000,"uid":"old","endpoint":"e","source":"s","arrived":false,
            "phases":{"targeted_at":5,"ended_at":9}}"#;
        fs::write(dir.path().join(CURRENT), format!("{}\n", line.replace('\n', ""))).unwrap();
        let history = read(dir.path()).unwrap();
        assert_eq!(uids(&history), ["old"]);
        assert_eq!(history.finished[0].finished_at_unix_ns, None);
        assert_eq!(history.finished[0].record.phases.ended_at, Some(BootTime(9)));
    }

    #[test]
    fn a_full_file_is_set_aside_once_and_both_are_read_in_order() {
        let dir = tempfile::tempdir().unwrap();
        append(dir.path(), &record("u1")).unwrap();
        let path = dir.path().join(CURRENT);
        let mut text = fs::read(&path).unwrap();
        text.resize(usize::try_from(BYTES_MAX).unwrap() + 1, b'\n');
        fs::write(&path, text).unwrap();
        append(dir.path(), &record("u2")).unwrap();
        append(dir.path(), &record("u3")).unwrap();
        assert!(dir.path().join(ROTATED).exists());
        assert_eq!(uids(&read(dir.path()).unwrap()), ["u1", "u2", "u3"]);
    }

    #[test]
    fn what_makes_no_sense_costs_nothing_but_itself() {
        let dir = tempfile::tempdir().unwrap();
        append(dir.path(), &record("u1")).unwrap();
        let path = dir.path().join(CURRENT);
        let mut file = OpenOptions::new().append(true).open(&path).unwrap();
        // A line that is none, one that is not text, and one that a full disk cut off.
        file.write_all(b"{}\n\xff\xfe\n{\"uid\":\"ha").unwrap();
        append(dir.path(), &record("u2")).unwrap();
        let history = read(dir.path()).unwrap();
        assert_eq!(uids(&history), ["u1", "u2"]);
        let [unreadable] = &history.unreadable[..] else { panic!("{:?}", history.unreadable) };
        assert_eq!((unreadable.lines, unreadable.first_line), (3, 2));
        assert_eq!(unreadable.path, path);
    }
}
