//! What `cutover bgp` prints has nothing wrong with it, and each of its corrections is missed when it is taken away.

use super::{Family, Files, Wanted, daemons, examine};
use crate::doctor::finding::{Finding, Level};
use cutover_bgp::bird::Version;
use cutover_bgp::{Community, KernelMetric, Parameters, Peer, Peering, Priorities};
use cutover_daemon::processes::{Process, Processes};
use cutover_daemon::settings::{DatastoreType, Settings};

fn parameters(peering: Peering, normal: u32, elevated: u32) -> Parameters {
    let autonomous_system = (peering == Peering::Ebgp).then_some(64512);
    let peer = |address: &str| Peer { address: address.parse().unwrap(), autonomous_system };
    let priorities = Priorities { normal, elevated };
    Parameters {
        peering,
        autonomous_system: 64601,
        router_id: "10.0.1.2".parse().ok(),
        peers: vec![peer("10.0.1.1"), peer("10.0.1.5"), peer("2001:db8:0:1::1")],
        community: Community(65000, 100),
        ipv4: priorities,
        ipv6: Some(priorities),
        route_protocol: 3,
        interface_prefixes: vec!["cali".to_owned(), "tap".to_owned()],
    }
}

fn settings(parameters: &Parameters) -> Settings {
    let ipv6 = parameters.ipv6.unwrap();
    Settings {
        datastore_type: DatastoreType::Dir,
        interface_prefix: parameters.interface_prefixes.join(",").parse().unwrap(),
        device_route_protocol: parameters.route_protocol,
        ipv4_normal_route_priority: parameters.ipv4.normal,
        ipv4_elevated_route_priority: parameters.ipv4.elevated,
        ipv6_normal_route_priority: ipv6.normal,
        ipv6_elevated_route_priority: ipv6.elevated,
        ..Settings::default()
    }
}

#[derive(Clone, Copy, PartialEq, Debug)]
enum Daemon {
    Bird,
    BirdMapped,
    Bird1,
    Frr,
}

/// Judges files as if the operator had named them.
fn judged(daemon: Daemon, texts: &[String], settings: &Settings) -> Vec<Finding> {
    let folder = tempfile::tempdir().unwrap();
    let names = ["bird.conf", "bird6.conf"];
    let write = |name: &str, text: &str| {
        let path = folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        path
    };
    let paths = texts.iter().zip(names).map(|(text, name)| write(name, text)).collect::<Vec<_>>();
    let files = match daemon {
        Daemon::Frr => Files { frr: paths.first().cloned(), ..Files::default() },
        _ => Files { bird: paths, ..Files::default() },
    };
    examine(&files, &Processes::default(), settings)
}

fn printed(daemon: Daemon, parameters: &Parameters) -> Vec<String> {
    match daemon {
        Daemon::Bird => {
            vec![cutover_bgp::bird::configuration(parameters, KernelMetric::Fixed, Version::Two).unwrap()]
        }
        Daemon::BirdMapped => {
            vec![cutover_bgp::bird::configuration(parameters, KernelMetric::Mapped, Version::Two).unwrap()]
        }
        Daemon::Bird1 => {
            let family =
                |family| cutover_bgp::bird::configuration_1(parameters, KernelMetric::Fixed, family).unwrap();
            vec![family(cutover_bgp::Family::Ipv4), family(cutover_bgp::Family::Ipv6)]
        }
        Daemon::Frr => vec![cutover_bgp::frr::configuration(parameters).unwrap().text],
    }
}

fn problems(findings: &[Finding]) -> Vec<(&'static str, Level)> {
    let bad = findings.iter().filter(|finding| finding.level != Level::Ok);
    let mut found: Vec<_> = bad.map(|finding| (finding.check.name, finding.level)).collect();
    found.sort();
    found.dedup();
    found
}

/// BIRD's usual priorities, and some that FRR can carry.
fn numbers(daemon: Daemon) -> (u32, u32) {
    if daemon == Daemon::Frr { ((6 << 24) + 2048, 10) } else { (1024, 512) }
}

#[test]
fn nothing_is_wrong_with_what_is_printed() {
    for daemon in [Daemon::Bird, Daemon::BirdMapped, Daemon::Bird1, Daemon::Frr] {
        for peering in [Peering::Ibgp, Peering::Ebgp] {
            for (normal, elevated) in [numbers(daemon), ((9 << 24) + 3000, 12)] {
                let mut parameters = parameters(peering, normal, elevated);
                for prefixes in [&["cali", "tap"][..], &["vm"]] {
                    parameters.interface_prefixes =
                        prefixes.iter().map(|prefix| (*prefix).to_owned()).collect();
                    let found = judged(daemon, &printed(daemon, &parameters), &settings(&parameters));
                    // Whoever asks for that gets it, and is told once more what it means.
                    let expected: &[_] =
                        if daemon == Daemon::BirdMapped { &[("one-step", Level::Notice)] } else { &[] };
                    assert_eq!(problems(&found), expected, "{daemon:?} {peering:?} {normal}: {found:#?}");
                    assert!(found.len() > 10, "{found:#?}");
                }
            }
        }
    }
}

/// Without a peer of a family, it is said that its routes go to nobody, and no more.
#[test]
fn a_family_without_peers_is_noticed() {
    for daemon in [Daemon::Bird, Daemon::Frr] {
        let (normal, elevated) = numbers(daemon);
        let mut parameters = parameters(Peering::Ibgp, normal, elevated);
        parameters.peers.retain(|peer| peer.address.is_ipv4());
        let found = judged(daemon, &printed(daemon, &parameters), &settings(&parameters));
        assert_eq!(problems(&found), [("announces", Level::Notice)], "{daemon:?}");
    }
}

#[test]
fn each_correction_that_is_taken_away_is_exactly_one_check() {
    use Daemon::{Bird, Bird1, BirdMapped, Frr};
    use Level::{Error, Notice, Warning};
    use Peering::{Ebgp, Ibgp};
    for (daemon, peering, from, to, expected) in [
        (Bird, Ibgp, "  learn;\n", "", ("learns", Error)),
        (Bird, Ibgp, "  metric 768;\n", "", ("metric-option", Error)),
        (Bird1, Ibgp, "  metric 768;\n", "", ("kernel-metric", Error)),
        (BirdMapped, Ibgp, "  metric 0;\n", "", ("metric-option", Error)),
        (Bird, Ibgp, "  persist;\n", "", ("restart", Level::Ok)),
        // With add paths it is told all the same.
        (
            Bird,
            Ibgp,
            "    preference = 150;\n    if krt_metric < 1024 then preference = 250;\n",
            "",
            ("local-elevated-wins", Notice),
        ),
        (
            Bird,
            Ebgp,
            "    preference = 150;\n    if krt_metric < 1024 then preference = 250;\n",
            "",
            ("local-elevated-wins", Error),
        ),
        (Bird, Ibgp, "then preference = 200;", "then preference = 120;", ("remote-elevated-wins", Error)),
        (Bird, Ibgp, "bgp_local_pref = 2147483647 - krt_metric;", "", ("elevated-announced", Error)),
        (BirdMapped, Ibgp, "then krt_metric = 513;", "then accept;", ("kernel-metric", Error)),
        (Bird, Ibgp, "    export filter cutover_install4;\n", "", ("into-kernel", Error)),
        (Bird, Ibgp, "    export filter cutover_export4;\n", "", ("announces", Error)),
        (
            Bird,
            Ibgp,
            "  if net.len != 32 || !(ifname ~ \"cali*\" || ifname ~ \"tap*\") then reject;\n",
            "",
            ("only-vms", Warning),
        ),
        (Bird, Ibgp, "protocol direct {", "protocol static {", ("next-hop", Warning)),
        (Bird, Ebgp, "then bgp_community.add((65000, 100));", "then accept;", ("elevated-announced", Error)),
        (Bird, Ebgp, "then preference = 200;", "then preference = 150;", ("remote-elevated-wins", Error)),
        (BirdMapped, Ebgp, "then krt_metric = 513;", "then krt_metric = 1025;", ("kernel-metric", Error)),
        (BirdMapped, Ibgp, "then krt_metric = 513;", "then krt_metric = 512;", ("kernel-metric", Error)),
        (BirdMapped, Ebgp, "  krt_metric = 1025;", "  krt_metric = 1024;", ("kernel-metric", Error)),
        (Bird1, Ibgp, "  learn;\n", "", ("learns", Error)),
        (Bird1, Ebgp, "then preference = 200;", "then preference = 150;", ("remote-elevated-wins", Error)),
        (Frr, Ibgp, " bgp graceful-restart\n", "", ("restart", Warning)),
        (Frr, Ibgp, "  redistribute kernel route-map CUTOVER-KERNEL4\n", "", ("learns", Error)),
        (Frr, Ibgp, " set weight 0\n", "", ("remote-elevated-wins", Error)),
        (Frr, Ibgp, " set distance 5\n", "", ("remote-elevated-wins", Error)),
        (Frr, Ibgp, " match ip address prefix-list CUTOVER-VM4\n", "", ("only-vms", Warning)),
        (
            Frr,
            Ibgp,
            "route-map CUTOVER-IN4 permit 20\n",
            "route-map CUTOVER-IN4 deny 20\n",
            ("into-kernel", Error),
        ),
        (Frr, Ebgp, " set community 65000:100\n", "", ("elevated-announced", Error)),
        (Frr, Ebgp, "  neighbor CUTOVER4 route-map CUTOVER-OUT4 out\n", "", ("announces", Error)),
    ] {
        let (normal, elevated) = numbers(daemon);
        let parameters = parameters(peering, normal, elevated);
        let texts = printed(daemon, &parameters);
        assert!(texts.iter().any(|text| text.contains(from)), "{from:?} is not in {texts:?}");
        let changed: Vec<String> = texts.iter().map(|text| text.replace(from, to)).collect();
        let found = judged(daemon, &changed, &settings(&parameters));
        let mut only = problems(&found);
        only.retain(|(name, _)| *name != "one-step");
        // Priority that is not announced cannot win elsewhere.
        if expected.0 == "elevated-announced" {
            only.retain(|(name, _)| !matches!(*name, "remote-elevated-wins" | "kernel-metric"));
        }
        let expected: &[_] = if expected.1 == Level::Ok { &[] } else { &[expected] };
        assert_eq!(only, expected, "{daemon:?} {peering:?}: {from:?} -> {to:?}: {found:#?}");
    }
}

/// The settings were changed, and nobody printed the configuration again.
#[test]
fn old_numbers_are_found() {
    for (daemon, peering) in
        [(Daemon::Bird, Peering::Ebgp), (Daemon::Bird, Peering::Ibgp), (Daemon::Bird1, Peering::Ebgp)]
    {
        let texts = printed(daemon, &parameters(peering, 1024, 512));
        let found = judged(daemon, &texts, &settings(&parameters(peering, 500, 300)));
        assert_eq!(problems(&found), [("priorities", Level::Error)], "{daemon:?} {peering:?}: {found:#?}");
    }
    let texts = printed(Daemon::Frr, &parameters(Peering::Ibgp, (6 << 24) + 2048, 10));
    let found = judged(Daemon::Frr, &texts, &settings(&parameters(Peering::Ibgp, (6 << 24) + 3000, 12)));
    assert_eq!(problems(&found), [("priorities", Level::Error)], "{found:#?}");
}

#[test]
fn no_daemon_at_all_is_a_finding_where_there_are_other_hosts() {
    let settings = settings(&parameters(Peering::Ibgp, 1024, 512));
    let none = Files { bird: vec!["/nowhere/bird.conf".into()], frr: None };
    let found = examine(&none, &Processes::default(), &settings);
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
    let named = Files { bird: vec!["/named".into()], frr: Some("/other".into()) };
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
    let texts = printed(Daemon::Bird, &parameters(Peering::Ibgp, 1024, 512));
    for (normal, elevated) in [(512, 512), (512, 1024)] {
        assert_eq!(judged(Daemon::Bird, &texts, &settings(&parameters(Peering::Ibgp, normal, elevated))), []);
    }
}

#[test]
fn families_of_the_settings() {
    let mut settings = settings(&parameters(Peering::Ibgp, 1024, 512));
    let sample = "10.65.0.2/32".parse().unwrap();
    let wanted = Wanted::new(&settings, &[sample]);
    let family = |is_ipv6, sample| Family { is_ipv6, normal: 1024, elevated: 512, sample };
    assert_eq!(wanted.families, [family(false, Some(sample)), family(true, None)]);
    settings.ipv6_support = false;
    assert_eq!(Wanted::new(&settings, &[]).families, [family(false, None)]);
}
