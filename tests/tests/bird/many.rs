//! Two hundred VMs move in the same second.

use crate::judging::{Gaps, assert_reachable};
use cutover_tests::driver::Pace;
use cutover_tests::fabric::{CONVERGED, Daemon, Fabric, Shape, Who};
use cutover_tests::scene::{ELEVATED, SOURCE, TARGET};
use cutover_tests::{Driver, Host, OpenTap, Port, frames, wait};
use ipnet::IpNet;
use std::net::IpAddr;
use std::time::{Duration, Instant};

/// LIMIT: two hundred taps on a loaded machine; only failing tests wait this long.
const PREPARED: Duration = Duration::from_secs(60);

#[test]
fn two_hundred_in_one_second_through_a_reflector() {
    move_all(Shape::Reflector);
}

#[test]
fn two_hundred_in_one_second_in_a_full_mesh() {
    move_all(Shape::Mesh);
}

fn move_all(shape: Shape) {
    let fabric =
        Fabric::with(Daemon::Bird, shape, |agent| agent.set("LiveMigrationRouteConvergenceTime", 3600));
    let scene = &fabric.scene;
    // The first port is the scene's.
    let ports: Vec<Port> = (2..=201).map(Port::new).collect();
    let drivers: Vec<Driver> =
        ports.iter().map(|port| Driver::new(&scene.directory, port).at_pace(Pace::IMMEDIATE)).collect();
    let _running = open_all(&scene.source.host, &ports);
    let arriving = open_all(&scene.target.host, &ports);
    drivers.iter().for_each(|driver| driver.bind(SOURCE));
    let routed: Vec<IpNet> = ports.iter().flat_map(Port::routed).collect();
    let third = |host: &Host| {
        let hops: [IpAddr; 2] = [host.ipv4().into(), host.ipv6().into()];
        let routes = fabric.router(Who::Third).watch.routes();
        let led = routes.iter().filter(|route| routed.contains(&route.destination));
        led.filter(|route| route.gateway.is_some_and(|hop| hops.contains(&hop))).count()
    };
    wait::until(PREPARED, "the third host knows all", || third(&scene.source.host) == routed.len());

    for driver in &drivers {
        let _uid = driver.start(SOURCE, TARGET);
    }
    // Which a target is when its tap is armed.
    let is_up = |port: &Port| scene.target.agent.reported(&port.name_on(TARGET)).as_deref() == Some("up");
    wait::until(PREPARED, "all targets are up", || ports.iter().all(is_up));
    let marks = fabric.marks();

    let begin = Instant::now();
    for (port, qemu) in ports.iter().zip(&arriving) {
        qemu.send(&frames::rarp(port.mac));
    }
    assert!(begin.elapsed() < Duration::from_secs(1), "they did not move in the same second");
    wait::until(CONVERGED, "the third host follows", || third(&scene.target.host) == routed.len());
    wait::until(CONVERGED, "the target has its own routes and no others", || {
        let routes = scene.target.watch.history().current();
        let own: Vec<u32> = routes
            .iter()
            .filter(|route| routed.contains(&route.destination))
            .map(|route| route.metric)
            .collect();
        own.len() == routed.len() && own.iter().all(|metric| *metric == ELEVATED)
    });
    for (router, mark) in fabric.routers().into_iter().zip(marks) {
        let history = router.watch.since(mark);
        for to in &routed {
            assert_reachable(router.name(), &history, *to, Gaps::Ipv6);
        }
    }
}

fn open_all(host: &Host, ports: &[Port]) -> Vec<OpenTap> {
    ports.iter().map(|port| host.plug(&port.interface, port.tap_mac()).open()).collect()
}
