//! The daemons' own check (`bird -p`) of every sort of configuration that `cutover bgp bird` and `bird1` print.

use cutover_bgp::bird::{Version, configuration, configuration_1, snippet, snippet_1};
use cutover_bgp::{Community, Family, KernelMetric, Parameters, Peer, Peering, Priorities, Sessions};
use cutover_tests::Release;
use std::io::Write as _;
use std::process::{Command, Output};

const METRICS: [KernelMetric; 2] = [KernelMetric::Fixed, KernelMetric::Mapped];

#[test]
fn bird_2_and_3_accept_every_combination() {
    for release in Release::BIRDS {
        if !release.is_there("the check of every configuration for BIRD 2 and 3") {
            continue;
        }
        for (parameters, metric) in combinations() {
            for version in [Version::Two, Version::Three] {
                let is_signed = parameters.sessions.password.is_some();
                if !(is_signed && version == Version::Three && release == Release::Bird2) {
                    assert_accepted(release, "bird", &configuration(&parameters, metric, version).unwrap());
                }
                let families = [Family::Ipv4, Family::Ipv6].into_iter();
                let families = families.filter(|family| parameters.priorities(*family).is_some());
                let text = snippet(&parameters, metric, version).unwrap();
                assert_accepted(release, "bird", &called(&text, metric, families));
            }
        }
        let signed = combinations()
            .find(|(parameters, _)| parameters.sessions.password.is_some() && !parameters.peers.is_empty());
        let (parameters, metric) = signed.unwrap();
        let of_bird_3 = configuration(&parameters, metric, Version::Three).unwrap();
        let is_accepted = check(release, "bird", &of_bird_3).status.success();
        assert_eq!(is_accepted, release != Release::Bird2, "{release:?} reads `authentication md5`");
        assert!(
            !check(release, "bird", "protocol bgp { nonsense; }\n").status.success(),
            "the check can fail"
        );
    }
}

#[test]
fn bird_1_accepts_every_combination() {
    let release = Release::Bird16;
    if !release.is_there("the check of every configuration for BIRD 1.6") {
        return;
    }
    for (parameters, metric) in combinations() {
        for (family, daemon) in [(Family::Ipv4, "bird"), (Family::Ipv6, "bird6")] {
            if parameters.priorities(family).is_some() {
                assert_accepted(release, daemon, &configuration_1(&parameters, metric, family).unwrap());
                let text = snippet_1(&parameters, metric, family).unwrap();
                assert_accepted(release, daemon, &called(&text, metric, [family]));
            }
        }
    }
    let of_bird_2 =
        configuration(&combinations().next().unwrap().0, KernelMetric::Fixed, Version::Two).unwrap();
    assert!(!check(release, "bird", &of_bird_2).status.success(), "the check can fail");
}

/// What a site adds, and a filter that calls every function of it.
fn called(text: &str, metric: KernelMetric, families: impl IntoIterator<Item = Family>) -> String {
    let functions: &[&str] = match metric {
        KernelMetric::Fixed => &["learn", "export", "import"],
        KernelMetric::Mapped => &["learn", "export", "import", "install"],
    };
    let calls = families.into_iter().flat_map(|family| {
        functions.iter().map(move |name| format!("  cutover_{name}{}();\n", family.digit()))
    });
    let calls: String = calls.collect();
    format!("{text}\nfilter every {{\n{calls}  accept;\n}}\nrouter id 10.0.1.2;\nprotocol device {{ }}\n")
}

/// Hosts in a mesh, behind a reflector or a ToR, with one family and both, without peers.
fn combinations() -> impl Iterator<Item = (Parameters, KernelMetric)> {
    let priorities = [(1024, 512), (2_147_483_646, 1)];
    let peers: [&[&str]; 5] = [
        &[],
        &["10.0.1.1", "2001:db8::1"],
        &["10.0.1.1", "10.0.1.5", "2001:db8::1", "2001:db8::5"],
        &["10.0.1.1"],
        &["2001:db8::1"],
    ];
    let peerings = [(Peering::Ibgp, 64601), (Peering::Ebgp, 64601), (Peering::Ebgp, 4_200_000_001)];
    let hosts = peerings.into_iter().flat_map(move |peering| peers.map(|peers| (peering, peers)));
    let hosts = hosts.flat_map(move |host| priorities.map(|priorities| (host, priorities)));
    let hosts = hosts.flat_map(|host| [true, false].map(|has_ipv6| (host, has_ipv6)));
    let all = hosts.map(|((((peering, system), peers), (normal, elevated)), has_ipv6)| {
        let autonomous_system = (peering == Peering::Ebgp).then_some(64512);
        let peer = |text: &&str| Peer { address: text.parse().unwrap(), autonomous_system };
        Parameters {
            peering,
            autonomous_system: system,
            router_id: Some("10.0.1.2".parse().unwrap()),
            peers: peers.iter().map(peer).collect(),
            sessions: Sessions::default(),
            community: Community(65535, 65535),
            ipv4: Priorities { normal, elevated },
            ipv6: has_ipv6.then_some(Priorities { normal, elevated }),
            route_protocol: 3,
            interface_prefixes: vec!["cali".to_owned(), "tap".to_owned()],
            bridges: Vec::new(),
        }
    });
    let guarded = move |parameters: Parameters| {
        let sessions = all_of_sessions(parameters.peering);
        [parameters.clone(), Parameters { sessions, ..parameters }]
    };
    all.flat_map(guarded).flat_map(|parameters| METRICS.map(|metric| (parameters.clone(), metric)))
}

/// Everything that sessions can have.
fn all_of_sessions(peering: Peering) -> Sessions {
    Sessions {
        password: Some(r"a\b'#;!c?|{$".parse().unwrap()),
        has_bfd: true,
        hops: (peering == Peering::Ebgp).then_some(255),
        ipv4_source: Some("10.99.0.2".parse().unwrap()),
        ipv6_source: Some("2001:db8:99::2".parse().unwrap()),
    }
}

/// What later releases say where what 2.0.12 does not know is missing; they take it as it is meant.
const ASSUMED: &str = "Missing authentication option, assuming MD5";

#[track_caller]
fn assert_accepted(release: Release, daemon: &str, text: &str) {
    let output = check(release, daemon, text);
    let said = String::from_utf8_lossy(&output.stderr);
    let is_silent = said.lines().all(|line| line.ends_with(ASSUMED));
    assert!(output.status.success() && is_silent, "{release:?}: {said}\n{text}");
}

fn check(release: Release, daemon: &str, text: &str) -> Output {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(text.as_bytes()).unwrap();
    Command::new(release.program(daemon)).args(["-p", "-c"]).arg(file.path()).output().expect("BIRD is there")
}
