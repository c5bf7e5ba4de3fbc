//! Carries a plan of status writes out in a store that answers slowly, or not at all for a while.
//!
//! Owns what is known of the store and the writes that are under way: several at once, each key with its own
//! pauses after failures, always the most urgent ones first, however many others wait. It knows neither etcd nor
//! any decision; [`super::etcd`] gives it a store.

use super::plan::{Action, Observed, Planner, Step};
use super::render;
use crate::applier::retry::Retries;
use crate::applier::{BackOff, WantedReceiver};
use crate::clock;
use crate::logging::one_line;
use cutover_engine::{BootTime, Fact};
use std::collections::BTreeSet;
use std::time::Duration;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tracing::{debug, info, warn};

/// LIMIT: enough to report a full host within a second; every write is a transaction in Neutron's database.
const AT_ONCE: usize = 16;

/// LIMIT: how long one request may take, as in the existing agent.
pub(super) const REQUEST: Duration = Duration::from_secs(2);

/// LIMIT: how long a status that somebody else removed or overwrote can stay wrong. The port is out of service for
/// as long; reading the keys of a full host takes etcd some milliseconds.
const READ_EVERY: Duration = Duration::from_secs(60);

/// Where statuses are kept.
pub(super) trait Store: Clone + Send + 'static {
    /// Why the store did not do what was asked.
    type Error: std::error::Error + Send + 'static;

    /// Every status of this host.
    fn read(&self) -> impl Future<Output = Result<Observed, Self::Error>> + Send;

    /// Writes a value.
    fn write(&self, name: String, value: String) -> impl Future<Output = Result<(), Self::Error>> + Send;

    /// Removes a name, which need not exist.
    fn remove(&self, name: String) -> impl Future<Output = Result<(), Self::Error>> + Send;
}

/// What the publisher is told.
pub(super) struct Inputs {
    pub(super) wanted: WantedReceiver,
    /// Whether statuses are to be written at all.
    pub(super) enabled: watch::Receiver<bool>,
    /// Whether the datastore is ready to be written to.
    pub(super) ready: watch::Receiver<bool>,
}

/// A step with how it ended.
type Ended<E> = (Step, Result<(), RequestError<E>>);

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
    read_back_off: BackOff,
    retries: Retries<String>,
    running: JoinSet<Ended<S::Error>>,
    in_flight: BTreeSet<String>,
}

impl<S: Store> Publisher<S> {
    pub(super) fn new(store: S, planner: Planner, facts: mpsc::UnboundedSender<Fact>) -> Self {
        Self {
            store,
            planner,
            facts,
            observed: None,
            read_every: READ_EVERY,
            read_at: clock::now(),
            read_back_off: BackOff::new(),
            retries: Retries::default(),
            running: JoinSet::new(),
            in_flight: BTreeSet::new(),
        }
    }

    /// Publishes until the sender of the wanted sets is gone.
    pub(super) async fn run(mut self, mut inputs: Inputs) {
        loop {
            let active =
                *inputs.enabled.borrow() && *inputs.ready.borrow() && inputs.wanted.borrow().is_some();
            if active {
                self.read_if_due().await;
                self.plan(&inputs.wanted);
            } else {
                // What somebody else does in the meantime is read when it goes on.
                (self.observed, self.read_at) = (None, clock::now());
                self.planner.forget();
            }
            self.start_writes();
            let pause = self.pause(active);
            tokio::select! {
                Some(ended) = self.running.join_next(), if !self.running.is_empty() => match ended {
                    Ok((step, result)) => self.finished(&step, result),
                    // A defect ends the publisher, which ends the agent.
                    Err(error) => std::panic::resume_unwind(error.into_panic()),
                },
                changed = inputs.wanted.changed() => if changed.is_err() { return },
                changed = inputs.enabled.changed() => if changed.is_err() { return },
                changed = inputs.ready.changed() => if changed.is_err() { return },
                () = tokio::time::sleep(pause) => {}
            }
        }
    }

    /// How long nothing will be due.
    fn pause(&self, active: bool) -> Duration {
        if !active {
            return READ_EVERY;
        }
        let now = clock::now();
        // LIMIT: a comparison is also due while writes are under way; it waits for their end.
        let read = if self.running.is_empty() { self.read_at.since(now) } else { READ_EVERY };
        let retry = self.retries.next_after(now).map_or(READ_EVERY, |due| due.since(now));
        read.min(retry).max(Duration::from_millis(1))
    }

    /// ORDER: only while nothing is under way, or what is read could be older than what is known.
    async fn read_if_due(&mut self) {
        if self.read_at > clock::now() || !self.running.is_empty() {
            return;
        }
        let pause = match limited(self.store.read()).await {
            Ok(observed) => {
                debug!(statuses = observed.len(), "Statuses read");
                self.observed = Some(observed);
                self.planner.forget();
                self.read_back_off.reset();
                self.read_every
            }
            Err(error) => {
                warn!(error = %one_line(&error), "cannot read the reported statuses; it is tried again");
                self.read_back_off.next_pause()
            }
        };
        self.read_at = clock::now() + pause;
    }

    fn plan(&mut self, wanted: &WantedReceiver) {
        if let (Some(wanted), Some(observed)) = (wanted.borrow().clone(), &self.observed) {
            self.planner.compare(&wanted, observed);
        }
    }

    /// The most urgent step that nothing keeps from being taken.
    fn next_step(&self) -> Option<Step> {
        let now = clock::now();
        let can_start = |name: &String| !self.in_flight.contains(name) && !self.retries.holds(name, now);
        self.planner.left().find(|left| can_start(left.name)).map(|left| left.to_step())
    }

    fn start_writes(&mut self) {
        while self.running.len() < AT_ONCE {
            let Some(step) = self.next_step() else { return };
            self.in_flight.insert(step.name.clone());
            let (store, name) = (self.store.clone(), step.name.clone());
            self.running.spawn(async move {
                let result = match step.action {
                    Action::Write { status, .. } => limited(store.write(name, render(status))).await,
                    Action::Remove => limited(store.remove(name)).await,
                };
                (step, result)
            });
        }
    }

    /// Takes the end of a request in.
    fn finished(&mut self, step: &Step, result: Result<(), RequestError<S::Error>>) {
        let now = clock::now();
        self.in_flight.remove(&step.name);
        match result {
            Ok(()) => {
                self.retries.succeeded(&step.name);
                let mut unread = Observed::new();
                let observed = self.observed.as_mut().unwrap_or(&mut unread);
                if let Some(fact) = self.planner.done(step, now, observed) {
                    info!(key = %step.name, "Endpoint status reported");
                    // The agent is about to end if nobody listens.
                    let _: Result<(), _> = self.facts.send(fact);
                }
            }
            Err(error) => {
                if self.retries.failed(step.name.clone(), now) {
                    warn!(key = %step.name, error = %one_line(&error), "cannot report an endpoint status; it is tried again");
                }
            }
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
