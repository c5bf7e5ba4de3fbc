//! Files that are locked by one process at a time.

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use std::fs::File;
use std::thread::sleep;
use std::time::{Duration, Instant};

/// How long an agent that starts waits for one that was killed to let go.
///
/// LIMIT: some milliseconds, and more on a busy machine. Beside a real holder it is refused that much later.
pub(crate) const PATIENCE: Duration = Duration::from_secs(2);
const PAUSE: Duration = Duration::from_millis(20);

/// Locks a file for this process alone, within this time. The calling thread sleeps meanwhile.
///
/// KERNEL: a lock goes when the last descriptor of the opened file does, and a child has all of its parent's until it runs its own
/// program, whatever their flags. An agent that is killed while it starts a program leaves its locks to that one, so whoever
/// holds a lock may be about to let go of it.
///
/// # Errors
/// EWOULDBLOCK: somebody else has it, and keeps it.
pub(crate) fn exclusively(mut file: File, patience: Duration) -> Result<Flock<File>, Errno> {
    let deadline = Instant::now() + patience;
    loop {
        match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(lock) => return Ok(lock),
            Err((same, Errno::EWOULDBLOCK)) if Instant::now() < deadline => {
                file = same;
                sleep(PAUSE);
            }
            Err((_, error)) => return Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn somebody_who_lets_go_is_waited_for() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let opened = || File::open(file.path()).unwrap();
        let held = exclusively(opened(), PATIENCE).unwrap();
        for patience in [Duration::ZERO, PATIENCE] {
            assert_eq!(exclusively(opened(), patience).unwrap_err(), Errno::EWOULDBLOCK);
        }
        let lets_go = std::thread::spawn(move || {
            sleep(PATIENCE / 10);
            drop(held);
        });
        assert!(exclusively(opened(), PATIENCE).is_ok());
        lets_go.join().unwrap();
    }
}
