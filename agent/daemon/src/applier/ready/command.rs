//! One run of a command: started in a process group of its own, fed, listened to, limited in time, and never left behind.
//!
//! Owns the processes. Decides nothing about endpoints and logs nothing; the applier does.

#![expect(unsafe_code, reason = "runs between fork and exec")]

use nix::sys::prctl::set_pdeathsig;
use nix::sys::signal::{Signal, killpg};
use nix::unistd::{Pid, getpid, getppid};
use std::collections::BTreeSet;
use std::io;
use std::path::Path;
use std::process::{ExitStatus, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWriteExt as _};
use tokio::process::{Child, ChildStdin, Command};

/// LIMIT: whoever needs longer to say yes should say no and be asked again; Nova waits for minutes, an operator who reads
/// the log does not.
const TIME_LIMIT: Duration = Duration::from_secs(10);

/// LIMIT: how long to listen for more on standard error when the command has ended but something it started has not.
const LAST_WORDS: Duration = Duration::from_millis(100);

/// LIMIT: only the end of what a command says is kept; a line for the log is shorter.
const TAIL_BYTES: usize = 1024;

/// All that a command has of the agent's environment.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Why a run is no yes.
#[derive(Debug, thiserror::Error)]
pub(super) enum RunError {
    #[error("cannot be started: {error}")]
    Start { error: io::Error },
    #[error("{status}{}", last_line(said))]
    Refused { status: ExitStatus, said: String },
    #[error("no end within {limit:?}, killed{}", last_line(said))]
    TimeLimit { limit: Duration, said: String },
    #[error("cannot wait for its end: {error}")]
    Wait { error: io::Error },
}

fn last_line(said: &str) -> String {
    let line = said.lines().map(str::trim).rfind(|line| !line.is_empty());
    line.map(|line| format!(": {line}")).unwrap_or_default()
}

/// The commands that are running. Whoever runs the agent calls [`Running::stop`] when it stops.
#[derive(Clone, Debug)]
pub struct Running {
    groups: Arc<Mutex<Groups>>,
    time_limit: Duration,
}

#[derive(Debug, Default)]
struct Groups {
    stopped: bool,
    leaders: BTreeSet<i32>,
}

impl Default for Running {
    fn default() -> Self {
        Self { groups: Arc::default(), time_limit: TIME_LIMIT }
    }
}

impl Running {
    #[cfg(test)]
    pub(super) fn limited_to(time_limit: Duration) -> Self {
        Self { time_limit, ..Self::default() }
    }

    fn groups(&self) -> std::sync::MutexGuard<'_, Groups> {
        self.groups.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Kills every command with everything in its process group, and starts no other.
    pub fn stop(&self) {
        let mut groups = self.groups();
        groups.stopped = true;
        for &leader in &groups.leaders {
            kill_group(leader);
        }
    }

    /// Runs a command to its end. Nothing if `given_up` came before that; it has ended all the same.
    pub(super) async fn run(
        &self,
        command: &Path,
        input: Vec<u8>,
        given_up: impl Future<Output = ()>,
    ) -> Option<Result<(), RunError>> {
        let mut process = match self.start(command) {
            Ok(process) => process,
            Err(error) => return Some(Err(RunError::Start { error })),
        };
        let mut said = Vec::new();
        let ended = tokio::select! {
            status = follow(&mut process.child, input, &mut said) => Some(status),
            () = tokio::time::sleep(self.time_limit) => None,
            () = given_up => {
                process.kill().await;
                return None;
            }
        };
        let Some(status) = ended else {
            process.kill().await;
            return Some(Err(RunError::TimeLimit { limit: self.time_limit, said: text(&said) }));
        };
        Some(match status {
            Ok(status) if status.success() => Ok(()),
            Ok(status) => Err(RunError::Refused { status, said: text(&said) }),
            Err(error) => Err(RunError::Wait { error }),
        })
    }

    fn start(&self, command: &Path) -> io::Result<Process> {
        let mut prepared = Command::new(command);
        prepared
            .env_clear()
            .env("PATH", PATH)
            .current_dir("/")
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .process_group(0)
            .kill_on_drop(true);
        let agent = getpid();
        let follow_agent = move || {
            // KERNEL: the signal comes when the thread ends that started the command (prctl(2)). The runtime's
            // threads live as long as the agent.
            set_pdeathsig(Signal::SIGKILL)?;
            if getppid() == agent { Ok(()) } else { Err(io::ErrorKind::NotConnected.into()) }
        };
        // SAFETY: runs between fork and exec, and only makes two system calls that are safe there; no path of it allocates.
        unsafe { prepared.pre_exec(follow_agent) };
        // ORDER: started and noted at once, so that a stop in between cannot miss it.
        let mut groups = self.groups();
        if groups.stopped {
            return Err(io::Error::other("the agent is stopping"));
        }
        let child = prepared.spawn()?;
        let leader = child.id().map(u32::cast_signed).unwrap_or_default();
        groups.leaders.insert(leader);
        Ok(Process { child, leader, running: self.clone() })
    }
}

/// A command that has been started. Dropping it kills its process group, unless it has ended.
struct Process {
    child: Child,
    leader: i32,
    running: Running,
}

impl Process {
    /// Kills it with its process group and waits for its end.
    async fn kill(&mut self) {
        self.kill_group();
        // It has been killed: there is nothing that it could not end of.
        let _: io::Result<ExitStatus> = self.child.wait().await;
    }

    /// ORDER: while it has not been waited for, its number cannot be somebody else's.
    fn kill_group(&self) {
        if self.child.id().is_some() {
            kill_group(self.leader);
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill_group();
        self.running.groups().leaders.remove(&self.leader);
    }
}

fn kill_group(leader: i32) {
    // Zero would be our own group. A group that is gone needs no killing.
    if leader > 0 {
        let _: nix::Result<()> = killpg(Pid::from_raw(leader), Signal::SIGKILL);
    }
}

/// Feeds a command and listens to it until it ends.
async fn follow(child: &mut Child, input: Vec<u8>, said: &mut Vec<u8>) -> io::Result<ExitStatus> {
    let (stdin, stderr) = (child.stdin.take(), child.stderr.take());
    let talk = async { tokio::join!(feed(stdin, &input), listen(stderr, said)) };
    let mut talk = std::pin::pin!(talk);
    let mut talked = false;
    let status = loop {
        tokio::select! {
            status = child.wait() => break status,
            _ = &mut talk, if !talked => talked = true,
        }
    };
    if !talked {
        // Whatever still has the pipe open is not the command.
        let _: Result<_, tokio::time::error::Elapsed> = tokio::time::timeout(LAST_WORDS, talk).await;
    }
    status
}

async fn feed(stdin: Option<ChildStdin>, input: &[u8]) {
    let Some(mut stdin) = stdin else { return };
    // A command need not read what it is told.
    let _: io::Result<()> = stdin.write_all(input).await;
}

async fn listen(stderr: Option<impl AsyncRead + Unpin>, said: &mut Vec<u8>) {
    let Some(mut stderr) = stderr else { return };
    let mut buffer = [0; TAIL_BYTES];
    while let Ok(count @ 1..) = stderr.read(&mut buffer).await {
        said.extend_from_slice(&buffer[..count]);
        said.drain(..said.len().saturating_sub(TAIL_BYTES));
    }
}

fn text(said: &[u8]) -> String {
    String::from_utf8_lossy(said).into_owned()
}
