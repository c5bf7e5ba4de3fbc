//! The etcd datastore: Calico's resources as an unmodified Neutron driver writes them.
//!
//! Owns one task that follows one member of the cluster at a time and leaves it for the next one when it fails. It never writes.
//! What was told stays told while no member can be reached or the datastore is not ready: routes are kept, announcements are
//! acted on. Afterwards only the difference is told. The agent starts it and takes its events; dropping it ends the task.

mod configurations;
mod connection;
mod feed;
mod keys;
mod look;
mod others;
mod session;
mod view;
mod writer;

pub use configurations::configurations;
pub use connection::{Cluster, ClusterError, Member, RequestError};
pub(crate) use feed::{Change, Extent, Feed};
#[cfg(test)]
pub(crate) use keys::fuzz::key as fuzz_key;
pub use keys::{Key, Keys};
pub use look::{MemberLook, Permission, look, look_at_hosts};
pub use writer::Writer;

use super::{EVENTS_MAX, Event, Quarantine, Standing};
use crate::clock;
use crate::retry::BackOff;
use cutover_engine::memory::Memory;
use cutover_engine::model::EndpointKey;
use session::{Outputs, Reader, Stop};
use std::collections::BTreeSet;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::time::Duration;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;

/// What happens to the statuses that this host reports, whoever does it.
pub type OwnStatuses = mpsc::UnboundedReceiver<OwnStatus>;

/// One of them.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum OwnStatus {
    /// A key has this value now, or none.
    Seen {
        /// The key.
        key: String,
        /// Its value.
        value: Option<Vec<u8>>,
    },
    /// Something may have happened that nobody saw.
    Unknown,
}

/// LIMIT: a member that could be followed for this long was worth it; the next one is tried without a pause.
const WORTH_IT_AFTER: Duration = Duration::from_secs(10);

/// LIMIT: how long after the end of an outage it may go unnoticed; a thousand hosts look for their cluster three hundred times a second.
const PAUSE_MAX: Duration = Duration::from_secs(3);

/// A running etcd datastore.
#[derive(Debug)]
pub struct Etcd {
    events: mpsc::Receiver<Event>,
    questions: mpsc::UnboundedSender<EndpointKey>,
    ready: watch::Receiver<bool>,
    quarantine: Quarantine,
    standing: Standing,
    task: JoinHandle<()>,
}

impl Etcd {
    /// Begins to follow the cluster, however long it takes to reach it. `remembered` says which endpoints of other hosts matter
    /// because of the agent's last life.
    #[must_use]
    pub fn start(cluster: Cluster, keys: Keys, remembered: &Memory) -> (Self, OwnStatuses) {
        let (sender, events) = mpsc::channel(EVENTS_MAX);
        let first = number(keys.host()) % cluster.endpoints().len();
        let (questions, questions_out) = mpsc::unbounded_channel();
        let (ready_in, ready) = watch::channel(false);
        let (own_in, own_statuses) = mpsc::unbounded_channel();
        let standing = Standing::default();
        let outputs =
            Outputs { events: sender, own_statuses: own_in, ready: ready_in, standing: standing.clone() };
        let reader = Reader::new(keys, remembered, outputs, questions_out);
        let quarantine = reader.quarantine();
        let task = tokio::spawn(run(reader, cluster, first, standing.clone()));
        (Self { events, questions, ready, quarantine, standing, task }, own_statuses)
    }

    /// Where to send endpoints of which the datastore has to say whether it has them. The answers are facts; there is none
    /// while the cluster cannot be followed, nor afterwards.
    #[must_use]
    pub fn questions(&self) -> mpsc::UnboundedSender<EndpointKey> {
        self.questions.clone()
    }

    /// What cannot be read.
    #[must_use]
    pub fn quarantine(&self) -> Quarantine {
        self.quarantine.clone()
    }

    /// Why the cluster is not followed, if it is not.
    #[must_use]
    pub fn standing(&self) -> Standing {
        self.standing.clone()
    }

    /// Whether the datastore said last that it is ready. It stays so while no member can be reached.
    #[must_use]
    pub fn ready(&self) -> watch::Receiver<bool> {
        self.ready.clone()
    }

    /// The next event; nothing if the task has ended, which it does not do by itself.
    pub async fn next(&mut self) -> Option<Event> {
        self.events.recv().await
    }
}

impl Drop for Etcd {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Spreads the hosts of a cloud over the members.
fn number(host: &str) -> usize {
    let mut hasher = DefaultHasher::new();
    host.hash(&mut hasher);
    usize::try_from(hasher.finish() >> 33).unwrap_or(0)
}

async fn run(mut reader: Reader, cluster: Cluster, mut next: usize, standing: Standing) {
    let members = cluster.endpoints().len();
    let mut back_off = BackOff::up_to(PAUSE_MAX);
    let mut failed = 0;
    // What was logged since the datastore was followed last.
    let mut said = BTreeSet::new();
    loop {
        let endpoint = &cluster.endpoints()[next % members];
        next += 1;
        let began_at = clock::now();
        let was_read = reader.times_read();
        let stop = match cluster.connect(endpoint).await {
            Ok(member) => reader.follow(member).await,
            Err(error) => Stop::Lost(error),
        };
        if reader.times_read() > was_read {
            said.clear();
        }
        match stop {
            Stop::NobodyListens => return,
            Stop::Lost(error) => {
                let line = error.to_string();
                standing.is_bad(format!("lost: {line}"));
                if said.insert(line.clone()) {
                    tracing::warn!(error = %line, "Datastore lost; everything stays as it is while it is looked for");
                }
            }
        }
        if reader.times_read() > was_read && clock::now().since(began_at) >= WORTH_IT_AFTER {
            back_off.reset();
            failed = 0;
            continue;
        }
        failed += 1;
        if failed % members == 0 {
            tokio::time::sleep(back_off.next_pause()).await;
        }
    }
}
