//! One watch stream to one member, with several watches on it, and what came and was not looked at yet.
//!
//! ORDER: every watch begins with the revision at which the member creates it, and only then is anything read. Such a
//! watch never has to catch up, and watches of one stream that have nothing to catch up get their events in the order
//! of revisions, also across watches. A watch that began in the past would get its own past first.

use super::connection::{Member, RequestError};
use super::view::Stored;
use crate::clock;
use cutover_engine::BootTime;
use etcd_client::{EventType, WatchOptions, WatchResponse, WatchStream};
use std::collections::VecDeque;
use std::time::Duration;

/// LIMIT: how often a silent member is asked for a sign of life. A stopped process or a cut cable says nothing by itself.
const ASK_AFTER: Duration = Duration::from_secs(2);
/// LIMIT: a member that does not answer on an open stream for this long is left for another one.
const LOST_AFTER: Duration = Duration::from_secs(3);

/// Number of a watch on its stream.
pub(super) type WatchId = i64;

/// What a watch is about.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Extent {
    /// All keys that begin with the text.
    Prefix,
    /// The key.
    Exact,
}

/// A change of one key.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Change {
    pub(crate) key: Vec<u8>,
    pub(super) revision: i64,
    /// Nothing if the key was removed.
    pub(super) found: Option<Stored>,
}

impl Change {
    /// What the key has now.
    pub(crate) fn value(&self) -> Option<&[u8]> {
        self.found.as_ref().map(|found| found.value.as_slice())
    }
}

#[derive(Debug)]
pub(crate) struct Feed {
    member: Member,
    stream: WatchStream,
    /// In the order of revisions.
    waiting: VecDeque<Change>,
    created: Vec<WatchId>,
    next_id: WatchId,
    heard_at: BootTime,
    asked_at: Option<BootTime>,
}

impl Feed {
    /// Opens the stream with a first watch, and waits until it is there.
    pub(crate) async fn open(member: Member, key: &str, extent: Extent) -> Result<Self, RequestError> {
        let mut watch = member.watch();
        let stream = member.ask("watch", watch.watch(key, Some(options(1, extent)))).await?;
        let mut feed = Self {
            member,
            stream,
            waiting: VecDeque::new(),
            created: Vec::new(),
            next_id: 2,
            heard_at: clock::now(),
            asked_at: None,
        };
        feed.wait_created(1).await?;
        Ok(feed)
    }

    /// Adds a watch and waits until it is there. What comes meanwhile waits.
    pub(super) async fn add(&mut self, key: &str, extent: Extent) -> Result<WatchId, RequestError> {
        let id = self.next_id;
        self.next_id += 1;
        let added = self.stream.watch(key, Some(options(id, extent))).await;
        added.map_err(|error| self.member.error("watch", super::connection::describe(&error)))?;
        self.wait_created(id).await?;
        Ok(id)
    }

    /// Ends a watch. What it has sent already may still come.
    pub(super) async fn cancel(&mut self, id: WatchId) -> Result<(), RequestError> {
        let cancelled = self.stream.cancel(id).await;
        cancelled.map_err(|error| self.member.error("end a watch", super::connection::describe(&error)))
    }

    async fn wait_created(&mut self, id: WatchId) -> Result<(), RequestError> {
        while !self.created.contains(&id) {
            self.receive().await?;
        }
        self.created.retain(|created| *created != id);
        Ok(())
    }

    /// The next change.
    pub(crate) async fn next(&mut self) -> Result<Change, RequestError> {
        loop {
            if let Some(change) = self.waiting.pop_front() {
                return Ok(change);
            }
            self.receive().await?;
        }
    }

    /// The next change if it has come already.
    pub(super) fn next_waiting(&mut self) -> Option<Change> {
        self.waiting.pop_front()
    }

    /// Everything that has come and was not taken.
    pub(super) fn waiting(&self) -> impl Iterator<Item = &Change> {
        self.waiting.iter()
    }

    /// Puts a change that was found out by a request where it belongs.
    pub(super) fn insert(&mut self, change: Change) {
        let place = self.waiting.partition_point(|other| other.revision <= change.revision);
        self.waiting.insert(place, change);
    }

    /// Drops what is not later than `revision`.
    pub(crate) fn skip_to(&mut self, revision: i64) {
        self.waiting.retain(|change| change.revision > revision);
    }

    /// Waits for a request while what comes on the stream is taken in.
    pub(crate) async fn meanwhile<T>(
        &mut self,
        step: &'static str,
        request: impl Future<Output = Result<T, etcd_client::Error>>,
    ) -> Result<T, RequestError> {
        let member = self.member.clone();
        let mut answer = std::pin::pin!(member.ask(step, request));
        loop {
            tokio::select! {
                answer = &mut answer => return answer,
                received = self.receive() => received?,
            }
        }
    }

    /// Takes in the next message. Fails when the member is silent for too long.
    ///
    /// Nothing is lost when it is dropped while it waits.
    async fn receive(&mut self) -> Result<(), RequestError> {
        loop {
            let now = clock::now();
            let (since, limit) = match self.asked_at {
                Some(asked_at) => (asked_at, LOST_AFTER),
                None => (self.heard_at, ASK_AFTER),
            };
            let pause = limit.saturating_sub(now.since(since));
            match tokio::time::timeout(pause, self.stream.message()).await {
                Ok(Ok(Some(message))) => {
                    self.heard_at = clock::now();
                    self.asked_at = None;
                    return self.take(&message);
                }
                Ok(Ok(None)) => return Err(self.member.error("watch", "the member ended the stream")),
                Ok(Err(error)) => {
                    return Err(self.member.error("watch", super::connection::describe(&error)));
                }
                Err(_) if self.asked_at.is_some() => {
                    let reason = format!("no sign of life within {} s", LOST_AFTER.as_secs());
                    return Err(self.member.error("watch", reason));
                }
                Err(_) => {
                    // ORDER: noted before the request, which may wait for room in the stream.
                    self.asked_at = Some(clock::now());
                    let asked = tokio::time::timeout(LOST_AFTER, self.stream.request_progress()).await;
                    if !matches!(asked, Ok(Ok(()))) {
                        return Err(self.member.error("watch", "the stream takes no requests"));
                    }
                }
            }
        }
    }

    fn take(&mut self, message: &WatchResponse) -> Result<(), RequestError> {
        if message.compact_revision() > 0 {
            let reason = format!("history before revision {} is compacted", message.compact_revision());
            return Err(self.member.error("watch", reason));
        }
        if message.canceled() && !message.cancel_reason().is_empty() {
            return Err(self.member.error("watch", message.cancel_reason()));
        }
        if message.created() {
            self.created.push(message.watch_id());
        }
        for event in message.events() {
            let Some(kv) = event.kv() else { continue };
            let revision = kv.mod_revision();
            let found = (event.event_type() == EventType::Put)
                .then(|| Stored { value: kv.value().to_vec(), mod_revision: revision });
            self.insert(Change { key: kv.key().to_vec(), revision, found });
        }
        Ok(())
    }
}

fn options(id: WatchId, extent: Extent) -> WatchOptions {
    let options = WatchOptions::new().with_watch_id(id).with_fragment();
    match extent {
        Extent::Prefix => options.with_prefix(),
        Extent::Exact => options,
    }
}
