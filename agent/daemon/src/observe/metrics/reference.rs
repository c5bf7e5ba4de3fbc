//! `docs/metrics.md`, rendered from the table.

use super::families::SECTIONS;
use super::histogram::BOUNDS;
use std::fmt::Write as _;

const HEAD: &str = "\
# Metrics

Generated from `agent/daemon/src/observe/metrics/families.rs`; do not edit. A test compares it
(`CUTOVER_REGENERATE=1 cargo test -p cutover-daemon the_committed_page` writes it).

With `PrometheusMetricsEnabled = true` the agent serves its metrics at `http://<host>:9091/metrics`: in Prometheus's text format, or in
OpenMetrics for whoever asks for that, as Prometheus does. `PrometheusMetricsHost`, `PrometheusMetricsPort` and the files and words for
HTTPS are Felix's settings ([configuration.md](configuration.md)), and a change of them takes effect at once. With `CutoverRole = routes`
Felix runs on the same host and has the port of the same setting, so the agent's is `CutoverMetricsPort`, 9191.

A scrape asks the loop, or gets what it answered less than 0.1 s ago, and waits for two seconds. Without an answer the page has only what can be
known without the loop, and `cutover_loop_answers` is 0. At most 16 connections are served at once, one request each, for at most ten seconds.

Counters begin at 0 when the agent is started, except those of the kernel program, which go on until the host is started anew. Labels
have few values each; only `cutover_felix_chains_wait_seconds` names endpoints, while they wait.

`monitoring/` has alert rules and a dashboard that use them.

";

const PHASES: &str = "\
## Phases of a migration

The label `phase` of `cutover_migration_phase_seconds`, as this host saw it:

| phase | from | until |
|---|---|---|
| `targeted_to_armed` | the endpoint became the target of a migration | the watch for the announcement is armed in the kernel |
| `targeted_to_reported` | the same | the orchestrator is told that everything is ready here |
| `stopped_to_announced` | this host heard that the virtual machine has stopped where it comes from | the announcement on the tap |
| `announced_to_taken` | the kernel program saw the announcement | the fast path took its record from the ring buffer |
| `taken_to_routed` | that | the kernel has acknowledged all elevated routes |
| `announced_to_routed` | the kernel program saw the announcement | the same |
| `announced_to_forwarded` | the same | this host heard that the source forwards, where that was later |
| `forwarded_to_announced` | this host heard that the source forwards | the announcement, where that was later: packets were held |
| `announced_to_completed` | the announcement | the orchestrator ended the migration |
| `targeted_to_ended` | the endpoint became the target | elevated priority ended |

";

const BLACKOUT: &str = "\
## Blackout

`cutover_migration_blackout_seconds` is for how long nobody saw the virtual machine: from the last frame that came from the tap at the source, taken by a program that
listens there only while the virtual machine migrates ([kernel.md](kernel.md#the-tap-that-a-virtual-machine-is-about-to-leave)), to the frame by which it announced itself on the
tap here. A frame that came here before that one served nobody, because no route led to the virtual machine. What the guest did not send by itself is part of
it: it is at least as long as the virtual machine stood still, and of a guest that says nothing for a second before it is stopped a second longer.

The two ends are on the boot clocks of two hosts. The agents compare these when the virtual machine announces itself, by the time that a question and its answer
take: `cutover_migration_blackout_error_seconds` is by how much each blackout may be wrong because of that, half of that time and a thousandth of how long ago the last frame
was. Where the agents do not talk to each other (`CutoverPeering = off`), where the last frame is not known, or where frames came from the source's tap after the
announcement, nothing is counted: the difference to `cutover_migrations_total{outcome=\"announced\"}` says how often. `cutover timeline --html` with the records of both hosts
then goes by their wall clocks, and says by how much these may be wrong, as far as they follow another clock.

";

/// The whole page.
#[must_use]
pub fn markdown() -> String {
    let mut page = HEAD.to_owned();
    for (title, families) in SECTIONS {
        let _ = writeln!(page, "## {title}\n\n| metric | kind | labels | meaning |\n|---|---|---|---|");
        for family in *families {
            let labels: Vec<String> = family.labels.iter().map(|label| format!("`{label}`")).collect();
            let (name, kind, labels, help) =
                (family.name, family.kind.word(), labels.join(", "), family.help);
            let _ = writeln!(page, "| `{name}` | {kind} | {labels} | {help} |");
        }
        page.push('\n');
    }
    page.push_str(PHASES);
    page.push_str(BLACKOUT);
    let bounds: Vec<String> = BOUNDS.iter().map(ToString::to_string).collect();
    let _ = writeln!(page, "Histograms have these bounds, in seconds: {}.", bounds.join(", "));
    page
}
