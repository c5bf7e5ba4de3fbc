//! What happened when: the agent's record, the kernel's notifications, and the demo's own steps on one clock.

use anyhow::{Context as _, Result};
use cutover_engine::BootTime;
use cutover_engine::notice::MigrationRecord;
use cutover_tests::route_history::{Change, History};
use cutover_tests::scene::TARGET;
use cutover_tests::wait;
use ipnet::IpNet;
use std::fs;
use std::io;
use std::path::Path;

/// Steps in any order.
#[derive(Default)]
pub(crate) struct Timeline {
    steps: Vec<Step>,
    announced: Option<BootTime>,
}

struct Step {
    at: BootTime,
    place: String,
    what: String,
}

impl Timeline {
    /// Something happened.
    pub(crate) fn add(&mut self, at: BootTime, place: &str, what: &str) {
        self.steps.push(Step { at, place: place.to_owned(), what: what.to_owned() });
    }

    /// What the target's agent wrote down about the migration.
    pub(crate) fn add_record(&mut self, record: &MigrationRecord) {
        let phases = &record.phases;
        self.announced = phases.announced_at;
        for (at, what) in [
            (phases.targeted_at, "agent: endpoint is the target, route suppressed"),
            (phases.armed_at, "agent: tap is armed"),
            (phases.announced_at, "kernel program: announcement seen on the tap"),
            (phases.taken_at, "agent: record taken from the ring buffer"),
            (phases.routed_at, "agent: all elevated routes acknowledged by the kernel"),
            (phases.role_gone_at, "agent: migration is over, convergence time begins"),
            (phases.ended_at, "agent: convergence time is over"),
        ] {
            if let Some(at) = at {
                self.add(at, TARGET, what);
            }
        }
    }

    /// Every change of the routes to one destination.
    pub(crate) fn add_routes(&mut self, place: &str, history: &History, to: IpNet) {
        let Some(begin) = self.steps.iter().map(|step| step.at).min() else { return };
        for event in history.events.iter().filter(|event| event.at >= begin) {
            let (route, verb) = match &event.change {
                Change::Added { route, .. } => (route, '+'),
                Change::Removed(route) => (route, '-'),
                _ => continue,
            };
            if route.destination == to {
                self.add(event.at, place, &format!("kernel notifies: {verb} {to} metric {}", route.metric));
            }
        }
    }

    /// A line for each step, with the time since the first one and the time since the announcement.
    pub(crate) fn print(&mut self, out: &mut impl io::Write) -> Result<()> {
        self.steps.sort_by_key(|step| step.at);
        let begin = self.steps.first().context("nothing happened")?.at;
        writeln!(out, "  {:>10}  {:>15}  {:<9} what", "time", "announcement +", "where")?;
        for step in &self.steps {
            let relative = self.announced.map_or_else(String::new, |announced| signed(announced, step.at));
            let time = step.at.since(begin).as_micros();
            writeln!(out, "  {time:>10}  {relative:>15}  {:<9} {}", step.place, step.what)?;
        }
        Ok(())
    }
}

fn signed(from: BootTime, to: BootTime) -> String {
    if to >= from {
        format!("{}", to.since(from).as_micros())
    } else {
        format!("-{}", from.since(to).as_micros())
    }
}

/// The record of the only migration, which the agent writes when it is over.
pub(crate) fn wait_record(run_dir: &Path) -> Result<MigrationRecord> {
    let path = run_dir.join("migrations.jsonl");
    let in_time =
        wait::holds_within(wait::SOON, || fs::read_to_string(&path).is_ok_and(|text| text.ends_with('\n')));
    let text = fs::read_to_string(&path).with_context(|| path.display().to_string())?;
    let line = text.lines().last().filter(|_| in_time).context("the file is empty")?;
    serde_json::from_str(line).with_context(|| format!("{}: {line}", path.display()))
}
