//! What an expression of a filter can come to: conditions, arithmetic, sets, and functions, which can end the filter.

use super::super::code::{Element, Expression, Operator};
use super::value::{Value, absent, calculate, fits, host_is_below, host_length};
use super::{DEPTH_MAX, End, Machine, Way, Ways};
use std::collections::BTreeMap;

impl Machine<'_> {
    /// The values that an expression can have; a function in it can end the filter.
    pub(super) fn value(&mut self, expression: &Expression, way: Way) -> Ways<Result<Value, End>> {
        let known = |way, value| vec![(way, Ok(value))];
        match expression {
            Expression::Number(number) => known(way, Value::Number(*number)),
            Expression::Text(text) => known(way, Value::Text(text.clone())),
            Expression::Net(net) => known(way, Value::Net(*net)),
            Expression::Flag(flag) => known(way, Value::Flag(*flag)),
            Expression::Set(elements) => known(way, Value::Set(elements.clone())),
            Expression::Mask(fits_empty) => known(way, Value::Mask(*fits_empty)),
            Expression::Unknown => known(way, Value::Unknown),
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
                (Value::Path(0), "first" | "last" | "last_nonaggregated") => Value::Number(0),
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
            let value = if *value == Value::Undefined { absent(name) } else { value.clone() };
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
        let values = self.value(inner, way).into_iter();
        values.map(|(way, value)| (way, value.and_then(|value| or_error(f(value))))).collect()
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
                        others
                            .into_iter()
                            .map(|(way, other)| (way, other.and_then(|other| or_error(f(&one, &other))))),
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
                Ok(Value::Undefined) => results.push((way, Err(End::Rejected))),
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
        let result = |found: Option<bool>| found.map_or(Value::Unknown, |found| Value::Flag(found != negate));
        let mut results = Vec::new();
        for (way, value) in self.value(left, way) {
            let value = match value {
                Ok(Value::Undefined) => Err(End::Rejected),
                other => other,
            };
            let Ok(value) = value else {
                results.push((way, value));
                continue;
            };
            for (way, other) in self.value(right, way) {
                let found = match other {
                    Ok(Value::Set(elements)) => Ok(result(self.is_in(&value, &elements, &way))),
                    Ok(other) => Ok(result(fits(&value, &other))),
                    Err(end) => Err(end),
                };
                results.push((way, found));
            }
        }
        results
    }

    /// Whether a value is in a set; nothing if that cannot be known.
    pub(super) fn is_in(&mut self, value: &Value, elements: &[Element], way: &Way) -> Option<bool> {
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
        match value {
            Value::Communities(all) if all.is_empty() => return Some(false),
            Value::Path(0) => return Some(false),
            _ => {}
        }
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
            return self.is_defined(argument, way);
        }
        if let ("add" | "delete" | "filter" | "prepend", [list, argument]) = (name, arguments) {
            return self.built_in(name, list, argument, way);
        }
        let Some(function) = self.config.functions.get(name).cloned().filter(|_| self.depth < DEPTH_MAX)
        else {
            let mut way = way;
            // One that is not there, or was not understood, may end the filter and change anything.
            way.is_uncertain |= !WITHOUT_EFFECT.contains(&name);
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

    /// Also paths and lists that are not there are not defined.
    fn is_defined(&mut self, argument: &Expression, way: Way) -> Ways<Result<Value, End>> {
        if let Expression::Name(name) = argument
            && way.route.get(name) == Some(&Value::Undefined)
        {
            return vec![(way, Ok(Value::Flag(false)))];
        }
        self.map(argument, way, |value| match value {
            Value::Undefined => Value::Flag(false),
            Value::Unknown => Value::Unknown,
            _ => Value::Flag(true),
        })
    }

    /// Functions that give a list, or a path, with a change.
    fn built_in(
        &mut self,
        name: &str,
        list: &Expression,
        argument: &Expression,
        way: Way,
    ) -> Ways<Result<Value, End>> {
        let mut results = Vec::new();
        for (way, before) in self.value(list, way) {
            let Ok(before) = before else {
                results.push((way, before));
                continue;
            };
            for (way, value) in self.value(argument, way) {
                let value = value.map(|value| self.changed_by(before.clone(), name, &value, &way));
                results.push((way, value));
            }
        }
        results
    }
}

/// Functions of BIRD's own that change nothing.
const WITHOUT_EFFECT: [&str; 5] =
    ["roa_check", "aspa_check", "aspa_check_downstream", "aspa_check_upstream", "format"];

/// What an operator makes of something that is not there is an error, which rejects the route.
fn or_error(value: Value) -> Result<Value, End> {
    if value == Value::Undefined { Err(End::Rejected) } else { Ok(value) }
}
