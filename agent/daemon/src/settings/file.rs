//! The configuration file: INI as Felix's parser (Go's ini.v1) reads it.
//!
//! Owns the text format and the line of every value, which `cutover check-config` shows. A general INI crate does not
//! fit: it has no line per value, and takes a line without a delimiter and the one after it for a single key.

use thiserror::Error;

/// One value of the file.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct FileEntry {
    pub(super) key: String,
    pub(super) value: String,
    /// From 1, where the key is.
    pub(super) line: usize,
}

/// The file is not INI.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
#[error("line {line}: {reason}")]
pub struct SyntaxError {
    /// From 1.
    pub line: usize,
    /// What is wrong and what would be right.
    pub reason: &'static str,
}

/// Reads the text of a file; sections are flattened.
pub(super) fn parse(bytes: &[u8]) -> Result<Vec<FileEntry>, SyntaxError> {
    let text = decode(bytes)?;
    let mut lines = Lines { rest: text.lines(), number: 0 };
    let mut entries = Vec::new();
    while let Some(line) = lines.next() {
        let line = line.trim();
        let refuse = |reason| SyntaxError { line: lines.number, reason };
        if line.is_empty() || line.starts_with(['#', ';']) {
            continue;
        }
        if line.starts_with('[') {
            if !line.contains(']') {
                return Err(refuse("the section header has no closing bracket"));
            }
            continue;
        }
        let (key, value) = line.split_once(['=', ':']).ok_or_else(|| {
            refuse("there is neither = nor : in it; write Name = value, or # before a comment")
        })?;
        let key = key.trim().trim_matches(['"', '`']);
        if key.is_empty() {
            return Err(refuse("there is no name before the = or :"));
        }
        let line = lines.number;
        let value = read_value(value.trim(), &mut lines)?;
        entries.push(FileEntry { key: key.to_owned(), value, line });
    }
    Ok(entries)
}

struct Lines<'a> {
    rest: std::str::Lines<'a>,
    number: usize,
}

impl<'a> Lines<'a> {
    fn next(&mut self) -> Option<&'a str> {
        let line = self.rest.next()?;
        self.number += 1;
        Some(line)
    }
}

/// Editors of other systems put a byte order mark in front, and may write UTF-16.
fn decode(bytes: &[u8]) -> Result<String, SyntaxError> {
    let utf16 = |from: fn([u8; 2]) -> u16, bytes: &[u8]| {
        let units: Vec<u16> =
            bytes.chunks(2).map(|pair| from([pair[0], *pair.get(1).unwrap_or(&0)])).collect();
        String::from_utf16(&units)
            .map_err(|_| SyntaxError { line: 1, reason: "the text is not valid UTF-16" })
    };
    match bytes {
        [0xff, 0xfe, rest @ ..] => utf16(u16::from_le_bytes, rest),
        [0xfe, 0xff, rest @ ..] => utf16(u16::from_be_bytes, rest),
        _ => {
            let rest = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
            String::from_utf8(rest.to_vec()).map_err(|error| {
                let good = &rest[..error.utf8_error().valid_up_to()];
                let line = 1 + good.iter().filter(|byte| **byte == b'\n').count();
                SyntaxError { line, reason: "the text is not valid UTF-8" }
            })
        }
    }
}

fn read_value(first: &str, lines: &mut Lines<'_>) -> Result<String, SyntaxError> {
    for quote in ["\"\"\"", "`"] {
        if let Some(rest) = first.strip_prefix(quote) {
            return read_until(quote, rest, lines);
        }
    }
    if let Some(value) = quoted(first) {
        return Ok(value.to_owned());
    }
    let mut value = String::new();
    let mut part = first;
    while let Some(continued) = part.strip_suffix('\\') {
        value.push_str(continued);
        part = lines.next().map_or("", str::trim);
    }
    value.push_str(part);
    let value = value.split(['#', ';']).next().unwrap_or_default().trim();
    Ok(quoted(value).unwrap_or(value).to_owned())
}

/// The inside of a value in single or double quotes, where `#` and `;` are ordinary; only a comment may follow it.
fn quoted(text: &str) -> Option<&str> {
    let quote = text.chars().next().filter(|c| ['\'', '"'].contains(c))?;
    let (inside, after) = text[1..].split_once(quote)?;
    let after = after.trim_start();
    (after.is_empty() || after.starts_with(['#', ';'])).then_some(inside)
}

/// A value that goes on over several lines.
fn read_until(quote: &str, first: &str, lines: &mut Lines<'_>) -> Result<String, SyntaxError> {
    let opened = lines.number;
    let mut value = String::new();
    let mut part = first;
    loop {
        if let Some((inside, _)) = part.split_once(quote) {
            value.push_str(inside);
            return Ok(value);
        }
        value.push_str(part);
        value.push('\n');
        part = lines.next().ok_or(SyntaxError {
            line: opened,
            reason: "the quoted value is not closed before the end of the file",
        })?;
    }
}

#[cfg(test)]
pub(super) mod fuzz;

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn pairs(text: &str) -> Vec<(String, String, usize)> {
        parse(text.as_bytes())
            .unwrap()
            .into_iter()
            .map(|entry| (entry.key, entry.value, entry.line))
            .collect()
    }

    #[test]
    fn quirks_of_the_existing_parser() {
        for (text, value) in [
            ("Name = value", "value"),
            ("Name=value", "value"),
            ("Name: value", "value"),
            ("  Name \t=  value  ", "value"),
            ("Name = http://a:1,http://b:2", "http://a:1,http://b:2"),
            ("Name = value # comment", "value"),
            ("Name = value;comment", "value"),
            ("Name = a#b", "a"),
            ("Name = \"a # b\"", "a # b"),
            ("Name = 'a;b'", "a;b"),
            ("Name = 'a' # comment", "a"),
            ("Name = \"it's\"", "it's"),
            ("Name = \"\"", ""),
            ("Name =", ""),
            ("Name = # nothing", ""),
            ("Name = a\\\n  b\\\nc", "abc"),
            ("Name = `a\nb # c`", "a\nb # c"),
            ("Name = \"\"\"a\nb\"\"\"", "a\nb"),
            ("\u{feff}Name = value", "value"),
            ("Name = value\r\n", "value"),
        ] {
            assert_eq!(pairs(text), [("Name".to_owned(), value.to_owned(), 1)], "{text:?}");
        }
    }

    #[test]
    fn sections_are_flattened_and_lines_are_counted() {
        let text = "# comment\n; comment\n[global]\nA = 1\n\n[other]\nB = x\\\ny\nC = 3\nA = 2\n";
        let expected = [("A", "1", 4), ("B", "xy", 7), ("C", "3", 9), ("A", "2", 10)];
        let expected: Vec<_> = expected.iter().map(|(k, v, l)| ((*k).into(), (*v).into(), *l)).collect();
        assert_eq!(pairs(text), expected);
    }

    #[test]
    fn utf16_is_understood() {
        let mut bytes = vec![0xff, 0xfe];
        bytes.extend("A = 1\n".encode_utf16().flat_map(u16::to_le_bytes));
        assert_eq!(parse(&bytes).unwrap()[0].value, "1");
    }

    #[test]
    fn errors_name_their_line() {
        for (text, line, part) in [
            ("A = 1\nnonsense\nB = 2", 2, "neither"),
            ("A = 1\n\n[global\n", 3, "closing bracket"),
            ("= 1", 1, "no name"),
            ("A = 1\nB = `open\nC = 3", 2, "not closed"),
        ] {
            let error = parse(text.as_bytes()).unwrap_err();
            assert_eq!(error.line, line, "{text:?}");
            assert!(error.reason.contains(part), "{error}");
        }
        assert_eq!(parse(b"A = 1\nB = \xff").unwrap_err().line, 2);
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = parse(&bytes);
        }

        #[test]
        fn any_text_is_read_or_refused(text in "[a-z=:#;'\"`\\\\\n\\[\\] ]{0,60}") {
            if let Ok(entries) = parse(text.as_bytes()) {
                for entry in entries {
                    prop_assert!(entry.line >= 1 && entry.line <= text.lines().count());
                    prop_assert!(!entry.key.is_empty());
                }
            }
        }

        #[test]
        fn plain_values_survive(key in "[A-Za-z][A-Za-z0-9]{0,20}", value in "[A-Za-z0-9/.,_-]([A-Za-z0-9/.,_ -]{0,30}[A-Za-z0-9])?") {
            let entries = parse(format!("[global]\n{key} = {value}\n").as_bytes()).unwrap();
            prop_assert_eq!(entries, vec![FileEntry { key, value, line: 2 }]);
        }
    }
}
