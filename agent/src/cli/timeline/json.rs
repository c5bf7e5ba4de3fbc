//! The timeline for programs, and for `--html` on another host.

use cutover_daemon::browser::Record;
use cutover_daemon::timeline::{Departure, Migration, Outcome, Phase, Step, span};
use cutover_engine::BootTime;
use cutover_engine::machine::{Phases, State, kind_name};
use serde::{Deserialize, Serialize};

#[derive(Serialize, Deserialize)]
struct Document {
    /// Whose timeline it is.
    #[serde(default)]
    host: String,
    /// By how many nanoseconds the wall clock of the host may have been wrong when this was printed, if it follows another one.
    #[serde(default)]
    clock_error_ns: Option<u64>,
    /// Whether running migrations are among them.
    agent_answered: bool,
    /// Lines of the record that made no sense.
    #[serde(default)]
    unreadable_lines: usize,
    /// To this host.
    migrations: Vec<Entry>,
    /// Away from it.
    #[serde(default)]
    departures: Vec<Left>,
}

#[derive(Serialize, Deserialize)]
struct Entry {
    uid: String,
    endpoint: String,
    source: Option<String>,
    result: Word,
    /// Of a running one.
    state: Option<State>,
    announcement: Option<String>,
    /// Tracked connections that were taken over.
    #[serde(default)]
    connections: Option<u32>,
    /// From the last frame where it came from to the announcement, if that is known.
    #[serde(default)]
    blackout_ns: Option<u64>,
    /// By how many nanoseconds the time of that last frame may be wrong.
    #[serde(default)]
    last_frame_error_ns: Option<u64>,
    began_at: String,
    boot_id: Option<String>,
    /// In the order in which they came.
    phases: Vec<ReachedPhase>,
}

#[derive(Clone, Copy, Serialize, Deserialize)]
enum Word {
    #[serde(rename = "running")]
    Running,
    #[serde(rename = "arrived")]
    Arrived,
    #[serde(rename = "not arrived")]
    NotArrived,
}

#[derive(Serialize, Deserialize)]
struct ReachedPhase {
    phase: Phase,
    boot_ns: u64,
    unix_ns: u64,
    /// Negative for what an earlier attempt left.
    since_begin_ns: i64,
}

#[derive(Serialize, Deserialize)]
struct Left {
    uid: String,
    endpoint: String,
    to: String,
    /// In the order in which they came.
    phases: Vec<ReachedStep>,
}

#[derive(Serialize, Deserialize)]
struct ReachedStep {
    phase: Step,
    unix_ns: u64,
}

pub(super) fn document(record: &Record, unreadable_lines: usize) -> String {
    let document = Document {
        host: record.host.clone(),
        clock_error_ns: record.clock_error_ns,
        agent_answered: record.agent_answered,
        unreadable_lines,
        migrations: record.migrations.iter().map(entry).collect(),
        departures: record.departures.iter().map(left).collect(),
    };
    let text = serde_json::to_string_pretty(&document).expect("only text and numbers, and text as keys");
    text + "\n"
}

/// What [`document`] has written, here or elsewhere.
///
/// # Errors
/// It has not.
pub(super) fn read(text: &[u8]) -> serde_json::Result<Record> {
    let document: Document = serde_json::from_slice(text)?;
    Ok(Record {
        host: document.host,
        clock_error_ns: document.clock_error_ns,
        migrations: document.migrations.into_iter().map(migration).collect(),
        departures: document.departures.into_iter().map(departure).collect(),
        agent_answered: document.agent_answered,
    })
}

fn entry(migration: &Migration) -> Entry {
    let began = migration.began_at();
    let (result, state) = match migration.outcome {
        Outcome::Running(state) => (Word::Running, Some(state)),
        Outcome::Arrived => (Word::Arrived, None),
        Outcome::NotArrived => (Word::NotArrived, None),
    };
    let step = |(phase, at): (Phase, BootTime)| ReachedPhase {
        phase,
        boot_ns: at.0,
        unix_ns: migration.unix_ns(at),
        since_begin_ns: at.0.cast_signed().saturating_sub(began.0.cast_signed()),
    };
    Entry {
        uid: migration.uid.clone(),
        endpoint: migration.endpoint.clone(),
        source: migration.source.clone(),
        result,
        state,
        announcement: migration.announcement().map(str::to_owned),
        connections: migration.phases.connections,
        blackout_ns: migration.blackout().and_then(|it| u64::try_from(it.length.as_nanos()).ok()),
        last_frame_error_ns: migration.phases.last_frame_error_ns,
        began_at: span::date(migration.unix_ns(began)),
        boot_id: migration.boot_id.clone(),
        phases: migration.steps().into_iter().map(step).collect(),
    }
}

fn migration(entry: Entry) -> Migration {
    let Entry { connections, last_frame_error_ns, .. } = entry;
    let mut phases = Phases { connections, last_frame_error_ns, ..Phases::default() };
    for reached in &entry.phases {
        reached.phase.set(&mut phases, BootTime(reached.boot_ns));
    }
    let is_it = |kind: &u32| entry.announcement.as_deref() == Some(kind_name(*kind));
    // Numbers of kinds are those of the map, which are few and small.
    phases.kind = (0..64).find(is_it);
    let last = entry.phases.iter().max_by_key(|reached| reached.boot_ns);
    Migration {
        uid: entry.uid,
        endpoint: entry.endpoint,
        source: entry.source,
        outcome: match entry.result {
            Word::Running => Outcome::Running(entry.state.unwrap_or(State::Target)),
            Word::Arrived => Outcome::Arrived,
            Word::NotArrived => Outcome::NotArrived,
        },
        phases,
        boot_id: entry.boot_id,
        until: BootTime(last.map_or(0, |reached| reached.boot_ns)),
        until_unix_ns: last.map_or(0, |reached| reached.unix_ns),
        is_exact: true,
    }
}

fn left(departure: &Departure) -> Left {
    let step = |(phase, unix_ns): &(Step, u64)| ReachedStep { phase: *phase, unix_ns: *unix_ns };
    Left {
        uid: departure.uid.clone(),
        endpoint: departure.endpoint.clone(),
        to: departure.to.clone(),
        phases: departure.steps.iter().map(step).collect(),
    }
}

fn departure(left: Left) -> Departure {
    let steps = left.phases.into_iter().map(|reached| (reached.phase, reached.unix_ns)).collect();
    Departure { uid: left.uid, endpoint: left.endpoint, to: left.to, steps }
}

#[cfg(test)]
mod tests {
    use super::*;
    use cutover_daemon::timeline::samples::{migration, phases, running};
    use std::time::Duration;

    #[test]
    fn what_is_printed_is_read_as_what_it_was() {
        let not_over = Phases { ended_at: None, ..phases() };
        let mut under_way = running("u2", not_over, Duration::from_secs(9));
        // Of the time at which it was looked at nothing is printed.
        let last = under_way.steps().pop().expect("some came").1;
        (under_way.until_unix_ns, under_way.until) = (under_way.unix_ns(last), last);
        let departure = Departure {
            uid: "u3".into(),
            endpoint: "a".into(),
            to: "b".into(),
            steps: vec![(Step::Began, 1), (Step::Ended, 2)],
        };
        let record = Record {
            host: "compute-2".into(),
            clock_error_ns: Some(30_000),
            migrations: vec![migration("u1", phases()), under_way],
            departures: vec![departure],
            agent_answered: true,
        };
        assert_eq!(read(document(&record, 3).as_bytes()).unwrap(), record);
    }

    #[test]
    fn a_document_of_an_earlier_version_is_read() {
        let text = r#"{"agent_answered": false, "unreadable_lines": 0, "migrations": [
            {"uid": "u", "endpoint": "e", "source": null, "result": "not arrived", "state": null, "announcement": null,
             "began_at": "2024-02-29T12:34:56Z", "boot_id": null, "phases": []}]}"#;
        let record = read(text.as_bytes()).unwrap();
        assert_eq!((record.migrations.len(), record.host.as_str()), (1, ""));
        assert_eq!(record.migrations[0].outcome, Outcome::NotArrived);
        assert!(read(b"[]").is_err());
    }
}
