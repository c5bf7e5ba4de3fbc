//! The directory datastore: resource files, watched.
//!
//! Owns one thread that waits for file notifications, keeps the last good version of every file and sends what changed. It
//! never writes. The agent starts it and takes its events; dropping it ends the thread.

mod notify;
#[cfg(test)]
mod tests;
mod watcher;

use super::{EVENTS_MAX, Event, Quarantine};
use nix::sys::eventfd::{EfdFlags, EventFd};
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::thread::JoinHandle;
use thiserror::Error;
use tokio::sync::mpsc;
use watcher::Watcher;

/// The datastore could not be started.
#[derive(Debug, Error)]
#[error("{root}: cannot watch the resource directory: {error}", root = root.display())]
pub struct StartError {
    /// The directory.
    pub root: PathBuf,
    /// Why.
    pub error: io::Error,
}

/// A running directory datastore.
#[derive(Debug)]
pub struct Directory {
    events: mpsc::Receiver<Event>,
    quarantine: Quarantine,
    stop: Arc<EventFd>,
    thread: Option<JoinHandle<()>>,
}

impl Directory {
    /// Begins to read and watch everything below `root`. If it does not exist yet it is waited for.
    ///
    /// # Errors
    /// When the system gives no more file descriptors, watches or threads.
    pub fn start(root: PathBuf) -> Result<Self, StartError> {
        let refuse = |error: io::Error| StartError { root: root.clone(), error };
        let stop = EventFd::from_value_and_flags(0, EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK);
        let stop = Arc::new(stop.map_err(|error| refuse(error.into()))?);
        let (sender, events) = mpsc::channel(EVENTS_MAX);
        let watcher = Watcher::new(root.clone(), sender, Arc::clone(&stop)).map_err(refuse)?;
        let quarantine = watcher.quarantine();
        let thread = std::thread::Builder::new().name("cutover-dir".into()).spawn(move || watcher.run());
        Ok(Self { events, quarantine, stop, thread: Some(thread.map_err(refuse)?) })
    }

    /// What cannot be read.
    #[must_use]
    pub fn quarantine(&self) -> Quarantine {
        self.quarantine.clone()
    }

    /// The next event; nothing if the thread has ended, which it only does when the kernel takes its watches away.
    pub async fn next(&mut self) -> Option<Event> {
        self.events.recv().await
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        // A thread that waits for room in the channel is released by this, one that waits for files by the other.
        self.events.close();
        let _ = self.stop.write(1);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
