use super::*;
use cutover_engine::wanted::Tunnel;
use proptest::prelude::*;

const NUMBERS: Numbers = Numbers { table: 7179, protocol: 3 };
const DEVICE: u32 = 9;

fn endpoint(number: u8) -> Arc<EndpointKey> {
    let [host, orchestrator, workload] = ["host", "openstack", "openstack/vm"].map(str::to_owned);
    Arc::new(EndpointKey { host, orchestrator, workload, endpoint: format!("port{number}") })
}

/// An address of few, of either family.
fn prefix(number: u8) -> IpNet {
    let text = if number.is_multiple_of(2) {
        format!("10.65.0.{number}/32")
    } else {
        format!("2001:db8::{number}/128")
    };
    text.parse().unwrap()
}

fn tunnel(number: u8) -> Tunnel {
    Tunnel { id: u32::from(number), peer: IpAddr::from([192, 0, 2, number]) }
}

fn any_prefixes() -> impl Strategy<Value = BTreeSet<IpNet>> {
    proptest::collection::btree_set((0..6_u8).prop_map(prefix), 0..4)
}

fn any_target() -> impl Strategy<Value = Target> {
    let forward = (0..4_u8, any_prefixes(), any::<bool>()).prop_map(|(id, prefixes, is_active)| {
        WantedForward { tunnel: tunnel(id), prefixes, is_active, awaits_word: false, awaits_stop: false }
    });
    let reception =
        (0..4_u8, any_prefixes(), 20..23_u32).prop_map(|(id, prefixes, ifindex)| WantedReception {
            tunnel: tunnel(id),
            interface: format!("tap{ifindex}"),
            ifindex,
            outlet: ifindex,
            prefixes,
        });
    let forwards = proptest::collection::vec(forward, 0..4);
    let receptions = proptest::collection::vec(reception, 0..4);
    (forwards, receptions).prop_map(|(forwards, receptions)| {
        let forwards = (0..).map(endpoint).zip(forwards).collect();
        let receptions = (0..).map(endpoint).zip(receptions).collect();
        Target::of(&forwards, &receptions, None)
    })
}

fn policy_of(target: &Target) -> Policy {
    target.policy(Some(DEVICE), &BTreeMap::new(), NUMBERS)
}

/// What the kernel would make of changes.
fn carry_out(mut there: Policy, changes: &[PolicyChange]) -> Vec<Policy> {
    let step = |change| {
        there.confirmed(change);
        there.clone()
    };
    changes.iter().map(step).collect()
}

proptest! {
    #[test]
    fn whatever_was_there_what_is_wanted_is_there_in_the_end(before in any_target(), wanted in any_target()) {
        let (there, full) = (policy_of(&before), policy_of(&wanted));
        let changes = changes(&there, &full, &full, false, NUMBERS);
        let after = carry_out(there.clone(), &changes).pop().unwrap_or(there);
        prop_assert_eq!(&after, &full);
        prop_assert!(super::changes(&after, &full, &full, false, NUMBERS).is_empty(), "nothing is written twice");
    }

    #[test]
    fn at_no_moment_a_tap_is_without_what_is_behind_it(
        before in any_target(),
        wanted in any_target(),
    ) {
        let (there, full) = (policy_of(&before), policy_of(&wanted));
        let changes = changes(&there, &full, &full, false, NUMBERS);
        for policy in carry_out(there.clone(), &changes) {
            let has = |way: Way, of: &SideRoute| {
                policy.routes.iter().any(|it| it.table == of.table && it.destination == of.destination && it.way == way)
            };
            for route in policy.routes.iter().filter(|route| route.table == NUMBERS.reception_table()) {
                prop_assert!(has(Way::Nowhere, route), "{:?} in {:?}", route, policy);
            }
        }
        // What is to stop does so first.
        let stops = |change: &PolicyChange| matches!(change, PolicyChange::RemoveRoute(route) if route.table == 7179);
        let last = changes.iter().rposition(stops).map_or(0, |last| last + 1);
        prop_assert!(changes[..last].iter().all(stops));
        // A rule for everything is there where something is or may be forwarded.
        for family in [Family::Ipv4, Family::Ipv6] {
            let may_be = wanted.entries.forwards.keys().any(|prefix| Family::of(&prefix.addr()) == family);
            prop_assert_eq!(full.rules.contains(&NUMBERS.forward_rule(family)), may_be);
        }
    }

    #[test]
    fn while_more_may_come_out_of_the_tunnel_nothing_goes_that_keeps_it(before in any_target(), wanted in any_target()) {
        let (there, full) = (policy_of(&before), policy_of(&wanted));
        let changes = changes(&there, &full, &full, true, NUMBERS);
        let after = carry_out(there.clone(), &changes).pop().unwrap_or_else(|| there.clone());
        let table = NUMBERS.reception_table();
        for route in there.routes.iter().filter(|route| route.table == table) {
            prop_assert!(after.routes.iter().any(|it| is_same_place(it, route)), "{:?}", route);
        }
        prop_assert!(after.rules.is_superset(&there.rules.iter().filter(|rule| rule.table == table).copied().collect()));
    }

    #[test]
    fn nothing_is_forwarded_for_which_the_maps_are_not_ready(before in any_target(), wanted in any_target()) {
        let prepared = wanted.prepared(&before.entries);
        for prefix in &wanted.active {
            let is_ready = before.entries.forwards.get(prefix) == wanted.entries.forwards.get(prefix);
            prop_assert_eq!(prepared.active.contains(prefix), is_ready);
        }
        prop_assert!(policy_of(&wanted).routes.is_superset(&policy_of(&prepared).routes));
    }
}

#[test]
fn of_two_that_claim_a_prefix_the_active_one_has_it() {
    let forward = |id, is_active| WantedForward {
        tunnel: tunnel(id),
        prefixes: [prefix(2)].into(),
        is_active,
        awaits_word: false,
        awaits_stop: false,
    };
    let target = |first, second| {
        let forwards = [(endpoint(1), forward(1, first)), (endpoint(2), forward(2, second))].into();
        let target = Target::of(&forwards, &Receptions::default(), None);
        (target.entries.forwards[&prefix(2)].tunnel_id, !target.active.is_empty())
    };
    assert_eq!(target(false, false), (1, false));
    assert_eq!(target(false, true), (2, true));
    assert_eq!(target(true, true), (1, true));
}

#[test]
fn the_own_end_is_said_to_a_peer_of_its_family_only() {
    let forward = WantedForward {
        tunnel: tunnel(1),
        prefixes: [prefix(2)].into(),
        is_active: true,
        awaits_word: false,
        awaits_stop: false,
    };
    let local = |own: &str| {
        let forwards = [(endpoint(1), forward.clone())].into();
        let target = Target::of(&forwards, &Receptions::default(), Some(own.parse().unwrap()));
        target.entries.forwards[&prefix(2)].local
    };
    assert_eq!(local("192.0.2.9"), Address::ipv4([192, 0, 2, 9]));
    assert_eq!(local("2001:db8::9"), Address::NONE);
}

#[test]
fn nothing_wanted_is_nothing_there() {
    assert_eq!(policy_of(&Target::default()), Policy::default());
}
