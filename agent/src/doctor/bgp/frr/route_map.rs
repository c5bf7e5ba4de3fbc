//! What a route-map makes of a route, found out by going through it. A condition that cannot be known goes both ways.

use super::config::{Config, Entry};
use super::lists::community;
use ipnet::IpNet;
use std::collections::BTreeSet;

/// A route in bgpd or zebra.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Route {
    /// Its prefix; nothing for an address that is not known.
    pub(super) net: Option<IpNet>,
    pub(super) is_ipv6: bool,
    /// Who made it: `kernel`, or `bgp` for those of peers.
    pub(super) protocol: &'static str,
    /// It has left bgpd, and with it what only bgpd knows of it.
    pub(super) is_in_zebra: bool,
    /// What bgpd sees of the kernel's metric, or MED.
    pub(super) metric: u32,
    /// Nothing if the peer did not say it, and no route-map either.
    pub(super) local_pref: Option<u32>,
    pub(super) weight: u32,
    pub(super) distance: Option<u32>,
    /// Of all kinds.
    pub(super) communities: BTreeSet<String>,
    /// Numbers in the path.
    pub(super) path: u32,
}

impl Route {
    /// The length of its prefix.
    pub(super) fn length(&self) -> u8 {
        self.net.map_or(if self.is_ipv6 { 128 } else { 32 }, |net| net.prefix_len())
    }
}

/// How a route-map ended, on one of its ways.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Outcome {
    pub(super) is_permitted: bool,
    pub(super) route: Route,
    /// Something was not understood on the way.
    pub(super) is_uncertain: bool,
}

/// Applies a route-map. One that is named and not there denies everything, as bgpd and zebra have it.
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
        let mut is_uncertain = entry.jumps;
        // In zebra nothing that is set has to do with priority.
        if entry.permits && !route.is_in_zebra {
            for words in &entry.sets {
                is_uncertain |= set(config, words, &mut route).is_none();
            }
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
    let lists = &config.lists;
    match words[..] {
        [ip @ ("ip" | "ipv6"), "address", ref rest @ ..] => {
            if (ip == "ipv6") != route.is_ipv6 {
                return Some(false);
            }
            match rest {
                ["prefix-list", name] => lists.prefix_list(name, route),
                ["prefix-len", length] => Some(length.parse() == Ok(route.length())),
                [name] => lists.access_list(name, route),
                _ => None,
            }
        }
        ["source-protocol", protocol] => Some(protocol == route.protocol),
        // zebra is not told what only bgpd can compare.
        _ if route.is_in_zebra => None,
        ["metric", number] => Some(number.parse() == Ok(route.metric)),
        // One that is not there is compared as 0.
        ["local-preference", number] => Some(number.parse() == Ok(route.local_pref.unwrap_or(0))),
        ["community" | "large-community", name] => lists.community_list(name, false, route),
        ["community", name, "exact-match"] => lists.community_list(name, true, route),
        ["as-path", name] => lists.as_path_list(name, route),
        _ => None,
    }
}

/// Nothing if it is not known what that makes of the route's priority.
fn set(config: &Config, words: &[String], route: &mut Route) -> Option<()> {
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    match words[..] {
        // Without a value to go out from, some versions take 0 and some the default.
        ["local-preference", text] => route.local_pref = Some(adjusted(route.local_pref, text)?),
        ["metric", text] => route.metric = adjusted(Some(route.metric), text)?,
        ["weight", text] => route.weight = text.parse().ok()?,
        ["distance", text] => route.distance = Some(text.parse().ok()?),
        ["as-path", "prepend", "last-as", _] => return None,
        ["as-path", "prepend", ref numbers @ ..] => route.path += u32::try_from(numbers.len()).ok()?,
        ["as-path", "exclude", ..] => {}
        [kind @ ("community" | "large-community"), ref rest @ ..] => {
            if !rest.contains(&"additive") {
                route.communities.retain(|it| is_large(it) != (kind == "large-community"));
            }
            let added = rest.iter().filter(|word| !matches!(**word, "additive" | "none"));
            route.communities.extend(added.map(|word| community(word)));
        }
        ["comm-list", name, "delete"] => {
            route.communities = config.lists.without(name, route)?.into_iter().collect();
        }
        // What has nothing to do with priority.
        [
            "src" | "origin" | "tag" | "aggregator" | "atomic-aggregate" | "originator-id" | "label-index",
            ..,
        ]
        | ["ip" | "ipv6", "next-hop", ..]
        | ["ipv4" | "ipv6", "vpn", ..] => {}
        _ => return None,
    }
    Some(())
}

/// A number, or what is added to or taken from the one before. The round-trip time is not known.
fn adjusted(before: Option<u32>, text: &str) -> Option<u32> {
    if let Some(more) = text.strip_prefix('+') {
        return Some(before?.saturating_add(more.parse().ok()?));
    }
    if let Some(less) = text.strip_prefix('-') {
        return Some(before?.saturating_sub(less.parse().ok()?));
    }
    text.parse().ok()
}

/// Large communities have three numbers.
fn is_large(community: &str) -> bool {
    community.matches(':').count() == 2
}
