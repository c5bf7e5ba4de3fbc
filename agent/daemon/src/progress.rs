//! Whether the parts of the daemon make progress.
//!
//! Owns since when each part has been busy without a pause. A part that waits for something to do is well, however long it waits. A part that
//! stays in a system call, or in a loop of its own, is stuck. Nothing is changed here: the heartbeat and `cutover status` ask.

use crate::clock;
use cutover_engine::BootTime;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

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
        let busy_since = Arc::new(BusySince(AtomicU64::new(WAITING)));
        self.parts().push(Part { name, busy_since: Arc::clone(&busy_since) });
        Looked { task: Box::pin(task), busy_since }
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

    fn parts(&self) -> MutexGuard<'_, Vec<Part>> {
        // The list is whole at every point where its holder could panic.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A task that is looked at.
#[derive(Debug)]
pub(crate) struct Looked<Task> {
    task: Pin<Box<Task>>,
    busy_since: Arc<BusySince>,
}

impl<Task: Future> Future for Looked<Task> {
    type Output = Task::Output;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Task::Output> {
        self.busy_since.0.store(clock::now().0.max(WAITING + 1), Ordering::Relaxed);
        let polled = self.task.as_mut().poll(context);
        self.busy_since.0.store(WAITING, Ordering::Relaxed);
        polled
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
            assert!(matches!(stuck[..], [Stuck { part: "the slow one", duration }] if duration >= LIMIT));
            assert_eq!(progress.stuck(now + LIMIT, Duration::ZERO), [], "nobody wants to know");
            release.send(()).unwrap();
            let _task = polled.join().unwrap();
            assert_eq!(progress.stuck(now + LIMIT, LIMIT), [], "it waits for something to do");
        });
    }
}
