//! `cutover migrate`: the orchestrator's part of a live migration, played against the directory datastore.
//!
//! Makes the writes of the Neutron driver in the driver's order, as recorded; it moves no virtual machine. Refuses to begin what
//! has begun and to end what has not.

mod files;
mod stamp;

use super::{ConfigFile, Failure, datastore_dir};
use crate::clock;
use crate::datastore::resource::check_key;
use crate::logging;
use cutover_engine::model::{EndpointKey, LiveMigration, MigrationSource, MigrationTarget};
use files::{Files, Scan};
use serde_json::{Value, json};
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tracing::info;
use tracing_subscriber::filter::LevelFilter;

/// Arguments of `cutover migrate`.
#[derive(Debug, clap::Args)]
pub struct MigrateArguments {
    #[command(subcommand)]
    step: Step,
}

#[derive(Debug, clap::Subcommand)]
enum Step {
    /// Writes the LiveMigration, then the endpoint of the target host
    ///
    /// The endpoint is a copy of the source's. The driver also rewrites the source's endpoint with the same content, and then does
    /// everything again; writes that change nothing are left out here.
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
    WaitReady {
        #[command(flatten)]
        common: Common,
        /// How long to wait
        #[arg(long, value_name = "SECONDS", default_value_t = 300.0)]
        timeout: f64,
        /// Where the target's agent writes its status files [default: status in the run directory of the settings]
        #[arg(long, value_name = "DIR")]
        status_dir: Option<PathBuf>,
    },
    /// Ends a migration that has succeeded
    ///
    /// Removes the LiveMigration, removes the source's endpoint, rewrites the target's endpoint. An endpoint that shares its file with
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
    /// Directory of the resource files [default: CutoverDatastoreDir of the settings]
    #[arg(long, value_name = "DIR")]
    datastore_dir: Option<PathBuf>,
    /// The port: `endpoint` of its WorkloadEndpoint
    #[arg(long, value_name = "ID")]
    port: String,
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
/// LIMIT: how often the status file is looked at; Nova learns it no faster.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// Plays one step.
///
/// # Errors
/// When the step does not fit what is in the datastore, or a file cannot be read or written.
pub fn run(arguments: &MigrateArguments) -> Result<(), Failure> {
    logging::init(logging::Format::Text, LevelFilter::INFO);
    match &arguments.step {
        Step::Begin { common, to, from } => begin(&common.files()?, &common.port, to, from.as_deref()),
        Step::WaitReady { common, timeout, status_dir } => {
            let timeout = Duration::try_from_secs_f64(*timeout)
                .map_err(|_| Failure::usage("--timeout: write seconds, such as 300"))?;
            let status_dir = match status_dir {
                Some(dir) => dir.clone(),
                None => common.file.load()?.settings.cutover_run_dir.join("status"),
            };
            wait_ready(&common.files()?, &common.port, &status_dir, timeout)
        }
        Step::Complete { common, gap } => complete(&common.files()?, &common.port, gap.with_gap),
        Step::Abort { common, gap } => abort(&common.files()?, &common.port, gap.with_gap),
    }
}

impl Common {
    fn files(&self) -> Result<Files, Failure> {
        match &self.datastore_dir {
            Some(dir) => Ok(Files::new(dir.clone())),
            None => Ok(Files::new(datastore_dir(&self.file.load()?.settings)?.to_owned())),
        }
    }
}

fn begin(files: &Files, port: &str, to: &str, from: Option<&str>) -> Result<(), Failure> {
    let scan = files.scan()?;
    if let Some((path, _, migration)) = migrations_of(&scan, port).first() {
        return Err(Failure::other(format!(
            "{}: port {port} is already being migrated ({}); end it with cutover migrate complete or abort",
            path.display(),
            migration.uid
        )));
    }
    let source = source_of(&scan, files.root(), port, to, from)?;
    let target = EndpointKey { host: to.to_owned(), ..source.clone() };
    check_key(&target)
        .map_err(|refusal| Failure::usage(format!("--to {to}: {refusal}; write the name of a host")))?;
    if let Some(path) = scan.endpoint_path(&target) {
        return Err(Failure::other(format!(
            "{}: port {port} already has an endpoint on {to}; remove it, or name another host with --to",
            path.display()
        )));
    }
    let uid = stamp::uid()?;
    let migration = migration_document(&source, &target, &uid);
    let endpoint = endpoint_document(scan.endpoint_value(&source)?, &target)?;
    // ORDER: the migration first, or the target would announce the route before it knows that it must wait.
    files.create("livemigration", &target.to_string(), &migration)?;
    files.create("workloadendpoint", &target.to_string(), &endpoint)?;
    info!("Live migration {uid}: pre-migrate port {port} from {} to {to}", source.host);
    Ok(())
}

fn wait_ready(files: &Files, port: &str, status_dir: &Path, timeout: Duration) -> Result<(), Failure> {
    let migration = Running::of(&files.scan()?, files.root(), port)?;
    let path = status_dir.join(format!("{}.json", migration.target));
    let deadline = clock::now() + timeout;
    loop {
        let status = reported_status(&path)?;
        if status.as_deref() == Some("up") {
            break;
        }
        if clock::now() >= deadline {
            let status =
                status.map_or_else(|| "nothing is reported".to_owned(), |status| format!("it is {status}"));
            return Err(Failure::unavailable(format!(
                "{}: port {port} is not up on {} after {} s, {status}; see whether the agent runs there and what it logs",
                path.display(),
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

/// What the file says; nothing if there is none or it is not finished.
fn reported_status(path: &Path) -> Result<Option<String>, Failure> {
    match std::fs::read(path) {
        Ok(bytes) => {
            let value: Option<Value> = serde_json::from_slice(&bytes).ok();
            Ok(value.and_then(|value| Some(value.get("status")?.as_str()?.to_owned())))
        }
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            Err(Failure::privilege(format!("{}: cannot read the status: {error}; use sudo", path.display())))
        }
        Err(_) => Ok(None),
    }
}

fn complete(files: &Files, port: &str, with_gap: bool) -> Result<(), Failure> {
    let scan = files.scan()?;
    let Running { name, uid, source, target } = Running::of(&scan, files.root(), port)?;
    if scan.endpoint_path(&target).is_none() {
        return Err(missing_endpoint(files.root(), port, &target));
    }
    files.remove_migration(&name)?;
    files.remove_endpoint(&source)?;
    write_again(files, &target, with_gap)?;
    info!("Live migration {uid}: succeeded, port {port} migrated from {} to {}", source.host, target.host);
    Ok(())
}

fn abort(files: &Files, port: &str, with_gap: bool) -> Result<(), Failure> {
    let scan = files.scan()?;
    let Running { name, uid, source, target } = Running::of(&scan, files.root(), port)?;
    if scan.endpoint_path(&source).is_none() {
        return Err(missing_endpoint(files.root(), port, &source));
    }
    files.remove_migration(&name)?;
    if with_gap {
        let held = files.take_away(&source)?;
        files.remove_endpoint(&target)?;
        std::thread::sleep(GAP);
        held.put_back()?;
    } else {
        // ORDER: the target's endpoint goes first, as recorded; the source's is never away.
        files.remove_endpoint(&target)?;
        files.rewrite_endpoint(&source)?;
    }
    info!("Live migration {uid}: rolled back, port {port} stays on {}", source.host);
    Ok(())
}

fn write_again(files: &Files, key: &EndpointKey, with_gap: bool) -> Result<(), Failure> {
    if !with_gap {
        return files.rewrite_endpoint(key);
    }
    let held = files.take_away(key)?;
    std::thread::sleep(GAP);
    held.put_back()
}

/// A migration of one port between two hosts, as `begin` writes it.
struct Running {
    name: String,
    uid: String,
    source: EndpointKey,
    target: EndpointKey,
}

impl Running {
    fn of(scan: &Scan, root: &Path, port: &str) -> Result<Self, Failure> {
        let found = migrations_of(scan, port);
        let [(path, name, migration)] = found.as_slice() else {
            return Err(Failure::other(match found.len() {
                0 => format!(
                    "{}: port {port} is not being migrated; begin with cutover migrate begin",
                    root.display()
                ),
                count => {
                    format!("{}: {count} migrations concern port {port}; remove all but one", root.display())
                }
            }));
        };
        let (Some(MigrationSource::Endpoint(source)), Some(MigrationTarget::Endpoint(target))) =
            (&migration.source, &migration.target)
        else {
            return Err(Failure::other(format!(
                "{}: the migration of port {port} does not name an endpoint as source and as target; end it by hand",
                path.display()
            )));
        };
        let (source, target) = (source.clone(), target.clone());
        Ok(Self { name: (*name).to_owned(), uid: migration.uid.clone(), source, target })
    }
}

fn migrations_of<'a>(scan: &'a Scan, port: &str) -> Vec<(&'a Path, &'a str, &'a LiveMigration)> {
    let concerns = |migration: &LiveMigration| {
        matches!(&migration.source, Some(MigrationSource::Endpoint(key)) if key.endpoint == port)
            || matches!(&migration.target, Some(MigrationTarget::Endpoint(key)) if key.endpoint == port)
    };
    scan.migrations().filter(|(_, _, migration)| concerns(migration)).collect()
}

fn source_of(
    scan: &Scan,
    root: &Path,
    port: &str,
    to: &str,
    from: Option<&str>,
) -> Result<EndpointKey, Failure> {
    let mut keys: Vec<&EndpointKey> = scan.endpoints().filter(|key| key.endpoint == port).collect();
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
            let place = from.map(|from| format!(" on {from}")).unwrap_or_default();
            Err(Failure::other(format!(
                "{}: no endpoint of port {port}{place}; write its WorkloadEndpoint first",
                root.display()
            )))
        }
        _ => Err(Failure::usage(format!(
            "port {port} has endpoints on {}; choose one with --from",
            hosts.join(" and ")
        ))),
    }
}

fn missing_endpoint(root: &Path, port: &str, key: &EndpointKey) -> Failure {
    let text = format!(
        "{}: port {port} has no endpoint on {}, which should stay; write it first",
        root.display(),
        key.host
    );
    Failure::other(text)
}

fn migration_document(source: &EndpointKey, target: &EndpointKey, uid: &str) -> Value {
    let side = |key: &EndpointKey| {
        json!({ "workloadEndpoint": {
            "hostname": key.host, "orchestratorID": key.orchestrator, "workloadID": key.workload, "endpointID": key.endpoint,
        }})
    };
    json!({
        "apiVersion": "projectcalico.org/v3",
        "kind": "LiveMigration",
        "metadata": {
            "name": target.to_string(), "namespace": namespace(target), "uid": uid, "creationTimestamp": stamp::now(),
        },
        "spec": { "source": side(source), "target": side(target) },
    })
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

fn namespace(key: &EndpointKey) -> &str {
    key.workload.split_once('/').map_or("", |(namespace, _)| namespace)
}
