//! `cutover libvirt follow`: a migration to this host is over when the machine runs here.
//!
//! libvirt tells of that in an event, and calls no hook. What runs is told anew at each connection, so nothing is lost by whoever starts
//! this late, or again.

use super::FollowArguments;
use super::host::Host;
use crate::cli::Failure;
use cutover_daemon::clock;
use cutover_daemon::libvirt::{Event, Listener, Place, What};
use cutover_daemon::logging;
use cutover_daemon::retry::BackOff;
use cutover_daemon::settings::Settings;
use cutover_engine::BootTime;
use std::collections::BTreeSet;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::time::Duration;
use tokio::runtime::Runtime;
use tracing::{info, warn};
use tracing_subscriber::filter::LevelFilter;

/// LIMIT: for what libvirt says at about the same time, and for the machine's announcement: the agent hears of it within milliseconds, and
/// an orchestrator takes seconds to end a migration.
const SETTLED_AFTER: Duration = Duration::from_secs(1);

/// Ends migrations for ever.
///
/// # Errors
/// When the settings are wrong, or name no libvirt.
pub(super) fn run(arguments: &FollowArguments) -> Result<(), Failure> {
    logging::init(logging::Format::Text, LevelFilter::INFO);
    let settings = arguments.file.load()?.settings;
    let uri = settings.cutover_libvirt_uri.clone();
    if uri.is_empty() {
        let text = "CutoverLibvirtURI is empty: there is no libvirt to follow; write qemu:///system";
        return Err(Failure::configuration(text));
    }
    let runtime =
        Runtime::new().map_err(|error| Failure::other(format!("cannot start the runtime: {error}")))?;
    let (sender, events) = mpsc::channel();
    runtime.spawn(async move {
        let (told, mut telling) = tokio::sync::mpsc::unbounded_channel();
        let listener = Listener::new(Place { uri, ..Place::default() });
        tokio::spawn(listener.run(told));
        while let Some(event) = telling.recv().await {
            if sender.send(event).is_err() {
                return;
            }
        }
    });
    follow(&settings, &events)
}

/// As long as there are events.
fn follow(settings: &Settings, events: &Receiver<Event>) -> Result<(), Failure> {
    let mut running = BTreeSet::new();
    let mut back_off = BackOff::new();
    let mut due: Option<BootTime> = None;
    loop {
        match next(events, due) {
            Ok(event) => {
                if take(&mut running, event) {
                    due = Some(clock::now() + SETTLED_AFTER);
                }
                continue;
            }
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => {
                return Err(Failure::other("what listens to libvirt has ended; start this again"));
            }
        }
        match Host::open(settings).and_then(|mut host| host.complete(&running)) {
            Ok(done) => {
                for port in done {
                    info!(port, "libvirt: the machine runs here, its migration is over");
                }
                due = None;
                back_off.reset();
            }
            Err(failure) => {
                warn!("migrations to this host cannot be ended, this is tried again: {failure}");
                due = Some(clock::now() + back_off.next_pause());
            }
        }
    }
}

/// Until something is due, if anything is.
fn next(events: &Receiver<Event>, due: Option<BootTime>) -> Result<Event, RecvTimeoutError> {
    match due {
        None => events.recv().map_err(|_| RecvTimeoutError::Disconnected),
        Some(due) => events.recv_timeout(due.since(clock::now())),
    }
}

/// Keeps who runs here. Says whether somebody may have come.
fn take(running: &mut BTreeSet<String>, event: Event) -> bool {
    match event.what {
        What::Running => {
            running.insert(event.domain);
            true
        }
        // It is stopped on its way out, or waits for what is on its way in: it does not run here.
        What::Stopped | What::Gone => {
            running.remove(&event.domain);
            false
        }
    }
}
