//! The fault campaign with other plans than those of `cargo xtask test`, longer, or with one of its plans again; and the soak, in which nothing
//! breaks. What they do is said in docs/reliability.md.

use crate::step::{Step, say};
use crate::{RunOptions, programs, setup, workspace};
use anyhow::{Context as _, Result, bail};
use clap::Args;
use std::fs;
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
    let program = program(options.setup)?;
    let campaign = Step::new(&program).args(["a_campaign", "--exact", "--nocapture"]);
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

#[derive(Args)]
pub(crate) struct SoakOptions {
    /// How long
    #[arg(long, default_value_t = 60)]
    minutes: u64,
    #[command(flatten)]
    setup: RunOptions,
}

/// Where a soak writes its readings and plots.
const SOAK_FOLDER: &str = "target/soak";

/// Builds the tests, and runs migrations while nothing breaks.
pub(crate) fn soak(options: &SoakOptions) -> Result<()> {
    let program = program(options.setup)?;
    let folder = workspace::root().join(SOAK_FOLDER);
    fs::create_dir_all(&folder).with_context(|| folder.display().to_string())?;
    let soak = Step::new(&program).args(["soak::a_soak", "--exact", "--nocapture"]);
    let soak = soak.within(&workspace::root().join("tests"));
    let soak = soak.env("CUTOVER_SOAK_MINUTES", options.minutes.to_string());
    soak.env("CUTOVER_SOAK_FOLDER", folder.display().to_string()).run()?;
    say(format_args!("readings and plots are in {SOAK_FOLDER}"));
    Ok(())
}

/// The test program, built a moment ago.
fn program(setup: RunOptions) -> Result<PathBuf> {
    if !workspace::is_root() {
        bail!("it makes network namespaces and loads BPF programs: run it as root");
    }
    setup::for_running(setup::FOR_TESTS, setup.consent())?;
    let program = programs::build()?.into_iter().find(|program| program.name == "chaos");
    Ok(program.context("cargo has not built the test program chaos")?.path)
}

/// The time in milliseconds: two campaigns do not begin in the same one.
fn any_seed() -> Result<u64> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).context("the clock is before 1970")?;
    u64::try_from(now.as_millis()).context("the clock is far in the future")
}
