//! Following one member: wait until the datastore is ready, read everything at one revision, take every later change.

mod other_hosts;
mod snapshot;

use super::OwnStatus;
use super::connection::{Member, RequestError};
use super::feed::{Change, Extent, Feed};
use super::keys::{Key, Keys};
use super::others::Others;
use super::view::{News, Stored, View, interpret};
use crate::clock;
use crate::datastore::resource::Resource;
use crate::datastore::{Event, Quarantine, Standing};
use cutover_engine::Fact;
use cutover_engine::memory::Memory;
use cutover_engine::model::EndpointKey;
use etcd_client::{GetOptions, GetResponse, KeyValue};
use std::collections::BTreeSet;
use std::time::Duration;
use tokio::sync::{mpsc, watch};

/// LIMIT: how late an endpoint that does not matter any more is dropped; it costs two watches until then.
const TIDY_EVERY: Duration = Duration::from_secs(30);

/// LIMIT: names that are remembered to have been refused; nobody reads the lines of more.
const STRANGE_MAX: usize = 1000;

/// Why a member is no longer followed.
#[derive(Debug)]
pub(super) enum Stop {
    /// The agent does not want events any more.
    NobodyListens,
    /// It failed.
    Lost(RequestError),
}

impl From<RequestError> for Stop {
    fn from(error: RequestError) -> Self {
        Self::Lost(error)
    }
}

/// Whom the reader tells what.
#[derive(Debug)]
pub(super) struct Outputs {
    pub(super) events: mpsc::Sender<Event>,
    pub(super) own_statuses: mpsc::UnboundedSender<OwnStatus>,
    /// The ready flag.
    pub(super) ready: watch::Sender<bool>,
    /// Why the datastore is not followed.
    pub(super) standing: Standing,
}

/// What outlives a connection.
#[derive(Debug)]
pub(super) struct Reader {
    keys: Keys,
    /// What the keys of the statuses begin with that this host reports.
    own_statuses: String,
    view: View,
    others: Others,
    outputs: Outputs,
    /// Endpoints that somebody wants to know about.
    questions: mpsc::UnboundedReceiver<EndpointKey>,
    /// Cluster and revision that were read or seen last.
    seen: Option<(u64, i64)>,
    times_read: u64,
    /// Whether the log says that the datastore is not ready.
    unready_logged: bool,
    /// Keys whose name says nothing, so that it is said once.
    strange: BTreeSet<String>,
}

impl Reader {
    pub(super) fn new(
        keys: Keys,
        remembered: &Memory,
        outputs: Outputs,
        questions: mpsc::UnboundedReceiver<EndpointKey>,
    ) -> Self {
        Self {
            own_statuses: keys.statuses(),
            keys,
            view: View::default(),
            others: Others::new(remembered),
            outputs,
            questions,
            seen: None,
            times_read: 0,
            unready_logged: false,
            strange: BTreeSet::new(),
        }
    }

    /// What cannot be read.
    pub(super) fn quarantine(&self) -> Quarantine {
        self.view.quarantine()
    }

    /// How many times everything was read.
    pub(super) const fn times_read(&self) -> u64 {
        self.times_read
    }

    /// Follows a member until it fails.
    pub(super) async fn follow(&mut self, member: Member) -> Stop {
        match self.follow_until_lost(member).await {
            Ok(never) => match never {},
            Err(stop) => stop,
        }
    }

    async fn follow_until_lost(&mut self, member: Member) -> Result<std::convert::Infallible, Stop> {
        let mut feed = Feed::open(member.clone(), &self.keys.cluster(), Extent::Exact).await?;
        let read = [self.keys.own_endpoints(), self.keys.migrations(), self.keys.configurations()];
        for prefix in read.into_iter().chain([self.keys.statuses()]) {
            feed.add(&prefix, Extent::Prefix).await?;
        }
        for other in self.others.keys() {
            self.watch_other(&mut feed, &other).await?;
        }
        loop {
            self.wait_ready(&member, &mut feed).await?;
            if self.read_everything(&member, &mut feed).await? {
                self.follow_changes(&member, &mut feed).await?;
            }
        }
    }

    /// Waits for the ready flag. Whatever else changes is read afterwards.
    async fn wait_ready(&mut self, member: &Member, feed: &mut Feed) -> Result<(), Stop> {
        let key = self.keys.cluster();
        loop {
            let answer = get(member, feed, &key, GetOptions::new()).await?;
            let ready = is_ready(answer.kvs().first());
            self.outputs.ready.send_if_modified(|before| std::mem::replace(before, ready) != ready);
            if ready {
                if std::mem::take(&mut self.unready_logged) {
                    tracing::info!("Datastore ready");
                }
                return Ok(());
            }
            self.outputs
                .standing
                .is_bad("not ready: ClusterInformation default is missing or its datastoreReady is not true");
            if !std::mem::replace(&mut self.unready_logged, true) {
                tracing::warn!(
                    endpoint = member.endpoint(),
                    "Datastore not ready: ClusterInformation default is missing or its datastoreReady is not true; nothing of it is used until it is"
                );
            }
            while feed.next().await?.key != key.as_bytes() {}
        }
    }

    /// Takes changes as they come. Returns when the datastore is not ready any more, or when everything has to be read again.
    async fn follow_changes(&mut self, member: &Member, feed: &mut Feed) -> Result<(), Stop> {
        let mut news = News::default();
        let mut tidied_at = clock::now();
        loop {
            let change = match feed.next_waiting() {
                Some(change) => change,
                None => {
                    self.send(std::mem::take(&mut news)).await?;
                    if clock::now().since(tidied_at) >= TIDY_EVERY {
                        self.tidy(feed, &mut news).await?;
                        tidied_at = clock::now();
                        continue;
                    }
                    tokio::select! {
                        change = feed.next() => change?,
                        Some(endpoint) = self.questions.recv() => {
                            self.look_up(member, feed, endpoint).await?;
                            continue;
                        }
                        () = tokio::time::sleep(TIDY_EVERY) => continue,
                    }
                }
            };
            if change.key.starts_with(self.own_statuses.as_bytes()) {
                self.note_own_status(change);
                continue;
            }
            if !self.is_in_order(change.revision) {
                tracing::info!(
                    endpoint = member.endpoint(),
                    "Datastore is ahead of what its member sends; reading everything"
                );
                self.note_skipped(&change);
                feed.waiting().for_each(|skipped| self.note_skipped(skipped));
                return self.send(news).await;
            }
            if change.key.starts_with(self.keys.migrations().as_bytes()) {
                news.migrations_at = Some(change.revision);
            }
            let Some(key) = self.parse(&change.key) else { continue };
            match &key {
                Key::Cluster => {
                    let value = change.found.as_ref().map(|found| found.value.as_slice());
                    if !value.is_some_and(says_ready) {
                        return self.send(news).await;
                    }
                }
                Key::Status(other) => news.facts.extend(self.note_status(other, change.found.as_ref(), None)),
                Key::Endpoint(endpoint) if self.is_new_here(endpoint, &change) => {
                    self.send(std::mem::take(&mut news)).await?;
                    self.read_migration_of(member, feed, endpoint, change.revision, &mut news).await?;
                    self.take(member, feed, &key, &change, &mut news).await?;
                }
                _ => self.take(member, feed, &key, &change, &mut news).await?,
            }
        }
    }

    /// Answers whether an endpoint exists. What a member says that has lost the others, or a watch that has fallen behind, is
    /// not enough: this asks the cluster.
    async fn look_up(&mut self, member: &Member, feed: &mut Feed, endpoint: EndpointKey) -> Result<(), Stop> {
        let at = clock::now();
        let answer = get(member, feed, &self.keys.endpoint(&endpoint), GetOptions::new()).await?;
        let exists = !answer.kvs().is_empty();
        if let Some(kv) = answer.kvs().first()
            && self.seen.is_some_and(|(_, seen)| kv.mod_revision() > seen)
        {
            // It was created again, and the watch is late with it. What is older has been taken.
            feed.insert(Change {
                key: kv.key().to_vec(),
                revision: kv.mod_revision(),
                found: Some(found(kv)),
            });
        }
        let fact = Fact::EndpointLookedUp { endpoint, at, exists };
        self.outputs.events.send(Event::Facts(vec![fact])).await.map_err(|_| Stop::NobodyListens)
    }

    /// Watches of one stream are in the order of revisions only as long as the member keeps up with all of them. Out of order, an
    /// older write of a source's endpoint would look like one after the end of its migration.
    fn is_in_order(&mut self, revision: i64) -> bool {
        let Some((_, seen)) = &mut self.seen else { return true };
        let is_in_order = revision >= *seen;
        *seen = revision.max(*seen);
        is_in_order
    }

    async fn take(
        &mut self,
        member: &Member,
        feed: &mut Feed,
        key: &Key,
        change: &Change,
        news: &mut News,
    ) -> Result<(), Stop> {
        let before = news.facts.len();
        match &change.found {
            Some(found) => self.view.put(key, found, news),
            None => self.view.remove(key, change.revision, news),
        }
        let named = self.named(&news.facts[before..]);
        for other in named {
            self.send(std::mem::take(news)).await?;
            self.follow_other(member, feed, &other, change.revision).await?;
        }
        Ok(())
    }

    /// Whether a change creates an endpoint of this host that no known migration is about.
    fn is_new_here(&self, endpoint: &EndpointKey, change: &Change) -> bool {
        change.found.is_some()
            && endpoint.host == self.keys.host()
            && !self.view.knows(&Key::Endpoint(endpoint.clone()))
            && !self.view.has(&Key::Migration(endpoint.to_string()))
    }

    /// A new endpoint may be a migration's target, and would get routes at once if it were not (W13). When a member
    /// has fallen behind, it may send the endpoint before the migration, so this asks.
    async fn read_migration_of(
        &mut self,
        member: &Member,
        feed: &mut Feed,
        endpoint: &EndpointKey,
        revision: i64,
        news: &mut News,
    ) -> Result<(), Stop> {
        let name = endpoint.to_string();
        let at = GetOptions::new().with_revision(revision);
        let answer = get(member, feed, &self.keys.migration(&name), at).await?;
        let Some(kv) = answer.kvs().first() else { return Ok(()) };
        let change = Change { key: kv.key().to_vec(), revision, found: Some(found(kv)) };
        self.take(member, feed, &Key::Migration(name), &change, news).await
    }

    /// Nothing here depends on it, nor on its order among the others.
    fn note_own_status(&self, change: Change) {
        let key = String::from_utf8_lossy(&change.key).into_owned();
        let value = change.found.map(|found| found.value);
        // The publisher may be off.
        let _ = self.outputs.own_statuses.send(OwnStatus::Seen { key, value });
    }

    fn parse(&mut self, key: &[u8]) -> Option<Key> {
        let text = String::from_utf8_lossy(key);
        let parsed = self.keys.parse(&text);
        if parsed.is_none()
            && self.strange.len() < STRANGE_MAX
            && self.strange.insert(text.clone().into_owned())
        {
            tracing::error!(key = %text, "key refused: its name is not one that a driver writes");
        }
        parsed
    }

    async fn send(&mut self, news: News) -> Result<(), Stop> {
        for event in self.view.events(news) {
            self.outputs.events.send(event).await.map_err(|_| Stop::NobodyListens)?;
        }
        Ok(())
    }
}

async fn get(
    member: &Member,
    feed: &mut Feed,
    key: &str,
    options: GetOptions,
) -> Result<GetResponse, RequestError> {
    let mut kv = member.kv();
    feed.meanwhile("read", kv.get(key, Some(options))).await
}

fn found(kv: &KeyValue) -> Stored {
    Stored { value: kv.value().to_vec(), mod_revision: kv.mod_revision() }
}

pub(super) fn is_ready(kv: Option<&KeyValue>) -> bool {
    kv.is_some_and(|kv| says_ready(kv.value()))
}

fn says_ready(value: &[u8]) -> bool {
    matches!(interpret(&Key::Cluster, value), Ok((Resource::Cluster(cluster), _)) if cluster.ready)
}
