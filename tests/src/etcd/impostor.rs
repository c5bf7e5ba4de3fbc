//! Something that is not etcd and hangs up on everybody, for as long as it lives. Keeps account of who came.

use crate::host::Host;
use cutover_daemon::clock;
use cutover_engine::BootTime;
use std::io::ErrorKind;
use std::net::{IpAddr, TcpListener};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::Duration;

/// How often somebody is looked for.
const PERIOD: Duration = Duration::from_millis(5);

/// A listener in the place of a member.
#[derive(Debug)]
pub struct Impostor {
    calls: Arc<Mutex<Vec<(BootTime, IpAddr)>>>,
    is_over: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Impostor {
    pub(super) fn start(host: &Host) -> Self {
        let address = (host.ipv4(), 2379);
        let listener =
            host.namespace().run(move || TcpListener::bind(address)).expect("the member is not running");
        listener.set_nonblocking(true).expect("a socket of ours");
        let (calls, is_over) = (Arc::new(Mutex::new(Vec::new())), Arc::new(AtomicBool::new(false)));
        let (noted, until) = (Arc::clone(&calls), Arc::clone(&is_over));
        let thread = thread::spawn(move || {
            while !until.load(Ordering::Relaxed) {
                match listener.accept() {
                    Ok((_, from)) => {
                        noted.lock().expect("nobody panics with the lock").push((clock::now(), from.ip()));
                    }
                    Err(error) if error.kind() == ErrorKind::WouldBlock => thread::sleep(PERIOD),
                    // Whoever called has hung up first.
                    Err(_) => {}
                }
            }
        });
        Self { calls, is_over, thread: Some(thread) }
    }

    /// When a host has called.
    ///
    /// # Panics
    /// Never.
    #[must_use]
    pub fn calls_of(&self, host: &Host) -> Vec<BootTime> {
        let calls = self.calls.lock().expect("nobody panics with the lock");
        calls.iter().filter(|(_, from)| *from == IpAddr::from(host.ipv4())).map(|(at, _)| *at).collect()
    }
}

impl Drop for Impostor {
    fn drop(&mut self) {
        self.is_over.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // It does not panic, and if it did, the test has noticed.
            let _ = thread.join();
        }
    }
}
