//! `cutover libvirt hook`: which of libvirt's calls means what.
//!
//! libvirt waits for a hook, and gives up what it was about to do if the hook fails. So nothing here takes longer than [`limit`], whatever
//! hangs, and the script that calls this ends with success, whatever this ends with. libvirt is asked for nothing: it answers no question about
//! a domain while its hook runs.
//!
//! On the target of a migration libvirt calls `migrate`, `prepare`, `start`, `started`; then the copy begins, and there is no further call.
//! On a host where a domain boots it is the same without `migrate`. On the source there is none before `stopped` and `release`, when the
//! machine is gone, and there are the same two on a target to which it has not come.

use super::HookArguments;
use super::domain::{self, Domain, Port};
use super::host::Host;
use super::journal;
use crate::cli::Failure;
use cutover_daemon::clock;
use cutover_daemon::logging;
use cutover_daemon::settings::Settings;
use std::fs::{self, DirBuilder};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;
use tracing_subscriber::filter::LevelFilter;

/// LIMIT: a datastore that answers takes milliseconds, and 3 s more for each member of etcd that is dead and is tried first. libvirt itself
/// waits for ever, and so does whoever starts the machine.
const DATASTORE_WITHIN: Duration = Duration::from_secs(10);

/// LIMIT: far more than the longest domain.
const XML_MAX_BYTES: u64 = 16 << 20;

/// What one call is about.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Call {
    /// A machine is about to come here. What is called next looks the same for one that boots.
    Coming,
    /// Its taps are there, and its process is not.
    Starting,
    /// Its process is there. A machine that comes here waits for this call to end.
    Started,
    /// It has been running for a while.
    Running,
    /// It has no process here any more.
    Gone,
}

impl Call {
    fn of(operation: &str, sub_operation: &str) -> Option<Self> {
        match (operation, sub_operation) {
            ("migrate", "begin") => Some(Self::Coming),
            ("start", "begin") => Some(Self::Starting),
            ("started", "begin") => Some(Self::Started),
            ("reconnect" | "attach", "begin") => Some(Self::Running),
            ("release", "end") => Some(Self::Gone),
            _ => None,
        }
    }
}

/// Does what follows from one call.
///
/// # Errors
/// What could not be done. Everything else is done.
pub(super) fn run(arguments: &HookArguments) -> Result<(), Failure> {
    // For who calls it by hand: libvirt throws it away.
    logging::init(logging::Format::Text, LevelFilter::WARN);
    let about = format!("{}: {} {}", arguments.guest, arguments.operation, arguments.sub_operation);
    let call = Call::of(&arguments.operation, &arguments.sub_operation);
    let limit = limit(call, arguments.wait);
    let later = call.and_then(|call| by_hand(call, &arguments.guest)).unwrap_or_default();
    let given_up = Failure::unavailable(format!(
        "not done within {} s, and given up; see whether the datastore answers{later}",
        limit.as_secs()
    ));
    let given_up = given_up.about(&about);
    thread::spawn(move || {
        thread::sleep(limit);
        journal::write(&given_up.to_string());
        let _ = writeln!(io::stderr(), "cutover: {given_up}");
        std::process::exit(GIVEN_UP);
    });
    let result = perform(arguments, call).map_err(|failure| failure.about(&about));
    if let Err(failure) = &result {
        journal::write(&format!("{failure}{later}"));
    }
    result
}

/// `EX_UNAVAILABLE`.
const GIVEN_UP: i32 = 69;

/// How long libvirt is kept at most.
fn limit(call: Option<Call>, wait_seconds: u64) -> Duration {
    let for_agent = if call == Some(Call::Started) { wait_seconds } else { 0 };
    DATASTORE_WITHIN + Duration::from_secs(for_agent)
}

/// How an operator does what a call has not done, once whatever kept it from that is mended.
fn by_hand(call: Call, guest: &str) -> Option<String> {
    match call {
        Call::Coming | Call::Started => None,
        Call::Starting | Call::Running => {
            Some(format!("; then: virsh dumpxml {guest} | cutover libvirt hook {guest} reconnect begin"))
        }
        Call::Gone => Some(format!(
            "; then: virsh dumpxml --inactive {guest} | cutover libvirt hook {guest} release end, or remove its endpoints on this host \
             from the datastore if libvirt does not know it any more"
        )),
    }
}

fn perform(arguments: &HookArguments, call: Option<Call>) -> Result<(), Failure> {
    // Read to its end, whatever comes of it: libvirt writes to a pipe.
    let mut xml = String::new();
    io::stdin()
        .take(XML_MAX_BYTES)
        .read_to_string(&mut xml)
        .map_err(|error| Failure::other(format!("standard input: cannot read the domain: {error}")))?;
    let Some(call) = call else { return Ok(()) };
    let domain = domain::parse(&xml).map_err(|error| {
        Failure::usage(format!("standard input: {error}; give it what virsh dumpxml prints"))
    })?;
    let Some(domain) = domain else { return Ok(()) };
    let settings = arguments.file.load()?.settings;
    let mark = Mark::of(&settings, &domain);
    let mut host = match call {
        Call::Coming => return mark.set(),
        Call::Started if !mark.is_set() => return Ok(()),
        _ => Host::open(&settings)?,
    };
    match call {
        Call::Coming => Ok(()),
        Call::Starting if mark.is_set() => each(&domain, |port| host.arrive(&domain, port)),
        Call::Starting | Call::Running => each(&domain, |port| host.plug(&domain, port)),
        Call::Started => {
            let unready = host.wait_ready(&domain, clock::now() + Duration::from_secs(arguments.wait));
            mark.clear()?;
            judge(&unready?, arguments.wait)
        }
        Call::Gone => {
            mark.clear()?;
            let domain = Domain { problems: Vec::new(), ..domain };
            each(&domain, |port| host.release(&domain, port))
        }
    }
}

/// Does something for each port. What is wrong with one does not keep the others from it.
fn each(domain: &Domain, mut step: impl FnMut(&Port) -> Result<(), Failure>) -> Result<(), Failure> {
    let unusable = domain.problems.iter().map(Failure::configuration);
    let failed = domain.ports.iter().filter_map(|port| step(port).err());
    let mut failures: Vec<Failure> = failed.collect();
    failures.extend(unusable);
    let texts: Vec<String> = failures.iter().map(ToString::to_string).collect();
    match failures.into_iter().next() {
        None => Ok(()),
        Some(first) => Err(first.with_text(texts.join("; "))),
    }
}

fn judge(unready: &[String], seconds: u64) -> Result<(), Failure> {
    if unready.is_empty() {
        return Ok(());
    }
    Err(Failure::unavailable(format!(
        "port {} is not up after {seconds} s; the machine comes all the same, and its route may be late; \
         see whether the agent runs here and what it logs",
        unready.join(" and ")
    )))
}

/// A file that tells a machine that comes here from one that boots, from the one call that knows to those that do not. It is gone after a
/// reboot, as the machine is.
struct Mark {
    path: PathBuf,
}

impl Mark {
    fn of(settings: &Settings, domain: &Domain) -> Self {
        Self { path: settings.cutover_run_dir.join(format!("arriving-{}", domain.uuid)) }
    }

    fn is_set(&self) -> bool {
        self.path.exists()
    }

    fn set(&self) -> Result<(), Failure> {
        let folder = self.path.parent().unwrap_or(Path::new("/"));
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(folder)
            .and_then(|()| fs::write(&self.path, ""))
            .map_err(|error| self.failure("cannot be written", &error))
    }

    fn clear(&self) -> Result<(), Failure> {
        match fs::remove_file(&self.path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(self.failure("cannot be removed", &error))
            }
            _ => Ok(()),
        }
    }

    fn failure(&self, what: &str, error: &io::Error) -> Failure {
        Failure::other(format!("{}: {what}: {error}; see CutoverRunDir", self.path.display()))
    }
}
