//! The applier of taps that are about to be left: their last frames are noted for as long as the engine wants that.
//!
//! Nothing depends on it. A tap that cannot be listened to is tried again, and the last frame of its virtual machine is not known.

use super::{WantedReceiver, is_gone};
use crate::bpf::{LastFrames, Leaving, ListenError};
use crate::logging::one_line;
use crate::retry::BackOff;
use cutover_engine::shared::SharedSet;
use std::collections::BTreeSet;
use std::time::Duration;
use tracing::{debug, info, warn};

/// The applier. Run it on a thread of its own, because to cease waits for the kernel, and in the network namespace of the taps.
#[derive(Debug, Default)]
pub struct LeavingApplier {
    leaving: Leaving,
    back_off: BackOff,
    /// Taps of which the log has said that they cannot be listened to.
    said: BTreeSet<u32>,
}

impl LeavingApplier {
    /// Reads when the last frames came.
    #[must_use]
    pub fn last_frames(&self) -> LastFrames {
        self.leaving.last_frames()
    }

    /// Follows the wanted sets until their sender is gone.
    pub async fn run(mut self, mut wanted: WantedReceiver) {
        let mut pause = None;
        loop {
            let again = async {
                match pause {
                    Some(pause) => tokio::time::sleep(pause).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                changed = wanted.changed() => if changed.is_err() { return },
                () = again => {}
            }
            let taps = wanted.borrow_and_update().as_ref().map(|wanted| wanted.leaving.clone());
            if let Some(taps) = taps {
                pause = self.apply(&taps);
            }
        }
    }

    /// Closes the difference. Returns when to try again.
    fn apply(&mut self, wanted: &SharedSet<u32>) -> Option<Duration> {
        let gone: Vec<u32> = self.leaving.taps().filter(|tap| !wanted.contains(tap)).collect();
        for ifindex in gone {
            self.leaving.cease(ifindex);
        }
        self.said.retain(|tap| wanted.contains(tap));
        let mut failed = false;
        for &ifindex in wanted.iter() {
            let listened = self.leaving.listen(ifindex);
            match listened {
                Ok(()) => {
                    if self.said.remove(&ifindex) {
                        info!(
                            ifindex,
                            "The last frame of a virtual machine that is about to leave is noted now"
                        );
                    }
                }
                // A tap goes with its virtual machine.
                Err(_) if is_gone(ifindex) => {}
                Err(error) => {
                    failed = true;
                    self.complain(ifindex, &error);
                }
            }
        }
        if !failed {
            self.back_off.reset();
        }
        failed.then(|| self.back_off.next_pause())
    }

    fn complain(&mut self, ifindex: u32, error: &ListenError) {
        let error = one_line(error);
        if self.said.insert(ifindex) {
            warn!(
                ifindex, %error,
                "cannot note the last frame of a virtual machine that is about to leave, so its blackout will not be known; will try again"
            );
        } else {
            debug!(ifindex, %error, "cannot note the last frame of a virtual machine that is about to leave");
        }
    }
}
