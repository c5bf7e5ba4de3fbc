//! Files that are locked by one process at a time.

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use std::fs::File;
use std::thread::sleep;
use std::time::{Duration, Instant};

/// LIMIT: some milliseconds, and more on a busy machine. A real holder is refused that much later.
const PATIENCE: Duration = Duration::from_secs(2);
const PAUSE: Duration = Duration::from_millis(20);

/// Locks a file for this process alone.
///
/// KERNEL: a lock goes when the last descriptor of the opened file does, and a child has all of its parent's until it runs its own
/// program, whatever their flags. An agent that is killed while it starts a program leaves its locks to that one, so whoever
/// holds a lock may be about to let go of it.
///
/// # Errors
/// EWOULDBLOCK: somebody else has it, and keeps it.
pub(crate) fn exclusively(mut file: File) -> Result<Flock<File>, Errno> {
    let deadline = Instant::now() + PATIENCE;
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
        let held = exclusively(opened()).unwrap();
        assert_eq!(exclusively(opened()).unwrap_err(), Errno::EWOULDBLOCK);
        let lets_go = std::thread::spawn(move || {
            sleep(PATIENCE / 10);
            drop(held);
        });
        assert!(exclusively(opened()).is_ok());
        lets_go.join().unwrap();
    }
}
