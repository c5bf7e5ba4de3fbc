//! `cutover agent`: the daemon in the foreground.

mod observe;

use super::{ConfigFile, Failure, datastore};
use cutover_daemon::agent::{self, RunError};
use cutover_daemon::allocator;
use cutover_daemon::bpf::{OpenError, is_refused};
use cutover_daemon::logging::one_line;
use cutover_daemon::run_dir::RunDirError;
use cutover_daemon::settings::Origin;
use std::collections::BTreeMap;
use std::fs;
use std::time::Duration;

/// Arguments of `cutover agent`.
#[derive(Debug, clap::Args)]
#[command(after_help = EXIT_CODES)]
pub struct AgentArguments {
    /// Where the settings are.
    #[command(flatten)]
    pub file: ConfigFile,
    /// Write nothing: look once, and say what would be changed and where the host differs; also beside Felix or an agent
    #[arg(long)]
    pub observe: bool,
    /// Print the report as JSON
    #[arg(long, requires = "observe")]
    pub json: bool,
    /// How long the datastore may take to tell everything
    #[arg(long, value_name = "SECONDS", requires = "observe", default_value_t = 60)]
    pub within: u64,
}

const EXIT_CODES: &str = "Exit codes of --observe: 0 nothing would change, 2 something would, 69 the datastore cannot be read; \
others as those of cutover.";

/// Runs the agent until it is told to stop.
///
/// # Errors
/// When it cannot start or cannot go on.
pub fn run(arguments: &AgentArguments) -> Result<(), Failure> {
    if arguments.observe {
        return observe::run(&arguments.file, arguments.json, Duration::from_secs(arguments.within));
    }
    let sources = arguments.file.sources()?;
    let loaded = arguments.file.load()?;
    datastore(&loaded.settings)?;
    if !nix::unistd::geteuid().is_root() {
        return Err(Failure::privilege("the agent changes routes and loads BPF programs; run it as root"));
    }
    // Without this one it would start, and then fail at every route.
    if effective_capabilities().is_some_and(|held| held & (1 << CAP_NET_ADMIN) == 0) {
        return Err(Failure::privilege(
            "the agent changes routes, which needs CAP_NET_ADMIN; add it to what this root may do",
        ));
    }
    allocator::share_one_pool();
    let origins = loaded.origins.clone();
    // Two threads beside those of the appliers: the others must go on while the monitor is inside a long system call.
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .thread_name("cutover")
        .enable_all()
        .build()
        .map_err(|error| Failure::other(format!("cannot start the runtime: {error}")))?;
    let result = runtime.block_on(agent::run(arguments.file.config.clone(), sources, loaded));
    // Appliers in the middle of a system call are not waited for: whatever they leave half done is reconciled.
    runtime.shutdown_background();
    result.map_err(|error| failure(&error, &origins))
}

/// Where each value comes from, by name.
type Origins = BTreeMap<&'static str, Origin>;

fn failure(error: &RunError, origins: &Origins) -> Failure {
    let text = one_line(error).to_string();
    let chosen = |setting: &str, text: &str| match given(origins, setting) {
        Some(origin) => format!("{origin}: {setting} {text}"),
        None => format!("{setting} {text}"),
    };
    match error {
        RunError::Cluster(error) => super::cluster_failure(error),
        RunError::Kernel(OpenError::NoBpffs { path }) => match given(origins, "CutoverPinPath") {
            Some(origin) => Failure::configuration(format!(
                "{origin}: CutoverPinPath {} is not in a BPF file system, so nothing there would survive the agent; \
                 choose a folder below /sys/fs/bpf, or mount one there",
                path.display()
            )),
            None => Failure::unavailable(text),
        },
        RunError::RunDir(RunDirError::Unusable { .. }) => match given(origins, "CutoverRunDir") {
            Some(origin) => Failure::configuration(format!("{origin}: CutoverRunDir {text}")),
            None => Failure::other(text),
        },
        RunError::RunDir(RunDirError::Unsafe { .. }) => {
            Failure::configuration(chosen("CutoverRunDir", &text))
        }
        RunError::Kernel(OpenError::Unsafe { .. }) => Failure::configuration(chosen("CutoverPinPath", &text)),
        RunError::Kernel(OpenError::NoTcx | OpenError::DotInPinPath { .. }) => Failure::configuration(text),
        RunError::Kernel(OpenError::LockedMemory { .. }) => Failure::privilege(text),
        RunError::Kernel(error) if is_refused(error) => Failure::privilege(format!(
            "{text}; run the agent as root with CAP_BPF, CAP_PERFMON and CAP_NET_ADMIN, or with CAP_SYS_ADMIN"
        )),
        _ => Failure::other(text),
    }
}

/// Where somebody set it. Without that it is the host that lacks something.
fn given<'origins>(origins: &'origins Origins, setting: &str) -> Option<&'origins Origin> {
    origins.get(setting).filter(|origin| !matches!(origin, Origin::BuiltIn | Origin::System))
}

/// Number of the capability (include/uapi/linux/capability.h).
const CAP_NET_ADMIN: u32 = 12;

/// The set that counts, if /proc tells.
fn effective_capabilities() -> Option<u64> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let set = status.lines().find_map(|line| line.strip_prefix("CapEff:"))?;
    u64::from_str_radix(set.trim(), 16).ok()
}
