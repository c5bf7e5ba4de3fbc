//! `CutoverReadyCommand` with a real agent and real commands: `up` waits for it, and nothing else does.

use cutover_tests::driver::Pace;
use cutover_tests::scene::{ELEVATED, NORMAL, Node, SOURCE, TARGET};
use cutover_tests::{Directory, Driver, Lab, Port, frames, script, wait};
use serde_json::Value;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Longer than the first pauses between two runs, shorter than a run may take.
const A_WHILE: Duration = Duration::from_millis(1500);

/// A host whose agent has a command, with a folder for the command and for what it leaves.
struct Scene {
    node: Node,
    driver: Driver,
    port: Port,
    folder: PathBuf,
    directory: Directory,
    _lab: Lab,
}

impl Scene {
    /// The agent runs; the command is there if it has a body.
    fn new(body: Option<&str>) -> Self {
        let lab = Lab::new();
        let directory = lab.directory();
        let port = Port::new(1);
        let driver = Driver::new(&directory, &port).at_pace(Pace::IMMEDIATE);
        let mut node = Node::new(&lab, TARGET, &directory, &port);
        let folder = lab.folder().join("command");
        fs::create_dir(&folder).expect("space on the disk");
        node.agent.set("LiveMigrationRouteConvergenceTime", 1);
        node.agent.set("CutoverReadyCommand", folder.join("check").display());
        let mut scene = Self { node, driver, port, folder, directory, _lab: lab };
        if let Some(body) = body {
            scene.install("check", body);
        }
        scene.node.agent.start();
        scene
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// A script that notes each run with its number and what it was told.
    fn install(&self, name: &str, body: &str) {
        // Not written in place: what runs now reads the old one to its end.
        let hidden = self.path(".new");
        let head =
            format!("#!/bin/sh\ncd {}\nread document\necho \"$document\" >> runs\n", self.folder.display());
        script::install(&hidden, &format!("{head}{body}\n"));
        fs::rename(hidden, self.path(name)).expect("the same folder");
    }

    /// What the command was told, run by run.
    fn runs(&self) -> Vec<Value> {
        let text = fs::read_to_string(self.path("runs")).unwrap_or_default();
        let whole = text.rfind('\n').map_or("", |end| &text[..end]);
        whole.lines().map(|line| serde_json::from_str(line).expect("a document")).collect()
    }

    fn wait_runs(&self, count: usize) {
        let ran = || self.runs().len() >= count;
        assert!(wait::holds_within(wait::SOON, ran), "{:?}\n{}", self.runs(), self.node.agent.log_text());
    }

    fn reported(&self) -> Option<String> {
        self.node.agent.reported(&self.port.name_on(TARGET))
    }

    /// A running VM: the tap has a carrier and the endpoint is this host's.
    fn boot(&mut self) {
        self.node.open();
        self.driver.bind(TARGET);
    }

    fn process(&self, name: &str) -> PathBuf {
        let pid = wait::for_some(wait::SOON, format_args!("the process in {name}"), || {
            fs::read_to_string(self.path(name)).ok().filter(|text| text.ends_with('\n'))
        });
        Path::new("/proc").join(pid.trim())
    }
}

#[test]
fn up_waits_for_a_command_that_passes_and_routes_do_not() {
    let mut scene = Scene::new(Some("until [ -e go ]; do sleep 0.05; done"));
    scene.boot();
    scene.node.wait_settled(&scene.port);
    scene.wait_runs(1);
    let told = scene.runs().remove(0);
    assert_eq!(told["name"], scene.port.name_on(TARGET));
    assert_eq!(told["ifindex"], scene.node.tap().ifindex());
    assert_eq!(told["role"], "NO_ROLE");
    wait::throughout(A_WHILE, "nothing reported", || scene.reported().is_none());
    fs::write(scene.path("go"), "").expect("space on the disk");
    scene.node.agent.wait_up(&scene.port);
    // Writing the same again and a carrier that comes and goes ask nothing again.
    scene.driver.bind(TARGET);
    scene.node.qemu = None;
    wait::until(wait::SOON, "down", || scene.reported().as_deref() == Some("down"));
    scene.node.open();
    scene.node.agent.wait_up(&scene.port);
    assert_eq!(scene.runs().len(), 1);
}

#[test]
fn a_command_that_fails_is_run_again_and_logged_once() {
    let mut scene = Scene::new(Some("[ $(wc -l < runs) -ge 4 ] || { echo no rules yet >&2; exit 1; }"));
    scene.boot();
    scene.node.agent.wait_up(&scene.port);
    assert_eq!(scene.runs().len(), 4);
    let lines = scene.node.agent.log().matching(&["Ready command does not pass", "no rules yet"]);
    assert_eq!(lines.len(), 1, "{}", scene.node.agent.log_text());
    scene.node.agent.log().wait(wait::SOON, &["Ready command passes"]);
}

#[test]
fn a_command_that_hangs_is_killed_and_run_again() {
    let mut scene = Scene::new(Some("[ $(wc -l < runs) -ge 2 ] && exit 0; echo $$ > shell; exec sleep 1000"));
    scene.boot();
    let process = scene.process("shell");
    scene.node.wait_settled(&scene.port);
    let limit = Duration::from_secs(20);
    wait::until(limit, "up", || scene.reported().as_deref() == Some("up"));
    assert!(!process.exists());
    assert_eq!(
        scene.node.agent.log().matching(&["Ready command does not pass", "no end within 10s"]).len(),
        1
    );
}

#[test]
fn a_missing_command_is_said_and_a_changed_setting_takes_effect() {
    let mut scene = Scene::new(None);
    scene.boot();
    scene.node.wait_settled(&scene.port);
    let words = ["Ready command does not pass", "cannot be started: No such file"];
    scene.node.agent.log().wait(wait::SOON, &words);
    wait::throughout(A_WHILE, "nothing reported", || scene.reported().is_none());
    assert_eq!(scene.node.agent.log().matching(&words).len(), 1);
    scene.install("other", "exit 0");
    let other = scene.path("other");
    scene.node.agent.set("CutoverReadyCommand", other.display());
    scene.node.agent.signal(nix::sys::signal::Signal::SIGHUP);
    scene.node.agent.wait_up(&scene.port);

    // None at all: what would be asked next is up at once.
    scene.node.agent.set("CutoverReadyCommand", "none");
    scene.node.agent.signal(nix::sys::signal::Signal::SIGHUP);
    scene.node.unplug();
    scene.node.plug(&scene.port);
    scene.node.open();
    scene.node.agent.wait_up(&scene.port);
    assert_eq!(scene.runs().len(), 1);
}

#[test]
fn an_endpoint_that_changes_is_asked_about_again_and_stays_up() {
    let mut scene =
        Scene::new(Some("[ $(wc -l < runs) -eq 2 ] && { echo $$ > shell; exec sleep 1000; }; exit 0"));
    scene.boot();
    scene.node.agent.wait_up(&scene.port);
    let mut before = scene.port.clone();
    // A floating address comes: the second run hangs.
    scene.port.floating = vec![([10, 65, 0, 2].into(), [172, 16, 0, 9].into())];
    scene.driver = Driver::new(&scene.directory, &scene.port).at_pace(Pace::IMMEDIATE);
    scene.driver.bind(TARGET);
    scene.node.wait_metrics(&scene.port, &[NORMAL]);
    let process = scene.process("shell");
    wait::throughout(A_WHILE, "still up", || scene.reported().as_deref() == Some("up"));
    // It goes again while the command runs: that run is given up, and the third one passes.
    std::mem::swap(&mut before, &mut scene.port);
    scene.driver = Driver::new(&scene.directory, &scene.port).at_pace(Pace::IMMEDIATE);
    scene.driver.bind(TARGET);
    scene.wait_runs(3);
    assert!(!process.exists(), "never two at once");
    wait::throughout(A_WHILE, "still up", || scene.reported().as_deref() == Some("up"));
    assert_eq!(scene.runs()[1]["prefixes"].as_array().map(Vec::len), Some(3));
    assert_eq!(scene.runs()[2]["prefixes"], scene.runs()[0]["prefixes"]);
    assert_eq!(scene.runs().len(), 3);
}

#[test]
fn an_agent_that_ends_leaves_no_command_behind() {
    let body = "sleep 1000 & echo $! > child; echo $$ > shell; wait";
    let mut scene = Scene::new(Some(body));
    scene.boot();
    let (shell, child) = (scene.process("shell"), scene.process("child"));
    scene.node.agent.terminate();
    wait::until(wait::SOON, "both are gone", || !shell.exists() && !child.exists());

    // Killed, it can do nothing: the kernel ends the command itself.
    scene.install("check", "echo $$ > killed; exec sleep 1000");
    scene.node.agent.start();
    let killed = scene.process("killed");
    scene.node.agent.kill();
    wait::until(wait::SOON, "it is gone", || !killed.exists());

    scene.install("check", "exit 0");
    scene.node.agent.start();
    scene.node.agent.wait_up(&scene.port);
}

/// The watch is armed and the announcement moves the route while the command runs; only `up` comes after it.
#[test]
fn a_slow_command_delays_nothing_of_a_migration_but_up() {
    let mut scene = Scene::new(Some("until [ -e go ]; do sleep 0.05; done"));
    let _uid = scene.driver.start(SOURCE, TARGET);
    scene.node.wait_state(&scene.port, "Target");
    scene.wait_runs(1);
    assert_eq!(scene.runs()[0]["role"], "TARGET");
    let armed = || scene.node.agent.status_of(&scene.port).is_some_and(|it| it["watch"].is_u64());
    wait::until(wait::SOON, "armed", armed);
    wait::throughout(A_WHILE, "nothing reported", || scene.reported().is_none());

    let mac = scene.port.mac;
    scene.node.open().send(&frames::rarp(mac));
    scene.node.wait_metrics(&scene.port, &[ELEVATED]);
    scene.node.wait_state(&scene.port, "Live");
    assert_eq!(scene.reported(), None);
    fs::write(scene.path("go"), "").expect("space on the disk");
    scene.node.agent.wait_up(&scene.port);
    scene.driver.unbind(SOURCE);
    scene.driver.withdraw(TARGET);
    scene.node.wait_metrics(&scene.port, &[NORMAL]);
    assert_eq!(scene.runs().len(), 1, "asked once");
}
