//! A rehearsal: the host's own BIRD or FRR, with the site's configuration, on a stage of its own, plays a migration.
//!
//! Owns how it is asked for and what happens when somebody is killed in the middle. The doctor starts itself again, as process 1 of a
//! process namespace: whatever ends that process ends everybody on the stage, and it ends when the doctor does. Nothing of the host is
//! changed ([`stage`]). What was seen is a plain value ([`observed`]); what it means is somebody else's business.

mod answer;
mod bird;
mod confinement;
mod daemon;
mod frr;
pub(super) mod observed;
mod scenery;
mod script;
mod speaker;
mod stage;
mod text;

use bird::Bird;
use cutover_engine::InterfacePrefixes;
use daemon::Daemon;
use frr::Frr;
use ipnet::IpNet;
use nix::sched::{CloneFlags, unshare};
use nix::sys::prctl;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use observed::Observed;
use scenery::Scenery;
use script::Cast;
use serde::{Deserialize, Serialize};
use stage::Stage;
use std::fmt;
use std::fs;
use std::io::{self, BufRead as _, Read as _, Write as _};
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::time::Duration;
pub(super) use text::has_bgp;

/// LIMIT: a configuration is some kilobytes; a mesh of a thousand hosts has a megabyte.
const FILE_MAX_BYTES: u64 = 16 * 1024 * 1024;

/// Why a configuration cannot be read, if it cannot.
pub(super) fn unreadable(file: &Path) -> Option<String> {
    let metadata = match fs::metadata(file) {
        Ok(metadata) => metadata,
        Err(error) => return Some(format!("cannot read: {error}")),
    };
    if !metadata.is_file() {
        return Some("it is no regular file".to_owned());
    }
    if metadata.len() > FILE_MAX_BYTES {
        return Some(format!("it is larger than {} MiB", FILE_MAX_BYTES >> 20));
    }
    fs::File::open(file).err().map(|error| format!("cannot read: {error}"))
}

/// The hidden command that this program is started again with.
pub(crate) const COMMAND: &str = "rehearse";
/// LIMIT: a rehearsal takes a few seconds, and twenty where everything that is waited for does not come; several times that on a
/// machine without a free processor.
const DEADLINE: Duration = Duration::from_secs(120);
const TOO_LATE: u8 = 3;
/// LIMIT: the same from outside, for a stage that does not come to that: a file system or a program of the host's hangs.
const LATEST: Duration = Duration::from_secs(150);

/// What is to be rehearsed.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(super) struct Request {
    pub(super) program: Program,
    pub(super) configuration: PathBuf,
    /// What it says, if it is no file.
    pub(super) text: Option<String>,
    /// A process that has the daemon's files, if those are not the host's.
    pub(super) daemon: Option<u32>,
    pub(super) families: Vec<FamilyMetrics>,
    /// How the names of VMs' interfaces begin, as the settings have it.
    pub(super) prefixes: String,
    pub(super) protocol: u8,
    /// Addresses of VMs here.
    pub(super) here: Vec<IpAddr>,
}

/// IPv4 or IPv6, and the numbers that its routes have.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(super) struct FamilyMetrics {
    pub(super) is_ipv6: bool,
    pub(super) normal: u32,
    pub(super) elevated: u32,
    /// The address of a VM here, for filters that look at addresses.
    pub(super) sample: Option<IpNet>,
}

impl fmt::Display for FamilyMetrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.is_ipv6 { "IPv6" } else { "IPv4" })
    }
}

/// The daemon's programs.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(super) enum Program {
    Bird { program: PathBuf, is_bird_6: bool },
    Frr { folder: PathBuf, vtysh: PathBuf },
}

/// Why there is no daemon on the stage.
#[derive(Clone, PartialEq, Eq, Debug)]
enum Failed {
    /// Its program cannot be run.
    Absent(String),
    /// It does not take the configuration.
    Refused(String),
}

/// Plays it in processes of its own and tells what was seen.
///
/// # Errors
/// When there is no stage: for lack of privileges, mostly.
pub(super) fn rehearse(request: &Request) -> io::Result<Observed> {
    // KERNEL: a thread that has asked for a process namespace for its children can have no more threads.
    let ((started, first), (answer, answered)) = (mpsc::channel(), mpsc::channel());
    std::thread::scope(|scope| {
        scope.spawn(move || {
            // Whoever waited too long is gone.
            let _ = answer.send(ask(request, &started));
        });
        let too_late = || io::Error::other(format!("it was not over after {} s", LATEST.as_secs()));
        match answered.recv_timeout(LATEST) {
            Ok(observed) => observed,
            Err(RecvTimeoutError::Timeout) => {
                if let Ok(first) = first.try_recv() {
                    // It may have ended just now.
                    let _ = kill(first, Signal::SIGKILL);
                }
                Err(too_late())
            }
            Err(RecvTimeoutError::Disconnected) => Err(io::Error::other("the rehearsal panicked")),
        }
    })
}

fn ask(request: &Request, started: &Sender<Pid>) -> io::Result<Observed> {
    unshare(CloneFlags::CLONE_NEWPID).map_err(|error| {
        io::Error::new(io::Error::from(error).kind(), format!("no process namespace: {error}"))
    })?;
    let mut child = Command::new("/proc/self/exe")
        .arg(COMMAND)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    // Whoever waits for it is there.
    let _ = started.send(Pid::from_raw(child.id().cast_signed()));
    let mut line = serde_json::to_string(request)?;
    line.push('\n');
    // The pipe stays open: its end is how the child learns of ours.
    let input = child.stdin.take();
    let written = input.as_ref().map_or(Ok(()), |mut input| input.write_all(line.as_bytes()));
    let (mut answer, mut said) = (String::new(), String::new());
    if let Some(mut output) = child.stdout.take() {
        output.read_to_string(&mut answer)?;
    }
    if let Some(mut output) = child.stderr.take() {
        output.read_to_string(&mut said)?;
    }
    let status = child.wait()?;
    drop(input);
    if status.code() == Some(TOO_LATE.into()) {
        return Err(io::Error::other(format!("it was not over after {} s", DEADLINE.as_secs())));
    }
    if !status.success() {
        let last = said.lines().last().unwrap_or("it said nothing");
        return Err(io::Error::other(format!("it ended with {status}: {last}")));
    }
    written?;
    Ok(serde_json::from_str(&answer)?)
}

/// The other side of [`rehearse`]: reads a request from standard input and writes what was seen to standard output.
///
/// # Errors
/// When there is no stage, or nothing could be played on it.
pub(crate) fn perform() -> io::Result<()> {
    prctl::set_pdeathsig(Signal::SIGKILL)?;
    let mut line = String::new();
    io::stdin().lock().read_line(&mut line)?;
    let request: Request = serde_json::from_str(&line)?;
    // Started by hand, it would make a stage around processes of the host.
    if std::process::id() != 1 {
        return Err(io::Error::other("this is not for people: cutover doctor starts it"));
    }
    let observed = on_stage(&request)?;
    let mut out = io::stdout().lock();
    serde_json::to_writer(&mut out, &observed)?;
    out.flush()
}

fn on_stage(request: &Request) -> io::Result<Observed> {
    let host = stage::links_of_host()?;
    let stage = Stage::enter(request.daemon, || read_by(request))?;
    end_with_the_doctor();
    let mut configuration = request.configuration.clone();
    if matches!(request.program, Program::Frr { .. }) {
        // FRR has one file, and where it is will be empty.
        let text = request.text.clone().map_or_else(|| fs::read(&configuration), |text| Ok(text.into()))?;
        configuration = PathBuf::from("/run/cutover-stage.conf");
        fs::write(&configuration, text)?;
    }
    let workloads: InterfacePrefixes = request.prefixes.parse().map_err(io::Error::other)?;
    let named = match &request.program {
        Program::Bird { .. } => text::of_bird(&configuration),
        Program::Frr { .. } => text::of_frr(&String::from_utf8_lossy(&fs::read(&configuration)?)),
    };
    named.written.iter().for_each(|file| stage::writable(file));
    let scenery = Scenery::build(&stage, &host, &named, &workloads)?;
    let daemon = match &request.program {
        Program::Bird { program, is_bird_6 } => {
            Bird::start(program, &configuration, *is_bird_6).map(Daemon::Bird)
        }
        Program::Frr { folder, vtysh } => {
            Frr::start(folder, vtysh, &named.programs, &configuration).map(Daemon::Frr)
        }
    };
    match daemon {
        Ok(daemon) => {
            let cast = Cast { request, stage: &stage, daemon, named: &named, workloads: &workloads };
            let mut observed = script::play(cast, scenery)?;
            observed.numbers = named.metrics.clone();
            observed.restarts_gracefully = named.restarts_gracefully;
            Ok(observed)
        }
        Err(Failed::Absent(absent)) => Ok(Observed { absent: Some(absent), ..Observed::default() }),
        Err(Failed::Refused(refused)) => Ok(Observed { refused: Some(refused), ..Observed::default() }),
    }
}

/// What the daemon reads: its configuration with everything that it includes, and its programs with what is beside them.
fn read_by(request: &Request) -> Vec<PathBuf> {
    let mut files = vec![request.configuration.clone()];
    let programs = match &request.program {
        Program::Bird { program, .. } => {
            files.extend(text::files_of_bird(&request.configuration));
            [program, program]
        }
        Program::Frr { folder, vtysh } => [folder, vtysh],
    };
    // Libraries and loaders are in the folders above.
    files.extend(programs.into_iter().flat_map(|program| program.parent()).map(Path::to_owned));
    files.extend(programs.into_iter().cloned());
    files
}

/// Ends this process, and everybody on the stage with it, when nobody waits any more or it takes too long.
fn end_with_the_doctor() {
    std::thread::spawn(|| {
        let _ = io::copy(&mut io::stdin().lock(), &mut io::sink());
        std::process::exit(1);
    });
    std::thread::spawn(|| {
        std::thread::sleep(DEADLINE);
        std::process::exit(TOO_LATE.into());
    });
}
