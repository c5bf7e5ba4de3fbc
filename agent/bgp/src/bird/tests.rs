use super::*;
use crate::KernelMetric::{Fixed, Mapped};
use crate::{Community, Peer, Peering, Priorities, Sessions};
use std::path::PathBuf;

fn host(peering: Peering) -> Parameters {
    let number = |number| (peering == Peering::Ebgp).then_some(number);
    let peer =
        |address: &str, system| Peer { address: address.parse().unwrap(), autonomous_system: number(system) };
    Parameters {
        peering,
        autonomous_system: 64601,
        router_id: Some("10.0.1.2".parse().unwrap()),
        peers: vec![peer("10.0.1.1", 64512), peer("10.0.1.5", 64513), peer("2001:db8:0:1::1", 64512)],
        sessions: Sessions::default(),
        community: Community(65000, 100),
        ipv4: Priorities { normal: 1024, elevated: 512 },
        ipv6: Some(Priorities { normal: 1024, elevated: 512 }),
        route_protocol: 3,
        interface_prefixes: vec!["cali".to_owned(), "tap".to_owned()],
        bridges: Vec::new(),
    }
}

fn golden(name: &str) -> PathBuf {
    [env!("CARGO_MANIFEST_DIR"), "src/bird/golden", &format!("{name}.conf")].iter().collect()
}

/// Compares with a file; `CUTOVER_REGENERATE=1` writes it instead.
#[track_caller]
fn assert_golden(name: &str, text: &str) {
    let path = golden(name);
    if std::env::var_os("CUTOVER_REGENERATE").is_some() {
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, text).unwrap();
    }
    let expected =
        std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    assert!(text == expected, "{} is another; CUTOVER_REGENERATE=1 writes it:\n{text}", path.display());
}

fn two(peering: Peering, metric: KernelMetric) -> String {
    configuration(&host(peering), metric, Version::Two).unwrap()
}

#[test]
fn ibgp() {
    assert_golden("ibgp", &two(Peering::Ibgp, Fixed));
    assert_golden("ibgp_mapped", &two(Peering::Ibgp, Mapped));
}

#[test]
fn ebgp() {
    assert_golden("ebgp", &two(Peering::Ebgp, Fixed));
    assert_golden("ebgp_mapped", &two(Peering::Ebgp, Mapped));
}

/// The rest is the same.
#[test]
fn bird_3_tells_only_its_best_path() {
    let text = |peering, version| configuration(&host(peering), Fixed, version).unwrap();
    let (two, three) = (text(Peering::Ibgp, Version::Two), text(Peering::Ibgp, Version::Three));
    assert_eq!(two.matches("\n    add paths on;\n").count(), 3);
    assert_eq!(three.matches("\n    add paths rx;\n").count(), 3);
    let lines = |text: &str| -> Vec<String> {
        let lines =
            text.lines().filter(|line| !line.trim_start().starts_with('#') && !line.contains("add paths"));
        lines.map(str::to_owned).collect()
    };
    assert_eq!(lines(&two), lines(&three));
    let (two, three) = (text(Peering::Ebgp, Version::Two), text(Peering::Ebgp, Version::Three));
    assert!(!two.contains("add paths") && lines(&two) == lines(&three));
}

#[test]
fn the_first_version_has_two_files() {
    let text = |peering, metric, family| configuration_1(&host(peering), metric, family).unwrap();
    assert_golden("bird1_ibgp", &text(Peering::Ibgp, Fixed, Family::Ipv4));
    assert_golden("bird1_ebgp6", &text(Peering::Ebgp, Mapped, Family::Ipv6));
}

#[test]
fn without_peers_there_is_one_to_fill_in() {
    let mut host = host(Peering::Ebgp);
    host.peers.clear();
    host.router_id = None;
    assert_golden("no_peers", &configuration(&host, Fixed, Version::Two).unwrap());
}

#[test]
fn sessions_have_what_was_asked_for() {
    let mut host = host(Peering::Ebgp);
    host.sessions = Sessions {
        password: Some("s3cret'#".parse().unwrap()),
        has_bfd: true,
        hops: Some(3),
        ipv4_source: Some("10.99.0.2".parse().unwrap()),
        ipv6_source: Some("2001:db8:99::2".parse().unwrap()),
    };
    let two = configuration(&host, Fixed, Version::Two).unwrap();
    assert_golden("sessions", &two);
    let three = configuration(&host, Fixed, Version::Three).unwrap();
    assert_eq!(three.matches("  authentication md5;\n  password \"s3cret'#\";\n").count(), 3);
    assert!(!two.contains("authentication"), "BIRD 2.0.12 refuses it");
}

#[test]
fn what_a_site_adds() {
    let text = |peering, metric| snippet(&host(peering), metric, Version::Two).unwrap();
    assert_golden("snippet_ibgp", &text(Peering::Ibgp, Fixed));
    assert_golden("snippet_ebgp_mapped", &text(Peering::Ebgp, Mapped));
    let mut host = host(Peering::Ibgp);
    host.peers.clear();
    assert_golden("snippet_bird1", &snippet_1(&host, Fixed, Family::Ipv6).unwrap());
}

#[test]
fn every_number_follows_the_parameters() {
    let mut host = host(Peering::Ebgp);
    host.ipv4 = Priorities { normal: 300, elevated: 200 };
    host.ipv6 = None;
    host.community = Community(64900, 7);
    host.interface_prefixes = vec!["vm".to_owned()];
    for (metric, is_there) in [(Fixed, "metric 250;"), (Mapped, "krt_metric = 201")] {
        let text = configuration(&host, metric, Version::Two).unwrap();
        for gone in ["1024", " 512;", "768", "65000", "tap", "cali", "ipv6", "2001:db8"] {
            assert!(!text.contains(gone), "{gone} in\n{text}");
        }
        for there in ["krt_metric < 300", "(64900, 7)", "\"vm*\"", is_there] {
            assert!(text.contains(there), "{there} not in\n{text}");
        }
    }
}

/// BIRD 3 may put its own route in the place of one with the same metric, and leave none when it ends.
#[test]
fn no_route_from_bgp_gets_the_metric_of_an_own_one() {
    let (version, normal, elevated) = (Version::Three, 3000, 2000);
    for peering in [Peering::Ibgp, Peering::Ebgp] {
        let mut host = host(peering);
        (host.ipv4, host.ipv6) = (Priorities { normal, elevated }, Some(Priorities { normal, elevated }));
        for metric in [Fixed, Mapped] {
            let text = configuration(&host, metric, version).unwrap();
            let metrics = text.lines().filter_map(|line| {
                let (_, number) =
                    line.split_once("krt_metric = ").or_else(|| line.split_once("  metric "))?;
                number.strip_suffix(';')?.parse().ok()
            });
            let given: Vec<u32> = metrics.collect();
            let expected: &[u32] = match metric {
                Fixed => &[2500, 2500],
                Mapped => &[3001, 2001, 3001, 2001, 0, 0],
            };
            assert_eq!(given, expected, "{peering:?}\n{text}");
        }
    }
}

/// It may come from a datastore, and the file is read by a daemon of root's.
#[test]
fn an_interface_prefix_stays_inside_its_quotes() {
    let mut host = host(Peering::Ibgp);
    host.interface_prefixes = vec!["t\"; } #\n\\*ü".to_owned(), "tap".to_owned()];
    let text = configuration(&host, Fixed, Version::Two).unwrap();
    assert!(text.contains("ifname ~ \"t???????????*\""), "{text}");
    assert!(text.contains("-\"t???????????*\", -\"tap*\""), "{text}");
}

/// It may be an uplink, whose subnet is needed, and others may begin with its name.
#[test]
fn routes_to_a_bridge_are_taken_and_its_subnet_is_known() {
    let mut host = host(Peering::Ibgp);
    host.bridges = vec!["vmbr0".to_owned()];
    let text = configuration(&host, Fixed, Version::Two).unwrap();
    assert!(text.contains("ifname ~ \"cali*\" || ifname ~ \"tap*\" || ifname ~ \"vmbr0\""), "{text}");
    assert!(!text.contains("-\"vmbr0") && text.contains("-\"cali*\", -\"tap*\", \"*\";"), "{text}");
}

#[test]
fn priorities_side_by_side_leave_no_room() {
    let mut host = host(Peering::Ibgp);
    host.ipv6 = Some(Priorities { normal: 513, elevated: 512 });
    for metric in [Fixed, Mapped] {
        let error = configuration(&host, metric, Version::Two).unwrap_err().to_string();
        assert!(error.contains("IPv6ElevatedRoutePriority = 512") && !error.contains('\n'), "{error}");
    }
    host.ipv6 = Some(Priorities { normal: 514, elevated: 512 });
    assert!([Fixed, Mapped].into_iter().all(|metric| configuration(&host, metric, Version::Three).is_ok()));
    assert_eq!(Priorities { normal: 514, elevated: 512 }.between(), Some(513));
}
