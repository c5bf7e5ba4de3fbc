//! The fault campaign: migrations on three real agents, an etcd and real taps, while things break. Needs root. `cargo xtask chaos` runs it for
//! longer, docs/reliability.md says what it covers.
//!
//! `plan` makes a list of steps of a seed, `stage` plays it, `model` says what the hosts must hold whenever they have come to rest, and `judge`
//! what had to be the case at every moment. What fails is made shorter by `shrink`, by playing it again.

mod guest;
mod judge;
mod model;
mod options;
mod plan;
mod random;
mod shrink;
mod stage;

use judge::Failure;
use options::Options;
use plan::{Hit, Plan, Step};
use shrink::shrink;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::thread;
use std::time::{Duration, Instant};

/// LIMIT: stages wait more than they work, so there are more of them than processors.
const STAGES: usize = 4;

/// Minutes, so `cargo xtask chaos` runs it.
#[test]
#[ignore = "minutes: cargo xtask chaos"]
fn a_campaign() {
    let options = Options::of_environment();
    let failed = match options.plan() {
        Some(plan) => play(&plan).err().map(|failure| (plan, failure)),
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
    let next = AtomicU64::new(0);
    let first_failure = Mutex::new(None);
    let began_at = Instant::now();
    let each = u64::try_from(plan::MIGRATIONS).expect("64 bits");
    let plans = options.migrations.div_ceil(each);
    let work_off = || {
        loop {
            let number = next.fetch_add(1, Relaxed);
            let has_failed = first_failure.lock().expect("nobody panics with the lock").is_some();
            if has_failed || number >= plans {
                return;
            }
            let plan = Plan::of_seed(options.seed.wrapping_add(number));
            if let Err(failure) = play(&plan) {
                let mut first = first_failure.lock().expect("nobody panics with the lock");
                first.get_or_insert((plan, failure));
            }
        }
    };
    thread::scope(|scope| (0..STAGES).for_each(|_| _ = scope.spawn(work_off)));
    let played = next.into_inner().min(plans) * each;
    say(format_args!("{played} migrations in {:.0?}", began_at.elapsed()));
    first_failure.into_inner().expect("nobody panics with the lock")
}

fn play(plan: &Plan) -> Result<(), Failure> {
    let began_at = Instant::now();
    let played = stage::play(plan);
    let what = played.as_ref().map_or_else(|failure| failure.what, |()| "all right");
    let (steps, migrations) = (plan.steps.len(), plan.migrations());
    let took = began_at.elapsed();
    say(format_args!("seed {}: {steps} steps, {migrations} migrations, {took:.1?}: {what}", plan.seed));
    played
}

/// The shortest plan that fails in the same way, and how it does.
fn shortest(plan: Plan, failure: Failure, limit: Duration) -> (Plan, Failure) {
    let mut last = failure;
    let steps = shrink(&plan.steps, limit, |steps| match play(&plan.with_steps(steps.to_vec())) {
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
    let failure = play(&plan).expect_err("it is found");
    assert_eq!(failure.what, "a live virtual machine had no route");
    let (plan, _) = shortest(plan, failure, Duration::from_secs(600));
    assert_eq!(plan.steps, [sabotage]);
}

/// Shown with a failure, and with `--nocapture` while it goes on.
#[expect(clippy::print_stderr, reason = "the test harness shows it with the failure")]
fn say(what: std::fmt::Arguments<'_>) {
    eprintln!("{what}");
}
