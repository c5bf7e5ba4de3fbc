//! From an announcement in the ring buffer to its routes in the kernel, without asking anybody.
//!
//! One thread of its own sleeps on the ring buffer. While an endpoint waits for its virtual machine, the watch applier
//! leaves the elevated routes here, as a finished netlink batch, under the generation of the watch. When a record of that
//! generation comes, the thread sends the batch, tells the route applier what is written, and reports the fact with the
//! time of every step. It decides nothing: a record without a batch (an older generation) installs nothing, and what fails here is closed by
//! the route applier as every other difference.

use crate::applier::is_gone;
use crate::clock;
use crate::netlink::socket::Outcome;
use crate::netlink::{PreparedBatch, RouteChange, RouteSocket, route};
use aya::maps::{MapData, RingBuf};
use cutover_common::AnnouncementKind;
use cutover_common::abi::Announcement;
use cutover_engine::fact::AnnouncementSeen;
use cutover_engine::wanted::WantedRoute;
use cutover_engine::{BootTime, Fact};
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::sys::eventfd::{EfdFlags, EventFd};
use std::collections::{BTreeSet, HashMap};
use std::convert::Infallible;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;
use tokio::sync::mpsc::UnboundedSender;
use tokio::sync::oneshot;
use tracing::{debug, warn};

/// The thread's real-time priority: above every ordinary program, below every real-time one that chose its own.
const REAL_TIME_PRIORITY: libc::c_int = 1;
/// The thread's niceness where it has no real-time priority: the highest that an ordinary thread can have.
const NICENESS: libc::c_int = -20;

/// The handle by which the watch applier prepares and withdraws batches. Dropping it ends the thread.
#[derive(Debug)]
pub struct FastPath {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
    /// Says by going away that the thread has ended.
    alive: Option<oneshot::Receiver<Infallible>>,
}

#[derive(Debug)]
struct Shared {
    prepared: Mutex<HashMap<u64, Prepared>>,
    /// Wakes the thread for a new spin or for its end.
    bell: EventFd,
    stop: AtomicBool,
}

/// What the fast path has written.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Written {
    /// Routes that the kernel has confirmed.
    pub routes: Vec<WantedRoute>,
    /// When it had done so.
    pub at: BootTime,
}

#[derive(Debug)]
struct Prepared {
    batch: PreparedBatch,
    routes: Vec<WantedRoute>,
}

impl FastPath {
    /// Starts the thread. `written` hears of the routes of a batch once all of them are installed, before `facts` hears of the
    /// announcement. `spin` is how long it polls the ring before it sleeps, while anything is armed.
    ///
    /// # Errors
    /// No epoll instance, event descriptor or thread can be had.
    pub fn start(
        ring: RingBuf<MapData>,
        socket: RouteSocket,
        spin: Duration,
        written: UnboundedSender<Written>,
        facts: UnboundedSender<Fact>,
    ) -> io::Result<Self> {
        let bell = EventFd::from_flags(EfdFlags::EFD_NONBLOCK | EfdFlags::EFD_CLOEXEC)?;
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
        epoll.add(&ring, EpollEvent::new(EpollFlags::EPOLLIN, 0))?;
        epoll.add(&bell, EpollEvent::new(EpollFlags::EPOLLIN, 1))?;
        let shared = Arc::new(Shared { prepared: Mutex::default(), bell, stop: AtomicBool::new(false) });
        let mut worker = Worker { ring, socket, epoll, spin, written, facts, shared: Arc::clone(&shared) };
        let (life, alive) = oneshot::channel();
        let thread = std::thread::Builder::new().name("cutover-fast".into()).spawn(move || {
            // Dropped when the thread ends, however it ends.
            let _life: oneshot::Sender<Infallible> = life;
            worker.run();
        })?;
        Ok(Self { shared, thread: Some(thread), alive: Some(alive) })
    }

    /// Waits until the thread has ended. Only the first call waits for it; a later one waits forever.
    pub fn ended(&mut self) -> impl Future<Output = ()> + Send + use<> {
        let alive = self.alive.take();
        async move {
            match alive {
                Some(alive) => drop(alive.await),
                None => std::future::pending().await,
            }
        }
    }

    /// From now on a record of this generation installs these routes.
    pub fn prepare(&self, generation: u64, routes: impl IntoIterator<Item = WantedRoute>) {
        let routes: Vec<_> = routes.into_iter().collect();
        let changes: Vec<_> = routes.iter().copied().map(RouteChange::Add).collect();
        let prepared = Prepared { batch: route::prepare(&changes), routes };
        self.shared.lock().insert(generation, prepared);
        self.shared.ring_bell();
    }

    /// From now on a record of another generation than these installs nothing. A batch that is being sent at
    /// this moment still goes out; the route applier removes its routes if they are not wanted.
    pub fn keep_only(&self, generations: &BTreeSet<u64>) {
        self.shared.lock().retain(|generation, _| generations.contains(generation));
    }
}

impl Drop for FastPath {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Release);
        self.shared.ring_bell();
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            warn!("the fast path thread had panicked");
        }
    }
}

impl Shared {
    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<u64, Prepared>> {
        // The map is whole at every point where its holder could panic.
        self.prepared.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn ring_bell(&self) {
        if let Err(error) = self.bell.write(1) {
            debug!(%error, "the fast path's bell is already ringing");
        }
    }
}

struct Worker {
    ring: RingBuf<MapData>,
    socket: RouteSocket,
    epoll: Epoll,
    spin: Duration,
    written: UnboundedSender<Written>,
    facts: UnboundedSender<Fact>,
    shared: Arc<Shared>,
}

impl Worker {
    fn run(&mut self) {
        raise_priority(self.spin);
        while !self.shared.stop.load(Ordering::Acquire) {
            self.drain();
            self.spin();
            let mut events = [EpollEvent::empty(); 2];
            match self.epoll.wait(&mut events, EpollTimeout::NONE) {
                Ok(count) => {
                    if events[..count].iter().any(|event| event.data() == 1)
                        && let Err(error) = self.shared.bell.read()
                    {
                        debug!(%error, "the fast path's bell was silent");
                    }
                }
                Err(nix::errno::Errno::EINTR) => {}
                Err(error) => {
                    warn!(%error, "the fast path cannot wait for announcements; the route applier goes on alone");
                    return;
                }
            }
        }
    }

    /// Polls the ring for the configured time, as long as something is armed.
    fn spin(&mut self) {
        if self.spin.is_zero() || self.shared.lock().is_empty() {
            return;
        }
        let mut until = clock::now() + self.spin;
        while clock::now() < until && !self.shared.stop.load(Ordering::Relaxed) {
            if self.drain() {
                until = clock::now() + self.spin;
            }
            std::hint::spin_loop();
        }
    }

    /// Acts on every record in the ring. Returns whether there was one.
    fn drain(&mut self) -> bool {
        let mut any = false;
        while let Some(record) = self.ring.next().map(|item| read_record(&item)) {
            let taken_at = clock::now();
            any = true;
            match record {
                Some(record) => self.act(record, taken_at),
                None => warn!("a record of the ring buffer has an unknown layout; ignored"),
            }
        }
        any
    }

    fn act(&mut self, record: Announcement, taken_at: BootTime) {
        // ORDER: before anything is installed that nobody would hear of.
        let Some(kind) = kind_of(record.kind) else {
            warn!(kind = record.kind, "a record of the ring buffer has an unknown kind; ignored");
            return;
        };
        let prepared = self.shared.lock().remove(&record.generation);
        let routed_at = prepared.and_then(|prepared| match self.socket.send(&prepared.batch) {
            Ok(outcome) if outcome.is_success() => {
                let now = clock::now();
                // ORDER: before the fact, which makes the routes wanted. The receiver is gone only while the agent stops.
                let _: Result<(), _> = self.written.send(Written { routes: prepared.routes, at: now });
                Some(now)
            }
            Ok(outcome) => {
                log_refusal(record.ifindex, &outcome);
                None
            }
            Err(error) => {
                warn!(%error, ifindex = record.ifindex, "elevated routes could not be sent");
                None
            }
        });
        let fact = Fact::AnnouncementSeen(AnnouncementSeen {
            generation: record.generation,
            kind,
            seen_at: BootTime(record.seen_at_ns),
            taken_at: Some(taken_at),
            routed_at,
        });
        // The receiver is gone only while the agent stops.
        let _: Result<(), _> = self.facts.send(fact);
    }
}

/// The tap may have gone since it was announced on.
fn log_refusal(ifindex: u32, outcome: &Outcome) {
    if is_gone(ifindex) {
        debug!(ifindex, failed = ?outcome.failed, "no elevated routes, the interface is gone");
    } else {
        warn!(
            ifindex, failed = ?outcome.failed,
            "some elevated routes were refused; the route applier tries again"
        );
    }
}

/// The record in `bytes`, if it has the layout that this agent was built with.
fn read_record(bytes: &[u8]) -> Option<Announcement> {
    if bytes.len() != size_of::<Announcement>() {
        return None;
    }
    // SAFETY: the length was checked, `Announcement` is made of integers only, and the read is unaligned.
    Some(unsafe { bytes.as_ptr().cast::<Announcement>().read_unaligned() })
}

/// The kind with this number, if there is one.
#[must_use]
pub fn kind_of(number: u32) -> Option<AnnouncementKind> {
    use AnnouncementKind::{FirstFrame, GarpReply, GarpRequest, NeighbourAdvertisement, Rarp};
    [Rarp, GarpRequest, GarpReply, NeighbourAdvertisement, FirstFrame]
        .into_iter()
        .find(|kind| *kind as u32 == number)
}

/// Gives the calling thread the priority that its work is worth.
///
/// KERNEL (measured on 6.18 under load): an ordinary thread that is woken waits for the one that runs to use up its
/// slice, milliseconds even at niceness -20; one of SCHED_FIFO takes the processor at once.
///
/// LIMIT: what the thread does is bounded by the watches that are armed. A spinning one is not bounded by
/// anything and would starve its processor, so it stays ordinary.
pub fn raise_priority(spin: Duration) {
    if spin.is_zero() {
        let parameters = libc::sched_param { sched_priority: REAL_TIME_PRIORITY };
        let policy = libc::SCHED_FIFO | libc::SCHED_RESET_ON_FORK;
        // SAFETY: 0 means the calling thread, and `parameters` lives until the call returns.
        if unsafe { libc::sched_setscheduler(0, policy, &raw const parameters) } == 0 {
            return;
        }
        debug!(error = %io::Error::last_os_error(), "the fast path gets no real-time priority");
    }
    // SAFETY: no pointers; `PRIO_PROCESS` with 0 means the calling thread on Linux.
    if unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, NICENESS) } != 0 {
        debug!(error = %io::Error::last_os_error(), "the fast path keeps its ordinary priority");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_of_another_size_is_refused() {
        let record = Announcement { generation: 7, seen_at_ns: 8, ifindex: 9, kind: 1 };
        let mut bytes = Vec::new();
        bytes.extend_from_slice(&record.generation.to_ne_bytes());
        bytes.extend_from_slice(&record.seen_at_ns.to_ne_bytes());
        bytes.extend_from_slice(&record.ifindex.to_ne_bytes());
        bytes.extend_from_slice(&record.kind.to_ne_bytes());
        assert_eq!(read_record(&bytes), Some(record));
        assert_eq!(read_record(&bytes[1..]), None);
        bytes.push(0);
        assert_eq!(read_record(&bytes), None);
    }

    #[test]
    fn kinds_have_the_numbers_of_the_map() {
        for kind in [AnnouncementKind::Rarp, AnnouncementKind::FirstFrame] {
            assert_eq!(kind_of(kind as u32), Some(kind));
        }
        assert_eq!(kind_of(0), None);
        assert_eq!(kind_of(6), None);
    }
}
