//! What is told of interfaces, and that a read with what came beside it is as if nothing had come.

use super::*;
use crate::felix::backend::Direction;
use proptest::prelude::*;

const PLACES: [Place; 2] = [
    Place { family: Family::Ipv4, backend: Backend::Nftables },
    Place { family: Family::Ipv6, backend: Backend::Iptables },
];
const TAPS: [&str; 3] = ["tap1", "tap2", "tap3"];

fn told(mirror: &mut Mirror) -> BTreeMap<String, Chains> {
    mirror.take_changes([].into_iter()).into_iter().filter(|(_, chains)| !chains.is_empty()).collect()
}

fn chain_of(place: Place, direction: Direction, tap: &str) -> String {
    let prefix = if place.backend == Backend::Nftables { "filter-" } else { "" };
    let word = if direction == Direction::To { "tw" } else { "fw" };
    format!("{prefix}cali-{word}-{tap}")
}

#[test]
fn a_branch_that_the_root_leaves_matters_to_all_below() {
    let (place, mut mirror) = (PLACES[1], Mirror::default());
    let rule = |chain: &str, handle, target: &str| Event::Rule {
        place,
        chain: chain.into(),
        handle,
        target: Some(target.into()),
    };
    for (direction, root) in
        [(Direction::To, "cali-to-wl-dispatch"), (Direction::From, "cali-from-wl-dispatch")]
    {
        let chain = chain_of(place, direction, "tap1");
        mirror.take(Event::Chain { place, name: chain.clone(), exists: true });
        mirror.take(rule(&format!("{root}-1"), 1, &chain));
        mirror.take(rule(root, 2, &format!("{root}-1")));
    }
    let known = ["tap1".to_owned()];
    assert_eq!(told(&mut mirror)["tap1"].ipv6, Pieces::ALL);
    mirror.take(Event::RuleGone { place, chain: "cali-to-wl-dispatch".into(), handle: 2 });
    let changes = mirror.take_changes(known.iter());
    assert_eq!(changes.len(), 1, "{changes:?}");
    assert!(!changes[0].1.ipv6.is_empty() && changes[0].1.ipv6 != Pieces::ALL);
    mirror.take(Event::Table { place, exists: false });
    assert_eq!(mirror.take_changes(known.iter()), [("tap1".to_owned(), Chains::default())]);
    assert!(mirror.backends().is_empty());
}

fn event() -> impl Strategy<Value = Event> {
    let place = prop::sample::select(PLACES.to_vec());
    let direction = prop_oneof![Just(Direction::To), Just(Direction::From)];
    let tap = prop::sample::select(TAPS.to_vec());
    (place, direction, tap, 0..6_u8, 1..4_u64).prop_map(|(place, direction, tap, kind, handle)| {
        let (name, interface) = (chain_of(place, direction, tap), tap.to_owned());
        let root = if direction == Direction::To { "cali-to-wl-dispatch" } else { "cali-from-wl-dispatch" };
        match (kind, place.backend) {
            (0 | 1, _) => Event::Chain { place, name, exists: kind == 0 },
            (2 | 3, Backend::Nftables) => Event::Element { place, direction, interface, target: Some(name) },
            (4, Backend::Nftables) => Event::ElementGone { place, direction, interface },
            (_, Backend::Nftables) => Event::Map { place, direction, exists: false },
            (2 | 3, _) => Event::Rule { place, chain: root.into(), handle, target: Some(name) },
            (4, _) => Event::RuleGone { place, chain: root.into(), handle },
            _ => Event::Table { place, exists: false },
        }
    })
}

proptest! {
    /// A read may have any beginning of what was told meanwhile: everything is told again on top of it.
    #[test]
    fn what_came_beside_a_read_may_be_taken_twice(
        before in prop::collection::vec(event(), 0..30),
        meanwhile in prop::collection::vec(event(), 0..30),
        seen in any::<prop::sample::Index>(),
    ) {
        let mut plain = Mirror::default();
        before.iter().chain(&meanwhile).cloned().for_each(|event| plain.take(event));
        let mut read = Mirror::default();
        let had = seen.index(meanwhile.len() + 1);
        before.iter().chain(&meanwhile[..had]).cloned().for_each(|event| read.take(event));
        meanwhile.iter().cloned().for_each(|event| read.take(event));
        prop_assert_eq!(&read.filters, &plain.filters);
    }

    /// What is told step by step is what is told at once.
    #[test]
    fn changes_add_up(events in prop::collection::vec(event(), 0..40)) {
        let (mut stepwise, mut known) = (Mirror::default(), BTreeMap::new());
        for event in &events {
            stepwise.take(event.clone());
            let names: Vec<String> = known.keys().cloned().collect();
            for (tap, chains) in stepwise.take_changes(names.iter()) {
                if chains.is_empty() { known.remove(&tap); } else { known.insert(tap, chains); }
            }
        }
        let mut whole = Mirror::default();
        events.into_iter().for_each(|event| whole.take(event));
        prop_assert_eq!(known, told(&mut whole));
    }
}
