//! The timeline for programs.

use super::migration::{Migration, Outcome, Phase};
use super::span;
use cutover_engine::machine::State;
use serde::Serialize;

#[derive(Serialize)]
struct Document<'a> {
    /// Whether running migrations are among them.
    agent_answered: bool,
    /// Lines of the record that made no sense.
    unreadable_lines: usize,
    migrations: Vec<Entry<'a>>,
}

#[derive(Serialize)]
struct Entry<'a> {
    uid: &'a str,
    endpoint: &'a str,
    source: Option<&'a str>,
    /// `running`, `arrived` or `not arrived`.
    result: &'static str,
    /// Of a running one.
    state: Option<State>,
    announcement: Option<&'static str>,
    began_at: String,
    boot_id: Option<&'a str>,
    /// In the order in which they came.
    phases: Vec<ReachedPhase>,
}

#[derive(Serialize)]
struct ReachedPhase {
    phase: Phase,
    boot_ns: u64,
    unix_ns: u64,
    /// Negative for what an earlier attempt left.
    since_begin_ns: i128,
}

pub(super) fn document(migrations: &[Migration], agent_answered: bool, unreadable_lines: usize) -> String {
    let migrations = migrations.iter().map(entry).collect();
    let document = Document { agent_answered, unreadable_lines, migrations };
    let text = serde_json::to_string_pretty(&document).expect("only text and numbers, and text as keys");
    text + "\n"
}

fn entry(migration: &Migration) -> Entry<'_> {
    let began = migration.began_at();
    let (result, state) = match migration.outcome {
        Outcome::Running(state) => ("running", Some(state)),
        Outcome::Arrived => ("arrived", None),
        Outcome::NotArrived => ("not arrived", None),
    };
    let step = |(phase, at): (Phase, cutover_engine::BootTime)| ReachedPhase {
        phase,
        boot_ns: at.0,
        unix_ns: migration.unix_ns(at),
        since_begin_ns: i128::from(at.0) - i128::from(began.0),
    };
    Entry {
        uid: &migration.uid,
        endpoint: &migration.endpoint,
        source: migration.source.as_deref(),
        result,
        state,
        announcement: migration.announcement(),
        began_at: span::date(migration.unix_ns(began)),
        boot_id: migration.boot_id.as_deref(),
        phases: migration.steps().into_iter().map(step).collect(),
    }
}
