//! The priority of threads that have to act at once: those of the fast path, and those by which a source hears of an announcement and
//! forwards. It sets that of the calling thread and of nothing else.
//!
//! KERNEL (measured on 6.18 under load): an ordinary thread that is woken waits for the one that runs to use up its slice, milliseconds even
//! at niceness -20; one of SCHED_FIFO takes the processor at once. But two things can keep one of SCHED_FIFO for as long as somebody has the
//! lock of links (RTNL), a large part of a second (measured on 6.18 with two processors). On a kernel without preemption it is woken on the
//! processor where it ran last, although that one is in the middle of a long system call and another one is idle; an ordinary thread is
//! woken on the idle one. And where it waits for the lock itself, it does not sleep as long as the owner of the lock runs: it keeps its
//! processor from everybody else; an ordinary thread gives way to others after a few milliseconds, and then sleeps.
//!
//! So one thread of the fast path is of SCHED_FIFO and the others are ordinary, whoever is first acts, and nobody waits for the lock with
//! SCHED_FIFO. (Two of SCHED_FIFO, each with half of the processors, were measured as well, and were no faster.) What takes long, and
//! what a peer can make somebody do as often as it likes, is done with an ordinary priority everywhere.

#![expect(unsafe_code, reason = "setpriority(2) and sched_setscheduler(2)")]

use std::io;
use std::pin::pin;
use std::time::Duration;
use tracing::debug;

/// The thread's real-time priority: above every ordinary program, below every real-time one that chose its own.
const REAL_TIME_PRIORITY: libc::c_int = 1;
/// The thread's niceness where it has no real-time priority: the highest that an ordinary thread can have.
const NICENESS: libc::c_int = -20;

/// The priority of the calling thread.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Priority {
    is_real_time: bool,
}

impl Priority {
    /// Gives the calling thread the highest one that an ordinary thread can have.
    pub(crate) fn ordinary() -> Self {
        // SAFETY: no pointers; `PRIO_PROCESS` with 0 means the calling thread on Linux.
        if unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, NICENESS) } != 0 {
            debug!(error = %io::Error::last_os_error(), "a thread keeps its ordinary priority");
        }
        Self { is_real_time: false }
    }

    /// Gives the calling thread one above every ordinary thread.
    pub(crate) fn real_time() -> Self {
        // For as long as it is ordinary.
        let _niceness = Self::ordinary();
        let set = schedule(libc::SCHED_FIFO, REAL_TIME_PRIORITY);
        if let Err(error) = &set {
            debug!(%error, "a thread gets no real-time priority");
        }
        Self { is_real_time: set.is_ok() }
    }

    /// That of the calling thread as it is.
    pub(crate) fn current() -> Self {
        // SAFETY: no pointers; 0 means the calling thread.
        let policy = unsafe { libc::sched_getscheduler(0) };
        Self { is_real_time: policy & !libc::SCHED_RESET_ON_FORK == libc::SCHED_FIFO }
    }

    /// Does something that may wait for a lock of the kernel's, or takes long.
    pub(crate) fn while_ordinary<T>(&self, work: impl FnOnce() -> T) -> T {
        if !self.is_real_time {
            return work();
        }
        let lowered = schedule(libc::SCHED_OTHER, 0);
        let result = work();
        if lowered.is_ok()
            && let Err(error) = schedule(libc::SCHED_FIFO, REAL_TIME_PRIORITY)
        {
            debug!(%error, "a thread does not get its real-time priority back");
        }
        result
    }
}

/// Gives the calling thread the priority that a thread of the fast path has while it waits for announcements.
///
/// LIMIT: what the thread does is bounded by the watches that are armed. A spinning one is not bounded by
/// anything and would starve its processor, so it stays ordinary.
pub fn raise_priority(spin: Duration) {
    if spin.is_zero() {
        Priority::real_time()
    } else {
        Priority::ordinary()
    };
}

/// Does each step of something with an ordinary priority, whatever its thread has while it waits.
pub(crate) async fn ordinary<T>(work: impl Future<Output = T>) -> T {
    let mut work = pin!(work);
    std::future::poll_fn(|context| Priority::current().while_ordinary(|| work.as_mut().poll(context))).await
}

fn schedule(policy: libc::c_int, priority: libc::c_int) -> io::Result<()> {
    let parameters = libc::sched_param { sched_priority: priority };
    // SAFETY: 0 means the calling thread, and `parameters` lives until the call returns.
    let result =
        unsafe { libc::sched_setscheduler(0, policy | libc::SCHED_RESET_ON_FORK, &raw const parameters) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_takes_long_is_done_with_an_ordinary_priority() {
        let before = Priority::real_time().is_real_time;
        let (during, again) = ordinary(async {
            let during = Priority::current().is_real_time;
            tokio::task::yield_now().await;
            (during, Priority::current().is_real_time)
        })
        .await;
        assert_eq!((during, again), (false, false));
        assert_eq!(Priority::current().is_real_time, before, "unless nobody may have one");
    }
}
