//! Configuration files of OpenStack services, as oslo.config reads them.
//!
//! Unlike the agent's own file: sections count, a line that begins with a space goes on with the value before it, and a `#`
//! inside a line is part of the value. Reads what it can; a line that oslo.config would refuse is reported with its number.

use std::path::PathBuf;

/// One value.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Entry {
    pub(super) section: String,
    pub(super) key: String,
    pub(super) value: String,
    pub(super) file: PathBuf,
    /// From 1.
    pub(super) line: usize,
}

/// Files that are read one after the other.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct Files {
    entries: Vec<Entry>,
    /// Lines that make no sense, with their file and number.
    pub(super) refused: Vec<String>,
}

impl Files {
    /// Adds the text of a file; its values count more than those before.
    pub(super) fn add(&mut self, file: &std::path::Path, text: &str) {
        let mut section = "DEFAULT".to_owned();
        let mut goes_on = false;
        for (number, line) in text.trim_start_matches('\u{feff}').lines().enumerate() {
            let trimmed = line.trim();
            if trimmed.is_empty() {
                goes_on = false;
            } else if trimmed.starts_with(['#', ';']) {
            } else if line.starts_with(char::is_whitespace) && goes_on {
                if let Some(entry) = self.entries.last_mut() {
                    entry.value.push('\n');
                    entry.value.push_str(trimmed);
                }
            } else if let Some(name) = trimmed.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
                name.trim().clone_into(&mut section);
                goes_on = false;
            } else if let Some((key, value)) = trimmed.split_once(['=', ':']) {
                self.entries.push(Entry {
                    section: section.clone(),
                    key: key.trim().to_owned(),
                    value: unquoted(value.trim()).to_owned(),
                    file: file.to_owned(),
                    line: number + 1,
                });
                goes_on = true;
            } else {
                self.refused.push(format!(
                    "{}:{}: neither = nor : in {trimmed:?}",
                    file.display(),
                    number + 1
                ));
                goes_on = false;
            }
        }
    }

    /// The value that counts: the last one. Sections are compared in any case, keys as they are.
    pub(super) fn value(&self, section: &str, key: &str) -> Option<&Entry> {
        let is_it = |entry: &&Entry| entry.section.eq_ignore_ascii_case(section) && entry.key == key;
        self.entries.iter().rev().find(is_it)
    }

    /// Values of this key in other sections, where they have no effect.
    pub(super) fn elsewhere<'a>(&'a self, section: &'a str, key: &'a str) -> impl Iterator<Item = &'a Entry> {
        self.entries
            .iter()
            .filter(move |entry| entry.key == key && !entry.section.eq_ignore_ascii_case(section))
    }
}

fn unquoted(value: &str) -> &str {
    let inside = |quote: char| value.strip_prefix(quote)?.strip_suffix(quote);
    inside('"').or_else(|| inside('\'')).unwrap_or(value)
}

/// What oslo.config makes of the text of a boolean; nothing if it refuses it.
pub(super) fn boolean(text: &str) -> Option<bool> {
    match text.trim().to_lowercase().as_str() {
        "true" | "1" | "on" | "yes" => Some(true),
        "false" | "0" | "off" | "no" => Some(false),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::path::Path;

    fn read(text: &str) -> Files {
        let mut files = Files::default();
        files.add(Path::new("nova.conf"), text);
        files
    }

    fn value(text: &str) -> Option<String> {
        read(text).value("compute", "key").map(|entry| entry.value.clone())
    }

    #[test]
    fn the_dialect() {
        for (text, expected) in [
            ("[compute]\nkey = a\n", Some("a")),
            ("[compute]\nkey: a\n", Some("a")),
            ("[Compute]\nkey=a\n", Some("a")),
            ("[compute]\nkey = a # b\n", Some("a # b")),
            ("[compute]\nkey = a\n  b\n", Some("a\nb")),
            ("[compute]\nkey = a\n\n  b = 1\n", Some("a")),
            ("[compute]\nkey = 'a b'\n", Some("a b")),
            ("[compute]\nkey = a\nkey = b\n", Some("b")),
            ("[compute]\nKEY = a\n", None),
            ("[compute]\n#key = a\n", None),
            ("key = a\n[compute]\n", None),
            ("[compute]\nkey =\n", Some("")),
            ("[compute]\r\nkey = a\r\n", Some("a")),
        ] {
            assert_eq!(value(text).as_deref(), expected, "{text:?}");
        }
    }

    #[test]
    fn later_files_count_more_and_wrong_lines_are_named() {
        let mut files = read("[compute]\nkey = a\nnonsense\n");
        files.add(Path::new("later.conf"), "[compute]\n\nkey = b\n");
        let entry = files.value("compute", "key").unwrap();
        assert_eq!((entry.value.as_str(), entry.line), ("b", 3));
        assert_eq!(entry.file, Path::new("later.conf"));
        assert_eq!(files.refused.len(), 1);
        assert!(files.refused[0].starts_with("nova.conf:3:"));
        assert_eq!(files.elsewhere("other", "key").count(), 2);
    }

    proptest! {
        #[test]
        fn any_text_is_read(text in "[a-z=:#;'\"\n \\[\\]]{0,80}") {
            let files = read(&text);
            let _ = (files.value("a", "a"), files.elsewhere("a", "a").count());
        }
    }
}
