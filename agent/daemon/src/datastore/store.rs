//! What is in force: the last good version of every file, one owner for every resource, and what changed.

use super::Event;
use super::documents::Document;
use super::resource::{Refusal, Resource};
use crate::settings::FelixConfiguration;
use cutover_engine::Fact;
use cutover_engine::model::EndpointKey;
use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::{Path, PathBuf};

/// What makes two documents the same resource.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum ResourceId {
    /// A LiveMigration, by name.
    Migration(String),
    /// A WorkloadEndpoint.
    Endpoint(EndpointKey),
    /// A FelixConfiguration, by name.
    Configuration(String),
}

impl ResourceId {
    /// The identity of a resource, if the agent has a use for it.
    #[must_use]
    pub fn of(resource: &Resource) -> Option<Self> {
        match resource {
            Resource::Endpoint(key, _) => Some(Self::Endpoint(key.clone())),
            Resource::Migration(name, _) => Some(Self::Migration(name.clone())),
            Resource::Configuration(configuration) => Some(Self::Configuration(configuration.name.clone())),
            // A directory needs no ready flag.
            Resource::Cluster(_) | Resource::Other => None,
        }
    }
}

impl fmt::Display for ResourceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Migration(name) => write!(f, "LiveMigration {name}"),
            Self::Endpoint(key) => write!(f, "WorkloadEndpoint {key}"),
            Self::Configuration(name) => write!(f, "FelixConfiguration {name}"),
        }
    }
}

/// The contents of all files.
#[derive(Debug, Default)]
pub(super) struct Store {
    /// Resources that each file defines, in its last good version.
    files: BTreeMap<PathBuf, BTreeSet<ResourceId>>,
    /// Every definition of a resource; the first in the order of paths is in force.
    definitions: BTreeMap<ResourceId, BTreeMap<PathBuf, Resource>>,
    /// Files whose present content is refused, with the line that was logged about it.
    refused: BTreeMap<PathBuf, String>,
    /// What was logged about elements and duplicates of each file, so that it is not said twice.
    notices: BTreeMap<PathBuf, BTreeSet<String>>,
    touched: BTreeMap<ResourceId, Touch>,
    touches: u64,
}

/// What happened to a resource since the last batch.
#[derive(Debug)]
struct Touch {
    /// What was in force before.
    before: Option<Resource>,
    /// Whether the definition in force was written, perhaps with the same content.
    written: bool,
    /// How many touches of whatever there had been when this one was touched last.
    position: u64,
}

impl Store {
    /// A file was read and is good. `rewritten` says that it was written since it was read last, so that equal content is
    /// news, too (W34). Lines to log are returned.
    pub(super) fn put(&mut self, path: &Path, documents: Vec<Document>, rewritten: bool) -> Vec<String> {
        self.refused.remove(path);
        let mut new = BTreeMap::new();
        let mut said = BTreeSet::new();
        for document in documents {
            said.extend(document.parsed.notices);
            let Some(id) = ResourceId::of(&document.parsed.resource) else { continue };
            match new.entry(id) {
                Entry::Occupied(first) => {
                    said.insert(format!(
                        "{} is defined twice in this file, the first one counts",
                        first.key()
                    ));
                }
                Entry::Vacant(free) => {
                    free.insert(document.parsed.resource);
                }
            }
        }
        let old = self.files.remove(path).unwrap_or_default();
        for id in old.iter().filter(|id| !new.contains_key(*id)) {
            self.undefine(id, path);
        }
        self.files.insert(path.to_owned(), new.keys().cloned().collect());
        for (id, resource) in new {
            if let Some(owner) = self.define(id.clone(), path, resource, rewritten) {
                said.insert(format!(
                    "{id} is refused here, {} defines it, too, and comes first",
                    owner.display()
                ));
            }
        }
        self.only_new(path, said)
    }

    /// A file is there but cannot be used; its last good version stays in force. The line to log, if it is news.
    pub(super) fn refuse(&mut self, path: &Path, refusal: &Refusal) -> Option<String> {
        let kept = if self.files.contains_key(path) {
            "its last good version stays in force"
        } else {
            "nothing of it is used"
        };
        let line = format!("{refusal}; {kept} until it is mended");
        let news = self.refused.get(path) != Some(&line);
        self.refused.insert(path.to_owned(), line.clone());
        news.then_some(line)
    }

    /// A file is gone.
    pub(super) fn remove(&mut self, path: &Path) {
        self.refused.remove(path);
        self.notices.remove(path);
        for id in self.files.remove(path).unwrap_or_default() {
            self.undefine(&id, path);
        }
    }

    /// Every file that something is known about.
    pub(super) fn paths(&self) -> BTreeSet<PathBuf> {
        self.files.keys().chain(self.refused.keys()).cloned().collect()
    }

    /// The files whose present content is refused, each with what was logged about it.
    pub(super) fn refused(&self) -> BTreeMap<String, String> {
        self.refused.iter().map(|(path, line)| (path.display().to_string(), line.clone())).collect()
    }

    /// Whether the present content of a file is refused.
    pub(super) fn is_refused(&self, path: &Path) -> bool {
        self.refused.contains_key(path)
    }

    /// Whether the last good version of a file has resources in it.
    pub(super) fn defines_something(&self, path: &Path) -> bool {
        self.files.get(path).is_some_and(|ids| !ids.is_empty())
    }

    /// Whether nothing is missing: every file has a good version.
    pub(super) fn is_complete(&self) -> bool {
        self.refused.keys().all(|path| self.files.contains_key(path))
    }

    /// All FelixConfiguration resources in force.
    pub(super) fn configurations(&self) -> Vec<FelixConfiguration> {
        let in_force = self.definitions.values().filter_map(|by_path| by_path.values().next());
        let configurations = in_force.filter_map(|resource| match resource {
            Resource::Configuration(configuration) => Some(configuration.clone()),
            _ => None,
        });
        configurations.collect()
    }

    /// What happened since the last call.
    ///
    /// ORDER: as a driver writes. Migrations come first, so that an endpoint is never seen without the migration that it
    /// belongs to, and a rewritten target is evidence for the migration that is gone. Endpoints come in the order in which
    /// they were touched, because one that is written after another has gone says how a migration ended (W34).
    pub(super) fn take_events(&mut self) -> Vec<Event> {
        let mut configuration_changed = false;
        let [mut migrations_gone, mut migrations] = [const { Vec::new() }; 2];
        let mut endpoints = BTreeMap::new();
        for (id, touch) in std::mem::take(&mut self.touched) {
            let now = self.definitions.get(&id).and_then(|by_path| by_path.values().next());
            match (id, now) {
                (ResourceId::Configuration(_), now) => configuration_changed |= now != touch.before.as_ref(),
                (ResourceId::Migration(name), None) if touch.before.is_some() => {
                    migrations_gone.push(Fact::MigrationRemoved(name));
                }
                (ResourceId::Endpoint(key), None) if touch.before.is_some() => {
                    endpoints.insert(touch.position, Fact::EndpointRemoved(key));
                }
                (_, Some(now)) if !touch.written && Some(now) == touch.before.as_ref() => {}
                (_, Some(Resource::Migration(name, migration))) => {
                    migrations.push(Fact::MigrationWritten(name.clone(), migration.clone()));
                }
                (_, Some(Resource::Endpoint(key, endpoint))) => {
                    endpoints.insert(touch.position, Fact::EndpointWritten(key.clone(), endpoint.clone()));
                }
                _ => {}
            }
        }
        let facts: Vec<Fact> =
            migrations_gone.into_iter().chain(migrations).chain(endpoints.into_values()).collect();
        let mut events = Vec::new();
        if configuration_changed {
            events.push(Event::Configurations(self.configurations()));
        }
        if !facts.is_empty() {
            events.push(Event::Facts(facts));
        }
        events
    }

    /// Records a definition; if another file comes first, its path.
    fn define(
        &mut self,
        id: ResourceId,
        path: &Path,
        resource: Resource,
        rewritten: bool,
    ) -> Option<PathBuf> {
        let by_path = self.definitions.entry(id.clone()).or_default();
        let before = by_path.values().next().cloned();
        by_path.insert(path.to_owned(), resource);
        let owner = by_path.keys().next().filter(|owner| *owner != path).cloned();
        self.touch(id, before, rewritten && owner.is_none());
        owner
    }

    fn undefine(&mut self, id: &ResourceId, path: &Path) {
        let Some(by_path) = self.definitions.get_mut(id) else { return };
        let before = by_path.values().next().cloned();
        by_path.remove(path);
        if by_path.is_empty() {
            self.definitions.remove(id);
        }
        self.touch(id.clone(), before, false);
    }

    fn touch(&mut self, id: ResourceId, before: Option<Resource>, written: bool) {
        self.touches += 1;
        let touch = self.touched.entry(id).or_insert(Touch { before, written: false, position: 0 });
        touch.written |= written;
        touch.position = self.touches;
    }

    fn only_new(&mut self, path: &Path, said: BTreeSet<String>) -> Vec<String> {
        let before = self.notices.insert(path.to_owned(), said.clone()).unwrap_or_default();
        said.difference(&before).cloned().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::datastore::documents::split;
    use crate::datastore::resource::Format;
    use proptest::prelude::*;

    fn documents(text: &str) -> Vec<Document> {
        split(text, Format::Yaml).unwrap()
    }

    fn endpoint(name: &str, networks: &str) -> String {
        format!(
            "apiVersion: projectcalico.org/v3\nkind: WorkloadEndpoint\nmetadata: {{namespace: openstack}}\n\
             spec: {{orchestrator: openstack, workload: vm1, node: host1, endpoint: {name}, interfaceName: tap1, ipNetworks: [{networks}]}}\n"
        )
    }

    fn refusal(reason: &str) -> Refusal {
        Refusal { line: Some(3), reason: reason.into() }
    }

    #[test]
    fn a_refusal_is_said_once_while_it_is_the_same() {
        let mut store = Store::default();
        let path = Path::new("/r/a.yaml");
        let line = store.refuse(path, &refusal("half")).unwrap();
        assert_eq!(line, "line 3: half; nothing of it is used until it is mended");
        assert_eq!(store.refuse(path, &refusal("half")), None);
        assert!(store.refuse(path, &refusal("other")).is_some());
        assert!(!store.is_complete());
        store.put(path, documents(&endpoint("p1", "10.0.0.1")), true);
        assert!(store.is_complete());
        let line = store.refuse(path, &refusal("other")).unwrap();
        assert!(line.contains("its last good version stays in force"), "{line}");
        assert!(store.is_complete());
    }

    #[test]
    fn elements_and_duplicates_are_said_once_while_they_are_the_same() {
        let mut store = Store::default();
        let (a, b) = (Path::new("/r/a.yaml"), Path::new("/r/b.yaml"));
        let text = endpoint("p1", "10.0.0.1, 10.0.0.208/29/32");
        let said = store.put(a, documents(&text), true);
        assert!(said.len() == 1 && said[0].contains("10.0.0.208/29/32"), "{said:?}");
        assert!(store.put(a, documents(&text), true).is_empty());
        assert_eq!(store.put(a, documents(&endpoint("p1", "10.0.0.1, x")), true).len(), 1);
        let said = store.put(b, documents(&endpoint("p1", "10.0.0.2")), true);
        assert_eq!(
            said,
            [
                "WorkloadEndpoint host1-openstack-vm1-p1 is refused here, /r/a.yaml defines it, too, and comes first"
            ]
        );
        assert!(store.put(b, documents(&endpoint("p1", "10.0.0.2")), true).is_empty());
    }

    /// One that is written after another has gone says how a migration ended (W34).
    #[test]
    fn endpoints_come_in_the_order_in_which_they_were_touched() {
        let (first, second) = (Path::new("/r/1.yaml"), Path::new("/r/2.yaml"));
        for written_last in [true, false] {
            let mut store = Store::default();
            for (path, name) in [(first, "p1"), (second, "p2")] {
                store.put(path, documents(&endpoint(name, "10.0.0.1")), true);
            }
            store.take_events();
            store.put(second, documents(&endpoint("p2", "10.0.0.1")), true);
            store.remove(first);
            if written_last {
                store.put(second, documents(&endpoint("p2", "10.0.0.1")), true);
            }
            let events = store.take_events();
            let [Event::Facts(facts)] = &events[..] else { panic!("{events:?}") };
            let written = |fact: &Fact| matches!(fact, Fact::EndpointWritten(..));
            let expected = if written_last { [false, true] } else { [true, false] };
            assert_eq!(facts.iter().map(written).collect::<Vec<_>>(), expected);
        }
    }

    /// What the agent would believe after all facts.
    fn believe(believed: &mut BTreeMap<String, String>, events: Vec<Event>) {
        for event in events {
            let Event::Facts(facts) = event else { continue };
            for fact in facts {
                match fact {
                    Fact::EndpointWritten(key, endpoint) => {
                        let prefixes: Vec<_> = endpoint.prefixes.iter().map(ToString::to_string).collect();
                        believed.insert(key.endpoint, prefixes.join(","));
                    }
                    Fact::EndpointRemoved(key) => {
                        assert!(believed.remove(&key.endpoint).is_some(), "removed what was not there");
                    }
                    other => panic!("{other:?}"),
                }
            }
        }
    }

    #[derive(Clone, Debug)]
    enum Step {
        /// File, endpoints with their addresses.
        Put(u8, BTreeMap<u8, u8>),
        Refuse(u8),
        Remove(u8),
        Take,
    }

    fn step() -> impl Strategy<Value = Step> {
        let contents = proptest::collection::btree_map(0u8..4, 0u8..4, 0..3);
        prop_oneof![
            4 => (0u8..4, contents).prop_map(|(file, contents)| Step::Put(file, contents)),
            1 => (0u8..4).prop_map(Step::Refuse),
            2 => (0u8..4).prop_map(Step::Remove),
            2 => Just(Step::Take),
        ]
    }

    proptest! {
        /// Whatever happens to the files, the facts lead to: the first good definition of each endpoint.
        #[test]
        fn facts_lead_to_what_is_in_force(steps in proptest::collection::vec(step(), 0..30)) {
            let mut store = Store::default();
            let mut believed = BTreeMap::new();
            let mut model: BTreeMap<u8, BTreeMap<u8, u8>> = BTreeMap::new();
            let path = |file: u8| PathBuf::from(format!("/r/{file}.yaml"));
            for step in steps {
                match step {
                    Step::Put(file, contents) => {
                        let text: Vec<_> =
                            contents.iter().map(|(e, a)| endpoint(&format!("p{e}"), &format!("10.0.0.{a}"))).collect();
                        store.put(&path(file), documents(&text.join("---\n")), true);
                        model.insert(file, contents);
                    }
                    Step::Refuse(file) => drop(store.refuse(&path(file), &refusal("bad"))),
                    Step::Remove(file) => {
                        store.remove(&path(file));
                        model.remove(&file);
                    }
                    Step::Take => believe(&mut believed, store.take_events()),
                }
            }
            believe(&mut believed, store.take_events());
            let mut expected = BTreeMap::new();
            for contents in model.values().rev() {
                expected.extend(contents.iter().map(|(e, a)| (format!("p{e}"), format!("10.0.0.{a}/32"))));
            }
            prop_assert_eq!(believed, expected);
            prop_assert!(store.take_events().is_empty());
        }
    }
}
