//! What the agent does when nobody migrates: it repairs what others break, touches nothing that is not its
//! own, and writes nothing when nothing differs (W4, W20).

use cutover_tests::deafening::deafen;
use cutover_tests::driver::Pace;
use cutover_tests::resources::felix_configuration;
use cutover_tests::scene::{ELEVATED, NORMAL, Node, SOURCE, TARGET};
use cutover_tests::{Agent, Directory, Driver, Lab, Port, frames, wait};
use nix::sys::signal::Signal;
use serde_json::json;
use std::time::Duration;

/// A VM that runs on a host with an agent.
fn settled(configure: impl FnOnce(&mut Agent)) -> (Lab, Directory, Port, Node) {
    let lab = Lab::new();
    let directory = lab.directory();
    let mut port = Port::new(1);
    port.floating = vec![([10, 65, 0, 2].into(), [172, 16, 0, 9].into())];
    let mut node = Node::new(&lab, SOURCE, &directory, &port);
    configure(&mut node.agent);
    Driver::new(&directory, &port).bind(SOURCE);
    node.agent.start();
    node.open();
    node.wait_settled(&port);
    node.agent.wait_up(&port);
    (lab, directory, port, node)
}

/// W20: several periodic dumps find everything as it should be, IPv6 scope included, and write nothing.
#[test]
fn w20_a_resync_that_finds_nothing_writes_nothing() {
    let (_lab, _directory, _port, node) = settled(|agent| {
        agent.set("RouteRefreshInterval", 1);
        agent.set("InterfaceRefreshInterval", 1);
    });
    let mark = node.watch.mark();
    let before = node.agent.status()["route_writes"].clone();
    assert!(before.is_u64(), "the status counts writes");
    let tap = node.tap().ifindex();
    wait::throughout(Duration::from_millis(3500), "no write", || {
        node.watch.since(mark).writes_to(tap).is_empty()
    });
    assert_eq!(node.agent.status()["route_writes"], before);
}

/// The notification is enough: the interval of the periodic dump is an hour here.
#[test]
fn a_route_that_an_operator_deletes_comes_back_at_once() {
    let (_lab, _directory, port, node) = settled(|agent| agent.set("RouteRefreshInterval", 3600));
    for to in port.routed() {
        let mark = node.watch.mark();
        node.host.namespace().ip(&format!("route del {to} dev {}", port.interface));
        node.wait_metrics_within(Duration::from_secs(1), &port, &[NORMAL]);
        assert_eq!(node.watch.since(mark).metrics(to), [vec![NORMAL], vec![], vec![NORMAL]], "{to}");
    }
}

/// `NetlinkTimeoutSecs`, from the datastore: a kernel that does not answer is asked anew after that, and not after the built-in 10 s.
#[test]
fn a_kernel_that_does_not_answer_is_asked_anew() {
    let (_lab, directory, port, node) = settled(|agent| agent.set("RouteRefreshInterval", 1));
    let log = node.agent.log().mark();
    directory.put(&felix_configuration("default", &json!({"netlinkTimeout": "500ms"})));
    node.agent.log().wait_after(log, wait::SOON, &["Settings changed"]);
    for _ in 0..2 {
        let log = node.agent.log().mark();
        // The monitor may be about to take another socket, or have its answer already.
        wait::until(Duration::from_secs(10), "it is noticed", || {
            let said =
                node.agent.log().since(log).iter().any(|line| line.text.contains("a dump did not end"));
            if !said {
                let _sockets = deafen(node.agent.pid().expect("it runs"));
                std::thread::sleep(Duration::from_millis(100));
            }
            said
        });
        node.host.namespace().ip(&format!("route del {} dev {}", port.ipv4(), port.interface));
        node.wait_metrics_within(Duration::from_secs(5), &port, &[NORMAL]);
    }
}

/// The same for an elevated route in mid-migration, which no dump would put right in time.
#[test]
fn an_elevated_route_that_is_deleted_comes_back_at_once() {
    let (_lab, _directory, port, node) = armed(|agent| agent.set("RouteRefreshInterval", 3600));
    node.tap().open().send(&frames::rarp(port.mac));
    node.wait_metrics(&port, &[ELEVATED]);
    for to in port.routed() {
        node.host.namespace().ip(&format!("route del {to} dev {}", port.interface));
        node.wait_metrics_within(Duration::from_secs(1), &port, &[ELEVATED]);
    }
}

/// A target in mid-migration.
fn armed(configure: impl FnOnce(&mut Agent)) -> (Lab, Directory, Port, Node) {
    let lab = Lab::new();
    let directory = lab.directory();
    let port = Port::new(1);
    let mut node = Node::new(&lab, TARGET, &directory, &port);
    configure(&mut node.agent);
    node.agent.start();
    let driver = Driver::new(&directory, &port).at_pace(Pace::IMMEDIATE);
    driver.bind(SOURCE);
    let _uid = driver.start(SOURCE, TARGET);
    node.wait_armed(&port);
    (lab, directory, port, node)
}

/// The permanent neighbours are repaired, too; at the latest by the periodic look.
#[test]
fn a_neighbour_that_an_operator_deletes_comes_back() {
    let (_lab, _directory, port, node) = settled(|agent| {
        agent.set("RouteRefreshInterval", 1);
        agent.set("InterfaceRefreshInterval", 1);
    });
    for net in &port.addresses {
        node.host.namespace().ip(&format!("neigh del {} dev {}", net.addr(), port.interface));
    }
    node.wait_settled(&port);
}

/// Routes of a BGP daemon to the same destination, on the fabric, before, during and after a migration.
#[test]
fn routes_of_others_are_never_touched() {
    let lab = Lab::new();
    let directory = lab.directory();
    let port = Port::new(1);
    let mut node = Node::new(&lab, TARGET, &directory, &port);
    let (four, six) = (port.ipv4(), port.ipv6());
    // KERNEL: numbers of linux/rtnetlink.h; 12 is BIRD's, 4 an administrator's.
    node.host.namespace().ip(&format!(
        "route add {four} via 192.168.77.200 dev eth0 proto 12 metric 600\n\
         route add {six} via fd00:77::200 dev eth0 proto 12 metric 600\n\
         route add 198.51.100.0/24 via 192.168.77.201 dev eth0 proto 3\n\
         route add 203.0.113.0/24 via 192.168.77.201 dev eth0 proto 4"
    ));
    node.agent.set("LiveMigrationRouteConvergenceTime", 1);
    let uplink = node.host.ifindex("eth0").expect("an uplink");
    let mark = node.watch.mark();
    node.agent.start();
    let driver = Driver::new(&directory, &port).at_pace(Pace::IMMEDIATE);
    driver.bind(SOURCE);
    let _uid = driver.start(SOURCE, TARGET);
    node.wait_armed(&port);
    node.tap().open().send(&frames::rarp(port.mac));
    node.wait_metrics(&port, &[ELEVATED, 600]);
    driver.succeed_extended(SOURCE, TARGET);
    node.wait_metrics(&port, &[600, NORMAL]);
    node.agent.kill();
    node.agent.start_in_sync();
    driver.unbind(TARGET);
    node.wait_metrics(&port, &[600]);
    assert_eq!(node.watch.since(mark).writes_to(uplink), Vec::<&_>::new());
}

/// The built-in protocol is somebody else's where the datastore says another one.
#[test]
fn routes_with_the_built_in_protocol_are_not_ours_before_the_datastore_says_so() {
    let lab = Lab::new();
    let directory = lab.directory();
    let port = Port::new(1);
    let mut node = Node::new(&lab, SOURCE, &directory, &port);
    node.agent.set("CutoverEndpointGrace", 1);
    directory.put(&felix_configuration("default", &json!({"deviceRouteProtocol": 80})));
    Driver::new(&directory, &port).bind(SOURCE);
    let somebodys = "198.51.100.7/32";
    let interface = &port.interface;
    node.host
        .namespace()
        .ip(&format!("route add {somebodys} dev {interface} scope link proto 3 metric 1024"));
    for _ in 0..2 {
        let mark = node.watch.mark();
        node.agent.start();
        node.wait_metrics(&port, &[NORMAL]);
        wait::throughout(Duration::from_secs(2), "somebody's route", || {
            !node.watch.routes_to(somebodys.parse().expect("a prefix")).is_empty()
        });
        node.watch.since(mark).assert_never_without(somebodys.parse().expect("a prefix"));
        node.agent.kill();
    }
}

/// Routes on taps that no endpoint explains are ours to remove, but not before it is certain.
#[test]
fn a_route_left_over_by_an_earlier_life_goes() {
    let (_lab, directory, port, mut node) = settled(|_| {});
    node.agent.kill();
    Driver::new(&directory, &port).unbind(SOURCE);
    node.unplug();
    node.plug(&port);
    node.host.namespace().ip(&format!(
        "route add {} dev {} scope link proto 3 metric 1024",
        port.ipv4(),
        port.interface
    ));
    node.agent.start();
    wait::until(Duration::from_secs(30), "the left-over route goes", || {
        node.watch.routes_to(port.ipv4()).is_empty()
    });
}

/// W4: a setting changes for everybody; nobody restarts and no VM is without a route.
#[test]
fn w4_a_changed_configuration_takes_effect_without_a_gap() {
    let (_lab, directory, port, node) = settled(|_| {});
    let pid = node.agent.pid();
    let mark = node.watch.mark();
    let priorities = json!({"ipv4NormalRoutePriority": 2048, "ipv6NormalRoutePriority": 2048});
    directory.put(&felix_configuration("default", &priorities));
    node.wait_metrics(&port, &[2048]);
    // The one for this host wins over the one for all.
    let priorities = json!({"ipv4NormalRoutePriority": 3072, "ipv6NormalRoutePriority": 3072});
    directory.put(&felix_configuration(&format!("node.{SOURCE}"), &priorities));
    node.wait_metrics(&port, &[3072]);
    for to in port.routed() {
        node.watch.since(mark).assert_never_without(to);
    }
    assert_eq!(node.agent.pid(), pid);
}

/// SIGHUP re-reads the file; one that is wrong is refused and the one before stays in force.
#[test]
fn sighup_re_reads_the_configuration() {
    let (_lab, _directory, port, mut node) = settled(|_| {});
    let mark = node.watch.mark();
    let set = |node: &mut Node, value: u32| {
        node.agent.set("IPv4NormalRoutePriority", value);
        node.agent.set("IPv6NormalRoutePriority", value);
        node.agent.signal(Signal::SIGHUP);
    };
    set(&mut node, 2048);
    node.wait_metrics(&port, &[2048]);
    let log = node.agent.log().mark();
    set(&mut node, 100);
    node.agent.log().wait_after(log, wait::SOON, &["ERROR", "Priority"]);
    set(&mut node, 4096);
    node.wait_metrics(&port, &[4096]);
    for to in port.routed() {
        let lived = node.watch.since(mark).metrics(to);
        assert_eq!(
            lived,
            [vec![NORMAL], vec![NORMAL, 2048], vec![2048], vec![2048, 4096], vec![4096]],
            "{to}"
        );
    }
}

/// Without IPv6 support nothing of it is programmed, and the other family migrates all the same.
#[test]
fn ipv6_can_be_switched_off() {
    let (_lab, _directory, port, node) = armed(|agent| agent.set("Ipv6Support", false));
    node.tap().open().send(&frames::rarp(port.mac));
    wait::until(wait::SOON, "IPv4 is elevated", || node.watch.metrics_to(port.ipv4()) == [ELEVATED]);
    node.wait_state(&port, "Live");
    node.watch.history().assert_never_with(port.ipv6());
}

/// An address more, an address less: only the difference is written.
#[test]
fn a_changed_endpoint_changes_only_what_differs() {
    let (_lab, directory, mut port, node) = settled(|_| {});
    let mark = node.watch.mark();
    let (stays, goes) = (port.ipv4(), port.ipv6());
    let comes: ipnet::IpNet = "2001:db8::77/128".parse().expect("a prefix");
    port.addresses = vec![stays, comes];
    directory.put(&port.endpoint_on(SOURCE, "u"));
    wait::until(wait::SOON, "the difference", || {
        node.watch.metrics_to(comes) == [NORMAL] && node.watch.metrics_to(goes).is_empty()
    });
    assert_eq!(node.watch.since(mark).metrics(stays), [[NORMAL]]);
}
