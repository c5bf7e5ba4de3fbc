//! Forwards that whoever hears the target's word, or that a virtual machine has stopped, starts himself, without waking the applier first.
//!
//! Owns the finished requests of forwards that wait for that, each for the first one who asks, and the socket by which they are sent.
//! The applier prepares and withdraws them, and is told what was done. A word for which nothing is prepared starts nothing here; the
//! applier hears of it all the same.

use super::early::Start;
use crate::batches::Batches;
use crate::clock;
use crate::netlink::policy::{self, PolicyChange, SideRoute};
use crate::netlink::socket::OpenError;
use crate::netlink::{ByFamily, Family, PreparedBatch, RouteSocket};
use crate::priority::Priority;
use cutover_engine::{BootTime, EndpointKey, Fact};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tracing::debug;

/// By which forwards are started. Copies are about the same ones.
#[derive(Clone, Debug)]
pub struct Starter(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    ready: Batches<Start, Ready>,
    /// Nothing where nobody prepares anything.
    socket: Option<Mutex<RouteSocket>>,
    heard: UnboundedSender<Heard>,
    facts: UnboundedSender<Fact>,
}

/// The other end, for the applier.
#[derive(Debug)]
pub struct Starts {
    starter: Starter,
    heard: UnboundedReceiver<Heard>,
}

/// A word of the target's that has been heard.
#[derive(Debug)]
pub struct Heard {
    /// What it starts.
    pub start: Start,
    /// When what is done was done.
    pub at: BootTime,
    /// What the kernel has confirmed already.
    done: Vec<PolicyChange>,
}

/// How a forward is to be started.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Waiting {
    /// By adding these.
    pub(super) routes: Vec<SideRoute>,
    /// Also by a stop of the virtual machine here.
    pub(super) awaits_stop: bool,
}

#[derive(Debug)]
struct Ready {
    waiting: Waiting,
    batches: ByFamily<Batch>,
}

#[derive(Debug)]
struct Batch {
    changes: Vec<PolicyChange>,
    requests: PreparedBatch,
}

impl Starter {
    /// One that sends in the network namespace of the calling thread, and its other end. It tells the engine of stops by `facts`.
    ///
    /// # Errors
    /// When there is no netlink socket to be had.
    pub fn open(facts: UnboundedSender<Fact>) -> Result<(Self, Starts), OpenError> {
        Ok(Self::with(Some(Mutex::new(RouteSocket::open()?)), facts))
    }

    /// One that starts nothing and only tells the applier.
    #[must_use]
    pub fn that_only_tells() -> (Self, Starts) {
        Self::with(None, unbounded_channel().0)
    }

    fn with(socket: Option<Mutex<RouteSocket>>, facts: UnboundedSender<Fact>) -> (Self, Starts) {
        let (heard_in, heard) = unbounded_channel();
        let starter = Self(Arc::new(Shared { ready: Batches::default(), socket, heard: heard_in, facts }));
        (starter.clone(), Starts { starter, heard })
    }

    /// A virtual machine has stopped here, of which these are the endpoints. Returns when its forwards are active that were ready for that.
    pub fn stopped(&self, is_it: impl Fn(&EndpointKey) -> bool) {
        let waits = |start: &Start, ready: &Ready| ready.waiting.awaits_stop && is_it(&start.endpoint);
        for start in self.0.ready.find(waits) {
            let endpoint = start.endpoint.clone();
            // ORDER: the engine hears of it before it hears that it has been done. Without the loop the agent is about to end.
            let _: Result<(), _> = self.0.facts.send(Fact::MachineStopped { endpoint, is_stopped: true });
            self.start(start);
        }
    }

    /// A virtual machine has announced itself where it goes. Returns when its forward is active, if it was ready for that.
    pub fn start(&self, start: Start) {
        let ready = self.0.ready.take(&start);
        let sent = ready.and_then(|ready| self.send(&ready));
        let (done, at) = sent.unwrap_or_else(|| (Vec::new(), clock::now()));
        // The receiver is gone only while the agent stops.
        let _: Result<(), _> = self.0.heard.send(Heard { start, at, done });
    }

    /// Returns what the kernel has confirmed, and when it had.
    fn send(
        &self,
        Ready { batches: ByFamily { ipv4, ipv6 }, .. }: &Ready,
    ) -> Option<(Vec<PolicyChange>, BootTime)> {
        let mut socket = self.0.socket.as_ref()?.lock().unwrap_or_else(PoisonError::into_inner);
        // ORDER: IPv6 first, because nobody can make it wait. The others may wait for the lock of links, which nobody does with a
        // real-time priority.
        let (mut done, mut at) = send(&mut socket, ipv6);
        if !ipv4.changes.is_empty() {
            let (ipv4_done, ipv4_at) = Priority::current().while_ordinary(|| send(&mut socket, ipv4));
            done.extend(ipv4_done);
            at = ipv4_at;
        }
        Some((done, at))
    }
}

/// Returns what the kernel has confirmed, and when. What it has not, the applier tries again, and says.
fn send(socket: &mut RouteSocket, batch: &Batch) -> (Vec<PolicyChange>, BootTime) {
    let result = socket.send(&batch.requests);
    let (at, mut done) = (clock::now(), batch.changes.clone());
    match result {
        Ok(outcome) => {
            for failure in outcome.failed.iter().rev() {
                debug!(
                    errno = failure.errno,
                    "a route into the tunnel is refused; the tunnel applier tries again"
                );
                done.remove(failure.index);
            }
        }
        Err(error) => {
            debug!(%error, "routes into the tunnel cannot be sent; the tunnel applier tries again");
            done.clear();
        }
    }
    (done, at)
}

impl Starts {
    /// The next word.
    pub async fn heard(&mut self) -> Option<Heard> {
        self.heard.recv().await
    }

    /// Whether its word is enough to start this.
    pub(super) fn is_ready(&self, start: &Start) -> bool {
        self.starter.0.ready.look(start).is_some_and(|(_, is_taken)| !is_taken)
    }

    /// Whether somebody has begun to start this, of which the word may still be on its way here.
    pub(super) fn is_begun(&self, start: &Start) -> bool {
        self.starter.0.ready.look(start).is_some_and(|(_, is_taken)| is_taken)
    }

    /// From now on these can be started, and no others. Returns those that somebody had begun to start before this.
    pub(super) fn make_ready(&self, starts: BTreeMap<Start, Waiting>) -> Vec<Start> {
        let ready = &self.starter.0.ready;
        ready.keep_only(&starts.keys().cloned().collect::<BTreeSet<_>>());
        let mut begun = Vec::new();
        for (start, waiting) in starts {
            let is_taken = match ready.look(&start) {
                Some((before, is_taken)) if is_taken || before.waiting == waiting => is_taken,
                _ => ready.prepare(&start, Ready::of(waiting)),
            };
            if is_taken {
                begun.push(start);
            }
        }
        begun
    }
}

impl Heard {
    /// What the kernel has confirmed.
    pub(super) fn done(&self) -> &[PolicyChange] {
        &self.done
    }
}

impl Ready {
    fn of(waiting: Waiting) -> Self {
        Self { batches: ByFamily::each(|family| Batch::new(&waiting.routes, family)), waiting }
    }
}

impl Batch {
    fn new(routes: &[SideRoute], family: Family) -> Self {
        let routes = routes.iter().filter(|route| route.family() == family);
        let changes: Vec<_> = routes.copied().map(PolicyChange::AddRoute).collect();
        let requests = policy::prepare(&changes);
        Self { changes, requests }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::netlink::policy::Way;
    use cutover_engine::wanted::Tunnel;

    fn start(id: u32) -> Start {
        let [host, orchestrator, workload, endpoint] =
            ["a", "openstack", "openstack/vm", "port"].map(str::to_owned);
        let endpoint = EndpointKey { host, orchestrator, workload, endpoint };
        Start { endpoint, tunnel: Tunnel { id, peer: [192, 0, 2, 1].into() } }
    }

    fn route(destination: &str) -> SideRoute {
        let destination = destination.parse().unwrap();
        SideRoute { table: 7179, destination, way: Way::Interface(9), metric: 1024, mtu: None, protocol: 79 }
    }

    fn routes() -> Vec<SideRoute> {
        ["10.65.0.2/32", "2001:db8::2/128"].map(route).into()
    }

    /// Waiting for the target's word only, or for the stop as well.
    fn waiting(awaits_stop: bool) -> Waiting {
        Waiting { routes: routes(), awaits_stop }
    }

    #[test]
    fn what_is_ready_is_begun_by_its_word_only() {
        let (starter, mut starts) = Starter::that_only_tells();
        assert!(starts.make_ready([(start(1), waiting(false))].into()).is_empty());
        starter.start(start(2));
        assert_eq!(starts.heard.try_recv().unwrap().start, start(2), "told all the same");
        assert!(starts.is_ready(&start(1)) && !starts.is_begun(&start(1)));
        starter.start(start(1));
        assert!(starts.is_begun(&start(1)) && !starts.is_ready(&start(1)), "before it is heard");
        assert_eq!(starts.heard.try_recv().unwrap().start, start(1));
    }

    #[test]
    fn a_stop_begins_what_waits_for_stops_and_is_meant() {
        let (facts_in, mut facts) = unbounded_channel();
        let (starter, mut starts) = Starter::with(None, facts_in);
        starts.make_ready([(start(1), waiting(false))].into());
        starter.stopped(|_| true);
        assert!(starts.is_ready(&start(1)), "nothing is held: it waits for the word");
        starts.make_ready([(start(1), waiting(true)), (start(2), waiting(true))].into());
        starter.stopped(|endpoint| endpoint.endpoint == "another");
        assert!(starts.is_ready(&start(1)) && starts.heard.try_recv().is_err());
        starter.stopped(|endpoint| endpoint.endpoint == "port");
        assert!(
            starts.is_begun(&start(1)) && starts.is_begun(&start(2)),
            "every one of the virtual machine's"
        );
        let mut heard = [(); 2].map(|()| starts.heard.try_recv().unwrap().start);
        heard.sort_unstable();
        assert_eq!(heard, [start(1), start(2)]);
        for _ in heard {
            let fact = facts.try_recv().unwrap();
            assert!(
                matches!(fact, Fact::MachineStopped { endpoint, is_stopped: true } if endpoint == start(1).endpoint)
            );
        }
        starts.make_ready([(start(3), waiting(true))].into());
        starts.make_ready([(start(3), waiting(false))].into());
        starter.stopped(|_| true);
        assert!(starts.is_ready(&start(3)), "CutoverHold was switched off");
        assert!(facts.try_recv().is_err(), "the loop says what nothing is started for");
    }

    #[test]
    fn one_that_is_begun_is_not_made_ready_again_until_it_is_withdrawn() {
        let (starter, starts) = Starter::that_only_tells();
        starts.make_ready([(start(1), waiting(false))].into());
        starter.start(start(1));
        let other = Waiting { routes: vec![route("10.65.0.3/32")], ..waiting(false) };
        assert_eq!(starts.make_ready([(start(1), other)].into()), [start(1)]);
        assert!(starts.make_ready(BTreeMap::new()).is_empty());
        assert!(!starts.is_begun(&start(1)));
        assert!(starts.make_ready([(start(1), waiting(false))].into()).is_empty());
    }

    #[test]
    fn the_families_are_sent_one_by_one() {
        let ByFamily { ipv4, ipv6 } = ByFamily::each(|family| Batch::new(&routes(), family));
        assert_eq!(ipv4.changes, [PolicyChange::AddRoute(route("10.65.0.2/32"))]);
        assert_eq!(ipv6.changes, [PolicyChange::AddRoute(route("2001:db8::2/128"))]);
        assert_eq!((ipv4.requests.len(), ipv6.requests.len()), (1, 1));
    }
}
