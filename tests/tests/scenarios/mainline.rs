//! The main job from end to end, and the other ways in which a migration can go (A1–A5, W1, W2, W11, W12).

use cutover_tests::driver::Pace;
use cutover_tests::resources::new_uid;
use cutover_tests::route_history::Moment;
use cutover_tests::scene::{ELEVATED, NORMAL, Node, SOURCE, Scene, TARGET};
use cutover_tests::{Lab, Port, frames, probe, wait};
use ipnet::IpNet;
use std::time::Duration;

/// The convergence time of a scene is 2 s; nothing that has to stay elevated may fall before this.
const STILL_CONVERGING: Duration = Duration::from_millis(1500);

/// The whole life of a route on the target, make before break.
const TARGET_LIFE: [&[u32]; 4] = [&[], &[ELEVATED], &[ELEVATED, NORMAL], &[NORMAL]];

fn answers(scene: &Scene, node: &Node) -> bool {
    scene.port.addresses.iter().all(|address| probe::answers(node.host.namespace(), address.addr()))
}

/// A1. One family announces, all routes of both families follow.
#[test]
fn a1_the_announcement_flips_the_routes_and_convergence_ends_them() {
    let mut scene = Scene::new();
    wait::until(wait::SOON, "the VM answers on the source", || answers(&scene, &scene.source));

    scene.start_migration();
    assert!(answers(&scene, &scene.source));
    for to in scene.port.routed() {
        scene.target.watch.history().assert_never_with(to);
    }

    let (mac, address) = (scene.port.mac, scene.port.ipv4());
    let std::net::IpAddr::V4(ipv4) = address.addr() else { unreachable!("an IPv4 prefix") };
    scene.move_vm(|qemu| qemu.send(&frames::garp_request(mac, ipv4)));
    scene.target.wait_metrics(&scene.port, &[ELEVATED]);
    scene.target.wait_state(&scene.port, "Live");
    wait::until(wait::SOON, "the VM answers on the target", || answers(&scene, &scene.target));

    scene.driver.unbind(SOURCE);
    scene.driver.withdraw(TARGET);
    scene.target.wait_state(&scene.port, "TimeWait");
    wait::throughout(STILL_CONVERGING, "elevated", || scene.target.has_metrics(&scene.port, &[ELEVATED]));
    scene.source.wait_metrics(&scene.port, &[]);
    scene.target.wait_metrics(&scene.port, &[NORMAL]);
    scene.target.wait_state(&scene.port, "Base");
    assert!(answers(&scene, &scene.target));

    for to in scene.port.routed() {
        assert_eq!(scene.target.watch.history().metrics(to), TARGET_LIFE, "{to}");
        assert_eq!(scene.source.watch.history().metrics(to), [vec![], vec![NORMAL], vec![]], "{to}");
    }
}

/// A2. Nobody announces; when the source is gone too the target takes over all the same.
#[test]
fn a2_a_missed_announcement_delays_the_routes_but_does_not_lose_them() {
    let mut scene = Scene::new();
    scene.start_migration();
    scene.move_vm(|_| {});
    // Nothing that a resuming guest kernel says by itself is an announcement.
    scene.driver.unbind(SOURCE);
    scene.driver.withdraw(TARGET);
    scene.target.wait_metrics(&scene.port, &[ELEVATED]);
    scene.target.wait_metrics(&scene.port, &[NORMAL]);
    assert!(scene.target.agent.log().matching(&["to=Live"]).is_empty());
    scene.target.wait_state(&scene.port, "TimeWait");
    for to in scene.port.routed() {
        assert_eq!(scene.target.watch.history().metrics(to), TARGET_LIFE, "{to}");
    }
    wait::until(wait::SOON, "the VM answers on the target", || answers(&scene, &scene.target));
}

/// A3. The target's endpoint goes before the LiveMigration does: failure.
#[test]
fn a3_a_failed_migration_never_had_a_route_on_the_target() {
    let scene = Scene::new();
    let at_start = scene.source.watch.mark();
    scene.start_migration();
    scene.driver.unbind(TARGET);
    scene.driver.withdraw(TARGET);
    scene.target.wait_state(&scene.port, "Base");
    for to in scene.port.routed() {
        scene.target.watch.history().assert_never_with(to);
    }
    assert_eq!(scene.source.watch.since(at_start).writes_to(scene.source.tap().ifindex()), Vec::<&_>::new());
    wait::until(wait::SOON, "the VM answers on the source", || answers(&scene, &scene.source));
}

/// A4 with W12: migrated back while the first migration is not yet over. The first target gives up its priority as soon as
/// it is only a source, so that the two hosts are never elevated together.
#[test]
fn a4_migrating_back_at_once_suppresses_the_first_host_and_no_two_hosts_are_elevated() {
    let mut scene = Scene::with(|agent| agent.set("LiveMigrationRouteConvergenceTime", 60));
    scene.start_migration();
    let mac = scene.port.mac;
    scene.move_vm(|qemu| qemu.send(&frames::rarp(mac)));
    scene.target.wait_metrics(&scene.port, &[ELEVATED]);

    let back = new_uid();
    scene.driver.announce(TARGET, SOURCE, &back);
    scene.source.wait_metrics(&scene.port, &[]);
    scene.source.wait_state(&scene.port, "Target");

    scene.driver.withdraw(TARGET);
    scene.target.wait_metrics(&scene.port, &[NORMAL]);
    scene.target.wait_state(&scene.port, "Base");

    scene.source.wait_armed(&scene.port);
    drop(scene.vm.pause());
    let at_home = scene.source.tap().open();
    at_home.send(&frames::rarp(mac));
    scene.source.wait_metrics(&scene.port, &[ELEVATED]);
    scene.vm.resume(at_home);
    assert!(scene.target.has_metrics(&scene.port, &[NORMAL]));

    scene.driver.unbind(TARGET);
    scene.driver.withdraw(SOURCE);
    scene.source.wait_state(&scene.port, "TimeWait");
    scene.target.wait_metrics(&scene.port, &[]);
    for to in scene.port.routed() {
        let at_target: [&[u32]; 5] = [&[], &[ELEVATED], &[ELEVATED, NORMAL], &[NORMAL], &[]];
        assert_eq!(scene.target.watch.history().metrics(to), at_target, "{to}");
        let at_source: [&[u32]; 4] = [&[], &[NORMAL], &[], &[ELEVATED]];
        assert_eq!(scene.source.watch.history().metrics(to), at_source, "{to}");
        assert_never_elevated_together(&scene, to);
    }
}

/// By the order in which the kernels said so.
fn assert_never_elevated_together(scene: &Scene, to: IpNet) {
    let of = |node: &Node| {
        let is_elevated =
            |moment: Moment| (moment.since, moment.routes.iter().any(|route| route.metric == ELEVATED));
        node.watch.history().moments(to).into_iter().map(is_elevated).collect::<Vec<_>>()
    };
    let mut moments: Vec<_> = of(&scene.source).into_iter().map(|(since, is)| (since, 0, is)).collect();
    moments.extend(of(&scene.target).into_iter().map(|(since, is)| (since, 1, is)));
    moments.sort_by_key(|(since, ..)| *since);
    let mut elevated = [false, false];
    for (since, host, is_elevated) in moments {
        elevated[host] = is_elevated;
        assert_ne!(elevated, [true, true], "{to} is elevated on both hosts at {since:?}");
    }
}

/// There and back and there, in a row and within the convergence time.
#[test]
fn there_and_back_and_there_in_a_row_no_two_hosts_are_elevated() {
    let mut scene = Scene::with(|agent| agent.set("LiveMigrationRouteConvergenceTime", 60));
    scene.driver = scene.driver.clone().at_pace(Pace::IMMEDIATE);
    let mac = scene.port.mac;
    for (round, (from, to)) in [(SOURCE, TARGET), (TARGET, SOURCE), (SOURCE, TARGET)].into_iter().enumerate()
    {
        let _uid = scene.driver.start(from, to);
        let node = if to == TARGET { &scene.target } else { &scene.source };
        node.wait_armed(&scene.port);
        // A machine takes longer to come than its source takes to hear that it leaves.
        let source = if from == SOURCE { &scene.source } else { &scene.target };
        source.wait_metrics(&scene.port, &[NORMAL]);
        drop(scene.vm.pause());
        let tap = node.tap().open();
        tap.send(&frames::rarp(mac));
        node.wait_metrics(&scene.port, &[ELEVATED]);
        scene.vm.resume(tap);
        if round % 2 == 0 {
            scene.driver.succeed(from, to)
        } else {
            scene.driver.succeed_extended(from, to)
        }
        node.wait_state(&scene.port, "TimeWait");
    }
    for to in scene.port.routed() {
        assert_never_elevated_together(&scene, to);
    }
}

/// A5. The endpoint is written before the LiveMigration that explains it.
#[test]
fn a5_a_route_that_came_before_its_migration_is_withdrawn() {
    let scene = Scene::new();
    scene.driver.bind(TARGET);
    scene.target.wait_metrics(&scene.port, &[NORMAL]);
    scene.driver.announce(SOURCE, TARGET, &new_uid());
    scene.target.wait_metrics(&scene.port, &[]);
    scene.target.wait_state(&scene.port, "Target");
    assert!(scene.source.has_metrics(&scene.port, &[NORMAL]));
}

/// W1. Every address of a port, also a floating one, changes its metric without a gap, in both directions.
#[test]
fn w1_every_change_of_metric_is_make_before_break() {
    let lab = Lab::new();
    let directory = lab.directory();
    let mut port = Port::new(1);
    let more = ["10.65.0.20/32", "10.65.0.21/32", "10.65.0.22/32", "2001:db8::20/128", "2001:db8::21/128"];
    port.addresses.extend(more.map(|prefix| prefix.parse::<IpNet>().expect("a prefix")));
    port.floating = vec![([10, 65, 0, 2].into(), [172, 16, 0, 9].into())];
    let driver = cutover_tests::Driver::new(&directory, &port).at_pace(Pace::IMMEDIATE);
    let mut node = Node::new(&lab, TARGET, &directory, &port);
    node.agent.set("LiveMigrationRouteConvergenceTime", 1);
    driver.bind(SOURCE);
    node.agent.start();
    for _ in 0..2 {
        let _uid = driver.start(SOURCE, TARGET);
        node.wait_metrics(&port, &[]);
        node.wait_armed(&port);
        node.tap().open().send(&frames::rarp(port.mac));
        node.wait_metrics(&port, &[ELEVATED]);
        driver.succeed_extended(SOURCE, TARGET);
        node.wait_metrics(&port, &[NORMAL]);
        // It goes away again, and comes back as another one.
        driver.unbind(TARGET);
        node.wait_metrics(&port, &[]);
        driver.bind(SOURCE);
    }
    let twice: [&[u32]; 7] =
        [&[], &[ELEVATED], &[ELEVATED, NORMAL], &[NORMAL], &[], &[ELEVATED], &[ELEVATED, NORMAL]];
    for to in port.routed() {
        let lived = node.watch.history().metrics(to);
        assert_eq!(lived[..7], twice, "{to}");
        assert_eq!(lived[7..], [vec![NORMAL], vec![]], "{to}");
    }
}

/// W2. The driver rolls back while the target's hypervisor still has the tap open: nothing says that the VM
/// runs there, so nobody is told so.
#[test]
fn w2_a_rolled_back_migration_is_never_advertised() {
    let scene = Scene::new();
    let at_start = scene.source.watch.mark();
    scene.start_migration();
    let incoming = scene.target.tap().open();
    scene.driver.roll_back(SOURCE, TARGET);
    scene.target.wait_state(&scene.port, "Base");
    drop(incoming);
    // Longer than the grace of a vanished endpoint and the shorter bound of an unresolved migration.
    wait::throughout(Duration::from_secs(6), "no route", || scene.target.has_metrics(&scene.port, &[]));
    for to in scene.port.routed() {
        scene.target.watch.history().assert_never_with(to);
    }
    assert_eq!(scene.source.watch.since(at_start).writes_to(scene.source.tap().ifindex()), Vec::<&_>::new());
}

/// W11. A second attempt at the same target while the first is still converging is a new migration, if the first has failed:
/// the driver has created the endpoint anew.
#[test]
fn w11_another_attempt_during_time_wait_suppresses_the_route_again() {
    let mut scene = Scene::with(|agent| agent.set("LiveMigrationRouteConvergenceTime", 60));
    let first = scene.start_migration();
    let mac = scene.port.mac;
    scene.target.tap().open().send(&frames::rarp(mac));
    scene.target.wait_metrics(&scene.port, &[ELEVATED]);
    scene.driver.withdraw(TARGET);
    scene.target.wait_state(&scene.port, "TimeWait");
    scene.driver.unbind(SOURCE);
    scene.driver.unbind(TARGET);
    scene.driver.bind(SOURCE);
    assert!(scene.target.has_metrics(&scene.port, &[ELEVATED]));

    let mark = scene.target.agent.log().mark();
    let second = scene.driver.start(SOURCE, TARGET);
    assert_ne!(first, second);
    let id = format!("id={}", scene.port.name_on(TARGET));
    let uid = format!("migrationUid={second}");
    // From TimeWait, or by way of Live if the migration is told before the endpoint that was made anew.
    scene.target.agent.log().wait_after(mark, wait::SOON, &[&id, &uid, "to=Target"]);
    scene.target.wait_metrics(&scene.port, &[]);

    scene.target.wait_armed(&scene.port);
    scene.move_vm(|qemu| qemu.send(&frames::rarp(mac)));
    scene.target.wait_metrics(&scene.port, &[ELEVATED]);
}

/// A driver that puts its datastore in order deletes the migration and creates it again, after the VM has arrived: its route
/// stays, also if the agent is restarted meanwhile.
#[test]
fn w11_a_migration_that_is_created_again_takes_no_route_from_a_vm_that_is_here() {
    let mut scene = Scene::with(|agent| agent.set("LiveMigrationRouteConvergenceTime", 60));
    let _first = scene.start_migration();
    let mac = scene.port.mac;
    scene.move_vm(|qemu| qemu.send(&frames::rarp(mac)));
    scene.target.wait_metrics(&scene.port, &[ELEVATED]);
    for is_restarted in [false, true] {
        let watched = scene.target.watch.mark();
        scene.driver.withdraw(TARGET);
        scene.target.wait_state(&scene.port, "TimeWait");
        if is_restarted {
            scene.target.agent.kill();
        }
        let again = new_uid();
        scene.driver.announce(SOURCE, TARGET, &again);
        if is_restarted {
            scene.target.agent.start();
        }
        let uid = format!("uid={again}");
        scene.target.agent.log().wait(wait::SOON, &["role=TARGET", &uid]);
        // An agent that was killed before it had saved TimeWait remembers Live: that is as good.
        scene.target.wait_state(&scene.port, "Live");
        for to in scene.port.routed() {
            let lived = scene.target.watch.since(watched).metrics(to);
            assert_eq!(lived, [[ELEVATED]], "{to}, restarted: {is_restarted}");
        }
    }
}

/// Two ports of two VMs on one host: an announcement on one tap is no evidence for the other.
#[test]
fn endpoints_migrate_independently() {
    let lab = Lab::new();
    let directory = lab.directory();
    let ports = [Port::new(1), Port::new(2)];
    let mut node = Node::new(&lab, TARGET, &directory, &ports[0]);
    let other = node.host.plug(&ports[1].interface, ports[1].tap_mac());
    node.agent.start();
    for port in &ports {
        let driver = cutover_tests::Driver::new(&directory, port).at_pace(Pace::IMMEDIATE);
        driver.bind(SOURCE);
        let _uid = driver.start(SOURCE, TARGET);
        node.agent.wait_up(port);
    }
    other.open().send(&frames::rarp(ports[1].mac));
    node.wait_metrics(&ports[1], &[ELEVATED]);
    node.wait_state(&ports[1], "Live");
    assert!(node.has_metrics(&ports[0], &[]));
    // The second one's MAC on the first one's tap is a stranger's.
    let qemu = node.tap().open();
    qemu.send(&frames::rarp(ports[1].mac));
    wait::throughout(Duration::from_millis(300), "no route", || node.has_metrics(&ports[0], &[]));
    qemu.send(&frames::rarp(ports[0].mac));
    node.wait_metrics(&ports[0], &[ELEVATED]);
}
