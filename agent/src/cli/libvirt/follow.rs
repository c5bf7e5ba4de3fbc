//! `cutover libvirt follow`: a migration to this host is over when the machine runs here.
//!
//! libvirt tells of that in an event, and calls no hook. What runs is told anew at each connection, so nothing is lost by whoever starts
//! this late, or again. A migration whose machine has not come, and that no hook has removed, is given up after a while.

use super::FollowArguments;
use super::course::{Course, SETTLED_AFTER};
use super::host::Host;
use crate::cli::Failure;
use cutover_daemon::clock;
use cutover_daemon::libvirt::{Event, Listener, Place, Standing};
use cutover_daemon::logging;
use cutover_daemon::settings::Settings;
use cutover_engine::BootTime;
use cutover_engine::time::milliseconds;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use tokio::runtime::Runtime;
use tracing::{debug, info, warn};
use tracing_subscriber::filter::LevelFilter;

/// LIMIT: events that are taken before something that is due; a host has as many machines at most.
const EVENTS_AT_ONCE: usize = 10_000;

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
    let listener = Listener::new(Place { uri, ..Place::default() });
    let ears = listener.clone();
    runtime.spawn(async move {
        let (told, mut telling) = tokio::sync::mpsc::unbounded_channel();
        tokio::spawn(ears.run(told));
        while let Some(event) = telling.recv().await {
            if sender.send(event).is_err() {
                return;
            }
        }
    });
    follow(&settings, &listener, &events)
}

/// As long as there are events.
fn follow(settings: &Settings, listener: &Listener, events: &Receiver<Event>) -> Result<(), Failure> {
    let mut course = Course::new(clock::now());
    let mut said = None;
    loop {
        match next(events, course.next_at()) {
            Ok(event) => {
                course.take(event);
                continue;
            }
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => {
                return Err(Failure::other("what listens to libvirt has ended; start this again"));
            }
        }
        // What has been said already counts.
        events.try_iter().take(EVENTS_AT_ONCE).for_each(|event| course.take(event));
        let now = clock::now();
        if !is_heard(listener) {
            course.wait(now);
            continue;
        }
        match look(settings, &mut course, now) {
            Ok(()) => {
                course.done(now);
                said = None;
            }
            Err(failure) => {
                // The same every ten seconds says nothing more.
                if said.as_ref() == Some(&failure) {
                    debug!("migrations to this host cannot be ended still: {failure}");
                } else {
                    warn!("migrations to this host cannot be ended, this is tried again: {failure}");
                }
                said = Some(failure);
                course.failed(now);
            }
        }
    }
}

/// Whether what has been told is so. What has ended while libvirt was not heard is told right after that it is heard again.
fn is_heard(listener: &Listener) -> bool {
    let report = listener.report();
    report.standing == Standing::Connected && report.for_ms >= milliseconds(SETTLED_AFTER)
}

/// Until something is due.
fn next(events: &Receiver<Event>, due: BootTime) -> Result<Event, RecvTimeoutError> {
    let now = clock::now();
    // A channel that is never empty is no reason to be late.
    if due <= now { Err(RecvTimeoutError::Timeout) } else { events.recv_timeout(due.since(now)) }
}

/// Ends what is over, and gives up what has not come. What fails keeps nothing else.
fn look(settings: &Settings, course: &mut Course, now: BootTime) -> Result<(), Failure> {
    let mut host = Host::open(settings)?;
    let mut done = Vec::new();
    let completed = host.complete(&course.settled(now), &mut done);
    for port in done {
        info!(port, "libvirt: the machine runs here, its migration is over");
    }
    let abandoned = host.strays(course.here()).and_then(|strays| {
        let over = course.seen(now, &strays);
        for (migration, _) in &over {
            warn!(
                migration,
                "libvirt: the machine has not come and has no process here, its migration is given up"
            );
        }
        host.abandon(&over)
    });
    Failure::all(completed.err().into_iter().chain(abandoned.err()))
}
