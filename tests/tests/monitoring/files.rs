//! What the files of `monitoring/` use is there: metrics, labels, and a test for each alert.

use crate::folder;
use cutover_daemon::observe::metrics::families::{self, Family, Kind};
use cutover_tests::prometheus::promtool;
use serde_json::Value;
use std::collections::BTreeSet;
use std::fs;

const RULES: &str = "cutover.rules.yml";
const TESTS: &str = "cutover.rules.test.yml";
const DASHBOARD: &str = "dashboard.json";

fn read(name: &str) -> String {
    fs::read_to_string(folder().join(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
}

/// The expressions of the dashboard, as they are written.
pub(crate) fn expressions_of_dashboard() -> Vec<String> {
    let dashboard: Value = serde_json::from_str(&read(DASHBOARD)).expect("the dashboard is JSON");
    let panels = dashboard["panels"].as_array().expect("it has panels");
    let targets = panels.iter().filter_map(|panel| panel["targets"].as_array()).flatten();
    targets.map(|target| target["expr"].as_str().expect("each target has an expression").to_owned()).collect()
}

/// Names that begin as ours do, each with the labels that are asked of it right behind it.
fn uses(text: &str) -> BTreeSet<(String, Vec<String>)> {
    let is_name = |c: char| c == '_' || c.is_ascii_alphanumeric();
    let mut found = BTreeSet::new();
    for (start, _) in text.match_indices("cutover_") {
        if text[..start].ends_with(is_name) {
            continue;
        }
        let rest = &text[start..];
        let (name, rest) = rest.split_at(rest.find(|c| !is_name(c)).unwrap_or(rest.len()));
        let selector = rest.strip_prefix('{').and_then(|rest| rest.split_once('}')).map_or("", |(it, _)| it);
        let label = |matcher: &str| matcher.split_once(['=', '!']).map(|(label, _)| label.trim().to_owned());
        found.insert((name.to_owned(), selector.split(',').filter_map(label).collect()));
    }
    found
}

fn family_of(series: &str) -> Option<&'static Family> {
    families::all().find(|family| {
        let end = series.strip_prefix(family.name);
        match family.kind {
            Kind::Histogram => end.is_some_and(|end| ["_bucket", "_sum", "_count"].contains(&end)),
            Kind::Counter | Kind::Gauge => end == Some(""),
        }
    })
}

#[track_caller]
fn assert_known(file: &str, text: &str) {
    let uses = uses(text);
    assert!(uses.len() > 20, "{file} uses {}", uses.len());
    for (series, labels) in uses {
        let family = family_of(&series).unwrap_or_else(|| panic!("{file}: there is no {series}"));
        for label in labels {
            let of_prometheus = ["instance", "job"].contains(&label.as_str());
            let is_bound = label == "le" && family.kind == Kind::Histogram;
            let is_known = family.labels.contains(&label.as_str()) || of_prometheus || is_bound;
            assert!(is_known, "{file}: {series} has no label {label}");
        }
    }
}

#[test]
fn rules_and_dashboard_use_metrics_that_there_are() {
    let expressions = |file: &str| {
        let lines = read(file).lines().filter(|line| line.contains("expr:")).collect::<Vec<_>>().join("\n");
        assert!(!lines.is_empty(), "{file}");
        lines
    };
    assert_known(RULES, &expressions(RULES));
    assert_known(DASHBOARD, &expressions_of_dashboard().join("\n"));
    assert!(family_of("cutover_no_such_thing").is_none() && family_of("cutover_endpoints_sum").is_none());
}

#[test]
fn prometheus_takes_the_rules_and_each_alert_fires_when_it_has_to() {
    for arguments in [["check", "rules", RULES], ["test", "rules", TESTS]] {
        let output = promtool(&folder(), &arguments, "");
        let said = [output.stdout, output.stderr].map(|text| String::from_utf8_lossy(&text).into_owned());
        assert!(output.status.success(), "promtool {arguments:?}: {said:?}");
    }
    let (rules, tests) = (read(RULES), read(TESTS));
    let alerts: Vec<&str> = rules.lines().filter_map(|line| line.trim().strip_prefix("- alert: ")).collect();
    assert!(alerts.len() > 20, "{alerts:?}");
    for alert in alerts {
        let fires = format!("        alertname: {alert}\n        exp_alerts:\n          - exp_labels:");
        assert!(tests.contains(&fires), "no test makes {alert} fire");
        let is_silent = format!("alertname: {alert}, exp_alerts: []");
        assert!(tests.contains(&is_silent), "no test says when {alert} must not fire");
    }
}
