//! `migrations.jsonl` and `departures.jsonl` in the run directory: one line of JSON for each finished migration to this host, and for each away
//! from it.
//!
//! The agent appends, `cutover timeline` reads; nobody changes a line. What is in a record is the engine's; this file
//! adds when that was for people.

use crate::clock;
use cutover_engine::BootTime;
use cutover_engine::notice::{DepartureRecord, MigrationRecord};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::{FileExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

/// Name of the file that is written.
pub const CURRENT: &str = "migrations.jsonl";
/// Name of the one before it.
pub const ROTATED: &str = "migrations.jsonl.1";

/// The file that is written of migrations away from here.
pub const DEPARTURES_CURRENT: &str = "departures.jsonl";
/// The one before it.
pub const DEPARTURES_ROTATED: &str = "departures.jsonl.1";

/// LIMIT: about ten thousand migrations; then the file is renamed and a new one begins.
const BYTES_MAX: u64 = 4 * 1024 * 1024;
/// LIMIT: what [`latest`] reads of a file: some hundred migrations.
const TAIL_BYTES: u64 = 64 * 1024;

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

/// A line of `departures.jsonl`.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Departed {
    /// Wall-clock time of its end, in nanoseconds since 1970.
    pub ended_at_unix_ns: u64,
    /// The boot that the times count from, if known.
    pub boot_id: Option<String>,
    /// What happened.
    #[serde(flatten)]
    pub record: DepartureRecord,
}

/// Everything that the files of one kind hold.
#[derive(Debug, Serialize, Deserialize)]
pub struct History<Line> {
    /// In the order in which the migrations ended.
    pub finished: Vec<Line>,
    /// What makes no sense, by file.
    pub unreadable: Vec<Unreadable>,
}

/// Lines of a file that are not records of migrations.
#[derive(Debug, Serialize, Deserialize)]
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

/// Adds a finished migration to this host.
///
/// # Errors
/// The file cannot be written; the migration is then only in the log.
pub(crate) fn append(run_dir: &Path, record: &MigrationRecord) -> io::Result<()> {
    let (unix_ns, boot_id) = date(record.phases.ended_at.unwrap_or_else(clock::now));
    let line = Finished {
        finished_at_unix_seconds: unix_ns / 1_000_000_000,
        finished_at_unix_ns: Some(unix_ns),
        boot_id,
        record: record.clone(),
    };
    MIGRATIONS.append(run_dir, &line)
}

/// Adds a migration away from this host that is over.
///
/// # Errors
/// As [`append`].
pub(crate) fn append_departure(run_dir: &Path, record: &DepartureRecord) -> io::Result<()> {
    let (ended_at_unix_ns, boot_id) = date(record.ended_at);
    DEPARTURES.append(run_dir, &Departed { ended_at_unix_ns, boot_id, record: record.clone() })
}

fn date(at: BootTime) -> (u64, Option<String>) {
    (clock::wall_unix_ns(at), clock::boot_id().ok())
}

/// Reads the record of migrations to this host. What makes no sense is left out and told.
///
/// # Errors
/// A file is there and cannot be read.
pub fn read(run_dir: &Path) -> io::Result<History<Finished>> {
    MIGRATIONS.read(run_dir)
}

/// Reads the record of migrations away from this host, as [`read`].
///
/// # Errors
/// A file is there and cannot be read.
pub fn read_departures(run_dir: &Path) -> io::Result<History<Departed>> {
    DEPARTURES.read(run_dir)
}

/// The newest migrations to this host, as many as there are and at most `most`, in the order in which they ended. Reads no more than the
/// ends of the files.
///
/// # Errors
/// As [`read`].
pub(crate) fn latest(run_dir: &Path, most: usize) -> io::Result<Vec<Finished>> {
    let mut latest = lines(&tail(&run_dir.join(CURRENT))?);
    if latest.len() < most {
        let mut before = lines(&tail(&run_dir.join(ROTATED))?);
        before.append(&mut latest);
        latest = before;
    }
    latest.drain(..latest.len().saturating_sub(most));
    Ok(latest)
}

/// Whole lines at the end of a file.
fn tail(path: &Path) -> io::Result<Vec<u8>> {
    let Some(file) = found(File::open(path))? else { return Ok(Vec::new()) };
    let begin = file.metadata()?.len().saturating_sub(TAIL_BYTES);
    let mut bytes = Vec::new();
    (&file).seek(SeekFrom::Start(begin))?;
    (&file).take(TAIL_BYTES).read_to_end(&mut bytes)?;
    if begin > 0 {
        let end_of_half = bytes.iter().position(|byte| *byte == b'\n').map_or(bytes.len(), |at| at + 1);
        bytes.drain(..end_of_half);
    }
    Ok(bytes)
}

fn lines(bytes: &[u8]) -> Vec<Finished> {
    bytes.split(|byte| *byte == b'\n').filter_map(|line| serde_json::from_slice(line).ok()).collect()
}

/// A record: a file that grows and the one before it.
struct Log {
    current: &'static str,
    rotated: &'static str,
}

const MIGRATIONS: Log = Log { current: CURRENT, rotated: ROTATED };
const DEPARTURES: Log = Log { current: DEPARTURES_CURRENT, rotated: DEPARTURES_ROTATED };

impl Log {
    fn append(&self, run_dir: &Path, line: &impl Serialize) -> io::Result<()> {
        let path = run_dir.join(self.current);
        if fs::metadata(&path).is_ok_and(|metadata| metadata.len() > BYTES_MAX) {
            fs::rename(&path, run_dir.join(self.rotated))?;
        }
        let mut text = serde_json::to_vec(line).map_err(io::Error::other)?;
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

    fn read<Line: DeserializeOwned>(&self, run_dir: &Path) -> io::Result<History<Line>> {
        let rotated = run_dir.join(self.rotated);
        loop {
            let before = identity(&rotated)?;
            let mut history = History { finished: Vec::new(), unreadable: Vec::new() };
            for path in [&rotated, &run_dir.join(self.current)] {
                read_file(path, &mut history)?;
            }
            // The agent may have begun a new file in between.
            if identity(&rotated)? == before {
                return Ok(history);
            }
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

fn read_file<Line: DeserializeOwned>(path: &Path, history: &mut History<Line>) -> io::Result<()> {
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

    fn uids(history: &History<Finished>) -> Vec<&str> {
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
    fn the_newest_are_found_at_the_ends_of_the_files() {
        let dir = tempfile::tempdir().unwrap();
        let uids = |most| -> Vec<String> {
            latest(dir.path(), most).unwrap().into_iter().map(|line| line.record.uid).collect()
        };
        assert!(uids(3).is_empty());
        append(dir.path(), &record("u1")).unwrap();
        append(dir.path(), &record("u2")).unwrap();
        fs::rename(dir.path().join(CURRENT), dir.path().join(ROTATED)).unwrap();
        append(dir.path(), &record("u3")).unwrap();
        assert_eq!(uids(2), ["u2", "u3"]);
        assert_eq!(uids(9), ["u1", "u2", "u3"]);
        // So long that it is cut, and what is left of it is no line.
        append(dir.path(), &record(&"x".repeat(TAIL_BYTES as usize))).unwrap();
        append(dir.path(), &record("u4")).unwrap();
        assert_eq!(uids(1), ["u4"]);
        assert_eq!(uids(9), ["u1", "u2", "u4"]);
    }

    #[test]
    fn departures_have_a_file_of_their_own() {
        let dir = tempfile::tempdir().unwrap();
        let record = DepartureRecord {
            uid: "u1".into(),
            endpoint: "a-openstack-vm1-port1".into(),
            to: "b-openstack-vm1-port1".into(),
            began_at: BootTime(1),
            stopped_at: Some(BootTime(2)),
            heard_at: None,
            forwarded_at: Some(BootTime(3)),
            last_frame_at: Some(BootTime(2)),
            ended_at: clock::now(),
        };
        append_departure(dir.path(), &record).unwrap();
        let history = read_departures(dir.path()).unwrap();
        let [line] = &history.finished[..] else { panic!("{history:?}") };
        assert_eq!((&line.record, &line.boot_id), (&record, &clock::boot_id().ok()));
        assert!(read(dir.path()).unwrap().finished.is_empty());
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
