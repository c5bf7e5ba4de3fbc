//! The control socket `<run dir>/cutover.sock`: answers `cutover status`, `watch` and `timeline`, and takes `cutover release`.
//!
//! One request a connection: a line in, one JSON document out. Only root may connect: the
//! socket has mode 0600, and the kernel's word on who the peer is counts as well. With `CutoverStatusGroup` everybody may connect; members of
//! that group are told how things stand, and others nothing. Knows nothing of the engine;
//! it passes requests to the agent loop and the answers back.
//!
//! One thing cannot wait: that a virtual machine has stopped. Until what comes for it is forwarded, it is lost. So what root asks is read on
//! a thread of its own with a real-time priority, which starts at once what waits for a stop ([`Starter::stopped`]). Everything else is done on the
//! daemon's threads.

mod access;
#[cfg(test)]
pub(crate) mod fuzz;

use crate::allocator;
use crate::applier::tunnels::Starter;
use crate::handover::HandoverStatus;
use crate::migrations::{self, Finished, History};
use crate::observe::Observed;
use crate::peers::PeersStatus;
use crate::priority::Priority;
use access::Access;
use cutover_engine::EndpointKey;
use cutover_engine::view::{ForwardView, ReceptionView};
use nix::unistd::Gid;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::io::{
    AsyncBufReadExt as _, AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, BufReader,
};
use tokio::net::{UnixListener, UnixStream};
use tokio::runtime::Handle;
use tokio::sync::{mpsc, oneshot};
use tracing::{debug, warn};

/// [`Status::schema`].
pub const SCHEMA: u32 = 1;

/// Name of the socket in the run directory.
pub const SOCKET: &str = "cutover.sock";

/// LIMIT: a request is a few short words, one of which may be an identifier; whoever sends more is not a client of ours.
const REQUEST_BYTES_MAX: u64 = 512;
/// LIMIT: a client that neither asks nor reads must not keep a task forever.
const PATIENCE: Duration = Duration::from_secs(5);
/// LIMIT: what it took to write an answer of this size is worth giving back, which takes milliseconds. It is that of some hundred
/// endpoints.
const LARGE_BYTES: usize = 256 << 10;

/// A request with the way back for its answer.
#[derive(Debug)]
pub enum Request {
    /// How everything stands.
    Status(oneshot::Sender<Status>),
    /// How everything stands, with what has been counted.
    Observe(oneshot::Sender<Box<Observed>>),
    /// Everything that is kept although the datastore does not show it is gone.
    Release {
        /// How much of it there was when the operator looked.
        count: usize,
        /// The way back.
        reply: oneshot::Sender<Released>,
    },
    /// A virtual machine that is being migrated away has stopped here, or goes on here.
    Stopped {
        /// Whose.
        which: Departing,
        /// False if it goes on here.
        is_stopped: bool,
        /// The way back.
        reply: oneshot::Sender<Vec<Departed>>,
    },
}

/// What of this host is being migrated away.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Departing {
    /// The endpoint of this port.
    Port(String),
    /// Every endpoint of this virtual machine.
    Workload(String),
}

impl Departing {
    /// Whether it means this endpoint.
    #[must_use]
    pub fn is(&self, endpoint: &EndpointKey) -> bool {
        match self {
            Self::Port(port) => endpoint.endpoint == *port,
            Self::Workload(workload) => {
                let name = endpoint.workload.split_once('/').map_or(&*endpoint.workload, |(_, name)| name);
                name == workload
            }
        }
    }
}

/// The answer to `pause` and `resume`: one endpoint.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Departed {
    /// Resource name of the endpoint.
    pub endpoint: String,
    /// The migration.
    pub migration_uid: String,
    /// Resource name of the endpoint where it goes.
    pub to: String,
    /// The target's agent takes what is forwarded.
    pub is_ready: bool,
}

/// The answer to `release`.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Released {
    /// How much is kept, or was until now.
    pub kept: usize,
    /// Whether it was let go: only if the operator knew of all of it.
    pub released: bool,
}

/// What is kept although the datastore does not show it.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Losses {
    /// What it is.
    #[serde(flatten)]
    pub view: cutover_engine::view::LossView,
    /// What the datastore has instead, if that says why.
    pub hint: Option<String>,
    /// Settings that would take the routes of most endpoints away, each with why it is not in force.
    pub refused_settings: BTreeMap<String, String>,
}

impl Losses {
    /// Whether there is nothing of that kind.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.view.count() == 0 && self.refused_settings.is_empty()
    }
}

/// The answer to `status`.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Status {
    /// Changes when a program that reads this has to be changed.
    #[serde(default)]
    pub schema: u32,
    /// This host's name.
    pub hostname: String,
    /// Version of the agent.
    pub version: String,
    /// Process number of the agent.
    pub pid: u32,
    /// Whether the datastore has delivered everything that it holds, and is followed now.
    pub in_sync: bool,
    /// Why the datastore is not followed, if it is not.
    #[serde(default)]
    pub datastore_trouble: Option<Trouble>,
    /// Whether all of it could be read.
    pub complete: bool,
    /// What of it could not be read, by name, each with the reason.
    #[serde(default)]
    pub quarantine: BTreeMap<String, String>,
    /// What is kept although the datastore does not show it.
    #[serde(default)]
    pub losses: Losses,
    /// Parts of the agent that make no progress (`DataplaneWatchdogTimeout`), each with the milliseconds for which it has been busy.
    #[serde(default)]
    pub stuck: BTreeMap<String, u64>,
    /// Watches that are wanted and cannot be armed, by interface, each with the reason.
    #[serde(default)]
    pub unarmed: BTreeMap<String, String>,
    /// What of the host's data plane is the agent's: `full` or `routes`.
    #[serde(default)]
    pub role: String,
    /// What is known of Felix, where it runs beside the agent.
    #[serde(default)]
    pub felix: Option<crate::felix::Report>,
    /// Interfaces whose sysctls or neighbours are not as they have to be, and `host`, each with the reason.
    #[serde(default)]
    pub unprepared: BTreeMap<String, String>,
    /// Changes of routes that the kernel refuses, by the route as `ip route` writes it, each with the reason.
    #[serde(default)]
    pub refused_routes: BTreeMap<String, String>,
    /// How programs are attached: `tcx`, `tc` or `xdp`.
    pub attach: String,
    /// What the agent works with while its datastore has not been in sync since it was started.
    #[serde(default)]
    pub from_memory: Option<Recall>,
    /// Endpoints of this host.
    pub endpoints: Vec<cutover_engine::view::EndpointView>,
    /// Virtual machines that are leaving or have left, and what is forwarded of what still comes for them.
    #[serde(default)]
    pub forwards: Vec<ForwardView>,
    /// Virtual machines that are arriving or have arrived, and the tunnels from where they come.
    #[serde(default)]
    pub receivers: Vec<ReceptionView>,
    /// Virtual machines that are leaving or arriving, and their tracked connections.
    #[serde(default)]
    pub handovers: Vec<HandoverStatus>,
    /// Why tracked connections cannot be handed over, if they cannot.
    #[serde(default)]
    pub handover_error: Option<String>,
    /// The conversations with other hosts' agents.
    #[serde(default)]
    pub peers: PeersStatus,
    /// Whether libvirt is heard, where it is listened to.
    #[serde(default)]
    pub libvirt: Option<crate::libvirt::Report>,
    /// The tunnel's device.
    #[serde(default)]
    pub tunnel: TunnelStatus,
    /// Routes of ours that the kernel has.
    pub kernel_routes: Vec<KernelRoute>,
    /// Counters of the kernel program: accepted and refused announcements by reason.
    pub announcements: BTreeMap<String, u64>,
    /// Route changes sent to the kernel since the agent started.
    pub route_writes: u64,
}

/// How the tunnel's device stands.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct TunnelStatus {
    /// Packets that went into tunnels in the life of the agent.
    #[serde(default)]
    pub forwarded: u64,
    /// Packets that came out of them.
    #[serde(default)]
    pub received: u64,
    /// Packets that were dropped there, by reason, in the life of the agent.
    pub dropped: BTreeMap<String, u64>,
    /// Why something is not as it has to be.
    pub error: Option<String>,
}

/// What the agent's memory is enough for.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Recall {
    /// What it is.
    #[serde(flatten)]
    pub view: cutover_engine::view::RecallView,
    /// For how long the agent has been waiting for its datastore, in milliseconds.
    pub for_ms: u64,
}

/// What is the matter with the datastore.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Trouble {
    /// In words.
    pub reason: String,
    /// For how long, in milliseconds.
    pub for_ms: u64,
}

/// A route of ours as the kernel shows it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct KernelRoute {
    /// Destination prefix.
    pub destination: String,
    /// Number of the outgoing interface.
    pub ifindex: u32,
    /// Metric.
    pub metric: u32,
}

/// The listening end.
#[derive(Debug)]
pub struct Server {
    listener: std::os::unix::net::UnixListener,
    run_dir: PathBuf,
    readers: Option<Gid>,
}

/// Where requests are answered. Cheap to clone.
#[derive(Clone, Debug)]
struct Desk {
    /// The daemon's threads.
    daemon: Handle,
    requests: mpsc::Sender<Request>,
    run_dir: PathBuf,
}

/// The file of the socket, removed when dropped. Whoever runs the agent keeps it: the server's task may still be
/// running when the process ends.
#[derive(Debug)]
pub struct SocketFile {
    path: PathBuf,
}

impl Server {
    /// Opens the socket. The caller holds the lock of the run directory, so a socket that exists is left over. Besides root, members of the
    /// group `readers` may ask how things stand.
    ///
    /// # Errors
    /// The socket cannot be created in the run directory.
    pub fn bind(run_dir: &Path, readers: Option<Gid>) -> io::Result<(Self, SocketFile)> {
        let path = run_dir.join(SOCKET);
        match fs::remove_file(&path) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
        let listener = std::os::unix::net::UnixListener::bind(&path)?;
        listener.set_nonblocking(true)?;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600))?;
        if readers.is_some() {
            // To give the socket to the group would take a privilege that the agent does not need otherwise (CAP_CHOWN). So everybody may
            // connect, and the kernel says who it is.
            let folder = fs::metadata(run_dir)?.permissions().mode() | 0o011;
            fs::set_permissions(run_dir, fs::Permissions::from_mode(folder))?;
            fs::set_permissions(&path, fs::Permissions::from_mode(0o666))?;
        }
        Ok((Self { listener, run_dir: run_dir.to_owned(), readers }, SocketFile { path }))
    }

    /// Takes requests on the calling thread for as long as the agent loop is there, starts there what waits for a stop, and has everything else
    /// done by `daemon`.
    pub async fn serve(self, daemon: Handle, requests: mpsc::Sender<Request>, starter: Starter) {
        let listener = match UnixListener::from_std(self.listener) {
            Ok(listener) => listener,
            Err(error) => return warn!(%error, "cannot listen on the control socket"),
        };
        let desk = Desk { daemon, requests, run_dir: self.run_dir };
        loop {
            match listener.accept().await {
                Ok((stream, _)) => take(stream, self.readers, &desk, &starter),
                Err(error) => {
                    warn!(%error, "cannot accept a control connection");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            }
        }
    }
}

/// Begins a connection.
fn take(stream: UnixStream, readers: Option<Gid>, desk: &Desk, starter: &Starter) {
    let access = match Access::of(&stream, readers) {
        Ok(access) => access,
        Err(error) => return debug!(%error, "nobody can say who is at the other end of a control connection"),
    };
    if access == Access::All {
        let (desk, starter) = (desk.clone(), starter.clone());
        tokio::spawn(patiently(async move {
            let mut stream = stream;
            let asked = read(&mut stream).await?;
            if let Some((which, true)) = stop_of(&asked) {
                starter.stopped(|endpoint| which.is(endpoint));
            }
            desk.take(stream, access, Some(asked))
        }));
    } else {
        // ORDER: what everybody may do as often as he likes is done with an ordinary priority.
        let taken = Priority::current().while_ordinary(|| desk.clone().take(stream, access, None));
        if let Err(error) = taken {
            debug!(%error, "control connection ended early");
        }
    }
}

/// Does what belongs to a connection, and no longer than a client may take.
async fn patiently(work: impl Future<Output = io::Result<()>>) {
    match tokio::time::timeout(PATIENCE, work).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => debug!(%error, "control connection ended early"),
        Err(_) => debug!("control connection timed out"),
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_file(&self.path) {
            debug!(%error, path = %self.path.display(), "cannot remove the control socket");
        }
    }
}

/// The words of a request.
async fn read(stream: &mut (impl AsyncRead + Unpin)) -> io::Result<Vec<String>> {
    let mut line = String::new();
    BufReader::new(stream.take(REQUEST_BYTES_MAX)).read_line(&mut line).await?;
    Ok(line.split_whitespace().map(str::to_owned).collect())
}

/// Which virtual machine has stopped, or goes on if it says false.
fn stop_of(asked: &[String]) -> Option<(Departing, bool)> {
    let [step, kind, id] = asked else { return None };
    let is_stopped = match &**step {
        "pause" => true,
        "resume" => false,
        _ => return None,
    };
    let which = match &**kind {
        "port" => Departing::Port,
        "workload" => Departing::Workload,
        _ => return None,
    };
    Some((which(id.clone()), is_stopped))
}

impl Desk {
    /// Goes on with a connection on the daemon's threads. What is asked is read there, if it has not been yet.
    fn take(self, stream: UnixStream, access: Access, asked: Option<Vec<String>>) -> io::Result<()> {
        let stream = stream.into_std()?;
        let daemon = self.daemon.clone();
        daemon.spawn(patiently(async move {
            let mut stream = UnixStream::from_std(stream)?;
            if access < Access::Reading {
                return refuse(&mut stream, REFUSED).await;
            }
            let asked = match asked {
                Some(asked) => asked,
                None => read(&mut stream).await?,
            };
            self.answer(&mut stream, access, asked).await
        }));
        Ok(())
    }

    async fn answer(
        self,
        stream: &mut (impl AsyncWrite + Unpin),
        access: Access,
        asked: Vec<String>,
    ) -> io::Result<()> {
        let Self { requests, run_dir, .. } = self;
        let stop = stop_of(&asked);
        let mut text = match asked.iter().map(|word| &**word).collect::<Vec<_>>()[..] {
            ["status"] => serde_json::to_vec(&put(&requests, Request::Status).await?),
            ["history"] => {
                let read = tokio::task::spawn_blocking(move || migrations::read(&run_dir)).await;
                serde_json::to_vec(&read.map_err(io::Error::other)??)
            }
            ["departures"] => {
                let read = tokio::task::spawn_blocking(move || migrations::read_departures(&run_dir)).await;
                serde_json::to_vec(&read.map_err(io::Error::other)??)
            }
            _ if access < Access::All => return refuse(stream, REFUSED).await,
            ["release", count] if let Ok(count) = count.parse() => {
                serde_json::to_vec(&put(&requests, |reply| Request::Release { count, reply }).await?)
            }
            _ if let Some((which, is_stopped)) = stop => {
                let request = |reply| Request::Stopped { which, is_stopped, reply };
                serde_json::to_vec(&put(&requests, request).await?)
            }
            _ => {
                let known = "status, history, departures, release COUNT, pause|resume port|workload ID";
                return refuse(stream, &format!("unknown request; known: {known}")).await;
            }
        }
        .map_err(io::Error::other)?;
        text.push(b'\n');
        stream.write_all(&text).await?;
        if text.len() >= LARGE_BYTES {
            // Nothing depends on it.
            drop(tokio::task::spawn_blocking(allocator::give_back));
        }
        Ok(())
    }
}

/// What a peer is told that may not ask for this.
const REFUSED: &str = "permission denied";

async fn refuse(stream: &mut (impl AsyncWrite + Unpin), why: &str) -> io::Result<()> {
    stream.write_all(format!("{{\"error\":\"{why}\"}}\n").as_bytes()).await
}

/// An answer in place of the one that was asked for.
#[derive(Deserialize)]
struct Refusal {
    error: String,
}

/// Puts a request to the agent loop and waits for the answer.
pub(crate) async fn put<T>(
    requests: &mpsc::Sender<Request>,
    request: impl FnOnce(oneshot::Sender<T>) -> Request,
) -> io::Result<T> {
    let (reply, answer) = oneshot::channel();
    let gone = || io::Error::new(io::ErrorKind::BrokenPipe, "the agent is stopping");
    requests.send(request(reply)).await.map_err(|_| gone())?;
    answer.await.map_err(|_| gone())
}

/// Asks the running agent for its status.
///
/// # Errors
/// No agent listens in this run directory, or its answer makes no sense.
pub fn ask(run_dir: &Path) -> io::Result<Status> {
    request(run_dir, "status")
}

/// Asks the running agent for the finished migrations, which whoever may read them finds in the run directory as well.
///
/// # Errors
/// As [`ask`].
pub fn history(run_dir: &Path) -> io::Result<History<Finished>> {
    request(run_dir, "history")
}

/// Asks the running agent for the migrations away from its host that are over, as [`history`].
///
/// # Errors
/// As [`ask`].
pub fn departures(run_dir: &Path) -> io::Result<History<migrations::Departed>> {
    request(run_dir, "departures")
}

/// Tells the running agent that everything that it keeps is gone, if that is `count` things.
///
/// # Errors
/// As [`ask`].
pub fn release(run_dir: &Path, count: usize) -> io::Result<Released> {
    request(run_dir, &format!("release {count}"))
}

/// Tells the running agent that a virtual machine that is being migrated away has stopped here, or goes on here. Returns what that
/// is about.
///
/// # Errors
/// As [`ask`].
pub fn stopped(run_dir: &Path, which: &Departing, is_stopped: bool) -> io::Result<Vec<Departed>> {
    request(run_dir, &stop_line(which, is_stopped))
}

/// What [`stop_of`] reads.
fn stop_line(which: &Departing, is_stopped: bool) -> String {
    let step = if is_stopped { "pause" } else { "resume" };
    let (kind, id) = match which {
        Departing::Port(id) => ("port", id),
        Departing::Workload(id) => ("workload", id),
    };
    format!("{step} {kind} {id}")
}

fn request<T: DeserializeOwned>(run_dir: &Path, line: &str) -> io::Result<T> {
    let mut stream = std::os::unix::net::UnixStream::connect(run_dir.join(SOCKET))?;
    stream.set_read_timeout(Some(PATIENCE))?;
    // Whoever may not ask is told so, and hung up on, before the request is read. So neither of these alone is a failure.
    let sent = stream.write_all(format!("{line}\n").as_bytes());
    let mut answer = Vec::new();
    let received = stream.read_to_end(&mut answer);
    match serde_json::from_slice::<Refusal>(&answer) {
        Ok(refusal) if refusal.error == REFUSED => {
            Err(io::Error::new(io::ErrorKind::PermissionDenied, REFUSED))
        }
        Ok(refusal) => Err(io::Error::new(io::ErrorKind::InvalidData, refusal.error)),
        Err(_) => {
            sent?;
            received?;
            serde_json::from_slice(&answer).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))
        }
    }
}
