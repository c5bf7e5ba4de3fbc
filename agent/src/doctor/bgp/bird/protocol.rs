//! The kernel and BGP protocols of one family, with the options that matter for route priority.

use super::code::{Expression, expression, statements};
use super::config::{Config, Item, Protocol, items};
use super::lexer::{Place, Token, Word};
use super::run::Filter;

/// Preferences that BIRD gives routes of its own accord (nest/route.h).
const PREFERENCE_KERNEL: i64 = 10;
const PREFERENCE_BGP: i64 = 100;
/// LOCAL_PREF of routes without one (proto/bgp/config.Y).
const LOCAL_PREF: i64 = 100;
/// Metric of the kernel protocol since BIRD 2 (sysdep/linux/krt-sys.h); 0 before.
const METRIC: i64 = 32;

/// The protocols of a family that work with the main table.
#[derive(Clone, Debug)]
pub(super) struct Protocols {
    pub(super) kernel: Option<Kernel>,
    pub(super) peers: Vec<Bgp>,
    /// Whether the networks of the host's interfaces are in BIRD's table.
    pub(super) has_direct: bool,
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
    pub(super) is_direct: bool,
    pub(super) preference: i64,
    pub(super) default_local_pref: i64,
    pub(super) import: Filter,
    pub(super) export: Filter,
}

impl Protocols {
    pub(super) fn of(config: &Config, is_ipv6: bool, is_bird_1: bool) -> Self {
        let family = if is_ipv6 { "ipv6" } else { "ipv4" };
        let channel = |protocol: &Protocol| channel(protocol, family, is_bird_1);
        let of_kind = |kind: &'static str| {
            config
                .protocols
                .iter()
                .filter(move |protocol| protocol.kind == kind && !is_on(&protocol.options, "disabled"))
        };
        let kernel = of_kind("kernel")
            .filter(|protocol| !protocol.options.iter().any(|item| item.begins(&["kernel", "table"])))
            .find_map(|protocol| Some(Kernel::of(config, protocol, &channel(protocol)?, is_bird_1)));
        let peers =
            of_kind("bgp").filter_map(|protocol| Some(Bgp::of(config, protocol, &channel(protocol)?)));
        let has_direct = of_kind("direct").any(|protocol| channel(protocol).is_some());
        Self { kernel, peers: peers.collect(), has_direct }
    }
}

/// The options of a protocol's channel, with those of the protocol before them; nothing without the channel.
fn channel(protocol: &Protocol, family: &str, is_bird_1: bool) -> Option<Vec<Item>> {
    if is_bird_1 {
        return Some(protocol.options.clone());
    }
    let is_channel = |item: &&Item| item.head.len() == 1 && item.begins(&[family]);
    let mut blocks = protocol.options.iter().filter(is_channel).peekable();
    blocks.peek()?;
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

    pub(super) fn import_name(&self) -> String {
        describe(&self.import, &format!("the import of protocol kernel {}", self.name))
    }

    pub(super) fn export_name(&self) -> String {
        describe(&self.export, &format!("the export of protocol kernel {}", self.name))
    }
}

impl Bgp {
    fn of(config: &Config, protocol: &Protocol, options: &[Item]) -> Self {
        let own = as_number(config, options, "local");
        let other = as_number(config, options, "neighbor");
        let says = |word: &str| {
            let mut neighbours = options.iter().filter(|item| item.begins(&["neighbor"]));
            neighbours.any(|item| item.head.iter().any(|token| token.word.is(word)))
        };
        let is_external =
            says("external") || (!says("internal") && own.is_some() && other.is_some() && own != other);
        Self {
            name: protocol.name.clone(),
            is_external,
            is_direct: is_on(options, "direct")
                || options.iter().any(|item| item.begins(&["gateway", "direct"])),
            preference: number(config, options, &["preference"]).unwrap_or(PREFERENCE_BGP),
            default_local_pref: number(config, options, &["default", "bgp_local_pref"]).unwrap_or(LOCAL_PREF),
            import: filter(options, "import").unwrap_or(if is_external { Filter::None } else { Filter::All }),
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
