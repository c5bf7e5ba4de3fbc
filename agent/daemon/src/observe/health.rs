//! Liveness and readiness, as Felix serves them: 200 if it is well, 503 if it is not, and a table that says which part is why.
//!
//! Live is an agent whose parts come back from what they do, in time. Ready is one that does its work: everything that was wanted at first
//! has been tried in the kernel, the datastore is followed, and, beside Felix, Felix's chains can be seen. Pure: whoever serves it asks.

use super::Observed;
use super::metrics::fill::waiting_for_chains;
use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

/// What Felix calls its parts in `HealthTimeoutOverrides`, and which of this agent's do the same.
const FELIX_NAMES: [(&str, &[&str]); 2] = [
    ("CalculationGraph", &["the loop"]),
    (
        "InternalDataplaneMainLoop",
        &[
            "the IPv4 route applier",
            "the IPv6 route applier",
            "the fast path",
            "the interface applier",
            "the netlink monitor",
            "the tunnel applier",
            "the watch applier",
        ],
    ),
];

/// LIMIT: endpoints that are named because they wait for Felix's chains.
const NAMED_MAX: usize = 5;

/// The parts of the agent, whether they are live.
#[derive(Clone, PartialEq, Debug)]
pub(super) struct Parts(Vec<Part>);

#[derive(Clone, PartialEq, Debug)]
struct Part {
    name: &'static str,
    busy_for: Duration,
    /// Nothing for as long as it likes.
    limit: Option<Duration>,
    is_overridden: bool,
}

impl Part {
    fn is_live(&self) -> bool {
        self.limit.is_none_or(|limit| self.busy_for < limit)
    }
}

impl Parts {
    /// `busy` is for how long each part has been busy, `silence` for how long it may be, where there is no override.
    pub(super) fn new(
        busy: &BTreeMap<&'static str, Duration>,
        silence: Duration,
        overrides: &BTreeMap<String, Duration>,
    ) -> Self {
        let part = |(&name, &busy_for): (&&'static str, &Duration)| {
            let of_felix = || {
                let names = FELIX_NAMES.iter().filter(|(_, parts)| parts.contains(&name));
                names.filter_map(|(felix, _)| overrides.get(*felix)).next()
            };
            let given = overrides.get(name).or_else(of_felix);
            let limit = Some(given.copied().unwrap_or(silence)).filter(|limit| !limit.is_zero());
            Part { name, busy_for, limit, is_overridden: given.is_some() }
        };
        Self(busy.iter().map(part).collect())
    }

    fn are_live(&self) -> bool {
        self.0.iter().all(Part::is_live)
    }

    /// Those that are not live.
    pub(super) fn stuck(&self) -> Vec<&'static str> {
        self.0.iter().filter(|part| !part.is_live()).map(|part| part.name).collect()
    }
}

/// A page of health.
#[derive(Clone, PartialEq, Debug)]
pub(super) struct Report {
    pub(super) is_good: bool,
    lines: Vec<[String; 5]>,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let head = ["COMPONENT", "TIMEOUT", "LIVENESS", "READINESS", "DETAIL"].map(str::to_owned);
        let lines = || std::iter::once(&head).chain(&self.lines);
        let width = |column: usize| lines().map(|line| line[column].chars().count()).max().unwrap_or(0);
        let widths = [0, 1, 2, 3].map(width);
        for line in lines() {
            let mut text = String::new();
            for (cell, width) in line.iter().zip(widths) {
                text.push_str(&format!("{cell:width$}  "));
            }
            text.push_str(&line[4]);
            writeln!(f, "{}", text.trim_end())?;
        }
        Ok(())
    }
}

const NONE: &str = "-";

/// Whether every part makes progress.
pub(super) fn liveness(parts: &Parts) -> Report {
    Report { is_good: parts.are_live(), lines: part_lines(parts) }
}

/// Whether the agent does its work. `observed` is nothing if the loop has not said how everything stands.
pub(super) fn readiness(parts: &Parts, observed: Option<&Observed>) -> Report {
    let mut lines = part_lines(parts);
    let mut is_good = parts.are_live();
    let mut component = |name: &str, is_ready: bool, detail: String| {
        is_good &= is_ready;
        let word = if is_ready { "reporting ready" } else { "reporting non-ready" };
        lines.push([name, NONE, NONE, word, &detail].map(str::to_owned));
    };
    match observed {
        None => component("the answer of the loop", false, "there is none".to_owned()),
        Some(observed) => {
            let status = &observed.status;
            component("datastore", status.in_sync, datastore(observed));
            let refused = status.refused_routes.len();
            component("routes", observed.routes_attempted, counted(refused, "refused by the kernel"));
            component("watches", true, counted(status.unarmed.len(), "cannot be armed"));
            if let Some(felix) = &status.felix {
                // What Felix is says nothing of how the agent stands.
                component("Felix", true, of_felix(felix));
                let detail = felix.unreadable.clone().unwrap_or_else(|| chains(observed));
                component("Felix's chains", felix.unreadable.is_none(), detail);
            }
        }
    }
    Report { is_good, lines }
}

/// Who runs, and with what.
fn of_felix(felix: &crate::felix::Report) -> String {
    let running = felix.running.iter();
    let mut words: Vec<String> = running
        .map(|it| format!("process {}, {}, {}", it.pid, it.version_text(), it.settings_text()))
        .collect();
    if words.is_empty() {
        words.push("does not run".to_owned());
    }
    words.push(felix.chains_text());
    words.join("; ")
}

fn part_lines(parts: &Parts) -> Vec<[String; 5]> {
    let line = |part: &Part| {
        let timeout = part.limit.map_or_else(|| NONE.to_owned(), |limit| format!("{limit:?}"));
        let overridden = if part.is_overridden { " (override)" } else { "" };
        let word = if part.is_live() { "reporting live" } else { "timed out" };
        let detail = match part.busy_for.as_secs() {
            0 => String::new(),
            busy_for => format!("busy for {busy_for} s"),
        };
        [part.name.to_owned(), format!("{timeout}{overridden}"), word.to_owned(), NONE.to_owned(), detail]
    };
    parts.0.iter().map(line).collect()
}

fn counted(count: usize, what: &str) -> String {
    if count == 0 { String::new() } else { format!("{count} {what}") }
}

fn datastore(observed: &Observed) -> String {
    let status = &observed.status;
    let mut details = Vec::new();
    match &status.datastore_trouble {
        Some(trouble) => details.push(format!("{} (for {} s)", trouble.reason, trouble.for_ms / 1000)),
        None if !status.in_sync => details.push("it has not been read in full yet".to_owned()),
        None => {}
    }
    if !status.quarantine.is_empty() {
        details.push(counted(status.quarantine.len(), "resources cannot be read"));
    }
    let kept = status.losses.view.count();
    if kept > 0 {
        details.push(format!("{kept} kept that it does not show any more"));
    }
    details.join("; ")
}

/// What is awaited of Felix.
fn chains(observed: &Observed) -> String {
    let waiting = waiting_for_chains(&observed.status.endpoints);
    let Some((longest_ms, _)) = waiting.first() else { return String::new() };
    let named: Vec<&str> =
        waiting.iter().take(NAMED_MAX).map(|(_, endpoint)| endpoint.interface.as_str()).collect();
    let more = if waiting.len() > NAMED_MAX { " and others" } else { "" };
    let (count, seconds) = (waiting.len(), longest_ms / 1000);
    format!("{count} endpoints are waited for, the first one for {seconds} s: {}{more}", named.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::Trouble;
    use crate::observe::metrics::tests::{endpoint, observed};
    use cutover_engine::view::FelixView;

    const LIMIT: Duration = Duration::from_secs(90);

    fn parts(busy: &[(&'static str, u64)], overrides: &[(&str, u64)]) -> Parts {
        let busy = busy.iter().map(|(name, seconds)| (*name, Duration::from_secs(*seconds))).collect();
        let overrides = overrides.iter().map(|(name, it)| ((*name).to_owned(), Duration::from_secs(*it)));
        Parts::new(&busy, LIMIT, &overrides.collect())
    }

    #[test]
    fn a_part_that_does_not_come_back_in_time_is_not_live() {
        assert!(liveness(&parts(&[("the loop", 89), ("the fast path", 0)], &[])).is_good);
        let report = liveness(&parts(&[("the loop", 90), ("the fast path", 0)], &[]));
        assert!(!report.is_good);
        let page = report.to_string();
        assert!(
            page.contains("the loop       90s      timed out       -          busy for 90 s\n"),
            "{page}"
        );
        assert!(page.contains("the fast path  90s      reporting live  -\n"), "{page}");
    }

    #[test]
    fn overrides_name_a_part_or_felixs_part_that_does_the_same() {
        let busy = [("the loop", 60), ("the watch applier", 60)];
        for (overrides, is_live) in [
            (&[][..], true),
            (&[("the loop", 30)], false),
            (&[("CalculationGraph", 30)], false),
            (&[("CalculationGraph", 30), ("the loop", 0)], true),
            (&[("InternalDataplaneMainLoop", 30)], false),
            (&[("FelixStartup", 1)], true),
        ] {
            let report = liveness(&parts(&busy, overrides));
            assert_eq!(report.is_good, is_live, "{overrides:?}\n{report}");
        }
        assert!(liveness(&parts(&busy, &[("the loop", 61)])).to_string().contains("61s (override)"));
    }

    #[test]
    fn an_agent_is_ready_that_is_in_sync_has_tried_its_routes_and_sees_felixs_chains() {
        let well = parts(&[("the loop", 0)], &[]);
        let good = observed();
        assert!(readiness(&well, Some(&good)).is_good, "{}", readiness(&well, Some(&good)));
        assert!(!readiness(&well, None).is_good);

        let mut apart = good.clone();
        apart.status.in_sync = false;
        apart.status.datastore_trouble = Some(Trouble { reason: "no member answers".into(), for_ms: 7000 });
        let report = readiness(&well, Some(&apart));
        assert!(!report.is_good && report.to_string().contains("no member answers (for 7 s)"), "{report}");

        let shown = readiness(&well, Some(&good)).to_string();
        let felix = "process 9, version v3.31.2, RouteSyncDisabled true, EndpointReportingEnabled not known, NFTablesMode Enabled; has chains in nftables";
        assert!(shown.contains(felix), "{shown}");
        let mut unknown = good.clone();
        let running = &mut unknown.status.felix.as_mut().unwrap().running[0];
        (running.version, running.mode) = (None, None);
        let shown = readiness(&well, Some(&unknown)).to_string();
        assert!(
            shown.contains("process 9, version not known, ") && shown.contains("mode as set not known"),
            "{shown}"
        );

        let mut early = good.clone();
        early.routes_attempted = false;
        assert!(!readiness(&well, Some(&early)).is_good);

        let mut blind = good.clone();
        let felix = blind.status.felix.as_mut().unwrap();
        felix.unreadable = Some("no access".into());
        let report = readiness(&well, Some(&blind));
        assert!(!report.is_good && report.to_string().contains("no access"), "{report}");

        let stuck = parts(&[("the loop", 91)], &[]);
        assert!(!readiness(&stuck, Some(&good)).is_good);
    }

    #[test]
    fn what_is_awaited_of_felix_is_shown_and_does_not_make_the_agent_unready() {
        let mut waiting = observed();
        let endpoints = (1..=7).map(|number| {
            let felix = FelixView { missing: vec!["ipv4 chain to".into()], for_ms: Some(number * 1000) };
            crate::observe::metrics::tests::EndpointView { felix: Some(felix), ..endpoint(number) }
        });
        waiting.status.endpoints = endpoints.collect();
        let report = readiness(&parts(&[], &[]), Some(&waiting));
        let expected =
            "7 endpoints are waited for, the first one for 7 s: tap7, tap6, tap5, tap4, tap3 and others";
        assert!(report.is_good && report.to_string().contains(expected), "{report}");
    }
}
