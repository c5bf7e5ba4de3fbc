//! Appliers: each takes the newest wanted sets and closes the difference to what really is.
//!
//! They share three rules. The newest wanted set replaces older ones, so a slow write neither blocks nor queues.
//! What failed stays dirty and is tried again. Nothing is done before the engine has published its first sets.

pub mod interfaces;
pub(crate) mod pace;
pub mod ready;
mod recount;
pub mod retry;
pub mod routes;
pub mod statuses;
pub mod watches;

pub(crate) use routes::sleep_until;

use crate::netlink::link_exists;
use cutover_engine::Wanted;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;

/// How the newest wanted sets arrive; `None` until the datastore is in sync, or, for whoever only adds by then, until the memory of the
/// last life has been looked at ([`Wanted::is_recalled`]).
pub type WantedReceiver = watch::Receiver<Option<Arc<Wanted>>>;

/// Whether an interface is gone. A tap goes with its virtual machine, between any two instructions of ours, and then whatever
/// was being done to it fails in one way or another. Nobody waits for that any more, so it is no warning.
pub(crate) fn is_gone(ifindex: u32) -> bool {
    // What cannot be asked about is not gone.
    link_exists(ifindex).is_ok_and(|exists| !exists)
}

/// The one policy for trying again: double the pause from the first to the last.
#[derive(Debug)]
pub struct BackOff {
    pause: Duration,
    longest: Duration,
}

impl BackOff {
    /// LIMIT: quick enough for a tap that is just coming up.
    const FIRST: Duration = Duration::from_millis(100);
    /// LIMIT: slow enough not to fill the log, quick enough for an operator who has just mended something.
    const LAST: Duration = Duration::from_secs(10);

    /// Starts with the shortest pause.
    #[must_use]
    pub const fn new() -> Self {
        Self::up_to(Self::LAST)
    }

    /// The same, but no pause is longer than `longest`.
    #[must_use]
    pub const fn up_to(longest: Duration) -> Self {
        Self { pause: Self::FIRST, longest }
    }

    /// The pause before the next attempt; each is twice the one before.
    pub fn next_pause(&mut self) -> Duration {
        let pause = self.pause;
        self.pause = (pause * 2).min(self.longest);
        pause
    }

    /// It worked: the next failure starts with the shortest pause again.
    pub const fn reset(&mut self) {
        self.pause = Self::FIRST;
    }
}

impl Default for BackOff {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_number_without_an_interface_is_gone() {
        // KERNEL: a namespace's first interface is its loopback.
        assert!(!is_gone(1));
        assert!(is_gone(i32::MAX.cast_unsigned()));
    }
}
