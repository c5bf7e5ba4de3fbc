//! An agent that is started while its cluster is away works with what state.json knows: taps stay watched, an announcement raises its
//! routes, nothing else is written; afterwards what is in etcd counts.

use crate::site::{HOST, RECOVERY, Site};
use crate::states::{ELSEWHERE, Machine, States, migrate};
use cutover_daemon::clock;
use cutover_tests::datastore::{endpoint_key, migration_key};
use cutover_tests::forwarding::forwarded;
use cutover_tests::route_watch::Mark;
use cutover_tests::scene::{ELEVATED, NORMAL};
use cutover_tests::{OpenTap, Tap, frames, wait};
use serde_json::{Value, json};
use std::time::Duration;

/// From the frame on the tap to the routes. A machine that nobody knows would wait for the cluster, which is away for longer.
const AT_ONCE: Duration = Duration::from_secs(2);
/// Longer than the grace time, and than an agent takes to say that it works from memory.
const A_WHILE: Duration = Duration::from_secs(4);

/// The port of a site is awaited, and another machine of the host is at home.
struct Awaited {
    other: Machine,
    site: Site,
}

impl Awaited {
    fn new(configure: impl FnOnce(&mut Site)) -> Self {
        let mut site = Site::new();
        configure(&mut site);
        site.node.agent.start_in_sync();
        site.node.open();
        let other = Machine::new(&site, 2);
        site.put_endpoint(&other.port, HOST, "o");
        let shown = || site.node.agent.status_of(&other.port).is_some_and(|it| it["routes"] != json!([]));
        wait::until(wait::SOON, "the other machine has routes", shown);
        site.etcd
            .put(&endpoint_key(&site.port, ELSEWHERE), &site.port.endpoint_on(ELSEWHERE, "s").to_string());
        site.delete_endpoint(&site.port, HOST);
        site.node.wait_metrics(&site.port, &[]);
        site.put_migration(ELSEWHERE, HOST, "m1");
        site.put_endpoint(&site.port, HOST, "t");
        site.wait_watched();
        Self { other, site }
    }

    fn generation(&self) -> u64 {
        let endpoint = self.site.node.agent.status_of(&self.site.port).expect("the endpoint");
        endpoint["watch"].as_u64().expect("a watch")
    }

    /// The cluster goes out of reach, and the agent is killed. What is written to etcd is not seen.
    fn lose(&mut self) {
        self.site.node.host.namespace().ip("link set eth0 down");
        self.site.node.agent.kill();
    }

    fn find(&self) {
        self.site.node.host.namespace().ip("link set eth0 up");
    }

    fn start(&mut self) {
        self.site.node.agent.start();
    }

    fn qemu(&self) -> &OpenTap {
        self.site.node.qemu.as_ref().expect("the tap is open")
    }

    #[track_caller]
    fn wait_elevated(&self, metric: u32) {
        self.site.node.wait_metrics_within(AT_ONCE, &self.site.port, &[metric]);
    }

    #[track_caller]
    fn announce(&self) {
        self.qemu().send(&frames::rarp(self.site.port.mac));
        self.wait_elevated(ELEVATED);
        self.site.node.wait_state(&self.site.port, "Live");
    }

    #[track_caller]
    fn wait_back(&self) {
        let in_sync = || self.site.node.agent.status()["in_sync"] == true;
        wait::until(RECOVERY, "in sync", in_sync);
    }

    #[track_caller]
    fn assert_other_is_untouched(&self, since: Mark) {
        assert_eq!(writes(&self.site, since, &self.other.tap), Vec::<String>::new());
    }
}

fn writes(site: &Site, since: Mark, tap: &Tap) -> Vec<String> {
    site.node.watch.since(since).writes_to(tap.ifindex()).iter().map(|event| format!("{event:?}")).collect()
}

#[test]
fn what_is_announced_is_routed_at_once_and_goes_on_when_the_cluster_is_back() {
    let mut scene = Awaited::new(|_| {});
    let generation = scene.generation();
    let mark = scene.site.node.watch.mark();
    scene.lose();
    scene.start();
    assert_eq!(scene.generation(), generation, "the same watch");
    scene
        .site
        .node
        .agent
        .log()
        .wait(wait::SOON, &["Datastore not in sync; working with what state.json knows"]);
    scene.announce();
    let announced = scene.site.node.watch.mark();
    wait::throughout(A_WHILE, "elevated", || scene.site.node.has_metrics(&scene.site.port, &[ELEVATED]));
    scene.find();
    scene.wait_back();
    wait::throughout(A_WHILE, "elevated", || scene.site.node.has_metrics(&scene.site.port, &[ELEVATED]));
    assert_eq!(writes(&scene.site, announced, scene.site.node.tap()), Vec::<String>::new());
    scene.site.delete_migration(HOST);
    scene.site.delete_endpoint(&scene.site.port, ELSEWHERE);
    scene.site.node.wait_metrics(&scene.site.port, &[NORMAL]);
    scene.assert_other_is_untouched(mark);
    for to in scene.site.port.routed() {
        scene.site.node.watch.since(announced).assert_never_without(to);
    }
}

#[test]
fn what_was_announced_while_no_agent_ran_is_routed_at_its_start() {
    let mut scene = Awaited::new(|_| {});
    scene.lose();
    scene.qemu().send(&frames::rarp(scene.site.port.mac));
    let before = clock::now();
    scene.site.node.agent.start();
    scene.wait_elevated(ELEVATED);
    scene.site.node.wait_state(&scene.site.port, "Live");
    assert!(clock::now().since(before) < wait::SOON);
    // It is not a word of the announcement that is lost with the next death.
    scene.site.node.agent.kill();
    scene.start();
    let endpoint = scene.site.node.agent.status_of(&scene.site.port).unwrap();
    assert_eq!((&endpoint["state"], &endpoint["from_memory"]), (&json!("Live"), &json!(true)));
    let mark = scene.site.node.watch.mark();
    scene.find();
    scene.wait_back();
    wait::throughout(A_WHILE, "elevated", || scene.site.node.has_metrics(&scene.site.port, &[ELEVATED]));
    assert_eq!(writes(&scene.site, mark, scene.site.node.tap()), Vec::<String>::new());
}

/// Whose routes are whose, how urgent they are and what counts as an announcement is only in etcd.
#[test]
fn the_settings_of_the_cluster_are_remembered_and_those_of_the_host_come_first() {
    const PROTOCOL: u8 = 80;
    let spec = json!({
        "deviceRouteProtocol": PROTOCOL, "ipv4ElevatedRoutePriority": 100, "ipv6ElevatedRoutePriority": 100,
        "ipv4NormalRoutePriority": 900, "ipv6NormalRoutePriority": 900, "cutoverTrigger": "first-frame",
    });
    let mut scene = Awaited::new(|site| site.put_configuration("default", &spec));
    scene.site.node.wait_metrics(&scene.other.port, &[900]);
    let mark = scene.site.node.watch.mark();
    scene.lose();
    scene.start();
    let port = &scene.site.port;
    let [from, to] = [port.ipv4().addr(), "10.65.0.254".parse().unwrap()];
    scene.qemu().send(&frames::udp(port.mac, from, to, b"hello"));
    scene.wait_elevated(100);
    let ours = |protocol| {
        let routes = scene.site.node.watch.routes();
        let tap = scene.site.node.tap().ifindex();
        let mut routes = routes.iter().filter(|route| route.ifindex == tap && route.metric == 100);
        routes.all(|route| route.protocol == protocol)
    };
    assert!(ours(PROTOCOL), "{:?}", scene.site.node.watch.routes());
    scene.site.node.agent.kill();
    let announced = scene.site.node.watch.mark();
    // What the host itself says in its new life counts more.
    scene.site.node.agent.set("LiveMigrationRouteConvergenceTime", 1);
    scene.start();
    scene.find();
    scene.wait_back();
    wait::throughout(A_WHILE, "elevated", || scene.site.node.has_metrics(&scene.site.port, &[100]));
    assert_eq!(writes(&scene.site, announced, scene.site.node.tap()), Vec::<String>::new());
    scene.site.delete_migration(HOST);
    scene.site.delete_endpoint(&scene.site.port, ELSEWHERE);
    scene.site.node.wait_metrics(&scene.site.port, &[900]);
    scene.assert_other_is_untouched(mark);
}

/// The new life's own file says another priority than etcd did.
#[test]
fn a_priority_that_the_host_sets_between_its_lives_is_used_from_memory() {
    let spec = json!({"ipv4ElevatedRoutePriority": 100, "ipv6ElevatedRoutePriority": 100});
    let mut scene = Awaited::new(|site| site.put_configuration("default", &spec));
    scene.lose();
    scene.site.node.agent.set("IPv4ElevatedRoutePriority", 200);
    scene.site.node.agent.set("IPv6ElevatedRoutePriority", 200);
    scene.start();
    scene.qemu().send(&frames::rarp(scene.site.port.mac));
    scene.wait_elevated(200);
}

#[test]
fn a_migration_that_ended_while_the_cluster_was_away_ends() {
    let mut scene = Awaited::new(|_| {});
    let mark = scene.site.node.watch.mark();
    scene.lose();
    scene.start();
    scene.announce();
    let announced = scene.site.node.watch.mark();
    scene.site.delete_migration(HOST);
    scene.site.delete_endpoint(&scene.site.port, ELSEWHERE);
    scene.find();
    scene.site.node.agent.log().wait(RECOVERY, &["from=Live", "to=TimeWait"]);
    scene.site.wait_after_outage(&scene.site.port, &[NORMAL]);
    for to in scene.site.port.routed() {
        scene.site.node.watch.since(announced).assert_never_without(to);
    }
    scene.assert_other_is_untouched(mark);
}

/// Kept as long as nobody can be asked; afterwards as anything else that is gone.
#[test]
fn an_endpoint_that_is_deleted_while_the_cluster_is_away_goes_after_it_is_back() {
    let mut scene = Awaited::new(|_| {});
    let mark = scene.site.node.watch.mark();
    scene.lose();
    scene.start();
    scene.announce();
    scene.site.delete_migration(HOST);
    scene.site.delete_endpoint(&scene.site.port, HOST);
    wait::throughout(A_WHILE, "elevated", || scene.site.node.has_metrics(&scene.site.port, &[ELEVATED]));
    scene.find();
    scene.site.wait_after_outage(&scene.site.port, &[]);
    scene.assert_other_is_untouched(mark);
}

/// A migration that failed meanwhile, without a word of its machine: its watch goes, and nothing was ever routed.
#[test]
fn a_migration_that_failed_while_the_cluster_was_away_leaves_nothing() {
    let mut scene = Awaited::new(|_| {});
    let mark = scene.site.node.watch.mark();
    scene.lose();
    scene.start();
    scene.site.delete_migration(HOST);
    scene.site.delete_endpoint(&scene.site.port, HOST);
    scene.site.etcd.put(
        &endpoint_key(&scene.site.port, ELSEWHERE),
        &scene.site.port.endpoint_on(ELSEWHERE, "s").to_string(),
    );
    scene.find();
    scene.wait_back();
    scene.site.node.agent.log().wait(RECOVERY, &["Watch disarmed"]);
    wait::throughout(A_WHILE, "no route", || scene.site.node.has_metrics(&scene.site.port, &[]));
    for to in scene.site.port.routed() {
        scene.site.node.watch.since(mark).assert_never_with(to);
    }
}

/// What the last life forwarded ends when its memory says so, although nobody can be asked. Until then it stays.
#[test]
fn a_forward_whose_time_is_over_ends_while_the_cluster_is_away() {
    let mut scene = Awaited::new(|site| site.node.agent.set("CutoverPeering", "auto"));
    let port = scene.other.port.clone();
    let (etcd, agent) = (&scene.site.etcd, &scene.site.node.agent);
    etcd.put(&endpoint_key(&port, ELSEWHERE), &port.endpoint_on(ELSEWHERE, "t").to_string());
    etcd.put(&migration_key(&port, ELSEWHERE), &port.migration(HOST, ELSEWHERE, "m2").to_string());
    wait::until(wait::SOON, "it is leaving", || agent.status()["forwards"][0]["migration_uid"] == "m2");
    let path = agent.run_dir().join("state.json");
    scene.lose();
    // As if it had been heard over there, and the migration were over. No other agent talks here.
    let mut memory: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    let departure = &mut memory["departures"][0];
    assert_eq!(departure["uid"], "m2");
    departure["is_announced"] = true.into();
    let ends_at = clock::now() + A_WHILE + Duration::from_secs(4);
    departure["ends_at"] = ends_at.0.into();
    std::fs::write(&path, memory.to_string()).unwrap();
    let host = &scene.site.node.host;
    host.namespace().ip("link add cutover0 type vxlan external gpe dstport 4790\nlink set cutover0 up");
    for address in port.routed() {
        host.namespace().ip(&format!("route add {address} dev cutover0 table 7179 metric 1024 proto 79"));
    }
    assert_eq!(forwarded(host).len(), port.routed().len());
    scene.site.node.agent.start();
    let in_sync = || scene.site.node.agent.status()["in_sync"] == true;
    wait::until(RECOVERY, "nothing is forwarded", || forwarded(host).is_empty());
    assert!(clock::now() >= ends_at, "its time was not over");
    assert!(!in_sync());
    assert!(host.ifindex("cutover0").is_some(), "nothing else is taken away");
    scene.find();
    scene.wait_back();
    wait::until(wait::SOON, "nobody wants the device", || host.ifindex("cutover0").is_none());
}

/// A file of another boot, or one that nobody can read, is worth nothing.
#[test]
fn without_a_memory_of_this_boot_nothing_is_done() {
    for spoilt in ["boot_id", "half"] {
        let mut scene = Awaited::new(|_| {});
        scene.lose();
        let path = scene.site.node.agent.run_dir().join("state.json");
        let text = std::fs::read_to_string(&path).unwrap();
        let text = match spoilt {
            "boot_id" => text.replacen("\"boot_id\":\"", "\"boot_id\":\"0", 1),
            _ => text[..text.len() / 2].to_owned(),
        };
        std::fs::write(&path, text).unwrap();
        scene.site.node.agent.start();
        scene.qemu().send(&frames::rarp(scene.site.port.mac));
        wait::throughout(A_WHILE, "no route", || scene.site.node.has_metrics(&scene.site.port, &[]));
        assert!(scene.site.node.agent.status()["from_memory"].is_null());
        // The kernel has kept the announcement for when somebody knows what it means.
        scene.find();
        scene.site.wait_after_outage(&scene.site.port, &[ELEVATED]);
    }
}

/// The file could not be written when its machine was awaited: nothing is programmed for it, and nothing that was seen is lost.
#[test]
fn a_watch_that_the_memory_does_not_know_keeps_what_it_saw() {
    let mut scene = Awaited::new(|_| {});
    let path = scene.site.node.agent.run_dir().join("state.json");
    let older = std::fs::read(&path).unwrap();
    let third = Machine::new(&scene.site, 3);
    migrate(&scene.site, &third.port);
    scene.lose();
    std::fs::write(&path, older).unwrap();
    let qemu = third.tap.open();
    scene.start();
    qemu.send(&frames::rarp(third.port.mac));
    let mark = scene.site.node.watch.mark();
    wait::throughout(A_WHILE, "no route", || scene.site.node.has_metrics(&third.port, &[]));
    assert_eq!(writes(&scene.site, mark, &third.tap), Vec::<String>::new());
    scene.find();
    scene.site.wait_after_outage(&third.port, &[ELEVATED]);
}

/// The one that is awaited announces itself; the others have no route event at all.
#[test]
fn in_every_state_at_once() {
    let mut states = States::new();
    states.end_the_last();
    let mark = states.site.node.watch.mark();
    states.site.etcd.kill(0);
    states.site.node.agent.kill();
    let log = states.site.node.agent.log().mark();
    states.site.node.agent.start();
    states.site.node.agent.log().wait_after(log, wait::SOON, &["working with what state.json knows"]);
    let status = states.site.node.agent.status();
    assert_eq!(status["in_sync"], false);
    assert_eq!(
        (&status["from_memory"]["endpoints"], &status["from_memory"]["watched"]),
        (&json!(3), &json!(1))
    );
    let text = states.site.node.agent.run_ok(&["status"]);
    assert!(text.contains("working with what state.json knows: 3 endpoints, 1 watched"), "{text}");
    states.live_through_it(log);
    let announced = states.site.node.watch.mark();
    states.site.node.agent.kill();
    states.site.node.agent.start();
    states.site.etcd.restart(0);
    states.wait_followed();
    states.judge(mark, announced);
    states.site.etcd.delete(&migration_key(&states.target.port, HOST));
    states.site.node.wait_state(&states.target.port, "TimeWait");
}

/// What the last life knew is enough for adding routes, but not for taking those of others for ours: the datastore may say
/// another protocol by now.
#[test]
fn routes_of_others_stay_although_the_last_life_knew_another_protocol() {
    let mut site = Site::new();
    site.node.agent.set("DeviceRouteProtocol", 80);
    site.node.agent.start_in_sync();
    site.node.open();
    site.node.wait_metrics(&site.port, &[NORMAL]);
    site.node.host.namespace().ip("route add 10.99.0.1/32 dev tapport1 proto 3");
    let foreign = "10.99.0.1/32".parse().unwrap();
    wait::until(wait::SOON, "the foreign route", || !site.node.watch.metrics_to(foreign).is_empty());
    // The setting moves from the file into the cluster.
    site.node.agent.kill();
    site.node.agent.set("DeviceRouteProtocol", "");
    site.put_configuration("default", &json!({"deviceRouteProtocol": 80}));
    let mark = site.node.watch.mark();
    site.node.agent.start_in_sync();
    wait::throughout(A_WHILE, "the foreign route", || !site.node.watch.metrics_to(foreign).is_empty());
    assert_eq!(writes(&site, mark, site.node.tap()), Vec::<String>::new());
}
