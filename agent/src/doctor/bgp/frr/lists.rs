//! Lists that routes are compared with: of prefixes, of addresses, of communities and of AS paths.
//!
//! What is written in a way that is not understood stays a rule, about which nobody knows whether it fits.

use super::route_map::Route;
use ipnet::{IpNet, Ipv4Net};
use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};

/// All lists of a configuration.
#[derive(Clone, Debug, Default)]
pub(super) struct Lists {
    /// By whether it is of IPv6, and by name.
    prefixes: BTreeMap<(bool, String), List<PrefixRule>>,
    access: BTreeMap<(bool, String), List<AccessRule>>,
    /// Communities of all kinds.
    communities: BTreeMap<String, List<Vec<String>>>,
    as_paths: BTreeMap<String, List<String>>,
}

/// Rules by their number; the first one that fits decides.
#[derive(Clone, PartialEq, Eq, Debug)]
struct List<T>(BTreeMap<u64, Rule<T>>);

impl<T> Default for List<T> {
    fn default() -> Self {
        Self(BTreeMap::new())
    }
}

#[derive(Clone, PartialEq, Eq, Debug)]
struct Rule<T> {
    permits: bool,
    /// Nothing if it was not understood.
    about: Option<T>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct PrefixRule {
    /// Nothing for `any`.
    net: Option<IpNet>,
    from: Option<u8>,
    to: Option<u8>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct AccessRule {
    /// Nothing for `any`.
    net: Option<IpNet>,
    is_exact: bool,
}

impl<T> List<T> {
    /// Takes `[seq NUMBER] permit|deny …`. Without a number a rule comes after the others, at the next multiple of five.
    fn take(&mut self, words: &[&str], about: impl Fn(&[&str]) -> Option<T>) {
        let (number, words) = match words {
            ["seq", number, rest @ ..] => (number.parse().ok(), rest),
            words => (None, words),
        };
        let permits = match words.first() {
            Some(&"permit") => true,
            Some(&"deny") => false,
            // A description.
            _ => return,
        };
        let last = self.0.keys().next_back().copied().unwrap_or(0);
        let number = number.unwrap_or_else(|| (last / 5).saturating_add(1).saturating_mul(5));
        self.0.insert(number, Rule { permits, about: about(&words[1..]) });
    }

    /// Whether the list permits something; nothing if that cannot be known.
    fn permits(&self, fits: impl Fn(&T) -> Option<bool>) -> Option<bool> {
        let mut possible = Vec::new();
        for rule in self.0.values() {
            match rule.about.as_ref().and_then(&fits) {
                Some(false) => {}
                Some(true) => {
                    possible.push(rule.permits);
                    return agreed(&possible);
                }
                None => possible.push(rule.permits),
            }
        }
        possible.push(false);
        agreed(&possible)
    }
}

fn agreed(answers: &[bool]) -> Option<bool> {
    let first = *answers.first()?;
    answers.iter().all(|answer| *answer == first).then_some(first)
}

impl Lists {
    /// Takes a line, if it is one of a list. Older versions say `ip` where newer ones say `bgp`.
    pub(super) fn line(&mut self, words: &[&str]) -> bool {
        match words {
            [ip @ ("ip" | "ipv6"), "prefix-list", name, rest @ ..] => {
                let key = (*ip == "ipv6", (*name).to_owned());
                self.prefixes.entry(key).or_default().take(rest, prefix_rule);
            }
            ["access-list", name, rest @ ..] => {
                self.access.entry((false, (*name).to_owned())).or_default().take(rest, access_rule);
            }
            ["ipv6", "access-list", name, rest @ ..] => {
                self.access.entry((true, (*name).to_owned())).or_default().take(rest, access_rule);
            }
            [
                "bgp" | "ip",
                "community-list" | "large-community-list" | "extcommunity-list",
                kind @ ("standard" | "expanded"),
                name,
                rest @ ..,
            ] => {
                self.communities((*name).to_owned(), *kind == "standard", rest);
            }
            [
                "bgp" | "ip",
                "community-list" | "large-community-list" | "extcommunity-list",
                number,
                rest @ ..,
            ] => {
                // Up to 99 they are standard ones, above they are patterns.
                let is_standard = number.parse::<u32>().is_ok_and(|number| number < 100);
                self.communities((*number).to_owned(), is_standard, rest);
            }
            ["bgp" | "ip", "as-path", "access-list", name, rest @ ..] => {
                let pattern = |words: &[&str]| Some(words.join(" "));
                self.as_paths.entry((*name).to_owned()).or_default().take(rest, pattern);
            }
            _ => return false,
        }
        true
    }

    fn communities(&mut self, name: String, is_standard: bool, words: &[&str]) {
        let all = |words: &[&str]| is_standard.then(|| words.iter().map(|it| community(it)).collect());
        self.communities.entry(name).or_default().take(words, all);
    }

    /// A list that is not there permits nothing, an empty one everything.
    pub(super) fn prefix_list(&self, name: &str, route: &Route) -> Option<bool> {
        let Some(list) = self.prefixes.get(&(route.is_ipv6, name.to_owned())) else { return Some(false) };
        if list.0.is_empty() {
            return Some(true);
        }
        list.permits(|rule| rule.fits(route))
    }

    pub(super) fn access_list(&self, name: &str, route: &Route) -> Option<bool> {
        let Some(list) = self.access.get(&(route.is_ipv6, name.to_owned())) else { return Some(false) };
        list.permits(|rule| rule.fits(route))
    }

    pub(super) fn as_path_list(&self, name: &str, route: &Route) -> Option<bool> {
        let Some(list) = self.as_paths.get(name) else { return Some(false) };
        list.permits(|pattern| match pattern.as_str() {
            "^$" => Some(route.path == 0),
            ".*" => Some(true),
            _ => None,
        })
    }

    /// Whether a list is about the communities of a route: all of those of a rule are among them, or with `is_exact` they are the same.
    pub(super) fn community_list(&self, name: &str, is_exact: bool, route: &Route) -> Option<bool> {
        let Some(list) = self.communities.get(name) else { return Some(false) };
        list.permits(|wanted| {
            let has_all = wanted.iter().all(|it| it == "internet" || route.communities.contains(it));
            Some(has_all && (!is_exact || wanted.len() == route.communities.len()))
        })
    }

    /// The communities that `set comm-list … delete` leaves; nothing if that cannot be known.
    pub(super) fn without(&self, name: &str, route: &Route) -> Option<Vec<String>> {
        let Some(list) = self.communities.get(name) else {
            return Some(route.communities.iter().cloned().collect());
        };
        let mut left = Vec::new();
        for one in &route.communities {
            if !list.permits(|wanted| Some(wanted.iter().all(|it| it == one)))? {
                left.push(one.clone());
            }
        }
        Some(left)
    }
}

/// Well-known ones have two ways to be written.
pub(super) fn community(text: &str) -> String {
    match text {
        "65535:0" => GRACEFUL_SHUTDOWN,
        "65535:65281" => NO_EXPORT,
        "65535:65282" => NO_ADVERTISE,
        other => other,
    }
    .to_owned()
}

/// What eBGP peers take as LOCAL_PREF 0.
pub(super) const GRACEFUL_SHUTDOWN: &str = "graceful-shutdown";
pub(super) const NO_EXPORT: &str = "no-export";
pub(super) const NO_ADVERTISE: &str = "no-advertise";

fn prefix_rule(words: &[&str]) -> Option<PrefixRule> {
    let net = match *words.first()? {
        "any" => None,
        text => Some(text.parse().ok()?),
    };
    let after = |word: &str| {
        let at = words.iter().position(|it| *it == word)?;
        words.get(at + 1)?.parse().ok()
    };
    Some(PrefixRule { net, from: after("ge"), to: after("le") })
}

/// `any`, a prefix, `host ADDRESS`, an address alone or with its wildcard bits. With two addresses it is not understood.
fn access_rule(words: &[&str]) -> Option<AccessRule> {
    let below = |net: IpNet| Some(AccessRule { net: Some(net), is_exact: false });
    match words {
        ["any"] => Some(AccessRule { net: None, is_exact: false }),
        [prefix, "exact-match"] => Some(AccessRule { net: Some(prefix.parse().ok()?), is_exact: true }),
        ["host", address] => below(address.parse::<IpAddr>().ok()?.into()),
        [address, wildcard] => {
            let mask = !u32::from(wildcard.parse::<Ipv4Addr>().ok()?);
            below(Ipv4Net::with_netmask(address.parse().ok()?, mask.into()).ok()?.into())
        }
        [one] => below(one.parse().ok().or_else(|| one.parse::<IpAddr>().ok().map(IpNet::from))?),
        _ => None,
    }
}

impl PrefixRule {
    fn fits(&self, route: &Route) -> Option<bool> {
        let Some(net) = self.net else { return Some(true) };
        let (from, to) = match (self.from, self.to) {
            (None, None) => (net.prefix_len(), net.prefix_len()),
            (from, to) => (from.unwrap_or(net.prefix_len()), to.unwrap_or(net.max_prefix_len())),
        };
        if (from..=to).contains(&route.length()) { is_below(route, &net) } else { Some(false) }
    }
}

impl AccessRule {
    fn fits(&self, route: &Route) -> Option<bool> {
        let Some(net) = self.net else { return Some(true) };
        if self.is_exact && net.prefix_len() != route.length() {
            return Some(false);
        }
        is_below(route, &net)
    }
}

/// Whether a route leads into a net; nothing if that depends on its address, which is not known.
fn is_below(route: &Route, net: &IpNet) -> Option<bool> {
    if net.addr().is_ipv6() != route.is_ipv6 {
        return Some(false);
    }
    match route.net {
        Some(own) => Some(net.contains(&own)),
        None => (net.prefix_len() == 0).then_some(true),
    }
}
