//! The tracked connections of virtual machines that migrate: the host that one leaves reads them, the host where it goes makes them before
//! the first packet comes.
//!
//! Owns when that is done. What a connection is, and how the kernel is asked and told, is [`crate::conntrack`]'s; who talks to whom is
//! [`crate::peers`]', which gets readings and brings parts of them through the [`Exchange`]. Nothing is remembered between two lives: what was
//! made is known again by the addresses.
//!
//! Everything happens on one thread of its own, because the kernel keeps whoever asks it for as long as its table is large.
//!
//! The source reads while the virtual machine still runs there, again and again, and sends what has changed, so that little is missing when it
//! stops; and once more when it has stopped or has announced itself on the target. From then on its connections are taken to be where the
//! target has them, and those that the source goes on seeing one half of are made liberal ([`Conntrack::loosen`]).

mod arriving;
mod exchange;
mod leaving;
mod report;
mod table;
mod transfer;
#[cfg(test)]
mod trials;

pub use exchange::{Asked, Delivery, Exchange, Topic};
pub use report::{HandoverReport, HandoverStatus};
pub use transfer::{ENTRIES_PER_PART, End, Part, Reading, parts};

use crate::applier::WantedReceiver;
use crate::clock;
use crate::conntrack::{Conntrack, Entries, is_tracking};
use crate::logging::one_line;
use arriving::Arriving;
use cutover_engine::shared::{SharedMap, SharedSet};
use cutover_engine::wanted::{WantedHandover, WantedRoute};
use cutover_engine::{BootTime, EndpointKey, Fact, Wanted};
use ipnet::IpNet;
use leaving::{Leaving, Pace};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use table::Trouble;
use tokio::sync::mpsc::{self, UnboundedSender};
use tracing::{debug, info, warn};

/// LIMIT: how much later than its rules a target is found to track connections.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// LIMIT: how often a kernel that refuses to tell is asked again.
const AGAIN_AFTER: Duration = Duration::from_secs(1);

/// The part of the daemon that hands connections over. Open it in the right network namespace, then [`Handover::run`] it on a thread of the same
/// namespace.
#[derive(Debug)]
pub struct Handover {
    exchange: Exchange,
    deliveries: mpsc::Receiver<Delivery>,
    facts: UnboundedSender<Fact>,
    report: HandoverReport,
    /// Opened when it is needed first: most hosts have no migration most of the time.
    conntrack: Option<Conntrack>,
    wanted: SharedMap<Arc<EndpointKey>, WantedHandover>,
    leaving: BTreeMap<Topic, Leaving>,
    arriving: BTreeMap<Topic, Arriving>,
    /// To the virtual machines of this host.
    routes: SharedSet<WantedRoute>,
    pace: Pace,
    /// Why the last part that came could not be used.
    delivered: Option<String>,
    /// What the log has said last.
    said: Option<String>,
}

impl Handover {
    /// Nothing is asked of the kernel yet.
    #[must_use]
    pub fn new(facts: UnboundedSender<Fact>) -> Self {
        let (exchange, deliveries) = Exchange::new();
        Self {
            exchange,
            deliveries,
            facts,
            report: HandoverReport::default(),
            conntrack: None,
            wanted: SharedMap::default(),
            leaving: BTreeMap::new(),
            arriving: BTreeMap::new(),
            routes: SharedSet::default(),
            pace: Pace::default(),
            delivered: None,
            said: None,
        }
    }

    /// By which readings go out and parts of them come in.
    #[must_use]
    pub fn exchange(&self) -> Exchange {
        self.exchange.clone()
    }

    /// Shows how it stands, at any time.
    #[must_use]
    pub fn report(&self) -> HandoverReport {
        self.report.clone()
    }

    /// Follows the wanted sets until their sender is gone.
    pub async fn run(mut self, mut wanted: WantedReceiver) {
        wanted.mark_changed();
        let mut asked = self.exchange.asked();
        let mut due = None;
        loop {
            tokio::select! {
                biased;
                changed = wanted.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    let newest = wanted.borrow_and_update().clone();
                    // What is only known from memory says nothing about migrations.
                    let Some(newest) = newest.filter(|newest| !newest.is_recalled) else { continue };
                    self.routes = newest.routes.clone();
                    if newest.handovers == self.wanted {
                        continue;
                    }
                    self.take(&newest);
                }
                // Its sender is here.
                _ = asked.changed() => {}
                Some(delivery) = self.deliveries.recv() => self.deliver(delivery),
                () = clock::sleep_until(due) => {}
            }
            due = self.work();
        }
    }

    fn take(&mut self, wanted: &Wanted) {
        self.wanted = wanted.handovers.clone();
        let (mut leaving, mut arriving) = (BTreeMap::new(), BTreeMap::new());
        for (endpoint, wanted) in self.wanted.iter() {
            let topic = Topic { endpoint: EndpointKey::clone(endpoint), uid: wanted.uid.clone() };
            if wanted.stage.is_of_source() {
                let mut one = self.leaving.remove(&topic).unwrap_or_else(Leaving::new);
                one.take(wanted);
                leaving.insert(topic, one);
            } else {
                let mut one = self.arriving.remove(&topic).unwrap_or_default();
                one.take(wanted);
                arriving.insert(topic, one);
            }
        }
        self.leaving = leaving;
        let gone = std::mem::replace(&mut self.arriving, arriving);
        for (topic, mut one) in gone {
            one.end();
            let is_left_to_next =
                |(next, it): (&Topic, &mut Arriving)| next.endpoint == topic.endpoint && it.takes_over();
            // What is to be taken back goes on being known until it is. After the next migration of the same virtual machine has made something, nothing
            // is taken back any more for this one: that might be the same connection.
            if one.has_work() && !self.arriving.iter_mut().any(is_left_to_next) {
                self.arriving.insert(topic, one);
            }
        }
    }

    /// A part of a reading has come.
    fn deliver(&mut self, delivery: Delivery) {
        let Delivery { topic, connection, part } = delivery;
        let Some(one) = self.arriving.get_mut(&topic) else { return };
        let (end, now) = (part.end.clone(), clock::now());
        let staying = || staying(&self.routes);
        let delivered =
            open(&mut self.conntrack).and_then(|table| one.deliver(table, connection, part, &staying, now));
        self.delivered = delivered.err().map(|error| one_line(&error).to_string());
        if self.delivered.is_some() {
            return;
        }
        let is_first = end.is_some_and(|end| one.ended(end));
        let Some(count) = one.news(now) else { return };
        if is_first {
            info!(endpoint = %topic.endpoint, uid = topic.uid, count, "Tracked connections are taken over");
        } else {
            debug!(endpoint = %topic.endpoint, uid = topic.uid, count, "tracked connections are brought up to date");
        }
        let (endpoint, uid) = (topic.endpoint, topic.uid);
        // Without the loop the agent is about to end.
        let _ = self.facts.send(Fact::ConnectionsMade { endpoint, uid, count, at: now });
    }

    /// Does what is due. Returns when to come back.
    fn work(&mut self) -> Option<BootTime> {
        if self.leaving.is_empty() && self.arriving.is_empty() {
            // The next migration opens it again.
            self.conntrack = None;
        }
        let is_used = !(self.leaving.is_empty() && self.arriving.is_empty()) && is_tracking();
        let mut trouble = None;
        // ORDER: the last reading is waited for.
        let due =
            [self.read(is_used, &mut trouble), self.ask(is_used), self.take_back(is_used, &mut trouble)];
        self.log(trouble.map(|trouble| one_line(&trouble).to_string()).or_else(|| self.delivered.clone()));
        self.show();
        due.into_iter().flatten().min()
    }

    /// Says for which arriving machines the source is to be asked.
    fn ask(&self, is_used: bool) -> Option<BootTime> {
        let now = clock::now();
        let asks = self.arriving.iter().filter(|(_, one)| one.asks(now));
        let (asked, later): (Vec<_>, Vec<_>) = asks.partition(|(_, one)| is_used || one.is_always());
        self.exchange.want(asked.into_iter().map(|(topic, _)| topic.clone()).collect());
        let look_at = (!later.is_empty()).then(|| now + LOOK_EVERY);
        self.arriving.values().filter_map(|one| one.again_at(now)).chain(look_at).min()
    }

    /// Reads what is due of those that leave.
    fn read(&mut self, is_used: bool, trouble: &mut Option<Trouble>) -> Option<BootTime> {
        let mut due = None;
        let mut leaving: Vec<_> = self.leaving.iter_mut().collect();
        leaving.sort_by_key(|(_, one)| one.urgency());
        for (topic, one) in leaving {
            let is_asked = self.exchange.is_asked(topic);
            if one.due(is_asked, is_used, self.pace).is_some_and(|due| due <= clock::now()) {
                let conntrack = &mut self.conntrack;
                let done = one
                    .read(clock::now, &mut self.pace, |prefixes| match is_used {
                        true => Ok(open(conntrack)?.read(prefixes)?),
                        false => Ok(Entries::default()),
                    })
                    .and_then(|reading| {
                        // ORDER: somebody waits for it.
                        self.exchange.publish(topic, reading);
                        one.finish(|entries| Ok(open(conntrack)?.loosen(entries)?))
                    });
                if let Err(error) = done {
                    one.failed(clock::now() + AGAIN_AFTER);
                    *trouble = Some(error);
                }
            }
            if let Some(last) = one.last() {
                // Felix may have deleted them by now.
                self.exchange.offer(topic, last);
            }
            due = due.into_iter().chain(one.due(is_asked, is_used, self.pace)).min();
        }
        due
    }

    /// Takes back what was made for those that did not come.
    fn take_back(&mut self, is_used: bool, trouble: &mut Option<Trouble>) -> Option<BootTime> {
        let mut due = None;
        for (topic, one) in self.arriving.iter_mut().filter(|(_, one)| one.has_work()) {
            if !is_used {
                one.let_go();
                continue;
            }
            let staying = || staying(&self.routes);
            match open(&mut self.conntrack).and_then(|table| one.take_back(table, &staying)) {
                Ok(count) => {
                    debug!(endpoint = %topic.endpoint, uid = topic.uid, count, "tracked connections are taken back");
                }
                Err(error) => {
                    due = Some(clock::now() + AGAIN_AFTER);
                    *trouble = Some(error);
                }
            }
        }
        self.arriving.retain(|_, one| !one.is_over());
        due
    }

    fn show(&self) {
        let leaving = self.leaving.iter().map(|(topic, one)| one.status(topic));
        let arriving = self.arriving.iter().map(|(topic, one)| one.status(topic));
        self.report.set(leaving.chain(arriving).collect(), self.said.clone());
    }

    /// One line when it fails, one when it works again.
    fn log(&mut self, said: Option<String>) {
        match (&self.said, &said) {
            (before, Some(now)) if before.as_ref() != Some(now) => {
                warn!(
                    reason = now,
                    "Tracked connections cannot be handed over; it is tried again, and everything else goes on"
                );
            }
            (Some(_), None) => info!("Tracked connections can be handed over again"),
            _ => {}
        }
        self.said = said;
    }
}

/// The other virtual machines of this host, whose connections are here.
fn staying(routes: &SharedSet<WantedRoute>) -> Vec<IpNet> {
    routes.iter().map(|route| route.destination).collect()
}

fn open(conntrack: &mut Option<Conntrack>) -> Result<&mut Conntrack, Trouble> {
    Ok(match conntrack {
        Some(open) => open,
        closed => closed.insert(Conntrack::open()?),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use cutover_engine::wanted::{HandoverStage, WantedHandover};
    use std::sync::Arc;

    fn wanted(uid: Option<&str>) -> Wanted {
        let [host, orchestrator, workload, endpoint] =
            ["b", "openstack", "openstack/vm", "port"].map(str::to_owned);
        let endpoint = Arc::new(EndpointKey { host, orchestrator, workload, endpoint });
        let one = |uid: &str| WantedHandover {
            uid: uid.to_owned(),
            prefixes: ["10.65.0.2/32".parse().unwrap()].into(),
            stage: HandoverStage::Expected,
            is_always: false,
            has_made: uid == "u1",
        };
        Wanted { handovers: uid.map(|uid| (endpoint, one(uid))).into_iter().collect(), ..Wanted::default() }
    }

    #[test]
    fn what_one_has_left_is_taken_back_unless_the_next_one_clears_up() {
        let mut handover = Handover::new(mpsc::unbounded_channel().0);
        let known = |handover: &Handover| -> Vec<String> {
            handover.arriving.keys().map(|topic| topic.uid.clone()).collect()
        };
        handover.take(&wanted(Some("u1")));
        handover.take(&wanted(None));
        assert_eq!(known(&handover), ["u1"], "it is to be taken back");
        handover.take(&wanted(Some("u2")));
        assert_eq!(known(&handover), ["u2"]);
        handover.take(&wanted(None));
        assert_eq!(known(&handover), ["u2"], "what the first one has made as well");
    }
}
