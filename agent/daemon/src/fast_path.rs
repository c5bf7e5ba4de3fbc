//! From an announcement in the ring buffer to its routes in the kernel, without asking anybody.
//!
//! Three threads of its own sleep on the ring buffer. While an endpoint waits for its virtual machine, the watch applier
//! leaves the elevated routes here, as finished netlink batches, under the generation of the watch. When a record of that
//! generation comes, one of the threads sends them, tells the route appliers what is written, and reports the fact with the
//! time of every step. It decides nothing: a record without a batch (an older generation) installs nothing, and what fails here is closed by
//! the route appliers as every other difference.
//!
//! KERNEL: a change of an IPv4 route waits for the lock of links (RTNL) while anybody anywhere holds it, for as long as half a second
//! (measured on 6.18: a namespace with 4,000 links that goes); one of an IPv6 route does not. So the routes of IPv6 go first, only one
//! thread at a time writes those of IPv4, and another one takes the next record. The source is told to forward
//! although they still wait.

mod landing;
mod sleep;
mod untold;
mod worker;

#[cfg(test)]
pub(crate) use worker::fuzz::record as fuzz_record;

use crate::batches::Batches;
use crate::netlink::socket::OpenError;
use crate::netlink::{ByFamily, Family, PreparedBatch, RouteChange, RouteSocket, route};
use crate::peers::Herald;
use crate::progress::Progress;
use aya::maps::{MapData, RingBuf};
use cutover_engine::wanted::WantedRoute;
use cutover_engine::{BootTime, Fact};
use landing::Landings;
use sleep::Sleep;
use std::collections::BTreeSet;
use std::convert::Infallible;
use std::fmt;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;
use tokio::sync::mpsc::UnboundedSender;
use tokio::sync::oneshot;
use tracing::warn;
use untold::Untold;
use worker::{Post, Worker};

/// How many threads there are: one with a real-time priority ([`crate::priority`]), the lead, and two ordinary ones in reserve. Each
/// announcement wakes the lead and one of the others, and the first one acts. The third one acts if the lead cannot run and the other one
/// waits for the kernel's lock.
pub const THREADS: usize = 3;

/// The handle by which the watch applier prepares and withdraws batches. Dropping it ends the threads.
#[derive(Debug)]
pub struct FastPath {
    shared: Arc<Shared>,
    /// The table of what is forwarded.
    forward_table: Option<u32>,
    threads: Vec<JoinHandle<()>>,
    /// Each says by going away that its thread has ended.
    alive: Option<[oneshot::Receiver<Infallible>; THREADS]>,
}

/// What the threads and the handle have in common.
#[derive(Debug)]
struct Shared {
    ring: Mutex<Ring>,
    /// By the generation of the watch.
    batches: Batches<u64, ByFamily<Arc<Prepared>>>,
    landings: Landings,
    untold: Untold,
    /// Held by the thread that polls the ring before it sleeps: one processor is enough.
    spinning: Mutex<()>,
    /// Where the lead sleeps.
    lead: Sleep,
    /// Where the others do.
    reserve: Sleep,
    stop: AtomicBool,
}

/// The ring buffer, of which the library shows nothing.
struct Ring(RingBuf<MapData>);

impl fmt::Debug for Ring {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Ring")
    }
}

/// What the fast path has written.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Written {
    /// Routes that the kernel has confirmed.
    pub routes: Arc<[WantedRoute]>,
    /// When it had done so.
    pub at: BootTime,
}

/// The routes of one family.
#[derive(Debug, Default)]
struct Prepared {
    batch: PreparedBatch,
    routes: Arc<[WantedRoute]>,
}

/// Who hears of what the threads do.
#[derive(Clone, Debug)]
pub struct Listeners {
    /// Hear of the routes of a family once all of them are installed, before `facts` hears of the announcement.
    pub written: ByFamily<UnboundedSender<Written>>,
    /// Hears of each announcement when its routes are written, or a millisecond later if they have to wait. Keeps nobody waiting.
    pub herald: Herald,
    /// Hears of each announcement when everything about it is done.
    pub facts: UnboundedSender<Fact>,
}

impl FastPath {
    /// A socket for each thread, in the network namespace of the calling one.
    ///
    /// # Errors
    /// When one cannot be made.
    pub fn open_sockets() -> Result<[RouteSocket; THREADS], OpenError> {
        Ok([RouteSocket::open()?, RouteSocket::open()?, RouteSocket::open()?])
    }

    /// Starts the threads. `spin` is how long one of them polls the ring before it sleeps, while anything is armed.
    ///
    /// # Errors
    /// No epoll instance, event descriptor or thread can be had.
    pub fn start(
        ring: RingBuf<MapData>,
        sockets: [RouteSocket; THREADS],
        spin: Duration,
        listeners: &Listeners,
        progress: &Progress,
    ) -> io::Result<Self> {
        // KERNEL: who began to wait for the ring last is woken first.
        let untold = Untold::new()?;
        let reserve = Sleep::on(&ring, &untold)?;
        let lead = Sleep::on(&ring, &untold)?;
        let ring = Ring(ring);
        let shared = Arc::new(Shared {
            ring: Mutex::new(ring),
            batches: Batches::default(),
            landings: Landings::default(),
            untold,
            spinning: Mutex::default(),
            lead,
            reserve,
            stop: AtomicBool::new(false),
        });
        let (lives, alive): (Vec<_>, Vec<_>) = sockets.iter().map(|_| oneshot::channel()).unzip();
        // Whatever fails here ends the threads that run by then.
        let mut started =
            Self { shared, forward_table: None, threads: Vec::new(), alive: alive.try_into().ok() };
        for (number, (socket, life)) in sockets.into_iter().zip(lives).enumerate() {
            let post = if number == 0 { Post::Lead } else { Post::Reserve };
            let mut worker = Worker::new(
                post,
                socket,
                spin,
                Arc::clone(&started.shared),
                listeners.clone(),
                progress.of_thread("the fast path"),
            );
            started.threads.push(std::thread::Builder::new().name("cutover-fast".into()).spawn(
                move || {
                    // Dropped when the thread ends, however it ends.
                    let _life: oneshot::Sender<Infallible> = life;
                    worker.run();
                },
            )?);
        }
        Ok(started)
    }

    /// Lets announcements end what is forwarded from this table.
    #[must_use]
    pub fn ending_forwards_in(mut self, table: u32) -> Self {
        self.forward_table = Some(table);
        self
    }

    /// Waits until a thread has ended. Only the first call waits for it; a later one waits forever.
    pub fn ended(&mut self) -> impl Future<Output = ()> + Send + use<> {
        let alive = self.alive.take();
        async move {
            match alive {
                Some([first, second, third]) => tokio::select! {
                    _ = first => {}
                    _ = second => {}
                    _ = third => {}
                },
                None => std::future::pending().await,
            }
        }
    }

    /// From now on a record of this generation installs these routes, and ends what is forwarded of what comes for their destinations
    /// if that is said.
    pub fn prepare(
        &self,
        generation: u64,
        routes: impl IntoIterator<Item = WantedRoute>,
        ends_forwarding: bool,
    ) {
        let routes: Vec<_> = routes.into_iter().collect();
        let table = self.forward_table.filter(|_| ends_forwarding);
        let prepared = ByFamily::each(|family: Family| Arc::new(Prepared::new(family, &routes, table)));
        self.shared.batches.prepare(&generation, prepared);
        self.shared.ring_bells();
    }

    /// From now on a record of another generation than these installs nothing, and IPv4 routes of others that wait to be
    /// written are not. What a thread is sending at this moment still goes out; the route appliers remove its routes if they are
    /// not wanted.
    pub fn keep_only(&self, generations: &BTreeSet<u64>) {
        self.shared.batches.keep_only(generations);
        self.shared.landings.keep_only(generations);
    }
}

impl Drop for FastPath {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Release);
        self.shared.ring_bells();
        for thread in self.threads.drain(..) {
            if thread.join().is_err() {
                warn!("a thread of the fast path had panicked");
            }
        }
    }
}

impl Prepared {
    fn new(family: Family, routes: &[WantedRoute], forward_table: Option<u32>) -> Self {
        let routes: Arc<[WantedRoute]> = routes.iter().copied().filter(|route| family.has(route)).collect();
        let changes: Vec<_> = routes.iter().copied().map(RouteChange::Add).collect();
        let batch = match forward_table {
            Some(table) => route::prepare_in_place_of(&changes, table),
            None => route::prepare(&changes),
        };
        Self { batch, routes }
    }
}

impl Shared {
    fn ring(&self) -> MutexGuard<'_, Ring> {
        // The daemon is about to end if a holder panicked.
        self.ring.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn ring_bells(&self) {
        for sleep in [&self.lead, &self.reserve] {
            sleep.ring_bell();
        }
    }
}
