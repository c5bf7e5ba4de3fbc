//! Messages of nf_tables: requests for dumps, and of the answers and notifications what says where Felix's chains are.
//!
//! Pure. Only what concerns a name of Felix's becomes an [`Event`]; sets with a hundred thousand members cost a look at their names.

use crate::felix::backend::{Backend, Direction, Name};
use crate::netlink::attributes::{all, find};
use netlink_packet_core::{NLA_F_NESTED, NLM_F_DUMP, NLM_F_REQUEST};

/// NFNL_SUBSYS_NFTABLES.
const SUBSYSTEM: u16 = 10;
/// The header of nfnetlink: family, version, and the lower half of the generation in network order.
const HEADER_BYTES: usize = 4;

/// Of NFT_MSG_*.
mod kind {
    pub(super) const NEWTABLE: u16 = 0;
    pub(super) const DELTABLE: u16 = 2;
    pub(super) const NEWCHAIN: u16 = 3;
    pub(super) const GETCHAIN: u16 = 4;
    pub(super) const DELCHAIN: u16 = 5;
    pub(super) const NEWRULE: u16 = 6;
    pub(super) const GETRULE: u16 = 7;
    pub(super) const DELRULE: u16 = 8;
    pub(super) const NEWSET: u16 = 9;
    pub(super) const DELSET: u16 = 11;
    pub(super) const NEWSETELEM: u16 = 12;
    pub(super) const GETSETELEM: u16 = 13;
    pub(super) const DELSETELEM: u16 = 14;
    pub(super) const NEWGEN: u16 = 15;
}

/// Of NFTA_*: tables, chains, rules and sets begin with the name of the table.
mod attribute {
    pub(super) const TABLE: u16 = 1;
    pub(super) const CHAIN_NAME: u16 = 3;
    pub(super) const RULE_CHAIN: u16 = 2;
    pub(super) const RULE_HANDLE: u16 = 3;
    pub(super) const RULE_EXPRESSIONS: u16 = 4;
    pub(super) const EXPRESSION_NAME: u16 = 1;
    pub(super) const EXPRESSION_DATA: u16 = 2;
    pub(super) const IMMEDIATE_DATA: u16 = 2;
    pub(super) const SET_NAME: u16 = 2;
    pub(super) const SET_ELEMENTS: u16 = 3;
    pub(super) const LIST_ELEMENT: u16 = 1;
    pub(super) const ELEMENT_KEY: u16 = 1;
    pub(super) const ELEMENT_DATA: u16 = 2;
    pub(super) const DATA_VALUE: u16 = 1;
    pub(super) const DATA_VERDICT: u16 = 2;
    pub(super) const VERDICT_CHAIN: u16 = 2;
    pub(super) const GENERATION: u16 = 1;
}

/// The address families that matter.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub(in crate::felix) enum Family {
    Ipv4,
    Ipv6,
}

impl Family {
    pub(super) const BOTH: [Self; 2] = [Self::Ipv4, Self::Ipv6];

    /// NFPROTO_IPV4, NFPROTO_IPV6.
    const fn number(self) -> u8 {
        match self {
            Self::Ipv4 => 2,
            Self::Ipv6 => 10,
        }
    }

    fn of(number: u8) -> Option<Self> {
        Self::BOTH.into_iter().find(|family| family.number() == number)
    }
}

/// The table in which something is.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub(super) struct Place {
    pub(super) family: Family,
    pub(super) backend: Backend,
}

impl Place {
    const fn table(self) -> &'static str {
        match self.backend {
            Backend::Nftables => "calico",
            Backend::Iptables | Backend::Legacy => "filter",
        }
    }
}

/// Something of Felix's is there, or is not any more.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Event {
    /// A table. Its removal takes everything in it.
    Table { place: Place, exists: bool },
    /// A chain, of an interface or for dispatch.
    Chain { place: Place, name: String, exists: bool },
    /// A rule of a dispatch chain that leads to another chain.
    Rule { place: Place, chain: String, handle: u64, target: Option<String> },
    /// A rule is gone.
    RuleGone { place: Place, chain: String, handle: u64 },
    /// A dispatch map. Its removal takes its elements.
    Map { place: Place, direction: Direction, exists: bool },
    /// An element of a dispatch map, and the chain where it leads.
    Element { place: Place, direction: Direction, interface: String, target: Option<String> },
    /// An element is gone.
    ElementGone { place: Place, direction: Direction, interface: String },
    /// All changes of one transaction have been told.
    Generation(u32),
}

/// The lower half of the generation that a message belongs to.
pub(super) fn generation(payload: &[u8]) -> Option<u16> {
    Some(u16::from_be_bytes(payload.get(2..HEADER_BYTES)?.try_into().ok()?))
}

/// What a notification or an answer says.
pub(super) fn parse(message_type: u16, payload: &[u8], events: &mut Vec<Event>) {
    if message_type >> 8 != SUBSYSTEM || payload.len() < HEADER_BYTES {
        return;
    }
    let (kind, attributes) = (message_type & 0xff, &payload[HEADER_BYTES..]);
    if kind == kind::NEWGEN {
        let number = find(attributes, attribute::GENERATION).and_then(|bytes| bytes.try_into().ok());
        events.extend(number.map(|bytes| Event::Generation(u32::from_be_bytes(bytes))));
        return;
    }
    let place = Family::of(payload[0]).and_then(|family| {
        let backend = Backend::of_table(text(find(attributes, attribute::TABLE)?)?)?;
        Some(Place { family, backend })
    });
    let Some(place) = place else { return };
    match kind {
        kind::NEWTABLE | kind::DELTABLE => {
            events.push(Event::Table { place, exists: kind == kind::NEWTABLE });
        }
        kind::NEWCHAIN | kind::DELCHAIN => {
            let name = find(attributes, attribute::CHAIN_NAME).and_then(text);
            let known = name.filter(|name| place.backend.name(name).is_some());
            events.extend(known.map(|name| Event::Chain {
                place,
                name: name.to_owned(),
                exists: kind == kind::NEWCHAIN,
            }));
        }
        kind::NEWRULE | kind::DELRULE => events.extend(rule(place, attributes, kind == kind::NEWRULE)),
        kind::NEWSET | kind::DELSET => {
            let direction = map(place, attributes);
            let exists = kind == kind::NEWSET;
            events.extend(direction.map(|direction| Event::Map { place, direction, exists }));
        }
        kind::NEWSETELEM | kind::DELSETELEM => elements(place, attributes, kind == kind::NEWSETELEM, events),
        _ => {}
    }
}

fn rule(place: Place, attributes: &[u8], exists: bool) -> Option<Event> {
    let chain = text(find(attributes, attribute::RULE_CHAIN)?)?;
    if !matches!(place.backend.name(chain)?, Name::Root(_) | Name::Branch(_)) {
        return None;
    }
    let handle = u64::from_be_bytes(find(attributes, attribute::RULE_HANDLE)?.try_into().ok()?);
    let chain = chain.to_owned();
    if !exists {
        return Some(Event::RuleGone { place, chain, handle });
    }
    let expressions = find(attributes, attribute::RULE_EXPRESSIONS).unwrap_or_default();
    let target = all(expressions, attribute::LIST_ELEMENT).find_map(goto).map(str::to_owned);
    Some(Event::Rule { place, chain, handle, target })
}

/// The chain to which an expression leads, if it does.
fn goto(expression: &[u8]) -> Option<&str> {
    let name = find(expression, attribute::EXPRESSION_NAME).and_then(text)?;
    let data = find(expression, attribute::EXPRESSION_DATA).filter(|_| name == "immediate")?;
    verdict_chain(find(data, attribute::IMMEDIATE_DATA)?)
}

fn verdict_chain(data: &[u8]) -> Option<&str> {
    text(find(find(data, attribute::DATA_VERDICT)?, attribute::VERDICT_CHAIN)?)
}

fn map(place: Place, attributes: &[u8]) -> Option<Direction> {
    match place.backend.name(text(find(attributes, attribute::SET_NAME)?)?)? {
        Name::Root(direction) => Some(direction),
        Name::Endpoint(..) | Name::Branch(_) => None,
    }
}

fn elements(place: Place, attributes: &[u8], exist: bool, events: &mut Vec<Event>) {
    let Some(direction) = map(place, attributes) else { return };
    let list = find(attributes, attribute::SET_ELEMENTS).unwrap_or_default();
    events.extend(all(list, attribute::LIST_ELEMENT).filter_map(|element| {
        let key = find(find(element, attribute::ELEMENT_KEY)?, attribute::DATA_VALUE)?;
        let interface = text(key)?.to_owned();
        if !exist {
            return Some(Event::ElementGone { place, direction, interface });
        }
        let target = find(element, attribute::ELEMENT_DATA).and_then(verdict_chain).map(str::to_owned);
        Some(Event::Element { place, direction, interface, target })
    }));
}

/// Text up to its end or its first zero: a key of type `ifname` is filled up with them.
fn text(bytes: &[u8]) -> Option<&str> {
    let length = bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len());
    std::str::from_utf8(&bytes[..length]).ok()
}

/// One request for a dump.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum DumpRequest {
    /// All chains of a family.
    Chains(Family),
    /// The elements of a dispatch map.
    Elements(Family, Direction),
    /// The rules of a chain.
    Rules(Place, String),
}

/// The bytes of a request.
pub(super) fn request(step: &DumpRequest, sequence: u32) -> Vec<u8> {
    let (kind, family, attributes) = match step {
        DumpRequest::Chains(family) => (kind::GETCHAIN, *family, Vec::new()),
        DumpRequest::Elements(family, direction) => {
            let map = match direction {
                Direction::To => "filter-cali-to-wl-dispatch",
                Direction::From => "filter-cali-from-wl-dispatch",
            };
            (kind::GETSETELEM, *family, vec![(attribute::TABLE, "calico"), (attribute::SET_NAME, map)])
        }
        DumpRequest::Rules(place, chain) => {
            let attributes = vec![(attribute::TABLE, place.table()), (attribute::RULE_CHAIN, chain.as_str())];
            (kind::GETRULE, place.family, attributes)
        }
    };
    let mut body = vec![family.number(), 0, 0, 0];
    for (kind, value) in attributes {
        put(&mut body, kind & !NLA_F_NESTED, value);
    }
    let length = u32::try_from(16 + body.len()).unwrap_or(u32::MAX);
    let mut bytes = Vec::with_capacity(16 + body.len());
    bytes.extend(length.to_ne_bytes());
    bytes.extend((SUBSYSTEM << 8 | kind).to_ne_bytes());
    bytes.extend((NLM_F_REQUEST | NLM_F_DUMP).to_ne_bytes());
    bytes.extend(sequence.to_ne_bytes());
    bytes.extend(0_u32.to_ne_bytes());
    bytes.extend(body);
    bytes
}

/// A text with a zero at its end.
fn put(body: &mut Vec<u8>, kind: u16, value: &str) {
    let length = u16::try_from(4 + value.len() + 1).unwrap_or(u16::MAX);
    body.extend(length.to_ne_bytes());
    body.extend(kind.to_ne_bytes());
    body.extend(value.as_bytes());
    body.push(0);
    body.resize(body.len().next_multiple_of(4), 0);
}

#[cfg(test)]
pub(super) mod fuzz;

#[cfg(test)]
mod tests;
