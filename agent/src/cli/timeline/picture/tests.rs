//! The structure of pictures: what is in them, inside their frame, and readable by a parser.

use super::*;
use cutover_daemon::timeline::samples::*;
use cutover_engine::machine::Phases;
use std::collections::BTreeMap;
use svg::node::Attributes;
use svg::parser::{Event, Parser};

/// Elements with their attributes, and all text. Fails unless what is opened is closed.
fn parse(picture: &str) -> (Vec<(String, Attributes)>, Vec<String>) {
    let (mut elements, mut texts, mut depth) = (Vec::new(), Vec::new(), 0_i32);
    for event in Parser::new(picture) {
        match event {
            Event::Tag(name, kind, attributes) => {
                use svg::node::element::tag::Type;
                depth += match kind {
                    Type::Start => 1,
                    Type::End => -1,
                    Type::Empty => 0,
                };
                if kind != Type::End {
                    elements.push((name.to_owned(), attributes));
                }
            }
            Event::Text(text) => texts.push(text.to_owned()),
            Event::Error(error) => panic!("{error}"),
            Event::Comment(_) | Event::Declaration(_) | Event::Instruction(_) => {}
        }
    }
    assert_eq!(depth, 0);
    (elements, texts)
}

fn with_class<'a>(elements: &'a [(String, Attributes)], class: &str) -> Vec<&'a Attributes> {
    elements
        .iter()
        .map(|(_, attributes)| attributes)
        .filter(|attributes| attributes.get("class").is_some_and(|it| **it == *class))
        .collect()
}

fn number(attributes: &Attributes, name: &str) -> f64 {
    attributes.get(name).map_or(0.0, |value| value.parse().unwrap())
}

fn several() -> Vec<Migration> {
    let waiting = Phases { announced_at: None, taken_at: None, routed_at: None, kind: None, ..phases() };
    let slow = Phases { ended_at: Some(BEGAN + Duration::from_secs(900)), ..phases() };
    let under_way = Phases {
        targeted_at: Some(BEGAN),
        armed_at: Some(BEGAN + Duration::from_millis(2)),
        ..Phases::default()
    };
    vec![
        migration("u1", phases()),
        migration("u2", waiting),
        migration("u3", slow),
        running("u4", under_way, Duration::from_secs(2)),
    ]
}

#[test]
fn a_lane_for_each_migration_and_a_bar_for_each_phase() {
    let migrations = several();
    let (elements, texts) = parse(&draw(&migrations, "compute2"));
    assert_eq!(with_class(&elements, "lane").len(), 4);
    assert_eq!(with_class(&elements, "panel").len(), 4);
    let bars: BTreeMap<_, usize> =
        with_class(&elements, "phase").iter().fold(BTreeMap::new(), |mut bars, attributes| {
            *bars.entry(attributes["fill"].to_string()).or_default() += 1;
            bars
        });
    let expected = SegmentKind::ALL.map(|kind| {
        let is_it = |segment: &Segment| segment.kind == kind;
        (kind.colour().to_owned(), migrations.iter().flat_map(segments).filter(is_it).count())
    });
    assert_eq!(bars, BTreeMap::from(expected));
    for part in
        ["Live migrations to compute2", "waking the fast path: 14.0 µs", "2.00 s …", "43.0 µs", "15 min"]
    {
        assert!(texts.iter().any(|text| text == part), "no {part} in {texts:?}");
    }
    for kind in SegmentKind::ALL {
        assert!(texts.iter().any(|text| text == kind.label()), "{kind:?} is not in the legend");
    }
}

#[test]
fn everything_is_inside_and_nothing_comes_from_elsewhere() {
    let picture = draw(&several(), "compute2");
    let (elements, _) = parse(&picture);
    let (width, height) = (number(&elements[0].1, "width"), number(&elements[0].1, "height"));
    for (name, attributes) in &elements {
        let right = number(attributes, "x") + number(attributes, "width");
        let bottom = number(attributes, "y") + number(attributes, "height");
        assert!((0.0..=width).contains(&right), "{name} {attributes:?}");
        assert!((0.0..=height).contains(&bottom), "{name} {attributes:?}");
    }
    for bar in with_class(&elements, "phase") {
        assert!(number(bar, "width") >= 0.75, "{bar:?}");
    }
    assert_eq!(picture.matches("http").count(), 1, "the namespace of SVG and no other address");
    for tag in ["<script", "<image", "<style", "<foreignObject", "href"] {
        assert!(!picture.contains(tag), "{tag}");
    }
    assert_eq!(elements[0].1["aria-labelledby"], "title description");
    assert!(picture.contains("u2, began 2024-02-29T12:34:56Z, arrived: "));
}

#[test]
fn bars_of_a_panel_have_one_scale() {
    let half =
        Phases { taken_at: None, routed_at: Some(BEGAN + Duration::from_nanos(4_006_021_500)), ..phases() };
    let (elements, _) = parse(&draw(&[migration("u1", phases()), migration("u2", half)], "h"));
    let widths: Vec<_> = with_class(&elements, "phase")
        .iter()
        .filter(|bar| {
            [SegmentKind::Taking, SegmentKind::Routing].map(SegmentKind::colour).contains(&&*bar["fill"])
        })
        .map(|bar| number(bar, "width"))
        .collect();
    let [taking, routing, half] = widths[..] else { panic!("{widths:?}") };
    assert!((taking + routing - 2.0 * half).abs() < 0.05, "{widths:?}");
    assert!((taking / routing - 14.0 / 29.0).abs() < 0.01, "{widths:?}");
}

#[test]
fn a_lane_is_named_after_what_tells_machines_apart() {
    let name = |endpoint: &str| {
        let mut one = migration("u1", phases());
        one.endpoint = endpoint.to_owned();
        lane_name(&one)
    };
    assert_eq!(name("compute--2-openstack-vm1-port1"), "vm1 port1");
    let port = "5b1c9a52-7f0e-4a51-9d7b-0f3c1c7f6f10";
    let escaped = port.replace('-', "--");
    assert_eq!(name(&format!("h-openstack-{escaped}-{escaped}")), port);
    assert_eq!(name("not an endpoint"), "not an endpoint");
}

#[test]
fn no_migrations_are_a_picture_too() {
    let (elements, texts) = parse(&draw(&[], "compute2"));
    assert!(with_class(&elements, "lane").is_empty());
    assert!(texts.iter().any(|text| text == "No migrations are known."));
}

#[test]
fn names_cannot_break_the_picture() {
    let mut odd = migration("<&\"'>\u{1}]]>", phases());
    odd.endpoint = "e".repeat(300);
    let picture = draw(&[odd], "a<b");
    let (_, texts) = parse(&picture);
    assert!(texts.iter().any(|text| text.contains("a&lt;b")), "{texts:?}");
    assert!(!picture.contains('\u{1}'));
    let beside_the_lane = format!("{}…", "e".repeat(NAME_CHARACTERS - 1));
    assert!(texts.contains(&beside_the_lane), "{texts:?}");
}
