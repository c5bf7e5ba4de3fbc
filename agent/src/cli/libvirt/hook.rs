//! `cutover libvirt hook`: which of libvirt's calls means what.
//!
//! libvirt waits for a hook, and gives up what it was about to do if the hook fails. So nothing here takes longer than [`limit`], whatever
//! hangs; what may pass is tried again until then, and at `started` what could not be done at `start` is done. The script that calls this ends
//! with success, whatever this ends with. libvirt is asked for nothing: it answers no question about a domain while its hook runs.
//!
//! On the target of a migration libvirt calls `migrate`, `prepare`, `start`, `started`; then the copy begins, and there is no further call.
//! On a host where a domain boots it is the same without `migrate`. On the source there is none before `stopped` and `release`, when the
//! machine is gone, and there are the same two on a target to which it has not come.

use super::HookArguments;
use super::domain::{self, Domain, Port};
use super::host::Host;
use super::journal;
use super::mark::{Mark, Told};
use crate::cli::Failure;
use cutover_daemon::clock;
use cutover_daemon::logging;
use cutover_daemon::retry::BackOff;
use cutover_daemon::settings::Settings;
use cutover_engine::BootTime;
use std::io::{self, Read as _, Write as _};
use std::sync::{Arc, OnceLock};
use std::thread;
use std::time::Duration;
use tracing_subscriber::filter::LevelFilter;

/// LIMIT: a datastore that answers takes milliseconds. libvirt itself waits for ever, and so does whoever starts the machine.
const DATASTORE_WITHIN: Duration = Duration::from_secs(10);

/// LIMIT: no attempt begins later, so that one has time to end, and to say why it failed.
const ATTEMPTS_WITHIN: Duration = Duration::from_secs(7);

/// LIMIT: a member of etcd that is slower is left for the next one, of which there may be two within the time that there is.
const MEMBER_WITHIN: Duration = Duration::from_secs(2);

/// LIMIT: an election of etcd's takes a second or two.
const PAUSE_MAX: Duration = Duration::from_secs(1);

/// LIMIT: far more than the longest domain.
const XML_MAX_BYTES: u64 = 16 << 20;

/// What one call is about.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Call {
    /// A machine is about to come here. What is called next looks the same for one that boots.
    Coming,
    /// A start begins.
    Preparing,
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
            ("prepare", "begin") => Some(Self::Preparing),
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
    let begun = clock::now();
    let about = format!("{}: {} {}", arguments.guest, arguments.operation, arguments.sub_operation);
    let call = Call::of(&arguments.operation, &arguments.sub_operation);
    let limit = limit(call, arguments.wait);
    let uuid = Arc::new(OnceLock::new());
    let later = {
        let (uuid, guest) = (Arc::clone(&uuid), arguments.guest.clone());
        move || call.and_then(|call| by_hand(call, &known_as(uuid.get(), &guest))).unwrap_or_default()
    };
    {
        let (about, later) = (about.clone(), later.clone());
        thread::spawn(move || {
            thread::sleep(limit);
            let given_up = Failure::unavailable(format!(
                "not done within {} s, and given up; see whether the datastore answers{}",
                limit.as_secs(),
                later()
            ));
            let given_up = given_up.about(&about);
            journal::write(&given_up.to_string());
            let _ = writeln!(io::stderr(), "cutover: {given_up}");
            std::process::exit(GIVEN_UP);
        });
    }
    let result = perform(arguments, call, begun, &uuid).map_err(|failure| failure.about(&about));
    if let Err(failure) = &result {
        journal::write(&format!("{failure}{}", later()));
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

/// What a shell can be told of a domain: its UUID, or, before that was read, its name, which may be anything.
fn known_as(uuid: Option<&String>, guest: &str) -> String {
    uuid.cloned().unwrap_or_else(|| {
        let is_plain =
            |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.' | b':' | b'+' | b'@');
        if !guest.is_empty() && !guest.starts_with('-') && guest.bytes().all(is_plain) {
            return guest.to_owned();
        }
        format!("'{}'", guest.replace('\'', "'\\''"))
    })
}

/// How an operator does what a call has not done, once whatever kept it from that is mended.
fn by_hand(call: Call, domain: &str) -> Option<String> {
    match call {
        Call::Coming | Call::Preparing => None,
        Call::Starting | Call::Started => Some(format!(
            "; then, once it runs here: virsh dumpxml {domain} | cutover libvirt hook {domain} reconnect begin"
        )),
        Call::Running => {
            Some(format!("; then: virsh dumpxml {domain} | cutover libvirt hook {domain} reconnect begin"))
        }
        Call::Gone => Some(format!(
            "; then: virsh dumpxml --inactive {domain} | cutover libvirt hook {domain} release end, or remove its endpoints on this host \
             from the datastore if libvirt does not know it any more"
        )),
    }
}

fn perform(
    arguments: &HookArguments,
    call: Option<Call>,
    begun: BootTime,
    known: &OnceLock<String>,
) -> Result<(), Failure> {
    // Read to its end, whatever comes of it: libvirt writes to a pipe.
    let mut xml = String::new();
    io::stdin()
        .take(XML_MAX_BYTES)
        .read_to_string(&mut xml)
        .map_err(|error| Failure::other(format!("standard input: cannot read the domain: {error}")))?;
    let Some(call) = call else { return Ok(()) };
    let no_domain =
        |error: String| Failure::usage(format!("standard input: {error}; give it what virsh dumpxml prints"));
    let domain = match domain::parse(&xml).map_err(no_domain)? {
        Some(domain) => domain,
        None if call == Call::Gone => {
            let uuid = domain::uuid_of(&xml).map_err(no_domain)?;
            let _ = known.set(uuid.clone());
            let settings = arguments.file.load()?.settings;
            // It may have had ports when it started. If it never had, nobody has to wait for its sake.
            return gone(&settings, &uuid, begun);
        }
        None => return Ok(()),
    };
    let _ = known.set(domain.uuid.clone());
    let settings = arguments.file.load()?.settings;
    let mark = Mark::of(&settings, &domain.uuid);
    let until = begun + ATTEMPTS_WITHIN;
    let unusable = || domain.problems.iter().map(Failure::configuration);
    match call {
        Call::Coming => mark.announce(),
        Call::Preparing => mark.prepare(),
        Call::Starting => {
            let told = mark.told();
            let written = persist(&settings, until, |host| {
                each(&domain, |port| host.start(&domain, port, &told, false))?;
                prune(host, &domain)
            });
            let doubt = (told == Told::Nothing).then(|| doubt(&settings));
            Failure::all(written.err().into_iter().chain(unusable()).chain(doubt))
        }
        Call::Started => {
            let told = mark.told();
            // It is of no use any more, whatever becomes of the rest.
            let cleared = mark.clear();
            let written = persist(&settings, until, |host| {
                each(&domain, |port| host.start(&domain, port, &told, true))
            });
            let (host, failure) = match written {
                Ok(host) => (Ok(host), None),
                Err(failure) if failure.may_pass() => (Err(failure), None),
                // One port that is wrong does not keep libvirt from waiting for the others.
                Err(failure) => (Host::open_within(&settings, MEMBER_WITHIN, 0), Some(failure)),
            };
            let waited = host.and_then(|mut host| {
                let until = clock::now() + Duration::from_secs(arguments.wait);
                judge(&host.wait_ready(&domain, until)?, arguments.wait)
            });
            Failure::all([cleared.err(), failure, waited.err()].into_iter().flatten())
        }
        Call::Running => {
            let told = mark.told();
            let written = persist(&settings, until, |host| {
                each(&domain, |port| host.plug(&domain, port, &told))?;
                prune(host, &domain)
            });
            Failure::all(written.err().into_iter().chain(unusable()))
        }
        Call::Gone => {
            let gone = gone(&settings, &domain.uuid, until);
            Failure::all(gone.err().into_iter().chain(unusable()))
        }
    }
}

/// Takes out what there is of a machine that has no process here any more, and forgets that it was coming, if it was.
fn gone(settings: &Settings, uuid: &str, until: BootTime) -> Result<(), Failure> {
    let cleared = Mark::of(settings, uuid).clear();
    let released = persist(settings, until, |host| host.release(uuid));
    Failure::all(cleared.err().into_iter().chain(released.err()))
}

/// Does something on the host, and again as long as there is time and what keeps it from that may pass: each time by another member of
/// etcd first.
fn persist(
    settings: &Settings,
    until: BootTime,
    mut work: impl FnMut(&mut Host) -> Result<(), Failure>,
) -> Result<Host, Failure> {
    let mut first = 0;
    again(until, || {
        let mut host = Host::open_within(settings, MEMBER_WITHIN, first);
        first += 1;
        if let Ok(host) = &mut host {
            work(host)?;
        }
        host
    })
}

fn again<T>(until: BootTime, mut attempt: impl FnMut() -> Result<T, Failure>) -> Result<T, Failure> {
    let mut back_off = BackOff::up_to(PAUSE_MAX);
    loop {
        match attempt() {
            Err(failure) if failure.may_pass() => {
                let pause = back_off.next_pause();
                if clock::now() + pause >= until {
                    return Err(failure);
                }
                thread::sleep(pause);
            }
            result => return result,
        }
    }
}

/// Does something for each port. What is wrong with one does not keep the others from it.
fn each(domain: &Domain, mut step: impl FnMut(&Port) -> Result<(), Failure>) -> Result<(), Failure> {
    Failure::all(domain.ports.iter().filter_map(|port| step(port).err()))
}

/// Not if a port cannot be used: what is there may be that port's.
fn prune(host: &mut Host, domain: &Domain) -> Result<(), Failure> {
    if domain.problems.is_empty() { host.prune(domain) } else { Ok(()) }
}

/// What is said when nobody knows whether a machine boots or comes.
fn doubt(settings: &Settings) -> Failure {
    Failure::other(format!(
        "{}: CutoverRunDir cannot be written, so nobody knows whether the machine boots or comes here; it gets its routes when it announces \
         itself, or when cutover-libvirt sees it run; without that service, remove its LiveMigration once it runs here",
        settings.cutover_run_dir.display()
    ))
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_may_pass_is_tried_again_and_what_is_wrong_is_not() {
        let until = || clock::now() + Duration::from_secs(60);
        let mut attempts = 0;
        let result = again(until(), || {
            attempts += 1;
            if attempts < 3 { Err(Failure::unavailable("no answer")) } else { Ok(attempts) }
        });
        assert_eq!(result, Ok(3));
        attempts = 0;
        let result: Result<(), Failure> = again(until(), || {
            attempts += 1;
            Err(Failure::configuration("wrong"))
        });
        assert_eq!((result, attempts), (Err(Failure::configuration("wrong")), 1));
    }

    #[test]
    fn it_is_tried_only_as_long_as_there_is_time() {
        let mut attempts = 0;
        let result: Result<(), Failure> = again(clock::now(), || {
            attempts += 1;
            Err(Failure::unavailable("no answer"))
        });
        assert_eq!((result, attempts), (Err(Failure::unavailable("no answer")), 1));
    }

    #[test]
    fn every_attempt_and_what_follows_it_end_within_the_limit() {
        assert!(ATTEMPTS_WITHIN + MEMBER_WITHIN < DATASTORE_WITHIN);
        assert_eq!(limit(Some(Call::Started), 5), DATASTORE_WITHIN + Duration::from_secs(5));
        assert_eq!(limit(Some(Call::Starting), 5), DATASTORE_WITHIN);
    }

    #[test]
    fn what_is_to_be_typed_is_one_word_for_a_shell() {
        let uuid = "0f4ac1d2-2b0e-4f69-9a3e-3f0c3d7f0a01".to_owned();
        for name in ["vm 1; reboot", "it's", "-r", "$(reboot)", ""] {
            assert_eq!(known_as(Some(&uuid), name), uuid);
        }
        assert_eq!(known_as(None, "vm-1"), "vm-1");
        assert_eq!(known_as(None, "vm 1; reboot"), "'vm 1; reboot'");
        assert_eq!(known_as(None, "it's"), r"'it'\''s'");
        assert_eq!(known_as(None, ""), "''");
        let text = by_hand(Call::Starting, &known_as(Some(&uuid), "it's")).unwrap();
        assert!(
            text.ends_with(&format!("virsh dumpxml {uuid} | cutover libvirt hook {uuid} reconnect begin"))
        );
    }
}
