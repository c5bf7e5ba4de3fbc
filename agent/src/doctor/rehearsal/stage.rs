//! The throw-away place: namespaces of its own in which the host's programs can run and nothing of the host can be changed.
//!
//! Owns the order in which it is made. Two network namespaces: in one is the daemon, in the other one are its peers. Everything that is
//! mounted can be read and not written, and what daemons write to is empty memory. Process 1 of a process namespace is who calls
//! [`Stage::enter`]: when it ends, for whatever reason, the kernel ends everybody else there.

#![expect(unsafe_code, reason = "runs between fork and exec")]

mod mounts;

use nix::sched::{CloneFlags, setns, unshare};
use nix::unistd::{Pid, gettid};
use serde_json::Value;
use std::fs::File;
use std::io::{self, Write as _};
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::mpsc::{self, Sender};

/// Where the host's `ip` is looked for.
const IP: &str = "ip";

/// The daemon's side. Whoever calls its methods is in it.
#[derive(Debug)]
pub(super) struct Stage {
    /// The mount namespace in which `ip` is, which is not always the daemon's.
    home: OwnedFd,
    beyond: Beyond,
}

/// The peers' side: a thread in a network namespace of its own.
#[derive(Debug)]
struct Beyond {
    thread: Pid,
    work: Sender<Work>,
}

type Work = Box<dyn FnOnce() + Send>;

impl Stage {
    /// Makes the stage around this process, which must have one thread and be the first of its process namespace. `daemon` is a
    /// process whose files the daemon sees, if those are not the host's; `files` says, once those are seen, what it reads: that stays
    /// where it is.
    pub(super) fn enter(daemon: Option<u32>, files: impl FnOnce() -> Vec<PathBuf>) -> io::Result<Self> {
        let elsewhere = daemon.map(|pid| File::open(format!("/proc/{pid}/ns/mnt"))).transpose()?;
        let flags = CloneFlags::CLONE_NEWNS
            | CloneFlags::CLONE_NEWNET
            | CloneFlags::CLONE_NEWIPC
            | CloneFlags::CLONE_NEWUTS;
        unshare(flags)?;
        mounts::make_private()?;
        let home = OwnedFd::from(File::open("/proc/self/ns/mnt")?);
        if let Some(elsewhere) = elsewhere {
            setns(elsewhere, CloneFlags::CLONE_NEWNS)?;
            unshare(CloneFlags::CLONE_NEWNS)?;
            mounts::make_private()?;
        }
        mounts::close(&files())?;
        let stage = Self { home, beyond: Beyond::open()? };
        prepare_network();
        stage.beyond.run(prepare_network);
        stage.ip(&["link set lo up"])?;
        stage.beyond_ip(&["link set lo up"])?;
        Ok(stage)
    }

    /// Lines of `ip -batch` on the daemon's side.
    pub(super) fn ip<S: AsRef<str>>(&self, lines: &[S]) -> io::Result<()> {
        batch(&self.home, lines)
    }

    /// The same on the peers' side.
    pub(super) fn beyond_ip<S: AsRef<str>>(&self, lines: &[S]) -> io::Result<()> {
        let home = self.home.try_clone()?;
        let lines: Vec<String> = lines.iter().map(|line| line.as_ref().to_owned()).collect();
        self.beyond.run(move || batch(&home, &lines))
    }

    /// A pair of interfaces, `name` on the daemon's side and `beyond` on the peers'.
    pub(super) fn link(&self, name: &str, beyond: &str) -> io::Result<()> {
        let thread = self.beyond.thread;
        self.ip(&[
            format!("link add name {name} type veth peer name {beyond} netns {thread}"),
            format!("link set {name} up"),
        ])?;
        self.beyond_ip(&[format!("link set {beyond} up")])
    }

    /// What `ip -json` says on the daemon's side.
    pub(super) fn ask(&self, arguments: &[&str]) -> io::Result<Value> {
        answer(Some(&self.home), arguments)
    }

    /// What it says on the peers' side.
    pub(super) fn ask_beyond(&self, arguments: &[&str]) -> io::Result<Value> {
        let home = self.home.try_clone()?;
        let arguments: Vec<String> = arguments.iter().map(|argument| (*argument).to_owned()).collect();
        self.beyond.run(move || answer(Some(&home), &arguments))
    }

    /// Does something in the network namespace of the peers; threads that it starts stay there.
    pub(super) fn beyond<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> T {
        self.beyond.run(work)
    }
}

impl Beyond {
    fn open() -> io::Result<Self> {
        let (work, taken) = mpsc::channel::<Work>();
        let (sender, opened) = mpsc::channel();
        std::thread::spawn(move || {
            // A namespace is a thread's, and that of the threads that it starts.
            let made = unshare(CloneFlags::CLONE_NEWNET).map(|()| gettid());
            if sender.send(made).is_ok() {
                taken.into_iter().for_each(|work: Work| work());
            }
        });
        let thread = opened.recv().map_err(io::Error::other)??;
        Ok(Self { thread, work })
    }

    fn run<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> T {
        let (sender, done) = mpsc::channel();
        let work = Box::new(move || drop(sender.send(work())));
        self.work.send(work).expect("the thread waits for work as long as there is a stage");
        done.recv().expect("the thread does what it is given")
    }
}

/// Covers a folder, on the stage only, with one that has nothing in it.
pub(super) fn empty(folder: &Path) -> io::Result<()> {
    mounts::empty(folder)
}

/// Lets a daemon write to a file, on the stage only, if there is a way that hides nothing.
pub(super) fn writable(file: &Path) {
    // The daemon says what it cannot do.
    let _ = mounts::writable(file);
}

/// What the links of before say, in the namespace of this thread.
pub(super) fn links_of_host() -> io::Result<Value> {
    answer(None, &["address", "show"])
}

/// As on a host that forwards; and no address is held back until nobody else is known to have it.
fn prepare_network() {
    for (sysctl, value) in [
        ("ipv4/ip_forward", "1"),
        ("ipv6/conf/all/forwarding", "1"),
        ("ipv6/conf/default/accept_dad", "0"),
        ("ipv6/conf/all/accept_dad", "0"),
        ("ipv4/conf/all/rp_filter", "0"),
        ("ipv4/conf/default/rp_filter", "0"),
    ] {
        // A kernel without IPv6 has no routes of IPv6 to rehearse with, which is seen there.
        let _ = std::fs::write(Path::new("/proc/sys/net").join(sysctl), value);
    }
}

fn command(home: Option<&OwnedFd>) -> io::Result<Command> {
    let mut command = Command::new(IP);
    if let Some(home) = home {
        let home = home.try_clone()?;
        let enter = move || setns(home.as_fd(), CloneFlags::CLONE_NEWNS).map_err(io::Error::from);
        // SAFETY: between fork and exec this makes one system call and allocates nothing.
        unsafe { command.pre_exec(enter) };
    }
    Ok(command)
}

fn batch<S: AsRef<str>>(home: &OwnedFd, lines: &[S]) -> io::Result<()> {
    let mut child = command(Some(home))?
        .args(["-batch", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(missing)?;
    let text: String = lines.iter().map(|line| format!("{}\n", line.as_ref())).collect();
    if let Some(mut input) = child.stdin.take() {
        input.write_all(text.as_bytes())?;
    }
    let output = child.wait_with_output()?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Err(io::Error::other(format!(
        "ip: {} ({})",
        said.trim().replace('\n', "; "),
        text.trim().replace('\n', "; ")
    )))
}

fn answer<S: AsRef<std::ffi::OsStr>>(home: Option<&OwnedFd>, arguments: &[S]) -> io::Result<Value> {
    let output =
        command(home)?.arg("-json").args(arguments).stdin(Stdio::null()).output().map_err(missing)?;
    // KERNEL: a table without routes does not exist, which `ip` takes for an error.
    Ok(serde_json::from_slice(&output.stdout).unwrap_or_default())
}

fn missing(error: io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("cannot run ip (Debian: iproute2): {error}"))
}
