//! Every scenario in every order in which a datastore without order between keys can deliver it.
//!
//! A scenario is a list of phases with pauses between them. Within a phase what concerns one key keeps its order,
//! and everything else is permuted; what is wanted in the end has to be the same, and on the way the virtual
//! machine never is without a route ([`Fleet`] checks that).

use super::fleet::{Announcements, Fleet, tap};
use super::host::*;
use crate::fact::Fact;
use crate::model::{LiveMigration, MigrationSource, MigrationTarget};
use Announcements::{Lost, Seen};
use Step::{Runs, Stops, Tell};

const PORT: &str = "1";

#[derive(Clone, Debug)]
#[expect(clippy::large_enum_variant, reason = "a handful of steps, and most of them are facts")]
enum Step {
    Tell(Fact),
    Runs(&'static str),
    Stops,
}

fn created(host: &str) -> Step {
    Tell(Fact::EndpointWritten(named_port(host, PORT), endpoint_on(&tap(PORT))))
}

/// Written again with the same value.
fn again(host: &str) -> Step {
    created(host)
}

fn gone(host: &str) -> Step {
    Tell(Fact::EndpointRemoved(named_port(host, PORT)))
}

fn begins(uid: &str, from: &str, to: &str) -> Step {
    let migration = LiveMigration {
        uid: uid.into(),
        source: Some(MigrationSource::Endpoint(named_port(from, PORT))),
        target: Some(MigrationTarget::Endpoint(named_port(to, PORT))),
    };
    Tell(Fact::MigrationWritten(named_port(to, PORT).to_string(), migration))
}

fn ends(to: &str) -> Step {
    Tell(Fact::MigrationRemoved(named_port(to, PORT).to_string()))
}

/// What a driver writes, twice, when a migration is announced.
fn start(uid: &str, from: &str, to: &str) -> Vec<Step> {
    vec![begins(uid, from, to), again(from), created(to), begins(uid, from, to), again(from), again(to)]
}

fn legacy_success(from: &str, to: &str) -> Vec<Step> {
    vec![ends(to), gone(from), gone(to), created(to)]
}

fn extended_success(from: &str, to: &str) -> Vec<Step> {
    vec![ends(to), gone(from), again(to)]
}

fn rollback(from: &str, to: &str) -> Vec<Step> {
    vec![ends(to), gone(from), gone(to), created(from)]
}

/// Only steps of one key keep their order.
fn key(step: &Step) -> String {
    match step {
        Tell(Fact::EndpointWritten(key, _) | Fact::EndpointRemoved(key)) => format!("endpoint {key}"),
        Tell(Fact::MigrationWritten(name, _) | Fact::MigrationRemoved(name)) => format!("migration {name}"),
        Tell(other) => panic!("not of the datastore: {other:?}"),
        Runs(_) | Stops => "virtual machine".into(),
    }
}

fn permutations(steps: &[Step]) -> Vec<Vec<Step>> {
    if steps.is_empty() {
        return vec![Vec::new()];
    }
    let mut all = Vec::new();
    for (position, first) in steps.iter().enumerate() {
        if steps[..position].iter().any(|before| key(before) == key(first)) {
            continue;
        }
        let mut rest = steps.to_vec();
        rest.remove(position);
        for mut permutation in permutations(&rest) {
            permutation.insert(0, first.clone());
            all.push(permutation);
        }
    }
    all
}

/// No driver says that a migration has succeeded before it has: our endpoint written when migration and source are gone.
fn is_possible(steps: &[Step]) -> bool {
    let told = |step: &Step, wanted: &dyn Fn(&Fact) -> bool| matches!(step, Tell(fact) if wanted(fact));
    steps.iter().enumerate().all(|(position, step)| {
        let Tell(Fact::EndpointWritten(to, _)) = step else { return true };
        let (before, after) = steps.split_at(position);
        let over = |fact: &Fact| matches!(fact, Fact::MigrationRemoved(name) if *name == to.to_string());
        let left = |fact: &Fact| matches!(fact, Fact::EndpointRemoved(from) if from.host != to.host);
        let is_decided =
            before.iter().any(|step| told(step, &over)) && before.iter().any(|step| told(step, &left));
        !is_decided || !after.iter().any(|step| matches!(step, Runs(host) if *host == to.host))
    })
}

/// The virtual machine runs on host a, which has been so for long.
fn fleet(announcements: Announcements) -> Fleet {
    let mut fleet = Fleet::new(&["a", "b", "c"], &[PORT], announcements);
    play(&mut fleet, &[created("a"), Runs("a")]);
    fleet.pass(ms(5_000));
    fleet
}

fn play(fleet: &mut Fleet, steps: &[Step]) {
    for step in steps {
        match step {
            Tell(fact) => fleet.tell(fact),
            Runs(host) => fleet.move_to(host, PORT),
            Stops => fleet.stop(PORT),
        }
        fleet.pass(ms(100));
    }
}

/// Plays the phases, each in every order while the others keep the order in which they are given. Returns where
/// the routes are in the end.
fn in_all_orders(announcements: Announcements, phases: &[Vec<Step>]) -> Vec<(&'static str, u32)> {
    let mut before = fleet(announcements);
    let mut outcome = None;
    for (position, phase) in phases.iter().enumerate() {
        for permutation in permutations(phase).into_iter().filter(|steps| is_possible(steps)) {
            let mut fleet = before.clone();
            play(&mut fleet, &permutation);
            fleet.pass(ms(3_000));
            for later in &phases[position + 1..] {
                play(&mut fleet, later);
                fleet.pass(ms(3_000));
            }
            fleet.pass(ms(60_000));
            let end = fleet.picture();
            assert_eq!(
                *outcome.get_or_insert_with(|| end.clone()),
                end,
                "{announcements:?} {permutation:#?}"
            );
        }
        play(&mut before, phase);
        before.pass(ms(3_000));
    }
    before.pass(ms(60_000));
    let routes = before.routes(PORT);
    let name = |host: &str| ["a", "b", "c"].into_iter().find(|name| *name == host).expect("known");
    routes.into_iter().map(|(host, metric)| (name(host), metric)).collect()
}

#[test]
fn permutations_keep_the_order_of_each_key() {
    assert_eq!(permutations(&start("u1", "a", "b")).len(), 90);
    assert_eq!(permutations(&legacy_success("a", "b")).len(), 12);
    for permutation in permutations(&legacy_success("a", "b")) {
        let of_target: Vec<_> = permutation.iter().filter(|step| key(step) == key(&gone("b"))).collect();
        assert!(matches!(of_target[..], [Tell(Fact::EndpointRemoved(_)), Tell(Fact::EndpointWritten(..))]));
    }
}

#[test]
fn a1_mainline_with_announcement() {
    let phases = [vec![begins("u1", "a", "b"), created("b")], vec![Runs("b"), gone("a"), ends("b")]];
    assert_eq!(in_all_orders(Seen, &phases), [("b", NORMAL)]);
}

#[test]
fn a2_missed_announcement() {
    let phases = [vec![begins("u1", "a", "b"), created("b")], vec![Runs("b")], vec![gone("a"), ends("b")]];
    assert_eq!(in_all_orders(Lost, &phases), [("b", NORMAL)]);
}

#[test]
fn a3_failure() {
    let phases = [vec![begins("u1", "a", "b"), created("b")], vec![gone("b"), ends("b")]];
    assert_eq!(in_all_orders(Seen, &phases), [("a", NORMAL)]);
}

#[test]
fn a4_immediate_migration_back() {
    let phases = [
        vec![begins("u1", "a", "b"), created("b")],
        vec![Runs("b")],
        vec![begins("u2", "b", "a"), ends("b")],
        vec![Runs("a")],
        vec![gone("b"), ends("a")],
    ];
    assert_eq!(in_all_orders(Seen, &phases), [("a", NORMAL)]);
}

#[test]
fn a5_endpoint_before_migration() {
    let mut fleet = fleet(Seen);
    play(&mut fleet, &[created("b")]);
    assert_eq!(fleet.routes(PORT), [("a", NORMAL), ("b", NORMAL)]);
    play(&mut fleet, &[begins("u1", "a", "b")]);
    assert_eq!(fleet.routes(PORT), [("a", NORMAL)]);
}

#[test]
fn start_only() {
    assert_eq!(in_all_orders(Seen, &[start("u1", "a", "b")]), [("a", NORMAL)]);
}

#[test]
fn legacy_success_announced_before_or_while_it_ends() {
    let before = [start("u1", "a", "b"), vec![Runs("b")], legacy_success("a", "b")];
    assert_eq!(in_all_orders(Seen, &before), [("b", NORMAL)]);
    let mut end = vec![Runs("b")];
    end.extend(legacy_success("a", "b"));
    assert_eq!(in_all_orders(Seen, &[start("u1", "a", "b"), end]), [("b", NORMAL)]);
}

#[test]
fn extended_success_announced_before_or_while_it_ends() {
    let before = [start("u1", "a", "b"), vec![Runs("b")], extended_success("a", "b")];
    assert_eq!(in_all_orders(Seen, &before), [("b", NORMAL)]);
    let mut end = vec![Runs("b")];
    end.extend(extended_success("a", "b"));
    assert_eq!(in_all_orders(Seen, &[start("u1", "a", "b"), end]), [("b", NORMAL)]);
}

#[test]
fn successes_that_nobody_heard_of() {
    for end in [legacy_success("a", "b"), extended_success("a", "b")] {
        assert_eq!(in_all_orders(Lost, &[start("u1", "a", "b"), vec![Runs("b")], end]), [("b", NORMAL)]);
    }
}

/// The same writes end a migration on both paths of the driver.
#[test]
fn rollback_of_both_paths() {
    assert_eq!(in_all_orders(Seen, &[start("u1", "a", "b"), rollback("a", "b")]), [("a", NORMAL)]);
}

#[test]
fn rollback_and_another_attempt() {
    let second = [start("u2", "a", "b"), vec![Runs("b")], legacy_success("a", "b")];
    let phases = [vec![start("u1", "a", "b"), rollback("a", "b")], second.to_vec()].concat();
    assert_eq!(in_all_orders(Seen, &phases), [("b", NORMAL)]);
}

#[test]
fn rollback_that_only_rewrites_the_source() {
    let phases = [start("u1", "a", "b"), vec![ends("b"), again("a"), gone("b")]];
    assert_eq!(in_all_orders(Seen, &phases), [("a", NORMAL)]);
}

#[test]
fn target_switched() {
    let switch = vec![ends("b"), begins("u2", "a", "c"), again("a"), gone("b"), created("c")];
    let phases = [start("u1", "a", "b"), switch, vec![Runs("c")], legacy_success("a", "c")];
    assert_eq!(in_all_orders(Seen, &phases), [("c", NORMAL)]);
}

#[test]
fn port_deleted() {
    let phases = [start("u1", "a", "b"), vec![Stops, ends("b"), gone("b"), gone("a")]];
    assert_eq!(in_all_orders(Seen, &phases), []);
}

#[test]
fn there_and_back() {
    let phases = [
        start("u1", "a", "b"),
        vec![Runs("b")],
        legacy_success("a", "b"),
        start("u2", "b", "a"),
        vec![Runs("a")],
        legacy_success("b", "a"),
    ];
    assert_eq!(in_all_orders(Seen, &phases), [("a", NORMAL)]);
}

/// The way back begins before the convergence time is over and mixes with the end of the way there.
#[test]
fn there_and_back_fast() {
    let mut mixed = legacy_success("a", "b");
    mixed.extend([begins("u2", "b", "a"), again("b"), created("a")]);
    for announcements in [Seen, Lost] {
        let phases = [
            start("u1", "a", "b"),
            vec![Runs("b")],
            mixed.clone(),
            vec![Runs("a")],
            legacy_success("b", "a"),
        ];
        assert_eq!(in_all_orders(announcements, &phases), [("a", NORMAL)]);
    }
}

/// Recorded: `migrating_to` names the host where the virtual machine runs.
#[test]
fn migration_to_itself() {
    let itself = vec![begins("u1", "a", "a"), again("a"), begins("u1", "a", "a"), again("a")];
    let phases = [itself, vec![ends("a"), gone("a"), created("a")]];
    assert_eq!(in_all_orders(Seen, &phases), [("a", NORMAL)]);
}
