//! The kernel and BGP protocols of one family, with the options that matter for route priority.

use super::super::Wanted;
use super::code::{Expression, expression, net, statements};
use super::config::{Config, Item, Protocol, items};
use super::lexer::{Place, Token, Word};
use super::run::{Filter, Route, run};
use ipnet::IpNet;

/// Preferences that BIRD gives routes of its own accord (nest/route.h).
const PREFERENCE_KERNEL: i64 = 10;
const PREFERENCE_BGP: i64 = 100;
/// LOCAL_PREF of routes without one (proto/bgp/config.Y).
const LOCAL_PREF: i64 = 100;
/// Metric of the kernel protocol since BIRD 2 (sysdep/linux/krt-sys.h); 0 before.
const METRIC: i64 = 32;
/// The number of the kernel's main table.
const MAIN_TABLE: i64 = 254;
/// Protocols that bring networks of the host and of others into the table: interior ones, and pipes from other tables.
const INTERIOR: [&str; 5] = ["direct", "ospf", "rip", "babel", "pipe"];

/// The protocols of a family that work with the main table.
#[derive(Clone, Debug)]
pub(super) struct Protocols {
    pub(super) kernel: Option<Kernel>,
    /// Sessions with other hosts and routers. One through a VM's interface is with the VM, which need not know of the others.
    pub(super) peers: Vec<Bgp>,
    /// Whether a protocol brings the networks into BIRD's table that next hops are in, as far as can be known.
    has_networks: bool,
    /// Where static routes lead.
    statics: Vec<IpNet>,
}

/// What a kernel protocol does.
#[derive(Clone, Debug)]
pub(super) struct Kernel {
    pub(super) name: String,
    pub(super) place: Place,
    pub(super) learns: bool,
    pub(super) persists: bool,
    pub(super) restarts_gracefully: bool,
    pub(super) metric: i64,
    pub(super) preference: i64,
    pub(super) import: Filter,
    pub(super) export: Filter,
}

/// What a BGP protocol does.
#[derive(Clone, Debug)]
pub(super) struct Bgp {
    pub(super) name: String,
    pub(super) is_external: bool,
    /// Whether next hops are taken as they are.
    is_direct: bool,
    /// Next hops are looked up in another table.
    has_igp_table: bool,
    neighbour: Option<IpNet>,
    interface: Option<String>,
    /// It is told all routes, not only the best one.
    pub(super) is_told_all: bool,
    /// It is told the second best route if the filter rejects the best one.
    pub(super) is_told_second: bool,
    /// It is told what other hosts of the AS say.
    pub(super) is_client: bool,
    pub(super) preference: i64,
    pub(super) default_local_pref: i64,
    pub(super) import: Filter,
    pub(super) export: Filter,
}

impl Protocols {
    pub(super) fn of(config: &Config, wanted: &Wanted, is_ipv6: bool, is_bird_1: bool) -> Self {
        let family = if is_ipv6 { "ipv6" } else { "ipv4" };
        let channel = |protocol: &Protocol| channel(protocol, family, is_bird_1);
        let of_kind = |kind: &'static str| {
            config
                .protocols
                .iter()
                .filter(move |protocol| protocol.kind == kind && !is_on(&protocol.options, "disabled"))
        };
        let is_main = |protocol: &&Protocol| {
            let has_table = protocol.options.iter().any(|item| item.begins(&["kernel", "table"]));
            !has_table || number(config, &protocol.options, &["kernel", "table"]) == Some(MAIN_TABLE)
        };
        let kernel = of_kind("kernel")
            .filter(is_main)
            .find_map(|protocol| Some(Kernel::of(config, protocol, &channel(protocol)?, is_bird_1)));
        let peers = of_kind("bgp")
            .filter_map(|protocol| Some(Bgp::of(config, protocol, &channel(protocol)?, is_bird_1)))
            .filter(|peer| !wanted.is_vm(peer.interface.as_deref(), peer.neighbour));
        let brings =
            |options: Vec<Item>| filter(&options, "import").is_none_or(|filter| filter != Filter::None);
        let learns_all = |protocol: &Protocol| {
            channel(protocol).is_some_and(|options| {
                options.iter().any(|item| item.begins(&["learn", "all"])) && brings(options)
            })
        };
        let mut interior = INTERIOR.into_iter().flat_map(of_kind);
        let has_networks = interior.any(|protocol| channel(protocol).is_some_and(brings))
            || of_kind("kernel").any(learns_all);
        let statics = of_kind("static").filter_map(channel).flatten().filter_map(|item| {
            let Word::Address(text) = &item.head.get(1).filter(|_| item.begins(&["route"]))?.word else {
                return None;
            };
            net(text)
        });
        Self { kernel, peers: peers.collect(), has_networks, statics: statics.collect() }
    }

    /// Whether next hops of this peer are taken as they are, or there is something that they may be resolved by.
    pub(super) fn may_resolve(&self, peer: &Bgp) -> bool {
        let leads_there = |route: &IpNet| {
            route.prefix_len() == 0 || peer.neighbour.is_some_and(|neighbour| route.contains(&neighbour))
        };
        // Routes of sessions on a common network need not be looked up themselves.
        let is_underlay =
            |other: &Bgp| other.name != peer.name && other.is_direct && other.import != Filter::None;
        peer.is_direct
            || peer.has_igp_table
            || self.has_networks
            || self.statics.iter().any(leads_there)
            || self.peers.iter().any(is_underlay)
    }
}

/// The options of a protocol's channel, with those of the protocol before them; nothing without the channel.
fn channel(protocol: &Protocol, family: &str, is_bird_1: bool) -> Option<Vec<Item>> {
    if is_bird_1 {
        return Some(protocol.options.clone());
    }
    let is_channel = |family| move |item: &&Item| item.head.len() == 1 && item.begins(&[family]);
    let has_none =
        !protocol.options.iter().any(|item| is_channel("ipv4")(&item) || is_channel("ipv6")(&item));
    // OSPF need not name its family.
    let by_default = if protocol.variant.as_deref() == Some("v3") { "ipv6" } else { "ipv4" };
    let is_implied = protocol.kind == "ospf" && has_none && family == by_default;
    let mut blocks = protocol.options.iter().filter(is_channel(family)).peekable();
    // Pipes are between two tables.
    if blocks.peek().is_none() && !is_implied && protocol.kind != "pipe" {
        return None;
    }
    let inside = blocks.flat_map(|item| items(item.body.as_deref().unwrap_or_default()));
    Some(protocol.options.iter().cloned().chain(inside).collect())
}

impl Kernel {
    fn of(config: &Config, protocol: &Protocol, options: &[Item], is_bird_1: bool) -> Self {
        let metric = if is_bird_1 { 0 } else { METRIC };
        Self {
            name: protocol.name.clone(),
            place: protocol.place.clone(),
            learns: is_on(options, "learn"),
            persists: is_on(options, "persist"),
            restarts_gracefully: options.iter().any(|item| item.begins(&["graceful", "restart"])),
            metric: number(config, options, &["metric"]).unwrap_or(metric),
            preference: number(config, options, &["preference"]).unwrap_or(PREFERENCE_KERNEL),
            import: filter(options, "import").unwrap_or(Filter::All),
            export: filter(options, "export").unwrap_or(Filter::None),
        }
    }

    /// Whether no route at all gets into the kernel.
    pub(super) fn writes_nothing(&self, config: &Config) -> bool {
        let outcomes = run(config, &self.export, &Route::new());
        outcomes.iter().all(|outcome| !outcome.is_accepted && !outcome.is_uncertain)
    }

    pub(super) fn import_name(&self) -> String {
        describe(&self.import, &format!("the import of protocol kernel {}", self.name))
    }

    pub(super) fn export_name(&self) -> String {
        describe(&self.export, &format!("the export of protocol kernel {}", self.name))
    }
}

impl Bgp {
    fn of(config: &Config, protocol: &Protocol, options: &[Item], is_bird_1: bool) -> Self {
        let own = as_number(config, options, "local");
        let other = as_number(config, options, "neighbor");
        let says = |word: &str| {
            let mut neighbours = options.iter().filter(|item| item.begins(&["neighbor"]));
            neighbours.any(|item| item.head.iter().any(|token| token.word.is(word)))
        };
        let is_external =
            says("external") || (!says("internal") && own.is_some() && other.is_some() && own != other);
        // Next hops of sessions on a common network are taken as they are, others are looked up, unless it is said.
        let last = |words: [&str; 2]| {
            let mut said =
                options.iter().filter_map(|item| words.iter().position(|word| item.begins(&[*word])));
            said.next_back()
        };
        let is_multihop = last(["direct", "multihop"]).map_or(!is_external, |word| word == 1);
        let gateway = options.iter().rfind(|item| item.begins(&["gateway"]));
        let neighbour = options.iter().rfind(|item| item.begins(&["neighbor"])).and_then(address);
        let interface = options.iter().rev().find_map(interface);
        // RFC 8212, since BIRD 2.
        let import = if is_external && !is_bird_1 { Filter::None } else { Filter::All };
        let paths = options.iter().rfind(|item| item.begins(&["add", "paths"]));
        let says_not = |item: &Item| {
            let words = ["rx", "off", "no", "false"];
            item.head.get(2).is_some_and(|token| {
                token.word == Word::Number(0) || words.iter().any(|word| token.word.is(word))
            })
        };
        // The other side has the same configuration: with `tx` alone neither takes what the other one tells.
        let is_told_all =
            paths.is_some_and(|item| !says_not(item) && !item.head.get(2).is_some_and(|it| it.word.is("tx")));
        Self {
            name: protocol.name.clone(),
            is_external,
            is_direct: gateway.map_or(!is_multihop, |item| item.begins(&["gateway", "direct"])),
            has_igp_table: options.iter().any(|item| item.begins(&["igp", "table"])),
            neighbour,
            interface,
            is_told_all,
            is_told_second: is_on(options, "secondary"),
            is_client: options.iter().any(|item| item.begins(&["rr", "client"])),
            preference: number(config, options, &["preference"]).unwrap_or(PREFERENCE_BGP),
            default_local_pref: number(config, options, &["default", "bgp_local_pref"]).unwrap_or(LOCAL_PREF),
            import: filter(options, "import").unwrap_or(import),
            export: filter(options, "export").unwrap_or(Filter::None),
        }
    }

    pub(super) fn import_name(&self) -> String {
        describe(&self.import, &format!("the import of protocol bgp {}", self.name))
    }

    pub(super) fn export_name(&self) -> String {
        describe(&self.export, &format!("the export of protocol bgp {}", self.name))
    }
}

fn describe(filter: &Filter, place: &str) -> String {
    match filter {
        Filter::Named(name) => format!("filter {name}"),
        _ => place.to_owned(),
    }
}

/// A switch that is on by its name alone, or with a word for yes.
fn is_on(options: &[Item], name: &str) -> bool {
    let last = options.iter().rfind(|item| item.begins(&[name]));
    last.is_some_and(|item| {
        item.head.get(1).is_none_or(|token| !["off", "no", "false"].iter().any(|word| token.word.is(word)))
    })
}

fn number(config: &Config, options: &[Item], words: &[&str]) -> Option<i64> {
    let item = options.iter().rfind(|item| item.begins(words) && item.head.len() > words.len())?;
    value(config, &item.head[words.len()..])
}

/// A number, or a constant that is one.
fn value(config: &Config, tokens: &[Token]) -> Option<i64> {
    match expression(tokens) {
        Expression::Number(number) => Some(number),
        Expression::Name(name) => match config.constants.get(&name) {
            Some(Expression::Number(number)) => Some(*number),
            _ => None,
        },
        _ => None,
    }
}

/// The number after `as`.
fn as_number(config: &Config, options: &[Item], word: &str) -> Option<i64> {
    let items = options.iter().filter(|item| item.begins(&[word]));
    items
        .filter_map(|item| {
            let at = item.head.iter().position(|token| token.word.is("as"))?;
            value(config, &item.head[at + 1..])
        })
        .next_back()
}

/// The address or range of `neighbor`.
fn address(item: &Item) -> Option<IpNet> {
    item.head.iter().find_map(|token| match &token.word {
        Word::Address(text) => net(text),
        _ => None,
    })
}

/// The interface of a session: `interface "tap1"`, or behind the address of one of its sides, as `fe80::1%tap1`.
fn interface(item: &Item) -> Option<String> {
    let at = if item.begins(&["interface"]) {
        1
    } else if item.begins(&["neighbor"]) || item.begins(&["local"]) {
        item.head.iter().position(|token| token.word.is("%"))? + 1
    } else {
        return None;
    };
    match &item.head.get(at)?.word {
        Word::Name(name) | Word::Text(name) => Some(name.clone()),
        _ => None,
    }
}

/// The last filter of a direction. Limits and tables are said with the same word.
fn filter(options: &[Item], direction: &str) -> Option<Filter> {
    let mut filters = options.iter().filter(|item| item.begins(&[direction])).filter_map(|item| {
        let rest = &item.head[1..];
        let Word::Name(kind) = &rest.first()?.word else { return None };
        match (kind.as_str(), &item.body) {
            ("all", _) => Some(Filter::All),
            ("none", _) => Some(Filter::None),
            ("filter", Some(body)) => Some(Filter::Inline(statements(body))),
            ("filter", None) => match &rest.get(1)?.word {
                Word::Name(name) => Some(Filter::Named(name.clone())),
                _ => None,
            },
            ("where", _) => Some(Filter::Where(expression(&rest[1..]))),
            _ => None,
        }
    });
    filters.next_back()
}
