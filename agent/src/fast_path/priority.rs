//! The priority of the fast path's threads. It sets that of the calling thread and of nothing else.

use std::io;
use std::time::Duration;
use tracing::debug;

/// The thread's real-time priority: above every ordinary program, below every real-time one that chose its own.
const REAL_TIME_PRIORITY: libc::c_int = 1;
/// The thread's niceness where it has no real-time priority: the highest that an ordinary thread can have.
const NICENESS: libc::c_int = -20;

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
