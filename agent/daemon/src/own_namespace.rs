//! For unit tests that need sockets of the kernel: a network namespace in which nobody else has any.

use nix::sched::{CloneFlags, unshare};

/// Does `work` there. Only root can have one, and only root runs agents: for others it does nothing.
pub(crate) fn in_a_namespace_of_its_own(work: impl FnOnce() + Send) {
    if !nix::unistd::geteuid().is_root() {
        return;
    }
    // The namespace is the thread's, and goes with it.
    std::thread::scope(|scope| {
        scope.spawn(|| {
            unshare(CloneFlags::CLONE_NEWNET).unwrap();
            work();
        });
    });
}
