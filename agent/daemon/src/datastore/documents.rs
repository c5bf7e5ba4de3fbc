//! Documents of a file: where each begins and ends, so that errors have lines and one can be taken out.

use super::resource::{Entry, Format, Parsed, Refusal, parse_all};
use super::tree::read_regular;
use serde_json::Value;
use std::ops::Range;
use std::path::Path;

/// LIMIT: a resource has a handful of lists in brackets. The YAML parser looks at every level of them for every token,
/// so that a few hundred kilobytes of brackets would keep all other files waiting for minutes.
const YAML_BRACKETS_MAX: usize = 4096;

/// One resource of a file.
#[derive(Clone, PartialEq, Debug)]
pub struct Document {
    /// The bytes of its document in the file, with the `---` before it.
    pub range: Range<usize>,
    /// The same without it.
    pub body: Range<usize>,
    /// What it says.
    pub parsed: Parsed,
    /// It as it is written, if its document is a list and may hold others as well.
    pub item: Option<Value>,
}

/// Reads a resource file and all its documents.
///
/// # Errors
/// When it cannot be read or one of its documents is refused.
pub fn read_file(path: &Path) -> Result<(String, Vec<Document>), Refusal> {
    let unreadable = |reason: String| Refusal { line: None, reason };
    let format =
        Format::of(path).ok_or_else(|| unreadable("it is neither .yaml, .yml nor .json".to_owned()))?;
    let text = read_regular(path).map_err(|error| unreadable(error.to_string()))?;
    let documents = split(&text, format)?;
    Ok((text, documents))
}

/// Reads all documents of the text of a file; one that is not well formed refuses the file.
///
/// # Errors
/// The first refusal, with its line in the file.
pub(super) fn split(text: &str, format: Format) -> Result<Vec<Document>, Refusal> {
    let pieces = match format {
        Format::Yaml => yaml_pieces(text),
        Format::Json => json_pieces(text)?,
    };
    let mut documents = Vec::new();
    let (mut first_line, mut counted_to) = (1, 0);
    for Piece { range, body } in pieces {
        let content = &text[body.clone()];
        first_line += newlines(&text[counted_to..body.start]);
        counted_to = body.start;
        if is_blank(content, format) {
            continue;
        }
        if format == Format::Yaml && has_too_many_brackets(content) {
            let reason = format!("a document has more than {YAML_BRACKETS_MAX} opening brackets");
            return Err(Refusal { line: Some(first_line + blank_lines(content)), reason });
        }
        let entries = parse_all(content, format).map_err(|refusal| Refusal {
            // The YAML parser counts the end of a text without a last newline as a line of its own.
            line: Some(
                (first_line + refusal.line.map_or_else(|| blank_lines(content), |line| line.max(1) - 1))
                    .min(1 + newlines(text)),
            ),
            reason: without_location(&refusal.reason),
        })?;
        documents.extend(entries.into_iter().map(|Entry { parsed, item }| Document {
            range: range.clone(),
            body: body.clone(),
            parsed,
            item,
        }));
    }
    Ok(documents)
}

fn newlines(text: &str) -> usize {
    text.bytes().filter(|byte| *byte == b'\n').count()
}

fn has_too_many_brackets(yaml: &str) -> bool {
    yaml.bytes().filter(|byte| matches!(byte, b'[' | b'{')).nth(YAML_BRACKETS_MAX).is_some()
}

struct Piece {
    range: Range<usize>,
    body: Range<usize>,
}

/// A line that begins with `---` or `...` is a border wherever it stands, even inside a text (YAML 1.2, 9.1.2).
fn yaml_pieces(text: &str) -> Vec<Piece> {
    let text_start = if text.starts_with('\u{feff}') { '\u{feff}'.len_utf8() } else { 0 };
    let mut pieces = Vec::new();
    let (mut start, mut body_start, mut at) = (0, text_start, text_start);
    for line in text[text_start..].split_inclusive('\n') {
        let is_border = |mark: &str| {
            line.strip_prefix(mark)
                .is_some_and(|rest| rest.is_empty() || rest.starts_with(char::is_whitespace))
        };
        let (begins, ends) = (is_border("---"), is_border("..."));
        if begins || ends {
            pieces.push(Piece { range: start..at, body: body_start..at });
            start = at;
            // After `---` the document may begin on the same line.
            body_start = at + if ends { line.len() } else { "---".len() };
        }
        at += line.len();
    }
    pieces.push(Piece { range: start..text.len(), body: body_start..text.len() });
    pieces
}

fn json_pieces(text: &str) -> Result<Vec<Piece>, Refusal> {
    let mut values = serde_json::Deserializer::from_str(text).into_iter::<serde::de::IgnoredAny>();
    let mut pieces = Vec::new();
    let mut start = 0;
    while let Some(value) = values.next() {
        value.map_err(|error| Refusal {
            line: Some(error.line()),
            reason: without_location(&error.to_string()),
        })?;
        let end = values.byte_offset();
        pieces.push(Piece { range: start..end, body: start..end });
        start = end;
    }
    Ok(pieces)
}

/// Where a document begins that has something wrong in no particular line.
fn blank_lines(body: &str) -> usize {
    body.lines().take_while(|line| line.trim().is_empty()).count()
}

/// Nothing, comments and directives make no document.
fn is_blank(body: &str, format: Format) -> bool {
    body.lines().all(|line| {
        let line = line.trim();
        line.is_empty() || (format == Format::Yaml && (line.starts_with('#') || line.starts_with('%')))
    })
}

/// The parsers put a line into the text that is counted from the beginning of the document.
fn without_location(reason: &str) -> String {
    let end = reason.rfind(" at line ").unwrap_or(reason.len());
    let reason = &reason[..end];
    if reason.is_empty() { "it is not well formed".to_owned() } else { reason.replace('\n', " ") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::datastore::resource::Resource;
    use proptest::prelude::*;

    const CONFIGURATION: &str =
        "apiVersion: projectcalico.org/v3\nkind: FelixConfiguration\nmetadata: {name: NAME}\n";

    fn document(name: &str) -> String {
        CONFIGURATION.replace("NAME", name)
    }

    fn names(text: &str, format: Format) -> Vec<String> {
        let documents = split(text, format).unwrap();
        let name = |document: Document| match document.parsed.resource {
            Resource::Configuration(configuration) => configuration.name,
            other => panic!("{other:?}"),
        };
        documents.into_iter().map(name).collect()
    }

    #[test]
    fn documents_are_found_between_borders() {
        let (a, b) = (document("a"), document("b"));
        for text in [
            format!("{a}---\n{b}"),
            format!("---\n{a}---\n{b}"),
            format!("%YAML 1.2\n---\n{a}...\n---\n{b}...\n"),
            format!("# comment\n---\n\n---\n{a}--- # comment\n{b}"),
            format!("\u{feff}{a}---\r\n{b}"),
        ] {
            assert_eq!(names(&text, Format::Yaml), ["a", "b"], "{text}");
        }
        assert!(split("", Format::Yaml).unwrap().is_empty());
        assert!(split("# nothing\n---\n", Format::Yaml).unwrap().is_empty());
    }

    /// A few hundred kilobytes of this take the parser most of a minute.
    #[test]
    fn a_document_of_brackets_is_refused_without_being_parsed() {
        for brackets in ["[", "{a: ", "[ ']', "] {
            let text = format!("{}---\n{}x: {}\n", document("a"), document("b"), brackets.repeat(100_000));
            let refusal = split(&text, Format::Yaml).unwrap_err();
            assert!(refusal.reason.contains("4096 opening brackets"), "{refusal}");
            assert_eq!(refusal.line, Some(5));
        }
        let many: String =
            (0..5_000).map(|number| format!("---\n{}", document(&number.to_string()))).collect();
        assert_eq!(
            split(&many, Format::Yaml).unwrap().len(),
            5_000,
            "the limit is a document's, not a file's"
        );
    }

    #[test]
    fn a_document_can_begin_on_the_line_of_its_border() {
        let text = "--- {apiVersion: projectcalico.org/v3, kind: FelixConfiguration, metadata: {name: a}}\n";
        assert_eq!(names(text, Format::Yaml), ["a"]);
    }

    #[test]
    fn json_values_follow_each_other() {
        let one = r#"{"apiVersion": "projectcalico.org/v3", "kind": "FelixConfiguration", "metadata": {"name": "a"}}"#;
        let text = format!("{one}\n{}\n", one.replace("\"a\"", "\"b\""));
        assert_eq!(names(&text, Format::Json), ["a", "b"]);
        assert!(split("\n", Format::Json).unwrap().is_empty());
    }

    #[test]
    fn refusals_have_the_line_in_the_file() {
        let good = document("a");
        for (bad, line) in [
            ("kind: [", 5),
            ("kind: WorkloadEndpoint\n", 5),
            ("apiVersion: projectcalico.org/v3\nkind: LiveMigration\nmetadata:\n  name: [7]\n", 8),
            ("x: 1\n  y: 2\n", 6),
        ] {
            let refusal = split(&format!("{good}---\n{bad}"), Format::Yaml).unwrap_err();
            assert_eq!(refusal.line, Some(line), "{bad:?}: {refusal}");
            assert!(!refusal.reason.contains(" at line "), "{refusal}");
        }
        let refusal = split("kind: [", Format::Yaml).unwrap_err();
        assert_eq!(refusal.line, Some(1), "the only one: {refusal}");
        let refusal = split("{\"kind\":\n \"a\",\n", Format::Json).unwrap_err();
        assert_eq!(refusal.line, Some(3), "{refusal}");
    }

    proptest! {
        #[test]
        fn any_text_is_split_or_refused(text in "[a-z:{}\\[\\], \n\"'#&*!|>-]{0,80}") {
            let _ = split(&text, Format::Yaml);
            let _ = split(&text, Format::Json);
        }

        /// Taking a document out leaves exactly the others.
        #[test]
        fn ranges_tile_the_file(count in 1usize..6, out in 0usize..6, leading in any::<bool>()) {
            let out = out % count;
            let parts: Vec<String> = (0..count).map(|i| document(&format!("n{i}"))).collect();
            let text = format!("{}{}", if leading { "---\n" } else { "" }, parts.join("---\n"));
            let documents = split(&text, Format::Yaml).unwrap();
            let range = documents[out].range.clone();
            let rest = format!("{}{}", &text[..range.start], &text[range.end..]);
            let expected: Vec<String> = (0..count).filter(|i| *i != out).map(|i| format!("n{i}")).collect();
            prop_assert_eq!(names(&rest, Format::Yaml), expected);
        }
    }
}
