//! Sysctls, interfaces and the agent.

use crate::{only, problems, report, route_out};
use cutover_tests::scene::{NORMAL, Node, SOURCE};
use cutover_tests::{Directory, Driver, Lab, Port, residue, wait};

struct Site {
    node: Node,
    port: Port,
    _directory: Directory,
    lab: Lab,
}

/// A host with a running agent and one VM.
fn site() -> Site {
    let lab = Lab::new();
    let (directory, port) = (lab.directory(), Port::new(1));
    let mut node = Node::new(&lab, SOURCE, &directory, &port);
    node.open();
    route_out(&node.host);
    Driver::new(&directory, &port).bind(SOURCE);
    node.agent.start_in_sync();
    node.wait_metrics(&port, &[NORMAL]);
    node.agent.wait_up(&port);
    Site { node, port, _directory: directory, lab }
}

#[test]
fn a_healthy_host_has_nothing_wrong_and_nothing_is_left_on_it() {
    let site = site();
    let before = residue::of(site.lab.prefix());
    let links = site.node.host.namespace().run(|| cutover_daemon::netlink::snapshot::links().expect("links"));
    let report = report(&site.node, &[]);
    assert_eq!(problems(&site.node, &[]), only(&[]), "{report:#}");
    let found = |check: &str, part: &str| {
        let findings = report["findings"].as_array().expect("findings");
        let of = |finding: &&serde_json::Value| finding["check"] == check;
        assert!(
            findings
                .iter()
                .filter(of)
                .any(|finding| finding["what"].as_str().is_some_and(|it| it.contains(part))),
            "no {check} with {part:?} in {report:#}"
        );
    };
    found("agent.running", "is in sync");
    found("agent.capabilities", "the running agent");
    found("network.interface-prefix", "1 interfaces");
    found("kernel.attaching", "taps are watched with");
    assert_eq!(residue::of(site.lab.prefix()), before);
    let after = site.node.host.namespace().run(|| cutover_daemon::netlink::snapshot::links().expect("links"));
    assert_eq!(after, links);
}

#[test]
fn each_wrong_sysctl_is_found() {
    let site = site();
    let tap = &site.port.interface;
    for (path, wrong, right, check) in [
        ("net/ipv4/ip_forward", "0", "1", "network.ipv4-forwarding"),
        ("net/ipv6/conf/all/forwarding", "0", "1", "network.ipv6-forwarding"),
        ("net/ipv4/conf/eth0/rp_filter", "1", "0", "network.rp-filter"),
        (&format!("net/ipv4/conf/{tap}/proxy_arp"), "0", "1", "network.tap-settings"),
        (&format!("net/ipv6/conf/{tap}/proxy_ndp"), "0", "1", "network.tap-settings"),
    ] {
        let namespace = site.node.host.namespace();
        let mut found = only(&[]);
        // The agent puts those of its taps right whenever it looks, and may just have been about to.
        wait::until(wait::SOON, format_args!("{path} is found"), || {
            namespace.set_sysctl(path, wrong);
            found = problems(&site.node, &[]);
            found.contains(check)
        });
        // Both families: forwarding of the host as a whole is passed on to each interface.
        assert!(found.iter().all(|it| it == check || it == "network.tap-settings"), "{path}: {found:?}");
        namespace.set_sysctl(path, right);
        namespace.set_sysctl(&format!("net/ipv4/conf/{tap}/forwarding"), "1");
        namespace.set_sysctl(&format!("net/ipv6/conf/{tap}/forwarding"), "1");
        assert_eq!(problems(&site.node, &[]), only(&[]), "after {path}");
    }
    let loose = "net/netfilter/nf_conntrack_tcp_loose";
    if site.node.host.namespace().sysctl(loose).is_some() {
        site.node.host.namespace().set_sysctl(loose, "0");
        assert_eq!(problems(&site.node, &[]), only(&["network.tcp-loose"]));
    }
}

/// KERNEL: without it, no proxy ARP for an address that is behind it.
#[test]
fn a_host_without_a_default_route_is_found() {
    let site = site();
    site.node.host.namespace().ip("route del default");
    assert_eq!(problems(&site.node, &[]), only(&["network.gateway-route"]));
}

#[test]
fn a_ready_command_that_cannot_be_run_is_found() {
    let mut site = site();
    let command = site.lab.folder().join("ready");
    site.node.agent.set("CutoverReadyCommand", command.display());
    assert_eq!(problems(&site.node, &[]), only(&["settings.ready-command"]));
    std::fs::write(&command, "#!/bin/sh\n").expect("space");
    assert_eq!(problems(&site.node, &[]), only(&["settings.ready-command"]));
    std::process::Command::new("chmod").arg("+x").arg(&command).status().expect("chmod");
    assert_eq!(problems(&site.node, &[]), only(&[]));
}

#[test]
fn interfaces_that_do_not_fit_are_found() {
    let mut site = site();
    let namespace = site.node.host.namespace_shared();
    namespace.ip(&format!("link set {} down", site.port.interface));
    assert_eq!(problems(&site.node, &[]), only(&["network.tap-carrier"]));
    namespace.ip(&format!("link set {} up", site.port.interface));
    site.node.agent.terminate();
    for (prefix, expected) in [
        ("cali", only(&["network.interface-prefix"])),
        ("tap,eth", only(&["network.gateway-route"])),
        ("tap", only(&[])),
    ] {
        site.node.agent.set("InterfacePrefix", prefix);
        assert_eq!(problems(&site.node, &[]), expected, "{prefix}");
    }
    // The lab's uplink is a veth, as containers' interfaces are; a bridge is nobody's workload.
    namespace.ip("link add tapbridge up type bridge");
    assert_eq!(problems(&site.node, &[]), only(&["network.interface-prefix"]));
    namespace.ip("link del tapbridge");
}

/// The tap of the next host would have another one.
#[test]
fn a_hardware_address_of_the_taps_own_is_found() {
    let site = site();
    let taps = site.port.tap_mac().to_string();
    for (address, expected) in [
        ("7e:00:00:00:00:01", only(&["network.tap-mac"])),
        ("00:61:fe:ed:ca:fe", only(&[])),
        (taps.as_str(), only(&[])),
    ] {
        site.node.host.namespace().ip(&format!("link set {} address {address}", site.port.interface));
        // KERNEL: the neighbours of the interface go with its address; the agent puts them back.
        wait::until(wait::SOON, format_args!("{expected:?} with {address}"), || {
            problems(&site.node, &[]) == expected
        });
    }
}

/// A second agent of any kind is found only if it is in the same network namespace.
#[test]
fn another_agent_is_found() {
    let site = site();
    let felix = site.lab.folder().join("calico-felix");
    std::fs::copy("/bin/sleep", &felix).expect("a copy");
    let mut elsewhere = std::process::Command::new(&felix).arg("600").spawn().expect("a process");
    let alone = problems(&site.node, &[]);
    let mut here = site.node.host.namespace().command(&felix).arg("600").spawn().expect("a process");
    let together = problems(&site.node, &[]);
    for child in [&mut elsewhere, &mut here] {
        child.kill().expect("it runs");
        child.wait().expect("it has ended");
    }
    assert_eq!(alone, only(&[]));
    assert_eq!(together, only(&["agent.others"]));
}
