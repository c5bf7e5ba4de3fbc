//! What is known by key: pure, no connection and no clock.
//!
//! Owns the revision and a fingerprint of every value that was told, and which keys are quarantined because their present value
//! cannot be read. Turns changes and whole snapshots into what is news; the last good version of a quarantined key stays
//! in force. Values themselves are the engine's.

#[cfg(test)]
mod tests;

use super::keys::Key;
use crate::datastore::resource::{Format, Refusal, Resource, parse};
use crate::datastore::{Event, Quarantine};
use crate::settings::FelixConfiguration;
use cutover_engine::Fact;
use cutover_engine::model::EndpointKey;
use std::collections::{BTreeMap, BTreeSet};
use std::hash::{DefaultHasher, Hash as _, Hasher as _};

/// A value in etcd.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Stored {
    pub(super) value: Vec<u8>,
    /// Revision at which the value was written.
    pub(super) mod_revision: i64,
}

/// How a snapshot is related to what was known.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum History {
    /// The same one, later: a value with another revision was written meanwhile, even if it is equal (W34).
    Continued,
    /// Another one, as after restoring a backup: revisions mean nothing, only values count.
    Replaced,
}

/// Everything that is known.
#[derive(Debug, Default)]
pub(super) struct View {
    entries: BTreeMap<Key, Entry>,
    configurations: BTreeMap<String, FelixConfiguration>,
    quarantine: Quarantine,
    /// The last `InSync` that was told.
    announced: Option<bool>,
}

#[derive(Debug, Default)]
struct Entry {
    mod_revision: i64,
    fingerprint: u64,
    /// Whether a version of it is in force.
    is_told: bool,
    /// Why the present value is not.
    refusal: Option<String>,
    /// What was logged about elements of it, so that it is not said twice.
    notices: BTreeSet<String>,
}

/// News in the order in which they are to be told.
#[derive(Debug, Default)]
pub(super) struct News {
    pub(super) facts: Vec<Fact>,
    /// What became of other hosts' statuses. It is told after the endpoints and migrations that it is about, and together with
    /// them: who starts answers to both with one status, not with one for each.
    pub(super) statuses: Vec<Fact>,
    configurations_changed: bool,
    /// With these, every LiveMigration up to this revision is told.
    pub(super) migrations_at: Option<i64>,
}

impl News {
    /// Whether it says that this endpoint was written.
    pub(super) fn tells_endpoint(&self, endpoint: &EndpointKey) -> bool {
        self.facts.iter().any(|fact| matches!(fact, Fact::EndpointWritten(key, _) if key == endpoint))
    }
}

impl View {
    /// Whether something of this key is in force.
    pub(super) fn has(&self, key: &Key) -> bool {
        self.entries.get(key).is_some_and(|entry| entry.is_told)
    }

    /// Whether this key was ever seen and is not gone.
    pub(super) fn knows(&self, key: &Key) -> bool {
        self.entries.contains_key(key)
    }

    /// The same with their reasons, for people.
    pub(super) fn quarantine(&self) -> Quarantine {
        self.quarantine.clone()
    }

    /// How many keys have a value that cannot be read.
    pub(super) fn quarantined(&self) -> usize {
        self.entries.values().filter(|entry| entry.refusal.is_some()).count()
    }

    /// Whether there is no key of which nothing at all could be read.
    fn is_complete(&self) -> bool {
        self.entries.values().all(|entry| entry.is_told)
    }

    /// A value was written.
    pub(super) fn put(&mut self, key: &Key, found: &Stored, news: &mut News) {
        // What was read by a request may come again as an event.
        if self.entries.get(key).is_none_or(|entry| entry.mod_revision < found.mod_revision) {
            self.take(key, found, news);
        }
    }

    /// A key was removed, at this revision.
    pub(super) fn remove(&mut self, key: &Key, revision: i64, news: &mut News) {
        if self.entries.get(key).is_some_and(|entry| entry.mod_revision < revision) {
            self.forget(key, news);
        }
    }

    /// A key does not count any more, wherever it is now.
    pub(super) fn forget(&mut self, key: &Key, news: &mut News) {
        let Some(entry) = self.entries.remove(key) else { return };
        if entry.refusal.is_some() {
            self.quarantine.release(&name(key));
        }
        if !entry.is_told {
            return;
        }
        match key {
            Key::Migration(name) => news.facts.push(Fact::MigrationRemoved(name.clone())),
            Key::Endpoint(endpoint) => news.facts.push(Fact::EndpointRemoved(endpoint.clone())),
            Key::Configuration(name) => {
                self.configurations.remove(name);
                news.configurations_changed = true;
            }
            Key::Cluster | Key::Status(_) => {}
        }
    }

    /// Everything that there is now. What differs is told in the order in which a driver writes: migrations before
    /// endpoints, so that a rewritten endpoint is evidence for the migration that is gone. Nobody knows which of the endpoints
    /// came or went first, and one that is written after another has gone is evidence, too (W34): so those that
    /// are there come first.
    ///
    /// Takes the snapshot apart while it goes, so that values and what is made of them are not there twice.
    pub(super) fn replace(&mut self, snapshot: BTreeMap<Key, Stored>, history: History) -> News {
        let mut news = News::default();
        let got_older = |(key, found): (&Key, &Stored)| {
            self.entries.get(key).is_some_and(|entry| entry.mod_revision > found.mod_revision)
        };
        // The identity of a restored cluster may be the same, and its revision may have caught up.
        let history = if snapshot.iter().any(got_older) { History::Replaced } else { history };
        let is_endpoint = |key: &Key| matches!(key, Key::Endpoint(_));
        let gone = self.entries.keys().filter(|key| !snapshot.contains_key(*key)).cloned();
        let (endpoints_gone, others_gone): (Vec<Key>, Vec<Key>) = gone.partition(is_endpoint);
        let (endpoints, others): (BTreeMap<Key, Stored>, BTreeMap<Key, Stored>) =
            snapshot.into_iter().partition(|(key, _)| is_endpoint(key));
        for key in &others_gone {
            self.forget(key, &mut news);
        }
        for (key, found) in others.into_iter().chain(endpoints) {
            self.compare(&key, &found, history, &mut news);
        }
        for key in &endpoints_gone {
            self.forget(key, &mut news);
        }
        news
    }

    fn compare(&mut self, key: &Key, found: &Stored, history: History, news: &mut News) {
        let Some(entry) = self.entries.get_mut(key) else { return self.take(key, found, news) };
        let is_same = entry.fingerprint == fingerprint(&found.value);
        let is_news = match history {
            History::Continued => entry.mod_revision != found.mod_revision || !is_same,
            History::Replaced => !is_same,
        };
        if is_news {
            self.take(key, found, news);
        } else {
            entry.mod_revision = found.mod_revision;
        }
    }

    fn take(&mut self, key: &Key, found: &Stored, news: &mut News) {
        let entry = self.entries.entry(key.clone()).or_default();
        entry.mod_revision = found.mod_revision;
        entry.fingerprint = fingerprint(&found.value);
        match interpret(key, &found.value) {
            Ok((resource, notices)) => {
                let said: BTreeSet<String> = notices.into_iter().collect();
                for line in said.difference(&entry.notices) {
                    tracing::warn!(key = %name(key), "{line}");
                }
                if entry.refusal.take().is_some() {
                    self.quarantine.release(&name(key));
                    tracing::info!(key = %name(key), "value is readable again");
                }
                entry.notices = said;
                entry.is_told = true;
                self.tell(resource, news);
            }
            Err(refusal) => {
                let kept = if entry.is_told {
                    "its last good version stays in force"
                } else {
                    "nothing of it is used"
                };
                let line = format!("{refusal}; {kept} until it is mended");
                if entry.refusal.as_ref() != Some(&line) {
                    tracing::error!(key = %name(key), "value refused: {line}");
                }
                self.quarantine.put(name(key), line.clone());
                entry.refusal = Some(line);
            }
        }
    }

    fn tell(&mut self, resource: Resource, news: &mut News) {
        match resource {
            Resource::Migration(name, migration) => news.facts.push(Fact::MigrationWritten(name, migration)),
            Resource::Endpoint(key, endpoint) => news.facts.push(Fact::EndpointWritten(key, endpoint)),
            Resource::Configuration(configuration) => {
                let before = self.configurations.insert(configuration.name.clone(), configuration.clone());
                news.configurations_changed |= before.as_ref() != Some(&configuration);
            }
            Resource::Cluster(_) | Resource::Other => {}
        }
    }

    /// What to send. INVARIANT: the first news are those of a whole snapshot, so that the first events say that it is in sync.
    pub(super) fn events(&mut self, news: News) -> Vec<Event> {
        let mut events = Vec::new();
        let News { mut facts, statuses, configurations_changed, migrations_at } = news;
        let complete = self.is_complete();
        if configurations_changed || self.announced.is_none() {
            events.push(Event::Configurations(self.configurations.values().cloned().collect()));
        }
        if self.announced != Some(complete) {
            facts.push(Fact::InSync { complete });
            self.announced = Some(complete);
        }
        facts.extend(statuses);
        if !facts.is_empty() {
            events.push(Event::Facts(facts));
        }
        // ORDER: after what it is about.
        events.extend(migrations_at.map(Event::MigrationsTold));
        events
    }
}

/// What the log calls a key.
fn name(key: &Key) -> String {
    match key {
        Key::Migration(name) => format!("LiveMigration {name}"),
        Key::Endpoint(endpoint) => format!("WorkloadEndpoint {endpoint}"),
        Key::Configuration(name) => format!("FelixConfiguration {name}"),
        Key::Cluster => "ClusterInformation default".to_owned(),
        Key::Status(endpoint) => format!("status of {endpoint}"),
    }
}

fn fingerprint(value: &[u8]) -> u64 {
    let mut hasher = DefaultHasher::new();
    value.hash(&mut hasher);
    hasher.finish()
}

/// Reads a value as what its key says it is. The key's name counts, as for Felix.
pub(super) fn interpret(key: &Key, value: &[u8]) -> Result<(Resource, Vec<String>), Refusal> {
    let refuse = |reason: String| Refusal { line: None, reason };
    let text =
        std::str::from_utf8(value).map_err(|error| refuse(format!("it is not UTF-8 text: {error}")))?;
    let mut parsed = parse(text, Format::Json)?;
    let resource = match (key, parsed.resource) {
        (Key::Migration(name), Resource::Migration(_, migration)) => {
            Resource::Migration(name.clone(), migration)
        }
        (Key::Endpoint(endpoint), Resource::Endpoint(said, contents)) => {
            if said != *endpoint {
                parsed.notices.push(format!("its value is about {said}; the key counts"));
            }
            Resource::Endpoint(endpoint.clone(), contents)
        }
        (Key::Configuration(name), Resource::Configuration(configuration)) => {
            Resource::Configuration(FelixConfiguration { name: name.clone(), ..configuration })
        }
        (Key::Cluster, Resource::Cluster(cluster)) => Resource::Cluster(cluster),
        _ => return Err(refuse("its value is of another kind than its key".to_owned())),
    };
    Ok((resource, parsed.notices))
}
