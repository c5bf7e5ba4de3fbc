//! A host whose VMs are announced by a real FRR: with the configuration that `cutover bgp` prints, and with broken ones.

use crate::{only, problems, report, route_out};
use cutover_tests::fabric::FRR_PRIORITIES;
use cutover_tests::scene::{Node, SOURCE};
use cutover_tests::{Directory, Driver, Frr, Host, Lab, Port, Release, wait};
use std::collections::BTreeSet;
use std::time::Duration;

/// How long two FRRs may take to agree.
///
/// LIMIT: only failing tests wait this long.
const SESSION: Duration = Duration::from_secs(40);

struct Site {
    node: Node,
    peer: Host,
    _directory: Directory,
    lab: Lab,
}

impl Site {
    /// A host with a running agent and one VM, and another host.
    fn new() -> Self {
        let lab = Lab::new();
        let (directory, port) = (lab.directory(), Port::new(1));
        let mut node = Node::new(&lab, SOURCE, &directory, &port);
        let peer = lab.host("peer");
        node.open();
        route_out(&node.host);
        Driver::new(&directory, &port).bind(SOURCE);
        for family in ["IPv4", "IPv6"] {
            node.agent.set(&format!("{family}NormalRoutePriority"), FRR_PRIORITIES.normal);
            node.agent.set(&format!("{family}ElevatedRoutePriority"), FRR_PRIORITIES.elevated);
        }
        node.agent.start_in_sync();
        node.wait_metrics(&port, &[FRR_PRIORITIES.normal]);
        node.agent.wait_up(&port);
        Self { node, peer, _directory: directory, lab }
    }

    /// What `cutover bgp frr` prints for one of the hosts.
    fn printed(&self, own: &Host, other: &Host) -> String {
        let (id, peer) = (own.ipv4().to_string(), other.ipv4().to_string());
        let peer_6 = other.ipv6().to_string();
        let arguments =
            ["bgp", "frr", "--as", "65000", "--router-id", &id, "--peer", &peer, "--peer", &peer_6];
        self.node.agent.run_ok(&arguments)
    }

    #[track_caller]
    fn start(&self, host: &Host, configuration: &str) -> Frr {
        Frr::start(&self.lab, host.namespace_shared(), configuration, Release::Frr8)
    }

    /// Waits until the doctor finds this and nothing else: sessions take their time.
    #[track_caller]
    fn wait_problems(&self, expected: &[&str]) {
        let mut found = BTreeSet::new();
        let is_so = wait::holds_within(SESSION, || {
            found = problems(&self.node, &[]);
            found == only(expected)
        });
        assert!(is_so, "{found:?}, not {expected:?}: {:#}", report(&self.node, &[]));
    }
}

#[test]
fn what_cutover_prints_is_right_and_what_breaks_it_is_found() {
    let site = Site::new();
    let (own, peer) = (&site.node.host, &site.peer);
    let right = site.printed(own, peer);
    let of_peer = site.printed(peer, own);
    let other = site.start(peer, &of_peer);
    let frr = site.start(own, &right);
    site.wait_problems(&[]);
    let report = report(&site.node, &[]);
    let findings = report["findings"].as_array().expect("findings");
    let running = findings.iter().find(|finding| finding["check"] == "bgp.running").expect("it was asked");
    assert_eq!(running["level"], "ok", "{running}");

    drop(other);
    site.wait_problems(&["bgp.running"]);
    let _other = site.start(peer, &of_peer);
    site.wait_problems(&[]);
    drop(frr);

    for (from, to, expected) in [
        ("  redistribute kernel route-map CUTOVER-KERNEL4\n", "", &["bgp.learns"][..]),
        (" set weight 0\n", "", &["bgp.remote-elevated-wins"]),
        (" set distance 5\n", "", &["bgp.remote-elevated-wins"]),
        (
            " set local-preference 2147483637\n",
            " set local-preference 100\n",
            &["bgp.elevated-announced", "bgp.local-elevated-wins", "bgp.remote-elevated-wins"],
        ),
    ] {
        assert!(right.contains(from), "{from:?} is not in {right}");
        let _frr = site.start(own, &right.replace(from, to));
        site.wait_problems(expected);
    }
}
