//! What one recording says, line by line. `tests/vectors/compact.py` has the format. Judges nothing.

use serde_json::Value;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// One recording.
pub(crate) struct Recording {
    /// Name of the scenario.
    pub(crate) name: String,
    /// In order, with the time since the first endpoint was written.
    pub(crate) lines: Vec<(Duration, Line)>,
}

/// One line of a recording.
pub(crate) enum Line {
    /// What follows belongs to this step.
    Step(String),
    /// A key was written, with this text.
    Put(String, String),
    /// A key was deleted.
    Delete(String),
    /// The virtual machine of a port runs on this host from now on, or nowhere.
    Runs(String, Option<String>),
}

impl Recording {
    /// Names of all recordings.
    pub(crate) fn names() -> Vec<String> {
        let files =
            fs::read_dir(folder()).expect("the recordings").map(|entry| entry.expect("a file").path());
        let recordings = files.filter(|path| path.extension().is_some_and(|extension| extension == "jsonl"));
        let mut names: Vec<_> =
            recordings.map(|path| path.file_stem().expect("a name").to_string_lossy().into_owned()).collect();
        names.sort();
        names
    }

    pub(crate) fn read(name: &str) -> Self {
        let text = fs::read_to_string(folder().join(format!("{name}.jsonl"))).expect("a recording");
        let mut recording = Self { name: name.to_owned(), lines: Vec::new() };
        for line in text.lines() {
            let object: Value = serde_json::from_str(line).expect("every line is an object");
            let at = Duration::from_millis(object["ms"].as_u64().expect("milliseconds"));
            let line = recording.line(&object).unwrap_or_else(|| panic!("{name}: {line}"));
            recording.lines.push((at, line));
        }
        recording
    }

    fn line(&self, object: &Value) -> Option<Line> {
        let text = |field: &str| object[field].as_str().map(str::to_owned);
        if let Some(step) = text("step") {
            return Some(Line::Step(step));
        }
        if let Some(key) = text("delete") {
            return Some(Line::Delete(key));
        }
        if let Some(port) = text("runs") {
            return Some(Line::Runs(port, text("host")));
        }
        let key = text("put")?;
        let value = match object.get("value") {
            Some(value) => value.to_string(),
            None => text("text").or_else(|| self.latest(&key))?,
        };
        Some(Line::Put(key, value))
    }

    /// What was written to a key before.
    fn latest(&self, key: &str) -> Option<String> {
        self.lines.iter().rev().find_map(|(_, line)| match line {
            Line::Put(written, value) if written == key => Some(value.clone()),
            _ => None,
        })
    }

    /// Every endpoint that is written at any time.
    pub(crate) fn endpoints(&self) -> impl Iterator<Item = Value> {
        self.lines.iter().filter_map(|(_, line)| match line {
            Line::Put(key, value) if key.contains("/workloadendpoints/") => serde_json::from_str(value).ok(),
            _ => None,
        })
    }
}

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("vectors")
}
