//! The ready applier: asks the operator's command whether what else is on this host is ready for an endpoint.
//!
//! Owns the runs of `CutoverReadyCommand`: which endpoint is asked about next, how many at once, when to ask again. The
//! engine says what is asked and what waits for the answer, which is only the status `up`. The agent starts this beside
//! the other appliers; none of them waits for it.

mod command;
mod document;

pub use command::Running;

use super::WantedReceiver;
use crate::clock;
use crate::logging::one_line;
use crate::retry::Retries;
use command::RunError;
use cutover_engine::shared::{Difference, SharedMap};
use cutover_engine::wanted::{Question, WantedCheck};
use cutover_engine::{BootTime, EndpointKey, Fact};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;
use tokio::sync::mpsc::UnboundedSender;
use tokio::sync::oneshot;
use tokio::task::JoinSet;
use tracing::{info, warn};

/// LIMIT: a full host that starts has ten thousand endpoints to ask about, beside everything else that it does. As many
/// again are kept for targets of migrations, so that none of these waits for a command that hangs.
const AT_ONCE: usize = 8;

type Checks = SharedMap<Arc<EndpointKey>, WantedCheck>;

/// A run with how it ended; nothing if it was given up.
type Ended = (Arc<EndpointKey>, Arc<Question>, Option<Result<(), RunError>>);

/// A run that has not ended.
#[derive(Debug)]
struct Run {
    question: Arc<Question>,
    is_awaited: bool,
    /// Dropped to give it up; the next run for the endpoint starts after its end.
    go_on: Option<oneshot::Sender<()>>,
}

/// The applier.
#[derive(Debug)]
pub struct ReadyApplier {
    commands: Running,
    facts: UnboundedSender<Fact>,
    checks: Checks,
    runs: BTreeMap<Arc<EndpointKey>, Run>,
    running: JoinSet<Ended>,
    /// Questions answered with yes that the engine still asks.
    answered: BTreeMap<Arc<EndpointKey>, Arc<Question>>,
    retries: Retries<Arc<EndpointKey>>,
    last_attempt_at: BootTime,
    /// Commands of which the log says that they cannot be started, which is no endpoint's fault.
    unstartable: BTreeSet<Arc<Path>>,
}

impl ReadyApplier {
    /// An applier that has asked nothing yet.
    #[must_use]
    pub fn new(commands: Running, facts: UnboundedSender<Fact>) -> Self {
        Self {
            commands,
            facts,
            checks: Checks::default(),
            runs: BTreeMap::new(),
            running: JoinSet::new(),
            answered: BTreeMap::new(),
            retries: Retries::default(),
            last_attempt_at: BootTime::default(),
            unstartable: BTreeSet::new(),
        }
    }

    /// Asks until the sender of the wanted sets is gone.
    pub async fn run(mut self, mut wanted: WantedReceiver) {
        wanted.mark_changed();
        loop {
            let due = self.retries.next_after(self.last_attempt_at);
            tokio::select! {
                changed = wanted.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    let newest = wanted.borrow_and_update().as_ref().map(|wanted| wanted.checks.clone());
                    self.take(newest.unwrap_or_default());
                }
                Some(ended) = self.running.join_next() => match ended {
                    Ok((endpoint, question, result)) => self.finished(endpoint, &question, result),
                    // A defect ends the applier, which ends the agent.
                    Err(error) => std::panic::resume_unwind(error.into_panic()),
                },
                () = clock::sleep_until(due) => {}
            }
            self.start();
        }
    }

    /// Takes new questions in. A run about what is not asked any more is given up; the next one waits for its end.
    fn take(&mut self, checks: Checks) {
        for Difference { key, before, now } in checks.differences(&self.checks) {
            let question = now.map(|check| &check.question);
            if question == before.map(|check| &check.question) {
                continue;
            }
            self.retries.succeeded(key);
            self.answered.remove(key);
            if let Some(run) = self.runs.get_mut(key).filter(|run| question != Some(&run.question)) {
                run.go_on = None;
            }
        }
        self.checks = checks;
        // The engine forgot the answer together with the endpoint, which came back before anybody looked.
        for (key, question) in &self.answered {
            self.tell(key, question);
        }
    }

    fn start(&mut self) {
        let now = clock::now();
        self.last_attempt_at = now;
        for is_awaited in [true, false] {
            let busy = self.runs.values().filter(|run| run.is_awaited == is_awaited).count();
            // LIMIT: goes through the open questions, which are many only when the agent starts.
            let next: Vec<_> = self
                .checks
                .iter()
                .filter(|(key, check)| check.is_awaited == is_awaited && self.may_start(key, now))
                .take(AT_ONCE.saturating_sub(busy))
                .map(|(key, check)| (Arc::clone(key), check.clone()))
                .collect();
            for (endpoint, check) in next {
                self.start_one(endpoint, &check);
            }
        }
    }

    fn may_start(&self, key: &Arc<EndpointKey>, now: BootTime) -> bool {
        !self.runs.contains_key(key) && !self.answered.contains_key(key) && !self.retries.holds(key, now)
    }

    fn start_one(&mut self, endpoint: Arc<EndpointKey>, check: &WantedCheck) {
        let (go_on, mut given_up) = oneshot::channel::<()>();
        let question = Arc::clone(&check.question);
        let run = Run { question: Arc::clone(&question), is_awaited: check.is_awaited, go_on: Some(go_on) };
        self.runs.insert(Arc::clone(&endpoint), run);
        let input = document::render(&endpoint, check);
        let commands = self.commands.clone();
        self.running.spawn(async move {
            let stop = async { drop((&mut given_up).await) };
            let result = commands.run(&question.command, input, stop).await;
            (endpoint, question, result)
        });
    }

    fn finished(
        &mut self,
        endpoint: Arc<EndpointKey>,
        question: &Arc<Question>,
        result: Option<Result<(), RunError>>,
    ) {
        self.runs.remove(&endpoint);
        if self.checks.get(&endpoint).is_none_or(|check| check.question != *question) {
            return;
        }
        match result {
            None => {}
            Some(Ok(())) => {
                self.unstartable.remove(&question.command);
                if self.retries.has_failed(&endpoint) {
                    info!(%endpoint, "Ready command passes");
                }
                self.retries.succeeded(&endpoint);
                self.tell(&endpoint, question);
                self.answered.insert(endpoint, Arc::clone(question));
            }
            Some(Err(error)) => self.failed(endpoint, question, &error),
        }
    }

    fn failed(&mut self, endpoint: Arc<EndpointKey>, question: &Question, error: &RunError) {
        let is_first = self.retries.failed(Arc::clone(&endpoint), clock::now());
        let is_news = match error {
            RunError::Start { .. } => self.unstartable.insert(Arc::clone(&question.command)),
            _ => {
                self.unstartable.remove(&question.command);
                is_first
            }
        };
        if is_news {
            let command = question.command.display();
            warn!(
                %endpoint, %command, error = %one_line(error),
                "Ready command does not pass; the endpoint is not reported up before it does, and it is run again"
            );
        }
    }

    fn tell(&self, endpoint: &EndpointKey, question: &Arc<Question>) {
        let (endpoint, question) = (endpoint.clone(), Arc::clone(question));
        // The receiver is gone only while the agent stops.
        let _: Result<(), _> = self.facts.send(Fact::EndpointReady { endpoint, question });
    }
}

#[cfg(test)]
mod tests;
