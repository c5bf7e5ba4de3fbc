//! What is known without a daemon: which ones are looked at, and what is said where there is none.

use super::{FamilyMetrics, Files, RouteShape, daemons, examine};
use crate::doctor::finding::{Finding, Level};
use cutover_daemon::processes::{Process, Processes};
use cutover_daemon::settings::{DatastoreType, Settings};

fn settings() -> Settings {
    Settings { datastore_type: DatastoreType::Dir, ..Settings::default() }
}

fn problems(findings: &[Finding]) -> Vec<(&'static str, Level)> {
    let bad = findings.iter().filter(|finding| finding.level != Level::Ok);
    bad.map(|finding| (finding.check.name, finding.level)).collect()
}

#[test]
fn no_daemon_at_all_is_a_finding_where_there_are_other_hosts() {
    let none = Files { bird: vec!["/nowhere/bird.conf".into()], ..Files::default() };
    let found = examine(&none, &Processes::default(), &settings());
    assert_eq!(problems(&found), [("configuration", Level::Error)]);
    assert_eq!(super::no_daemon(DatastoreType::Dir).level, Level::Notice);
    assert_eq!(super::no_daemon(DatastoreType::Etcdv3).level, Level::Warning);
}

/// Files that are named come before daemons that run, and those before files that are in the usual places.
#[test]
fn daemons_are_looked_for() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let (bird, frr) = (path("bird.conf"), path("frr.conf"));
    let named = Files { bird: vec!["/named".into()], frr: Some("/other".into()), ..Files::default() };
    let frr_bgpd =
        Process { name: "bgpd".into(), executable: Some("/usr/lib/frr/bgpd".into()), ..Process::default() };
    let running = Processes(vec![frr_bgpd]);
    let found = |files: &Files, processes: &Processes| daemons(files, processes, &[&bird], &frr);
    assert_eq!(found(&Files::default(), &Processes::default()), []);
    std::fs::write(&frr, "hostname x\n").unwrap();
    std::fs::write(&bird, "protocol device { }\n").unwrap();
    assert_eq!(found(&Files::default(), &Processes::default()), []);
    std::fs::write(&frr, "router bgp 1\n").unwrap();
    std::fs::write(&bird, "protocol bgp { }\n").unwrap();
    let places = found(&Files::default(), &Processes::default());
    assert!(
        matches!(&places[..], [super::Daemon::Bird { socket: None, .. }, super::Daemon::FrrFile(_)]),
        "{places:?}"
    );
    assert!(matches!(&found(&Files::default(), &running)[..], [super::Daemon::Frr(_)]));
    assert!(matches!(&found(&named, &running)[..], [super::Daemon::Bird { .. }, super::Daemon::FrrFile(_)]));
}

#[test]
fn routes_that_a_daemon_does_not_have_are_named() {
    let route = |number: u32| super::VmRoute {
        destination: format!("10.65.0.{number}/32").parse().unwrap(),
        metric: 1024,
    };
    let routes: Vec<_> = (1..=6).map(route).collect();
    let known = routes.iter().map(|route| (route.destination, route.metric));
    assert_eq!(super::compare("BIRD", &routes, &known.clone().collect()), []);
    let found = super::compare("BIRD", &routes, &known.skip(5).collect());
    assert!(found[0].what.ends_with("10.65.0.3/32 metric 1024 and 2 more"), "{found:?}");
}

#[test]
fn priorities_that_nothing_can_carry_are_the_settings_business() {
    let none = Files { bird: vec!["/nowhere/bird.conf".into()], ..Files::default() };
    for (normal, elevated) in [(512, 512), (512, 1024)] {
        let settings = Settings {
            ipv4_normal_route_priority: normal,
            ipv4_elevated_route_priority: elevated,
            ..settings()
        };
        assert_eq!(examine(&none, &Processes::default(), &settings), []);
    }
}

#[test]
fn families_of_the_settings() {
    let mut settings = settings();
    let sample = "10.65.0.2/32".parse().unwrap();
    let wanted = RouteShape::new(&settings, &[sample]);
    let family = |is_ipv6, sample| FamilyMetrics { is_ipv6, normal: 1024, elevated: 512, sample };
    assert_eq!(wanted.families, [family(false, Some(sample)), family(true, None)]);
    settings.ipv6_support = false;
    assert_eq!(RouteShape::new(&settings, &[]).families, [family(false, None)]);
}
