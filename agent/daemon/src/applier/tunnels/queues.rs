//! The queues of taps in which packets wait for a virtual machine that does not run yet.
//!
//! Owns how long they are while something is taken from the tunnel for them, and how long they were before. One that somebody reads
//! stays as long as it is. What does not work costs packets only if more wait than fit, and keeps nothing else from being done.

use super::plan::Receptions;
use crate::netlink::queue::{self, Queue};
use std::collections::BTreeMap;
use std::io;
use tracing::warn;

/// LIMIT: a second of 10,000 packets, at most 15 MB for a guest. A tap has 1,000 otherwise: a tenth of that.
const LENGTH: u32 = 10_000;
/// KERNEL: what a tap has when it is made (DEFAULT_TX_QUEUE_LEN).
const USUAL: u32 = 1_000;

/// The kernel, or what a test has in its place.
pub(super) trait Lengths {
    /// Nothing if there is no such interface.
    fn queue(&self, ifindex: u32) -> io::Result<Option<Queue>>;
    fn set_length(&self, ifindex: u32, packets: u32) -> io::Result<()>;
}

/// The network namespace of the calling thread.
#[derive(Debug)]
pub(super) struct Kernel;

impl Lengths for Kernel {
    fn queue(&self, ifindex: u32) -> io::Result<Option<Queue>> {
        queue::of(ifindex)
    }

    fn set_length(&self, ifindex: u32, packets: u32) -> io::Result<()> {
        queue::set_length(ifindex, packets)
    }
}

/// Those that are long because of us, with their lengths of before, by interface.
#[derive(Debug, Default)]
pub(super) struct Queues(BTreeMap<u32, u32>);

impl Queues {
    /// Makes long what somebody may wait for, and as it was what nobody waits for any more and nobody reads: the virtual machine has not
    /// come. One that has come keeps its long queue as long as it has the tap open.
    ///
    /// KERNEL (6.18; dev_qdisc_change_tx_queue_len): to change the length loses what is sent to the tap at that moment, a packet of 1,000
    /// a second in 4 of 10 migrations. Before the virtual machine comes nothing is sent to it.
    pub(super) fn keep(&mut self, kernel: &impl Lengths, receptions: &Receptions) {
        let wanted: BTreeMap<u32, &str> =
            receptions.values().map(|it| (it.ifindex, it.interface.as_str())).collect();
        self.0.retain(|ifindex, before| {
            let stays = wanted.contains_key(ifindex);
            // What the kernel does not tell of may be read.
            let is_read = || !matches!(kernel.queue(*ifindex), Ok(Some(Queue { is_read: false, .. })));
            if !stays && !is_read() {
                say(kernel.set_length(*ifindex, *before), "shorten", &format!("interface {ifindex}"));
            }
            stays
        });
        for (ifindex, interface) in wanted {
            if self.0.contains_key(&ifindex) {
                continue;
            }
            // One that is as long as this was left so by our last life, or an operator wants it: then shorter is not much worse.
            let before = match kernel.queue(ifindex) {
                Ok(Some(Queue { length: LENGTH, .. })) => Some(USUAL),
                Ok(Some(Queue { length, .. })) if length < LENGTH => {
                    let is_set = say(kernel.set_length(ifindex, LENGTH), "lengthen", interface);
                    is_set.then_some(length)
                }
                // Longer than ours, or gone.
                Ok(_) => None,
                Err(error) => {
                    say(Err(error), "look at", interface);
                    None
                }
            };
            self.0.extend(before.map(|before| (ifindex, before)));
        }
    }
}

/// Says whether it has worked.
fn say(result: io::Result<()>, what: &str, interface: &str) -> bool {
    if let Err(error) = &result {
        warn!(%error, interface, "cannot {what} the queue of a tap; packets may be lost that wait for its virtual machine");
    }
    result.is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use cutover_engine::EndpointKey;
    use cutover_engine::shared::SharedMap;
    use cutover_engine::wanted::{Tunnel, WantedReception};
    use std::cell::RefCell;
    use std::collections::BTreeSet;
    use std::sync::Arc;

    #[derive(Default)]
    struct Taps {
        lengths: RefCell<BTreeMap<u32, u32>>,
        /// Those that somebody reads.
        read: RefCell<BTreeSet<u32>>,
    }

    impl Lengths for Taps {
        fn queue(&self, ifindex: u32) -> io::Result<Option<Queue>> {
            let is_read = self.read.borrow().contains(&ifindex);
            Ok(self.lengths.borrow().get(&ifindex).map(|length| Queue { length: *length, is_read }))
        }

        fn set_length(&self, ifindex: u32, packets: u32) -> io::Result<()> {
            if let Some(length) = self.lengths.borrow_mut().get_mut(&ifindex) {
                *length = packets;
            }
            Ok(())
        }
    }

    fn taps(lengths: &[(u32, u32)]) -> Taps {
        Taps { lengths: RefCell::new(lengths.iter().copied().collect()), ..Taps::default() }
    }

    fn receptions(ifindexes: &[u32]) -> Receptions {
        let one = |ifindex: u32| {
            let endpoint = EndpointKey {
                host: "b".into(),
                orchestrator: "openstack".into(),
                workload: "openstack/vm".into(),
                endpoint: format!("port{ifindex}"),
            };
            let tunnel = Tunnel { id: ifindex, peer: [192, 0, 2, 1].into() };
            let prefixes = Default::default();
            (
                Arc::new(endpoint),
                WantedReception {
                    tunnel,
                    interface: format!("tap{ifindex}"),
                    ifindex,
                    outlet: ifindex,
                    prefixes,
                },
            )
        };
        ifindexes.iter().map(|ifindex| one(*ifindex)).collect::<SharedMap<_, _>>()
    }

    #[test]
    fn a_queue_is_long_as_long_as_somebody_may_wait() {
        let (kernel, mut queues) = (taps(&[(5, 1_000), (6, 500), (7, 20_000)]), Queues::default());
        queues.keep(&kernel, &receptions(&[5, 6, 7, 8]));
        assert_eq!(*kernel.lengths.borrow(), [(5, LENGTH), (6, LENGTH), (7, 20_000)].into());
        // Whoever changes it in between has his way until it is set back.
        queues.keep(&kernel, &receptions(&[6]));
        assert_eq!(*kernel.lengths.borrow(), [(5, 1_000), (6, LENGTH), (7, 20_000)].into());
        kernel.lengths.borrow_mut().remove(&6);
        queues.keep(&kernel, &receptions(&[]));
        assert!(queues.0.is_empty());
    }

    /// To shorten it would lose what is sent at that moment.
    #[test]
    fn the_queue_of_who_has_come_stays_long() {
        let (kernel, mut queues) = (taps(&[(5, 1_000), (6, 1_000)]), Queues::default());
        queues.keep(&kernel, &receptions(&[5, 6]));
        kernel.read.borrow_mut().insert(5);
        queues.keep(&kernel, &receptions(&[]));
        assert_eq!(*kernel.lengths.borrow(), [(5, LENGTH), (6, 1_000)].into());
        assert!(queues.0.is_empty());
    }

    #[test]
    fn what_the_last_life_left_long_is_made_as_usual() {
        let (kernel, mut queues) = (taps(&[(5, LENGTH)]), Queues::default());
        queues.keep(&kernel, &receptions(&[5]));
        queues.keep(&kernel, &receptions(&[]));
        assert_eq!(*kernel.lengths.borrow(), [(5, USUAL)].into());
    }
}
