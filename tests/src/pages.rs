//! Blocks of the pages in `docs/` that a test runs or compares with: those that are marked with its name (`sh test=NAME`).

use std::fs;
use std::path::{Path, PathBuf};

/// A block of code.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Block {
    /// What the fence says first: `sh`, `text`, `ini` …
    pub language: String,
    /// The marks behind it.
    pub marks: String,
    /// What is in it, without the indentation of the fence.
    pub text: String,
}

/// Where the pages are.
#[must_use]
pub fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs")
}

/// The blocks of a page, by its path from `docs/`, that are marked with the name of a test.
///
/// # Panics
/// When there is no such page, or none is.
#[must_use]
pub fn blocks(page: &str, test: &str) -> Vec<Block> {
    let path = folder().join(page);
    let text = fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let mark = format!("test={test}");
    let found: Vec<Block> =
        parse(&text).into_iter().filter(|block| block.marks.split(' ').any(|it| it == mark)).collect();
    assert!(!found.is_empty(), "{page} has no block that is marked with {mark}");
    found
}

/// All blocks of a text.
#[must_use]
pub fn parse(text: &str) -> Vec<Block> {
    let mut blocks = Vec::new();
    let mut open: Option<(usize, Block)> = None;
    for line in text.lines() {
        let indent = line.len() - line.trim_start().len();
        match (line.trim_start().strip_prefix("```"), &mut open) {
            (Some(info), None) => {
                let (language, marks) = info.split_once(' ').unwrap_or((info, ""));
                let (language, marks) = (language.to_owned(), marks.to_owned());
                open = Some((indent, Block { language, marks, text: String::new() }));
            }
            (Some(_), Some(_)) => blocks.extend(open.take().map(|(_, block)| block)),
            (None, Some((margin, block))) => {
                block.text.push_str(&line[indent.min(*margin)..]);
                block.text.push('\n');
            }
            (None, None) => {}
        }
    }
    blocks
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_block_has_its_marks_and_its_lines() {
        let blocks = parse("a\n\n1. b\n\n   ```sh test=x\n   c\n     d\n\n   ```\n\n```\ne\n```\n");
        let block = |language: &str, marks: &str, text: &str| Block {
            language: language.to_owned(),
            marks: marks.to_owned(),
            text: text.to_owned(),
        };
        assert_eq!(blocks, [block("sh", "test=x", "c\n  d\n\n"), block("", "", "e\n")]);
    }
}
