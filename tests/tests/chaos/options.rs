//! What whoever runs the campaign wants, by the environment: it is a test, and has no command line of its own.

use crate::plan::Plan;
use std::env;
use std::fs;
use std::time::Duration;

/// How many migrations continuous integration sees.
const MIGRATIONS: u64 = 500;
/// The plans of continuous integration are always the same.
const SEED: u64 = 1;
/// LIMIT: so long that a plan is played some dozens of times.
const SHRINK_S: u64 = 600;

pub(crate) struct Options {
    /// At least so many.
    pub(crate) migrations: u64,
    /// Of the first plan; each of the following ones has the next number.
    pub(crate) seed: u64,
    /// What is to break more often than anything else.
    pub(crate) favoured: Option<String>,
    /// How long what fails is made shorter.
    pub(crate) shrink: Duration,
    /// Only these steps of the first plan.
    steps: Option<(usize, usize)>,
    /// Only the plan in this file.
    file: Option<String>,
}

impl Options {
    pub(crate) fn of_environment() -> Self {
        let steps = env::var("CUTOVER_CHAOS_STEPS").ok();
        Self {
            migrations: number("MIGRATIONS", MIGRATIONS),
            seed: number("SEED", SEED),
            favoured: env::var("CUTOVER_CHAOS_FAVOUR").ok(),
            shrink: Duration::from_secs(number("SHRINK_S", SHRINK_S)),
            steps: steps.map(|text| {
                range(&text).unwrap_or_else(|| panic!("CUTOVER_CHAOS_STEPS is {text}, not a..b"))
            }),
            file: env::var("CUTOVER_CHAOS_PLAN").ok(),
        }
    }

    /// The plan of a seed.
    pub(crate) fn plan_of(&self, seed: u64) -> Plan {
        Plan::favouring(seed, self.favoured.as_deref())
    }

    /// The only plan that is to be played, if it is only one.
    pub(crate) fn plan(&self) -> Option<Plan> {
        if let Some(file) = &self.file {
            let text = fs::read_to_string(file).unwrap_or_else(|error| panic!("{file}: {error}"));
            return Some(text.parse().unwrap_or_else(|error| panic!("{file}: {error}")));
        }
        let (from, to) = self.steps?;
        let plan = self.plan_of(self.seed);
        let steps = plan.steps.get(from..to.min(plan.steps.len())).unwrap_or_default().to_vec();
        Some(plan.with_steps(steps))
    }
}

fn number(name: &str, otherwise: u64) -> u64 {
    let name = format!("CUTOVER_CHAOS_{name}");
    let value = env::var(&name).ok();
    value.map_or(otherwise, |text| text.parse().unwrap_or_else(|error| panic!("{name} is {text}: {error}")))
}

/// `a..b`, of which either may be missing.
fn range(text: &str) -> Option<(usize, usize)> {
    let (from, to) = text.split_once("..")?;
    let bound = |text: &str, otherwise| if text.is_empty() { Some(otherwise) } else { text.parse().ok() };
    Some((bound(from, 0)?, bound(to, usize::MAX)?))
}

#[test]
fn ranges_are_read() {
    assert_eq!(range("3..9"), Some((3, 9)));
    assert_eq!(range(".."), Some((0, usize::MAX)));
    assert_eq!(range("7"), None);
    assert_eq!(range("a..b"), None);
}
