//! FRR's configuration, as `show running-config` and /etc/frr/frr.conf have it: lists, route-maps, and the BGP instance of the
//! default VRF. Lines that do not matter for route priority are gone over.

use ipnet::IpNet;
use std::collections::BTreeMap;

/// What the text says.
#[derive(Clone, Debug, Default)]
pub(super) struct Config {
    pub(super) prefix_lists: BTreeMap<String, Vec<PrefixRule>>,
    pub(super) community_lists: BTreeMap<String, Vec<(bool, Vec<String>)>>,
    pub(super) as_path_lists: BTreeMap<String, Vec<(bool, String)>>,
    pub(super) route_maps: BTreeMap<String, Vec<Entry>>,
    pub(super) bgp: Option<Instance>,
}

/// A rule of a prefix list.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct PrefixRule {
    pub(super) permits: bool,
    /// Nothing for `any`.
    pub(super) net: Option<IpNet>,
    pub(super) from: Option<u8>,
    pub(super) to: Option<u8>,
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

/// `router bgp`.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct Instance {
    pub(super) autonomous_system: u32,
    pub(super) restarts_gracefully: bool,
    /// Whether IPv4 is active without a word.
    pub(super) ipv4_by_default: bool,
    /// Whether eBGP without route-maps exchanges nothing.
    pub(super) wants_policy: bool,
    /// By address, interface or name of the peer group.
    pub(super) neighbours: BTreeMap<String, Neighbour>,
    pub(super) ipv4: Space,
    pub(super) ipv6: Space,
}

/// What is said about a neighbour or a group for all families.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct Neighbour {
    pub(super) remote_as: Option<String>,
    pub(super) group: Option<String>,
    pub(super) is_group: bool,
}

/// An address family.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct Space {
    /// The route-map of `redistribute kernel`, if it is there; empty without one.
    pub(super) kernel: Option<String>,
    /// eBGP, iBGP.
    pub(super) distances: Option<(u32, u32)>,
    pub(super) active: BTreeMap<String, bool>,
    /// By neighbour and direction.
    pub(super) maps: BTreeMap<(String, String), String>,
}

/// Where a line belongs.
#[derive(Clone, PartialEq, Eq, Debug)]
enum Context {
    Top,
    Map(String),
    Bgp,
    Ipv4,
    Ipv6,
    /// A VRF, an interface, another protocol or family.
    Elsewhere,
}

/// Words that begin a block at the top.
const BLOCKS: [&str; 9] =
    ["interface", "vrf", "router", "line", "segment-routing", "key", "nexthop-group", "pbr-map", "bfd"];

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
            ["exit-address-family", ..] => return Context::Bgp,
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
                if !rest.is_empty() && rest[0] == "vrf" {
                    return Context::Elsewhere;
                }
                let autonomous_system = number.parse().unwrap_or(0);
                self.bgp = Some(Instance {
                    autonomous_system,
                    ipv4_by_default: true,
                    wants_policy: true,
                    ..Instance::default()
                });
                return Context::Bgp;
            }
            ["address-family", family, rest @ ..]
                if matches!(context, Context::Bgp | Context::Ipv4 | Context::Ipv6) =>
            {
                let is_unicast = rest.first().is_none_or(|it| *it == "unicast");
                return match *family {
                    "ipv4" if is_unicast => Context::Ipv4,
                    "ipv6" if is_unicast => Context::Ipv6,
                    // Its lines are no neighbours of ours, and it ends with exit-address-family.
                    _ => Context::Elsewhere,
                };
            }
            [block, ..] if BLOCKS.contains(block) => return Context::Elsewhere,
            _ => {}
        }
        if self.list(words) {
            return Context::Top;
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
            Context::Top | Context::Elsewhere => {}
        }
        context
    }

    /// Takes a line of a list, if it is one.
    fn list(&mut self, words: &[&str]) -> bool {
        let without_number = |words: &[&str]| -> Vec<String> {
            let rest = if words.first() == Some(&"seq") { &words[2.min(words.len())..] } else { words };
            rest.iter().map(|word| (*word).to_owned()).collect()
        };
        match words {
            ["ip" | "ipv6", "prefix-list", name, rest @ ..] => {
                let rest = without_number(rest);
                let rule = prefix_rule(&rest.iter().map(String::as_str).collect::<Vec<_>>());
                self.prefix_lists.entry((*name).to_owned()).or_default().extend(rule);
            }
            ["bgp", "community-list", "standard", name, rest @ ..] => {
                let mut rest = without_number(rest).into_iter();
                let permits = rest.next().is_some_and(|word| word == "permit");
                self.community_lists.entry((*name).to_owned()).or_default().push((permits, rest.collect()));
            }
            ["bgp", "as-path", "access-list", name, rest @ ..] => {
                let mut rest = without_number(rest).into_iter();
                let permits = rest.next().is_some_and(|word| word == "permit");
                let pattern = rest.collect::<Vec<_>>().join(" ");
                self.as_path_lists.entry((*name).to_owned()).or_default().push((permits, pattern));
            }
            _ => return false,
        }
        true
    }
}

fn prefix_rule(words: &[&str]) -> Option<PrefixRule> {
    let permits = match *words.first()? {
        "permit" => true,
        "deny" => false,
        _ => return None,
    };
    let net = match *words.get(1)? {
        "any" => None,
        text => Some(text.parse().ok()?),
    };
    let after = |word: &str| {
        let at = words.iter().position(|it| *it == word)?;
        words.get(at + 1)?.parse().ok()
    };
    Some(PrefixRule { permits, net, from: after("ge"), to: after("le") })
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

impl Instance {
    fn line(&mut self, words: &[&str]) {
        match words {
            ["bgp", "graceful-restart"] => self.restarts_gracefully = true,
            ["no", "bgp", "default", "ipv4-unicast"] => self.ipv4_by_default = false,
            ["no", "bgp", "ebgp-requires-policy"] => self.wants_policy = false,
            ["neighbor", name, "peer-group"] => self.neighbour(name).is_group = true,
            ["neighbor", name, "peer-group", group] => self.neighbour(name).group = Some((*group).to_owned()),
            ["neighbor", name, "remote-as", number] => {
                self.neighbour(name).remote_as = Some((*number).to_owned())
            }
            ["neighbor", name, "interface", rest @ ..] => {
                let at = |word: &str| rest.iter().position(|it| *it == word).and_then(|at| rest.get(at + 1));
                let (remote, group) = (at("remote-as").copied(), at("peer-group").copied());
                let neighbour = self.neighbour(name);
                neighbour.remote_as = remote.map(str::to_owned).or(neighbour.remote_as.take());
                neighbour.group = group.map(str::to_owned).or(neighbour.group.take());
            }
            // Older ones write the IPv4 family without a block.
            _ => self.ipv4.line(words),
        }
    }

    fn neighbour(&mut self, name: &str) -> &mut Neighbour {
        self.neighbours.entry(name.to_owned()).or_default()
    }
}

impl Space {
    fn line(&mut self, words: &[&str]) {
        match words {
            ["redistribute", "kernel", rest @ ..] => {
                let map = rest.iter().position(|it| *it == "route-map").and_then(|at| rest.get(at + 1));
                self.kernel = Some(map.copied().unwrap_or_default().to_owned());
            }
            ["distance", "bgp", external, internal, ..] => {
                self.distances = external.parse().ok().zip(internal.parse().ok());
            }
            ["neighbor", name, "activate"] => drop(self.active.insert((*name).to_owned(), true)),
            ["no", "neighbor", name, "activate"] => drop(self.active.insert((*name).to_owned(), false)),
            ["neighbor", name, "route-map", map, direction] => {
                self.maps.insert(((*name).to_owned(), (*direction).to_owned()), (*map).to_owned());
            }
            _ => {}
        }
    }
}
