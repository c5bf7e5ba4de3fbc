//! Label selectors, as far as LiveMigrations use them.
//!
//! ```text
//! or      = and { "||" and }
//! and     = not { "&&" not }
//! not     = "!" not | "(" or ")" | test
//! test    = "all()" | "global()" | "has(" label ")" | label operator
//! operator= ("==" | "!=" | "contains" | "starts with" | "ends with") string | ["not"] "in" "{" strings "}"
//! ```
//!
//! An absent label is unequal to everything, so `!=` and `not in` hold for it and nothing else does.

use core::fmt;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

/// LIMIT: nobody writes deeper selectors, and the parser must not run out of stack on a poison value.
const MAX_DEPTH: u32 = 32;

/// A parsed selector together with its text.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Selector {
    text: String,
    expression: Expression,
}

#[derive(Clone, PartialEq, Eq, Debug)]
enum Expression {
    All,
    Has(String),
    Equal(String, String),
    Contains(String, String),
    StartsWith(String, String),
    EndsWith(String, String),
    In(String, BTreeSet<String>),
    Not(Box<Self>),
    And(Vec<Self>),
    Or(Vec<Self>),
}

/// The selector does not parse.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct InvalidSelector {
    /// Offset in bytes at which it went wrong.
    pub offset: usize,
    /// What would have been right there.
    pub expected: &'static str,
}

impl fmt::Display for InvalidSelector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "selector is wrong at byte {}: expected {}", self.offset, self.expected)
    }
}

impl core::error::Error for InvalidSelector {}

impl Selector {
    /// Reads a selector.
    ///
    /// # Errors
    /// Says where the text stops being a selector.
    pub fn parse(text: &str) -> Result<Self, InvalidSelector> {
        let mut parser = Parser { text, offset: 0, depth: 0 };
        parser.skip_space();
        let expression = if parser.rest().is_empty() { Expression::All } else { parser.or()? };
        if !parser.rest().is_empty() {
            return Err(parser.error("the end, && or ||"));
        }
        Ok(Self { text: text.to_owned(), expression })
    }

    /// Whether these labels are selected.
    #[must_use]
    pub fn matches(&self, labels: &BTreeMap<String, String>) -> bool {
        self.expression.matches(labels)
    }
}

impl fmt::Display for Selector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl TryFrom<String> for Selector {
    type Error = InvalidSelector;

    fn try_from(text: String) -> Result<Self, InvalidSelector> {
        Self::parse(&text)
    }
}

impl From<Selector> for String {
    fn from(selector: Selector) -> Self {
        selector.text
    }
}

impl Expression {
    fn matches(&self, labels: &BTreeMap<String, String>) -> bool {
        let test = |label: &String, holds: &dyn Fn(&str) -> bool| labels.get(label).is_some_and(|v| holds(v));
        match self {
            Self::All => true,
            Self::Has(label) => labels.contains_key(label),
            Self::Equal(label, value) => test(label, &|v| v == value),
            Self::Contains(label, part) => test(label, &|v| v.contains(part)),
            Self::StartsWith(label, part) => test(label, &|v| v.starts_with(part)),
            Self::EndsWith(label, part) => test(label, &|v| v.ends_with(part)),
            Self::In(label, values) => test(label, &|v| values.contains(v)),
            Self::Not(inner) => !inner.matches(labels),
            Self::And(all) => all.iter().all(|inner| inner.matches(labels)),
            Self::Or(any) => any.iter().any(|inner| inner.matches(labels)),
        }
    }
}

struct Parser<'a> {
    text: &'a str,
    offset: usize,
    depth: u32,
}

impl<'a> Parser<'a> {
    fn rest(&self) -> &'a str {
        &self.text[self.offset..]
    }

    fn error(&self, expected: &'static str) -> InvalidSelector {
        InvalidSelector { offset: self.offset, expected }
    }

    fn skip_space(&mut self) {
        self.offset = self.text.len() - self.rest().trim_start().len();
    }

    /// Takes `token` if it comes next.
    fn take(&mut self, token: &str) -> bool {
        let found = self.rest().starts_with(token);
        if found {
            self.offset += token.len();
            self.skip_space();
        }
        found
    }

    /// Takes `word` if it comes next and is not just the beginning of a longer one.
    fn take_word(&mut self, word: &str) -> bool {
        let follows = self.rest().strip_prefix(word);
        if follows.is_some_and(|rest| !rest.starts_with(is_label_character)) {
            self.take(word)
        } else {
            false
        }
    }

    fn expect(&mut self, token: &str, expected: &'static str) -> Result<(), InvalidSelector> {
        if self.take(token) { Ok(()) } else { Err(self.error(expected)) }
    }

    fn or(&mut self) -> Result<Expression, InvalidSelector> {
        let mut any = vec![self.and()?];
        while self.take("||") {
            any.push(self.and()?);
        }
        Ok(if any.len() == 1 { any.remove(0) } else { Expression::Or(any) })
    }

    fn and(&mut self) -> Result<Expression, InvalidSelector> {
        let mut all = vec![self.not()?];
        while self.take("&&") {
            all.push(self.not()?);
        }
        Ok(if all.len() == 1 { all.remove(0) } else { Expression::And(all) })
    }

    fn not(&mut self) -> Result<Expression, InvalidSelector> {
        self.depth += 1;
        if self.depth > MAX_DEPTH {
            return Err(self.error("fewer levels of nesting"));
        }
        let expression = if self.take("!") {
            Expression::Not(Box::new(self.not()?))
        } else if self.take("(") {
            let inner = self.or()?;
            self.expect(")", "a closing parenthesis")?;
            inner
        } else {
            self.test()?
        };
        self.depth -= 1;
        Ok(expression)
    }

    fn test(&mut self) -> Result<Expression, InvalidSelector> {
        for everything in ["all", "global"] {
            if self.take_word(everything) {
                self.expect("(", "an opening parenthesis")?;
                self.expect(")", "a closing parenthesis")?;
                return Ok(Expression::All);
            }
        }
        if self.take_word("has") {
            self.expect("(", "an opening parenthesis")?;
            let label = self.label()?;
            self.expect(")", "a closing parenthesis")?;
            return Ok(Expression::Has(label));
        }
        let label = self.label()?;
        self.operator(label)
    }

    fn operator(&mut self, label: String) -> Result<Expression, InvalidSelector> {
        if self.take("==") {
            return Ok(Expression::Equal(label, self.string()?));
        }
        if self.take("!=") {
            return Ok(Expression::Not(Box::new(Expression::Equal(label, self.string()?))));
        }
        if self.take_word("contains") {
            return Ok(Expression::Contains(label, self.string()?));
        }
        if self.take_word("starts") {
            self.expect("with", "with")?;
            return Ok(Expression::StartsWith(label, self.string()?));
        }
        if self.take_word("ends") {
            self.expect("with", "with")?;
            return Ok(Expression::EndsWith(label, self.string()?));
        }
        let negated = self.take_word("not");
        if !self.take_word("in") {
            return Err(self.error("an operator"));
        }
        let inside = Expression::In(label, self.strings()?);
        Ok(if negated { Expression::Not(Box::new(inside)) } else { inside })
    }

    fn label(&mut self) -> Result<String, InvalidSelector> {
        let rest = self.rest();
        let end = rest.find(|c| !is_label_character(c)).unwrap_or(rest.len());
        if end == 0 {
            return Err(self.error("a label"));
        }
        self.offset += end;
        self.skip_space();
        Ok(rest[..end].to_owned())
    }

    fn string(&mut self) -> Result<String, InvalidSelector> {
        let rest = self.rest();
        let quote =
            rest.chars().next().filter(|c| matches!(c, '"' | '\'')).ok_or(self.error("a quoted string"))?;
        let end = rest[1..].find(quote).ok_or(self.error("a string with a closing quote"))?;
        self.offset += end + 2;
        self.skip_space();
        Ok(rest[1..=end].to_owned())
    }

    fn strings(&mut self) -> Result<BTreeSet<String>, InvalidSelector> {
        self.expect("{", "an opening brace")?;
        let mut values = BTreeSet::new();
        while !self.take("}") {
            values.insert(self.string()?);
            if !self.take(",") && !self.rest().starts_with('}') {
                return Err(self.error("a comma or a closing brace"));
            }
        }
        Ok(values)
    }
}

fn is_label_character(character: char) -> bool {
    character.is_ascii_alphanumeric() || matches!(character, '_' | '.' | '/' | '-')
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn labels() -> BTreeMap<String, String> {
        [("kubevirt.io/vm", "one"), ("job", "abc-123")].map(|(k, v)| (k.to_owned(), v.to_owned())).into()
    }

    #[test]
    fn table() {
        for (text, selected) in [
            ("", true),
            ("all()", true),
            ("has(job)", true),
            ("has(jobs)", false),
            ("!has(jobs)", true),
            ("job == 'abc-123'", true),
            ("job == \"other\"", false),
            ("job != 'other'", true),
            ("absent != 'other'", true),
            ("absent == ''", false),
            ("job in {'x', 'abc-123'}", true),
            ("job in {}", false),
            ("job not in {'x'}", true),
            ("job contains 'c-1'", true),
            ("job starts with 'abc' && job ends with '123'", true),
            ("(kubevirt.io/vm == 'two' || kubevirt.io/vm == 'one') && job == 'abc-123'", true),
            ("kubevirt.io/vm == 'one' && !(job == 'abc-123')", false),
            ("index == '1' || all()", true),
        ] {
            assert_eq!(Selector::parse(text).unwrap().matches(&labels()), selected, "{text}");
        }
    }

    #[test]
    fn errors_say_where() {
        for (text, offset) in [
            ("job ==", 6),
            ("job", 3),
            ("(has(x)", 7),
            ("has(x) has(y)", 7),
            ("a in {'x' 'y'}", 10),
            ("a == 'x", 5),
        ] {
            assert_eq!(Selector::parse(text).unwrap_err().offset, offset, "{text}");
        }
        assert!(Selector::parse(&"!".repeat(10_000)).is_err());
        assert!(Selector::parse(&"(".repeat(10_000)).is_err());
    }

    proptest! {
        #[test]
        fn never_panics(text in ".{0,60}") {
            let _ = Selector::parse(&text);
        }
    }
}
