//! The fault campaign with other plans than those of `cargo xtask test`, longer, or with one of its plans again. What it does is said in
//! docs/reliability.md.

use crate::step::{Step, say};
use crate::{RunOptions, programs, setup, workspace};
use anyhow::{Context as _, Result, bail};
use clap::Args;
use std::path::PathBuf;
use std::time::{SystemTime, UNIX_EPOCH};

#[derive(Args)]
pub(crate) struct Options {
    /// At least so many migrations; a long run has 10000
    #[arg(long, default_value_t = 500)]
    migrations: usize,
    /// Of the first plan, the following ones have the next numbers; another one each time if none is named
    #[arg(long)]
    seed: Option<u64>,
    /// What is to break more often than anything else, by its name in the text of a plan, such as disk-full
    #[arg(long, value_name = "FAULT")]
    favour: Option<String>,
    /// Only these steps of the plan of the seed, such as 20..40
    #[arg(long, value_name = "A..B", requires = "seed")]
    steps: Option<String>,
    /// Only the plan in this file, as a failure prints it
    #[arg(long, value_name = "FILE", conflicts_with_all = ["seed", "steps"])]
    plan: Option<PathBuf>,
    /// How long a plan that fails is made shorter, in seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 1200)]
    shrink: u64,
    #[command(flatten)]
    setup: RunOptions,
}

/// Builds the tests, and runs this one.
pub(crate) fn run(options: Options) -> Result<()> {
    if !workspace::is_root() {
        bail!("the campaign makes network namespaces and loads BPF programs: run it as root");
    }
    setup::for_running(setup::FOR_TESTS, options.setup.consent())?;
    let programs = programs::build()?;
    let program = programs.into_iter().find(|program| program.name == "chaos");
    let program = program.context("cargo has not built the test program chaos")?;
    let campaign = Step::new(&program.path).args(["a_campaign", "--exact", "--nocapture"]);
    let mut campaign = campaign.within(&workspace::root().join("tests"));
    campaign = campaign.env("CUTOVER_CHAOS_MIGRATIONS", options.migrations.to_string());
    campaign = campaign.env("CUTOVER_CHAOS_SHRINK_S", options.shrink.to_string());
    if let Some(plan) = options.plan {
        let plan = plan.canonicalize().with_context(|| plan.display().to_string())?;
        return campaign.env("CUTOVER_CHAOS_PLAN", plan).run();
    }
    let seed = options.seed.map_or_else(any_seed, Ok)?;
    say(format_args!("the seed of the first plan is {seed}"));
    campaign = campaign.env("CUTOVER_CHAOS_SEED", seed.to_string());
    if let Some(favoured) = options.favour {
        campaign = campaign.env("CUTOVER_CHAOS_FAVOUR", favoured);
    }
    if let Some(steps) = options.steps {
        campaign = campaign.env("CUTOVER_CHAOS_STEPS", steps);
    }
    campaign.run()
}

/// The time in milliseconds: two campaigns do not begin in the same one.
fn any_seed() -> Result<u64> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).context("the clock is before 1970")?;
    u64::try_from(now.as_millis()).context("the clock is far in the future")
}
