//! The blackout of each migration, step by step, for the contenders that have all of the steps.

use super::{ALONE, Case, FIRST_FRAME, FORWARD, HOLD, Seen, of, plot};
use crate::report::Section;
use cutover_tests::blackout::Offset;
use std::time::Duration;

/// Those with agents.
const WITH_AGENTS: [Case; 4] = [ALONE, FORWARD, HOLD, FIRST_FRAME];

/// Whose steps are drawn.
const DRAWN: usize = 1;

pub(super) fn section(seen: &[Seen]) -> Section {
    let agents = of(seen, &WITH_AGENTS);
    Section {
        title: "The blackout, taken apart",
        method: "The same migrations, of the contenders with agents. Times are in microseconds after QEMU's RESUME on the \
             target. QEMU notes its events in whole microseconds; the first frame has the time stamp that the kernel gave \
             it on its way into the tap, the announcement that of the kernel program; the source forwards when its agent has \
             the kernel's acknowledgement; routes are noted when another \
             process has the kernel's notification in its hands, so they may seem later than they were, and answers when \
             the client's process has them."
            .into(),
        columns: &[
            "step",
            "agents that do not talk: median",
            "p99",
            "Forward: median",
            "p99",
            "Forward and Hold: median",
            "p99",
            "Forward, first-frame: median",
            "p99",
        ],
        rows: names(agents[DRAWN]).into_iter().map(|name| row(name, &agents)).collect(),
        goals: Vec::new(),
        picture: Some(plot::steps(&after_the_guest_ran(agents[DRAWN]))),
    }
}

/// Every step, in the order of a migration.
fn names(seen: &Seen) -> Vec<&'static str> {
    let steps = seen.samples.iter().map(|sample| sample.blackout.steps()).max_by_key(Vec::len);
    steps.unwrap_or_default().into_iter().map(|(name, _)| name).collect()
}

fn offsets(seen: &Seen, wanted: &str) -> Vec<i64> {
    let steps = seen.samples.iter().flat_map(|sample| sample.blackout.steps());
    let of_step = steps.filter(|(name, _)| *name == wanted);
    let mut offsets: Vec<i64> = of_step.map(|(_, Offset(micros))| micros).collect();
    offsets.sort_unstable();
    offsets
}

fn row(name: &str, agents: &[&Seen]) -> Vec<String> {
    let cells = agents.iter().flat_map(|seen| {
        let offsets = offsets(seen, name);
        [50, 99]
            .map(|percent| nearest_rank(&offsets, percent).map_or("–".to_owned(), |it| format!("{it} µs")))
    });
    std::iter::once(name.to_owned()).chain(cells).collect()
}

fn nearest_rank(sorted: &[i64], percent: usize) -> Option<i64> {
    sorted.get((sorted.len() * percent).div_ceil(100).checked_sub(1)?).copied()
}

/// What the picture shows: from the first frame on. QEMU may send it before it says that the guest runs.
fn after_the_guest_ran(seen: &Seen) -> Vec<(String, Vec<Duration>)> {
    let later = names(seen).into_iter().skip_while(|name| *name != "guest runs on the target").skip(1);
    later
        .map(|name| {
            let micros = offsets(seen, name).into_iter().map(|it| u64::try_from(it).unwrap_or(0));
            (name.to_owned(), micros.map(Duration::from_micros).collect())
        })
        .collect()
}
