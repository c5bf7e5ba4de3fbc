use super::*;
use crate::{Community, Peer, Peering, Priorities, Sessions};

const NORMAL: u32 = (6 << 24) + 2048;

fn host(peering: Peering) -> Parameters {
    let asn = |number| (peering == Peering::Ebgp).then_some(number);
    Parameters {
        peering,
        autonomous_system: 64601,
        router_id: Some("10.0.1.2".parse().unwrap()),
        peers: vec![
            Peer { address: "10.0.1.1".parse().unwrap(), autonomous_system: asn(64512) },
            Peer { address: "10.0.1.5".parse().unwrap(), autonomous_system: asn(64513) },
            Peer { address: "2001:db8:0:1::1".parse().unwrap(), autonomous_system: asn(64512) },
        ],
        sessions: Sessions::default(),
        community: Community(65000, 100),
        ipv4: Priorities { normal: NORMAL, elevated: 10 },
        ipv6: Some(Priorities { normal: NORMAL, elevated: 10 }),
        route_protocol: 3,
        interface_prefixes: vec!["cali".to_owned(), "tap".to_owned()],
        bridges: Vec::new(),
    }
}

/// Compares with a file; `CUTOVER_BLESS=1` writes it instead.
#[track_caller]
fn assert_golden(name: &str, text: &str) {
    let path = format!("{}/src/frr/golden/{name}.conf", env!("CARGO_MANIFEST_DIR"));
    if std::env::var_os("CUTOVER_BLESS").is_some() {
        std::fs::write(&path, text).unwrap();
    }
    let expected = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{path}: {error}"));
    assert!(text == expected, "{path} is another; CUTOVER_BLESS=1 writes it:\n{text}");
}

#[test]
fn ibgp() {
    assert_golden("ibgp", &configuration(&host(Peering::Ibgp)).unwrap().text);
}

#[test]
fn ebgp() {
    assert_golden("ebgp", &configuration(&host(Peering::Ebgp)).unwrap().text);
}

#[test]
fn other_numbers_and_one_family() {
    let mut host = host(Peering::Ebgp);
    host.autonomous_system = 4_200_000_001;
    host.community = Community(64900, 7);
    host.ipv4 = Priorities { normal: (9 << 24) + 300, elevated: 200 };
    host.ipv6 = None;
    assert_golden("other_numbers", &configuration(&host).unwrap().text);
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
    assert_golden("sessions", &configuration(&host).unwrap().text);
}

#[test]
fn what_a_site_adds() {
    assert_golden("snippet_ibgp", &snippet(&host(Peering::Ibgp)).unwrap().text);
    assert_golden("snippet_ebgp", &snippet(&host(Peering::Ebgp)).unwrap().text);
    let mut host = host(Peering::Ebgp);
    host.peers.clear();
    let text = snippet(&host).unwrap().text;
    assert!(text.contains("!   neighbor 2001:db8::1 route-map CUTOVER-OUT6 out\n"), "{text}");
}

#[test]
fn a_family_without_peers_is_left_out_and_not_judged() {
    let mut host = host(Peering::Ibgp);
    host.ipv6 = Some(Priorities { normal: 1024, elevated: 512 });
    let falls_short = [Shortcoming::KeepsOwnRoute { setting: "IPv6NormalRoutePriority", value: 1024 }];
    assert_eq!(configuration(&host).unwrap().shortcomings, falls_short);
    host.peers.retain(|peer| peer.address.is_ipv4());
    let Configuration { text, shortcomings } = configuration(&host).unwrap();
    assert_eq!(shortcomings, []);
    assert!(!text.contains("address-family ipv6") && text.contains("address-family ipv4"));
}

#[test]
fn each_family_has_its_own_priorities() {
    let mut host = host(Peering::Ibgp);
    host.ipv6 = Some(Priorities { normal: (7 << 24) + 3000, elevated: 15 });
    let text = configuration(&host).unwrap().text;
    let map = |name: &str| {
        let from = text.find(&format!("route-map {name} permit 10")).unwrap();
        text[from..from + 400].to_owned()
    };
    assert!(map("CUTOVER-KERNEL4").contains("match metric 10\n"));
    assert!(map("CUTOVER-KERNEL6").contains("match metric 15\n"));
    assert!(map("CUTOVER-IN4").contains("set distance 5\n"));
    assert!(map("CUTOVER-IN6").contains("set distance 6\n"));
}

#[test]
fn an_elevated_priority_behind_zebra_is_accepted_with_a_note() {
    let mut host = host(Peering::Ibgp);
    let note = "IPv4ElevatedRoutePriority is 512.";
    assert!(!configuration(&host).unwrap().text.contains(note));
    host.ipv4.elevated = 512;
    assert!(configuration(&host).unwrap().text.contains(note));
}

/// What comes without any setting carries the priority to the other hosts, and says what it does not do.
#[test]
fn the_default_priorities_are_carried_with_a_warning() {
    let mut host = host(Peering::Ibgp);
    host.ipv4 = Priorities { normal: 1024, elevated: 512 };
    host.ipv6 = Some(host.ipv4);
    let Configuration { text, shortcomings } = configuration(&host).unwrap();
    assert_eq!(shortcomings.len(), 2);
    assert_eq!(text.matches("! WARNING: ").count(), 2);
    assert!(!text.contains("set distance"));
    assert!(text.contains("match metric 512\n set local-preference 2147483135\n"));
    assert!(text.contains("match metric 1024\n set local-preference 2147482623\n"));
    host.ipv4 = Priorities { normal: NORMAL, elevated: 10 };
    let Configuration { text, shortcomings } = configuration(&host).unwrap();
    assert_eq!((shortcomings.len(), text.matches("! WARNING: ").count()), (1, 1));
}

#[test]
fn frr_s_own_protocol_numbers_are_refused() {
    let mut host = host(Peering::Ibgp);
    for value in [11, 42, 186, 198] {
        host.route_protocol = value;
        assert_eq!(configuration(&host), Err(Refusal::RouteProtocol { value }));
    }
    host.route_protocol = 80;
    assert!(configuration(&host).is_ok());
}
