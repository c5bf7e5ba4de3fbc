//! FRR's configurations.

use super::Verdict::{Error, Notice, Ok};
use super::{Case, File};

const MESH: (File, &str) = (File::Frr, include_str!("mesh.frr"));
const TOR: (File, &str) = (File::Frr, include_str!("tor.frr"));

#[test]
fn what_is_right_is_fine() {
    for file in [MESH, TOR] {
        Case::of(file, &[]).is_fine();
    }
}

#[test]
fn a_vm_need_not_be_told_of_the_others() {
    for (lines, expected) in [
        (" neighbor tap7c1f interface remote-as external\n", Ok),
        (" neighbor fe80::21 remote-as 64699\n neighbor fe80::21 interface tap7c1f\n", Ok),
        (" neighbor fe80::21 remote-as 64699\n neighbor fe80::21 update-source tap7c1f\n", Ok),
        (" neighbor uplink1 interface remote-as external\n", Error),
    ] {
        let name = lines.split(' ').nth(2).unwrap();
        let text = format!("{lines} address-family ipv4 unicast\n  neighbor {name} activate\n");
        let case = Case::of(MESH, &[(" address-family ipv4 unicast\n", &*text)]);
        case.judge("announces", expected);
    }
}

const TRADITIONAL: &str = "frr defaults traditional\n";
const VERSION: &str = "frr version 8.4.4\n";
const ROUTER: &str = " bgp router-id 198.18.0.11\n";
const OUT: &str = "  neighbor 192.0.2.12 route-map TO-PEER out\n";
const IN: &str = "  neighbor 192.0.2.12 route-map FROM-PEER in\n";

#[test]
fn whether_frr_wants_a_policy_depends_on_profile_and_version() {
    let datacenter = "frr defaults datacenter\n";
    for (profile, version, line, expected) in [
        (TRADITIONAL, VERSION, ROUTER, Error),
        ("\n", "\n", ROUTER, Error),
        (datacenter, VERSION, ROUTER, Ok),
        (TRADITIONAL, "frr version 7.3.1\n", ROUTER, Ok),
        (TRADITIONAL, "frr version 7.4\n", ROUTER, Error),
        (TRADITIONAL, "frr version 10.3\n", ROUTER, Error),
        (TRADITIONAL, VERSION, " no bgp ebgp-requires-policy\n", Ok),
        (datacenter, VERSION, " bgp ebgp-requires-policy\n", Error),
    ] {
        let edits = [(TRADITIONAL, profile), (VERSION, version), (ROUTER, line), (OUT, "\n")];
        Case::of(TOR, &edits).judge("announces", expected);
    }
    Case::of(TOR, &[(TRADITIONAL, datacenter), (OUT, "\n")]).is_fine();
    // Each direction by itself, and a list is a policy, too.
    Case::of(TOR, &[(IN, "\n")]).judge("announces", Ok);
    Case::of(TOR, &[(IN, "\n")]).judge("into-kernel", Error);
    Case::of(TOR, &[(OUT, "  neighbor 192.0.2.12 prefix-list VMS out\n")]).judge("announces", Ok);
    // Inside of an AS nothing is wanted.
    Case::of(TOR, &[("remote-as external", "remote-as internal"), (OUT, "\n")]).judge("announces", Ok);
}

#[test]
fn lists_of_a_neighbour_count() {
    for (line, expected) in [
        ("prefix-list OTHERS out", Error),
        ("prefix-list VMS out", Ok),
        ("prefix-list MISSING out", Error),
        ("distribute-list LIST out", Notice),
        ("distribute-list MISSING out", Error),
        ("filter-list OWN out", Ok),
        ("filter-list FAR out", Notice),
        ("filter-list MISSING out", Error),
    ] {
        let text = format!("{IN}  neighbor 192.0.2.12 {line}\n");
        let lists = "access-list LIST permit 10.65.0.0/16\n\
            bgp as-path access-list OWN permit ^$\nbgp as-path access-list FAR permit _64699_\nrouter bgp 64601\n";
        let edits = [("router bgp 64601\n", lists), (IN, &*text)];
        Case::of(MESH, &edits).judge("announces", expected);
        let text = format!("{IN}  neighbor 192.0.2.12 {}\n", line.replace(" out", " in"));
        let edits = [("router bgp 64601\n", lists), (IN, &*text)];
        Case::of(MESH, &edits).judge("into-kernel", expected);
    }
    for (rule, expected) in [
        ("permit any", Ok),
        ("deny any", Error),
        ("permit 0.0.0.0/0", Ok),
        ("permit 0.0.0.0/0 exact-match", Error),
        ("permit 10.65.0.0/16 exact-match", Error),
        ("seq 5 permit 10.65.0.0/16\naccess-list LIST seq 3 permit any", Ok),
        ("permit 10.65.0.0/16\naccess-list LIST permit any", Ok),
    ] {
        let list = format!("access-list LIST {rule}\nrouter bgp 64601\n");
        let line = format!("{IN}  neighbor 192.0.2.12 distribute-list LIST out\n");
        let edits = [("router bgp 64601\n", &*list), (IN, &*line)];
        Case::of(MESH, &edits).judge("announces", expected);
    }
    // By their numbers, not as they stand.
    for (rules, expected) in [
        ("seq 10 permit any\nip prefix-list LIST seq 5 deny any", Error),
        ("seq 10 deny any\nip prefix-list LIST seq 5 permit any", Ok),
        ("permit any\nip prefix-list LIST deny any", Ok),
        ("description of nothing", Ok),
        ("permit 10.65.0.0/16 le 32", Notice),
    ] {
        let list = format!("ip prefix-list LIST {rules}\nrouter bgp 64601\n");
        let line = format!("{IN}  neighbor 192.0.2.12 prefix-list LIST out\n");
        let edits = [("router bgp 64601\n", &*list), (IN, &*line)];
        Case::of(MESH, &edits).judge("announces", expected);
    }
    // What the group has counts for its neighbours.
    let group = format!("{IN}  neighbor GROUP prefix-list OTHERS out\n");
    let member = (
        ROUTER,
        " bgp router-id 198.18.0.11\n neighbor GROUP peer-group\n neighbor 192.0.2.12 peer-group GROUP\n",
    );
    Case::of(MESH, &[member, (IN, &*group)]).judge("announces", Error);
}

#[test]
fn a_preference_with_a_sign_is_a_change() {
    for (change, check, expected) in [
        ("local-preference -50", "remote-elevated-wins", Error),
        ("local-preference +50", "remote-elevated-wins", Error),
        ("local-preference +50", "elevated-announced", Ok),
        ("local-preference -50", "elevated-announced", Ok),
        ("local-preference 50", "elevated-announced", Error),
        // Everything at the lower end.
        ("local-preference -2147483648", "elevated-announced", Error),
        ("local-preference +rtt", "announces", Notice),
        ("metric +5", "remote-elevated-wins", Ok),
    ] {
        let text = format!("route-map TO-PEER permit 10\n set {change}\n!\nrouter bgp 64601\n");
        let line =
            "  neighbor 192.0.2.12 route-map FROM-PEER in\n  neighbor 192.0.2.12 route-map TO-PEER out\n";
        let edits = [("router bgp 64601\n", &*text), (IN, line)];
        Case::of(MESH, &edits).judge(check, expected);
    }
    // The peers' maps know the number that arrives.
    let known = [
        (
            "router bgp 64601\n",
            "route-map TO-PEER permit 10\n set local-preference -50\n!\nrouter bgp 64601\n",
        ),
        ("match local-preference 2147483637", "match local-preference 2147483587"),
        (IN, "  neighbor 192.0.2.12 route-map FROM-PEER in\n  neighbor 192.0.2.12 route-map TO-PEER out\n"),
    ];
    Case::of(MESH, &known).judge("remote-elevated-wins", Ok);
    // With eBGP there is nothing to add to, and versions differ in what they take instead.
    let external = [(
        " set local-preference 2147483637\n set distance 5",
        " set local-preference +500\n set distance 5",
    )];
    Case::of(TOR, &external).judge("into-kernel", Notice);
    let by_preference = [(" match community ELEVATED\n", " match local-preference 2147483637\n")];
    Case::of(TOR, &by_preference).judge("remote-elevated-wins", Error);
}

#[test]
fn what_stands_between_bgpd_and_the_kernel_counts() {
    let map = "ip prefix-list DEFAULT permit 0.0.0.0/0\n\
        route-map TO-KERNEL permit 10\n match ip address prefix-list DEFAULT\n\
        route-map ALL permit 10\n set src 192.0.2.11\n\
        route-map BY-INTERFACE permit 10\n match interface uplink1\n\
        route-map OF-BGP permit 10\n match source-protocol bgp\n\
        route-map BGPD permit 10\n match local-preference 2147483637\n";
    for (lines, expected) in [
        ("", Ok),
        ("ip protocol bgp route-map TO-KERNEL\n", Error),
        ("ip protocol any route-map TO-KERNEL\n", Error),
        ("ip protocol ospf route-map TO-KERNEL\n", Ok),
        ("ip protocol any route-map TO-KERNEL\nip protocol bgp route-map ALL\n", Ok),
        ("ip protocol bgp route-map ALL\n", Ok),
        ("ip protocol bgp route-map OF-BGP\n", Ok),
        ("ip protocol bgp route-map MISSING\n", Error),
        ("ip protocol bgp route-map BY-INTERFACE\n", Notice),
        ("ip protocol bgp route-map BGPD\n", Notice),
        ("vrf blue\n ip protocol bgp route-map TO-KERNEL\nexit-vrf\n", Ok),
        ("bgp no-rib\n", Error),
    ] {
        let text = format!("{map}{lines}!\nrouter bgp 64601\n");
        Case::of(MESH, &[("router bgp 64601\n", &*text)]).judge("into-kernel", expected);
    }
    for (table_map, expected) in [("TO-KERNEL", Error), ("ALL", Ok), ("BGPD", Error)] {
        let text = format!("{map}!\nrouter bgp 64601\n");
        let line = format!("{IN}  table-map {table_map}\n");
        let edits = [("router bgp 64601\n", &*text), (IN, &*line)];
        Case::of(MESH, &edits).judge("into-kernel", expected);
    }
}

#[test]
fn a_host_that_is_shutting_down_tells_no_priority() {
    let after = |text: &str| format!("{ROUTER}{text}");
    for file in [MESH, TOR] {
        for line in [" bgp graceful-shutdown\n", " neighbor 192.0.2.12 graceful-shutdown\n"] {
            Case::of(file, &[(ROUTER, &*after(line))]).judge("elevated-announced", Error);
        }
        let everywhere = ("router bgp 64601\n", "bgp graceful-shutdown\nrouter bgp 64601\n");
        Case::of(file, &[everywhere]).judge("elevated-announced", Error);
        // One that is shut has no session.
        for line in [" neighbor 192.0.2.12 shutdown\n", " bgp shutdown\n"] {
            Case::of(file, &[(ROUTER, &*after(line))]).judge("announces", Error);
        }
        // In the instance of a VRF.
        let vrf = (
            "router bgp 64601\n",
            "router bgp 64601 vrf blue\n bgp graceful-shutdown\n address-family ipv4 unicast\n exit-address-family\nexit\nrouter bgp 64601\n",
        );
        Case::of(file, &[vrf]).is_fine();
    }
    // The community does the same to eBGP, and nothing to iBGP.
    for community in ["graceful-shutdown", "65535:0"] {
        let to_peer = format!("route-map TO-PEER permit 10\n set community {community} additive\n");
        let edits = [("route-map TO-PEER permit 10\n", &*to_peer)];
        Case::of(TOR, &edits).judge("elevated-announced", Error);
        let to_peer = format!("{to_peer}!\nrouter bgp 64601\n");
        let line = format!("{IN}{OUT}");
        Case::of(MESH, &[("router bgp 64601\n", &*to_peer), (IN, &*line)]).judge("elevated-announced", Ok);
    }
}

/// On the target, bgpd announces its own elevated route beside the source's normal one, which is the best one there.
#[test]
fn with_all_paths_a_route_that_is_not_the_best_one_is_told() {
    for (option, expected) in
        [("next-hop-self", Error), ("addpath-tx-all-paths", Notice), ("addpath-tx-bestpath-per-AS", Error)]
    {
        let line = format!("{IN}  neighbor 192.0.2.12 {option}\n");
        let preferred = (
            "route-map FROM-PEER permit 20\n",
            "route-map FROM-PEER permit 20\n set local-preference 2147483640\n",
        );
        Case::of(MESH, &[preferred, (IN, &*line)]).judge("local-elevated-wins", expected);
    }
}
