//! The book: what is in `docs/`, with the documents of the root. Whether its pages hold together, and how mdBook makes HTML of them.
//!
//! The pages are written for whoever reads them in the repository, in `/usr/share/doc` or as HTML. So nothing in them is mdBook's own, and
//! links lead from file to file.

mod build;
mod markdown;
mod rules;
mod sources;

use crate::step::say;
use crate::workspace;
use anyhow::{Context as _, Result, bail};
use markdown::Page;
use std::fs;
use std::path::{Path, PathBuf};

/// The table of contents, as mdBook wants it.
const SUMMARY: &str = "docs/SUMMARY.md";
/// Where pages are.
const FOLDERS: [&str; 3] = ["", "docs", "monitoring"];

/// The `book` chore: checks the pages and builds them.
pub(crate) fn run() -> Result<()> {
    check_pages()?;
    let folder = build::build()?;
    say(format_args!("the book is at {}", folder.join("index.html").display()));
    Ok(())
}

/// What `check` asks: the pages, and whether they can be built where mdBook is to be had.
pub(crate) fn check() -> Result<()> {
    check_pages()?;
    match crate::setup::mdbook() {
        Ok(_) => build::build().map(drop),
        Err(error) => {
            say(format_args!("SKIPPED building the book, its pages are checked: {error:#}"));
            Ok(())
        }
    }
}

/// Fails with everything that is wrong.
fn check_pages() -> Result<()> {
    let pages = pages(workspace::root())?;
    let sources = sources::Sources::read(workspace::root())?;
    let problems = rules::problems(workspace::root(), &pages, &sources);
    if problems.is_empty() {
        say(format_args!("{} pages hold together", pages.len()));
        return Ok(());
    }
    bail!("the pages have {} faults:\n{}", problems.len(), problems.join("\n"))
}

/// Every page, by its path from the root, in order.
fn pages(root: &Path) -> Result<Vec<Page>> {
    let mut paths: Vec<PathBuf> = Vec::new();
    for folder in FOLDERS {
        let entries = fs::read_dir(root.join(folder)).with_context(|| folder.to_owned())?;
        for entry in entries {
            let name = entry?.file_name();
            if Path::new(&name).extension().is_some_and(|extension| extension == "md") {
                paths.push(Path::new(folder).join(name));
            }
        }
    }
    paths.sort();
    let read = |path: PathBuf| {
        let text = fs::read_to_string(root.join(&path)).with_context(|| path.display().to_string())?;
        Ok(Page::parse(path, &text))
    };
    paths.into_iter().map(read).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pages_of_this_repository_hold_together() {
        check_pages().unwrap();
    }
}
