//! The helper: a process that loads libvirt's library, connects, and prints a line for each event until the connection or the
//! agent ends.
//!
//! It decides nothing, keeps nothing and is never reused: whoever wants another try starts another one. It gives up every privilege
//! before the library is loaded; it stays root, whom libvirt's daemon lets in without polkit.

mod library;
mod privileges;

use super::line::{Line, Word};
use super::{What, lifecycle};
use crate::clock;
use library::{Closed, Library};
use std::io::{self, Read as _, Write as _};
use std::process::ExitCode;
use std::thread;
use std::time::Duration;

/// LIMIT: seldom enough to cost nothing; the listener waits for three of them.
const ALIVE_EVERY: Duration = Duration::from_secs(30);

/// Listens at this URI until the connection ends, or standard input does. Returns only then.
#[must_use]
pub fn run(uri: &str) -> ExitCode {
    // ORDER: each thread has privileges of its own, and a new one has those of the thread that starts it.
    let last = match privileges::give_up() {
        Ok(()) => {
            end_with_the_agent();
            listen(uri).map_or_else(|line| line, |closed| Line::Failed(closed.to_string()))
        }
        Err(error) => Line::Failed(format!("privileges cannot be given up: {error}")),
    };
    print(&last);
    ExitCode::FAILURE
}

fn listen(uri: &str) -> Result<Closed, Line> {
    let library = Library::load().map_err(Line::Missing)?;
    let failed = |what: &str| Line::Failed(format!("{what}: {}", library.last_error()));
    // ORDER: the library wants its event loop before the first connection.
    if !library.prepare_loop() {
        return Err(failed("no event loop"));
    }
    let connection = library.open_read_only(uri).ok_or_else(|| failed("cannot connect"))?;
    if !connection.watch_over() {
        return Err(failed("a daemon that hangs would not be noticed"));
    }
    // ORDER: whatever changes from here on is told by an event. The library hands events out in its loop, which begins after the
    // list, so the last word about a domain is the newest one.
    if !connection.collect_events(on_event) {
        return Err(failed("no events"));
    }
    if !library.call_every(ALIVE_EVERY, on_time) {
        return Err(failed("no timer"));
    }
    print(&Line::Connected { library: library.version(), daemon: connection.daemon_version() });
    let domains = connection.active_domains().ok_or_else(|| failed("no list of domains"))?;
    for domain in domains {
        // Without a state it has just gone, which an event tells.
        if let (Some(uuid), Some((state, reason))) = (domain.uuid, domain.state) {
            print(&Line::Found(word(uuid, lifecycle::of_state(state, reason))));
        }
    }
    print(&Line::Listed);
    connection.run_loop().ok_or_else(|| failed("the event loop ended"))
}

/// A domain changed. Called by the library from its loop.
fn on_event(domain: Option<String>, event: i32, detail: i32) {
    if let (Some(domain), Some(what)) = (domain, lifecycle::of_event(event, detail)) {
        print(&Line::Told(word(domain, what)));
    }
}

fn on_time() {
    print(&Line::Alive);
}

fn word(domain: String, what: What) -> Word {
    Word { domain, what, at_ns: clock::now().0 }
}

/// A line that cannot be written has no reader any more.
fn print(line: &Line) {
    let mut out = io::stdout().lock();
    if out.write_all(&line.text()).and_then(|()| out.flush()).is_err() {
        std::process::exit(1);
    }
}

/// The other end of standard input is the agent's, and closed when it is gone, however it went.
fn end_with_the_agent() {
    thread::spawn(|| {
        let mut nothing = [0];
        while io::stdin().read(&mut nothing).is_ok_and(|read| read > 0) {}
        std::process::exit(0);
    });
}
