//! A thousand datagrams a second from a host to a guest's echo port, and when they were answered.

use cutover_daemon::clock;
use cutover_engine::BootTime;
use cutover_tests::namespace::Namespace;
use cutover_tests::vm::ECHO_PORT;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

/// Between two datagrams.
const PERIOD: Duration = Duration::from_millis(1);
/// How long answers are waited for after the last datagram, and how fast a stop is noticed.
const PATIENCE: Duration = Duration::from_millis(50);

/// The stream, running.
pub(crate) struct Stream {
    shared: Arc<Shared>,
    threads: [JoinHandle<()>; 2],
}

#[derive(Default)]
struct Shared {
    stop: AtomicBool,
    sent: AtomicU64,
    answers: Mutex<Vec<BootTime>>,
}

/// What came of it.
pub(crate) struct Seen {
    /// Datagrams that were sent.
    pub(crate) sent: u64,
    /// Datagrams that came back.
    pub(crate) answered: usize,
    /// Longest time between two answers.
    pub(crate) longest_silence: Duration,
}

impl Stream {
    /// Begins to send.
    pub(crate) fn start(from: &Namespace, to: IpAddr) -> Self {
        let socket = from.run(|| UdpSocket::bind("0.0.0.0:0")).expect("a socket");
        socket.set_read_timeout(Some(PATIENCE)).expect("a socket");
        let to = SocketAddr::new(to, ECHO_PORT);
        let sending = socket.try_clone().expect("a descriptor");
        let shared = Arc::new(Shared::default());
        let (of_sender, of_receiver) = (Arc::clone(&shared), Arc::clone(&shared));
        let sender = thread::spawn(move || {
            let mut next = Instant::now();
            while !of_sender.stop.load(Ordering::Relaxed) {
                // Without a route a datagram is lost like any other.
                let _ = sending.send_to(b"tick", to);
                of_sender.sent.fetch_add(1, Ordering::Relaxed);
                next += PERIOD;
                thread::sleep(next.saturating_duration_since(Instant::now()));
            }
        });
        let receiver = thread::spawn(move || {
            let mut buffer = [0; 64];
            loop {
                match socket.recv(&mut buffer) {
                    Ok(_) => of_receiver.answers.lock().expect("nobody panics with it").push(clock::now()),
                    Err(_) if of_receiver.stop.load(Ordering::Relaxed) => return,
                    // A time-out.
                    Err(_) => {}
                }
            }
        });
        Self { shared, threads: [sender, receiver] }
    }

    /// How many answers there were until now.
    pub(crate) fn answered(&self) -> usize {
        self.shared.answers.lock().expect("nobody panics with it").len()
    }

    /// When the first answer after `moment` came.
    pub(crate) fn first_answer_after(&self, moment: BootTime) -> Option<BootTime> {
        self.shared.answers.lock().expect("nobody panics with it").iter().copied().find(|at| *at > moment)
    }

    /// Stops sending and says what came of it.
    pub(crate) fn stop(self) -> Seen {
        self.shared.stop.store(true, Ordering::Relaxed);
        for thread in self.threads {
            // A panic of the thread has been printed.
            let _ = thread.join();
        }
        let answers = self.shared.answers.lock().expect("nobody panics with it");
        let silences = answers.windows(2).map(|pair| pair[1].since(pair[0]));
        Seen {
            sent: self.shared.sent.load(Ordering::Relaxed),
            answered: answers.len(),
            longest_silence: silences.max().unwrap_or_default(),
        }
    }
}
