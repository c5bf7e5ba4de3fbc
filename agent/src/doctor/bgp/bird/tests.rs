//! A configuration that is right in everything, and what becomes of it when one thing is taken away.

use super::super::{Family, Wanted};
use super::config::Config;
use super::judge::judge;
use crate::doctor::finding::{Finding, Level};

const BIRD_2: &str = r#"
router id 192.0.2.1;
define NORMAL = 1024;
protocol device { }
filter from_kernel { preference = 150; if krt_metric < NORMAL then preference = 250; accept; }
filter export_bgp {
  if source = RTS_BGP then reject; # guard
  if ifname !~ "tap*" then reject; # interfaces
  bgp_local_pref = 2147483647 - krt_metric;
  accept;
}
filter import_bgp {
  if defined(bgp_local_pref) && bgp_local_pref > 2147483647 - NORMAL then preference = 200;
  accept;
}
filter export_kernel { if source = RTS_BGP then accept; reject; }
template kernel k { learn; persist; metric 768; }
protocol kernel kernel4 from k { ipv4 { import filter from_kernel; export filter export_kernel; }; }
protocol kernel kernel6 from k { ipv6 { import filter from_kernel; export filter export_kernel; }; }
template bgp internal { local as 65000; direct;
  ipv4 { import filter import_bgp; export filter export_bgp; next hop self; };
  ipv6 { import filter import_bgp; export filter export_bgp; next hop self; }; }
protocol bgp peer1 from internal { neighbor 192.0.2.2 as 65000; }
protocol bgp peer2 from internal { neighbor 192.0.2.3 as 65000; }
"#;

const BIRD_1: &str = r#"
filter from_kernel { preference = 150; if krt_metric < 1024 then preference = 250; accept; }
filter export_bgp {
  if source = RTS_BGP then reject; # guard
  if (krt_metric < 1024) then { bgp_community.add((65000, 100)); }
  if ifname ~ "tap*" then accept; # interfaces
  reject;
}
filter import_bgp { if (((65000, 100) ~ bgp_community)) then preference = 200; accept; }
filter export_kernel {
  if (defined(source) && (source = RTS_BGP) && !defined(krt_metric)) then {
    krt_metric = 1025;
    if (((65000, 100) ~ bgp_community)) then { krt_metric = 513; }
  }
  accept;
}
protocol kernel { learn; persist; import filter from_kernel; export filter export_kernel; }
protocol bgp tor { local as 65000; neighbor 192.0.2.2 as 65001; import filter import_bgp; export filter export_bgp; }
"#;

fn wanted(normal: u32, elevated: u32) -> Wanted {
    let family = |is_ipv6| Family { is_ipv6, normal, elevated, sample: None };
    Wanted {
        families: vec![family(false), family(true)],
        prefixes: "tap".parse().unwrap(),
        protocol: 3,
        here: vec![],
    }
}

fn judged(text: &str, is_bird_1: bool) -> Vec<Finding> {
    let mut wanted = wanted(1024, 512);
    if is_bird_1 {
        wanted.families.truncate(1);
    }
    judge(&Config::of(text), is_bird_1, &wanted)
}

fn problems(findings: &[Finding]) -> Vec<(&'static str, Level)> {
    let mut found: Vec<_> = findings
        .iter()
        .filter(|finding| finding.level != Level::Ok)
        .map(|finding| (finding.check.name, finding.level))
        .collect();
    found.dedup();
    found.sort();
    found.dedup();
    found
}

/// Exchanges a part that has to be there.
#[track_caller]
fn changed(text: &str, from: &str, to: &str) -> String {
    assert!(text.contains(from), "{from:?} is not in the text");
    text.replace(from, to)
}

#[test]
fn what_is_right_has_no_finding() {
    for (text, is_bird_1) in [(BIRD_2, false), (BIRD_1, true)] {
        let mut found = judged(text, is_bird_1);
        found.retain(|finding| finding.check.name != "one-step");
        assert_eq!(problems(&found), [], "{found:#?}");
        assert!(found.len() >= 8, "{found:#?}");
    }
}

#[test]
fn each_correction_of_bird_2_that_is_missing_is_exactly_one_check() {
    for (from, to, check, level) in [
        ("learn;", "", "learns", Level::Error),
        ("learn;", "learn off;", "learns", Level::Error),
        ("import filter from_kernel;", "import none;", "learns", Level::Error),
        ("metric 768;", "", "metric-option", Level::Error),
        ("metric 768;", "metric 100;", "metric-option", Level::Error),
        ("metric 768;", "metric 2000;", "metric-option", Level::Error),
        ("metric 768;", "metric 0;", "kernel-metric", Level::Error),
        ("persist;", "", "restart", Level::Warning),
        ("then accept; reject; }\ntemplate", "then reject; accept; }\ntemplate", "into-kernel", Level::Error),
        ("export filter export_kernel;", "", "into-kernel", Level::Error),
        ("bgp_local_pref = 2147483647 - krt_metric;", "", "elevated-announced", Level::Error),
        ("then preference = 200;", "then preference = 120;", "remote-elevated-wins", Level::Error),
        ("if krt_metric < NORMAL then preference = 250;", "", "", Level::Ok),
        (
            "preference = 150; if krt_metric < NORMAL then preference = 250;",
            "",
            "local-elevated-wins",
            Level::Error,
        ),
        ("if ifname !~ \"tap*\" then reject; # interfaces", "", "only-vms", Level::Warning),
        ("ifname !~ \"tap*\"", "ifname !~ \"cali*\"", "announces", Level::Error),
        ("export filter export_bgp;", "export none;", "announces", Level::Error),
        ("import filter import_bgp;", "import none;", "into-kernel", Level::Error),
        ("direct;\n", "\n", "next-hop", Level::Warning),
        ("define NORMAL = 1024;", "define NORMAL = 400;", "remote-elevated-wins", Level::Error),
    ] {
        let found = judged(&changed(BIRD_2, from, to), false);
        let expected = if check.is_empty() { vec![] } else { vec![(check, level)] };
        let mut only: Vec<_> = problems(&found);
        // Priority that is not announced cannot win elsewhere, and one that does not win has no metric either.
        if check == "elevated-announced" {
            only.retain(|(name, _)| !matches!(*name, "remote-elevated-wins" | "kernel-metric"));
        }
        assert_eq!(only, expected, "{from:?} -> {to:?}: {found:#?}");
        assert!(found.iter().all(|finding| (finding.level == Level::Ok) == finding.change.is_none()));
    }
}

/// One more than the metric of the route's own host, by a filter: it works, but not in one step.
#[test]
fn metrics_that_follow_priority_are_noticed() {
    let mapped = changed(BIRD_2, "metric 768;", "metric 0;");
    let formula = "then { krt_metric = 2147483648 - bgp_local_pref; accept; }";
    let mapped =
        changed(&mapped, "{ if source = RTS_BGP then accept;", &format!("{{ if source = RTS_BGP {formula}"));
    assert_eq!(problems(&judged(&mapped, false)), [("one-step", Level::Notice)]);
    let without = changed(&mapped, "metric 0;", "");
    assert_eq!(problems(&judged(&without, false)), [("metric-option", Level::Error)]);
    let wrong = changed(&mapped, "krt_metric = 2147483648 - bgp_local_pref;", "krt_metric = 1024;");
    assert_eq!(problems(&judged(&wrong, false)), [("kernel-metric", Level::Error)]);
}

/// BIRD 3 may put its own route in the place of a local one with the same metric, and a file does not say which BIRD reads it.
#[test]
fn no_route_from_elsewhere_may_have_the_metric_of_a_local_one() {
    let mapped = changed(BIRD_2, "metric 768;", "metric 0;");
    for (formula, is_right) in [
        ("krt_metric = 2147483647 - bgp_local_pref;", false),
        ("if bgp_local_pref > 2147482623 then krt_metric = 512; else krt_metric = 1025;", false),
        ("if bgp_local_pref > 2147482623 then krt_metric = 700; else krt_metric = 1024;", false),
        ("if bgp_local_pref > 2147482623 then krt_metric = 511; else krt_metric = 513;", true),
    ] {
        let filter = format!("{{ if source = RTS_BGP then {{ {formula} accept; }}");
        let found = judged(&changed(&mapped, "{ if source = RTS_BGP then accept;", &filter), false);
        let expected = if is_right { ("one-step", Level::Notice) } else { ("kernel-metric", Level::Error) };
        assert_eq!(problems(&found), [expected], "{formula}: {found:#?}");
        assert!(is_right || found.iter().any(|it| it.what.contains("BIRD 3")), "{formula}: {found:#?}");
    }
    // BIRD 1 has another language, and leaves such a route alone.
    let text = changed(BIRD_1, "krt_metric = 513;", "krt_metric = 512;");
    assert!(problems(&judged(&text, true)).iter().all(|(name, _)| *name != "kernel-metric"));
}

#[test]
fn each_correction_of_bird_1_that_is_missing_is_exactly_one_check() {
    for (from, to, check) in [
        ("learn;", "", "learns"),
        ("bgp_community.add((65000, 100));", "", "elevated-announced"),
        ("then preference = 200;", "then preference = 100;", "remote-elevated-wins"),
        ("krt_metric = 513;", "krt_metric = 1025;", "kernel-metric"),
        ("persist;", "metric 40;", "metric-option"),
        ("preference = 150; if krt_metric < 1024 then preference = 250;", "", "local-elevated-wins"),
    ] {
        let found = judged(&changed(BIRD_1, from, to), true);
        let mut only = problems(&found);
        only.retain(|(name, _)| !matches!(*name, "one-step" | "restart"));
        if check == "elevated-announced" {
            only.retain(|(name, _)| !matches!(*name, "remote-elevated-wins" | "kernel-metric"));
        }
        assert_eq!(only, [(check, Level::Error)], "{from:?} -> {to:?}: {found:#?}");
    }
}

/// A guard is only missed where something else does not keep the routes back.
#[test]
fn routes_that_are_passed_on_without_their_priority_are_found() {
    let open = changed(
        BIRD_2,
        "if ifname !~ \"tap*\" then reject; # interfaces",
        "if net = 0.0.0.0/0 || net = ::/0 then reject;",
    );
    assert_eq!(problems(&judged(&open, false)), []);
    let text = changed(
        &open,
        "if source = RTS_BGP then reject; # guard",
        "if !defined(krt_metric) then krt_metric = 1024;",
    );
    assert_eq!(problems(&judged(&text, false)), [("re-export", Level::Warning)]);
    // A reflector may pass them on as they are.
    let reflector = changed(&open, "then reject; # guard", "then accept;");
    assert_eq!(problems(&judged(&reflector, false)), []);
}

#[test]
fn numbers_that_are_not_those_of_the_settings_are_one_finding() {
    let config = Config::of(BIRD_1);
    // Both would count as elevated.
    let mut other = wanted(500, 300);
    other.families.truncate(1);
    assert_eq!(problems(&judge(&config, true, &other)), [("priorities", Level::Error)]);
    // Filters that only count on the formula have nothing to change but the threshold.
    let config = changed(BIRD_2, "define NORMAL = 1024;", "define NORMAL = 2000;");
    let config = Config::of(&config);
    assert_eq!(problems(&judge(&config, false, &wanted(2000, 600))), []);
}

/// As Felix's documentation has it, for BIRD 1: nothing lets the target announce its route.
#[test]
fn the_published_filters_are_judged() {
    let text = r#"
filter export_bgp {
  if (!defined(krt_metric)) then { krt_metric = 1024; }
  bgp_local_pref = 2147483647 - krt_metric;
  if ((ifname ~ "tap*") || (ifname ~ "cali*")) then { if net != 0.0.0.0/0 then accept; }
  reject;
}
filter import_bgp {
  if (defined(bgp_local_pref)&&(bgp_local_pref > 2147482623)) then
  preference = 200;
  accept;
}
filter export_kernel {
  if (defined(source) && (source = RTS_BGP) && !defined(krt_metric)) then {
    krt_metric = 1024;
    if (defined(bgp_local_pref)) then { krt_metric = 2147483647 - bgp_local_pref; }
    if (krt_metric < 1024) then { preference = 200; }
  }
  accept;
}
protocol kernel { learn; persist; scan time 2; import all; graceful restart; export filter export_kernel; }
protocol direct { interface "eth*"; }
protocol bgp 'peer1' { local as 65000; neighbor 192.0.2.2 as 65000; multihop; import filter import_bgp; export filter export_bgp; }
"#;
    let found = judged(text, true);
    let expected = [("local-elevated-wins", Level::Error), ("one-step", Level::Notice)];
    assert_eq!(problems(&found), expected, "{found:#?}");
}

#[test]
fn what_is_not_understood_is_not_claimed() {
    let text = changed(
        BIRD_2,
        "bgp_local_pref = 2147483647 - krt_metric;",
        "case krt_metric { 512: bgp_local_pref = 7; }",
    );
    let found = problems(&judged(&text, false));
    assert_eq!(found, [("announces", Level::Notice)]);
    let text = changed(
        BIRD_2,
        "if ifname !~ \"tap*\" then reject; # interfaces",
        "if net !~ [10.65.0.0/16+, 2001:db8::/32+] then reject;",
    );
    assert_eq!(problems(&judged(&text, false)), [("announces", Level::Notice)]);
    let missing = changed(BIRD_2, "filter import_bgp {", "filter another {");
    assert_eq!(problems(&judged(&missing, false)), [("into-kernel", Level::Notice)]);
    assert_eq!(problems(&judged("", false)), [("learns", Level::Error)]);
}
