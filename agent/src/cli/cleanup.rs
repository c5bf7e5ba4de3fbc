//! `cutover cleanup`: removes everything that the agent left in the kernel and on disk.
//!
//! Only without a running agent: one that has the run directory, the pins, or our routes in this network namespace. What is ours is told by the same code that the agent itself uses: pins under the pin
//! path, routes by protocol *and* interface, the tunnel's device by its kind and its routes and rules by protocol *and* table, permanent neighbours on workload interfaces (on bridges, those of our routes), files by name. Sysctls of the host
//! are set back to what the agent noted before it changed them; those of taps go with the taps.

use super::check_config::certain;
use super::{ConfigFile, Failure, print};
use cutover_daemon::agent::monitor_settings;
use cutover_daemon::applier::pace::{PORTION, Pace};
use cutover_daemon::applier::tunnels;
use cutover_daemon::bpf::{self, CleanupError, OpenError};
use cutover_daemon::netlink::{
    Family, Neighbour, NeighbourChange, Owner, PreparedBatch, RouteChange, RouteSocket, listeners, neighbour,
    route,
};
use cutover_daemon::netlink::{Monitor, NeighbourEvent, RouteEvent, Streams};
use cutover_daemon::presence;
use cutover_daemon::run_dir::{RunDir, RunDirError};
use cutover_daemon::settings::{Loaded, Origin, Settings, Sources, load};
use cutover_daemon::sysctls::former::FormerValues;
use cutover_daemon::sysctls::{self, Sysctls};
use cutover_engine::wanted::WantedRoute;
use ipnet::IpNet;
use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

/// Arguments of `cutover cleanup`.
#[derive(Debug, clap::Args)]
pub struct CleanupArguments {
    /// Where the settings are.
    #[command(flatten)]
    pub file: ConfigFile,
    /// Only list what would be removed
    #[arg(long)]
    pub dry_run: bool,
    /// Go by environment, file and built-in values alone if the datastore cannot be read. Routes of somebody else may go if it says
    /// DeviceRouteProtocol or InterfacePrefix
    #[arg(long)]
    pub without_datastore: bool,
    /// Print JSON instead of lines
    #[arg(long)]
    pub json: bool,
}

/// Removes what the agent left.
///
/// # Errors
/// An agent is running, the caller is not root, or something could not be removed.
pub fn run(arguments: &CleanupArguments) -> Result<(), Failure> {
    let settings = settings(&arguments.file.sources()?, arguments.without_datastore)?;
    if !nix::unistd::geteuid().is_root() {
        return Err(Failure::privilege("only root can remove routes and BPF programs; use sudo"));
    }
    // Looking is harmless while an agent runs.
    let lock = if arguments.dry_run { None } else { lock(&settings)? };
    let mut removed = bpf::cleanup(&settings.cutover_pin_path, arguments.dry_run).map_err(refused)?;
    let of_tunnel = tunnels::cleanup(tunnels::Settings::from(&settings), arguments.dry_run);
    removed.extend(of_tunnel.map_err(|error| Failure::other(format!("{error}; run cleanup again")))?);
    removed.extend(clean_network(&settings, arguments.dry_run)?);
    // ORDER: before the files, one of which says what they were.
    let set_back = set_back_sysctls(&settings.cutover_run_dir, arguments.dry_run)?;
    removed.extend(clean_disk(&settings.cutover_run_dir, arguments.dry_run)?);
    drop(lock);
    report(arguments, &removed, &set_back)
}

/// The settings that say what is ours: the agent's, and no others, because what they say is removed.
fn settings(sources: &Sources, without_datastore: bool) -> Result<Settings, Failure> {
    let local = load(sources, &[]);
    if without_datastore || DECISIVE.iter().all(|name| is_given(&local, name)) {
        return Ok(local.settings);
    }
    certain(sources).map(|loaded| loaded.settings).map_err(|reason| {
        Failure::unavailable(format!(
            "what is the agent's cannot be told, because the datastore may say DeviceRouteProtocol or InterfacePrefix and cannot be \
             read: {reason}; set both in the file, or insist with --without-datastore"
        ))
    })
}

/// Settings by which routes and neighbours are told from somebody else's.
const DECISIVE: [&str; 2] = ["DeviceRouteProtocol", "InterfacePrefix"];

/// Whether environment or file say it, which come before the datastore.
fn is_given(loaded: &Loaded, name: &str) -> bool {
    matches!(loaded.origins.get(name), Some(Origin::Environment(_) | Origin::File(..)))
}

/// Holds the lock of the run directory while it exists, so that no agent starts meanwhile.
///
/// The pins have a lock of their own. Routes and neighbours belong to whoever runs here, whatever its paths.
fn lock(settings: &Settings) -> Result<Option<RunDir>, Failure> {
    let protocol = settings.device_route_protocol;
    let agent = presence::running(protocol)
        .map_err(|error| Failure::other(format!("cannot see whether an agent is running: {error}")))?;
    if let Some(pid) = agent {
        return Err(Failure::other(format!(
            "an agent with DeviceRouteProtocol {protocol} is running in this network namespace (process {pid}); \
             stop it first"
        )));
    }
    let run_dir = &settings.cutover_run_dir;
    if !run_dir.exists() {
        return Ok(None);
    }
    RunDir::lock(run_dir).map(Some).map_err(|error| match error {
        RunDirError::Taken { .. } => {
            Failure::other(format!("{}: an agent is running; stop it first", run_dir.display()))
        }
        RunDirError::Unusable { .. } => Failure::other(error.to_string()),
        RunDirError::Unsafe { .. } => Failure::configuration(format!("CutoverRunDir {error}")),
    })
}

fn refused(error: CleanupError) -> Failure {
    match error {
        CleanupError::Locked(error) => match *error {
            OpenError::Taken { path } => Failure::other(format!(
                "{}: an agent is running with these pins; stop it first",
                path.display()
            )),
            error @ OpenError::Unsafe { .. } => Failure::configuration(format!("CutoverPinPath {error}")),
            error => Failure::other(error.to_string()),
        },
        error => Failure::other(error.to_string()),
    }
}

fn clean_network(settings: &Settings, dry_run: bool) -> Result<Vec<String>, Failure> {
    let (routes, neighbours) = left_in_network(settings)?;
    let lines = routes
        .iter()
        .map(|route| format!("route {} dev #{} metric {}", route.destination, route.ifindex, route.metric))
        .chain(neighbours.iter().map(|neighbour| {
            format!(
                "neighbour {} dev #{} lladdr {}",
                neighbour.key.address, neighbour.key.ifindex, neighbour.mac
            )
        }))
        .collect();
    if !dry_run {
        let routes: Vec<_> = routes.into_iter().map(RouteChange::Remove).collect();
        let neighbours: Vec<_> =
            neighbours.into_iter().map(|neighbour| NeighbourChange::Remove(neighbour.key)).collect();
        let batches = routes.chunks(PORTION).map(route::prepare);
        send_paced(listeners::OF_ROUTES, batches)?;
        let batches = neighbours.chunks(PORTION).map(neighbour::prepare);
        send_paced(listeners::OF_INTERFACES, batches)?;
    }
    Ok(lines)
}

/// Sends removals as fast as others can follow who are notified of these groups.
fn send_paced(groups: u32, batches: impl Iterator<Item = PreparedBatch>) -> Result<(), Failure> {
    let failed = |error: &dyn std::error::Error| Failure::other(error.to_string());
    let mut socket = RouteSocket::open().map_err(|error| failed(&error))?;
    let mut pace = Pace::for_listeners(groups);
    let mut refused = Vec::new();
    for batch in batches {
        pace.wait();
        refused.extend(socket.send(&batch).map_err(|error| failed(&error))?.failed);
        pace.wrote(batch.len());
    }
    let Some(first) = refused.first() else { return Ok(()) };
    let error = std::io::Error::from_raw_os_error(first.errno);
    Err(Failure::other(format!(
        "{} routes or neighbours could not be removed: {error}; run cleanup again",
        refused.len()
    )))
}

/// Routes and permanent neighbours of ours, from one full read of the kernel.
fn left_in_network(settings: &Settings) -> Result<(BTreeSet<WantedRoute>, BTreeSet<Neighbour>), Failure> {
    let failed = |error: &dyn std::error::Error| Failure::other(error.to_string());
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(|error| failed(&error))?;
    runtime
        .block_on(async {
            let (monitor, _handle, mut streams) =
                Monitor::open(monitor_settings(settings)).map_err(|error| failed(&error))?;
            tokio::spawn(monitor.run());
            read_once(&mut streams)
                .await
                .ok_or_else(|| Failure::other("the kernel's routes could not be read"))
        })
        .map(|(routes, mut neighbours)| {
            let bridges = settings.cutover_bridges.iter();
            let bridges: BTreeSet<u32> =
                bridges.filter_map(|name| nix::net::if_::if_nametoindex(name.as_str()).ok()).collect();
            neighbours.retain(|it| !bridges.contains(&it.key.ifindex) || is_routed(&routes, it));
            (routes, neighbours)
        })
}

/// On a bridge, an operator has neighbours as well: ours are those that routes of ours lead to.
fn is_routed(routes: &BTreeSet<WantedRoute>, neighbour: &Neighbour) -> bool {
    let destination = IpNet::from(neighbour.key.address);
    routes.iter().any(|route| (route.destination, route.ifindex) == (destination, neighbour.key.ifindex))
}

async fn read_once(streams: &mut Streams) -> Option<(BTreeSet<WantedRoute>, BTreeSet<Neighbour>)> {
    let (mut routes, mut neighbours) = (BTreeSet::new(), BTreeSet::new());
    let (mut routes_known, mut neighbours_known) = (BTreeSet::new(), false);
    while !(Family::BOTH.iter().all(|family| routes_known.contains(family)) && neighbours_known) {
        tokio::select! {
            // Links matter only for what the monitor takes for a workload's.
            fact = streams.facts.recv() => drop(fact?),
            event = streams.routes.recv() => match event? {
                (_, RouteEvent::Seen(route, Owner::Ours)) => drop(routes.insert(route)),
                (_, RouteEvent::Gone(route)) => drop(routes.remove(&route)),
                (family, RouteEvent::Synced) => drop(routes_known.insert(family)),
                (
                    _,
                    RouteEvent::Seen(_, Owner::Other)
                    | RouteEvent::LinkChanged { .. } | RouteEvent::ChangedElsewhere
                    | RouteEvent::AddressAppeared { .. }
                    | RouteEvent::Recount { .. },
                ) => {}
            },
            event = streams.neighbours.recv() => match event? {
                NeighbourEvent::Seen(neighbour) => drop(neighbours.insert(neighbour)),
                NeighbourEvent::Gone(key) => neighbours.retain(|neighbour| neighbour.key != key),
                NeighbourEvent::LinkChanged { .. }
                | NeighbourEvent::Ipv6Appeared { .. }
                | NeighbourEvent::Recount { .. } => {}
                NeighbourEvent::Synced => neighbours_known = true,
            },
        }
    }
    Some((routes, neighbours))
}

fn set_back_sysctls(run_dir: &Path, dry_run: bool) -> Result<Vec<String>, Failure> {
    let sysctls = Sysctls::new(Path::new(sysctls::ROOT));
    let former = FormerValues::of(run_dir).to_set_back(&sysctls);
    let former = former.map_err(|error| {
        Failure::other(format!("{}: cannot see what sysctls were: {error}", run_dir.display()))
    })?;
    let mut lines = Vec::new();
    for (row, value) in former {
        if !dry_run {
            sysctls.write(row.path, &value).map_err(|error| Failure::other(error.to_string()))?;
        }
        lines.push(format!("sysctl {}={value}", row.name()));
    }
    Ok(lines)
}

fn clean_disk(run_dir: &Path, dry_run: bool) -> Result<Vec<String>, Failure> {
    let mut lines = Vec::new();
    for path in RunDir::leftovers(run_dir) {
        if !dry_run {
            let removed = if path == run_dir {
                // Somebody else's files in it are no business of ours.
                fs::remove_dir(&path).or_else(|error| match error.kind() {
                    std::io::ErrorKind::DirectoryNotEmpty => Ok(()),
                    _ => Err(error),
                })
            } else if path.is_dir() {
                fs::remove_dir_all(&path)
            } else {
                fs::remove_file(&path)
            };
            removed.map_err(|error| Failure::other(format!("{}: cannot remove: {error}", path.display())))?;
        }
        lines.push(format!("file {}", path.display()));
    }
    Ok(lines)
}

fn report(arguments: &CleanupArguments, removed: &[String], set_back: &[String]) -> Result<(), Failure> {
    let (remove, set) =
        if arguments.dry_run { ("would remove", "would set back") } else { ("removed", "set back") };
    if arguments.json {
        let [remove, set] = [remove, set].map(|what| what.replace(' ', "_"));
        return print(&format!("{}\n", serde_json::json!({ remove: removed, set: set_back })));
    }
    let removed = removed.iter().map(|line| format!("{remove} {line}\n"));
    let mut text: String = removed.chain(set_back.iter().map(|line| format!("{set} {line}\n"))).collect();
    if text.is_empty() {
        text.push_str("nothing of the agent is left\n");
    }
    print(&text)
}
