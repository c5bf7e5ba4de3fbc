//! Appliers: each takes the newest wanted sets and closes the difference to what really is.
//!
//! They share three rules. The newest wanted set replaces older ones, so a slow write neither blocks nor queues.
//! What failed stays dirty and is tried again. Nothing is done before the engine has published its first sets.

pub mod interfaces;
pub mod leaving;
pub mod pace;
mod platform;
pub mod ready;
mod recount;
pub mod routes;
pub mod statuses;
pub mod tunnels;
pub mod watches;

pub use platform::{Batches, MainTable, Taps};

use crate::netlink::link_exists;
use cutover_engine::Wanted;
use std::sync::Arc;
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
