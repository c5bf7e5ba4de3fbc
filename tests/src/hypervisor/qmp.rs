//! QEMU's monitor: commands and their answers, and the events that come in between (QEMU's docs/interop/qmp-spec).

use crate::clocks::Clocks;
use crate::prompt::Prompt;
use crate::wait;
use cutover_engine::BootTime;
use serde_json::{Value, json};
use std::io::{self, BufRead as _, BufReader, Write as _};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, mpsc};
use std::thread;
use std::time::{Duration, Instant};

/// LIMIT: QEMU's main loop answers between two things that it does; on a loaded machine that may take a while.
const ANSWER: Duration = Duration::from_secs(20);

/// A command was refused, or there was no answer.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum QmpError {
    /// The description that QEMU gave.
    Refused(String),
    /// The process is gone, or stuck.
    Silent,
}

/// Something that happened in QEMU.
#[derive(Clone, PartialEq, Debug)]
pub struct Event {
    /// Its name: `STOP`, `RESUME`, `MIGRATION`, …
    pub name: String,
    /// When QEMU noted it: it says so on CLOCK_REALTIME, whole microseconds.
    pub at: BootTime,
    /// What else it says.
    pub data: Value,
}

/// A connection. Events are recorded from its beginning.
#[derive(Debug)]
pub struct Qmp {
    commands: Mutex<Commands>,
    events: Arc<Events>,
}

/// What has happened, and who is woken when something does.
#[derive(Debug, Default)]
struct Events {
    recorded: Mutex<Vec<Event>>,
    more: Condvar,
}

#[derive(Debug)]
struct Commands {
    stream: UnixStream,
    answers: mpsc::Receiver<Value>,
    /// How many were sent; each has its number as its id, or an answer that came too late would be the next one's.
    count: u64,
}

impl Qmp {
    /// Connects and negotiates.
    ///
    /// # Panics
    /// When nobody answers on the socket.
    #[must_use]
    pub fn connect(socket: &Path) -> Self {
        let stream = wait::for_some(wait::SOON, "QEMU's monitor", || UnixStream::connect(socket).ok());
        stream.set_write_timeout(Some(ANSWER)).expect("a socket");
        let reader = BufReader::new(stream.try_clone().expect("a descriptor"));
        let (sender, answers) = mpsc::channel();
        let events = Arc::<Events>::default();
        let record = Arc::clone(&events);
        thread::spawn(move || read(reader, &sender, &record));
        let qmp = Self { commands: Mutex::new(Commands { stream, answers, count: 0 }), events };
        qmp.must("qmp_capabilities", json!({}));
        qmp
    }

    /// Does a command.
    ///
    /// # Errors
    /// QEMU refused it or has gone.
    pub fn execute(&self, command: &str, arguments: Value) -> Result<Value, QmpError> {
        let mut commands = lock(&self.commands);
        commands.count += 1;
        let id = commands.count;
        let mut line = json!({"execute": command, "arguments": arguments, "id": id}).to_string();
        line.push('\n');
        let sent: io::Result<()> = commands.stream.write_all(line.as_bytes());
        sent.map_err(|_| QmpError::Silent)?;
        let deadline = Instant::now() + wait::patient(ANSWER);
        let answer = loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let answer = commands.answers.recv_timeout(left).map_err(|_| QmpError::Silent)?;
            if answer["id"] == id {
                break answer;
            }
        };
        match answer.get("error") {
            Some(error) => Err(QmpError::Refused(error["desc"].as_str().unwrap_or_default().to_owned())),
            None => Ok(answer["return"].clone()),
        }
    }

    /// Does a command that has to succeed.
    ///
    /// # Panics
    /// When it fails.
    #[track_caller]
    pub fn must(&self, command: &str, arguments: Value) -> Value {
        let shown = arguments.to_string();
        self.execute(command, arguments).unwrap_or_else(|error| panic!("{command} {shown}: {error:?}"))
    }

    /// Every event since the connection.
    #[must_use]
    pub fn events(&self) -> Vec<Event> {
        lock(&self.events.recorded).clone()
    }

    /// The last event with this name, if there was one.
    #[must_use]
    pub fn last(&self, name: &str) -> Option<Event> {
        lock(&self.events.recorded).iter().rev().find(|event| event.name == name).cloned()
    }

    /// Waits for an event with this name and returns the last one.
    ///
    /// # Panics
    /// When there is none within `limit`.
    #[track_caller]
    pub fn wait_event(&self, limit: Duration, name: &str) -> Event {
        wait::for_some(limit, format_args!("QEMU's event {name}"), || self.last(name))
    }

    /// Waits for the first event with this name that QEMU noted at `since` or later, and returns at once when it is there: for
    /// whoever acts on it, as a hook does.
    ///
    /// # Panics
    /// When there is none within `limit`.
    #[track_caller]
    pub fn wait_event_since(&self, limit: Duration, name: &str, since: BootTime) -> Event {
        self.wait_for(limit, name, |event| event.name == name && event.at >= since)
    }

    /// Waits in the same way until a migration that began at `since` or later has this status.
    ///
    /// # Panics
    /// When it has not within `limit`.
    #[track_caller]
    pub fn wait_status_since(&self, limit: Duration, status: &str, since: BootTime) -> Event {
        self.wait_for(limit, status, |event| {
            event.name == "MIGRATION" && event.data["status"] == status && event.at >= since
        })
    }

    #[track_caller]
    fn wait_for(&self, limit: Duration, what: &str, is_it: impl Fn(&Event) -> bool) -> Event {
        let limit = wait::patient(limit);
        let is_absent = |events: &mut Vec<Event>| !events.iter().any(&is_it);
        let waited = self.events.more.wait_timeout_while(lock(&self.events.recorded), limit, is_absent);
        let (events, _) = waited.unwrap_or_else(PoisonError::into_inner);
        let found = events.iter().find(|event| is_it(event)).cloned();
        found.unwrap_or_else(|| panic!("not within {limit:?}: QEMU's {what}, but {events:#?}"))
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Until QEMU goes: sorts what comes into answers and events.
fn read(reader: BufReader<UnixStream>, answers: &mpsc::Sender<Value>, events: &Events) {
    // What is noted is when it came, and emulated guests leave no processor free.
    let _prompt = Prompt::now();
    for line in reader.lines().map_while(Result::ok) {
        let Ok(message) = serde_json::from_str::<Value>(&line) else { continue };
        if let Some(event) = event(&message, Clocks::read()) {
            lock(&events.recorded).push(event);
            events.more.notify_all();
        } else if message.get("QMP").is_none() && answers.send(message).is_err() {
            return;
        }
    }
}

fn event(message: &Value, clocks: Clocks) -> Option<Event> {
    let name = message.get("event")?.as_str()?.to_owned();
    let time = &message["timestamp"];
    let seconds = Duration::from_secs(time["seconds"].as_u64()?);
    let wall = seconds + Duration::from_micros(time["microseconds"].as_u64()?);
    Some(Event { name, at: clocks.on_boot_clock(wall), data: message["data"].clone() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use cutover_daemon::clock;
    use std::time::UNIX_EPOCH;

    #[test]
    fn events_and_answers_are_told_apart_and_events_are_on_the_boot_clock() {
        let (now, wall) = (clock::now(), clock::wall().duration_since(UNIX_EPOCH).unwrap());
        let timestamp = json!({"seconds": wall.as_secs(), "microseconds": wall.subsec_micros()});
        let message = json!({"timestamp": timestamp, "event": "STOP"});
        let found = event(&message, Clocks::read()).unwrap();
        assert_eq!(found.name, "STOP");
        let apart = now.since(found.at).max(found.at.since(now));
        assert!(apart < Duration::from_millis(100), "{apart:?}");
        assert_eq!(event(&json!({"return": {}}), Clocks::read()), None);
    }
}
