//! Whether the parts of the daemon make progress.
//!
//! Owns since when each part has been busy without a pause. A part that waits for something to do is well, however long it waits. A part that
//! stays in a system call, or in a loop of its own, is stuck. Nothing is changed here: the heartbeat and `cutover status` ask.

use crate::clock;
use cutover_engine::BootTime;
use std::collections::BTreeMap;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;
use tracing::{error, info};

/// The parts that are looked at.
#[derive(Clone, Debug, Default)]
pub struct Progress(Arc<Mutex<Vec<Part>>>);

#[derive(Debug)]
struct Part {
    name: &'static str,
    busy_since: Arc<BusySince>,
}

/// A time on the boot clock, in nanoseconds, or this while the part waits.
#[derive(Debug)]
struct BusySince(AtomicU64);

const WAITING: u64 = 0;

/// A part that does not come back.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Stuck {
    /// Which one.
    pub part: &'static str,
    /// For how long.
    pub duration: Duration,
}

impl Progress {
    /// The same task, whose progress is seen from now on.
    pub(crate) fn of<Task: Future + Send>(&self, name: &'static str, task: Task) -> Looked<Task> {
        Looked { task: Box::pin(task), pulse: self.of_thread(name) }
    }

    /// A thread that says itself when it is busy.
    pub(crate) fn of_thread(&self, name: &'static str) -> Pulse {
        let busy_since = Arc::new(BusySince(AtomicU64::new(WAITING)));
        self.parts().push(Part { name, busy_since: Arc::clone(&busy_since) });
        Pulse(busy_since)
    }

    /// The parts that have been busy for at least `limit`; with zero nobody looks.
    #[must_use]
    pub fn stuck(&self, now: BootTime, limit: Duration) -> Vec<Stuck> {
        let duration = |part: &Part| {
            let since = part.busy_since.0.load(Ordering::Relaxed);
            (since != WAITING).then(|| now.since(BootTime(since)))
        };
        let stuck = |part: &Part| Some(Stuck { part: part.name, duration: duration(part)? });
        let parts = self.parts();
        parts.iter().filter_map(stuck).filter(|it| !limit.is_zero() && it.duration >= limit).collect()
    }

    /// Every part, each once, and for how long it has been busy; zero for one that waits.
    #[must_use]
    pub fn all(&self, now: BootTime) -> BTreeMap<&'static str, Duration> {
        let mut all = BTreeMap::new();
        for part in self.parts().iter() {
            let since = part.busy_since.0.load(Ordering::Relaxed);
            let busy_for = if since == WAITING { Duration::ZERO } else { now.since(BootTime(since)) };
            // Of several threads, the one that is worst off.
            let longest: &mut Duration = all.entry(part.name).or_default();
            *longest = busy_for.max(*longest);
        }
        all
    }

    fn parts(&self) -> MutexGuard<'_, Vec<Part>> {
        // The list is whole at every point where its holder could panic.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What a thread shows its progress with.
#[derive(Debug)]
pub(crate) struct Pulse(Arc<BusySince>);

impl Pulse {
    /// Something begins that ends when what is returned is dropped.
    pub(crate) fn begin(&self) -> Busy {
        self.0.0.store(clock::now().0.max(WAITING + 1), Ordering::Relaxed);
        Busy(Arc::clone(&self.0))
    }
}

/// Something is going on.
#[derive(Debug)]
pub(crate) struct Busy(Arc<BusySince>);

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.0.store(WAITING, Ordering::Relaxed);
    }
}

/// LIMIT: how late it is told at most that something is stuck.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Says in the log which parts are stuck, whenever others are than before. Where the loop is stuck, nobody else can.
pub(crate) async fn watch(progress: Progress, limit: tokio::sync::watch::Receiver<Duration>) {
    let mut before = Vec::new();
    loop {
        tokio::time::sleep(LOOK_EVERY).await;
        let limit = *limit.borrow();
        let stuck = progress.stuck(clock::now(), limit);
        let parts: Vec<&str> = stuck.iter().map(|it| it.part).collect();
        for it in stuck.iter().filter(|it| !before.contains(&it.part)) {
            error!(part = it.part, busy_for = ?it.duration, "A part of the agent makes no progress");
        }
        for part in before.iter().filter(|part| !parts.contains(part)) {
            info!(part, "A part of the agent is not stuck any more");
        }
        before = parts;
    }
}

/// A task that is looked at.
#[derive(Debug)]
pub(crate) struct Looked<Task> {
    task: Pin<Box<Task>>,
    pulse: Pulse,
}

impl<Task: Future> Future for Looked<Task> {
    type Output = Task::Output;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Task::Output> {
        let _busy = self.pulse.begin();
        self.task.as_mut().poll(context)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc;
    use std::task::Waker;

    const LIMIT: Duration = Duration::from_secs(60);

    #[test]
    fn whoever_waits_is_well_and_whoever_does_not_come_back_is_not() {
        let progress = Progress::default();
        let (arrive, arrived) = mpsc::channel::<()>();
        let (release, released) = mpsc::channel::<()>();
        let task = progress.of("the slow one", async move {
            arrive.send(()).unwrap();
            // As a system call does.
            released.recv().unwrap();
            std::future::pending::<()>().await;
        });
        assert_eq!(progress.stuck(clock::now() + LIMIT, LIMIT), [], "it has not begun");
        std::thread::scope(|scope| {
            let polled = scope.spawn(move || {
                let mut task = task;
                let _pending = Pin::new(&mut task).poll(&mut Context::from_waker(Waker::noop()));
                task
            });
            arrived.recv().unwrap();
            let now = clock::now();
            assert_eq!(progress.stuck(now, LIMIT), []);
            let stuck = progress.stuck(now + LIMIT, LIMIT);
            assert!(progress.all(now + LIMIT)["the slow one"] >= LIMIT);
            assert!(matches!(stuck[..], [Stuck { part: "the slow one", duration }] if duration >= LIMIT));
            assert_eq!(progress.stuck(now + LIMIT, Duration::ZERO), [], "nobody wants to know");
            release.send(()).unwrap();
            let _task = polled.join().unwrap();
            assert_eq!(progress.stuck(now + LIMIT, LIMIT), [], "it waits for something to do");
            assert_eq!(progress.all(now + LIMIT), [("the slow one", Duration::ZERO)].into());
        });
    }
}
