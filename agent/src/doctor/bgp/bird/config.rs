//! A whole configuration of BIRD: files with what they include, constants, functions, filters, templates and protocols.
//!
//! Follows blocks and does not care for options that it does not know.

use super::code::{Expression, Statement, TYPES, expression, statements};
use super::lexer::{Place, Token, Word, tokens};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// What the files say.
#[derive(Clone, Debug, Default)]
pub(super) struct Config {
    pub(super) constants: BTreeMap<String, Expression>,
    pub(super) functions: BTreeMap<String, Function>,
    pub(super) filters: BTreeMap<String, Vec<Statement>>,
    pub(super) protocols: Vec<Protocol>,
    templates: BTreeMap<String, Vec<Item>>,
    pub(super) files: Vec<PathBuf>,
    /// Files that cannot be read, with the reason.
    pub(super) unreadable: Vec<String>,
}

/// A function of a filter.
#[derive(Clone, PartialEq, Debug)]
pub(super) struct Function {
    pub(super) arguments: Vec<String>,
    pub(super) body: Vec<Statement>,
}

/// A protocol with the options of its templates before its own.
#[derive(Clone, PartialEq, Debug)]
pub(super) struct Protocol {
    /// `kernel`, `bgp` and so on.
    pub(super) kind: String,
    /// `v2` or `v3` of OSPF, `ng` of RIP.
    pub(super) variant: Option<String>,
    /// As BIRD numbers those without a name.
    pub(super) name: String,
    pub(super) options: Vec<Item>,
    pub(super) place: Place,
}

/// Words up to a semicolon, or up to a block and the block.
#[derive(Clone, PartialEq, Debug)]
pub(super) struct Item {
    pub(super) head: Vec<Token>,
    pub(super) body: Option<Vec<Token>>,
}

impl Item {
    /// Whether it begins with these words.
    pub(super) fn begins(&self, words: &[&str]) -> bool {
        self.head.len() >= words.len() && self.head.iter().zip(words).all(|(token, word)| token.word.is(word))
    }
}

/// LIMIT: files that include each other end here.
const FILES_MAX: usize = 200;

impl Config {
    /// Reads a file and everything that it includes.
    pub(super) fn read(path: &Path) -> Self {
        let mut config = Self::default();
        let tokens = config.tokens_of(path, &mut BTreeSet::new());
        config.take(&tokens);
        config
    }

    /// The same from a text, without any includes.
    #[cfg(test)]
    pub(super) fn of(text: &str) -> Self {
        let mut config = Self { files: vec!["bird.conf".into()], ..Self::default() };
        config.take(&tokens(Path::new("bird.conf"), text));
        config
    }

    /// Whether protocols have a channel for each family, as they do since BIRD 2.
    pub(super) fn has_channels(&self) -> bool {
        let mut items = self.protocols.iter().flat_map(|protocol| &protocol.options);
        items.any(|item| item.head.len() == 1 && (item.begins(&["ipv4"]) || item.begins(&["ipv6"])))
    }

    fn tokens_of(&mut self, path: &Path, seen: &mut BTreeSet<PathBuf>) -> Vec<Token> {
        let real = path.canonicalize().unwrap_or_else(|_| path.to_owned());
        if !seen.insert(real) || seen.len() > FILES_MAX {
            return Vec::new();
        }
        let text = match std::fs::read(path) {
            Ok(bytes) => String::from_utf8_lossy(&bytes).into_owned(),
            Err(error) => {
                self.unreadable.push(format!("{}: cannot read: {error}", path.display()));
                return Vec::new();
            }
        };
        self.files.push(path.to_owned());
        let mut all = Vec::new();
        let mut rest = tokens(path, &text).into_iter().peekable();
        while let Some(token) = rest.next() {
            let named = match rest.peek().map(|next| &next.word) {
                Some(Word::Text(named)) if token.word.is("include") => named.clone(),
                _ => {
                    all.push(token);
                    continue;
                }
            };
            rest.next();
            rest.next_if(|next| next.word.is(";"));
            let pattern = path.parent().unwrap_or(Path::new("/")).join(named);
            for included in matching(&pattern) {
                all.extend(self.tokens_of(&included, seen));
            }
        }
        all
    }

    fn take(&mut self, tokens: &[Token]) {
        let mut numbers: BTreeMap<String, usize> = BTreeMap::new();
        for item in items(tokens) {
            let names: Vec<&str> = item.head.iter().map_while(|token| name_of(&token.word)).collect();
            match (names.as_slice(), &item.body) {
                (["define", name, ..], None) => {
                    let value = item.head.iter().position(|token| token.word.is("="));
                    let value = value.map(|at| expression(&item.head[at + 1..]));
                    self.constants.insert((*name).to_owned(), value.unwrap_or(Expression::Unknown));
                }
                (["filter", name, ..], Some(body)) => {
                    self.filters.insert((*name).to_owned(), statements(body));
                }
                (["function", name, ..], Some(body)) => {
                    let function = Function { arguments: arguments(&item.head), body: statements(body) };
                    self.functions.insert((*name).to_owned(), function);
                }
                (["template", _, name, ..], Some(body)) => {
                    let options = self.with_template(&names, body);
                    self.templates.insert((*name).to_owned(), options);
                }
                (["protocol", kind, rest @ ..], Some(body)) => {
                    let number = numbers.entry((*kind).to_owned()).or_default();
                    let (variant, rest) = match rest {
                        [variant @ ("v2" | "v3" | "ng"), rest @ ..] if matches!(*kind, "ospf" | "rip") => {
                            (Some((*variant).to_owned()), rest)
                        }
                        rest => (None, rest),
                    };
                    let name = match rest {
                        [] | ["from", ..] => {
                            *number += 1;
                            format!("{kind}{number}")
                        }
                        [name, ..] => (*name).to_owned(),
                    };
                    self.protocols.push(Protocol {
                        kind: (*kind).to_owned(),
                        variant,
                        name,
                        options: self.with_template(&names, body),
                        place: item.head[0].place.clone(),
                    });
                }
                _ => {}
            }
        }
    }

    fn with_template(&self, names: &[&str], body: &[Token]) -> Vec<Item> {
        let from = names.iter().position(|name| *name == "from").and_then(|at| names.get(at + 1));
        let mut options = from.and_then(|name| self.templates.get(*name)).cloned().unwrap_or_default();
        options.extend(items(body));
        options
    }
}

fn name_of(word: &Word) -> Option<&str> {
    match word {
        Word::Name(name) => Some(name),
        _ => None,
    }
}

/// The names before the commas and the closing bracket: types come before names, and with them or not the last word counts.
fn arguments(head: &[Token]) -> Vec<String> {
    let Some(open) = head.iter().position(|token| token.word.is("(")) else { return Vec::new() };
    let mut names = Vec::new();
    let mut last = None;
    for token in &head[open + 1..] {
        match &token.word {
            Word::Name(name) => last = Some(name.clone()),
            word if word.is(",") || word.is(")") || word.is(";") => names.extend(last.take()),
            _ => {}
        }
        if token.word.is(")") {
            break;
        }
    }
    names
}

/// Takes a text apart into items.
pub(super) fn items(tokens: &[Token]) -> Vec<Item> {
    let mut items = Vec::new();
    let mut head: Vec<Token> = Vec::new();
    let mut brackets = 0_usize;
    let mut at = 0;
    while let Some(token) = tokens.get(at) {
        at += 1;
        if token.word.is("[") || token.word.is("(") {
            brackets += 1;
        } else if token.word.is("]") || token.word.is(")") {
            brackets = brackets.saturating_sub(1);
        }
        if brackets > 0 {
            head.push(token.clone());
        } else if token.word.is(";") {
            if declares_variables(&head) {
                head.push(token.clone());
            } else if !head.is_empty() {
                items.push(Item { head: std::mem::take(&mut head), body: None });
            }
        } else if token.word.is("{") {
            let end = at + closing(&tokens[at..]);
            items.push(Item { head: std::mem::take(&mut head), body: Some(tokens[at..end].to_vec()) });
            at = end + 1;
        } else if !token.word.is("}") {
            head.push(token.clone());
        }
    }
    if !head.is_empty() {
        items.push(Item { head, body: None });
    }
    items
}

/// Whether a function or filter has begun whose brace is still to come: before it there may be declarations of local variables,
/// where BIRD 1 wants them and BIRD 2 allows them.
fn declares_variables(head: &[Token]) -> bool {
    let is = |at: usize, words: &[&str]| {
        head.get(at).is_some_and(|token| words.iter().any(|word| token.word.is(word)))
    };
    is(0, &["function"])
        || (is(0, &["filter"]) && is(2, &TYPES))
        || (is(0, &["import", "export"]) && is(1, &["filter"]) && is(2, &TYPES))
}

/// Where the bracket is that closes the one before these tokens.
fn closing(tokens: &[Token]) -> usize {
    let mut depth = 1_usize;
    for (at, token) in tokens.iter().enumerate() {
        depth = depth + usize::from(token.word.is("{")) - usize::from(token.word.is("}"));
        if depth == 0 {
            return at;
        }
    }
    tokens.len()
}

/// The files that a pattern with `*` and `?` in its last part stands for, sorted, as BIRD takes them.
fn matching(pattern: &Path) -> Vec<PathBuf> {
    let Some(name) = pattern.file_name().map(|name| name.to_string_lossy().into_owned()) else {
        return Vec::new();
    };
    if !name.contains(['*', '?']) {
        return vec![pattern.to_owned()];
    }
    let folder = pattern.parent().unwrap_or(Path::new("."));
    let mut found: Vec<PathBuf> = std::fs::read_dir(folder)
        .into_iter()
        .flatten()
        .flatten()
        .filter(|entry| glob(&name, &entry.file_name().to_string_lossy()))
        .map(|entry| entry.path())
        .collect();
    found.sort();
    found
}

/// Whether a text fits a pattern with `*` and `?`.
pub(super) fn glob(pattern: &str, text: &str) -> bool {
    let mut rest = pattern.chars();
    match rest.next() {
        None => text.is_empty(),
        Some('*') => {
            let rest = rest.as_str();
            text.char_indices().map(|(at, _)| &text[at..]).chain([""]).any(|tail| glob(rest, tail))
        }
        Some(wanted) => {
            let mut characters = text.chars();
            let first = characters.next();
            first.is_some_and(|first| wanted == '?' || wanted == first)
                && glob(rest.as_str(), characters.as_str())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_constants_and_templates() {
        let config = Config::of(
            "define AS = 65000;\n\
             filter f { if net ~ [ 10.0.0.0/8{8,16} ] then reject; accept; }\n\
             function g(int a; int b) { return a; }\n\
             function h(int a, int b) -> int { return b; }\n\
             template bgp base { local as AS; ipv4 { import all; }; }\n\
             protocol bgp p from base { neighbor 10.0.0.1 as AS; }\n\
             protocol kernel { learn; }\nprotocol kernel 'second' { learn; }\nprotocol kernel { }\n",
        );
        assert_eq!(config.constants["AS"], Expression::Number(65000));
        assert_eq!(config.filters["f"].len(), 2);
        assert_eq!(config.functions["g"].arguments, ["a", "b"]);
        assert_eq!(config.functions["h"].arguments, ["a", "b"]);
        let names: Vec<&str> = config.protocols.iter().map(|protocol| protocol.name.as_str()).collect();
        assert_eq!(names, ["p", "kernel1", "second", "kernel2"]);
        let bgp = &config.protocols[0];
        assert!(bgp.options[0].begins(&["local", "as"]));
        assert!(bgp.options[1].begins(&["ipv4"]) && bgp.options[1].body.is_some());
        assert!(bgp.options[2].begins(&["neighbor"]));
        assert_eq!(bgp.place.line, 6);
    }

    #[test]
    fn local_variables_may_stand_before_the_brace() {
        let config = Config::of(
            "function f(int a; int b)\nprefix set s;\nint n;\n{ s = [ 10.0.0.0/8+ ]; reject; }\n\
             filter g int n; bool b; { n = 1; accept; }\nfilter h { reject; }\n\
             protocol bgp p { ipv4 { import filter int x; { x = 1; accept; }; export filter h; }; }\n",
        );
        assert_eq!(config.functions["f"].arguments, ["a", "b"]);
        assert_eq!(config.functions["f"].body.len(), 2);
        assert_eq!([config.filters["g"].len(), config.filters["h"].len()], [2, 1]);
        let channel = items(config.protocols[0].options[0].body.as_deref().unwrap());
        assert_eq!(channel.len(), 2);
        assert!(channel[0].begins(&["import", "filter", "int", "x"]) && channel[0].body.is_some());
        assert!(channel[1].begins(&["export", "filter", "h"]) && channel[1].body.is_none());
    }

    #[test]
    fn includes_are_followed_once() {
        let folder = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| std::fs::write(folder.path().join(name), text).unwrap();
        std::fs::create_dir(folder.path().join("d")).unwrap();
        write("bird.conf", "include \"d/*.conf\";\ninclude \"missing.conf\";\nprotocol device { }\n");
        write("d/a.conf", "filter a { accept; }\ninclude \"../bird.conf\";\n");
        write("d/b.conf", "filter b { accept; }\n");
        write("d/c.txt", "filter c { accept; }\n");
        let config = Config::read(&folder.path().join("bird.conf"));
        assert_eq!(config.filters.keys().collect::<Vec<_>>(), ["a", "b"]);
        assert_eq!(config.protocols.len(), 1);
        assert_eq!(config.unreadable.len(), 1);
        assert!(config.unreadable[0].contains("missing.conf"));
    }

    #[test]
    fn patterns() {
        for (pattern, text, fits) in [
            ("tap*", "tap1", true),
            ("tap*", "eth0", false),
            ("?ap", "tap", true),
            ("*", "", true),
            ("a*c", "abbc", true),
        ] {
            assert_eq!(glob(pattern, text), fits, "{pattern} {text}");
        }
    }
}
