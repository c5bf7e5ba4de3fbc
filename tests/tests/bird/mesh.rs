//! What a third host of a full mesh sees when two sessions race, and when a host dies. Many machines go to and fro, again
//! and again. The part of the agents is played by `ip`, in their order, because rounds have to be short.

use cutover_bgp::PREFERENCE_OF_METRIC_0;
use cutover_tests::fabric::{CONVERGED, Fabric, Router, Shape, Who, gaps};
use cutover_tests::scene::{ELEVATED, NORMAL};
use cutover_tests::{OpenTap, Release, wait};
use ipnet::IpNet;
use std::net::IpAddr;
use std::time::Duration;

/// Without the announcement that the source goes on with, one in ten of these had a moment without a route.
const ROUNDS: usize = 30;
const MACHINES: u8 = 50;
const TAP: &str = "tapmany";
/// The hold time of the configuration.
///
/// LIMIT: the rest is for a loaded machine; only failing tests wait this long.
const GONE: Duration = Duration::from_secs(24 + 16);

#[test]
fn a_third_host_always_has_a_route() {
    assert_eq!(go_to_and_fro(Release::Bird2, 2), []);
}

#[test]
fn a_third_host_always_has_a_route_with_bird_2_17() {
    if Release::Bird217.is_there("machines that go to and fro") {
        assert_eq!(go_to_and_fro(Release::Bird217, 2), []);
    }
}

/// BIRD 3 tells only its best path, so that a third host may hear of the end of the one before it hears of the other: these are
/// two sessions. It has the other one's route moments later (docs/bgp-bird.md says how often).
#[test]
fn a_third_host_has_a_route_again_at_once_with_bird_3() {
    if Release::Bird3.is_there("machines that go to and fro") {
        for (name, moments) in go_to_and_fro(Release::Bird3, 1) {
            assert!(moments.iter().all(|moment| *moment < CONVERGED), "{name}: {moments:?}");
            assert_eq!(name, "compute3", "only who hears of both over two sessions: {moments:?}");
        }
    }
}

/// The moments without a route, by router that had some. A third host knows so many paths to a machine that has arrived, while
/// its source has a route still.
#[track_caller]
fn go_to_and_fro(release: Release, paths: usize) -> Vec<(String, Vec<Duration>)> {
    let mesh = Mesh::new(release);
    let [mut from, mut to] = [mesh.source(), mesh.target()];
    let marks = mesh.fabric.marks();
    for _ in 0..ROUNDS {
        change(to, "add", ELEVATED);
        wait_sends(mesh.third(), to);
        mesh.wait_paths(paths, ELEVATED);
        wait_sends(from, to);
        change(from, "del", NORMAL);
        mesh.wait_paths(1, ELEVATED);
        change(to, "add", NORMAL);
        change(to, "del", ELEVATED);
        mesh.wait_paths(1, NORMAL);
        wait_sends(mesh.third(), to);
        std::mem::swap(&mut from, &mut to);
    }
    let routers = mesh.fabric.routers().into_iter().zip(marks);
    let moments = routers.map(|(router, mark)| {
        let history = router.watch.since(mark);
        let gaps: Vec<Duration> = machines().flat_map(|machine| gaps(&history, machine)).collect();
        (router.name().to_owned(), gaps)
    });
    moments.filter(|(_, gaps)| !gaps.is_empty()).collect()
}

/// The route that a source still announces when it dies is gone before the target's is no better.
#[test]
fn a_source_that_dies_leaves_nothing() {
    let mesh = Mesh::new(Release::Bird2);
    let (target, third) = (mesh.target(), mesh.third());
    let mark = third.watch.mark();
    change(target, "add", ELEVATED);
    wait_sends(third, target);
    mesh.wait_paths(2, ELEVATED);
    mesh.source().host.namespace().ip("link set eth0 down");
    let is_gone = || mesh.counts("") == usize::from(MACHINES);
    wait::until(GONE, "nothing is left of the source", is_gone);
    change(target, "add", NORMAL);
    change(target, "del", ELEVATED);
    mesh.wait_paths(1, NORMAL);
    wait_sends(third, target);
    let history = third.watch.since(mark);
    for machine in machines() {
        let moments = history.moments(machine);
        assert_eq!(moments.len(), 2, "to the source, to the target: {moments:#?}");
    }
}

/// A full mesh in which the machines run on the source.
struct Mesh {
    _running: [OpenTap; 2],
    fabric: Fabric,
}

impl Mesh {
    #[track_caller]
    fn new(release: Release) -> Self {
        let mut fabric = Fabric::new(release, Shape::Mesh);
        // They would take away what is not theirs.
        fabric.scene.source.agent.kill();
        fabric.scene.target.agent.kill();
        let mac = "fe:16:3e:00:09:09".parse().expect("an address");
        let hosts = [&fabric.scene.source.host, &fabric.scene.target.host];
        let running = hosts.map(|host| host.plug(TAP, mac).open());
        let mesh = Self { _running: running, fabric };
        change(mesh.source(), "add", NORMAL);
        wait_sends(mesh.third(), mesh.source());
        mesh
    }

    fn source(&self) -> Router<'_> {
        self.fabric.router(Who::Source)
    }

    fn target(&self) -> Router<'_> {
        self.fabric.router(Who::Target)
    }

    fn third(&self) -> Router<'_> {
        self.fabric.router(Who::Third)
    }

    /// The third host knows every machine by so many paths, one of them with this priority.
    #[track_caller]
    fn wait_paths(&self, paths: usize, metric: u32) {
        let machines = usize::from(MACHINES);
        let preferred = format!("bgp_local_pref = {} && ", PREFERENCE_OF_METRIC_0 - metric);
        wait::until(CONVERGED, format_args!("{paths} paths, one with metric {metric}"), || {
            self.counts("") == paths * machines && self.counts(&preferred) == machines
        });
    }

    /// How many routes of machines the third host's BIRD has.
    fn counts(&self, condition: &str) -> usize {
        let condition = format!("{condition}net ~ 10.65.7.0/24");
        let answer = self.third().speaker.bird().ask(&["show", "route", "where", &condition, "count"]);
        let line = answer.lines().find(|line| line.contains(" of "));
        line.and_then(|line| line.split(' ').next()?.parse().ok()).unwrap_or_default()
    }
}

fn machines() -> impl Iterator<Item = IpNet> {
    (1..=MACHINES).map(|number| IpNet::from(IpAddr::from([10, 65, 7, number])))
}

#[track_caller]
fn wait_sends(from: Router<'_>, to: Router<'_>) {
    let hop = Some(IpAddr::from(to.host.ipv4()));
    let sends =
        || machines().all(|machine| from.watch.routes_to(machine).iter().any(|route| route.gateway == hop));
    wait::until(CONVERGED, format_args!("{} sends everything to {}", from.name(), to.name()), sends);
}

fn change(at: Router<'_>, verb: &str, metric: u32) {
    let line = |machine| format!("route {verb} {machine} dev {TAP} proto 3 scope link metric {metric}\n");
    at.host.namespace().ip(&machines().map(line).collect::<String>());
}
