//! The fault campaign: migrations on three real agents, an etcd and real taps, while things break. Needs root. `cargo xtask chaos` runs it for
//! longer, docs/reliability.md says what it covers.
//!
//! `plan` makes a list of steps of a seed, `stage` plays it, `model` says what the hosts must hold whenever they have come to rest, and `judge`
//! what had to be the case at every moment. What fails is made shorter by `shrink`, by playing it again. `soak` lets nothing break, and counts.

mod crew;
mod guest;
mod judge;
mod model;
mod options;
mod plan;
mod random;
mod shrink;
mod soak;
mod stage;

use crew::{Crew, STAGES};
use judge::Failure;
use options::Options;
use plan::{Hit, Plan, Step};
use shrink::shrink;
use stage::Played;
use std::sync::Mutex;
use std::thread;
use std::time::{Duration, Instant};

/// Always the same plans, unless somebody wants others: `cargo xtask chaos`.
#[test]
fn a_campaign() {
    let options = Options::of_environment();
    say(format_args!("the seed of the first plan is {}", options.seed));
    let failed = match options.plan() {
        Some(plan) => play(&plan).outcome.err().map(|failure| (plan, failure)),
        None => campaign(&options),
    };
    let Some((plan, failure)) = failed else { return };
    say(format_args!(
        "{}: {}\n{plan}\nshrinking it, for {:?} at most",
        failure.what, failure.text, options.shrink
    ));
    let (plan, failure) = shortest(plan, failure, options.shrink);
    panic!(
        "{}: {}\nwith these steps, in a file F: CUTOVER_CHAOS_PLAN=F or cargo xtask chaos --plan F\n{plan}",
        failure.what, failure.text
    );
}

/// Several stages play plans of one seed after the other, until one fails. Returns that.
fn campaign(options: &Options) -> Option<(Plan, Failure)> {
    let first_failure = Mutex::new(None);
    let began_at = Instant::now();
    let each = u64::try_from(plan::MIGRATIONS).expect("64 bits");
    let crew = Crew::new(options.migrations.div_ceil(each));
    let work_off = || {
        while let Some(number) = crew.take() {
            let plan = options.plan_of(options.seed.wrapping_add(number));
            let Played { outcome, slowest_start } = play(&plan);
            crew.put_back(slowest_start, outcome.is_err());
            if let Err(failure) = outcome {
                first_failure.lock().expect("nobody panics with the lock").get_or_insert((plan, failure));
            }
        }
    };
    thread::scope(|scope| (0..STAGES).for_each(|_| _ = scope.spawn(work_off)));
    say(format_args!("{} migrations in {:.0?}", crew.begun() * each, began_at.elapsed()));
    first_failure.into_inner().expect("nobody panics with the lock")
}

fn play(plan: &Plan) -> Played {
    let began_at = Instant::now();
    let played = stage::play(plan);
    let what = played.outcome.as_ref().map_or_else(|failure| failure.what, |()| "all right");
    let (steps, migrations) = (plan.steps.len(), plan.migrations());
    let (took, start) = (began_at.elapsed(), played.slowest_start);
    say(format_args!(
        "seed {}: {steps} steps, {migrations} migrations, {took:.1?}, slowest start {start:.1?}: {what}",
        plan.seed
    ));
    played
}

/// The shortest plan that fails in the same way, and how it does.
fn shortest(plan: Plan, failure: Failure, limit: Duration) -> (Plan, Failure) {
    let mut last = failure;
    let steps = shrink(&plan.steps, limit, |steps| match play(&plan.with_steps(steps.to_vec())).outcome {
        Err(failure) if failure.what == last.what => {
            last = failure;
            true
        }
        _ => false,
    });
    (plan.with_steps(steps), last)
}

/// A campaign that finds nothing has to be able to find something: here somebody takes routes away without the judge being told.
#[test]
fn a_deletion_that_nobody_reports_is_found_and_shrunk() {
    let sabotage = Step::Hit(Hit::DeletedUnreported { guest: 1 });
    let mut plan = Plan::of_seed(7);
    let migrations =
        plan.steps.iter().copied().filter(|step| matches!(step, Step::Begin { .. } | Step::Cancel { .. }));
    plan.steps = migrations.take(6).collect();
    plan.steps.insert(3, sabotage);
    let failure = play(&plan).outcome.expect_err("it is found");
    assert_eq!(failure.what, "a live virtual machine had no route");
    let (plan, _) = shortest(plan, failure, Duration::from_secs(600));
    assert_eq!(plan.steps, [sabotage]);
}

/// The same of an announcement that nobody should have taken for one.
#[test]
fn an_announcement_that_nobody_reports_is_found() {
    let mut plan = Plan::of_seed(7);
    let (guest, to) = (0, (plan.homes[0] + 1) % plan::HOSTS);
    plan.steps = vec![
        Step::Begin { guest, to },
        Step::Move { guest, is_announced: true },
        Step::Succeed { guest, is_recreated: true },
        Step::Settle,
        Step::Begin { guest, to: plan.homes[0] },
        Step::Move { guest, is_announced: false },
    ];
    let said_at = plan.steps.len();
    plan.steps.push(Step::Succeed { guest, is_recreated: true });
    assert_eq!(play(&plan).outcome, Ok(()));
    plan.steps.insert(said_at, Step::Hit(Hit::AnnouncedUnreported { guest }));
    let failure = play(&plan).outcome.expect_err("it is found");
    assert_eq!(failure.what, "a route was elevated without its virtual machine");
}

/// Shown with a failure, and with `--nocapture` while it goes on.
#[expect(clippy::print_stderr, reason = "the test harness shows it with the failure")]
pub(crate) fn say(what: std::fmt::Arguments<'_>) {
    eprintln!("{what}");
}
