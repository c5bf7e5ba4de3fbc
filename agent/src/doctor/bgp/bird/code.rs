//! The language of BIRD's filters, as far as route priority is written in it. What is not understood becomes a statement or
//! an expression that says so; nothing is refused, and the rest is still read.

use super::lexer::{Token, Word};
use ipnet::IpNet;
use std::net::IpAddr;

/// What a filter does, one after the other.
#[derive(Clone, PartialEq, Debug)]
pub(super) enum Statement {
    Assign(String, Expression),
    /// A method of an attribute, such as `bgp_community.add(…)`.
    Change(String, String, Vec<Expression>),
    /// A function called for what it does.
    Call(Expression),
    If(Expression, Vec<Statement>, Vec<Statement>),
    Accept,
    Reject,
    Return(Option<Expression>),
    /// Something else, which may do anything.
    Unknown,
}

/// A value to come.
#[derive(Clone, PartialEq, Debug)]
pub(super) enum Expression {
    Number(i64),
    Text(String),
    Net(IpNet),
    Flag(bool),
    /// An attribute, a variable, a constant or a symbol.
    Name(String),
    Call(String, Vec<Expression>),
    Method(Box<Expression>, String, Vec<Expression>),
    Pair(Box<Expression>, Box<Expression>),
    Set(Vec<Element>),
    /// `[= … =]`, of which only this is known: whether an empty path fits.
    Mask(bool),
    Not(Box<Expression>),
    Binary(Operator, Box<Expression>, Box<Expression>),
    Unknown,
}

/// What a set has in it.
#[derive(Clone, PartialEq, Debug)]
pub(super) enum Element {
    One(Expression),
    Range(Expression, Expression),
    /// A prefix with the lengths that match below it.
    Nets(IpNet, u8, u8),
    Unknown,
}

/// Between two expressions.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Operator {
    And,
    Or,
    Equal,
    Unequal,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
    Matches,
    MatchesNot,
    Plus,
    Minus,
    Times,
    Over,
}

/// Words that begin the declaration of a variable.
pub(super) const TYPES: [&str; 17] = [
    "int", "bool", "string", "pair", "quad", "ec", "lc", "ip", "prefix", "rd", "enum", "bgpmask", "bgppath",
    "clist", "eclist", "lclist", "route",
];

/// Reads the inside of a filter or function.
pub(super) fn statements(tokens: &[Token]) -> Vec<Statement> {
    let mut reader = Reader { tokens, at: 0 };
    let mut statements = Vec::new();
    while reader.at < tokens.len() {
        reader.statement(&mut statements);
    }
    statements
}

/// Reads one expression.
pub(super) fn expression(tokens: &[Token]) -> Expression {
    Reader { tokens, at: 0 }.logical()
}

struct Reader<'a> {
    tokens: &'a [Token],
    at: usize,
}

impl Reader<'_> {
    fn peek(&self) -> Option<&Word> {
        self.tokens.get(self.at).map(|token| &token.word)
    }

    fn sees(&self, text: &str) -> bool {
        self.peek().is_some_and(|word| word.is(text))
    }

    fn sees_at(&self, offset: usize, text: &str) -> bool {
        self.tokens.get(self.at + offset).is_some_and(|token| token.word.is(text))
    }

    fn eat(&mut self, text: &str) -> bool {
        let sees = self.sees(text);
        self.at += usize::from(sees);
        sees
    }

    fn name(&mut self) -> Option<String> {
        let Some(Word::Name(name)) = self.peek() else { return None };
        let name = name.clone();
        self.at += 1;
        Some(name)
    }

    /// Goes behind the next semicolon, or before the bracket that ends everything.
    fn skip_statement(&mut self) {
        let mut depth = 0_usize;
        while let Some(word) = self.peek() {
            let (opens, closes, ends) = (word.is("{"), word.is("}"), word.is(";"));
            if closes && depth == 0 {
                // A stray one must not stop the reader.
                self.at += 1;
                return;
            }
            depth = depth + usize::from(opens) - usize::from(closes);
            self.at += 1;
            if depth == 0 && (ends || closes) {
                return;
            }
        }
    }

    fn statement(&mut self, into: &mut Vec<Statement>) {
        let began_at = self.at;
        match self.try_statement(into) {
            Some(()) if self.at > began_at => {}
            _ => {
                self.at = began_at;
                self.skip_statement();
                into.push(Statement::Unknown);
            }
        }
    }

    fn block_or_statement(&mut self) -> Vec<Statement> {
        let mut into = Vec::new();
        self.statement(&mut into);
        into
    }

    fn end(&mut self) -> Option<()> {
        // Before `else` and `}` older versions do not want one.
        (self.eat(";") || self.sees("}") || self.sees("else") || self.peek().is_none()).then_some(())
    }

    fn try_statement(&mut self, into: &mut Vec<Statement>) -> Option<()> {
        if self.eat(";") {
            return Some(());
        }
        if self.eat("{") {
            while !self.eat("}") {
                self.peek()?;
                self.statement(into);
            }
            return Some(());
        }
        if self.eat("if") {
            let condition = self.logical();
            if !self.eat("then") {
                return None;
            }
            let then = self.block_or_statement();
            let otherwise = if self.eat("else") { self.block_or_statement() } else { Vec::new() };
            into.push(Statement::If(condition, then, otherwise));
            return Some(());
        }
        for (word, statement) in [("accept", Statement::Accept), ("reject", Statement::Reject)] {
            if self.eat(word) {
                if !self.sees(";") && !self.sees("}") && self.peek().is_some() && !self.sees("else") {
                    self.logical();
                }
                into.push(statement);
                return self.end();
            }
        }
        if self.eat("return") {
            let value = if self.sees(";") { None } else { Some(self.logical()) };
            into.push(Statement::Return(value));
            return self.end();
        }
        if self.eat("print") || self.eat("printn") {
            self.skip_statement();
            return Some(());
        }
        if let Some(Word::Name(name)) = self.peek()
            && TYPES.contains(&name.as_str())
        {
            return self.declaration(into);
        }
        self.assignment_or_call(into)
    }

    /// `int x;`, `int x = 5;`, and `int set x;` with its braces or brackets.
    fn declaration(&mut self, into: &mut Vec<Statement>) -> Option<()> {
        self.at += 1;
        self.eat("set");
        let name = self.name()?;
        if self.eat("=") {
            let value = self.logical();
            into.push(Statement::Assign(name, value));
        }
        self.end()
    }

    fn assignment_or_call(&mut self, into: &mut Vec<Statement>) -> Option<()> {
        if self.sees_at(1, "=") {
            let name = self.name()?;
            self.at += 1;
            let value = self.logical();
            into.push(Statement::Assign(name, value));
            return self.end();
        }
        match self.postfix() {
            Expression::Method(of, method, arguments) => match *of {
                Expression::Name(name) => into.push(Statement::Change(name, method, arguments)),
                _ => return None,
            },
            Expression::Call(name, arguments) if name == "unset" => match arguments.first() {
                Some(Expression::Name(name)) => {
                    into.push(Statement::Change(name.clone(), "unset".to_owned(), Vec::new()));
                }
                _ => return None,
            },
            call @ Expression::Call(..) => into.push(Statement::Call(call)),
            _ => return None,
        }
        self.end()
    }

    /// `&&` and `||` have the same precedence (conf/confbase.Y), to the left.
    fn logical(&mut self) -> Expression {
        let mut left = self.comparison();
        loop {
            let operator = match self.peek() {
                Some(word) if word.is("&&") => Operator::And,
                Some(word) if word.is("||") => Operator::Or,
                _ => return left,
            };
            self.at += 1;
            let right = self.comparison();
            left = Expression::Binary(operator, Box::new(left), Box::new(right));
        }
    }

    fn comparison(&mut self) -> Expression {
        const COMPARISONS: [(&str, Operator); 8] = [
            ("=", Operator::Equal),
            ("!=", Operator::Unequal),
            ("<", Operator::Less),
            ("<=", Operator::LessOrEqual),
            (">", Operator::Greater),
            (">=", Operator::GreaterOrEqual),
            ("~", Operator::Matches),
            ("!~", Operator::MatchesNot),
        ];
        let left = self.sum();
        let found = COMPARISONS.into_iter().find(|(mark, _)| self.sees(mark));
        let Some((_, operator)) = found else { return left };
        self.at += 1;
        let right = self.sum();
        Expression::Binary(operator, Box::new(left), Box::new(right))
    }

    fn sum(&mut self) -> Expression {
        let mut left = self.product();
        loop {
            let operator = match self.peek() {
                Some(word) if word.is("+") => Operator::Plus,
                Some(word) if word.is("-") => Operator::Minus,
                _ => return left,
            };
            self.at += 1;
            let right = self.product();
            left = Expression::Binary(operator, Box::new(left), Box::new(right));
        }
    }

    fn product(&mut self) -> Expression {
        let mut left = self.unary();
        loop {
            let operator = match self.peek() {
                Some(word) if word.is("*") => Operator::Times,
                Some(word) if word.is("/") => Operator::Over,
                _ => return left,
            };
            self.at += 1;
            let right = self.unary();
            left = Expression::Binary(operator, Box::new(left), Box::new(right));
        }
    }

    fn unary(&mut self) -> Expression {
        if self.eat("!") {
            return Expression::Not(Box::new(self.unary()));
        }
        self.postfix()
    }

    fn postfix(&mut self) -> Expression {
        let mut value = self.primary();
        while self.sees(".") {
            self.at += 1;
            let Some(method) = self.name() else { return Expression::Unknown };
            let arguments = if self.eat("(") { self.arguments() } else { Vec::new() };
            value = Expression::Method(Box::new(value), method, arguments);
        }
        value
    }

    /// Up to and with the closing bracket.
    fn arguments(&mut self) -> Vec<Expression> {
        let mut arguments = Vec::new();
        while !self.eat(")") && self.peek().is_some() {
            let began_at = self.at;
            arguments.push(self.logical());
            self.eat(",");
            // What is not understood inside of brackets is gone over word by word.
            self.at += usize::from(self.at == began_at);
        }
        arguments
    }

    fn primary(&mut self) -> Expression {
        let Some(word) = self.peek().cloned() else { return Expression::Unknown };
        match word {
            Word::Mark("(") => {
                self.at += 1;
                let mut inside = self.arguments();
                match (inside.pop(), inside.pop(), inside.pop()) {
                    (Some(only), None, _) => only,
                    (Some(second), Some(first), None) => Expression::Pair(Box::new(first), Box::new(second)),
                    _ => Expression::Unknown,
                }
            }
            Word::Mark("[") if self.sees_at(1, "=") => {
                self.at += 2;
                self.mask()
            }
            Word::Mark("[") => {
                self.at += 1;
                self.set()
            }
            Word::Number(number) => {
                self.at += 1;
                Expression::Number(number)
            }
            Word::Text(text) => {
                self.at += 1;
                Expression::Text(text)
            }
            Word::Address(text) => {
                self.at += 1;
                net(&text).map_or(Expression::Unknown, Expression::Net)
            }
            Word::Name(name) => {
                self.at += 1;
                match name.as_str() {
                    "true" => Expression::Flag(true),
                    "false" => Expression::Flag(false),
                    _ if self.eat("(") => Expression::Call(name, self.arguments()),
                    _ => Expression::Name(name),
                }
            }
            _ => Expression::Unknown,
        }
    }

    /// Up to and with `=]`. Only a mask without anything but asterisks is one that an empty path fits.
    fn mask(&mut self) -> Expression {
        let mut fits_empty = true;
        while let Some(word) = self.peek() {
            if word.is("=") && self.sees_at(1, "]") {
                self.at += 2;
                break;
            }
            fits_empty &= word.is("*");
            self.at += 1;
        }
        Expression::Mask(fits_empty)
    }

    /// Up to and with the closing bracket.
    fn set(&mut self) -> Expression {
        let mut elements = Vec::new();
        while !self.eat("]") && self.peek().is_some() {
            let began_at = self.at;
            elements.push(self.element());
            if !self.eat(",") && !self.sees("]") {
                elements.push(Element::Unknown);
            }
            self.at += usize::from(self.at == began_at);
        }
        Expression::Set(elements)
    }

    fn element(&mut self) -> Element {
        if let Some(Word::Address(text)) = self.peek() {
            let Some(net) = net(text) else { return Element::Unknown };
            self.at += 1;
            return self.lengths(net);
        }
        let first = self.sum();
        if self.eat("..") {
            return Element::Range(first, self.sum());
        }
        Element::One(first)
    }

    /// What may follow a prefix in a set: nothing, `+`, `-` or `{from, to}`.
    fn lengths(&mut self, net: IpNet) -> Element {
        let own = net.prefix_len();
        if self.eat("+") {
            return Element::Nets(net, own, net.max_prefix_len());
        }
        if self.eat("-") {
            return Element::Nets(net, 0, own);
        }
        if !self.eat("{") {
            return Element::Nets(net, own, own);
        }
        let mut bound = || -> Option<u8> {
            let Some(Word::Number(number)) = self.peek() else { return None };
            let number = u8::try_from(*number).ok()?;
            self.at += 1;
            self.eat(",");
            Some(number)
        };
        match (bound(), bound()) {
            (Some(from), Some(to)) if self.eat("}") => Element::Nets(net, from, to),
            _ => Element::Unknown,
        }
    }
}

/// An address, or a prefix.
pub(super) fn net(text: &str) -> Option<IpNet> {
    text.parse().ok().or_else(|| text.parse::<IpAddr>().ok().map(IpNet::from))
}

#[cfg(test)]
mod tests {
    use super::super::lexer::tokens;
    use super::*;
    use proptest::prelude::*;
    use std::path::Path;

    fn read(text: &str) -> Vec<Statement> {
        statements(&tokens(Path::new("bird.conf"), text))
    }

    fn name(text: &str) -> Box<Expression> {
        Box::new(Expression::Name(text.to_owned()))
    }

    #[test]
    fn statements_of_priority_filters() {
        let metric = Statement::Assign("krt_metric".into(), Expression::Number(1024));
        let undefined =
            Expression::Not(Box::new(Expression::Call("defined".into(), vec![*name("krt_metric")])));
        for text in [
            "if (!defined(krt_metric)) then { krt_metric = 1024; }",
            "if !defined(krt_metric) then krt_metric = 1024;",
        ] {
            assert_eq!(
                read(text),
                [Statement::If(undefined.clone(), vec![metric.clone()], Vec::new())],
                "{text}"
            );
        }
        let minus = Expression::Binary(Operator::Minus, Box::new(Expression::Number(9)), name("krt_metric"));
        assert_eq!(
            read("bgp_local_pref = 9 - krt_metric;"),
            [Statement::Assign("bgp_local_pref".into(), minus)]
        );
        let pair = Expression::Pair(Box::new(Expression::Number(65000)), Box::new(Expression::Number(100)));
        assert_eq!(
            read("bgp_community.add((65000, 100));"),
            [Statement::Change("bgp_community".into(), "add".into(), vec![pair.clone()])]
        );
        let matches = Expression::Binary(Operator::Matches, Box::new(pair), name("bgp_community"));
        let preference = Statement::Assign("preference".into(), Expression::Number(200));
        assert_eq!(
            read("if (((65000, 100) ~ bgp_community)) then\npreference = 200;"),
            [Statement::If(matches, vec![preference], Vec::new())]
        );
    }

    #[test]
    fn and_and_or_are_equal() {
        let read = |text: &str| expression(&tokens(Path::new("x"), text));
        let or = Expression::Binary(Operator::Or, name("a"), name("b"));
        assert_eq!(read("a || b && c"), Expression::Binary(Operator::And, Box::new(or), name("c")));
    }

    #[test]
    fn what_is_not_understood_is_said_and_the_rest_is_read() {
        assert_eq!(
            read("case net.len { 32: accept; else: reject; } reject;"),
            [Statement::Unknown, Statement::Reject]
        );
        assert_eq!(read("for int i in x do { y; } accept;"), [Statement::Unknown, Statement::Accept]);
        assert_eq!(read("} accept;"), [Statement::Unknown, Statement::Accept]);
    }

    #[test]
    fn sets() {
        let read = |text: &str| expression(&tokens(Path::new("x"), text));
        let net = |text: &str| text.parse::<IpNet>().unwrap();
        assert_eq!(
            read("[ 10.0.0.0/8+, 192.168.0.0/16{24,32}, 0.0.0.0/0 ]"),
            Expression::Set(vec![
                Element::Nets(net("10.0.0.0/8"), 8, 32),
                Element::Nets(net("192.168.0.0/16"), 24, 32),
                Element::Nets(net("0.0.0.0/0"), 0, 0),
            ])
        );
        assert_eq!(read("[= * 64601 * =]"), Expression::Mask(false));
        assert_eq!([read("[= * =]"), read("[==]")], [Expression::Mask(true), Expression::Mask(true)]);
        assert_eq!(
            read("[1..5, 7]"),
            Expression::Set(vec![
                Element::Range(Expression::Number(1), Expression::Number(5)),
                Element::One(Expression::Number(7)),
            ])
        );
    }

    proptest! {
        #[test]
        fn any_text_is_read(text in "(if|then|else|accept|case|\\{|\\}|\\(|\\)|\\[|\\]|;|=|,|\\.|!|x|1|10.0.0.0/8| ){0,40}") {
            let _ = read(&text);
        }
    }
}
