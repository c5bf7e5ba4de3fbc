//! What has to be so with every page.

use super::SUMMARY;
use super::markdown::{Block, Page};
use super::sources::Sources;
use std::collections::BTreeMap;
use std::path::{Component, Path, PathBuf};

/// Languages whose blocks are commands: each says what became of them.
const COMMANDS: [&str; 2] = ["sh", "console"];
/// Languages of everything else.
const OTHERS: [&str; 8] = ["text", "ini", "yaml", "json", "toml", "rust", "sql", "xml"];
/// Where settings are that exist.
const SETTINGS: &str = "docs/configuration.md";
/// Where every message and alert can be looked up. Text between backticks with an ellipsis in it is a message there.
const TROUBLES: &str = "docs/troubleshooting.md";
const ELLIPSIS: char = '…';
/// What is past is not looked for among what exists.
const HISTORY: &str = "CHANGELOG.md";

/// Everything that is wrong, each with page and line.
pub(super) fn problems(root: &Path, pages: &[Page], sources: &Sources) -> Vec<String> {
    let by_path: BTreeMap<&Path, &Page> = pages.iter().map(|page| (page.path.as_path(), page)).collect();
    let mut problems = Vec::new();
    for page in pages {
        let mut say = |line: usize, text: String| {
            problems.push(format!("{}:{line}: {text}", page.path.display()));
        };
        for link in &page.links {
            if let Some(text) = broken(root, &by_path, page, &link.target) {
                say(link.line, text);
            }
        }
        for block in &page.blocks {
            if let Some(text) = unmarked(page, block, sources) {
                say(block.line, text);
            }
        }
        for (line, words) in &page.words {
            if page.path == Path::new(TROUBLES) && words.contains(ELLIPSIS) && !sources.say(words) {
                say(*line, format!("no program says {words:?}"));
            }
            if let Some(name) = unknown_setting(&by_path, &sources.alerts, page, words) {
                say(*line, format!("there is no setting {name} in {SETTINGS}"));
            }
        }
    }
    problems.extend(left_out(&by_path));
    problems.extend(unexplained(&by_path, &sources.alerts));
    problems
}

/// What is wrong with a link.
fn broken(root: &Path, pages: &BTreeMap<&Path, &Page>, page: &Page, target: &str) -> Option<String> {
    if target.contains("://") || target.starts_with("mailto:") {
        return None;
    }
    let (file, anchor) = target.split_once('#').map_or((target, None), |(file, anchor)| (file, Some(anchor)));
    let Some(path) = led_to(page, file) else { return Some(format!("{target} leads out of the repository")) };
    if !root.join(&path).exists() {
        return Some(format!("{target} leads to nothing: there is no {}", path.display()));
    }
    let anchor = anchor?;
    match pages.get(path.as_path()) {
        Some(to) if to.anchors.contains(anchor) => None,
        Some(_) => Some(format!("{target}: {} has no heading that is called #{anchor}", path.display())),
        None => Some(format!("{target}: only pages have headings")),
    }
}

/// The path that a link of a page means, from the root; `None` if that is outside.
pub(super) fn led_to(page: &Page, file: &str) -> Option<PathBuf> {
    if file.is_empty() {
        return Some(page.path.clone());
    }
    let mut path = page.path.parent().unwrap_or(Path::new("")).to_owned();
    for component in Path::new(file).components() {
        match component {
            Component::ParentDir => path.pop().then_some(())?,
            Component::Normal(name) => path.push(name),
            Component::CurDir => {}
            Component::RootDir | Component::Prefix(_) => return None,
        }
    }
    Some(path)
}

/// What a block lacks: a language, and for commands whether a test runs them.
fn unmarked(page: &Page, block: &Block, sources: &Sources) -> Option<String> {
    let Some(info) = &block.info else { return Some("a block of code needs a fence".to_owned()) };
    let (language, marks) = info.split_once(' ').unwrap_or((info, ""));
    if !COMMANDS.contains(&language) && !OTHERS.contains(&language) {
        return Some(format!("a block is of one of {COMMANDS:?} and {OTHERS:?}, not {language:?}"));
    }
    for mark in marks.split(' ').filter(|mark| !mark.is_empty()) {
        if let Some(test) = mark.strip_prefix("test=") {
            let name = page.path.file_name().unwrap_or_default().to_string_lossy();
            if !sources.test(test, &name) {
                return Some(format!("there is no test {test} that reads {name}"));
            }
        } else if mark != "example" {
            return Some(format!("{mark:?}: a block is marked with example or test=NAME"));
        }
    }
    let is_open = COMMANDS.contains(&language) && marks.is_empty();
    is_open.then(|| "commands are run by a test (test=NAME) or marked as an example (example)".to_owned())
}

/// A setting of ours that does not exist.
fn unknown_setting<'a>(
    pages: &BTreeMap<&Path, &Page>,
    alerts: &[String],
    page: &Page,
    words: &'a str,
) -> Option<&'a str> {
    let known = pages.get(Path::new(SETTINGS))?;
    if page.path == Path::new(HISTORY) {
        return None;
    }
    let is_known = |name: &&str| {
        known.words.iter().any(|(_, word)| word == name) || alerts.iter().any(|alert| alert == name)
    };
    let mut names = words.split(|c: char| !c.is_alphanumeric()).filter(|name| is_setting(name));
    names.find(|name| !is_known(name))
}

fn is_setting(name: &str) -> bool {
    name.strip_prefix("Cutover").is_some_and(|rest| rest.starts_with(char::is_uppercase))
}

/// Pages of `docs/` that the table of contents does not have.
fn left_out(pages: &BTreeMap<&Path, &Page>) -> Vec<String> {
    let Some(summary) = pages.get(Path::new(SUMMARY)) else { return vec![format!("there is no {SUMMARY}")] };
    let listed: Vec<PathBuf> =
        summary.links.iter().filter_map(|link| led_to(summary, &link.target)).collect();
    let is_missing = |path: &&&Path| {
        path.starts_with("docs") && **path != Path::new(SUMMARY) && !listed.iter().any(|it| it == **path)
    };
    pages
        .keys()
        .filter(is_missing)
        .map(|path| format!("{SUMMARY}: {} is not in it", path.display()))
        .collect()
}

/// Alerts that the page of troubles does not have.
fn unexplained(pages: &BTreeMap<&Path, &Page>, alerts: &[String]) -> Vec<String> {
    let Some(page) = pages.get(Path::new(TROUBLES)) else { return Vec::new() };
    let is_there = |alert: &&String| page.words.iter().any(|(_, word)| word == *alert);
    alerts
        .iter()
        .filter(|alert| !is_there(alert))
        .map(|alert| format!("{TROUBLES}: nothing about the alert {alert}"))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::sync::atomic::{AtomicUsize, Ordering};

    /// The problems of a few pages in an empty repository.
    fn found(pages: &[(&str, &str)]) -> Vec<String> {
        static COUNT: AtomicUsize = AtomicUsize::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let root = std::env::temp_dir().join(format!("cutover-book-{}-{number}", std::process::id()));
        let mut parsed = Vec::new();
        for (path, text) in pages {
            fs::create_dir_all(root.join(path).parent().unwrap()).unwrap();
            fs::write(root.join(path), text).unwrap();
            parsed.push(Page::parse(path.into(), text));
        }
        let test = "#[test]\nfn runs() {\n    blocks(\"a.md\", \"runs\")\n}\n".to_owned();
        let sources = Sources {
            program: vec!["error!(\"no {what} there\")".to_owned()],
            tests: vec![test],
            alerts: vec!["CutoverDown".to_owned()],
        };
        let problems = problems(&root, &parsed, &sources);
        fs::remove_dir_all(root).unwrap();
        problems
    }

    #[test]
    fn links_lead_to_files_and_headings() {
        let page = "# A\n\n[1](b.md#b) [2](#a) [3](../R.md) [4](https://x.example/y) ![5](p.svg)\n\n[6](b.md#c) [7](d.md) [8](../../x.md)\n";
        let pages = [
            ("docs/a.md", page),
            ("docs/b.md", "# B\n"),
            ("R.md", ""),
            ("docs/SUMMARY.md", "[A](a.md) [B](b.md)\n"),
        ];
        assert_eq!(
            found(&pages),
            [
                "docs/a.md:3: p.svg leads to nothing: there is no docs/p.svg",
                "docs/a.md:5: b.md#c: docs/b.md has no heading that is called #c",
                "docs/a.md:5: d.md leads to nothing: there is no docs/d.md",
                "docs/a.md:5: ../../x.md leads out of the repository",
            ]
        );
    }

    #[test]
    fn every_page_is_in_the_table_of_contents() {
        let pages = [("docs/a.md", ""), ("docs/SUMMARY.md", ""), ("README.md", "")];
        assert_eq!(found(&pages), ["docs/SUMMARY.md: docs/a.md is not in it"]);
    }

    #[test]
    fn commands_say_who_runs_them() {
        let blocks = "```sh test=runs\n```\n```sh example\n```\n```text\n```\n\
                      ```\n```\n```sh\n```\n```sh test=absent\n```\n```sh loudly\n```\n";
        let pages = [("docs/a.md", blocks), ("docs/SUMMARY.md", "[A](a.md)\n")];
        let lines: Vec<String> = found(&pages);
        let starts = [
            "docs/a.md:7: a block is of one of",
            "docs/a.md:9: commands are run by a test",
            "docs/a.md:11: there is no test absent that reads a.md",
            "docs/a.md:13: \"loudly\": a block is marked",
        ];
        assert_eq!(lines.len(), starts.len(), "{lines:?}");
        for (line, start) in lines.iter().zip(starts) {
            assert!(line.starts_with(start), "{line}");
        }
    }

    #[test]
    fn messages_are_what_a_program_says() {
        let page = "`no … there`, `no … gone`, `elsewhere`, `CutoverDown`\n";
        let pages =
            [(TROUBLES, page), (SUMMARY, "[T](troubleshooting.md)\n"), ("docs/a.md", "`no … gone`\n")];
        assert_eq!(
            found(&pages),
            [
                "docs/troubleshooting.md:1: no program says \"no … gone\"",
                "docs/SUMMARY.md: docs/a.md is not in it"
            ]
        );
    }

    #[test]
    fn settings_exist() {
        let pages = [
            ("docs/a.md", "`CutoverRole = routes`, `CutoverGone`, `Cutover`\n"),
            ("docs/configuration.md", "`CutoverRole`\n"),
            (SUMMARY, "[A](a.md) [C](configuration.md) [T](troubleshooting.md)\n"),
            ("CHANGELOG.md", "`CutoverGone`\n"),
            (TROUBLES, "`CutoverDown`\n"),
        ];
        assert_eq!(found(&pages), ["docs/a.md:1: there is no setting CutoverGone in docs/configuration.md"]);
    }

    #[test]
    fn every_alert_is_explained() {
        let pages = [Page::parse(TROUBLES.into(), "`CutoverDown`\n")];
        let by_path = pages.iter().map(|page| (page.path.as_path(), page)).collect();
        let alerts = ["CutoverDown", "CutoverUp"].map(str::to_owned);
        assert_eq!(
            unexplained(&by_path, &alerts),
            ["docs/troubleshooting.md: nothing about the alert CutoverUp"]
        );
    }
}
