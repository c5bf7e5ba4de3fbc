//! The port is ACTIVE after every migration and Nova is told of no failure, whatever the driver's threads do: what real agents
//! report to a real etcd, and when, is played to Neutron's threads in a thousand orders.

use super::cloud::{Cloud, TIDIED};
use cutover_daemon::clock;
use cutover_engine::BootTime;
use cutover_tests::etcd::Diary;
use cutover_tests::neutron::{Told, port_after};
use cutover_tests::scene::{ELEVATED, NORMAL, Node, SOURCE, TARGET};
use cutover_tests::{frames, wait};
use std::time::Duration;

const ORDERS: u64 = 1000;

/// The last thing that can still be overtaken is repeated within this, and what was overtaken is over.
const OVER: Duration = Duration::from_millis(6_500);

/// Pauses of a real driver.
const GAP: Duration = Duration::from_millis(340);

/// How a driver ends a migration that has succeeded.
#[derive(Clone, Copy)]
enum Binding {
    /// It creates the target's endpoint anew.
    Legacy,
    /// It rewrites it.
    Extended,
}

/// A port that runs on the source, with what was told of it.
struct Port {
    // Ends before its member does.
    diary: Diary,
    cloud: Cloud,
    down_at: Vec<BootTime>,
}

impl Port {
    fn new() -> Self {
        let cloud = Cloud::new();
        let diary = cloud.etcd.follow_writes("/calico/felix/v2/");
        let mut port = Self { diary, cloud, down_at: Vec::new() };
        port.cloud.source.agent.spawn();
        port.cloud.target.agent.start_in_sync();
        port.cloud.source.agent.wait_answering();
        port.cloud.wait_status(SOURCE, "up");
        pause(Duration::from_secs(3));
        port
    }

    /// Neutron changes a binding before its driver writes.
    fn down(&mut self) {
        self.down_at.push(clock::now());
        pause(Duration::from_millis(50));
    }

    fn begin(&mut self, from: &str, to: &str) {
        self.down();
        let before = self.cloud.pair(&self.cloud.status_key(to)).map_or(0, |pair| pair.modified);
        self.cloud.announce(from, to);
        pause(GAP);
        self.cloud.bind(to);
        self.cloud.wait_written_after(to, before);
        // What Nova does until the machine arrives.
        pause(Duration::from_millis(2_500));
    }

    /// The machine goes on at `to`, whose hypervisor announces it.
    fn arrive(&mut self, from: &str, to: &str) {
        let mac = self.cloud.port.mac;
        self.node(from).qemu = None;
        self.node(to).open().send(&frames::rarp(mac));
        self.cloud.node(to).wait_metrics(&self.cloud.port, &[ELEVATED]);
    }

    fn succeed(&mut self, from: &str, to: &str, binding: Binding) {
        self.down();
        self.cloud.withdraw(to);
        self.cloud.unbind(from);
        match binding {
            Binding::Legacy => {
                self.cloud.unbind(to);
                pause(GAP);
                self.cloud.bind(to);
            }
            Binding::Extended => {
                let key = self.cloud.keys.endpoint(&self.cloud.endpoint(to));
                self.cloud.etcd.put(&key, &self.cloud.etcd.value(&key).expect("the endpoint"));
            }
        }
        self.node(from).unplug();
    }

    fn roll_back(&mut self, from: &str, to: &str) {
        self.down();
        self.cloud.withdraw(to);
        self.cloud.unbind(from);
        self.cloud.unbind(to);
        pause(GAP);
        self.cloud.bind(from);
        self.node(to).unplug();
    }

    fn there(&mut self, binding: Binding) {
        self.begin(SOURCE, TARGET);
        self.arrive(SOURCE, TARGET);
        self.succeed(SOURCE, TARGET, binding);
    }

    /// Waits until nobody reports anything any more that matters, and the machine is known to run here only.
    #[track_caller]
    fn wait_over(&mut self, home: &str) {
        let elsewhere = if home == SOURCE { TARGET } else { SOURCE };
        let gone = || self.cloud.status(elsewhere).is_none();
        wait::until(TIDIED, format_args!("the key of {elsewhere} goes"), gone);
        pause(OVER);
        self.cloud.node(home).wait_metrics(&self.cloud.port, &[NORMAL]);
    }

    fn node(&mut self, host: &str) -> &mut Node {
        if host == SOURCE { &mut self.cloud.source } else { &mut self.cloud.target }
    }

    /// What every order of the driver's threads makes of what was reported so far.
    #[track_caller]
    fn judge(&self, name: &str) {
        let heard = self.diary.heard().into_iter().filter_map(|(at, written)| {
            let parts: Vec<&str> = written.key.split('/').collect();
            let ["", "calico", "felix", "v2", _, "host", host, "workload", ..] = parts.as_slice() else {
                return None;
            };
            let value: Option<serde_json::Value> =
                written.value.map(|value| serde_json::from_str(&value).expect("JSON"));
            let status = value.map(|value| value["status"].as_str().expect("a status").to_owned());
            Some((at, Told::Status { host: (*host).to_owned(), status }))
        });
        let mut told: Vec<_> = heard.chain(self.down_at.iter().map(|at| (*at, Told::PortDown))).collect();
        told.sort_by_key(|(at, _)| *at);
        let wrong: Vec<_> = (1..=ORDERS)
            .map(|seed| (seed, port_after(&told, seed)))
            .filter(|(_, outcome)| !outcome.is_active || outcome.failures > 0)
            .collect();
        let logs =
            || format!("{}\n{}", self.cloud.source.agent.log_text(), self.cloud.target.agent.log_text());
        assert!(
            wrong.is_empty(),
            "{name}: {} of {ORDERS} orders, such as {:?}, of {told:#?}\n{}",
            wrong.len(),
            wrong[0],
            logs()
        );
    }
}

fn pause(length: Duration) {
    std::thread::sleep(length);
}

fn success(binding: Binding) {
    let mut port = Port::new();
    port.there(binding);
    port.wait_over(TARGET);
    port.judge("success");
}

fn rollback() {
    let mut port = Port::new();
    port.begin(SOURCE, TARGET);
    port.roll_back(SOURCE, TARGET);
    port.wait_over(SOURCE);
    port.judge("rollback");
}

fn way_back() {
    let mut port = Port::new();
    port.there(Binding::Legacy);
    // A real hypervisor is not faster.
    pause(Duration::from_secs(3));
    let tap = port.cloud.port.clone();
    port.node(SOURCE).plug(&tap);
    port.begin(TARGET, SOURCE);
    port.arrive(TARGET, SOURCE);
    port.succeed(TARGET, SOURCE, Binding::Extended);
    port.wait_over(SOURCE);
    port.judge("way back");
}

/// It comes back late, and tidies up then.
fn source_that_dies() {
    let mut port = Port::new();
    port.begin(SOURCE, TARGET);
    port.arrive(SOURCE, TARGET);
    port.node(SOURCE).agent.kill();
    port.succeed(SOURCE, TARGET, Binding::Extended);
    pause(Duration::from_secs(5));
    port.node(SOURCE).agent.start_in_sync();
    port.wait_over(TARGET);
    port.judge("the source's agent dies");
}

/// Its agent is away when the source removes its key.
fn target_that_is_restarted() {
    let mut port = Port::new();
    port.begin(SOURCE, TARGET);
    port.arrive(SOURCE, TARGET);
    let before = port.cloud.status_pair(TARGET).modified;
    port.succeed(SOURCE, TARGET, Binding::Legacy);
    port.cloud.wait_written_after(TARGET, before);
    port.node(TARGET).agent.kill();
    assert!(port.cloud.status(SOURCE).is_some(), "not removed before the target's agent was away");
    let gone = || port.cloud.status(SOURCE).is_none();
    wait::until(TIDIED, "the source's key goes", gone);
    pause(Duration::from_secs(1));
    port.node(TARGET).agent.start_in_sync();
    port.wait_over(TARGET);
    port.judge("the target's agent is restarted");
}

/// Side by side, because they wait for most of their time.
#[test]
fn the_port_is_active_after_every_migration_whatever_the_drivers_threads_do() {
    let scripts: [fn(); 6] = [
        || success(Binding::Legacy),
        || success(Binding::Extended),
        rollback,
        way_back,
        source_that_dies,
        target_that_is_restarted,
    ];
    std::thread::scope(|scope| {
        let played: Vec<_> = scripts.into_iter().map(|script| scope.spawn(script)).collect();
        let right = played.into_iter().map(|script| script.join().is_ok()).collect::<Vec<_>>();
        assert_eq!(right, [true; 6], "see above");
    });
}
