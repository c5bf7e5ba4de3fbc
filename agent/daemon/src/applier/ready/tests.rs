//! Real commands, no agent.

use super::*;
use cutover_engine::Wanted;
use cutover_engine::roles::Role;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::time::Duration;
use tokio::sync::{mpsc, watch};

/// An applier with a folder for scripts and what they leave.
struct Bench {
    root: tempfile::TempDir,
    commands: Running,
    checks: Checks,
    wanted: watch::Sender<Option<Arc<Wanted>>>,
    facts: mpsc::UnboundedReceiver<Fact>,
}

impl Bench {
    fn new() -> Self {
        Self::with(Running::default())
    }

    fn with(commands: Running) -> Self {
        let (wanted, receiver) = watch::channel(None);
        let (sender, facts) = mpsc::unbounded_channel();
        tokio::spawn(ReadyApplier::new(commands.clone(), sender).run(receiver));
        Self { root: tempfile::tempdir().unwrap(), commands, checks: Checks::default(), wanted, facts }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.root.path().join(name)
    }

    /// A script that begins in the folder.
    fn script(&self, name: &str, body: &str) -> Arc<Path> {
        let path = self.path(name);
        // Not written in place: a script that is open for writing cannot be started, whoever has it open.
        let hidden = self.path(".new");
        fs::write(&hidden, format!("#!/bin/sh\ncd {}\n{body}\n", self.root.path().display())).unwrap();
        fs::set_permissions(&hidden, fs::Permissions::from_mode(0o755)).unwrap();
        fs::rename(hidden, &path).unwrap();
        path.into()
    }

    fn ask(&mut self, endpoint: &str, command: &Arc<Path>, ifindex: u32) {
        self.ask_as(endpoint, command, ifindex, false);
    }

    fn ask_as(&mut self, endpoint: &str, command: &Arc<Path>, ifindex: u32, is_awaited: bool) {
        let question = Question {
            command: Arc::clone(command),
            interface: format!("tap{endpoint}"),
            ifindex,
            mac: Some(cutover_common::MacAddr([0xfa, 0x16, 0x3e, 0, 0, 1])),
            prefixes: ["10.65.0.2/32".parse().unwrap(), "2001:db8::2/128".parse().unwrap()].into(),
        };
        let check = WantedCheck {
            question: Arc::new(question),
            is_awaited,
            role: if is_awaited { Role::Target } else { Role::None },
            migration_uid: "u1".into(),
        };
        self.checks.insert(Arc::new(key(endpoint)), check);
        self.publish();
    }

    fn publish(&self) {
        let wanted = Wanted { checks: self.checks.clone(), ..Wanted::default() };
        self.wanted.send_replace(Some(Arc::new(wanted)));
    }

    /// The next endpoint that is ready, with the number of its tap.
    async fn ready(&mut self) -> (String, u32) {
        let fact = tokio::time::timeout(Duration::from_secs(20), self.facts.recv()).await;
        match fact.expect("a fact in time") {
            Some(Fact::EndpointReady { endpoint, question }) => (endpoint.endpoint, question.ifindex),
            other => panic!("{other:?}"),
        }
    }

    async fn wait_for(&self, name: &str) -> String {
        for _ in 0..2_000 {
            // Whoever writes it has finished with the line.
            if let Some(text) = fs::read_to_string(self.path(name)).ok().filter(|text| text.ends_with('\n')) {
                return text;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        panic!("no {name}");
    }

    fn lines(&self, name: &str) -> usize {
        fs::read_to_string(self.path(name)).map_or(0, |text| text.lines().count())
    }
}

fn key(endpoint: &str) -> EndpointKey {
    EndpointKey {
        host: "host-1".into(),
        orchestrator: "openstack".into(),
        workload: "openstack/vm1".into(),
        endpoint: endpoint.into(),
    }
}

/// Whether a process has ended, and whoever had to take notice of that did.
async fn wait_gone(pid: &str) {
    for _ in 0..2_000 {
        if !Path::new("/proc").join(pid.trim()).exists() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    panic!("process {pid} is still there");
}

#[tokio::test]
async fn the_command_gets_the_endpoint_and_a_clean_environment() {
    let mut bench = Bench::new();
    let command = bench.script("check", "env > environment; cat > document");
    bench.ask_as("a", &command, 7, true);
    assert_eq!(bench.ready().await, ("a".to_owned(), 7));
    let document: serde_json::Value = serde_json::from_str(&bench.wait_for("document").await).unwrap();
    let expected = serde_json::json!({
        "name": "host--1-openstack-vm1-a", "namespace": "openstack", "host": "host-1",
        "orchestrator": "openstack", "workload": "openstack/vm1", "endpoint": "a",
        "interface": "tapa", "ifindex": 7, "mac": "fa:16:3e:00:00:01",
        "prefixes": ["10.65.0.2/32", "2001:db8::2/128"], "role": "TARGET", "migration_uid": "u1",
    });
    assert_eq!(document, expected);
    let environment = bench.wait_for("environment").await;
    // The shell adds these by itself.
    let names: Vec<_> = environment.lines().filter_map(|line| line.split('=').next()).collect();
    assert!(names.iter().all(|name| ["PATH", "PWD", "OLDPWD", "SHLVL", "_"].contains(name)), "{names:?}");
}

#[tokio::test]
async fn a_command_that_fails_is_run_again_until_it_passes() {
    let mut bench = Bench::new();
    let command = bench.script("check", "echo run >> runs; [ $(wc -l < runs) -ge 3 ]");
    bench.ask("a", &command, 7);
    bench.ready().await;
    assert_eq!(bench.lines("runs"), 3);
    bench.publish();
    assert_eq!(bench.ready().await.0, "a", "told again while it is asked");
    assert_eq!(bench.lines("runs"), 3, "but not run again");
}

#[tokio::test]
async fn a_missing_command_is_tried_again() {
    let mut bench = Bench::new();
    let path: Arc<Path> = bench.path("check").into();
    bench.ask("a", &path, 7);
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert!(bench.facts.try_recv().is_err());
    bench.script("check", "exit 0");
    bench.ready().await;
}

#[tokio::test]
async fn a_command_that_hangs_is_killed_with_all_that_it_started() {
    let mut bench = Bench::with(Running::limited_to(Duration::from_secs(2)));
    let body = "[ -e child ] && exit 0; sleep 1000 & echo $! > child.new; mv child.new child; wait";
    let command = bench.script("check", body);
    bench.ask("a", &command, 7);
    let child = bench.wait_for("child").await;
    bench.ready().await;
    wait_gone(&child).await;
}

#[tokio::test]
async fn a_run_about_what_is_not_asked_any_more_is_given_up() {
    let mut bench = Bench::new();
    let hanging = bench.script("hanging", "echo $$ > shell; exec sleep 1000");
    let quick = bench.script("quick", "exit 0");
    bench.ask("a", &hanging, 7);
    let shell = bench.wait_for("shell").await;
    bench.ask("a", &quick, 8);
    assert_eq!(bench.ready().await, ("a".to_owned(), 8));
    assert!(!Path::new("/proc").join(shell.trim()).exists(), "the next one starts after its end");
}

#[tokio::test]
async fn those_that_hang_do_not_hold_up_the_target_of_a_migration() {
    let mut bench = Bench::new();
    let hanging = bench.script("hanging", "echo run >> runs; exec sleep 1000");
    let quick = bench.script("quick", "exit 0");
    for number in 0..30 {
        bench.ask(&format!("m{number}"), &hanging, number);
    }
    while bench.lines("runs") < AT_ONCE {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    bench.ask_as("z", &quick, 99, true);
    assert_eq!(bench.ready().await, ("z".to_owned(), 99));
    assert_eq!(bench.lines("runs"), AT_ONCE, "so many at once");
    bench.commands.stop();
}

#[tokio::test]
async fn what_is_left_open_by_a_command_that_has_ended_is_not_waited_for() {
    let mut bench = Bench::new();
    let command = bench.script("check", "sleep 30 & echo $! > child; exit 0");
    bench.ask("a", &command, 7);
    bench.ready().await;
    let child = bench.wait_for("child").await;
    let pid = nix::unistd::Pid::from_raw(child.trim().parse().unwrap());
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL).unwrap();
}

#[tokio::test]
async fn a_stop_leaves_nothing_behind_and_starts_nothing() {
    let mut bench = Bench::new();
    let body = "sleep 1000 & echo $! > child.new; echo $$ > shell; mv child.new child; wait";
    let command = bench.script("check", body);
    bench.ask("a", &command, 7);
    let (child, shell) = (bench.wait_for("child").await, bench.wait_for("shell").await);
    bench.commands.stop();
    wait_gone(&child).await;
    wait_gone(&shell).await;
    let started = bench.script("other", "echo run > started");
    bench.ask("b", &started, 8);
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert!(!bench.path("started").exists());
}

#[tokio::test]
async fn the_last_line_of_standard_error_says_why() {
    let bench = Bench::new();
    let body = "i=0; while [ $i -lt 500 ]; do echo noise $i >&2; i=$((i+1)); done; echo no rules yet >&2; echo >&2; exit 3";
    let command = bench.script("check", body);
    let result = bench.commands.run(&command, Vec::new(), std::future::pending()).await;
    let error = result.expect("it ended").expect_err("it failed").to_string();
    assert_eq!(error, "exit status: 3: no rules yet");
}
