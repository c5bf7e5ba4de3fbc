//! Messages as the kernel sends them, built by hand.

use super::*;

fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
    let mut bytes = u16::try_from(4 + value.len()).unwrap().to_ne_bytes().to_vec();
    bytes.extend(kind.to_ne_bytes());
    bytes.extend(value);
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes
}

fn nested(kind: u16, parts: &[Vec<u8>]) -> Vec<u8> {
    attribute(kind | NLA_F_NESTED, &parts.concat())
}

fn text(kind: u16, value: &str) -> Vec<u8> {
    attribute(kind, format!("{value}\0").as_bytes())
}

fn events(kind: u16, family: u8, parts: &[Vec<u8>]) -> Vec<Event> {
    let payload = [vec![family, 0, 0x12, 0x34], parts.concat()].concat();
    assert_eq!(generation(&payload), Some(0x1234));
    let mut events = Vec::new();
    parse(SUBSYSTEM << 8 | kind, &payload, &mut events);
    // Whatever is cut off, nothing panics.
    for length in 0..payload.len() {
        parse(SUBSYSTEM << 8 | kind, &payload[..length], &mut Vec::new());
    }
    events
}

const CALICO: Place = Place { family: Family::Ipv6, backend: Backend::Nftables };
const FILTER: Place = Place { family: Family::Ipv4, backend: Backend::Iptables };

/// A verdict that leads to a chain, in the data of an element or of an immediate expression.
fn verdict(chain: &str) -> Vec<u8> {
    let code = attribute(1, &(-4_i32).to_be_bytes());
    nested(attribute::DATA_VERDICT, &[code, text(attribute::VERDICT_CHAIN, chain)])
}

#[test]
fn elements_of_a_dispatch_map_lead_to_chains() {
    let mut key = b"tap1".to_vec();
    key.resize(16, 0);
    let element = nested(
        attribute::LIST_ELEMENT,
        &[
            nested(attribute::ELEMENT_KEY, &[attribute(attribute::DATA_VALUE, &key)]),
            nested(attribute::ELEMENT_DATA, &[verdict("filter-cali-tw-tap1")]),
        ],
    );
    let of = |map: &str| {
        vec![
            text(attribute::TABLE, "calico"),
            text(attribute::SET_NAME, map),
            nested(attribute::SET_ELEMENTS, &[element.clone(), element.clone()]),
        ]
    };
    let (place, direction, interface) = (CALICO, Direction::To, "tap1".to_owned());
    let target = Some("filter-cali-tw-tap1".to_owned());
    let here = Event::Element { place, direction, interface: interface.clone(), target };
    assert_eq!(events(kind::NEWSETELEM, 10, &of("filter-cali-to-wl-dispatch")), [here.clone(), here]);
    let gone = Event::ElementGone { place, direction, interface };
    assert_eq!(events(kind::DELSETELEM, 10, &of("filter-cali-to-wl-dispatch")), [gone.clone(), gone]);
    assert!(events(kind::NEWSETELEM, 10, &of("cali40s-members")).is_empty());
    assert!(events(kind::NEWSETELEM, 1, &of("filter-cali-to-wl-dispatch")).is_empty(), "family inet");
}

#[test]
fn rules_of_dispatch_chains_lead_to_chains_and_others_are_nobodys() {
    let expression = |name: &str, data: Vec<u8>| {
        let data = nested(attribute::EXPRESSION_DATA, &[data]);
        nested(attribute::LIST_ELEMENT, &[text(attribute::EXPRESSION_NAME, name), data])
    };
    let goto = expression("immediate", nested(attribute::IMMEDIATE_DATA, &[verdict("cali-fw-tap1")]));
    let of = |chain: &str| {
        vec![
            text(attribute::TABLE, "filter"),
            text(attribute::RULE_CHAIN, chain),
            attribute(attribute::RULE_HANDLE, &7_u64.to_be_bytes()),
            nested(attribute::RULE_EXPRESSIONS, &[expression("counter", Vec::new()), goto.clone()]),
        ]
    };
    let chain = "cali-from-wl-dispatch-1".to_owned();
    let (place, target) = (FILTER, Some("cali-fw-tap1".to_owned()));
    let rule = Event::Rule { place, chain: chain.clone(), handle: 7, target };
    assert_eq!(events(kind::NEWRULE, 2, &of(&chain)), [rule]);
    assert_eq!(events(kind::DELRULE, 2, &of(&chain)), [Event::RuleGone { place, chain, handle: 7 }]);
    assert!(events(kind::NEWRULE, 2, &of("FORWARD")).is_empty());
}

#[test]
fn chains_tables_maps_and_generations() {
    let chain = |name: &str| vec![text(attribute::TABLE, "filter"), text(attribute::CHAIN_NAME, name)];
    let name = "cali-tw-tap1".to_owned();
    let place = FILTER;
    assert_eq!(
        events(kind::NEWCHAIN, 2, &chain(&name)),
        [Event::Chain { place, name: name.clone(), exists: true }]
    );
    assert_eq!(events(kind::DELCHAIN, 2, &chain(&name)), [Event::Chain { place, name, exists: false }]);
    assert!(events(kind::NEWCHAIN, 2, &chain("FORWARD")).is_empty());
    let table = [text(attribute::TABLE, "calico")];
    assert_eq!(events(kind::DELTABLE, 10, &table), [Event::Table { place: CALICO, exists: false }]);
    let map = [text(attribute::TABLE, "calico"), text(attribute::SET_NAME, "filter-cali-from-wl-dispatch")];
    let gone = Event::Map { place: CALICO, direction: Direction::From, exists: false };
    assert_eq!(events(kind::DELSET, 10, &map), [gone]);
    let number = [attribute(attribute::GENERATION, &77_u32.to_be_bytes())];
    assert_eq!(events(kind::NEWGEN, 0, &number), [Event::Generation(77)]);
}

#[test]
fn a_request_names_table_and_map() {
    let bytes = request(&DumpRequest::Elements(Family::Ipv4, Direction::From), 9);
    assert_eq!(u32::from_ne_bytes(bytes[..4].try_into().unwrap()) as usize, bytes.len());
    let attributes = &bytes[20..];
    let value = |kind| super::text(find(attributes, kind).unwrap()).unwrap().to_owned();
    assert_eq!(value(attribute::TABLE), "calico");
    assert_eq!(value(attribute::SET_NAME), "filter-cali-from-wl-dispatch");
}
