//! FRR's configuration, as `show running-config` and /etc/frr/frr.conf have it: lists, route-maps, and what is said for the default
//! VRF. Lines that do not matter for route priority are gone over.

use super::instance::{Instance, Policy};
use super::lists::Lists;
use std::collections::BTreeMap;

/// What the text says.
#[derive(Clone, Debug, Default)]
pub(super) struct Config {
    pub(super) lists: Lists,
    pub(super) route_maps: BTreeMap<String, Vec<Entry>>,
    pub(super) bgp: Option<Instance>,
    /// Route-maps between a protocol and the kernel, by whether they are for IPv6, and protocol.
    zebra_maps: BTreeMap<(bool, String), String>,
    /// bgpd keeps its routes to itself.
    pub(super) has_no_rib: bool,
    /// `bgp graceful-shutdown` for all instances.
    is_shutting_down: bool,
    profile: Option<String>,
    version: Option<String>,
}

/// An entry of a route-map.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Entry {
    pub(super) number: u32,
    pub(super) permits: bool,
    /// Words after `match`.
    pub(super) matches: Vec<Vec<String>>,
    /// Words after `set`.
    pub(super) sets: Vec<Vec<String>>,
    /// `on-match`, `call` or `continue`, which are not followed.
    pub(super) jumps: bool,
}

/// Where a line belongs.
#[derive(Clone, PartialEq, Eq, Debug)]
enum Context {
    Top,
    Map(String),
    Bgp,
    Ipv4,
    Ipv6,
    /// Another family of `router bgp`.
    OtherFamily,
    /// A VRF, and instances of BGP for one.
    Vrf,
    /// An interface or another protocol.
    Elsewhere,
}

impl Context {
    fn is_family(&self) -> bool {
        matches!(self, Self::Ipv4 | Self::Ipv6 | Self::OtherFamily)
    }
}

/// Words that begin a block at the top.
const BLOCKS: [&str; 8] =
    ["interface", "router", "line", "segment-routing", "key", "nexthop-group", "pbr-map", "bfd"];

impl Config {
    pub(super) fn of(text: &str) -> Self {
        let mut config = Self::default();
        let mut context = Context::Top;
        for line in text.lines() {
            let words: Vec<&str> = line.split_whitespace().collect();
            if words.first().is_none_or(|word| word.starts_with(['!', '#'])) {
                continue;
            }
            context = config.line(&words, context);
        }
        for entries in config.route_maps.values_mut() {
            entries.sort_by_key(|entry| entry.number);
        }
        config
    }

    fn line(&mut self, words: &[&str], context: Context) -> Context {
        match words {
            ["exit-address-family" | "exit", ..] if context.is_family() => return Context::Bgp,
            ["exit-address-family", ..] => return context,
            ["exit" | "end" | "exit-vrf", ..] => return Context::Top,
            ["route-map", name, action @ ("permit" | "deny"), number] => {
                self.route_maps.entry((*name).to_owned()).or_default().push(Entry {
                    number: number.parse().unwrap_or(0),
                    permits: *action == "permit",
                    matches: Vec::new(),
                    sets: Vec::new(),
                    jumps: false,
                });
                return Context::Map((*name).to_owned());
            }
            ["router", "bgp", number, rest @ ..] => {
                if let ["vrf" | "view", ..] = rest {
                    return Context::Vrf;
                }
                let number = number.parse().unwrap_or(0);
                // One that is opened again goes on.
                let same = self.bgp.take().filter(|bgp| bgp.autonomous_system == number);
                self.bgp = Some(same.unwrap_or_else(|| Instance::new(number)));
                return Context::Bgp;
            }
            ["address-family", family, rest @ ..] if context == Context::Bgp || context.is_family() => {
                let is_unicast = rest.first().is_none_or(|it| *it == "unicast");
                return match *family {
                    "ipv4" if is_unicast => Context::Ipv4,
                    "ipv6" if is_unicast => Context::Ipv6,
                    _ => Context::OtherFamily,
                };
            }
            ["vrf", _] => return Context::Vrf,
            [block, ..] if BLOCKS.contains(block) => return Context::Elsewhere,
            _ => {}
        }
        if self.lists.line(words) {
            return Context::Top;
        }
        if context != Context::Vrf && self.of_all(words, &context) {
            return context;
        }
        match &context {
            Context::Map(name) => {
                if let Some(entry) = self.route_maps.get_mut(name).and_then(|entries| entries.last_mut()) {
                    entry.line(words);
                }
            }
            Context::Bgp => {
                if let Some(bgp) = &mut self.bgp {
                    bgp.line(words);
                }
            }
            Context::Ipv4 | Context::Ipv6 => {
                if let Some(bgp) = &mut self.bgp {
                    let space = if context == Context::Ipv4 { &mut bgp.ipv4 } else { &mut bgp.ipv6 };
                    space.line(words);
                }
            }
            Context::Top | Context::OtherFamily | Context::Vrf | Context::Elsewhere => {}
        }
        context
    }

    /// Takes a line that belongs to no block, wherever it stands.
    fn of_all(&mut self, words: &[&str], context: &Context) -> bool {
        match words {
            ["frr", "defaults", profile] => self.profile = Some((*profile).to_owned()),
            ["frr", "version", version, ..] => self.version = Some((*version).to_owned()),
            [ip @ ("ip" | "ipv6"), "protocol", protocol, "route-map", map] => {
                self.zebra_maps.insert((*ip == "ipv6", (*protocol).to_owned()), (*map).to_owned());
            }
            ["bgp", "no-rib"] => self.has_no_rib = true,
            ["bgp", "graceful-shutdown"] if matches!(context, Context::Top | Context::Map(_)) => {
                self.is_shutting_down = true;
            }
            _ => return false,
        }
        true
    }

    /// The route-map between bgpd and the kernel: `any` counts where nothing is said for `bgp`.
    pub(super) fn zebra_map(&self, is_ipv6: bool) -> Option<&str> {
        let of = |protocol: &str| self.zebra_maps.get(&(is_ipv6, protocol.to_owned()));
        of("bgp").or_else(|| of("any")).map(String::as_str)
    }

    /// Whether every route is announced as one of a host that is about to go away.
    pub(super) fn is_shutting_down(&self) -> bool {
        self.is_shutting_down || self.bgp.as_ref().is_some_and(|bgp| bgp.is_shutting_down)
    }

    /// Whether eBGP without `policy` in a direction exchanges nothing in it (RFC 8212). If nobody says so, it depends on the profile, and
    /// on the version that the configuration was written for.
    pub(super) fn refuses(&self, policy: &Policy) -> bool {
        let said = self.bgp.as_ref().and_then(|bgp| bgp.wants_policy);
        let wants = said.unwrap_or_else(|| {
            let is_old = self.version.as_deref().and_then(major_and_minor).is_some_and(|it| it < (7, 4));
            self.profile.as_deref() != Some("datacenter") && !is_old
        });
        wants && *policy == Policy::default()
    }
}

fn major_and_minor(version: &str) -> Option<(u32, u32)> {
    let mut numbers = version.split(|c: char| !c.is_ascii_digit());
    Some((numbers.next()?.parse().ok()?, numbers.next().and_then(|it| it.parse().ok()).unwrap_or(0)))
}

fn owned(words: &[&str]) -> Vec<String> {
    words.iter().map(|word| (*word).to_owned()).collect()
}

impl Entry {
    fn line(&mut self, words: &[&str]) {
        match words {
            ["match", rest @ ..] => self.matches.push(owned(rest)),
            ["set", rest @ ..] => self.sets.push(owned(rest)),
            ["on-match" | "call" | "continue", ..] => self.jumps = true,
            _ => {}
        }
    }
}
