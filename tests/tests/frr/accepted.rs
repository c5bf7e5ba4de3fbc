//! FRR's own check of every sort of configuration that `cutover bgp frr` prints.

use cutover_bgp::{Community, Parameters, Peer, Peering, Priorities, Sessions, frr};
use cutover_tests::Release;
use std::io::Write as _;
use std::process::{Command, Output};

#[test]
fn frr_accepts_every_combination() {
    let mut releases = Release::FRRS.to_vec();
    releases.retain(|release| release.is_there("the check of every configuration for FRR"));
    let priorities = [
        // The default ones: FRR falls short of what it could do, and takes the text all the same.
        Priorities { normal: 1024, elevated: 512 },
        Priorities { normal: 100_665_344, elevated: 10 },
        Priorities { normal: (19 << 24) + 7, elevated: 512 },
    ];
    let families: [&[&str]; 3] = [&["10.0.1.1", "2001:db8::1"], &["10.0.1.1", "10.0.1.5"], &["2001:db8::1"]];
    for peering in [Peering::Ibgp, Peering::Ebgp] {
        for autonomous_system in [64601, 4_200_000_001] {
            for (ipv4, peers) in priorities.into_iter().flat_map(|ipv4| families.map(|peers| (ipv4, peers))) {
                for ipv6 in [None, Some(priorities[0]), Some(priorities[1])] {
                    let number = (peering == Peering::Ebgp).then_some(64512);
                    let peer =
                        |text: &&str| Peer { address: text.parse().unwrap(), autonomous_system: number };
                    for sessions in [Sessions::default(), all_of_sessions(peering)] {
                        let parameters = Parameters {
                            peering,
                            autonomous_system,
                            router_id: Some("10.0.1.2".parse().unwrap()),
                            peers: peers.iter().map(peer).collect(),
                            sessions,
                            community: Community(65535, 65535),
                            ipv4,
                            ipv6,
                            route_protocol: 3,
                            interface_prefixes: vec!["tap".to_owned()],
                            bridges: Vec::new(),
                        };
                        for text in [frr::configuration(&parameters), frr::snippet(&parameters)] {
                            let text = text.unwrap().text;
                            for release in &releases {
                                let output = check(*release, &text);
                                let is_silent = output.stdout.is_empty() && output.stderr.is_empty();
                                assert!(
                                    output.status.success() && is_silent,
                                    "{release:?} {parameters:#?}\n{output:?}"
                                );
                            }
                        }
                    }
                }
            }
        }
    }
    for release in releases {
        assert!(!check(release, "router bgp 1\n bgp nonsense\n").status.success(), "the check can fail");
    }
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

fn check(release: Release, text: &str) -> Output {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(text.as_bytes()).unwrap();
    Command::new(release.program("vtysh"))
        .args(["-C", "-f"])
        .arg(file.path())
        .output()
        .expect("vtysh is there")
}
