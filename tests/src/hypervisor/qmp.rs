//! QEMU's monitor: commands and their answers, and the events that come in between (QEMU's docs/interop/qmp-spec).

use crate::wait;
use serde_json::{Value, json};
use std::io::{self, BufRead as _, BufReader, Write as _};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc};
use std::thread;
use std::time::Duration;

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
    /// Time since the epoch by CLOCK_REALTIME when QEMU noted it.
    pub at: Duration,
    /// What else it says.
    pub data: Value,
}

/// A connection. Events are recorded from its beginning.
#[derive(Debug)]
pub struct Qmp {
    commands: Mutex<Commands>,
    events: Arc<Mutex<Vec<Event>>>,
}

#[derive(Debug)]
struct Commands {
    stream: UnixStream,
    answers: mpsc::Receiver<Value>,
}

impl Qmp {
    /// Connects and negotiates.
    ///
    /// # Panics
    /// When nobody answers on the socket.
    #[must_use]
    pub fn connect(socket: &Path) -> Self {
        let stream = wait::for_some(wait::SOON, "QEMU's monitor", || UnixStream::connect(socket).ok());
        let reader = BufReader::new(stream.try_clone().expect("a descriptor"));
        let (sender, answers) = mpsc::channel();
        let events = Arc::default();
        let recorded = Arc::clone(&events);
        thread::spawn(move || read(reader, &sender, &recorded));
        let qmp = Self { commands: Mutex::new(Commands { stream, answers }), events };
        qmp.must("qmp_capabilities", json!({}));
        qmp
    }

    /// Does a command.
    ///
    /// # Errors
    /// QEMU refused it or has gone.
    pub fn execute(&self, command: &str, arguments: Value) -> Result<Value, QmpError> {
        let mut commands = lock(&self.commands);
        let mut line = json!({"execute": command, "arguments": arguments}).to_string();
        line.push('\n');
        let sent: io::Result<()> = commands.stream.write_all(line.as_bytes());
        sent.map_err(|_| QmpError::Silent)?;
        let answer = commands.answers.recv_timeout(ANSWER).map_err(|_| QmpError::Silent)?;
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
        lock(&self.events).clone()
    }

    /// Waits for an event with this name and returns the last one.
    ///
    /// # Panics
    /// When there is none within `limit`.
    #[track_caller]
    pub fn wait_event(&self, limit: Duration, name: &str) -> Event {
        wait::for_some(limit, format_args!("QEMU's event {name}"), || {
            lock(&self.events).iter().rev().find(|event| event.name == name).cloned()
        })
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Until QEMU goes: sorts what comes into answers and events.
fn read(reader: BufReader<UnixStream>, answers: &mpsc::Sender<Value>, events: &Mutex<Vec<Event>>) {
    for line in reader.lines().map_while(Result::ok) {
        let Ok(message) = serde_json::from_str::<Value>(&line) else { continue };
        if let Some(event) = event(&message) {
            lock(events).push(event);
        } else if message.get("QMP").is_none() && answers.send(message).is_err() {
            return;
        }
    }
}

fn event(message: &Value) -> Option<Event> {
    let name = message.get("event")?.as_str()?.to_owned();
    let time = &message["timestamp"];
    let seconds = Duration::from_secs(time["seconds"].as_u64()?);
    let at = seconds + Duration::from_micros(time["microseconds"].as_u64()?);
    Some(Event { name, at, data: message["data"].clone() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_and_answers_are_told_apart() {
        let message = json!({"timestamp": {"seconds": 1, "microseconds": 500_000}, "event": "STOP"});
        let found = event(&message).unwrap();
        assert_eq!((found.name.as_str(), found.at), ("STOP", Duration::from_millis(1500)));
        assert_eq!(event(&json!({"return": {}})), None);
    }
}
