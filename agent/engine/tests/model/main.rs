//! Model check: the real engines of two or three hosts, and everything that can happen around them, in every order up to a bound.
//!
//! A driver writes what was recorded of real ones, a virtual machine moves, hosts hear of it late, agents talk, are killed and started again,
//! lose the datastore or each other. The search ([`search`]) visits every situation that can be reached within the bounds ([`Bounds`]) once and
//! asks whether something is wrong there ([`invariants`]). docs/reliability.md says what is checked, what is not, and with which figures.
//!
//! `cargo test -p cutover-engine --test model -- --nocapture` shows bounds and numbers. Other bounds: `CUTOVER_MODEL_FAULTS`,
//! `CUTOVER_MODEL_LAG`, `CUTOVER_MODEL_MOST`; `CUTOVER_MODEL=deep` is the deep run.

mod channel;
mod datastore;
mod fingerprint;
mod host;
mod invariants;
mod kernel;
mod script;
mod search;
mod seed;
mod step;
mod world;

use script::{A, B, C, Script};
use search::{Found, search};
use seed::Seed;
use std::time::Instant;
use world::{Bounds, Scenario, World};

/// LIMIT: one more of each takes ten times as long.
const ORDERS: Bounds = Bounds { faults: 0, lag: 1, is_fine: false, most: 1_000_000 };
const LATE: Bounds = Bounds { lag: 2, ..ORDERS };
const FAULTS: Bounds = Bounds { faults: 1, ..ORDERS };
/// LIMIT: memory; a situation is some kilobytes while it waits to be looked at.
const DEEP: Bounds = Bounds { faults: 1, lag: 2, is_fine: true, most: 2_000_000 };

fn number(name: &str) -> Option<usize> {
    let text = std::env::var(name).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{name} is {text:?}, which is no number")))
}

/// The bounds of a test, unless whoever runs it wants others.
fn bounds(usual: Bounds) -> Bounds {
    let is_deep = std::env::var_os("CUTOVER_MODEL").is_some_and(|value| value == "deep");
    let usual = if is_deep { DEEP } else { usual };
    Bounds {
        faults: number("CUTOVER_MODEL_FAULTS").unwrap_or(usual.faults),
        lag: number("CUTOVER_MODEL_LAG").unwrap_or(usual.lag),
        most: number("CUTOVER_MODEL_MOST").unwrap_or(usual.most),
        is_fine: usual.is_fine,
    }
}

fn scenario(name: &'static str, script: Script) -> Scenario {
    Scenario { name, hosts: 2, script, hears_libvirt: true, bounds: ORDERS, prelude: 0, seed: None }
}

#[expect(clippy::print_stderr, reason = "how much was looked at is the result")]
fn explore(scenario: Scenario) -> Found {
    let (name, bounds, start) = (scenario.name, scenario.bounds, Instant::now());
    let found = search(&World::new(scenario), bounds.most);
    eprintln!(
        "{name}: {bounds:?}: {} situations, {} steps, {} at rest, {} steps deep{}, {:.1} s",
        found.situations,
        found.steps,
        found.at_rest,
        found.depth,
        if found.is_cut_short { ", cut short" } else { "" },
        start.elapsed().as_secs_f64(),
    );
    found
}

/// Explores everything up to the bounds, and nothing is wrong anywhere.
fn check(usual: Bounds, scenario: Scenario) {
    let bounds = bounds(usual);
    let found = explore(Scenario { bounds, ..scenario });
    if let Some(way) = found.counterexample {
        panic!("{way}");
    }
    assert!(found.at_rest > 0 || found.is_cut_short, "nothing comes to rest");
}

fn success() -> Script {
    Script::new().begins("u1", A, B).moves_to(B, 1).succeeds(A, B)
}

/// The writes with which a migration begins. What can go wrong until then is in [`cancelled_with_faults`].
const BEGUN: usize = 3;
/// The writes of a first migration that is over in the datastore, and not yet for the routers.
const ONE: usize = 7;

fn cancelled() -> Script {
    Script::new().begins("u1", A, B).rolled_back(A, B)
}

fn back_again() -> Script {
    success().tap_comes(A).begins("u2", B, A).moves_to(A, 1).succeeds(B, A)
}

#[test]
fn success_in_every_order() {
    check(LATE, scenario("success", success()));
}

#[test]
fn success_with_faults() {
    check(FAULTS, Scenario { prelude: BEGUN, ..scenario("success, faults", success()) });
}

#[test]
fn success_without_a_gap() {
    let script = Script::new().begins("u1", A, B).moves_to(B, 1).succeeds_without_a_gap(A, B);
    check(ORDERS, scenario("success without a gap", script));
}

#[test]
fn success_without_an_announcement() {
    let script = Script::new().begins("u1", A, B).moves_to(B, 0).succeeds(A, B);
    check(ORDERS, scenario("success without an announcement", script));
}

#[test]
fn cancelled_with_faults() {
    check(FAULTS, scenario("cancelled, faults", cancelled()));
}

#[test]
fn stopped_in_vain() {
    let script = Script::new().begins("u1", A, B).stops_in_vain(A).rolled_back(A, B);
    check(ORDERS, scenario("stopped in vain", script));
}

/// The hypervisor fails when the virtual machine has announced itself on the target, and goes on where it was.
#[test]
fn failed_behind_the_announcement() {
    for hears_libvirt in [true, false] {
        let script = Script::new().begins("u1", A, B).moves_to(B, 1).stops_in_vain(A).rolled_back(A, B);
        let name = "failed behind the announcement";
        check(ORDERS, Scenario { hears_libvirt, ..scenario(name, script) });
    }
}

#[test]
fn tried_again() {
    let script = cancelled().tap_comes(B).begins("u2", A, B).moves_to(B, 1).succeeds(A, B);
    check(ORDERS, scenario("tried again", script));
}

/// The driver writes another migration in place of the one before.
#[test]
fn replaced() {
    let script = Script::new().begins("u1", A, B).replaced_by("u2", A, B).moves_to(B, 1).succeeds(A, B);
    check(ORDERS, scenario("replaced", script));
}

#[test]
fn back_again_at_once() {
    check(ORDERS, Scenario { prelude: ONE, ..scenario("back again", back_again()) });
}

#[test]
fn on_to_a_third_host() {
    let script = success().begins("u2", B, C).moves_to(C, 1).succeeds(B, C);
    check(ORDERS, Scenario { hosts: 3, prelude: ONE, ..scenario("on to a third host", script) });
}

/// What is wrong on purpose is found, in no more steps than it takes.
fn found_wrong(seed: Seed, script: Script, expected: &str) {
    let found = explore(Scenario { seed: Some(seed), ..scenario("wrong on purpose", script) });
    let way = found.counterexample.unwrap_or_else(|| panic!("{seed:?} is not found"));
    assert!(way.contains(expected), "{seed:?} is found as something else: {way}");
}

#[test]
fn an_end_that_counts_as_success_is_found() {
    found_wrong(
        Seed::EndIsSuccess,
        cancelled(),
        "b: it is elevated and the virtual machine has not been here",
    );
}

#[test]
fn forwarding_before_the_virtual_machine_has_gone_is_found() {
    found_wrong(Seed::ForwardsTooEarly, success(), "a: what is for the virtual machine here is forwarded");
}

#[test]
fn an_endpoint_that_is_not_held_is_found() {
    found_wrong(Seed::NothingIsHeld, success(), "b: the virtual machine runs here and has no route");
}
