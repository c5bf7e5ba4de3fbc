//! Values of a filter, and what operators and methods make of them. One that is not known stays so.

use super::super::code::{Element, Operator};
use super::super::config::glob;
use ipnet::IpNet;
use std::collections::BTreeSet;

/// A value while a filter runs.
#[derive(Clone, PartialEq, Debug)]
pub(in super::super) enum Value {
    /// Not known.
    Unknown,
    /// Not there. It is less than everything; whatever else is done with it ends the filter with an error, which rejects the route.
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
    Set(Vec<Element>),
    /// Whether an empty path fits a mask.
    Mask(bool),
}

/// What an attribute that is not there is for everything but `defined`: paths and lists are empty then.
pub(super) fn absent(name: &str) -> Value {
    match name {
        "bgp_path" => Value::Path(0),
        "bgp_community" | "bgp_ext_community" | "bgp_large_community" | "bgp_cluster_list" => {
            Value::Communities(BTreeSet::new())
        }
        _ => Value::Undefined,
    }
}

pub(super) fn changed(before: Value, method: &str, argument: &Value) -> Value {
    match (before, method, argument) {
        (Value::Path(length), "prepend", _) => Value::Path(length + 1),
        (Value::Undefined, "prepend", _) => Value::Path(1),
        (Value::Undefined, "add", Value::Pair(one, other)) => Value::Communities([(*one, *other)].into()),
        (Value::Undefined, "delete" | "filter", _) => Value::Undefined,
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
    if *left == Value::Unknown || *right == Value::Unknown {
        return Value::Unknown;
    }
    if *left == Value::Undefined || *right == Value::Undefined {
        // As BIRD's val_compare has it, in 1.6, 2 and 3.
        let is_there = |value: &Value| u8::from(*value != Value::Undefined);
        let compared = compare(operator, &is_there(left), &is_there(right));
        return compared.map_or(Value::Undefined, Value::Flag);
    }
    if let (Value::Number(left), Value::Number(right)) = (left, right) {
        let (left, right) = (*left, *right);
        let number = |value: Option<i64>| value.map_or(Value::Unknown, Value::Number);
        return match operator {
            Operator::Plus => number(left.checked_add(right)),
            Operator::Minus => number(left.checked_sub(right)),
            Operator::Times => number(left.checked_mul(right)),
            Operator::Over => number(left.checked_div(right)),
            _ => compare(operator, &left, &right).map_or(Value::Unknown, Value::Flag),
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
    match operator {
        Operator::Equal => Value::Flag(left == right),
        Operator::Unequal => Value::Flag(left != right),
        _ => Value::Unknown,
    }
}

/// What a comparison says; nothing if it is no comparison.
fn compare<T: PartialOrd>(operator: Operator, left: &T, right: &T) -> Option<bool> {
    match operator {
        Operator::Less => Some(left < right),
        Operator::LessOrEqual => Some(left <= right),
        Operator::Greater => Some(left > right),
        Operator::GreaterOrEqual => Some(left >= right),
        Operator::Equal => Some(left == right),
        Operator::Unequal => Some(left != right),
        _ => None,
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
        (_, Value::Communities(all)) if all.is_empty() => Some(false),
        (_, Value::Path(0)) => Some(false),
        (Value::Path(0), Value::Mask(fits_empty)) => Some(*fits_empty),
        (Value::Unknown, _) | (_, Value::Unknown) => None,
        // Which numbers a path has is not known.
        (Value::Path(_), _) | (_, Value::Path(_)) => None,
        (Value::Pair(one, other), Value::Communities(all)) => Some(all.contains(&(*one, *other))),
        (Value::Text(text), Value::Text(pattern)) => Some(glob(pattern, text)),
        (Value::Net(net), Value::Net(other)) => Some(other.contains(net)),
        (Value::Host(is_ipv6), Value::Net(net)) => host_is_below(*is_ipv6, net),
        (one, other) => Some(one == other),
    }
}
