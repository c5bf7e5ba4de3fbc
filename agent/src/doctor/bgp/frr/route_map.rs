//! What a route-map makes of a route, found out by going through it. A condition that cannot be known goes both ways.

use super::config::{Config, Entry, PrefixRule};
use ipnet::IpNet;
use std::collections::BTreeSet;

/// A route in bgpd.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Route {
    /// Its prefix; nothing for an address that is not known.
    pub(super) net: Option<IpNet>,
    pub(super) is_ipv6: bool,
    /// What bgpd sees of the kernel's metric, or MED.
    pub(super) metric: u32,
    pub(super) local_pref: u32,
    pub(super) weight: u32,
    pub(super) distance: Option<u32>,
    pub(super) communities: BTreeSet<String>,
    /// Numbers in the path.
    pub(super) path: u32,
}

/// How a route-map ended, on one of its ways.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Outcome {
    pub(super) is_permitted: bool,
    pub(super) route: Route,
    /// Something was not understood on the way.
    pub(super) is_uncertain: bool,
}

/// Applies a route-map. One that is named and not there denies everything, as bgpd has it.
pub(super) fn apply(config: &Config, map: &str, route: &Route) -> Vec<Outcome> {
    let entries = config.route_maps.get(map).map_or(&[][..], Vec::as_slice);
    let mut outcomes = Vec::new();
    for entry in entries {
        let matches = entry.matches.iter().map(|words| matches(config, words, route));
        let matched = matches.fold(Some(true), and);
        if matched == Some(false) {
            continue;
        }
        let mut route = route.clone();
        let is_uncertain = entry.jumps;
        if entry.permits {
            entry.sets.iter().for_each(|words| set(words, &mut route));
        }
        outcomes.push(Outcome { is_permitted: entry.permits, route, is_uncertain });
        if matched == Some(true) {
            return outcomes;
        }
    }
    outcomes.push(Outcome { is_permitted: false, route: route.clone(), is_uncertain: false });
    outcomes
}

fn and(one: Option<bool>, other: Option<bool>) -> Option<bool> {
    match (one, other) {
        (Some(false), _) | (_, Some(false)) => Some(false),
        (Some(true), Some(true)) => Some(true),
        _ => None,
    }
}

/// The metrics that a route-map asks for.
pub(super) fn metrics(entries: &[Entry]) -> Vec<u32> {
    let matches = entries.iter().flat_map(|entry| &entry.matches);
    matches
        .filter_map(|words| match words.iter().map(String::as_str).collect::<Vec<_>>()[..] {
            ["metric", number] => number.parse().ok(),
            _ => None,
        })
        .collect()
}

/// Nothing if it cannot be known.
fn matches(config: &Config, words: &[String], route: &Route) -> Option<bool> {
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    match words[..] {
        ["metric", number] => Some(number.parse() == Ok(route.metric)),
        ["local-preference", number] => Some(number.parse() == Ok(route.local_pref)),
        ["ip", "address", "prefix-list", name] => {
            if route.is_ipv6 {
                Some(false)
            } else {
                prefix_list(config.prefix_lists.get(name)?, route)
            }
        }
        ["ipv6", "address", "prefix-list", name] => {
            if route.is_ipv6 {
                prefix_list(config.prefix_lists.get(name)?, route)
            } else {
                Some(false)
            }
        }
        ["source-protocol", protocol] => Some(protocol == "kernel"),
        ["community", name, ..] => {
            let rules = config.community_lists.get(name)?;
            let has_all = |wanted: &Vec<String>| wanted.iter().all(|it| route.communities.contains(it));
            let first = rules.iter().find(|(_, wanted)| has_all(wanted));
            Some(first.is_some_and(|(permits, _)| *permits))
        }
        ["as-path", name] => {
            let rules = config.as_path_lists.get(name)?;
            let mut found = Some(false);
            for (permits, pattern) in rules {
                match pattern.as_str() {
                    "^$" if route.path == 0 => return Some(*permits),
                    "^$" => {}
                    ".*" => return Some(*permits),
                    _ => found = None,
                }
            }
            found
        }
        _ => None,
    }
}

fn prefix_list(rules: &[PrefixRule], route: &Route) -> Option<bool> {
    for rule in rules {
        match prefix_rule(rule, route) {
            Some(true) => return Some(rule.permits),
            Some(false) => {}
            None => return None,
        }
    }
    Some(false)
}

/// Whether a rule is about this route.
fn prefix_rule(rule: &PrefixRule, route: &Route) -> Option<bool> {
    let Some(net) = rule.net else { return Some(true) };
    if net.addr().is_ipv6() != route.is_ipv6 {
        return Some(false);
    }
    let longest = net.max_prefix_len();
    let length = route.net.map_or(longest, |net| net.prefix_len());
    let (from, to) = match (rule.from, rule.to) {
        (None, None) => (net.prefix_len(), net.prefix_len()),
        (from, to) => (from.unwrap_or(net.prefix_len()), to.unwrap_or(longest)),
    };
    if !(from..=to).contains(&length) {
        return Some(false);
    }
    match route.net {
        Some(own) => Some(net.contains(&own)),
        None => (net.prefix_len() == 0).then_some(true),
    }
}

fn set(words: &[String], route: &mut Route) {
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let number = |text: &str| text.parse().ok();
    match words[..] {
        ["local-preference", text] => route.local_pref = number(text).unwrap_or(route.local_pref),
        ["weight", text] => route.weight = number(text).unwrap_or(route.weight),
        ["metric", text] => route.metric = number(text).unwrap_or(route.metric),
        ["distance", text] => route.distance = number(text).or(route.distance),
        ["as-path", "prepend", ref numbers @ ..] => route.path += u32::try_from(numbers.len()).unwrap_or(0),
        ["community", ref rest @ ..] => {
            if !rest.contains(&"additive") {
                route.communities.clear();
            }
            let added = rest.iter().filter(|word| !matches!(**word, "additive" | "none"));
            route.communities.extend(added.map(|word| (*word).to_owned()));
        }
        _ => {}
    }
}
