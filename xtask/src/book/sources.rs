//! What pages are compared with: the text of the programs, and of their tests.

use anyhow::{Context as _, Result};
use std::fs;
use std::path::{Path, PathBuf};

/// Folders with what users meet in logs and answers.
const PROGRAM: [&str; 5] =
    ["agent/src", "agent/bgp/src", "agent/daemon/src", "agent/engine/src", "common/src"];
/// Folders with tests of pages.
const TESTS: [&str; 2] = ["agent/tests", "tests/tests"];

const ALERTS: &str = "monitoring/cutover.rules.yml";

/// The texts of all files.
#[derive(Default)]
pub(super) struct Sources {
    /// Of the program, with messages that are broken into lines put together.
    pub(super) program: Vec<String>,
    pub(super) tests: Vec<String>,
    /// Names of the rules for Prometheus.
    pub(super) alerts: Vec<String>,
}

impl Sources {
    /// Reads them.
    pub(super) fn read(root: &Path) -> Result<Self> {
        let texts = |folders: &[&str]| -> Result<Vec<String>> {
            let mut paths = Vec::new();
            for folder in folders {
                collect(&root.join(folder), &mut paths)?;
            }
            let read = |path: &PathBuf| fs::read_to_string(path).with_context(|| path.display().to_string());
            paths.iter().map(read).collect()
        };
        let program = texts(&PROGRAM)?.iter().map(|text| joined(text)).collect();
        let rules = fs::read_to_string(root.join(ALERTS)).context(ALERTS)?;
        let alerts = rules.lines().filter_map(|line| line.trim().strip_prefix("- alert: "));
        Ok(Self { program, tests: texts(&TESTS)?, alerts: alerts.map(str::to_owned).collect() })
    }

    /// Whether one file of the program has all parts of a message between its `…`.
    pub(super) fn say(&self, message: &str) -> bool {
        let parts: Vec<&str> = message.split('…').map(str::trim).filter(|part| !part.is_empty()).collect();
        !parts.is_empty() && self.program.iter().any(|text| parts.iter().all(|part| text.contains(part)))
    }

    /// Whether there is a test of this name that names the page.
    pub(super) fn test(&self, name: &str, page: &str) -> bool {
        self.tests.iter().any(|text| is_tested(text, name, page))
    }
}

/// Whether the file has that test.
fn is_tested(text: &str, name: &str, page: &str) -> bool {
    let Some(at) = text.find(&format!("fn {name}(")) else { return false };
    let before = text[..at].rsplit("\n\n").next().unwrap_or_default();
    let body = text[at..].split("\n}").next().unwrap_or_default();
    before.contains("test]") && body.contains(&format!("{page}\"")) && body.contains(&format!("\"{name}\""))
}

/// A literal goes on in the next line behind a backslash.
fn joined(text: &str) -> String {
    let mut parts = text.split("\\\n");
    let first = parts.next().unwrap_or_default().to_owned();
    parts.fold(first, |text, part| text + part.trim_start())
}

fn collect(folder: &Path, paths: &mut Vec<PathBuf>) -> Result<()> {
    for entry in fs::read_dir(folder).with_context(|| folder.display().to_string())? {
        let path = entry?.path();
        if path.is_dir() {
            collect(&path, paths)?;
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            paths.push(path);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_is_one_that_a_file_has_whole() {
        let text = "warn!(\"the agent of {host} is \\\n        not reached\");\n";
        let sources = Sources { program: vec![joined(text), "nothing".to_owned()], ..Sources::default() };
        assert!(sources.say("the agent of … is not reached"));
        assert!(!sources.say("the agent of … is reached"));
        assert!(!sources.say("…"));
    }

    #[test]
    fn a_test_has_to_be_one_and_to_read_the_page() {
        let file = "#[test]\nfn quick() {\n    run(\"quick-start.md\", \"quick\");\n}\n\nfn helper() {\n    run(\"quick-start.md\", \"helper\");\n}\n";
        assert!(is_tested(file, "quick", "quick-start.md"));
        assert!(!is_tested(file, "quick", "other.md"));
        assert!(!is_tested(file, "helper", "quick-start.md"));
        assert!(!is_tested(file, "absent", "quick-start.md"));
    }
}
