//! Carries a plan of status writes out in a store that answers slowly, or not at all for a while.
//!
//! Owns what is known of the store and the writes that are under way: several at once, each key with its own
//! pauses after failures, always the most urgent ones first, however many others wait. It knows neither etcd nor
//! any decision; [`super::etcd`] gives it a store.

use super::plan::{Action, Observed, Planner, StatusWrite};
mod overtaken;
mod paced;

use super::StatusCounts;
use super::{parse, render};
use crate::applier::WantedReceiver;
use crate::clock;
use crate::datastore::etcd::{OwnStatus, OwnStatuses};
use crate::logging::one_line;
use crate::retry::BackOff;
use crate::retry::Retries;
use cutover_engine::{BootTime, Fact};
use overtaken::Overtaken;
use paced::Paced;
use std::collections::BTreeMap;
use std::time::Duration;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tracing::{debug, info, warn};

/// LIMIT: enough to report a full host within a second; every write is a transaction in Neutron's database.
const AT_ONCE: usize = 16;

/// LIMIT: how long one request may take, as in Felix.
pub(super) const REQUEST: Duration = Duration::from_secs(2);

/// LIMIT: how often all statuses are read if nothing is seen to happen to them; a net under the watch of them, which a cloud of
/// full hosts has to be able to afford.
const READ_EVERY: Duration = Duration::from_secs(300);

/// LIMIT: an agent that is still there by mistake and writes the same statuses must not make two of a loop.
const READ_AGAIN_AFTER: Duration = Duration::from_secs(1);

/// Some of what a store holds.
#[derive(Default)]
pub(super) struct Page {
    pub statuses: Observed,
    /// Where the next page begins, if there is one.
    pub next: Option<String>,
}

/// What became of a step.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Outcome {
    /// It is done.
    Done,
    /// A LiveMigration was written that is not seen here yet, so nothing was done: what is wanted may be about to change.
    Overtaken,
}

/// Where statuses are kept. What is done to it is done only if no LiveMigration was written after the revision `seen`.
pub(super) trait Store: Clone + Send + 'static {
    /// Why the store did not do what was asked.
    type Error: std::error::Error + Send + 'static;

    /// Statuses of this host, from a place that the page before named, or from the first one on.
    fn page(&self, from: Option<String>) -> impl Future<Output = Result<Page, Self::Error>> + Send;

    /// Writes a value.
    fn write(
        &self,
        name: String,
        value: String,
        seen: Option<i64>,
    ) -> impl Future<Output = Result<Outcome, Self::Error>> + Send;

    /// Removes a name, which need not exist.
    fn remove(
        &self,
        name: String,
        seen: Option<i64>,
    ) -> impl Future<Output = Result<Outcome, Self::Error>> + Send;
}

/// What the publisher is told.
#[derive(Debug)]
pub struct Inputs {
    /// What is wanted.
    pub wanted: WantedReceiver,
    /// Whether statuses are to be written at all.
    pub enabled: watch::Receiver<bool>,
    /// Least time between two writes for one endpoint, unless somebody waits for the second one.
    pub delay: watch::Receiver<Duration>,
    /// Whether the datastore is ready to be written to.
    pub ready: watch::Receiver<bool>,
    /// The revision up to which what is wanted answers to every LiveMigration.
    pub migrations_told: watch::Receiver<i64>,
    /// What happens to the statuses, whoever does it.
    pub own: OwnStatuses,
    /// Where it is counted what became of the writes.
    pub counts: StatusCounts,
}

/// A step, the revision that was seen when it was taken, and how it ended.
type Ended<E> = (StatusWrite, i64, Result<Outcome, RequestError<E>>);

/// Why a request failed.
#[derive(Debug, thiserror::Error)]
pub(super) enum RequestError<E: std::error::Error + 'static> {
    #[error(transparent)]
    Refused(E),
    #[error("no answer within {} s", REQUEST.as_secs())]
    NoAnswer,
}

/// The publisher of one store.
pub(super) struct Publisher<S: Store> {
    store: S,
    planner: Planner,
    facts: mpsc::UnboundedSender<Fact>,
    /// Nothing until the store has been read.
    observed: Option<Observed>,
    read_every: Duration,
    read_at: BootTime,
    was_read_at: BootTime,
    read_back_off: BackOff,
    /// A read that is under way.
    reading: JoinSet<Result<Observed, RequestError<S::Error>>>,
    /// Something was written since that began, so that what it brings may be older than what is known.
    is_outdated: bool,
    /// Something was seen to happen since that began, which what it brings may not show.
    is_overtaken: bool,
    /// The last read failed, and this was said.
    is_unread: bool,
    retries: Retries<String>,
    running: JoinSet<Ended<S::Error>>,
    /// Names that are being written, with what was seen of them meanwhile.
    in_flight: BTreeMap<String, Option<Held>>,
    paced: Paced,
    overtaken: Overtaken,
}

/// What a name was seen to hold; nothing if it was seen to go.
type Held = Option<Option<String>>;

impl<S: Store> Publisher<S> {
    pub(super) fn new(store: S, planner: Planner, facts: mpsc::UnboundedSender<Fact>) -> Self {
        Self {
            store,
            planner,
            facts,
            observed: None,
            read_every: READ_EVERY,
            read_at: clock::now(),
            was_read_at: BootTime::default(),
            read_back_off: BackOff::new(),
            reading: JoinSet::new(),
            is_outdated: false,
            is_overtaken: false,
            is_unread: false,
            retries: Retries::default(),
            running: JoinSet::new(),
            in_flight: BTreeMap::new(),
            paced: Paced::default(),
            overtaken: Overtaken::default(),
        }
    }

    /// Publishes until the sender of the wanted sets is gone.
    pub(super) async fn run(mut self, mut inputs: Inputs) {
        loop {
            // ORDER: before what is wanted is looked at, which so is never older than this says.
            let seen = *inputs.migrations_told.borrow_and_update();
            let active =
                *inputs.enabled.borrow() && *inputs.ready.borrow() && inputs.wanted.borrow().is_some();
            if active {
                self.start_read_if_due();
                self.plan(&inputs.wanted);
            } else {
                // What somebody else does in the meantime is read when it goes on.
                (self.observed, self.read_at) = (None, clock::now());
                self.reading = JoinSet::new();
                self.planner.forget();
            }
            // ORDER: one time for the steps and for the pause after them. A retry that became due in between would wait for an event.
            let now = clock::now();
            self.paced.forget_before(now, *inputs.delay.borrow());
            self.start_writes(now, seen);
            let pause = self.pause(active, now, *inputs.delay.borrow());
            tokio::select! {
                Some(ended) = self.running.join_next(), if !self.running.is_empty() => match ended {
                    Ok((step, seen, result)) => {
                        inputs.counts.note(&result);
                        self.finished(&step, seen, result);
                    }
                    // A defect ends the publisher, which ends the agent.
                    Err(error) => std::panic::resume_unwind(error.into_panic()),
                },
                Some(ended) = self.reading.join_next(), if !self.reading.is_empty() => match ended {
                    Ok(result) => self.was_read(result),
                    Err(error) => std::panic::resume_unwind(error.into_panic()),
                },
                changed = inputs.wanted.changed() => if changed.is_err() { return },
                changed = inputs.enabled.changed() => if changed.is_err() { return },
                changed = inputs.ready.changed() => if changed.is_err() { return },
                changed = inputs.delay.changed() => if changed.is_err() { return },
                changed = inputs.migrations_told.changed() => if changed.is_err() { return },
                seen = inputs.own.recv() => match seen {
                    Some(seen) => self.noticed(seen),
                    None => return,
                },
                () = tokio::time::sleep(pause) => {}
            }
        }
    }

    /// How long nothing will be due.
    fn pause(&self, active: bool, now: BootTime, delay: Duration) -> Duration {
        if !active {
            return READ_EVERY;
        }
        // LIMIT: a comparison is also due while requests are under way; it waits for their end.
        let is_idle = self.running.is_empty() && self.reading.is_empty();
        let read = if is_idle { self.read_at.since(now) } else { READ_EVERY };
        let retry = self.retries.next_after(now).map_or(READ_EVERY, |due| due.since(now));
        let paced = self.paced.next_after(delay).map_or(READ_EVERY, |due| due.since(now));
        let overtaken = self.overtaken.over_at().filter(|due| *due > now);
        let overtaken = overtaken.map_or(READ_EVERY, |due| due.since(now));
        read.min(retry).min(paced).min(overtaken).max(Duration::from_millis(1))
    }

    /// A status of this host was written or removed, also by this publisher. What that means can only be told by reading: what
    /// is seen may be older than what was written since.
    fn noticed(&mut self, seen: OwnStatus) {
        let is_news = match seen {
            OwnStatus::Unknown => true,
            OwnStatus::Seen { key, value } => {
                let value = value.map(|value| parse(&value));
                if let Some(seen) = self.in_flight.get_mut(&key) {
                    // Which of the two was first is known when the write has ended.
                    *seen = Some(value);
                    return;
                }
                let known = self.observed.as_ref().map(|observed| observed.get(&key).cloned());
                !self.reading.is_empty() || known.is_some_and(|known| known != value)
            }
        };
        if is_news {
            self.look_again();
        }
    }

    /// The store may hold something else than what is known.
    fn look_again(&mut self) {
        self.is_overtaken = true;
        self.read_at = self.read_at.min(self.was_read_at + READ_AGAIN_AFTER);
    }

    /// ORDER: only while nothing is under way, or what is read could be older than what is known.
    fn start_read_if_due(&mut self) {
        if self.read_at > clock::now() || !self.running.is_empty() || !self.reading.is_empty() {
            return;
        }
        (self.is_outdated, self.is_overtaken) = (false, false);
        self.reading.spawn(read(self.store.clone()));
    }

    fn was_read(&mut self, result: Result<Observed, RequestError<S::Error>>) {
        self.was_read_at = clock::now();
        let pause = match result {
            Ok(_) if self.is_outdated => Duration::ZERO,
            Ok(observed) => {
                debug!(statuses = observed.len(), "Statuses read");
                self.observed = Some(observed);
                self.planner.forget();
                self.read_back_off.reset();
                self.is_unread = false;
                if self.is_overtaken { READ_AGAIN_AFTER.min(self.read_every) } else { self.read_every }
            }
            Err(error) => {
                let error = one_line(&error);
                if std::mem::replace(&mut self.is_unread, true) {
                    debug!(error = %error, "the reported statuses still cannot be read");
                } else {
                    warn!(error = %error, "cannot read the reported statuses; it is tried again");
                }
                self.read_back_off.next_pause()
            }
        };
        self.read_at = self.was_read_at + pause;
    }

    fn plan(&mut self, wanted: &WantedReceiver) {
        if let (Some(wanted), Some(observed)) = (wanted.borrow().clone(), &self.observed) {
            self.planner.compare(&wanted, observed);
        }
    }

    /// The most urgent step that nothing keeps from being taken.
    fn next_step(&self, now: BootTime) -> Option<StatusWrite> {
        let can_start = |name: &String| !self.in_flight.contains_key(name) && !self.retries.holds(name, now);
        // Somebody waits for some; the others can be told once what the store holds is known again.
        let is_soon = |name: &String| !self.reading.is_empty() || self.paced.holds(name);
        let mut left = self.planner.left();
        left.find(|left| can_start(left.name) && !(left.can_wait() && is_soon(left.name)))
            .map(|left| left.to_step())
    }

    fn start_writes(&mut self, now: BootTime, seen: i64) {
        let Some(condition) = self.overtaken.condition(seen, now) else { return };
        while self.running.len() < AT_ONCE {
            let Some(step) = self.next_step(now) else { return };
            self.in_flight.insert(step.name.clone(), None);
            self.is_outdated = true;
            let (store, name) = (self.store.clone(), step.name.clone());
            self.running.spawn(async move {
                let result = match step.action {
                    Action::Write { status, .. } => {
                        limited(store.write(name, render(status), condition.seen())).await
                    }
                    Action::Remove => limited(store.remove(name, condition.seen())).await,
                };
                (step, seen, result)
            });
        }
    }

    /// Takes the end of a request in.
    fn finished(&mut self, step: &StatusWrite, seen: i64, result: Result<Outcome, RequestError<S::Error>>) {
        let now = clock::now();
        let is_done = matches!(result, Ok(Outcome::Done));
        let noticed = self.in_flight.remove(&step.name).flatten();
        if noticed.is_some_and(|status| !is_done || status.flatten().as_deref() != step.action.status()) {
            self.look_again();
        }
        match result {
            Ok(Outcome::Overtaken) => {
                debug!(key = %step.name, seen, "a LiveMigration was written meanwhile; what is to be reported waits for it");
                self.overtaken.note(seen, now);
            }
            Ok(Outcome::Done) => {
                self.retries.succeeded(&step.name);
                self.overtaken.forget();
                let mut unread = Observed::new();
                let observed = self.observed.as_mut().unwrap_or(&mut unread);
                // What nothing was reported of has not begun to flap: a machine that boots is waited for.
                if observed.contains_key(&step.name) {
                    self.paced.note(&step.name, now);
                }
                log(&step.name, &step.action);
                if let Some(fact) = self.planner.done(step, now, observed) {
                    // The agent is about to end if nobody listens.
                    let _: Result<(), _> = self.facts.send(fact);
                }
            }
            Err(error) => {
                self.overtaken.forget();
                if self.retries.failed(step.name.clone(), now) {
                    warn!(key = %step.name, error = %one_line(&error), "cannot report an endpoint status; it is tried again");
                }
            }
        }
    }
}

/// Says what was done. What somebody waits for is seldom, and worth a line each time.
fn log(key: &str, action: &Action) {
    match action {
        Action::Write { status, due_since: Some(_), migration, .. } => match migration.as_deref() {
            Some(uid) => info!(%key, %status, %uid, "Endpoint status reported"),
            None => info!(%key, %status, "Endpoint status reported"),
        },
        Action::Write { status, .. } => debug!(%key, %status, "Endpoint status reported"),
        Action::Remove => info!(%key, "Endpoint status removed"),
    }
}

/// Every status that the store holds.
async fn read<S: Store>(store: S) -> Result<Observed, RequestError<S::Error>> {
    let mut observed = Observed::new();
    let mut from = None;
    loop {
        let page = limited(store.page(from)).await?;
        observed.extend(page.statuses);
        from = page.next;
        if from.is_none() {
            return Ok(observed);
        }
    }
}

async fn limited<T, E: std::error::Error + 'static>(
    request: impl Future<Output = Result<T, E>>,
) -> Result<T, RequestError<E>> {
    match tokio::time::timeout(REQUEST, request).await {
        Ok(result) => result.map_err(RequestError::Refused),
        Err(_) => Err(RequestError::NoAnswer),
    }
}

#[cfg(test)]
mod tests;
