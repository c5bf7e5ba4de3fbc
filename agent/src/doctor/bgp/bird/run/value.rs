//! Values of a filter, and what operators and methods make of them. One that is not known stays so.

use super::super::code::Operator;
use super::super::config::glob;
use ipnet::IpNet;
use std::collections::BTreeSet;

/// A value while a filter runs.
#[derive(Clone, PartialEq, Debug)]
pub(in super::super) enum Value {
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

pub(super) fn changed(before: Value, method: &str, argument: &Value) -> Value {
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

pub(super) fn calculate(operator: Operator, left: &Value, right: &Value) -> Value {
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

pub(super) const fn host_length(is_ipv6: bool) -> u8 {
    if is_ipv6 { 128 } else { 32 }
}

/// Whether every address, or none, is in a net; nothing if some are.
pub(super) fn host_is_below(is_ipv6: bool, net: &IpNet) -> Option<bool> {
    if net.addr().is_ipv6() != is_ipv6 {
        return Some(false);
    }
    (net.prefix_len() == 0).then_some(true)
}

/// The operator `~` between two values.
pub(super) fn fits(left: &Value, right: &Value) -> Option<bool> {
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
