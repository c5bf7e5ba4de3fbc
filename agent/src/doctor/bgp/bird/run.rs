//! What a filter makes of a route, found out by running it.
//!
//! What cannot be known, such as an attribute that nobody said anything about, makes a condition go both ways; the answers of
//! all ways are returned, and whoever judges says "could not tell" where they differ.

mod expressions;
mod value;

pub(super) use value::Value;

use super::code::{Element, Expression, Statement};
use super::config::Config;
use std::collections::{BTreeMap, BTreeSet};
use value::{absent, changed};

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
            let changed = if method == "empty" { absent(name) } else { Value::Unknown };
            assign(&mut way, name, changed);
            return vec![(way, End::Open)];
        };
        let mut ends = Vec::new();
        for (mut way, value) in self.value(argument, way) {
            match value {
                Ok(value) => {
                    let before = way.route.get(name).cloned().unwrap_or(Value::Unknown);
                    let after = self.changed_by(before, method, &value, &way);
                    assign(&mut way, name, after);
                    ends.push((way, End::Open));
                }
                Err(end) => ends.push((way, end)),
            }
        }
        ends
    }

    /// What a method makes of a list or a path.
    fn changed_by(&mut self, before: Value, method: &str, argument: &Value, way: &Way) -> Value {
        match argument {
            Value::Set(elements) => self.without(before, method, elements, way),
            _ => changed(before, method, argument),
        }
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

#[cfg(test)]
mod tests {
    use super::*;

    fn route() -> Route {
        let pairs = [
            ("krt_metric", Value::Number(512)),
            ("bgp_local_pref", Value::Undefined),
            ("bgp_community", Value::Undefined),
            ("bgp_large_community", Value::Undefined),
            ("bgp_ext_community", Value::Undefined),
            ("bgp_path", Value::Undefined),
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
            ("bgp_local_pref - 5 < 5", Some(false)),
            ("!(bgp_local_pref - 5 < 5)", Some(false)),
            ("bgp_local_pref ~ [1..5]", Some(false)),
            ("bgp_local_pref !~ [1..5]", Some(false)),
            // Compared, it is less than everything.
            ("bgp_local_pref > 5", Some(false)),
            ("bgp_local_pref < 5", Some(true)),
            ("bgp_local_pref = 5", Some(false)),
            ("bgp_local_pref != 5", Some(true)),
            // Lists and paths that are not there are empty.
            ("defined(bgp_community)", Some(false)),
            ("defined(bgp_path)", Some(false)),
            ("bgp_community ~ [(65000, 100)]", Some(false)),
            ("bgp_community !~ [(65000, 100), (65000, *)]", Some(true)),
            ("bgp_large_community ~ [(65000, 1, 100)]", Some(false)),
            ("(65000, 1, 100) ~ bgp_large_community", Some(false)),
            ("bgp_ext_community ~ [(rt, 65000, 100)]", Some(false)),
            ("bgp_community.len = 0", Some(true)),
            ("bgp_path.len = 0 && bgp_path.first = 0 && bgp_path.last = 0", Some(true)),
            ("bgp_path ~ [= * 64601 * =]", Some(false)),
            ("bgp_path ~ [= * =]", Some(true)),
            ("bgp_path ~ [64601, 64602]", Some(false)),
            ("64601 ~ bgp_path", Some(false)),
            ("delete(bgp_community, [(65000, 100)]) ~ [(65000, 100)]", Some(false)),
            ("unheard_of()", None),
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
        let added = Some(Value::Communities([(65000, 100)].into()));
        assert_eq!(attribute("bgp_community = add(bgp_community, (65000,100));", "bgp_community"), added);
        assert_eq!(attribute("bgp_path.prepend(64601);", "bgp_path"), Some(Value::Path(1)));
        assert_eq!(attribute("bgp_path = prepend(bgp_path, 64601);", "bgp_path"), Some(Value::Path(1)));
        assert_eq!(
            attribute("int set s; s = [1..600]; if krt_metric ~ s then preference = 7;", "preference"),
            Some(Value::Number(7))
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
        assert_eq!(verdict("unheard_of(); accept;"), None);
        assert_eq!(verdict("if roa_check(r) = ROA_VALID then accept; accept;"), Some(true));
        let many = "if unheard = 1 then preference = 1; ".repeat(12);
        assert!(outcomes(&format!("{many} accept;")).iter().all(|outcome| outcome.is_uncertain));
    }
}
