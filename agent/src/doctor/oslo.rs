//! Configuration files of OpenStack services, as oslo.config reads them.
//!
//! Unlike the agent's own file: sections count, to the white space inside their brackets; a line that begins with white space goes on with the
//! value before it, also if it looks like a comment, and is refused if there is none; a `#` inside a line is part of the value. Reads what
//! it can; a line that oslo.config (10.7.0) refuses is reported with its number.

use std::path::{Path, PathBuf};

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
    pub(super) fn add(&mut self, file: &Path, text: &str) {
        let mut section = None;
        let mut before = Before::Nothing;
        for (number, line) in (1..).zip(text.lines()) {
            let line = line.trim_end();
            let read = if line.is_empty() || line.starts_with(['#', ';']) {
                Ok(Before::Nothing)
            } else if line.starts_with([' ', '\t']) {
                self.go_on(line.trim_start(), before)
            } else if let Some(rest) = line.strip_prefix('[') {
                section_name(rest).map(|name| {
                    section = Some(name);
                    Before::Nothing
                })
            } else {
                self.assign(section, line, file, number)
            };
            before = read.unwrap_or_else(|reason| {
                self.refused.push(format!("{}:{number}: {reason}", file.display()));
                Before::Refused
            });
        }
    }

    fn go_on(&mut self, more: &str, before: Before) -> Result<Before, String> {
        match (before, self.entries.last_mut()) {
            (Before::Value, Some(entry)) => {
                entry.value.push('\n');
                entry.value.push_str(more);
            }
            (Before::Refused, _) => {}
            _ => {
                return Err(format!(
                    "{more:?} begins with white space, so it goes on with a value, but there is none before it"
                ));
            }
        }
        Ok(before)
    }

    fn assign(
        &mut self,
        section: Option<&str>,
        line: &str,
        file: &Path,
        number: usize,
    ) -> Result<Before, String> {
        let (key, value) =
            line.split_once(['=', ':']).ok_or_else(|| format!("neither = nor : in {line:?}"))?;
        let key = key.trim();
        let section = section.ok_or_else(|| format!("{key} is in no section"))?;
        if key.is_empty() {
            return Err(format!("no name before the = or : in {line:?}"));
        }
        self.entries.push(Entry {
            section: section.to_owned(),
            key: key.to_owned(),
            value: unquoted(value.trim()).to_owned(),
            file: file.to_owned(),
            line: number,
        });
        Ok(Before::Value)
    }

    /// The value that counts: the last one.
    pub(super) fn value(&self, section: &str, key: &str) -> Option<&Entry> {
        self.entries.iter().rev().find(|entry| is_section(&entry.section, section) && entry.key == key)
    }

    /// Values of this key in other sections, where they have no effect.
    pub(super) fn elsewhere<'a>(&'a self, section: &'a str, key: &'a str) -> impl Iterator<Item = &'a Entry> {
        self.entries.iter().filter(move |entry| entry.key == key && !is_section(&entry.section, section))
    }
}

/// What a line that begins with white space goes on with.
#[derive(Clone, Copy)]
enum Before {
    Nothing,
    Value,
    Refused,
}

/// Sections are compared in any case, but for DEFAULT, which is only itself; keys always as they are.
fn is_section(written: &str, section: &str) -> bool {
    if section == "DEFAULT" { written == section } else { written.eq_ignore_ascii_case(section) }
}

/// What is between the brackets, white space and all.
fn section_name(rest: &str) -> Result<&str, String> {
    match rest.strip_suffix(']') {
        Some("") => Err("a section without a name".to_owned()),
        Some(name) => Ok(name),
        None => Err(format!("{:?} does not end with ]", format!("[{rest}"))),
    }
}

fn unquoted(value: &str) -> &str {
    // One quote is the first and the last character of its value.
    let inside = |quote: char| {
        if value.len() == 1 && value.starts_with(quote) {
            Some("")
        } else {
            value.strip_prefix(quote)?.strip_suffix(quote)
        }
    };
    inside('"').or_else(|| inside('\'')).unwrap_or(value)
}

/// What oslo.config makes of the text of a boolean; nothing if it refuses it, as a word on a line of its own, which begins with a line's end.
pub(super) fn boolean(text: &str) -> Option<bool> {
    match text.to_lowercase().as_str() {
        "true" | "1" | "on" | "yes" => Some(true),
        "false" | "0" | "off" | "no" => Some(false),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

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
            ("[compute]\nkey = a\n  # b\n", Some("a\n# b")),
            ("[compute]\nkey = a\n\t; b\n", Some("a\n; b")),
            ("[compute]\nkey = a\n   \n", Some("a")),
            ("[ compute ]\nkey = a\n", None),
            ("[compute]\nkey = \"\n", Some("")),
            ("[compute]\nkey = \"a'\n", Some("\"a'")),
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

    /// Each of them keeps Nova from starting.
    #[test]
    fn what_oslo_config_refuses_is_refused() {
        for (text, line) in [
            ("[compute]\n  key = a\n", 2),
            ("[compute]\nkey = a\n\n  b\n", 4),
            ("[compute]\nkey = a\n# b\n  c\n", 4),
            ("  [compute]\n", 1),
            ("\tkey = a\n", 1),
            ("key = a\n[compute]\n", 1),
            ("[compute] # here\n", 1),
            ("[]\n", 1),
            ("[compute\n", 1),
            ("[compute]\n= a\n", 2),
            ("[compute]\nkey\n", 2),
            ("\u{feff}[compute]\n", 1),
        ] {
            let refused = read(text).refused;
            assert_eq!(refused.len(), 1, "{text:?}: {refused:?}");
            assert!(refused[0].starts_with(&format!("nova.conf:{line}: ")), "{text:?}: {refused:?}");
        }
        assert_eq!(boolean("\nTrue"), None);
        assert_eq!([boolean("TRUE"), boolean("oFF")], [Some(true), Some(false)]);
        assert_eq!(read("# a\n\n[compute]\n; b\nkey = a\n b\n").refused, Vec::<String>::new());
    }

    proptest! {
        #[test]
        fn any_text_is_read(text in "[a-z=:#;'\"\n \\[\\]]{0,80}") {
            let files = read(&text);
            let _ = (files.value("a", "a"), files.elsewhere("a", "a").count());
        }
    }
}
