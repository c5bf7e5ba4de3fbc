//! Starting the daemon: everything is opened and read in the order that makes a restart safe.
//!
//! ORDER: settings, run directory (only one agent), the state file, kernel programs with what they still hold, a full
//! read of links and routes, and only then the engine. The datastore is read meanwhile, but what it says waits for
//! the engine. Whatever fails here stops the start with an error that names the object; nothing in the data plane has
//! been touched by then.

#![expect(unsafe_code, reason = "registers a descriptor of aya's with tokio")]

use super::beside::Beside;
use super::hitless::Hitless;
use super::parts::{PartEnded, Parts};
use super::published::Published;
use super::recall::{self, Recall};
use super::reporting::Reporting;
use super::{Agent, Inputs};
use crate::applier::interfaces::{InterfaceApplier, InterfaceSettings};
use crate::applier::ready::{ReadyApplier, Running};
use crate::applier::routes::{RouteApplier, RouteReport};
use crate::applier::watches::{WatchApplier, announcement};
use crate::bpf::{self, Kernel, KernelLog};
use crate::clock;
use crate::control;
use crate::datastore::Datastore;
use crate::datastore::dir::{self, Directory};
use crate::datastore::etcd::{Cluster, ClusterError, Etcd, Keys};
use crate::fast_path::{FastPath, Listeners};
use crate::logging::{self, one_line};
use crate::netlink::monitor::{Monitor, MonitorError, MonitorHandle};
use crate::netlink::{ByFamily, MonitorSettings, RECEIVE_BUFFER_BYTES, Streams, socket};
use crate::observe::{Observers, Tally};
use crate::peers::Herald;
use crate::presence::Presence;
use crate::processes;
use crate::run_dir::{RunDir, RunDirError};
use crate::settings::{
    Attach, DatastoreType, Loaded, LogSeverity, Origin, Problem, Settings, Severity, Sources, Switch, Told,
};
use crate::state_file::{SavedState, StateFile};
use cutover_common::MacAddr;
use cutover_engine::memory::{LeftBehind, Memory};
use cutover_engine::{Engine, Fact};
use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;
use thiserror::Error;
use tokio::io::unix::AsyncFd;
use tokio::runtime::Handle;
use tokio::signal::unix::{Signal as UnixSignal, SignalKind, signal};
use tokio::sync::mpsc;
use tracing::{debug, error, info, warn};

/// LIMIT: facts of the interface applier that may wait for the loop.
const INTERFACE_FACTS_MAX: usize = 1024;

/// The daemon could not start, or cannot go on.
#[derive(Debug, Error)]
pub enum RunError {
    /// The run directory cannot be used.
    #[error(transparent)]
    RunDir(#[from] RunDirError),
    /// The kernel programs cannot be loaded.
    #[error(transparent)]
    Kernel(#[from] bpf::OpenError),
    /// Somebody else has taken the ring buffer, which only one reader may have.
    #[error("the ring buffer of announcements is taken; this is a defect of the agent")]
    NoEvents,
    /// Netlink sockets cannot be had.
    #[error(transparent)]
    Netlink(#[from] socket::OpenError),
    /// The kernel cannot be followed.
    #[error(transparent)]
    Monitor(#[from] MonitorError),
    /// The kernel could not be read for the first time.
    #[error("the netlink monitor ended before it had read links and routes")]
    NoFirstLook,
    /// The datastore cannot be watched.
    #[error(transparent)]
    Datastore(#[from] dir::StartError),
    /// A part of it is gone.
    #[error(transparent)]
    Ended(#[from] PartEnded),
    /// The settings do not lead to an etcd cluster.
    #[error(transparent)]
    Cluster(#[from] ClusterError),
    /// Anything else that the operating system refuses.
    #[error("cannot {step}: {error}")]
    Io {
        /// What was tried.
        step: &'static str,
        /// Why not.
        #[source]
        error: io::Error,
    },
}

pub(super) fn io_error(step: &'static str) -> impl Fn(io::Error) -> RunError + Copy {
    move |error| RunError::Io { step, error }
}

/// Runs the daemon until it is told to stop. The settings are those without any resources.
///
/// # Errors
/// It could not start, and nothing was changed; or a part of it ended by itself, and everything stays as it is.
pub async fn run(config_file: Option<PathBuf>, sources: Sources, loaded: Loaded) -> Result<(), RunError> {
    let protocol_known = is_protocol_known(&loaded);
    let Loaded { mut settings, problems, .. } = loaded;
    logging::init(settings.log_format.into(), level(settings.log_severity_screen));
    problems.iter().for_each(log_problem);
    let mut signals = Signals::listen().map_err(io_error("listen to signals"))?;
    let run_dir = RunDir::lock(&settings.cutover_run_dir)?;
    info!(version = env!("CARGO_PKG_VERSION"), hostname = %settings.felix_hostname, role = settings.cutover_role.word(), "Cutover starting");

    let mut state_file = StateFile::new(run_dir.path()).map_err(io_error("read the boot identifier"))?;
    let (memory, told) = remembered(&mut state_file)?;
    let recalled = recall::settings(&sources, told.as_ref());
    let recalls = recalled.is_some();
    if let Some(recalled) = recalled {
        settings = recalled;
    }
    let configurations = told.as_ref().filter(|_| recalls).map(Told::configurations).unwrap_or_default();
    let presence = show(&settings);

    let mut parts = Parts::default();
    let wanted = Published::new();
    let (facts_in, facts) = mpsc::unbounded_channel();
    // The datastore is read while everything else gets ready; nobody listens to it before.
    let reporting = Reporting::new(&settings);
    reporting.watch_progress(&mut parts);
    let (mut questions, mut members) = (None, None);
    let datastore = match settings.datastore_type {
        DatastoreType::Dir => {
            let directory = Directory::start(settings.cutover_datastore_dir.clone())?;
            reporting.start_files(
                &mut parts,
                run_dir.path().to_owned(),
                wanted.subscribe(),
                facts_in.clone(),
            );
            Datastore::Directory(directory)
        }
        DatastoreType::Etcdv3 => {
            let cluster = Cluster::new(&settings)?;
            members = Some(cluster.clone());
            let keys = Keys::new(&settings.felix_hostname, &settings.openstack_region);
            let (etcd, own) = Etcd::start(cluster.clone(), keys.clone(), &memory);
            questions = Some(etcd.questions());
            let (ready, facts_in) = (etcd.ready(), facts_in.clone());
            reporting.start_etcd(&mut parts, (cluster, keys), own, ready, wanted.subscribe(), facts_in);
            Datastore::Etcd(etcd)
        }
    };

    let mut kernel = Kernel::open(&bpf::Options {
        pin_path: settings.cutover_pin_path.clone(),
        attach: attach(settings.cutover_attach),
        debug_log: is_debugging(&settings),
    })?;
    let ring = kernel.events().ok_or(RunError::NoEvents)?;
    follow_kernel_log(kernel.log());
    info!(attach = %kernel.attachment(), "Kernel programs loaded");
    if settings.cutover_attach == Attach::Auto && kernel.attachment() == bpf::Attachment::Tc {
        info!(
            "This kernel has no tcx, which came with Linux 6.6: taps have a clsact qdisc while they are watched"
        );
    }
    let mut watched = monitor_settings(&settings);
    watched.route_protocol = watched.route_protocol.filter(|_| protocol_known);
    watched.expected_protocol = recalls.then_some(settings.device_route_protocol);
    let (monitor, monitor_handle, streams) = Monitor::open(watched)?;
    let Streams { facts: mut links, routes, neighbours } = streams;
    parts.start("the netlink monitor", monitor.run());
    let felix = Beside::new(&settings);
    let (route_appliers, route_report) = RouteApplier::open_both(&wanted.for_recall(), routes)?;
    let (interface_facts_in, interface_facts) = mpsc::channel(INTERFACE_FACTS_MAX);
    let mut interface_applier = InterfaceApplier::open(
        interface_settings(&settings, Some(run_dir.path())),
        wanted.subscribe(),
        neighbours,
        interface_facts_in,
    )?
    .after(route_report.attempted())
    .beside_felix(felix.is_some());
    let unprepared = interface_applier.unprepared();
    let [(ipv4_written_in, ipv4_written), (ipv6_written_in, ipv6_written)] =
        [(); 2].map(|()| mpsc::unbounded_channel());
    let deletions = || felix.as_ref().map(Beside::deletions);
    let has_zebra = || processes::is_running(Path::new("/proc"), "zebra");
    let ipv4_applier = route_appliers.ipv4.watching(deletions()).after_fast_path(ipv4_written);
    let ipv4_applier = ipv4_applier.telling_zebra(has_zebra).which_forgets(settings.cutover_frr_forgets);
    // IPv6 is what an interface can lack.
    let ipv6_applier = route_appliers.ipv6.mended_by(interface_applier.mended());
    let ipv6_applier = ipv6_applier.watching(deletions()).after_fast_path(ipv6_written);
    let ipv6_applier = ipv6_applier.telling_zebra(has_zebra);
    let no_thread = io_error("start a thread");
    parts.start_apart("the IPv4 route applier", "cutover-route4", ipv4_applier.run()).map_err(no_thread)?;
    parts.start_apart("the IPv6 route applier", "cutover-route6", ipv6_applier.run()).map_err(no_thread)?;
    parts.start_apart("the interface applier", "cutover-taps", interface_applier.run()).map_err(no_thread)?;
    let looked = first_look(&monitor_handle, &route_report, &mut links);
    let (mut first_facts, reload) = tokio::select! {
        // Whatever keeps the kernel from answering keeps nobody from stopping the agent.
        looked = unless_stopped(looked, &mut signals) => match looked {
            Some((facts, reload)) => (facts?, reload),
            None => return Ok(()),
        },
        ended = parts.ended() => return Err(ended.into()),
    };
    // ORDER: before the first wanted sets, or the route applier would take the routes away that the fast path
    // of the last life installed right before it ended.
    first_facts.extend(latched(&kernel));

    let found = LeftBehind { watches: found_watches(&kernel), routes: route_report.all_routes() };
    let spin = Duration::from_micros(settings.cutover_busy_poll_micros.into());
    let written = ByFamily { ipv4: ipv4_written_in, ipv6: ipv6_written_in };
    let herald = Herald::default();
    let listeners = Listeners { written, herald: herald.clone(), facts: facts_in.clone() };
    let sockets = FastPath::open_sockets()?;
    let mut fast_path = FastPath::start(ring, sockets, spin, &listeners, &parts.progress())
        .map_err(io_error("start the fast path"))?
        .ending_forwards_in(settings.cutover_forward_table);
    let (attachment, counters) = (kernel.attachment(), kernel.counters().clone());
    parts.start("the fast path", fast_path.ended());
    let watch_applier = WatchApplier::new(kernel, fast_path, facts_in.clone());
    let unarmed = watch_applier.unarmed();
    let watch_applier = watch_applier.run(wanted.for_recall());
    parts
        .start_apart("the watch applier", "cutover-watch", watch_applier)
        .map_err(io_error("start a thread"))?;

    if let Some(felix) = &felix {
        felix.start(&mut parts, wanted.subscribe(), facts_in.clone());
    }
    let place = (members.as_ref(), run_dir.path());
    let (hypervisor_in, hypervisor) = mpsc::unbounded_channel();
    let hitless = Hitless::start(&mut parts, &settings, place, &wanted, (&facts_in, herald), hypervisor_in)?;
    let commands = Running::default();
    let ready_applier = ReadyApplier::new(commands.clone(), facts_in);
    parts.start("the ready applier", ready_applier.run(wanted.subscribe()));

    let readers = status_group(&settings.cutover_status_group);
    let (server, _socket_file) =
        control::Server::bind(run_dir.path(), readers).map_err(io_error("open the control socket"))?;
    let (requests_in, requests) = mpsc::channel(8);
    let observers = Observers::new(&settings, requests_in.clone(), parts.progress());
    parts.start("the metrics listener", observers.serve_metrics());
    parts.start("the page's listener", observers.serve_page());
    parts.start("the health listener", observers.serve_health());
    parts.start("the word to the service manager", observers.tell_service_manager());
    let serve = server.serve(Handle::current(), requests_in, hitless.starter());
    parts.start_prompt("the control socket", "cutover-control", serve).map_err(no_thread)?;

    let mut engine = Engine::new(settings.policy(), memory, found).drawing_lots(lots()?);
    if recalls {
        engine = engine.recalling();
    }
    if questions.is_some() {
        engine = engine.asking().with_driver();
    }
    let mut agent = Agent {
        engine,
        questions,
        quarantine: datastore.quarantine(),
        standing: datastore.standing(),
        settings,
        sources,
        config_file,
        configurations,
        configurations_told: false,
        wanted,
        recall: Recall::since(clock::now()),
        state_file,
        run_dir,
        presence,
        progress: parts.progress(),
        attachment,
        counters,
        unarmed,
        unprepared,
        monitor: monitor_handle,
        route_report,
        reporting,
        protocol_known,
        felix,
        hitless,
        observers,
        tally: Tally::default(),
        in_sync: None,
        hint: super::losses::Hint::default(),
        refused_settings: BTreeMap::new(),
        remembered: true,
        remember_again: None,
    };
    if reload {
        first_facts.extend(agent.reread());
    }
    agent.take(first_facts.into_iter());
    let progress = agent.progress.clone();
    let inputs = Inputs { parts, datastore, facts, hypervisor, links, interface_facts, requests };
    let ended = progress.of("the loop", agent.follow(inputs, signals)).await;
    commands.stop();
    Ok(ended?)
}

/// Random numbers, of which nobody knows the next.
fn lots() -> Result<u64, RunError> {
    let mut seed = [0; 8];
    let source = std::fs::File::open("/dev/urandom");
    let read = source.and_then(|mut source| io::Read::read_exact(&mut source, &mut seed));
    read.map_err(io_error("read /dev/urandom"))?;
    Ok(u64::from_ne_bytes(seed))
}

/// Shows `cutover cleanup` that an agent is running. Without that the locks of the paths are still there.
pub(super) fn show(settings: &Settings) -> Option<Presence> {
    Presence::show(settings.device_route_protocol)
        .inspect_err(|error| warn!(%error, "cleanup with other paths cannot see that this agent is running"))
        .ok()
}

/// The group whose members may ask how things stand, if one is named and there is one.
fn status_group(name: &str) -> Option<nix::unistd::Gid> {
    if name.is_empty() {
        return None;
    }
    match nix::unistd::Group::from_name(name) {
        Ok(Some(group)) => return Some(group.gid),
        Ok(None) => warn!(group = name, "CutoverStatusGroup: there is no such group, so only root may ask"),
        Err(error) => {
            warn!(group = name, %error, "CutoverStatusGroup: cannot look the group up, so only root may ask")
        }
    }
    None
}

/// Whether environment or file, which come before the datastore, say which routes are ours. Otherwise the datastore may say that the
/// built-in protocol is somebody else's. What it said in the last life is enough for adding routes, not for taking others for ours.
fn is_protocol_known(loaded: &Loaded) -> bool {
    matches!(loaded.origins.get("DeviceRouteProtocol"), Some(Origin::Environment(_) | Origin::File(..)))
}

fn level(severity: LogSeverity) -> tracing_subscriber::filter::LevelFilter {
    use tracing_subscriber::filter::LevelFilter;
    match severity {
        LogSeverity::Trace => LevelFilter::TRACE,
        LogSeverity::Debug => LevelFilter::DEBUG,
        LogSeverity::Info => LevelFilter::INFO,
        LogSeverity::Warning => LevelFilter::WARN,
        LogSeverity::Error | LogSeverity::Fatal => LevelFilter::ERROR,
        LogSeverity::Off => LevelFilter::OFF,
    }
}

const fn is_debugging(settings: &Settings) -> bool {
    matches!(settings.log_severity_screen, LogSeverity::Trace | LogSeverity::Debug)
}

/// How the settings' word is called where programs are attached.
#[must_use]
pub const fn attach(attach: Attach) -> bpf::Attach {
    match attach {
        Attach::Auto => bpf::Attach::Auto,
        Attach::Tcx => bpf::Attach::Tcx,
        Attach::Tc => bpf::Attach::Tc,
        Attach::Xdp => bpf::Attach::Xdp,
    }
}

/// What the interface applier has to know. Without a run directory nothing is noted there.
pub(crate) fn interface_settings(settings: &Settings, run_dir: Option<&Path>) -> InterfaceSettings {
    InterfaceSettings {
        ip_forwarding: settings.ip_forwarding == Switch::Enabled,
        run_dir: run_dir.map(Path::to_owned),
        ..InterfaceSettings::default()
    }
}

/// Passes log lines of the kernel program on. There are some only if the agent logs at debug level.
fn follow_kernel_log(log: Option<KernelLog>) {
    let Some(log) = log else { return };
    tokio::spawn(async move {
        // SAFETY: the descriptor is the log's own, always the same, and open for as long as the log lives.
        let registered = unsafe { AsyncFd::register(log) };
        let mut log = match registered {
            Ok(log) => log,
            Err(error) => return warn!(%error, "cannot follow the log of the kernel program"),
        };
        loop {
            match log.readable_mut().await {
                Ok(mut ready) => {
                    ready.get_inner_mut().flush();
                    ready.clear_ready();
                }
                Err(error) => return debug!(%error, "the log of the kernel program ended"),
            }
        }
    });
}

/// What the last life knew, and what the datastore had said about the settings then.
fn remembered(state_file: &mut StateFile) -> Result<(Memory, Option<Told>), RunError> {
    match state_file.load().map_err(io_error("read state.json"))? {
        SavedState::Nothing => Ok(Default::default()),
        SavedState::Memory(memory, told) => {
            info!(endpoints = memory.endpoints.len(), "Migrations remembered from the agent's last life");
            Ok((memory, told))
        }
        SavedState::SetAside(path, reason) => {
            warn!(path = %path.display(), reason, "state.json is unreadable and was set aside; inferring from the kernel");
            Ok(Default::default())
        }
    }
}

/// Waits for a step of the start. Says whether the settings are to be read again after it; nothing if the operator asked to stop.
async fn unless_stopped<T>(step: impl Future<Output = T>, signals: &mut Signals) -> Option<(T, bool)> {
    let mut step = std::pin::pin!(step);
    let mut reload = false;
    loop {
        tokio::select! {
            done = &mut step => return Some((done, reload)),
            signal = signals.next() => match signal {
                Signal::Reload => reload = true,
                Signal::Stop => {
                    info!("Stopping before the kernel was read; nothing was changed");
                    return None;
                }
            },
        }
    }
}

/// Waits until links and routes have been read once, and returns the links.
async fn first_look(
    monitor: &MonitorHandle,
    routes: &RouteReport,
    links: &mut mpsc::Receiver<Fact>,
) -> Result<Vec<Fact>, RunError> {
    let mut full_reads = monitor.full_reads();
    let mut seen = Vec::new();
    while *full_reads.borrow_and_update() == 0 {
        tokio::select! {
            changed = full_reads.changed() => changed.map_err(|_| RunError::NoFirstLook)?,
            fact = links.recv() => seen.push(fact.ok_or(RunError::NoFirstLook)?),
        }
    }
    while let Ok(fact) = links.try_recv() {
        seen.push(fact);
    }
    routes.known().await;
    Ok(seen)
}

/// The watches that survived, as the engine understands them.
fn found_watches(kernel: &Kernel) -> BTreeMap<u32, (u64, MacAddr)> {
    match kernel.armed() {
        Ok(armed) => armed
            .into_iter()
            .map(|(ifindex, watch)| (ifindex, (watch.generation, MacAddr(watch.mac))))
            .collect(),
        Err(error) => {
            warn!(error = %one_line(&error), "cannot read the watches of the agent's last life; arming anew");
            BTreeMap::new()
        }
    }
}

/// The announcements that were latched while no agent was looking, or that the last one did not live to act on.
fn latched(kernel: &Kernel) -> Vec<Fact> {
    match kernel.all_evidence() {
        Ok(evidence) => evidence
            .into_iter()
            .filter_map(|(generation, evidence)| announcement(generation, &evidence))
            .map(Fact::AnnouncementSeen)
            .collect(),
        Err(error) => {
            warn!(error = %one_line(&error), "cannot read the announcements that came meanwhile; will try again");
            Vec::new()
        }
    }
}

/// LIMIT: no kernel that has something else to do as well is faster for sure, and nothing would ever be read.
const ANSWER_TIMEOUT_MIN: Duration = Duration::from_millis(100);

/// What the netlink monitor has to know.
#[must_use]
pub fn monitor_settings(settings: &Settings) -> MonitorSettings {
    // One read of everything does for links and routes.
    let refresh = [settings.route_refresh_interval, settings.interface_refresh_interval];
    MonitorSettings {
        route_protocol: Some(settings.device_route_protocol),
        expected_protocol: None,
        interface_prefixes: settings.interface_prefix.clone(),
        bridges: settings.cutover_bridges.clone(),
        refresh: refresh.into_iter().filter(|every| !every.is_zero()).min(),
        answer_timeout: Some(settings.netlink_timeout)
            .filter(|timeout| !timeout.is_zero())
            .map(|timeout| timeout.max(ANSWER_TIMEOUT_MIN)),
        receive_buffer_bytes: RECEIVE_BUFFER_BYTES,
    }
}

/// Says what is wrong with a setting.
pub(super) fn log_problem(problem: &Problem) {
    match problem.severity {
        Severity::Notice => info!(%problem, "Setting"),
        Severity::Warning => warn!(%problem, "Setting"),
        Severity::Fatal => error!(%problem, "Setting"),
    }
}

/// What the operator asks of a running daemon.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Signal {
    /// SIGTERM or SIGINT.
    Stop,
    /// SIGHUP.
    Reload,
}

/// The signals that the daemon understands.
#[derive(Debug)]
pub(super) struct Signals {
    terminate: UnixSignal,
    interrupt: UnixSignal,
    hang_up: UnixSignal,
}

impl Signals {
    fn listen() -> io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hang_up: signal(SignalKind::hangup())?,
        })
    }

    /// The next one.
    pub(super) async fn next(&mut self) -> Signal {
        tokio::select! {
            _ = self.terminate.recv() => Signal::Stop,
            _ = self.interrupt.recv() => Signal::Stop,
            _ = self.hang_up.recv() => Signal::Reload,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::sys::signal;

    #[test]
    fn no_timeout_is_as_long_as_it_likes() {
        let timeout = |netlink_timeout| {
            monitor_settings(&Settings { netlink_timeout, ..Settings::default() }).answer_timeout
        };
        assert_eq!(timeout(Duration::ZERO), None);
        assert_eq!(timeout(Duration::from_millis(1500)), Some(Duration::from_millis(1500)));
        assert_eq!(timeout(Duration::from_millis(1)), Some(ANSWER_TIMEOUT_MIN));
    }

    /// A dump that never ends.
    #[tokio::test]
    async fn a_start_that_hangs_is_stopped_by_a_signal() {
        let mut signals = Signals::listen().unwrap();
        signal::raise(signal::SIGHUP).unwrap();
        signal::raise(signal::SIGTERM).unwrap();
        let stopped = unless_stopped(std::future::pending::<()>(), &mut signals);
        let stopped = tokio::time::timeout(Duration::from_secs(10), stopped).await;
        assert_eq!(stopped.expect("it ends"), None);
        assert_eq!(unless_stopped(std::future::ready(7), &mut signals).await.map(|(step, _)| step), Some(7));
    }
}
