//! The text of BIRD's configuration as tokens with their places. Knows the words, not what they mean; whatever it does not
//! know becomes a token of one character, so that no text is refused.

use std::fmt;
use std::path::{Path, PathBuf};
use std::rc::Rc;

/// A word and where it stands.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Token {
    pub(super) word: Word,
    pub(super) place: Place,
}

/// A line of a file.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) struct Place {
    pub(super) file: Rc<PathBuf>,
    /// From 1.
    pub(super) line: usize,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.file.display(), self.line)
    }
}

/// What a token is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Word {
    /// A keyword, or a name in quotes or without.
    Name(String),
    /// Decimal or hexadecimal.
    Number(i64),
    /// Between double quotes.
    Text(String),
    /// An address, or a prefix with what may follow it in a set.
    Address(String),
    /// An operator or a bracket.
    Mark(&'static str),
    /// Anything else.
    Other(char),
}

impl Word {
    pub(super) fn is(&self, text: &str) -> bool {
        match self {
            Self::Name(name) => name == text,
            Self::Mark(mark) => *mark == text,
            _ => false,
        }
    }
}

/// Longer ones first.
const MARKS: [&str; 28] = [
    "&&", "||", "!=", "!~", "<=", ">=", "..", "->", "{", "}", "[", "]", "(", ")", "=", "<", ">", "~", "!",
    "+", "-", "*", "/", ",", ";", ":", ".", "%",
];

/// Takes the text of a file apart.
pub(super) fn tokens(file: &Path, text: &str) -> Vec<Token> {
    let mut lexer = Lexer { rest: text, file: Rc::new(file.to_owned()), line: 1 };
    let mut tokens = Vec::new();
    loop {
        lexer.skip_blank();
        let place = Place { file: Rc::clone(&lexer.file), line: lexer.line };
        let Some(word) = lexer.word() else { return tokens };
        tokens.push(Token { word, place });
    }
}

struct Lexer<'a> {
    rest: &'a str,
    file: Rc<PathBuf>,
    line: usize,
}

impl<'a> Lexer<'a> {
    /// Takes the first `bytes` bytes.
    fn take(&mut self, bytes: usize) -> &'a str {
        let (taken, rest) = self.rest.split_at(bytes);
        self.line += taken.bytes().filter(|byte| *byte == b'\n').count();
        self.rest = rest;
        taken
    }

    fn take_while(&mut self, is_part: impl Fn(char) -> bool) -> &'a str {
        let end = self.rest.find(|c| !is_part(c)).unwrap_or(self.rest.len());
        self.take(end)
    }

    fn skip_blank(&mut self) {
        loop {
            self.take_while(char::is_whitespace);
            if self.rest.starts_with('#') {
                self.take_while(|c| c != '\n');
            } else if self.rest.starts_with("/*") {
                let end = self.rest.find("*/").map_or(self.rest.len(), |at| at + 2);
                self.take(end);
            } else {
                return;
            }
        }
    }

    fn word(&mut self) -> Option<Word> {
        let first = self.rest.chars().next()?;
        if first == '"' || first == '\'' {
            return Some(self.quoted(first));
        }
        if let Some(bytes) = address_bytes(self.rest) {
            return Some(Word::Address(self.take(bytes).to_owned()));
        }
        if first.is_ascii_digit() {
            let text = self.take_while(|c| c.is_ascii_alphanumeric());
            let number = match text.strip_prefix("0x") {
                Some(digits) => i64::from_str_radix(digits, 16),
                None => text.parse(),
            };
            return Some(number.map_or_else(|_| Word::Name(text.to_owned()), Word::Number));
        }
        if first.is_alphabetic() || first == '_' {
            let name = self.take_while(|c| c.is_alphanumeric() || c == '_');
            return Some(Word::Name(name.to_owned()));
        }
        if let Some(mark) = MARKS.into_iter().find(|mark| self.rest.starts_with(mark)) {
            self.take(mark.len());
            return Some(Word::Mark(mark));
        }
        self.take(first.len_utf8());
        Some(Word::Other(first))
    }

    fn quoted(&mut self, quote: char) -> Word {
        self.take(1);
        let text = self.take_while(|c| c != quote).to_owned();
        if !self.rest.is_empty() {
            self.take(1);
        }
        if quote == '"' { Word::Text(text) } else { Word::Name(text) }
    }
}

/// How long an address or prefix at the beginning of `text` is.
fn address_bytes(text: &str) -> Option<usize> {
    let end = text.find(|c: char| !(c.is_ascii_hexdigit() || c == '.' || c == ':')).unwrap_or(text.len());
    // `1..5` and `a.b` are no addresses, and a colon can follow a number in other places.
    let address = &text[..end];
    address.parse::<std::net::IpAddr>().ok()?;
    let after = &text[end..];
    let length = after.strip_prefix('/').map_or(0, |after| {
        let digits = after.find(|c: char| !c.is_ascii_digit()).unwrap_or(after.len());
        if digits == 0 { 0 } else { digits + 1 }
    });
    Some(end + length)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn words(text: &str) -> Vec<Word> {
        tokens(Path::new("bird.conf"), text).into_iter().map(|token| token.word).collect()
    }

    #[test]
    fn each_kind_of_word() {
        let name = |text: &str| Word::Name(text.to_owned());
        assert_eq!(
            words("a_1 'b-c' # x\n/* y */ 12 0x10"),
            [name("a_1"), name("b-c"), Word::Number(12), Word::Number(16)]
        );
        assert_eq!(words("\"tap*\""), [Word::Text("tap*".into())]);
        assert_eq!(
            words("!= !~ 1..2"),
            [Word::Mark("!="), Word::Mark("!~"), Word::Number(1), Word::Mark(".."), Word::Number(2)]
        );
        let address = |text: &str| Word::Address(text.to_owned());
        assert_eq!(words("10.0.0.0/8+"), [address("10.0.0.0/8"), Word::Mark("+")]);
        assert_eq!(words("::/0 2001:db8::1"), [address("::/0"), address("2001:db8::1")]);
        assert_eq!(words("bgp_path.len"), [name("bgp_path"), Word::Mark("."), name("len")]);
    }

    #[test]
    fn places_count_lines() {
        let tokens = tokens(Path::new("x"), "a\n/* b\n */ \"c\nd\" e\n");
        let lines: Vec<usize> = tokens.iter().map(|token| token.place.line).collect();
        assert_eq!(lines, [1, 3, 4]);
    }

    proptest! {
        #[test]
        fn any_text_is_taken_apart(text in "\\PC{0,60}") {
            let _ = words(&text);
        }
    }
}
