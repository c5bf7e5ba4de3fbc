//! Taps that come late, go, come back with another number, and have nobody at the other end (W6, W18, W21).

use cutover_tests::driver::Pace;
use cutover_tests::namespace::Namespace;
use cutover_tests::packet::PacketSocket;
use cutover_tests::resources::new_uid;
use cutover_tests::route_watch::dump_neighbours;
use cutover_tests::scene::{ELEVATED, NORMAL, Node, SOURCE, TARGET};
use cutover_tests::{Driver, Lab, Port, frames, kernel, wait};
use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::Duration;

/// A target's agent that runs, and a migration that has begun.
fn migrating(plugged: bool) -> (Lab, Driver, Port, Node) {
    let lab = Lab::new();
    let directory = lab.directory();
    let port = Port::new(1);
    let mut node = Node::new(&lab, TARGET, &directory, &port);
    if !plugged {
        node.unplug();
    }
    node.agent.set("LiveMigrationRouteConvergenceTime", 1);
    node.agent.start();
    let driver = Driver::new(&directory, &port).at_pace(Pace::IMMEDIATE);
    driver.bind(SOURCE);
    let _uid = driver.start(SOURCE, TARGET);
    node.wait_state(&port, "Target");
    (lab, driver, port, node)
}

/// W6.
#[test]
fn w6_a_tap_that_comes_late_is_watched() {
    let (_lab, _driver, port, mut node) = migrating(false);
    let name = port.name_on(TARGET);
    assert_ne!(node.agent.reported(&name).as_deref(), Some("up"), "there is no tap");
    node.plug(&port);
    node.wait_armed(&port);
    node.tap().open().send(&frames::rarp(port.mac));
    node.wait_metrics(&port, &[ELEVATED]);
}

/// W6: the second device of the same name is another one.
#[test]
fn w6_a_tap_that_comes_back_with_another_number_is_watched() {
    let (_lab, _driver, port, mut node) = migrating(true);
    node.wait_armed(&port);
    for _ in 0..3 {
        let old = node.tap().ifindex();
        node.unplug();
        wait::until(wait::SOON, "the agent knows that it is gone", || {
            node.agent.status_of(&port).is_some_and(|endpoint| endpoint["ifindex"].is_null())
        });
        node.plug(&port);
        assert_ne!(node.tap().ifindex(), old);
        node.wait_armed(&port);
    }
    assert!(node.has_metrics(&port, &[]));
    node.tap().open().send(&frames::rarp(port.mac));
    node.wait_metrics(&port, &[ELEVATED]);
    assert_eq!(node.agent.log().matching(&["to=Target"]).len(), 1, "one migration, however many taps");
}

/// A tap that is replaced between two breaths of the agent is not taken for the old one.
#[test]
fn a_tap_that_is_replaced_at_once_is_watched() {
    let (_lab, _driver, port, mut node) = migrating(true);
    node.wait_armed(&port);
    node.unplug();
    node.plug(&port);
    node.wait_armed(&port);
    node.tap().open().send(&frames::rarp(port.mac));
    node.wait_metrics(&port, &[ELEVATED]);
}

/// The tap of a live endpoint comes back: its routes come back at the right priority.
#[test]
fn a_live_endpoint_gets_its_routes_back_with_its_tap() {
    let (_lab, driver, port, mut node) = migrating(true);
    node.wait_armed(&port);
    node.tap().open().send(&frames::rarp(port.mac));
    node.wait_metrics(&port, &[ELEVATED]);
    node.unplug();
    node.wait_metrics(&port, &[]);
    node.plug(&port);
    node.wait_metrics(&port, &[ELEVATED]);
    driver.succeed_extended(SOURCE, TARGET);
    node.wait_metrics(&port, &[NORMAL]);
}

/// An agent that runs, and a port that is at home there and routed.
fn at_home() -> (Lab, Port, Node) {
    let lab = Lab::new();
    let directory = lab.directory();
    let port = Port::new(1);
    let mut node = Node::new(&lab, SOURCE, &directory, &port);
    Driver::new(&directory, &port).bind(SOURCE);
    node.agent.start();
    node.wait_metrics(&port, &[NORMAL]);
    (lab, port, node)
}

/// A tap that is set down loses its routes in the kernel; set up again it has them back.
#[test]
fn a_tap_that_was_down_gets_its_routes_back() {
    let (_lab, port, node) = at_home();
    node.host.namespace().ip(&format!("link set {} down", port.interface));
    node.wait_metrics(&port, &[]);
    node.host.namespace().ip(&format!("link set {} up", port.interface));
    node.wait_metrics(&port, &[NORMAL]);
}

/// It is up again before the agent hears that it was down. The route that is back by then stays.
#[test]
fn a_tap_that_flaps_loses_its_routes_once_each_time() {
    const FLAPS: usize = 25;
    /// Longer than a route was away for the second time, when it was.
    const QUIET: Duration = Duration::from_millis(100);
    let (_lab, port, node) = at_home();
    let mark = node.watch.mark();
    for _ in 0..FLAPS {
        let tap = &port.interface;
        node.host.namespace().ip(&format!("link set {tap} down\nlink set {tap} up"));
        node.wait_metrics(&port, &[NORMAL]);
        node.watch.wait_quiet(wait::SOON, QUIET);
    }
    let history = node.watch.since(mark);
    for to in port.routed() {
        let metrics = history.metrics(to);
        let gaps = metrics.iter().filter(|metrics| metrics.is_empty()).count();
        assert!(gaps <= FLAPS, "{gaps} in {FLAPS}: {metrics:?}\n{}", node.agent.log_text());
    }
}

/// W18, W21: while nobody has opened the tap everything is in place already, and reported so.
#[test]
fn w18_everything_is_in_place_before_the_hypervisor_opens_the_tap() {
    let (_lab, _driver, port, node) = migrating(true);
    node.wait_armed(&port);
    assert!(!node.tap().has_carrier());

    let namespace = node.host.namespace();
    let tap = node.tap().ifindex();
    let neighbours = namespace.run(dump_neighbours).expect("a dump");
    let permanent: BTreeSet<IpAddr> = neighbours
        .iter()
        .filter(|entry| entry.ifindex == tap && entry.permanent && entry.mac == Some(port.mac))
        .map(|entry| entry.address)
        .collect();
    assert_eq!(permanent, port.addresses.iter().map(|net| net.addr()).collect());

    let name = &port.interface;
    for (path, value) in [
        (format!("net/ipv4/conf/{name}/route_localnet"), "0"),
        (format!("net/ipv4/conf/{name}/drop_gratuitous_arp"), "1"),
        (format!("net/ipv4/conf/{name}/proxy_arp"), "1"),
        (format!("net/ipv4/neigh/{name}/proxy_delay"), "0"),
        (format!("net/ipv4/conf/{name}/forwarding"), "1"),
        (format!("net/ipv6/conf/{name}/accept_ra"), "0"),
        (format!("net/ipv6/conf/{name}/accept_dad"), "0"),
        (format!("net/ipv6/conf/{name}/proxy_ndp"), "1"),
        (format!("net/ipv6/conf/{name}/forwarding"), "1"),
    ] {
        assert_eq!(namespace.sysctl(&path).as_deref(), Some(value), "{path}");
    }
    assert_eq!(namespace.sysctl("net/ipv4/ip_forward").as_deref(), Some("1"));
    assert_eq!(namespace.sysctl("net/ipv6/conf/all/forwarding").as_deref(), Some("1"));
    // The namespace's, not the machine's: the uplink keeps what it had.
    assert_eq!(namespace.sysctl("net/ipv4/conf/eth0/proxy_arp").as_deref(), Some("0"));

    node.tap().open().send(&frames::rarp(port.mac));
    node.wait_metrics(&port, &[ELEVATED]);
}

/// The guest's IPv6 gateway is the tap's link-local address. It answers from the moment when the tap has a carrier.
#[test]
fn the_gateway_is_there_when_the_hypervisor_opens_the_tap() {
    let (_lab, _driver, port, node) = migrating(true);
    node.wait_armed(&port);
    let hypervisor = node.tap().open();
    // Address, number, length, scope, flags and name of the interface, as in net/ipv6/addrconf.c.
    let flags = || {
        let table = node.host.namespace().run(|| std::fs::read_to_string("/proc/thread-self/net/if_inet6"));
        let line = table.ok()?.lines().find(|line| line.ends_with(&port.interface))?.to_owned();
        u32::from_str_radix(line.split_whitespace().nth(4)?, 16).ok()
    };
    // KERNEL: each address is tentative for a moment, until a worker finds that it need not be probed (addrconf_dad_begin).
    wait::until(wait::SOON, "the tap has its address", || {
        flags().is_some_and(|flags| flags & libc::IFA_F_TENTATIVE == 0)
    });
    let probes: Vec<Vec<u8>> =
        std::iter::from_fn(|| hypervisor.receive()).filter(|it| is_probe(it)).collect();
    assert!(
        probes.is_empty(),
        "the address was probed first, for a second or two (RFC 4862, 5.4): {probes:?}"
    );
}

/// Whether a frame asks whether an IPv6 address is in use: a neighbour solicitation from the unspecified address.
fn is_probe(frame: &[u8]) -> bool {
    let (ethertype, source, next_header, kind) = (12..14, 22..38, 20, 54);
    let is_solicitation = frame.len() > kind
        && frame[ethertype] == [0x86, 0xdd]
        && (frame[next_header], frame[kind]) == (58, 135);
    is_solicitation && frame[source] == [0; 16]
}

/// Routes of a VM that is not migrating do not wait for a carrier either.
#[test]
fn a_normal_route_needs_no_carrier() {
    let lab = Lab::new();
    let directory = lab.directory();
    let port = Port::new(1);
    let mut node = Node::new(&lab, SOURCE, &directory, &port);
    Driver::new(&directory, &port).bind(SOURCE);
    node.agent.start();
    node.wait_metrics(&port, &[NORMAL]);
    assert!(!node.tap().has_carrier());
}

/// VMs that do not migrate pay nothing: no program on their taps, before and after a migration.
#[test]
fn a_program_is_attached_only_while_a_watch_is_wanted() {
    let (_lab, driver, port, node) = migrating(true);
    node.wait_armed(&port);
    let pins = node.agent.pin_path();
    // Its link, or without tcx a mark that its qdisc is the agent's.
    let attached = if kernel::has(kernel::TCX) {
        pins.join("links").join(&port.interface)
    } else {
        pins.join("qdiscs").join(node.tap().ifindex().to_string())
    };
    assert!(attached.exists(), "{} while armed", attached.display());
    node.tap().open().send(&frames::rarp(port.mac));
    node.wait_metrics(&port, &[ELEVATED]);
    driver.succeed_extended(SOURCE, TARGET);
    node.wait_metrics(&port, &[NORMAL]);
    wait::until(wait::SOON, "it goes when the migration is over", || !attached.exists());
}

/// A container's cable is as good as a tap.
#[test]
fn a_cable_is_watched_like_a_tap() {
    let lab = Lab::new();
    let directory = lab.directory();
    let port = Port::new(1);
    let mut node = Node::new(&lab, TARGET, &directory, &port);
    node.unplug();
    let guest = Namespace::create(&format!("{}guest", lab.prefix()));
    node.host.plug_cable(&port.interface, port.tap_mac(), &guest);
    node.agent.start();
    let driver = Driver::new(&directory, &port).at_pace(Pace::IMMEDIATE);
    driver.bind(SOURCE);
    let _uid = driver.start(SOURCE, TARGET);
    node.agent.wait_up(&port);
    let sender = PacketSocket::bind(&guest, "eth0");
    sender.send(&frames::arp_probe(port.mac, [10, 65, 0, 2].into()));
    wait::throughout(Duration::from_millis(300), "no route", || node.has_metrics(&port, &[]));
    sender.send(&frames::garp_request(port.mac, [10, 65, 0, 2].into()));
    node.wait_metrics(&port, &[ELEVATED]);
}

/// An endpoint without an interface name is no reason to fall over; its state is kept all the same.
#[test]
fn an_endpoint_without_an_interface_does_not_disturb_the_others() {
    let (lab, _driver, port, node) = migrating(true);
    let mut nameless = Port::new(2);
    nameless.interface = String::new();
    let directory = lab.directory();
    directory.put(&nameless.endpoint_on(TARGET, "u"));
    directory.put(&nameless.migration(SOURCE, TARGET, "v"));
    node.agent.log().wait(wait::SOON, &["LiveMigration created/updated", "uid=v"]);
    node.wait_armed(&port);
    node.tap().open().send(&frames::rarp(port.mac));
    node.wait_metrics(&port, &[ELEVATED]);
}

/// A tap may go between any two steps of what is done to it: nobody has to look at that, or at what fails because of it.
#[test]
fn taps_that_come_and_go_are_no_warning() {
    let (lab, _driver, port, mut node) = migrating(true);
    let others: Vec<Port> = (2..=30).map(Port::new).collect();
    let directory = lab.directory();
    for other in &others {
        directory.put(&other.endpoint_on(TARGET, &new_uid()));
    }
    for round in 0..12 {
        node.wait_armed(&port);
        // Each goes when so many others have come, which is sooner or later after the agent has begun with it.
        node.host.namespace().ip(&passing_by(&others, round % 4));
        node.unplug();
        node.plug(&port);
    }
    node.wait_armed(&port);
    for level in [" WARN ", " ERROR "] {
        let said = node.agent.log().matching(&[level]);
        assert!(said.is_empty(), "{said:#?}");
    }
}

/// libvirt deletes a machine's tap after its migration and makes it again 0.2 s later, for 2 ms, with another number and never up. That is
/// nobody's tap: neither while the migration is known, nor before or after the endpoint goes.
#[test]
fn a_tap_that_is_made_again_for_a_moment_brings_nothing_back() {
    let lab = Lab::new();
    let directory = lab.directory();
    let port = Port::new(1);
    let mut node = Node::new(&lab, SOURCE, &directory, &port);
    node.agent.start();
    let driver = Driver::new(&directory, &port).at_pace(Pace::IMMEDIATE);
    driver.bind(SOURCE);
    node.open();
    node.wait_settled(&port);
    node.agent.wait_up(&port);
    let name = port.name_on(SOURCE);
    let _uid = driver.start(SOURCE, TARGET);
    node.agent.log().wait(wait::SOON, &["emitting role for WEP", &format!("wep={name}"), "role=SOURCE"]);
    node.unplug();
    node.wait_metrics(&port, &[]);
    let mark = node.watch.mark();
    let pass_by = || {
        for _ in 0..5 {
            std::thread::sleep(Duration::from_millis(200));
            node.host.namespace().ip(&format!("tuntap add dev {0} mode tap\nlink del {0}", port.interface));
        }
        wait::until(wait::SOON, "the agent knows that it is gone", || {
            node.agent.status_of(&port).is_none_or(|endpoint| endpoint["ifindex"].is_null())
        });
    };
    pass_by();
    driver.withdraw(TARGET);
    pass_by();
    driver.unbind(SOURCE);
    node.agent.log().wait(wait::SOON, &["Endpoint removed", &name]);
    pass_by();
    assert_eq!(node.agent.status_of(&port), None);
    for to in port.routed() {
        assert_eq!(node.watch.since(mark).metrics(to), [[0_u32; 0]], "{to}");
    }
    for level in [" WARN ", " ERROR "] {
        let said = node.agent.log().matching(&[level]);
        assert!(said.is_empty(), "{said:#?}");
    }
}

/// Commands that plug the taps of all ports one after the other, and unplug each when `later` others have been plugged.
fn passing_by(ports: &[Port], later: usize) -> String {
    let mut script = String::new();
    for (number, port) in ports.iter().enumerate() {
        let name = &port.interface;
        script += &format!("tuntap add dev {name} mode tap\nlink set {name} up\n");
        if let Some(number) = number.checked_sub(later) {
            script += &format!("link del {}\n", ports[number].interface);
        }
    }
    for port in &ports[ports.len() - later..] {
        script += &format!("link del {}\n", port.interface);
    }
    script
}
