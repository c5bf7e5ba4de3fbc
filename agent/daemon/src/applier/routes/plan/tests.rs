//! Examples and properties of the plan.

use super::*;
use proptest::prelude::*;
use std::net::IpAddr;

const TAP: u32 = 7;

fn route(destination: &str, metric: u32) -> WantedRoute {
    WantedRoute { destination: destination.parse().unwrap(), ifindex: TAP, metric, protocol: 3, source: None }
}

fn wanting(routes: impl IntoIterator<Item = WantedRoute>) -> Wanted {
    Wanted { routes: routes.into_iter().collect(), known_interfaces: [TAP].into(), ..Wanted::default() }
}

fn observing(ours: impl IntoIterator<Item = WantedRoute>) -> ObservedRoutes {
    ObservedRoutes { ours: ours.into_iter().collect(), others: BTreeSet::new() }
}

fn target(wanted: &Wanted, observed: &ObservedRoutes) -> Target {
    let mut target = Target::default();
    update(&mut target, wanted, &Wanted::default(), observed);
    target
}

/// Of both families, one after the other.
fn update(
    target: &mut Target,
    wanted: &Wanted,
    before: &Wanted,
    observed: &ObservedRoutes,
) -> Option<BTreeSet<IpNet>> {
    let [ipv4, ipv6] = Family::BOTH.map(|family| target.update(family, wanted, before, observed));
    Some(ipv4?.into_iter().chain(ipv6?).collect())
}

fn plan(wanted: &Wanted, observed: &ObservedRoutes, tolerated: &BTreeSet<WantedRoute>) -> Plan {
    everything(&Target { tolerated: tolerated.clone(), ..target(wanted, observed) }, observed)
}

/// All destinations, one after the other.
fn everything(target: &Target, observed: &ObservedRoutes) -> Plan {
    let destinations: BTreeSet<IpNet> = target.destinations().chain(observed.destinations()).collect();
    let mut plan = Plan::default();
    for destination in destinations {
        target.compare(observed, destination, &mut plan);
    }
    plan
}

fn plain(wanted: &Wanted, observed: &ObservedRoutes) -> Plan {
    plan(wanted, observed, &BTreeSet::new())
}

#[test]
fn nothing_differs_nothing_is_written() {
    let routes = [route("10.65.0.2/32", 1024), route("2001:db8::2/128", 1024)];
    assert_eq!(plain(&wanting(routes), &observing(routes)), Plan::default());
}

/// W20: whoever wants metric 0 gets the kernel's default, and has it.
#[test]
fn the_default_metric_of_ipv6_does_not_differ_from_none() {
    let wanted = wanting([route("2001:db8::2/128", 0)]);
    assert!(plain(&wanted, &observing([route("2001:db8::2/128", 1024)])).is_empty());
}

#[test]
fn a_change_of_metric_adds_and_removes() {
    let (old, new) = (route("10.65.0.2/32", 1024), route("10.65.0.2/32", 512));
    let expected = Plan { add: vec![RouteChange::Add(new)], remove: vec![old] };
    assert_eq!(plain(&wanting([new]), &observing([old])), expected);
}

#[test]
fn a_change_of_protocol_or_source_replaces_in_place() {
    let old = route("10.65.0.2/32", 1024);
    for new in [
        WantedRoute { protocol: 80, ..old },
        WantedRoute { source: Some(IpAddr::from([192, 0, 2, 1])), ..old },
    ] {
        let expected = Plan { add: vec![RouteChange::Replace(new)], remove: vec![] };
        assert_eq!(plain(&wanting([new]), &observing([old])), expected);
        let strangers = ObservedRoutes { ours: BTreeSet::new(), others: BTreeSet::from([old]) };
        assert_eq!(plain(&wanting([new]), &strangers), expected, "made by an earlier agent");
    }
}

#[test]
fn leftovers_stay_until_they_may_go() {
    let leftover = WantedRoute { ifindex: 99, ..route("10.65.0.9/32", 1024) };
    let mut wanted = wanting([]);
    assert!(plain(&wanted, &observing([leftover])).is_empty());
    wanted.leftovers_may_go = true;
    assert_eq!(plain(&wanted, &observing([leftover])).remove, [leftover]);
}

#[test]
fn of_a_bridge_only_what_is_known_goes_before_the_leftovers() {
    let on_bridge = |to: &str| WantedRoute { ifindex: 99, ..route(to, 1024) };
    let [known, other] = ["10.65.0.2/32", "10.65.0.9/32"].map(on_bridge);
    let mut wanted = Wanted { known_on_bridges: [(99, known.destination)].into(), ..wanting([]) };
    let observed = observing([known, other]);
    assert_eq!(plain(&wanted, &observed).remove, [known]);
    // What becomes known later is looked at then.
    let mut target = target(&wanting([]), &observed);
    assert!(everything(&target, &observed).is_empty());
    let concerned = update(&mut target, &wanted, &wanting([]), &observed);
    assert_eq!(concerned, Some(BTreeSet::from([known.destination])));
    assert_eq!(everything(&target, &observed).remove, [known]);
    wanted.known_interfaces.insert(99);
    assert_eq!(plain(&wanted, &observed).remove, [known, other]);
}

#[test]
fn what_the_fast_path_may_have_installed_is_left_alone() {
    let elevated = route("10.65.0.2/32", 512);
    let tolerated = BTreeSet::from([elevated]);
    assert!(plan(&wanting([]), &observing([elevated]), &tolerated).is_empty());
}

/// A kernel that takes every change as the real one does (proven in the tests on a real kernel).
fn carry_out(plan: &Plan, observed: &ObservedRoutes) -> ObservedRoutes {
    let mut after = observed.clone();
    let removals = plan.remove.iter().map(|route| RouteChange::Remove(*route));
    for change in plan.add.iter().copied().chain(removals) {
        after.confirmed(&change);
    }
    after
}

fn few_routes() -> impl Strategy<Value = BTreeSet<WantedRoute>> {
    let destination = prop_oneof![
        (0..3_u8).prop_map(|last| IpNet::new(IpAddr::from([10, 65, 0, last]), 32).unwrap()),
        (0..3_u16)
            .prop_map(|last| IpNet::new(IpAddr::from([0x2001, 0xdb8, 0, 0, 0, 0, 0, last]), 128).unwrap()),
    ];
    let metric = prop_oneof![Just(512_u32), Just(1024)];
    let protocol = prop_oneof![Just(3_u8), Just(80)];
    let source = prop_oneof![Just(None), Just(Some(IpAddr::from([192, 0, 2, 1])))];
    let route = (destination, 1..4_u32, metric, protocol, source).prop_map(
        |(destination, ifindex, metric, protocol, source)| WantedRoute {
            destination,
            ifindex,
            metric,
            protocol,
            source,
        },
    );
    proptest::collection::btree_set(route, 0..12)
}

/// The engine never wants two routes of one destination, interface and metric.
fn one_for_each_place(routes: BTreeSet<WantedRoute>) -> BTreeSet<WantedRoute> {
    let mut kept: BTreeSet<WantedRoute> = BTreeSet::new();
    for route in routes {
        if !kept.iter().any(|other| same_place(other, &route)) {
            kept.insert(route);
        }
    }
    kept
}

fn few_wanted() -> impl Strategy<Value = Wanted> {
    let known = proptest::collection::btree_set(1..4_u32, 0..4);
    (few_routes(), known, any::<bool>()).prop_map(|(routes, known, leftovers_may_go)| Wanted {
        known_interfaces: known.into_iter().collect(),
        leftovers_may_go,
        ..wanting(one_for_each_place(routes))
    })
}

proptest! {
    #[test]
    fn carried_out_it_gives_what_is_wanted_and_then_nothing_differs(
        wanted in few_routes(),
        ours in few_routes(),
        others in few_routes(),
        known in proptest::collection::btree_set(1..4_u32, 0..4),
        leftovers_may_go: bool,
    ) {
        let wanted = Wanted {
            routes: one_for_each_place(wanted).into_iter().collect(),
            known_interfaces: known.iter().copied().collect(),
            leftovers_may_go,
            ..Wanted::default()
        };
        let others: BTreeSet<_> = others.difference(&ours).copied().collect();
        let observed = ObservedRoutes { ours, others };
        let plan = plain(&wanted, &observed);
        for route in &plan.remove {
            prop_assert!(observed.ours.contains(route), "removes only what is ours");
            prop_assert!(!wanted.routes.contains(route), "removes nothing that is wanted");
            prop_assert!(leftovers_may_go || known.contains(&route.ifindex));
        }
        for change in &plan.add {
            prop_assert!(!observed.has(change.route()), "writes nothing that is there");
        }
        let after = carry_out(&plan, &observed);
        // One that exists just as it is wanted may be known as somebody else's until the protocol is known.
        prop_assert!(wanted.routes.iter().all(|route| after.has(route)));
        prop_assert!(plan.add.iter().all(|change| after.ours.contains(change.route())));
        for route in after.ours.iter().filter(|route| !wanted.routes.contains(*route)) {
            prop_assert!(!leftovers_may_go && !known.contains(&route.ifindex), "{route:?} stays");
        }
        for route in observed.others.difference(&after.others) {
            prop_assert!(wanted.routes.iter().any(|new| same_place(new, route)), "only gives way in place");
        }
        prop_assert!(plain(&wanted, &after).is_empty());
        let target = target(&wanted, &after);
        prop_assert!(target.destinations().all(|destination| !target.is_incomplete(&after, destination)));
    }

    /// What is looked at after a change of what is wanted is everything that differs.
    #[test]
    fn brought_up_to_date_is_as_from_scratch(
        (before, now) in (few_wanted(), few_wanted()),
        ours in few_routes(),
    ) {
        let observed = observing(ours);
        let mut target = target(&before, &observed);
        let plan_before = everything(&target, &observed);
        let concerned = update(&mut target, &now, &before, &observed);
        let plan = everything(&target, &observed);
        prop_assert_eq!(&plan, &plain(&now, &observed));
        if let Some(concerned) = concerned {
            let unconcerned = |route: &WantedRoute| !concerned.contains(&route.destination);
            let rest = |plan: &Plan| {
                let add = plan.add.iter().filter(|change| unconcerned(change.route())).copied().collect();
                let remove = plan.remove.iter().filter(|route| unconcerned(route)).copied().collect();
                Plan { add, remove }
            };
            // What may not go any more is not looked at either: it is not removed before something else happens.
            if now.leftovers_may_go || !before.leftovers_may_go {
                prop_assert_eq!(rest(&plan), rest(&plan_before));
            }
        }
    }

    /// Make before break, step by step: whatever the order within the two halves, a destination that had a
    /// route and shall have one always has one.
    #[test]
    fn no_moment_without_a_route(wanted in few_routes(), ours in few_routes()) {
        let wanted = Wanted { leftovers_may_go: true, ..wanting(one_for_each_place(wanted)) };
        let observed = observing(ours);
        let plan = plain(&wanted, &observed);
        let has = |table: &ObservedRoutes, net: &IpNet| table.ours.iter().any(|r| r.destination == *net);
        let mut table = observed.clone();
        let removals = plan.remove.iter().map(|route| RouteChange::Remove(*route));
        for change in plan.add.iter().copied().chain(removals) {
            table.confirmed(&change);
            for net in wanted.routes.iter().map(|r| r.destination).filter(|net| has(&observed, net)) {
                prop_assert!(has(&table, &net), "{net} after {change:?}");
            }
        }
    }
}
