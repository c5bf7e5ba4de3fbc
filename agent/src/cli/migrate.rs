//! `cutover migrate`: the orchestrator's part of a live migration.
//!
//! Makes the writes of the Neutron driver in the driver's order, as recorded, in either datastore; it moves no virtual
//! machine. Refuses to begin what has begun and to end what has not.

use super::store::document::{migration_document, namespace};
use super::store::{self, Picture, Reported, Store, stamp};
use super::{ConfigFile, Failure, status};
use cutover_daemon::clock;
use cutover_daemon::control::{self, Departed, Departing};
use cutover_daemon::datastore::resource::check_key;
use cutover_daemon::logging;
use cutover_daemon::settings;
use cutover_engine::model::{EndpointKey, MigrationSource, MigrationTarget};
use serde_json::Value;
use std::path::PathBuf;
use std::time::Duration;
use tracing::info;
use tracing_subscriber::filter::LevelFilter;

/// Arguments of `cutover migrate`.
#[derive(Debug, clap::Args)]
pub struct MigrateArguments {
    #[command(subcommand)]
    step: MigrateStep,
}

#[derive(Debug, clap::Subcommand)]
enum MigrateStep {
    /// Writes the LiveMigration, then the endpoint of the target host
    ///
    /// The endpoint is a copy of the source's. As the driver does, the source's endpoint is rewritten with the same content before the
    /// target's is written, and then everything is written once more; in files these writes, which change nothing, are left out.
    Begin {
        #[command(flatten)]
        common: Common,
        /// Host that the machine goes to
        #[arg(long, value_name = "HOST")]
        to: String,
        /// Host that the machine is on; only needed if several hosts have an endpoint of the port
        #[arg(long, value_name = "HOST")]
        from: Option<String>,
    },
    /// Waits until the target's agent reports the endpoint up, as Nova does before it starts the migration
    ///
    /// Only what was reported since the LiveMigration was written counts.
    WaitReady {
        #[command(flatten)]
        common: Common,
        /// How long to wait
        #[arg(long, value_name = "SECONDS", default_value_t = 300.0)]
        timeout: f64,
        /// Where the target's agent writes its status files, for files [default: status in the run directory of the settings]
        #[arg(long, value_name = "DIR")]
        status_dir: Option<PathBuf>,
    },
    /// Tells the agent of this host that a machine that is being migrated away has stopped here
    ///
    /// From then on the agent forwards what comes for it to where it goes, where it waits in the queue of the tap. For whoever pauses the
    /// machine: a script on QMP, a hook, an orchestrator. Without an announcement on the target it counts for a minute.
    Pause {
        #[command(flatten)]
        file: ConfigFile,
        #[command(flatten)]
        which: Which,
    },
    /// Tells the agent of this host that a machine that had stopped goes on here
    Resume {
        #[command(flatten)]
        file: ConfigFile,
        #[command(flatten)]
        which: Which,
    },
    /// Ends a migration that has succeeded
    ///
    /// Removes the LiveMigration, removes the source's endpoint, rewrites the target's endpoint. In files, an endpoint that shares one with
    /// other documents is cut out and the rest is kept byte by byte; a file of its own is removed.
    Complete {
        #[command(flatten)]
        common: Common,
        #[command(flatten)]
        gap: Gap,
    },
    /// Ends a migration that has failed
    ///
    /// Removes the LiveMigration, removes the target's endpoint, rewrites the source's endpoint. Files are treated as by complete.
    Abort {
        #[command(flatten)]
        common: Common,
        #[command(flatten)]
        gap: Gap,
    },
}

#[derive(Debug, clap::Args)]
struct Common {
    #[command(flatten)]
    file: ConfigFile,
    /// Directory of the resource files [default: the datastore of the settings]
    #[arg(long, value_name = "DIR")]
    datastore_dir: Option<PathBuf>,
    /// The port: `endpoint` of its WorkloadEndpoint
    #[arg(long, value_name = "ID")]
    port: String,
}

#[derive(Debug, clap::Args)]
#[group(required = true, multiple = false)]
struct Which {
    /// The port: `endpoint` of its WorkloadEndpoint
    #[arg(long, value_name = "ID", value_parser = word)]
    port: Option<String>,
    /// The machine, with all of its ports: `workload` of its WorkloadEndpoints, for Nova the instance
    #[arg(long, value_name = "ID", value_parser = word)]
    machine: Option<String>,
}

/// What is one word of a request.
fn word(text: &str) -> Result<String, &'static str> {
    let is_word = !text.is_empty()
        && text.len() <= 400
        && !text.contains(|c: char| c.is_whitespace() || c.is_control());
    if is_word { Ok(text.to_owned()) } else { Err("write an identifier without white space") }
}

impl Which {
    fn departing(&self) -> Departing {
        match (&self.port, &self.machine) {
            (Some(port), _) => Departing::Port(port.clone()),
            (None, machine) => Departing::Workload(machine.clone().unwrap_or_default()),
        }
    }
}

#[derive(Debug, clap::Args)]
struct Gap {
    /// Take the endpoint of the running machine away for 0.3 s and create it anew, as the driver does in every rollback, and after
    /// every success unless Nova and Neutron use the extended port binding
    #[arg(long)]
    with_gap: bool,
}

/// As recorded: 0.23 to 0.45 s.
const GAP: Duration = Duration::from_millis(300);
/// LIMIT: how often the status is looked at; Nova learns it no faster.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// Plays one step.
///
/// # Errors
/// When the step does not fit what is in the datastore, or the datastore cannot be read or written.
pub fn run(arguments: &MigrateArguments) -> Result<(), Failure> {
    logging::init(logging::Format::Text, LevelFilter::INFO);
    match &arguments.step {
        MigrateStep::Begin { common, to, from } => {
            begin(&mut *common.store(None)?, &common.port, to, from.as_deref())
        }
        MigrateStep::WaitReady { common, timeout, status_dir } => {
            let timeout = Duration::try_from_secs_f64(*timeout)
                .map_err(|_| Failure::usage("--timeout: write seconds, such as 300"))?;
            wait_ready(&mut *common.store(status_dir.clone())?, &common.port, timeout)
        }
        MigrateStep::Pause { file, which } => stopped(file, &which.departing(), true),
        MigrateStep::Resume { file, which } => stopped(file, &which.departing(), false),
        MigrateStep::Complete { common, gap } => {
            complete(&mut *common.store(None)?, &common.port, gap.with_gap)
        }
        MigrateStep::Abort { common, gap } => abort(&mut *common.store(None)?, &common.port, gap.with_gap),
    }
}

impl Common {
    /// The datastore. The run directory of the settings is where an agent on this machine writes its status files.
    fn store(&self, status_dir: Option<PathBuf>) -> Result<Box<dyn Store>, Failure> {
        if let (Some(dir), Some(status_dir)) = (&self.datastore_dir, &status_dir) {
            return Ok(store::open_directory(dir.clone(), status_dir.clone()));
        }
        let settings = self.file.load()?.settings;
        match &self.datastore_dir {
            Some(dir) => {
                let status_dir = status_dir.unwrap_or_else(|| settings.cutover_run_dir.join("status"));
                Ok(store::open_directory(dir.clone(), status_dir))
            }
            None => store::open(&settings, status_dir),
        }
    }
}

fn begin(store: &mut dyn Store, port: &str, to: &str, from: Option<&str>) -> Result<(), Failure> {
    let picture = store.look(port)?;
    if let Some(found) = picture.migrations.first() {
        return Err(Failure::other(format!(
            "{}: port {port} is already being migrated ({}); end it with cutover migrate complete or abort",
            found.place, found.migration.uid
        )));
    }
    let source = source_of(&picture, &store.place(), port, to, from)?;
    let target = EndpointKey { host: to.to_owned(), ..source.clone() };
    check_key(&target)
        .map_err(|refusal| Failure::usage(format!("--to {to}: {refusal}; write the name of a host")))?;
    if let Some(place) = picture.place_of(&target) {
        return Err(Failure::other(format!(
            "{place}: port {port} already has an endpoint on {to}; remove it, or name another host with --to"
        )));
    }
    let uid = stamp::uid()?;
    let name = target.to_string();
    let migration = migration_document(Some(&source), &target, &uid);
    let endpoint = endpoint_document(store.endpoint(&source)?, &target)?;
    // ORDER: the migration first, or the target would announce the route before it knows that it must wait.
    store.create_migration(&name, &migration)?;
    if store.repeats() {
        store.rewrite_endpoint(&source)?;
    }
    store.create_endpoint(&target, &endpoint)?;
    if store.repeats() {
        store.rewrite_migration(&name)?;
        store.rewrite_endpoint(&source)?;
        store.rewrite_endpoint(&target)?;
    }
    info!("Live migration {uid}: pre-migrate port {port} from {} to {to}", source.host);
    Ok(())
}

fn wait_ready(store: &mut dyn Store, port: &str, timeout: Duration) -> Result<(), Failure> {
    let migration = Running::of(&store.look(port)?, &store.place(), port)?;
    let deadline = clock::now() + timeout;
    loop {
        let reported = store.reported(&migration.name, &migration.target)?;
        if reported == Reported::Since("up".to_owned()) {
            break;
        }
        if clock::now() >= deadline {
            return Err(Failure::unavailable(format!(
                "{}: port {port} is not up on {} after {} s, {reported}; see whether the agent runs there and what it logs",
                store.status_place(&migration.target),
                migration.target.host,
                timeout.as_secs_f64()
            )));
        }
        std::thread::sleep(LOOK_EVERY);
    }
    let (uid, host) = (&migration.uid, &migration.target.host);
    info!("Live migration {uid}: destination port {port} active on {host}, notifying Nova");
    Ok(())
}

/// Tells the agent whose run directory the settings name.
fn stopped(file: &ConfigFile, which: &Departing, is_stopped: bool) -> Result<(), Failure> {
    let run_dir = settings::load(&file.sources()?, &[]).settings.cutover_run_dir;
    let departed =
        control::stopped(&run_dir, which, is_stopped).map_err(|error| status::refused(&run_dir, &error))?;
    if departed.is_empty() {
        let name = match which {
            Departing::Port(id) => format!("port {id}"),
            Departing::Workload(id) => format!("machine {id}"),
        };
        return Err(Failure::other(format!(
            "{name}: the agent of this host knows of no migration away from here, or CutoverForward or CutoverPeering is off; see cutover status"
        )));
    }
    for Departed { endpoint, migration_uid, to, is_ready } in departed {
        match (is_stopped, is_ready) {
            (true, true) => info!("Live migration {migration_uid}: {endpoint} stopped, forwarding to {to}"),
            (true, false) => {
                info!(
                    "Live migration {migration_uid}: {endpoint} stopped; {to} is not ready for what is forwarded, so nothing is yet"
                );
            }
            (false, _) => info!("Live migration {migration_uid}: {endpoint} goes on here"),
        }
    }
    Ok(())
}

fn complete(store: &mut dyn Store, port: &str, with_gap: bool) -> Result<(), Failure> {
    let picture = store.look(port)?;
    let Running { name, uid, source, target } = Running::of(&picture, &store.place(), port)?;
    if picture.place_of(&target).is_none() {
        return Err(missing_endpoint(&store.place(), port, &target));
    }
    store.remove_migration(&name)?;
    store.remove_endpoint(&source)?;
    if with_gap {
        store.take_away(&target)?;
        std::thread::sleep(GAP);
        store.put_back()?;
    } else {
        store.rewrite_endpoint(&target)?;
    }
    info!("Live migration {uid}: succeeded, port {port} migrated from {} to {}", source.host, target.host);
    Ok(())
}

fn abort(store: &mut dyn Store, port: &str, with_gap: bool) -> Result<(), Failure> {
    let picture = store.look(port)?;
    let Running { name, uid, source, target } = Running::of(&picture, &store.place(), port)?;
    if picture.place_of(&source).is_none() {
        return Err(missing_endpoint(&store.place(), port, &source));
    }
    store.remove_migration(&name)?;
    if with_gap {
        store.take_away(&source)?;
        store.remove_endpoint(&target)?;
        std::thread::sleep(GAP);
        store.put_back()?;
    } else {
        // ORDER: the target's endpoint goes first, as recorded; the source's is never away.
        store.remove_endpoint(&target)?;
        store.rewrite_endpoint(&source)?;
    }
    info!("Live migration {uid}: rolled back, port {port} stays on {}", source.host);
    Ok(())
}

/// A migration of one port between two hosts, as `begin` writes it.
struct Running {
    name: String,
    uid: String,
    source: EndpointKey,
    target: EndpointKey,
}

impl Running {
    fn of(picture: &Picture, place: &str, port: &str) -> Result<Self, Failure> {
        let [found] = picture.migrations.as_slice() else {
            return Err(Failure::other(match picture.migrations.len() {
                0 => format!("{place}: port {port} is not being migrated; begin with cutover migrate begin"),
                count => format!("{place}: {count} migrations concern port {port}; remove all but one"),
            }));
        };
        let (Some(MigrationSource::Endpoint(source)), Some(MigrationTarget::Endpoint(target))) =
            (&found.migration.source, &found.migration.target)
        else {
            return Err(Failure::other(format!(
                "{}: the migration of port {port} does not name an endpoint as source and as target; end it by hand",
                found.place
            )));
        };
        let (source, target) = (source.clone(), target.clone());
        Ok(Self { name: found.name.clone(), uid: found.migration.uid.clone(), source, target })
    }
}

fn source_of(
    picture: &Picture,
    place: &str,
    port: &str,
    to: &str,
    from: Option<&str>,
) -> Result<EndpointKey, Failure> {
    let mut keys: Vec<&EndpointKey> = picture.endpoints.iter().map(|(key, _)| key).collect();
    if let Some(from) = from {
        keys.retain(|key| key.host == from);
    }
    keys.sort();
    let hosts: Vec<&str> = keys.iter().map(|key| key.host.as_str()).collect();
    match keys.as_slice() {
        [key] if key.host == to => {
            Err(Failure::usage(format!("--to {to}: port {port} is there already; name another host")))
        }
        [key] => Ok((*key).clone()),
        [] => {
            let on = from.map(|from| format!(" on {from}")).unwrap_or_default();
            Err(Failure::other(format!(
                "{place}: no endpoint of port {port}{on}; write its WorkloadEndpoint first"
            )))
        }
        _ => Err(Failure::usage(format!(
            "port {port} has endpoints on {}; choose one with --from",
            hosts.join(" and ")
        ))),
    }
}

fn missing_endpoint(place: &str, port: &str, key: &EndpointKey) -> Failure {
    let text =
        format!("{place}: port {port} has no endpoint on {}, which should stay; write it first", key.host);
    Failure::other(text)
}

/// The source's document with another host.
fn endpoint_document(mut document: Value, target: &EndpointKey) -> Result<Value, Failure> {
    stamp::renew(&mut document)?;
    document["metadata"]["name"] = target.to_string().into();
    document["metadata"]["namespace"] = namespace(target).into();
    let workload = target.workload.split_once('/').map_or(target.workload.as_str(), |(_, workload)| workload);
    document["spec"]["node"] = target.host.clone().into();
    document["spec"]["orchestrator"] = target.orchestrator.clone().into();
    document["spec"]["workload"] = workload.into();
    document["spec"]["endpoint"] = target.endpoint.clone().into();
    Ok(document)
}
