//! One page: its headings, links and blocks, each with the line that it is in.

use pulldown_cmark::{CodeBlockKind, Event, Options, Parser, Tag, TagEnd};
use std::collections::{BTreeSet, HashMap};
use std::path::PathBuf;

/// A page.
pub(super) struct Page {
    /// From the root of the repository.
    pub(super) path: PathBuf,
    /// What a `#` in a link can name.
    pub(super) anchors: BTreeSet<String>,
    /// Links and pictures, as they are written.
    pub(super) links: Vec<Link>,
    pub(super) blocks: Vec<Block>,
    /// Text between backticks.
    pub(super) words: Vec<(usize, String)>,
}

/// A link or a picture.
pub(super) struct Link {
    pub(super) line: usize,
    pub(super) target: String,
}

/// A block of code.
pub(super) struct Block {
    pub(super) line: usize,
    /// What stands behind the fence; `None` for a block that is only indented.
    pub(super) info: Option<String>,
    pub(super) text: String,
}

impl Page {
    /// Reads a page.
    pub(super) fn parse(path: PathBuf, text: &str) -> Self {
        let mut page =
            Self { path, anchors: BTreeSet::new(), links: Vec::new(), blocks: Vec::new(), words: Vec::new() };
        let starts: Vec<usize> =
            std::iter::once(0).chain(text.match_indices('\n').map(|(at, _)| at + 1)).collect();
        let line_of = |at: usize| starts.partition_point(|start| *start <= at);
        let (mut heading, mut block): (Option<String>, Option<Block>) = (None, None);
        let mut seen = HashMap::new();
        let options = Options::ENABLE_TABLES | Options::ENABLE_STRIKETHROUGH;
        for (event, range) in Parser::new_ext(text, options).into_offset_iter() {
            let line = line_of(range.start);
            match event {
                Event::Start(Tag::Heading { .. }) => heading = Some(String::new()),
                Event::End(TagEnd::Heading(_)) => {
                    page.anchors.insert(anchor(&heading.take().unwrap_or_default(), &mut seen));
                }
                Event::Start(Tag::Link { dest_url, .. } | Tag::Image { dest_url, .. }) => {
                    page.links.push(Link { line, target: dest_url.into_string() });
                }
                Event::Start(Tag::CodeBlock(kind)) => {
                    let info = match kind {
                        CodeBlockKind::Fenced(info) => Some(info.into_string()),
                        CodeBlockKind::Indented => None,
                    };
                    block = Some(Block { line, info, text: String::new() });
                }
                Event::End(TagEnd::CodeBlock) => page.blocks.extend(block.take()),
                Event::Code(words) => {
                    if let Some(heading) = &mut heading {
                        heading.push_str(&words);
                    }
                    page.words.push((line, words.into_string()));
                }
                Event::Text(words) => {
                    if let Some(block) = &mut block {
                        block.text.push_str(&words);
                    } else if let Some(heading) = &mut heading {
                        heading.push_str(&words);
                    }
                }
                _ => {}
            }
        }
        page
    }
}

/// What GitHub and mdBook call a heading.
fn anchor(heading: &str, seen: &mut HashMap<String, usize>) -> String {
    let mut name = String::new();
    for character in heading.trim().chars() {
        match character {
            ' ' => name.push('-'),
            '-' | '_' => name.push(character),
            _ if character.is_alphanumeric() => name.extend(character.to_lowercase()),
            _ => {}
        }
    }
    let count = seen.entry(name.clone()).or_insert(0);
    *count += 1;
    if *count > 1 { format!("{name}-{}", *count - 1) } else { name }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn page(text: &str) -> Page {
        Page::parse("docs/page.md".into(), text)
    }

    #[test]
    fn headings_are_what_links_name_them() {
        let page = page("# What `up` means, and when\n\n## A\n\n## A\n\n```\n# no heading\n```\n");
        let anchors: Vec<&str> = page.anchors.iter().map(String::as_str).collect();
        assert_eq!(anchors, ["a", "a-1", "what-up-means-and-when"]);
    }

    #[test]
    fn links_and_pictures_are_found_and_what_only_looks_like_one_is_not() {
        let page = page(
            "one [a\nb](x.md#y) two\n\n| c |\n|---|\n| ![p](p.svg) |\n\n`[no](a.md)`\n\n```\n[no](b.md)\n```\n",
        );
        let links: Vec<_> = page.links.iter().map(|link| (link.line, link.target.as_str())).collect();
        assert_eq!(links, [(1, "x.md#y"), (6, "p.svg")]);
    }

    #[test]
    fn blocks_have_their_info_and_text_also_in_a_list() {
        let page = page("1. do\n\n   ```sh example\n   ls  # all\n   ```\n\ntext\n\n    indented\n");
        let blocks: Vec<_> = page.blocks.iter().map(|it| (it.info.as_deref(), it.text.as_str())).collect();
        assert_eq!(blocks, [(Some("sh example"), "ls  # all\n"), (None, "indented\n")]);
        assert_eq!(page.blocks[0].line, 3);
    }
}
