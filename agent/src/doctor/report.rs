//! All findings, as a table for people and as JSON for programs.

use super::finding::{Area, Finding, Level};
use cutover_daemon::logging::printable;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fmt::Write as _;

/// What was found on a host.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Report {
    host: String,
    findings: Vec<Finding>,
}

impl Report {
    /// Sorts findings: the worst first, and within a level by area.
    #[must_use]
    pub fn new(host: &str, mut findings: Vec<Finding>) -> Self {
        findings.sort_by_key(|finding| (std::cmp::Reverse(finding.level), finding.check.area));
        Self { host: host.to_owned(), findings }
    }

    /// The worst first.
    #[must_use]
    pub fn findings(&self) -> &[Finding] {
        &self.findings
    }

    /// How many findings of this level there are.
    #[must_use]
    pub fn count(&self, level: Level) -> usize {
        self.findings.iter().filter(|finding| finding.level == level).count()
    }

    /// For people: problems with all that belongs to them, then what is as it should be in few lines.
    #[must_use]
    pub fn table(&self) -> String {
        let mut text = format!("{}{}\n", self.title(), self.summary());
        for finding in self.findings.iter().filter(|finding| finding.level != Level::Ok) {
            let (level, check) = (finding.level.word().to_uppercase(), finding.check);
            let _ = write!(text, "\n{level:8} {}: {}\n", check.id(), printable(&finding.what));
            let _ = writeln!(text, "         why:    {}", check.why);
            if let Some(change) = &finding.change {
                let _ = writeln!(text, "         change: {}", printable(change));
            }
        }
        text.push_str(&self.passed());
        text
    }

    fn title(&self) -> String {
        if self.host.is_empty() { String::new() } else { format!("host {}: ", self.host) }
    }

    fn summary(&self) -> String {
        let plural = |level: Level, count: usize| {
            format!("{count} {}{}", level.word(), if count == 1 { "" } else { "s" })
        };
        let mut parts: Vec<String> = [Level::Error, Level::Warning, Level::Notice]
            .into_iter()
            .map(|level| (level, self.count(level)))
            .filter(|(_, count)| *count > 0)
            .map(|(level, count)| plural(level, count))
            .collect();
        parts.push(format!("{} ok", self.count(Level::Ok)));
        parts.join(", ")
    }

    fn passed(&self) -> String {
        let mut areas: BTreeMap<Area, Vec<&str>> = BTreeMap::new();
        for finding in self.findings.iter().filter(|finding| finding.level == Level::Ok) {
            let names = areas.entry(finding.check.area).or_default();
            if !names.contains(&finding.check.name) {
                names.push(finding.check.name);
            }
        }
        let mut text = String::new();
        for (area, names) in areas {
            let separator = if text.is_empty() { "\n" } else { "" };
            let _ = writeln!(text, "{separator}OK       {}: {}", area.word(), names.join(", "));
        }
        text
    }

    /// For programs. `change` is null where nothing has to be changed.
    #[must_use]
    pub fn json(&self) -> Value {
        let findings: Vec<Value> = self
            .findings
            .iter()
            .map(|finding| {
                json!({
                    "check": finding.check.id(),
                    "level": finding.level.word(),
                    "what": finding.what,
                    "why": finding.check.why,
                    "change": finding.change,
                })
            })
            .collect();
        let count = |level| self.count(level);
        json!({
            "host": self.host,
            "errors": count(Level::Error),
            "warnings": count(Level::Warning),
            "notices": count(Level::Notice),
            "findings": findings,
        })
    }
}
