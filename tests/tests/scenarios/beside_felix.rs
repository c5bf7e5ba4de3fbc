//! `CutoverRole = routes` with a real agent, and a stand-in for Felix that makes what Felix makes: `up` waits for every piece of
//! it in every backend, and nothing else does.

use cutover_tests::driver::Pace;
use cutover_tests::felix::{BOTH, Family, Felix, Mode, Process};
use cutover_tests::scene::{ELEVATED, NORMAL, Node, SOURCE, TARGET};
use cutover_tests::{Directory, Driver, Lab, Port, frames, wait};
use std::time::Duration;

const A_WHILE: Duration = Duration::from_millis(800);

/// A host whose agent leaves policy to Felix. The agent is not started yet.
pub(crate) struct Scene {
    pub(crate) node: Node,
    pub(crate) driver: Driver,
    pub(crate) port: Port,
    _directory: Directory,
    lab: Lab,
}

impl Scene {
    pub(crate) fn new() -> Self {
        let lab = Lab::new();
        let (directory, port) = (lab.directory(), Port::new(1));
        let driver = Driver::new(&directory, &port).at_pace(Pace::IMMEDIATE);
        let mut node = Node::new(&lab, TARGET, &directory, &port);
        node.agent.set("CutoverRole", "routes");
        node.agent.set("LiveMigrationRouteConvergenceTime", 1);
        Self { node, driver, port, _directory: directory, lab }
    }

    fn reported(&self) -> Option<String> {
        self.node.agent.reported(&self.port.name_on(TARGET))
    }

    fn missing(&self) -> Vec<String> {
        let status = self.node.agent.status_of(&self.port).expect("the endpoint");
        let missing = status["felix"]["missing"].as_array().expect("a list").clone();
        missing.iter().map(|piece| piece.as_str().expect("text").to_owned()).collect()
    }

    /// A VM runs here before Felix knows of it; the agent follows.
    fn boot(&mut self) {
        self.node.open();
        self.driver.bind(TARGET);
        self.node.agent.start_in_sync();
        self.node.wait_settled(&self.port);
    }

    fn stays_unreported(&self) {
        wait::throughout(A_WHILE, "nothing reported", || self.reported().is_none());
    }
}

fn up_comes_with_the_last_piece(mode: Mode) {
    let mut scene = Scene::new();
    scene.boot();
    let tap = scene.port.interface.clone();
    let status = scene.node.agent.status();
    assert_eq!((status["role"].as_str(), scene.missing().len()), (Some("routes"), 8), "{status:#}");
    scene.stays_unreported();

    let namespace = scene.node.host.namespace_shared();
    let felix = Felix::start(&namespace, mode);
    felix.add(Family::Ipv4, &tap);
    let of_ipv6 = |scene: &Scene| scene.missing().iter().all(|piece| piece.starts_with("ipv6 "));
    wait::until(wait::SOON, "IPv4 is seen", || of_ipv6(&scene));
    scene.stays_unreported();
    felix.add_half(Family::Ipv6, &tap);
    wait::until(wait::SOON, "half of IPv6 is seen", || scene.missing() == ["ipv6 dispatch from"]);
    scene.stays_unreported();
    felix.add_rest(Family::Ipv6, &tap);
    scene.node.agent.wait_up(&scene.port);
    assert!(scene.missing().is_empty());

    // Felix takes them away while a driver re-creates the endpoint: what was reported stays.
    BOTH.iter().for_each(|family| felix.remove(*family, &tap));
    wait::until(Duration::from_secs(60), "they are seen to go", || scene.missing().len() == 8);
    assert_eq!(scene.reported().as_deref(), Some("up"));
    scene.node.wait_metrics(&scene.port, &[NORMAL]);

    // An agent that starts finds what is there, and a Felix that is away takes nothing back.
    scene.node.agent.kill();
    scene.node.agent.start_in_sync();
    wait::throughout(A_WHILE, "still up", || scene.reported().as_deref() == Some("up"));
    BOTH.iter().for_each(|family| felix.add(*family, &tap));
    wait::until(wait::SOON, "they are seen again", || scene.missing().is_empty());
}

#[test]
fn up_comes_with_the_last_piece_of_nftables() {
    up_comes_with_the_last_piece(Mode::Nftables);
}

#[test]
fn up_comes_with_the_last_piece_of_iptables() {
    up_comes_with_the_last_piece(Mode::Iptables);
}

#[test]
fn up_comes_with_the_last_piece_of_legacy_iptables() {
    up_comes_with_the_last_piece(Mode::Legacy);
}

/// Beside somebody who changes tables all the time: what a read missed is found, and what goes is seen to go.
#[test]
fn chains_are_found_beside_a_busy_writer() {
    let mut scene = Scene::new();
    let namespace = scene.node.host.namespace_shared();
    let felix = Felix::start(&namespace, Mode::Nftables);
    for number in 0..400 {
        felix.add(Family::Ipv4, &format!("tapx{number}"));
    }
    BOTH.iter().for_each(|family| felix.add(*family, &scene.port.interface));
    let stop = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let felix = Felix::start(&namespace, Mode::Nftables);
            while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                felix.add(Family::Ipv4, "tapy");
                felix.remove(Family::Ipv4, "tapy");
            }
        });
        scene.node.open();
        scene.driver.bind(TARGET);
        scene.node.agent.start_in_sync();
        let is_up = wait::holds_within(wait::SOON, || scene.reported().as_deref() == Some("up"));
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
        assert!(is_up, "{}", scene.node.agent.log_text());
    });
}

/// The route moves at the announcement, whatever Felix does; only `up` waits.
#[test]
fn a_late_felix_delays_nothing_of_a_migration_but_up() {
    let mut scene = Scene::new();
    let felix_at = scene.node.host.namespace_shared();
    let felix = Felix::start(&felix_at, Mode::Nftables);
    scene.node.agent.start_in_sync();
    let _uid = scene.driver.start(SOURCE, TARGET);
    scene.node.wait_state(&scene.port, "Target");
    let armed = || scene.node.agent.status_of(&scene.port).is_some_and(|it| it["watch"].is_u64());
    wait::until(wait::SOON, "armed", armed);
    scene.stays_unreported();
    let mac = scene.port.mac;
    scene.node.open().send(&frames::rarp(mac));
    scene.node.wait_metrics(&scene.port, &[ELEVATED]);
    scene
        .node
        .agent
        .log()
        .wait(Duration::from_secs(10), &["Felix has no chains for the tap", &scene.port.interface]);
    assert_eq!(scene.reported(), None);
    let table = scene.node.agent.run_ok(&["status"]);
    assert!(table.contains("not in Felix for"), "{table}");
    BOTH.iter().for_each(|family| felix.add(*family, &scene.port.interface));
    scene.node.agent.wait_up(&scene.port);
    scene.node.agent.log().wait(wait::SOON, &["Felix has chains for the tap now"]);
    scene.driver.unbind(SOURCE);
    scene.driver.withdraw(TARGET);
    scene.node.wait_metrics(&scene.port, &[NORMAL]);
}

/// The two settings that Felix has for itself, in the place that both read, and Felix's own value of what it needs on each tap.
#[test]
fn settings_of_felix_in_the_shared_file_and_its_sysctls_are_left_to_it() {
    let mut scene = Scene::new();
    scene.node.agent.set("RouteSyncDisabled", true);
    scene.node.agent.set("EndpointReportingEnabled", false);
    let felix_at = scene.node.host.namespace_shared();
    let felix = Felix::start(&felix_at, Mode::Nftables);
    BOTH.iter().for_each(|family| felix.add(*family, &scene.port.interface));
    let path = |name: &str| format!("net/ipv4/conf/{}/{name}", scene.port.interface);
    let mine = [("route_localnet", "1"), ("rp_filter", "1")];
    felix_at.set_sysctl("net/ipv4/conf/default/rp_filter", "2");
    for (name, value) in mine {
        felix_at.set_sysctl(&path(name), value);
    }
    let paths = mine.map(|(name, value)| (path(name), value));
    scene.boot();
    scene.node.agent.wait_up(&scene.port);
    scene.node.agent.log().wait(wait::SOON, &["RouteSyncDisabled", "taken as Felix's"]);
    scene.node.agent.log().wait(wait::SOON, &["EndpointReportingEnabled", "taken as Felix's"]);
    for (path, value) in paths {
        assert_eq!(felix_at.sysctl(&path).as_deref(), Some(value), "{path}");
    }
}

#[test]
fn two_writers_of_routes_are_found_by_felixs_settings_and_by_what_they_do() {
    let mut scene = Scene::new();
    let folder = scene.lab.folder().to_owned();
    let namespace = scene.node.host.namespace_shared();
    let wrong = Process::start(&namespace, &folder, &[]);
    scene.boot();
    let conflicts = |scene: &Scene| scene.node.agent.status()["felix"]["conflicts"].to_string();
    scene.node.agent.log().wait(wait::SOON, &["ERROR", "runs without RouteSyncDisabled"]);
    assert!(conflicts(&scene).contains("FELIX_ROUTESYNCDISABLED=true"), "{}", conflicts(&scene));
    let table = scene.node.agent.run_ok(&["status"]);
    assert!(table.contains("ERROR: Felix"), "{table}");
    drop(wrong);

    let _right = Process::start(&namespace, &folder, &[("FELIX_ROUTESYNCDISABLED", "true")]);
    scene.node.agent.kill();
    scene.node.agent.start_in_sync();
    assert_eq!(conflicts(&scene), "[]");
    // Somebody deletes what the agent has just put back.
    let route = scene.port.routed()[0];
    let is_found = || {
        // It may be absent in this moment.
        let _ = namespace.try_ip(&format!("route del {route} dev {}", scene.port.interface));
        conflicts(&scene).contains("somebody else deletes routes of ours")
    };
    wait::until(wait::SOON, "the deletions are noticed", is_found);
    scene.node.agent.log().wait(wait::SOON, &["ERROR", "two agents write the routes"]);
    scene.node.wait_metrics(&scene.port, &[NORMAL]);
}
