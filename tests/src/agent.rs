//! The real `cutover` binary on a lab host. Owns its process, its configuration and its folders; when it goes
//! it also checks that `cutover cleanup` takes everything away that the agent left.

use crate::etcd::Etcd;
use crate::host::Host;
use crate::lab::Lab;
use crate::log::Log;
use crate::namespace::Namespace;
use crate::resources::{Directory, Port};
use crate::starved::Starved;
use crate::{locked_memory, wait, wall_clock};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Read as _, Write as _};
use std::net::IpAddr;
use std::os::fd::OwnedFd;
use std::os::unix::fs::symlink;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::{Arc, mpsc};
use std::time::Duration;

/// How long an agent may take from its start until it answers on its socket, without what it waits for a processor.
const START: Duration = Duration::from_secs(15);

/// LIMIT: far longer than what a command may wait for by itself. One that is stuck fails its test and does not hang it.
const COMMAND: Duration = Duration::from_secs(120);

/// An agent, running or not.
#[derive(Debug)]
pub struct Agent {
    namespace: Arc<Namespace>,
    settings: BTreeMap<String, String>,
    environment: BTreeMap<String, String>,
    configuration: PathBuf,
    run_dir: PathBuf,
    pin_path: PathBuf,
    log: Log,
    child: Option<Child>,
    /// RLIMIT_MEMLOCK, which it may not raise.
    locked_memory: Option<u64>,
    /// What becomes the daemon, if that is not the binary itself.
    daemon: Option<PathBuf>,
}

impl Agent {
    /// An agent for a host, with its own run and pin folders. Not started yet.
    ///
    /// # Panics
    /// When the disk is full.
    #[must_use]
    pub fn new(lab: &Lab, host: &Host, directory: &Directory) -> Self {
        Self::named(lab, host, directory, host.name())
    }

    /// As [`Self::new`], one of several agents of a host; the folders have this name.
    ///
    /// # Panics
    /// When the disk is full.
    #[must_use]
    pub fn named(lab: &Lab, host: &Host, directory: &Directory, name: &str) -> Self {
        let run_dir = lab.folder().join("run").join(name);
        let pin_path = lab.pin_path(name);
        let settings = [
            ("FelixHostname", host.name().to_owned()),
            ("DatastoreType", "dir".to_owned()),
            ("InterfacePrefix", "tap".to_owned()),
            ("CutoverDatastoreDir", directory.path().display().to_string()),
            ("CutoverRunDir", run_dir.display().to_string()),
            ("CutoverPinPath", pin_path.display().to_string()),
            ("CutoverPeerDir", lab.peers().display().to_string()),
        ];
        // What an operator's tool would do: everybody's record is where everybody looks.
        let record = lab.peers().join(format!("{}.json", host.name()));
        if !record.is_symlink() {
            symlink(run_dir.join("peer.json"), record).expect("a link");
        }
        let agent = Self {
            namespace: host.namespace_shared(),
            settings: settings.map(|(name, value)| (name.to_owned(), value)).into(),
            environment: BTreeMap::new(),
            configuration: lab.folder().join(format!("{name}.cfg")),
            run_dir,
            pin_path,
            log: Log::default(),
            child: None,
            locked_memory: None,
            daemon: None,
        };
        agent.write_configuration();
        agent
    }

    /// The same with an etcd in place of the directory.
    #[must_use]
    pub fn on_etcd(self, etcd: &Etcd) -> Self {
        self.with("DatastoreType", "etcdv3").with("EtcdEndpoints", etcd.endpoint())
    }

    /// Its run directory is in this folder, from the next start on.
    ///
    /// # Panics
    /// When the disk is full.
    pub fn keep_run_dir_in(&mut self, lab: &Lab, folder: &Path) {
        let host = self.settings["FelixHostname"].clone();
        self.run_dir = folder.join(&host);
        let path = self.run_dir.display().to_string();
        self.set("CutoverRunDir", path);
        let record = lab.peers().join(format!("{host}.json"));
        fs::remove_file(&record).expect("a link");
        symlink(self.run_dir.join("peer.json"), record).expect("a link");
    }

    /// Lets it talk to the agents of the lab's other hosts with this address in the underlay (`CutoverPeering = files`).
    pub fn set_peering(&mut self, address: IpAddr) {
        self.set("CutoverPeering", "files");
        self.set("CutoverPeerAddress", address);
    }

    /// Changes a setting in the configuration file; counts from the next start or SIGHUP.
    pub fn set(&mut self, name: &str, value: impl ToString) {
        self.settings.insert(name.to_owned(), value.to_string());
        self.write_configuration();
    }

    /// What [`Self::set`] has given a setting.
    #[must_use]
    pub fn setting(&self, name: &str) -> Option<&str> {
        self.settings.get(name).map(String::as_str)
    }

    /// The same with a setting changed.
    #[must_use]
    pub fn with(mut self, name: &str, value: impl ToString) -> Self {
        self.set(name, value);
        self
    }

    /// Sets a variable in the environment of the daemon; counts from the next start.
    pub fn set_environment(&mut self, name: &str, value: impl ToString) {
        self.environment.insert(name.to_owned(), value.to_string());
    }

    /// From the next start on it may have so much locked memory, and not raise that (no CAP_SYS_RESOURCE).
    pub fn limit_locked_memory(&mut self, bytes: u64) {
        self.locked_memory = Some(bytes);
    }

    /// From the next start on the daemon is this program, which becomes the binary somewhere else. Its other commands are as they were.
    pub fn run_daemon_by(&mut self, program: PathBuf) {
        self.daemon = Some(program);
    }

    fn write_configuration(&self) {
        let lines = self.settings.iter().map(|(name, value)| format!("{name} = {value}\n"));
        let text = format!("[global]\n{}", lines.collect::<String>());
        fs::write(&self.configuration, text).expect("space on the disk");
    }

    /// Where its configuration is.
    #[must_use]
    pub fn configuration(&self) -> &Path {
        &self.configuration
    }

    /// Its `CutoverRunDir`.
    #[must_use]
    pub fn run_dir(&self) -> &Path {
        &self.run_dir
    }

    /// Its `CutoverPinPath`.
    #[must_use]
    pub fn pin_path(&self) -> &Path {
        &self.pin_path
    }

    /// Its log, across restarts.
    #[must_use]
    pub fn log(&self) -> &Log {
        &self.log
    }

    /// Its process.
    #[must_use]
    pub fn pid(&self) -> Option<i32> {
        self.child.as_ref().map(|child| child.id().cast_signed())
    }

    /// How long its process waits for a processor from now on, if it runs.
    #[must_use]
    pub fn starved(&self) -> Option<Starved> {
        self.pid().map(Starved::from_now_on)
    }

    /// Starts it and returns at once.
    ///
    /// # Panics
    /// When the binary has not been built, or when it runs already.
    pub fn spawn(&mut self) {
        self.spawn_logging_to(Stdio::piped());
    }

    /// As [`Self::spawn`], but its standard error goes somewhere else; the log stays empty.
    ///
    /// # Panics
    /// When the binary has not been built, or when it runs already.
    pub fn spawn_logging_to(&mut self, stderr: impl Into<Stdio>) {
        assert!(self.child.is_none(), "the agent is running");
        let mut command = self.command_of(self.daemon.clone().unwrap_or_else(binary), &["agent"]);
        command.arg("-c").arg(&self.configuration).stdin(Stdio::null()).stdout(Stdio::null());
        command.envs(&self.environment);
        if let Some(bytes) = self.locked_memory {
            locked_memory::limit(&mut command, bytes);
        }
        let mut child = command.stderr(stderr).spawn().expect("a process");
        if let Some(stderr) = child.stderr.take() {
            self.log.follow(stderr);
        }
        self.child = Some(child);
    }

    /// Starts it and waits until it answers on its socket.
    ///
    /// # Panics
    /// When it does not.
    #[track_caller]
    pub fn start(&mut self) {
        self.spawn();
        self.wait_answering();
    }

    /// Starts it and waits until it has read the whole datastore.
    ///
    /// # Panics
    /// When it does not.
    #[track_caller]
    pub fn start_in_sync(&mut self) {
        self.start();
        wait::until(START, "the datastore is in sync", || self.status()["in_sync"] == true);
    }

    /// Waits until it answers on its socket.
    ///
    /// # Panics
    /// When it does not, or when it has ended; the message has its log.
    #[track_caller]
    pub fn wait_answering(&mut self) {
        let socket = self.run_dir.join("cutover.sock");
        let starved = self.starved();
        let answering = wait::holds_within_but_for(
            START,
            || starved.as_ref().map_or(Duration::ZERO, Starved::time),
            || UnixStream::connect(&socket).is_ok() || self.has_ended().is_some(),
        );
        let ended = self.has_ended();
        assert!(answering && ended.is_none(), "no agent ({ended:?}):\n{}", self.log_text());
    }

    /// The exit status, when it has ended by itself.
    pub fn has_ended(&mut self) -> Option<ExitStatus> {
        self.child.as_mut()?.try_wait().ok().flatten()
    }

    /// Waits for its end.
    ///
    /// # Panics
    /// When it goes on.
    #[track_caller]
    pub fn wait_ended(&mut self) -> ExitStatus {
        let status = wait::for_some(wait::SOON, "the agent ends", || self.has_ended());
        if let Some(child) = self.child.take() {
            wall_clock::remove_leftovers(child.id());
        }
        status
    }

    /// SIGKILL: no chance to do anything.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            // It may have ended by itself.
            let _ = child.kill();
            let _ = child.wait();
            wall_clock::remove_leftovers(child.id());
        }
    }

    /// SIGTERM, and waits for the end.
    ///
    /// # Panics
    /// When it ignores the signal.
    #[track_caller]
    pub fn terminate(&mut self) -> ExitStatus {
        self.signal(Signal::SIGTERM);
        self.wait_ended()
    }

    /// Sends a signal.
    ///
    /// # Panics
    /// When it is not running.
    #[track_caller]
    pub fn signal(&self, signal: Signal) {
        let pid = self.pid().expect("the agent is running");
        kill(Pid::from_raw(pid), signal).expect("the process is ours");
    }

    /// Runs another `cutover` command on the same host with the same settings, given by the environment.
    ///
    /// # Panics
    /// When there is no binary.
    #[must_use]
    pub fn run(&self, arguments: &[&str]) -> Output {
        let mut command = self.command(arguments);
        for (name, value) in &self.settings {
            command.env(format!("FELIX_{}", name.to_uppercase()), value);
        }
        output_within(COMMAND, &mut command)
    }

    /// As [`Self::run`], with nothing but what the arguments say.
    ///
    /// # Panics
    /// When there is no binary.
    #[must_use]
    pub fn run_by_file(&self, arguments: &[&str]) -> Output {
        output_within(COMMAND, &mut self.command(arguments))
    }

    /// Starts another `cutover` command with the same settings, silently. The caller waits for its end.
    ///
    /// # Panics
    /// When there is no binary.
    #[must_use]
    pub fn spawn_command(&self, arguments: &[&str]) -> Child {
        let mut command = self.command(arguments);
        for (name, value) in &self.settings {
            command.env(format!("FELIX_{}", name.to_uppercase()), value);
        }
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("a process")
    }

    /// Starts another `cutover` command on a terminal, with the same settings. The caller waits for its end.
    ///
    /// # Panics
    /// When there is no binary.
    #[must_use]
    pub fn spawn_on(&self, terminal: &OwnedFd, arguments: &[&str]) -> Child {
        let mut command = self.command(arguments);
        for (name, value) in &self.settings {
            command.env(format!("FELIX_{}", name.to_uppercase()), value);
        }
        let stdio = || Stdio::from(terminal.try_clone().expect("a descriptor"));
        command.stdin(stdio()).stdout(stdio()).stderr(stdio()).spawn().expect("a process")
    }

    /// As [`Self::run`], for a command that has to succeed. Returns what it printed.
    ///
    /// # Panics
    /// When it fails.
    #[track_caller]
    pub fn run_ok(&self, arguments: &[&str]) -> String {
        let output = self.run(arguments);
        let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(output.status.success(), "cutover {arguments:?}: {}\n{out}{err}", output.status);
        out.into_owned()
    }

    /// `cutover status --json`.
    ///
    /// # Panics
    /// When it fails or prints something else.
    #[track_caller]
    #[must_use]
    pub fn status(&self) -> Value {
        let text = self.run_ok(&["status", "--json"]);
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error} in\n{text}"))
    }

    /// The same without a process for the question, from an agent that is there.
    ///
    /// # Errors
    /// When it does not answer.
    pub fn ask_status(&self) -> io::Result<Value> {
        let mut socket = UnixStream::connect(self.run_dir.join("cutover.sock"))?;
        socket.write_all(b"status\n")?;
        let mut answer = String::new();
        socket.read_to_string(&mut answer)?;
        Ok(serde_json::from_str(&answer)?)
    }

    /// What `cutover status --json` says about the endpoint of `port` on this host.
    ///
    /// # Panics
    /// When the agent does not answer.
    #[track_caller]
    #[must_use]
    pub fn status_of(&self, port: &Port) -> Option<Value> {
        let name = port.name_on(&self.settings["FelixHostname"]);
        let status = self.status();
        status["endpoints"].as_array()?.iter().find(|endpoint| endpoint["name"] == name.as_str()).cloned()
    }

    /// The reported status of an endpoint: `up`, `down`, or nothing.
    #[must_use]
    pub fn reported(&self, endpoint: &str) -> Option<String> {
        let path = self.run_dir.join("status").join(format!("{endpoint}.json"));
        let document: Value = serde_json::from_str(&fs::read_to_string(path).ok()?).ok()?;
        Some(document["status"].as_str()?.to_owned())
    }

    /// Waits until the endpoint of `port` on this host is reported `up`. An earlier life may have done that.
    ///
    /// # Panics
    /// When it is not; the message has the log.
    #[track_caller]
    pub fn wait_up(&self, port: &Port) {
        let name = port.name_on(&self.settings["FelixHostname"]);
        let up = wait::holds_within(wait::SOON, || self.reported(&name).as_deref() == Some("up"));
        assert!(up, "{name} is {:?}, not up:\n{}", self.reported(&name), self.log_text());
    }

    /// Every line of the log.
    #[must_use]
    pub fn log_text(&self) -> String {
        let lines = self.log.lines();
        lines.iter().map(|line| format!("{}\n", line.text)).collect()
    }

    fn command(&self, arguments: &[&str]) -> Command {
        self.command_of(binary(), arguments)
    }

    fn command_of(&self, program: PathBuf, arguments: &[&str]) -> Command {
        let mut command = self.namespace.command(program);
        for (name, _) in std::env::vars_os() {
            // What the person who runs the tests has set must not change them.
            let lower = name.to_string_lossy().to_lowercase();
            if ["felix_", "etcd_", "calico_", "datastore_type"].iter().any(|ours| lower.starts_with(ours)) {
                command.env_remove(name);
            }
        }
        command.args(arguments);
        command
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        self.kill();
        if !self.pin_path.exists() && !self.run_dir.exists() {
            return;
        }
        // The datastore may have gone before.
        let output = self.run(&["cleanup", "--without-datastore"]);
        if !std::thread::panicking() {
            let err = String::from_utf8_lossy(&output.stderr);
            assert!(output.status.success(), "cutover cleanup: {}\n{err}", output.status);
            assert!(!self.pin_path.exists(), "cleanup left {}", self.pin_path.display());
        } else {
            eprint_log(self);
        }
    }
}

/// What a command prints until it ends.
///
/// # Panics
/// When it does not end in time; it is killed then.
#[track_caller]
fn output_within(limit: Duration, command: &mut Command) -> Output {
    let child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
    let child = child.expect("a process");
    // It keeps its number until the thread has waited for it.
    let pid = Pid::from_raw(child.id().cast_signed());
    let (sender, receiver) = mpsc::channel();
    std::thread::spawn(move || sender.send(child.wait_with_output()));
    let limit = wait::patient(limit);
    match receiver.recv_timeout(limit) {
        Ok(output) => output.expect("its output"),
        Err(_) => {
            // It may have ended just now.
            let _ = kill(pid, Signal::SIGKILL);
            panic!("after {limit:?} still running: {command:?}");
        }
    }
}

/// Shows what the agent said when its test fails.
#[expect(clippy::print_stderr, reason = "the test harness shows it with the failure")]
fn eprint_log(agent: &Agent) {
    eprintln!("--- {} ---\n{}", agent.settings["FelixHostname"], agent.log_text());
}

/// The binary that belongs to this test executable.
///
/// # Panics
/// When it has not been built.
#[must_use]
pub fn binary() -> PathBuf {
    let own = std::env::current_exe().expect("the path of this process");
    let found =
        own.ancestors().skip(1).take(2).map(|folder| folder.join("cutover")).find(|path| path.is_file());
    found.unwrap_or_else(|| {
        panic!("no cutover beside {}: run cargo build -p cutover-agent first", own.display())
    })
}
