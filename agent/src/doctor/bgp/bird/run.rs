//! What a filter makes of a route, found out by running it.
//!
//! What cannot be known, such as an attribute that nobody said anything about, makes a condition go both ways; the answers of
//! all ways are returned, and whoever judges says "could not tell" where they differ.

use super::code::{Element, Expression, Operator, Statement};
use super::config::{Config, glob};
use ipnet::IpNet;
use std::collections::{BTreeMap, BTreeSet};

/// A value while a filter runs.
#[derive(Clone, PartialEq, Debug)]
pub(super) enum Value {
    /// Not known.
    Unknown,
    /// Not there; whatever is done with it ends the filter with an error, which rejects the route.
    Undefined,
    Flag(bool),
    Number(i64),
    Text(String),
    Net(IpNet),
    /// The prefix of one address that is not known, of IPv6 or not.
    Host(bool),
    /// A word of BIRD's, such as RTS_BGP.
    Symbol(String),
    Pair(i64, i64),
    Communities(BTreeSet<(i64, i64)>),
    /// How many numbers a path has.
    Path(i64),
}

/// The attributes of a route. Those that are not in it are not known.
pub(super) type Route = BTreeMap<String, Value>;

/// How a filter ended, on one of its ways.
#[derive(Clone, PartialEq, Debug)]
pub(super) struct Outcome {
    pub(super) is_accepted: bool,
    pub(super) route: Route,
    /// Something was not understood on the way, and may have changed anything.
    pub(super) is_uncertain: bool,
}

/// What decides about a route.
#[derive(Clone, PartialEq, Debug)]
pub(super) enum Filter {
    All,
    None,
    Named(String),
    Inline(Vec<Statement>),
    Where(Expression),
}

/// LIMIT: a filter with more ways than this is not followed to the end; its outcome is uncertain.
const WAYS_MAX: usize = 256;
/// LIMIT: BIRD's own functions do not call themselves.
const DEPTH_MAX: usize = 16;

/// Runs a filter on a route.
pub(super) fn run(config: &Config, filter: &Filter, route: &Route) -> Vec<Outcome> {
    let whole = |is_accepted| vec![Outcome { is_accepted, route: route.clone(), is_uncertain: false }];
    let statements = match filter {
        Filter::All => return whole(true),
        Filter::None => return whole(false),
        Filter::Named(name) => match config.filters.get(name) {
            Some(statements) => statements.clone(),
            None => vec![Statement::Unknown],
        },
        Filter::Inline(statements) => statements.clone(),
        Filter::Where(condition) => {
            vec![Statement::If(condition.clone(), vec![Statement::Accept], vec![Statement::Reject])]
        }
    };
    let way = Way { route: route.clone(), variables: BTreeMap::new(), is_uncertain: false };
    let ends = Machine { config, depth: 0 }.all(&statements, way);
    let outcome = |(way, end): (Way, End)| Outcome {
        is_accepted: end == End::Accepted,
        route: way.route,
        // A filter that ends without a word rejects the route; one that was not understood may have said something.
        is_uncertain: way.is_uncertain,
    };
    ends.into_iter().map(outcome).collect()
}

/// Where the filter is, and what it has done so far.
#[derive(Clone, Debug)]
struct Way {
    route: Route,
    variables: BTreeMap<String, Value>,
    is_uncertain: bool,
}

#[derive(Clone, PartialEq, Debug)]
enum End {
    /// Not yet.
    Open,
    Accepted,
    Rejected,
    Returned(Value),
}

type Ways<T> = Vec<(Way, T)>;

struct Machine<'a> {
    config: &'a Config,
    depth: usize,
}

impl Machine<'_> {
    fn all(&mut self, statements: &[Statement], way: Way) -> Ways<End> {
        let mut open = vec![way];
        let mut ended = Vec::new();
        for statement in statements {
            let mut next = Vec::new();
            for way in open {
                for (way, end) in self.one(statement, way) {
                    if end == End::Open { next.push(way) } else { ended.push((way, end)) }
                }
            }
            if next.len() + ended.len() > WAYS_MAX {
                next.truncate(1);
                ended.truncate(1);
                next.iter_mut().for_each(|way| way.is_uncertain = true);
                ended.iter_mut().for_each(|(way, _)| way.is_uncertain = true);
            }
            open = next;
        }
        ended.extend(open.into_iter().map(|way| (way, End::Open)));
        ended
    }

    fn one(&mut self, statement: &Statement, mut way: Way) -> Ways<End> {
        match statement {
            Statement::Accept => vec![(way, End::Accepted)],
            Statement::Reject => vec![(way, End::Rejected)],
            Statement::Unknown => {
                way.is_uncertain = true;
                vec![(way, End::Open)]
            }
            Statement::Return(None) => vec![(way, End::Returned(Value::Unknown))],
            Statement::Return(Some(value)) => self
                .value(value, way)
                .into_iter()
                .map(|(way, value)| (way, end_or(value, End::Returned)))
                .collect(),
            Statement::Assign(name, value) => self
                .value(value, way)
                .into_iter()
                .map(|(mut way, value)| match value {
                    Ok(value) => {
                        assign(&mut way, name, value);
                        (way, End::Open)
                    }
                    Err(end) => (way, end),
                })
                .collect(),
            Statement::Change(name, method, arguments) => self.change(name, method, arguments, way),
            Statement::Call(call) => self
                .value(call, way)
                .into_iter()
                .map(|(way, value)| (way, end_or(value, |_| End::Open)))
                .collect(),
            Statement::If(condition, then, otherwise) => {
                let mut ends = Vec::new();
                for (way, value) in self.value(condition, way) {
                    match value {
                        Ok(Value::Flag(true)) => ends.extend(self.all(then, way)),
                        Ok(Value::Flag(false)) => ends.extend(self.all(otherwise, way)),
                        Ok(Value::Undefined) => ends.push((way, End::Rejected)),
                        Ok(_) => {
                            ends.extend(self.all(then, way.clone()));
                            ends.extend(self.all(otherwise, way));
                        }
                        Err(end) => ends.push((way, end)),
                    }
                }
                ends
            }
        }
    }

    fn change(&mut self, name: &str, method: &str, arguments: &[Expression], mut way: Way) -> Ways<End> {
        if method == "unset" {
            assign(&mut way, name, Value::Undefined);
            return vec![(way, End::Open)];
        }
        let Some(argument) = arguments.first() else {
            let changed =
                if method == "empty" { Value::Communities(BTreeSet::new()) } else { Value::Unknown };
            assign(&mut way, name, changed);
            return vec![(way, End::Open)];
        };
        if let Some(elements) = self.set_of(argument) {
            let before = way.route.get(name).cloned().unwrap_or(Value::Unknown);
            let after = self.without(before, method, &elements, &way);
            assign(&mut way, name, after);
            return vec![(way, End::Open)];
        }
        let mut ends = Vec::new();
        for (mut way, value) in self.value(argument, way) {
            match value {
                Ok(value) => {
                    let before = way.route.get(name).cloned().unwrap_or(Value::Unknown);
                    assign(&mut way, name, changed(before, method, &value));
                    ends.push((way, End::Open));
                }
                Err(end) => ends.push((way, end)),
            }
        }
        ends
    }

    /// What `delete` and `filter` leave of communities.
    fn without(&mut self, before: Value, method: &str, elements: &[Element], way: &Way) -> Value {
        let all = match before {
            Value::Undefined => return Value::Undefined,
            Value::Communities(all) if matches!(method, "delete" | "filter") => all,
            _ => return Value::Unknown,
        };
        let mut left = BTreeSet::new();
        for (one, other) in all {
            match self.is_in(&Value::Pair(one, other), elements, way) {
                Some(is_in) if is_in == (method == "filter") => drop(left.insert((one, other))),
                Some(_) => {}
                None => return Value::Unknown,
            }
        }
        Value::Communities(left)
    }

    /// The values that an expression can have; a function in it can end the filter.
    fn value(&mut self, expression: &Expression, way: Way) -> Ways<Result<Value, End>> {
        let known = |way, value| vec![(way, Ok(value))];
        match expression {
            Expression::Number(number) => known(way, Value::Number(*number)),
            Expression::Text(text) => known(way, Value::Text(text.clone())),
            Expression::Net(net) => known(way, Value::Net(*net)),
            Expression::Flag(flag) => known(way, Value::Flag(*flag)),
            Expression::Unknown | Expression::Set(_) => known(way, Value::Unknown),
            Expression::Name(name) => self.named(name, way),
            Expression::Pair(one, other) => self.both(one, other, way, |one, other| match (one, other) {
                (Value::Number(one), Value::Number(other)) => Value::Pair(*one, *other),
                _ => Value::Unknown,
            }),
            Expression::Not(inner) => self.map(inner, way, |value| match value {
                Value::Flag(flag) => Value::Flag(!flag),
                other => other,
            }),
            Expression::Call(name, arguments) => self.call(name, arguments, way),
            Expression::Method(of, method, _) => self.map(of, way, |value| match (value, method.as_str()) {
                (Value::Net(net), "len") => Value::Number(net.prefix_len().into()),
                (Value::Host(is_ipv6), "len") => Value::Number(host_length(is_ipv6).into()),
                (Value::Path(length), "len") => Value::Number(length),
                (Value::Communities(all), "len") => Value::Number(all.len() as i64),
                (Value::Undefined, _) => Value::Undefined,
                _ => Value::Unknown,
            }),
            Expression::Binary(operator @ (Operator::And | Operator::Or), left, right) => {
                self.short_circuit(*operator, left, right, way)
            }
            Expression::Binary(operator @ (Operator::Matches | Operator::MatchesNot), left, right) => {
                let negate = *operator == Operator::MatchesNot;
                self.matching(left, right, way, negate)
            }
            Expression::Binary(operator, left, right) => {
                let operator = *operator;
                self.both(left, right, way, move |left, right| calculate(operator, left, right))
            }
        }
    }

    fn named(&mut self, name: &str, way: Way) -> Ways<Result<Value, End>> {
        if let Some(value) = way.variables.get(name).or_else(|| way.route.get(name)) {
            let value = value.clone();
            return vec![(way, Ok(value))];
        }
        if let Some(constant) = self.config.constants.get(name).cloned()
            && self.depth < DEPTH_MAX
        {
            self.depth += 1;
            let values = self.value(&constant, way);
            self.depth -= 1;
            return values;
        }
        let is_symbol = name.contains('_')
            && name.bytes().all(|b| b.is_ascii_uppercase() || b == b'_' || b.is_ascii_digit());
        let value = if is_symbol { Value::Symbol(name.to_owned()) } else { Value::Unknown };
        vec![(way, Ok(value))]
    }

    fn map(&mut self, inner: &Expression, way: Way, f: impl Fn(Value) -> Value) -> Ways<Result<Value, End>> {
        self.value(inner, way).into_iter().map(|(way, value)| (way, value.map(&f))).collect()
    }

    fn both(
        &mut self,
        left: &Expression,
        right: &Expression,
        way: Way,
        f: impl Fn(&Value, &Value) -> Value,
    ) -> Ways<Result<Value, End>> {
        let mut results = Vec::new();
        for (way, one) in self.value(left, way) {
            match one {
                Err(end) => results.push((way, Err(end))),
                Ok(one) => {
                    let others = self.value(right, way);
                    results.extend(
                        others.into_iter().map(|(way, other)| (way, other.map(|other| f(&one, &other)))),
                    );
                }
            }
        }
        results
    }

    fn short_circuit(
        &mut self,
        operator: Operator,
        left: &Expression,
        right: &Expression,
        way: Way,
    ) -> Ways<Result<Value, End>> {
        let decided = operator == Operator::Or;
        let mut results = Vec::new();
        for (way, one) in self.value(left, way) {
            match one {
                Ok(Value::Flag(flag)) if flag == decided => results.push((way, Ok(Value::Flag(flag)))),
                Ok(Value::Undefined) => results.push((way, Ok(Value::Undefined))),
                Ok(Value::Flag(_)) => results.extend(self.value(right, way)),
                Ok(_) => {
                    // The left side can be either; the right one can decide all the same.
                    let others = self.value(right, way);
                    results.extend(others.into_iter().map(|(way, other)| {
                        let value = other.map(|other| match other {
                            Value::Flag(flag) if flag == decided => Value::Flag(flag),
                            _ => Value::Unknown,
                        });
                        (way, value)
                    }));
                }
                Err(end) => results.push((way, Err(end))),
            }
        }
        results
    }

    fn matching(
        &mut self,
        left: &Expression,
        right: &Expression,
        way: Way,
        negate: bool,
    ) -> Ways<Result<Value, End>> {
        let set = self.set_of(right);
        let result = |found: Option<bool>| found.map_or(Value::Unknown, |found| Value::Flag(found != negate));
        let mut results = Vec::new();
        for (way, value) in self.value(left, way) {
            match (value, &set) {
                (Ok(Value::Undefined), _) => results.push((way, Ok(Value::Undefined))),
                (Ok(value), Some(elements)) => {
                    let found = self.is_in(&value, elements, &way);
                    results.push((way, Ok(result(found))));
                }
                (Ok(value), None) => {
                    let others = self.value(right, way);
                    results.extend(
                        others
                            .into_iter()
                            .map(|(way, other)| (way, other.map(|other| result(fits(&value, &other))))),
                    );
                }
                (Err(end), _) => results.push((way, Err(end))),
            }
        }
        results
    }

    /// The elements of a set that is written down, or of a constant that is one.
    fn set_of(&self, expression: &Expression) -> Option<Vec<Element>> {
        match expression {
            Expression::Set(elements) => Some(elements.clone()),
            Expression::Name(name) => match self.config.constants.get(name) {
                Some(Expression::Set(elements)) => Some(elements.clone()),
                _ => None,
            },
            _ => None,
        }
    }

    /// Whether a value is in a set; nothing if that cannot be known.
    fn is_in(&mut self, value: &Value, elements: &[Element], way: &Way) -> Option<bool> {
        let mut unknown = false;
        for element in elements {
            match self.is_element(value, element, way) {
                Some(true) => return Some(true),
                Some(false) => {}
                None => unknown = true,
            }
        }
        (!unknown).then_some(false)
    }

    fn is_element(&mut self, value: &Value, element: &Element, way: &Way) -> Option<bool> {
        let mut evaluate = |expression: &Expression| {
            let mut values = self.value(expression, way.clone());
            match (values.pop(), values.is_empty()) {
                (Some((_, Ok(value))), true) => value,
                _ => Value::Unknown,
            }
        };
        match element {
            Element::One(expression) => match (value, evaluate(expression)) {
                (Value::Communities(all), Value::Pair(one, other)) => Some(all.contains(&(one, other))),
                (value, element) => fits(value, &element),
            },
            Element::Range(from, to) => match (value, evaluate(from), evaluate(to)) {
                (Value::Number(number), Value::Number(from), Value::Number(to)) => {
                    Some((from..=to).contains(number))
                }
                _ => None,
            },
            Element::Nets(net, from, to) => match value {
                Value::Net(other) if other.addr().is_ipv4() != net.addr().is_ipv4() => Some(false),
                Value::Net(other) => {
                    let length = other.prefix_len();
                    // A longer prefix is below the net, a shorter one above it.
                    let related = net.contains(other) || other.contains(net);
                    Some(related && (*from..=*to).contains(&length))
                }
                Value::Host(is_ipv6) => {
                    let below = host_is_below(*is_ipv6, net);
                    if (*from..=*to).contains(&host_length(*is_ipv6)) { below } else { Some(false) }
                }
                _ => None,
            },
            Element::Unknown => None,
        }
    }

    fn call(&mut self, name: &str, arguments: &[Expression], way: Way) -> Ways<Result<Value, End>> {
        if name == "defined" {
            let Some(argument) = arguments.first() else { return vec![(way, Ok(Value::Unknown))] };
            return self.map(argument, way, |value| match value {
                Value::Undefined => Value::Flag(false),
                Value::Unknown => Value::Unknown,
                _ => Value::Flag(true),
            });
        }
        let Some(function) = self.config.functions.get(name).cloned().filter(|_| self.depth < DEPTH_MAX)
        else {
            return vec![(way, Ok(Value::Unknown))];
        };
        let mut entered = vec![(way, BTreeMap::new())];
        let mut results = Vec::new();
        for (number, argument) in function.arguments.iter().enumerate() {
            let mut next = Vec::new();
            for (way, bound) in entered {
                let given = arguments.get(number).cloned().unwrap_or(Expression::Unknown);
                for (way, value) in self.value(&given, way) {
                    match value {
                        Ok(value) => {
                            let mut bound: BTreeMap<String, Value> = bound.clone();
                            bound.insert(argument.clone(), value);
                            next.push((way, bound));
                        }
                        Err(end) => results.push((way, Err(end))),
                    }
                }
            }
            entered = next;
        }
        self.depth += 1;
        for (mut way, bound) in entered {
            let outside = std::mem::replace(&mut way.variables, bound);
            for (mut way, end) in self.all(&function.body, way) {
                way.variables.clone_from(&outside);
                let value = match end {
                    End::Open => Ok(Value::Unknown),
                    End::Returned(value) => Ok(value),
                    end => Err(end),
                };
                results.push((way, value));
            }
        }
        self.depth -= 1;
        results
    }
}

fn end_or(value: Result<Value, End>, f: impl FnOnce(Value) -> End) -> End {
    match value {
        Ok(value) => f(value),
        Err(end) => end,
    }
}

/// Attributes belong to the route, everything else is a variable of the filter.
fn assign(way: &mut Way, name: &str, value: Value) {
    let is_attribute = way.route.contains_key(name)
        || ["bgp_", "krt_", "ospf_", "rip_", "babel_", "igp_"].iter().any(|prefix| name.starts_with(prefix));
    if is_attribute {
        way.route.insert(name.to_owned(), value);
    } else {
        way.variables.insert(name.to_owned(), value);
    }
}

fn changed(before: Value, method: &str, argument: &Value) -> Value {
    match (before, method, argument) {
        (Value::Path(length), "prepend", _) => Value::Path(length + 1),
        (Value::Undefined, "prepend", _) => Value::Path(1),
        (Value::Undefined, "add", Value::Pair(one, other)) => Value::Communities([(*one, *other)].into()),
        (Value::Communities(mut all), "add", Value::Pair(one, other)) => {
            all.insert((*one, *other));
            Value::Communities(all)
        }
        (Value::Communities(mut all), "delete", Value::Pair(one, other)) => {
            all.remove(&(*one, *other));
            Value::Communities(all)
        }
        _ => Value::Unknown,
    }
}

fn calculate(operator: Operator, left: &Value, right: &Value) -> Value {
    if *left == Value::Undefined || *right == Value::Undefined {
        return Value::Undefined;
    }
    if let (Value::Number(left), Value::Number(right)) = (left, right) {
        let (left, right) = (*left, *right);
        let number = |value: Option<i64>| value.map_or(Value::Unknown, Value::Number);
        return match operator {
            Operator::Plus => number(left.checked_add(right)),
            Operator::Minus => number(left.checked_sub(right)),
            Operator::Times => number(left.checked_mul(right)),
            Operator::Over => number(left.checked_div(right)),
            Operator::Less => Value::Flag(left < right),
            Operator::LessOrEqual => Value::Flag(left <= right),
            Operator::Greater => Value::Flag(left > right),
            Operator::GreaterOrEqual => Value::Flag(left >= right),
            Operator::Equal => Value::Flag(left == right),
            Operator::Unequal => Value::Flag(left != right),
            _ => Value::Unknown,
        };
    }
    if let (Value::Host(is_ipv6), Value::Net(net)) | (Value::Net(net), Value::Host(is_ipv6)) = (left, right) {
        let is_other = net.addr().is_ipv6() != *is_ipv6 || net.prefix_len() < host_length(*is_ipv6);
        return match operator {
            Operator::Equal if is_other => Value::Flag(false),
            Operator::Unequal if is_other => Value::Flag(true),
            _ => Value::Unknown,
        };
    }
    let is_unknown = *left == Value::Unknown || *right == Value::Unknown;
    match operator {
        Operator::Equal if !is_unknown => Value::Flag(left == right),
        Operator::Unequal if !is_unknown => Value::Flag(left != right),
        _ => Value::Unknown,
    }
}

const fn host_length(is_ipv6: bool) -> u8 {
    if is_ipv6 { 128 } else { 32 }
}

/// Whether every address, or none, is in a net; nothing if some are.
fn host_is_below(is_ipv6: bool, net: &IpNet) -> Option<bool> {
    if net.addr().is_ipv6() != is_ipv6 {
        return Some(false);
    }
    (net.prefix_len() == 0).then_some(true)
}

/// The operator `~` between two values.
fn fits(left: &Value, right: &Value) -> Option<bool> {
    match (left, right) {
        (Value::Unknown, _) | (_, Value::Unknown) => None,
        (Value::Pair(one, other), Value::Communities(all)) => Some(all.contains(&(*one, *other))),
        (Value::Pair(..), Value::Undefined) => Some(false),
        (Value::Text(text), Value::Text(pattern)) => Some(glob(pattern, text)),
        (Value::Net(net), Value::Net(other)) => Some(other.contains(net)),
        (Value::Host(is_ipv6), Value::Net(net)) => host_is_below(*is_ipv6, net),
        (one, other) => Some(one == other),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn route() -> Route {
        let pairs = [
            ("krt_metric", Value::Number(512)),
            ("bgp_local_pref", Value::Undefined),
            ("bgp_community", Value::Undefined),
            ("source", Value::Symbol("RTS_INHERIT".into())),
            ("ifname", Value::Text("tap1".into())),
            ("net", Value::Net("10.65.0.2/32".parse().unwrap())),
            ("preference", Value::Number(10)),
        ];
        pairs.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
    }

    fn outcomes(body: &str) -> Vec<Outcome> {
        let config = Config::of(&format!(
            "define NORMAL = 1024;\ndefine TAPS = [\"cali*\", \"tap*\"];\n\
             function twice(int x) {{ return x + x; }}\nfunction stop() {{ reject; }}\nfilter f {{ {body} }}\n"
        ));
        run(&config, &Filter::Named("f".into()), &route())
    }

    /// Accepted, rejected, or nothing if it is both.
    fn verdict(body: &str) -> Option<bool> {
        let outcomes = outcomes(body);
        let first = outcomes[0].is_accepted;
        outcomes.iter().all(|it| it.is_accepted == first && !it.is_uncertain).then_some(first)
    }

    #[test]
    fn conditions() {
        for (condition, expected) in [
            ("krt_metric < 1024", Some(true)),
            ("krt_metric < NORMAL", Some(true)),
            ("krt_metric = 512", Some(true)),
            ("defined(krt_metric)", Some(true)),
            ("defined(bgp_local_pref)", Some(false)),
            ("!defined(bgp_local_pref)", Some(true)),
            ("! defined(bgp_local_pref) && krt_metric = 512", Some(true)),
            // An error rejects.
            ("bgp_local_pref > 5", Some(false)),
            ("defined(bgp_local_pref) && (bgp_local_pref > 5)", Some(false)),
            ("source = RTS_BGP", Some(false)),
            ("source ~ [RTS_STATIC, RTS_INHERIT]", Some(true)),
            ("ifname ~ \"tap*\"", Some(true)),
            ("ifname ~ \"eth*\"", Some(false)),
            ("ifname ~ TAPS", Some(true)),
            ("net ~ [ 10.65.0.0/16+ ]", Some(true)),
            ("net ~ [ 10.65.0.0/16 ]", Some(false)),
            ("net ~ 10.0.0.0/8", Some(true)),
            ("net = 0.0.0.0/0", Some(false)),
            ("net.len = 32", Some(true)),
            ("(65000,100) ~ bgp_community", Some(false)),
            ("twice(krt_metric) = NORMAL", Some(true)),
            ("something_unheard_of = 1", None),
            ("something_unheard_of = 1 || true", Some(true)),
            ("something_unheard_of = 1 && false", Some(false)),
            ("stop()", Some(false)),
        ] {
            assert_eq!(verdict(&format!("if {condition} then accept; reject;")), expected, "{condition}");
        }
    }

    #[test]
    fn changes() {
        let attribute = |body: &str, name: &str| {
            let outcomes = outcomes(&format!("{body} accept;"));
            assert_eq!(outcomes.len(), 1, "{body}");
            outcomes[0].route.get(name).cloned()
        };
        assert_eq!(
            attribute("bgp_local_pref = 2147483647 - krt_metric;", "bgp_local_pref"),
            Some(Value::Number(2_147_483_135))
        );
        assert_eq!(
            attribute("bgp_community.add((65000,100));", "bgp_community"),
            Some(Value::Communities([(65000, 100)].into()))
        );
        let none = Some(Value::Communities(BTreeSet::new()));
        let add = "bgp_community.add((65000,100));";
        assert_eq!(attribute(&format!("{add} bgp_community.delete([(65000, 100)]);"), "bgp_community"), none);
        assert_eq!(attribute(&format!("{add} bgp_community.filter([(1, 1)]);"), "bgp_community"), none);
        assert_eq!(
            attribute("bgp_community.delete([(65000, 100)]);", "bgp_community"),
            Some(Value::Undefined)
        );
        assert_eq!(attribute("unset(krt_metric);", "krt_metric"), Some(Value::Undefined));
        assert_eq!(attribute("int x; x = 7; preference = x;", "preference"), Some(Value::Number(7)));
        assert_eq!(
            attribute("if krt_metric < 600 then preference = 200;", "preference"),
            Some(Value::Number(200))
        );
    }

    #[test]
    fn what_is_not_understood_is_uncertain() {
        assert_eq!(verdict("case net.len { 32: accept; } reject;"), None);
        let many = "if unheard = 1 then preference = 1; ".repeat(12);
        assert!(outcomes(&format!("{many} accept;")).iter().all(|outcome| outcome.is_uncertain));
    }
}
