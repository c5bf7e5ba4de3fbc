//! Results as Markdown: one section for each thing that was measured, with its goals and whether they are met.

use crate::machine;
use anyhow::{Context as _, Result};
use std::fmt::{self, Write as _};
use std::fs;
use std::path::PathBuf;

/// What was measured.
pub(crate) struct Section {
    /// Heading.
    pub(crate) title: &'static str,
    /// What exactly was done and between which moments the time was taken.
    pub(crate) method: String,
    /// Heads of the columns.
    pub(crate) columns: &'static [&'static str],
    /// Cells by row.
    pub(crate) rows: Vec<Vec<String>>,
    /// What the figures should be.
    pub(crate) goals: Vec<Goal>,
    /// The figures drawn.
    pub(crate) picture: Option<Picture>,
}

/// A drawing in a file of its own beside the report.
pub(crate) struct Picture {
    /// Name of the file.
    pub(crate) file: &'static str,
    /// For whoever does not see it.
    pub(crate) description: &'static str,
    /// What is in it.
    pub(crate) svg: String,
}

/// A ratio within one run, and its bound.
pub(crate) struct Goal {
    /// What is divided by what.
    pub(crate) what: String,
    /// The ratio that was measured.
    pub(crate) measured: f64,
    /// What it should be.
    pub(crate) bound: Bound,
}

/// On which side of a number the ratio should be.
#[derive(Clone, Copy)]
pub(crate) enum Bound {
    AtMost(f64),
    AtLeast(f64),
}

impl Bound {
    fn holds(self, measured: f64) -> bool {
        match self {
            Self::AtMost(limit) => measured <= limit,
            Self::AtLeast(limit) => measured >= limit,
        }
    }
}

impl fmt::Display for Bound {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::AtMost(limit) => write!(f, "at most {limit}"),
            Self::AtLeast(limit) => write!(f, "at least {limit}"),
        }
    }
}

impl fmt::Display for Section {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "## {}\n\n{}\n", self.title, self.method)?;
        table(f, self.columns, &self.rows)?;
        if let Some(Picture { file, description, .. }) = &self.picture {
            writeln!(f, "\n![{description}]({file})")?;
        }
        if self.goals.is_empty() {
            return Ok(());
        }
        let goals: Vec<_> = self
            .goals
            .iter()
            .map(|goal| {
                let met = if goal.bound.holds(goal.measured) { "met" } else { "**missed**" };
                vec![goal.what.clone(), format!("{:.2}", goal.measured), goal.bound.to_string(), met.into()]
            })
            .collect();
        writeln!(f)?;
        table(f, &["ratio", "measured", "goal", ""], &goals)
    }
}

fn table(f: &mut fmt::Formatter<'_>, columns: &[&str], rows: &[Vec<String>]) -> fmt::Result {
    writeln!(f, "| {} |", columns.join(" | "))?;
    writeln!(f, "|{}", "---|".repeat(columns.len()))?;
    for row in rows {
        writeln!(f, "| {} |", row.join(" | "))?;
    }
    Ok(())
}

/// The file that results are written to.
pub(crate) struct Report {
    path: PathBuf,
    /// What is in it already, if that stays.
    kept: Option<Kept>,
}

/// A report in parts, each as it is written.
struct Kept {
    head: String,
    sections: Vec<String>,
}

impl Report {
    /// One that says everything anew.
    pub(crate) fn new(path: PathBuf) -> Self {
        Self { path, kept: None }
    }

    /// One that is there, of which some sections are replaced. What the machine has changed since is said with each of them.
    pub(crate) fn open(path: PathBuf) -> Result<Self> {
        let text = fs::read_to_string(&path)
            .with_context(|| format!("{} could not be read: measure everything first", path.display()))?;
        let mut parts = text.split("\n## ");
        let head = parts.next().unwrap_or_default().to_owned();
        let sections = parts.map(|part| format!("## {part}")).collect();
        Ok(Self { path, kept: Some(Kept { head, sections }) })
    }

    /// Writes the sections, with what one has to know about the machine, and their pictures beside it.
    pub(crate) fn write(self, measured: &[Section]) -> Result<()> {
        let text = match self.kept {
            None => {
                let mut text = String::from(
                    "# Benchmarks\n\n\
                     Written by `cargo xtask bench`, which anybody can run again: nothing here is typed in. Times depend on the \
                     machine and on what else it does, so the goals are ratios between things that were measured in turns, in \
                     one run.\n\n",
                );
                machine::describe(&mut text)?;
                for section in measured {
                    write!(text, "\n{section}")?;
                }
                text
            }
            Some(kept) => {
                let moment = machine::moment(&kept.head)?;
                kept.replaced(measured, &moment)
            }
        };
        for picture in measured.iter().filter_map(|section| section.picture.as_ref()) {
            let path = self.path.with_file_name(picture.file);
            fs::write(&path, &picture.svg)
                .with_context(|| format!("{} could not be written", path.display()))?;
        }
        fs::write(&self.path, text).with_context(|| format!("{} could not be written", self.path.display()))
    }
}

impl Kept {
    /// The text with these sections in the places of the old ones, or at the end.
    fn replaced(self, measured: &[Section], moment: &str) -> String {
        let Self { head, mut sections } = self;
        for section in measured {
            let heading = format!("## {}\n", section.title);
            let text = format!("{section}\nMeasured by itself: {moment}.\n");
            match sections.iter_mut().find(|old| old.starts_with(&heading)) {
                Some(old) => *old = text,
                None => sections.push(text),
            }
        }
        let sections = sections.iter().map(|section| format!("\n\n{}", section.trim_end()));
        format!("{}{}\n", head.trim_end(), sections.collect::<String>())
    }
}
