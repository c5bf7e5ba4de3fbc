//! The scenarios: A1 to A5 of Felix's own tests, what its driver's tests do, and what was recorded.

use super::orders::Step::{
    Begins, Ends, FarStatusGone, Gone, Moves, MovesSilently, Plugged, Stops, Unplugged, Written,
};
use super::orders::{Chain, HostNumber, Phase, Scenario, Step};
use super::stage::FAR;

const A: HostNumber = 0;
const B: HostNumber = 1;
const C: HostNumber = 2;

const fn begins(attempt: u8, from: HostNumber, to: HostNumber) -> Step {
    Begins { attempt, from, to }
}

/// What a driver writes, twice, when a migration is announced.
fn start(attempt: u8, from: HostNumber, to: HostNumber) -> Vec<Chain> {
    let migration = begins(attempt, from, to);
    vec![vec![migration, migration], vec![Written(from), Written(from)], vec![Written(to), Written(to)]]
}

/// The endpoint of the target is created anew.
fn legacy_success(from: HostNumber, to: HostNumber) -> Vec<Chain> {
    vec![vec![Ends(to)], vec![Gone(from)], vec![Gone(to), Written(to)]]
}

/// It is only rewritten.
fn extended_success(from: HostNumber, to: HostNumber) -> Vec<Chain> {
    vec![vec![Ends(to)], vec![Gone(from)], vec![Written(to)]]
}

fn rollback(from: HostNumber, to: HostNumber) -> Vec<Chain> {
    vec![vec![Ends(to)], vec![Gone(from), Written(from)], vec![Gone(to)]]
}

fn and(mut chains: Vec<Chain>, more: impl IntoIterator<Item = Chain>) -> Vec<Chain> {
    chains.extend(more);
    chains
}

/// In every order.
fn any(chains: Vec<Chain>) -> Phase {
    Phase { chains, is_shuffled: true }
}

/// In this order only, because another scenario has the others.
fn just(chains: Vec<Chain>) -> Phase {
    Phase { chains, is_shuffled: false }
}

fn plugged(host: HostNumber) -> Phase {
    just(vec![vec![Plugged(host)]])
}

fn unplugged(host: HostNumber) -> Phase {
    just(vec![vec![Unplugged(host)]])
}

fn moves(to: HostNumber) -> Phase {
    just(vec![vec![Moves(to)]])
}

fn moves_silently(to: HostNumber) -> Phase {
    just(vec![vec![MovesSilently(to)]])
}

fn scenario(name: &'static str, phases: impl IntoIterator<Item = Phase>) -> Scenario {
    Scenario { name, home: A, phases: phases.into_iter().collect() }
}

/// Every scenario.
pub(crate) fn all() -> Vec<Scenario> {
    let mut all = of_the_existing_agent();
    all.extend(successes());
    all.extend(failures());
    all.extend(more_than_one_migration());
    all.extend(of_a_resync());
    all.extend(with_a_host_that_is_played());
    all
}

fn of_the_existing_agent() -> Vec<Scenario> {
    let announced = || vec![vec![Plugged(B)], vec![begins(1, A, B)], vec![Written(B)]];
    let ended = || vec![vec![Unplugged(A)], vec![Gone(A)], vec![Ends(B)]];
    let back = vec![vec![begins(2, B, A)], vec![Ends(B)]];
    let came_back = vec![vec![Unplugged(B)], vec![Gone(B)], vec![Ends(A)]];
    vec![
        scenario("A1 mainline", [any(announced()), moves(B), any(ended())]),
        scenario("A2 missed announcement", [just(announced()), moves_silently(B), any(ended())]),
        scenario(
            "A3 failure",
            [just(announced()), any(vec![vec![Unplugged(B)], vec![Gone(B)], vec![Ends(B)]])],
        ),
        scenario(
            "A4 immediate migration back",
            [just(announced()), moves(B), any(back), moves(A), any(came_back)],
        ),
        scenario(
            "A5 endpoint before migration",
            [
                any(vec![vec![Plugged(B)], vec![Written(B)]]),
                just(vec![vec![begins(1, A, B)]]),
                moves(B),
                just(legacy_success(A, B)),
                unplugged(A),
            ],
        ),
    ]
}

fn successes() -> Vec<Scenario> {
    let meanwhile = |end: Vec<Chain>| any(and(end, [vec![Moves(B), Unplugged(A)]]));
    let unheard = |name, end: Vec<Chain>| {
        scenario(
            name,
            [plugged(B), just(start(1, A, B)), moves_silently(B), any(and(end, [vec![Unplugged(A)]]))],
        )
    };
    vec![
        scenario(
            "legacy success",
            [
                // The second round writes what is there already, which is nothing to an agent.
                any(vec![vec![Plugged(B)], vec![begins(1, A, B)], vec![Written(A)], vec![Written(B)]]),
                just(start(1, A, B)),
                moves(B),
                just(legacy_success(A, B)),
                unplugged(A),
            ],
        ),
        scenario(
            "legacy success announced meanwhile",
            [plugged(B), just(start(1, A, B)), meanwhile(legacy_success(A, B))],
        ),
        scenario(
            "extended success announced meanwhile",
            [plugged(B), just(start(1, A, B)), meanwhile(extended_success(A, B))],
        ),
        unheard("unheard legacy success", legacy_success(A, B)),
        unheard("unheard extended success", extended_success(A, B)),
    ]
}

fn failures() -> Vec<Scenario> {
    let begun = |end: Vec<Chain>| [plugged(B), just(start(1, A, B)), any(end)];
    vec![
        scenario("rollback", begun(and(rollback(A, B), [vec![Unplugged(B)]]))),
        scenario(
            "rollback that only rewrites the source",
            begun(vec![vec![Ends(B)], vec![Written(A)], vec![Gone(B)], vec![Unplugged(B)]]),
        ),
        scenario(
            "port deleted",
            begun(vec![vec![Stops, Unplugged(A)], vec![Ends(B)], vec![Gone(B)], vec![Gone(A)]]),
        ),
        scenario(
            "rollback and another attempt",
            [
                plugged(B),
                just(start(1, A, B)),
                any(rollback(A, B)),
                just(start(2, A, B)),
                moves(B),
                just(legacy_success(A, B)),
                unplugged(A),
            ],
        ),
    ]
}

fn more_than_one_migration() -> Vec<Scenario> {
    let switch = vec![vec![Ends(B)], vec![begins(2, A, C)], vec![Gone(B)], vec![Written(C)]];
    let mixed =
        vec![vec![Ends(B)], vec![Gone(A), Written(A)], vec![Gone(B), Written(B)], vec![begins(2, B, A)]];
    let itself = begins(1, A, A);
    vec![
        scenario(
            "target switched",
            [
                plugged(B),
                plugged(C),
                just(start(1, A, B)),
                any(switch),
                unplugged(B),
                moves(C),
                just(legacy_success(A, C)),
                unplugged(A),
            ],
        ),
        scenario(
            "there and back fast",
            [
                plugged(B),
                just(start(1, A, B)),
                moves(B),
                any(mixed),
                moves(A),
                just(legacy_success(B, A)),
                unplugged(B),
            ],
        ),
        scenario(
            "migration to itself",
            [
                any(vec![vec![itself, itself], vec![Written(A), Written(A)]]),
                any(vec![vec![Ends(A)], vec![Gone(A), Written(A)]]),
            ],
        ),
    ]
}

/// What a resync does in the middle of a migration.
fn of_a_resync() -> Vec<Scenario> {
    let end = || [moves(B), just(legacy_success(A, B)), unplugged(A)];
    let with = |name, before: Vec<Phase>| Scenario {
        name,
        home: A,
        phases: before.into_iter().chain(end()).collect(),
    };
    let missing = vec![vec![Ends(B), begins(2, A, B)], vec![Gone(A), Written(A)], vec![Gone(B), Written(B)]];
    vec![
        // Everything was lost and is written again, the LiveMigration with another uid.
        with("resync creates what is missing", vec![plugged(B), just(start(1, A, B)), any(missing)]),
        with(
            "resync writes what is right again",
            vec![
                plugged(B),
                just(start(1, A, B)),
                any(vec![vec![begins(1, A, B)], vec![Written(A)], vec![Written(B)]]),
            ],
        ),
        // A LiveMigration to a host that is not the target is removed, and so is the endpoint there.
        with(
            "resync deletes what is stale",
            vec![
                plugged(B),
                plugged(C),
                just(vec![vec![begins(9, A, C), Written(C), begins(1, A, B), Written(B)]]),
                any(vec![vec![Ends(C)], vec![Gone(C)], vec![Unplugged(C)]]),
            ],
        ),
    ]
}

/// W35: the host that the machine left removes its status at any time.
fn with_a_host_that_is_played() -> Vec<Scenario> {
    let played = |name, end: Vec<Chain>| Scenario {
        name,
        home: FAR,
        phases: vec![plugged(B), just(start(1, FAR, B)), moves(B), any(and(end, [vec![FarStatusGone]]))],
    };
    vec![
        played("far status and legacy success", legacy_success(FAR, B)),
        played("far status and extended success", extended_success(FAR, B)),
    ]
}
