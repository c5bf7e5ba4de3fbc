//! The thread of the directory datastore: wait, read, send.

use super::notify::{Hint, Notifications, Woken};
use crate::datastore::Event;
use crate::datastore::Quarantine;
use crate::datastore::documents::{Document, split};
use crate::datastore::resource::{Format, Refusal};
use crate::datastore::store::Store;
use crate::datastore::tree::{Signature, read_with_signature, walk};
use cutover_engine::Fact;
use nix::sys::eventfd::EventFd;
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tokio::sync::mpsc;

/// LIMIT: files written together by one program arrive within a fraction of this; waiting longer would delay the arming of a
/// watch for nothing.
const QUIET_MS: u16 = 1;
/// LIMIT: how many times the quiet is waited for in a storm of writes, before what is known is sent.
const QUIET_ROUNDS: u32 = 4;
/// LIMIT: how often a missing directory is looked for; it is only missing while the host boots or is being set up.
const MISSING_MS: u16 = 500;
/// LIMIT: how often all files are compared with what was read, because writes to the target of a link, and writes of other hosts to
/// a network file system, are not notified.
const COMPARE_MS: u16 = 60_000;

pub(super) struct Watcher {
    root: PathBuf,
    sender: mpsc::Sender<Event>,
    notifications: Notifications,
    quarantine: Quarantine,
    store: Store,
    /// Of every file, as it was when it was read last.
    signatures: BTreeMap<PathBuf, Signature>,
    /// Files that have to be read.
    dirty: Dirty,
    root_found: bool,
    /// The last `InSync` that was sent.
    announced: Option<bool>,
    missing_logged: bool,
}

/// Files that have to be read, in the order in which something happened to them last.
#[derive(Debug, Default)]
struct Dirty {
    last: BTreeMap<PathBuf, u64>,
    count: u64,
}

impl Dirty {
    fn insert(&mut self, path: PathBuf) {
        self.count += 1;
        self.last.insert(path, self.count);
    }

    fn take(&mut self) -> Vec<PathBuf> {
        let mut paths: Vec<_> = std::mem::take(&mut self.last).into_iter().collect();
        paths.sort_by_key(|(_, count)| *count);
        paths.into_iter().map(|(path, _)| path).collect()
    }
}

/// Nobody wants the events any more.
struct Stopped;

impl Watcher {
    pub(super) fn new(root: PathBuf, sender: mpsc::Sender<Event>, stop: Arc<EventFd>) -> io::Result<Self> {
        Ok(Self {
            root,
            sender,
            notifications: Notifications::new(stop)?,
            store: Store::default(),
            quarantine: Quarantine::default(),
            signatures: BTreeMap::new(),
            dirty: Dirty::default(),
            root_found: false,
            announced: None,
            missing_logged: false,
        })
    }

    pub(super) fn quarantine(&self) -> Quarantine {
        self.quarantine.clone()
    }

    pub(super) fn run(mut self) {
        if let Err(error) = self.follow() {
            tracing::error!(directory = %self.root.display(), %error, "the resource directory is no longer watched");
        }
    }

    fn follow(&mut self) -> io::Result<()> {
        self.compare_everything();
        loop {
            if self.read_and_send().is_err() {
                return Ok(());
            }
            let timeout_ms = if self.root_found { COMPARE_MS } else { MISSING_MS };
            match self.notifications.wait(timeout_ms)? {
                Woken::ToStop => return Ok(()),
                Woken::ByTimeout => self.compare_everything(),
                Woken::ByEvents => self.take_storm()?,
            }
        }
    }

    /// Takes events until it is quiet, so that what was written together is sent together.
    fn take_storm(&mut self) -> io::Result<()> {
        let mut everything = false;
        for _ in 0..QUIET_ROUNDS {
            for hint in self.notifications.take(&self.root)? {
                match hint {
                    Hint::File(path) if Format::of(&path).is_some() => self.dirty.insert(path),
                    Hint::Access(path) if self.store.is_refused(&path) => self.dirty.insert(path),
                    Hint::File(_) | Hint::Access(_) => {}
                    Hint::Everything => everything = true,
                    Hint::RootLost => {
                        self.root_found = false;
                        everything = true;
                    }
                }
            }
            if self.notifications.wait(QUIET_MS)? != Woken::ByEvents {
                break;
            }
        }
        if everything {
            self.compare_everything();
        }
        Ok(())
    }

    /// Arms all watches and finds the files that differ from what was read.
    fn compare_everything(&mut self) {
        let notifications = &mut self.notifications;
        notifications.begin();
        let found = walk(&self.root, &mut |directory| notifications.watch(directory));
        self.root_found = found.directories.first() == Some(&self.root);
        if !self.root_found {
            // What was known stays in force: a root that is gone says nothing about its files.
            self.report_missing(found.unlisted.first().map(|unlisted| &unlisted.error));
            return;
        }
        notifications.finish();
        self.missing_logged = false;
        for directory in &found.directories {
            self.store.remove(directory);
        }
        for unlisted in &found.unlisted {
            let refusal = Refusal { line: None, reason: unlisted.error.to_string() };
            let line = self.store.refuse(&unlisted.path, &refusal);
            self.report(&unlisted.path, line);
        }
        let known = self.store.paths();
        let lost = known.iter().filter(|path| found.files.binary_search(path).is_err());
        let lost =
            lost.filter(|path| !found.unlisted.iter().any(|unlisted| path.starts_with(&unlisted.path)));
        let lost: BTreeSet<PathBuf> = lost.cloned().collect();
        let signatures = &self.signatures;
        let changed =
            found.files.into_iter().filter(|path| signatures.get(path) != Signature::at(path).ok().as_ref());
        let noticed = self.dirty.take().into_iter().filter(|path| !lost.contains(path));
        let there: Vec<PathBuf> = noticed.chain(changed).collect();
        // ORDER: nobody knows what came first, and what is written after another thing has gone is evidence (W34).
        there.into_iter().chain(lost).for_each(|path| self.dirty.insert(path));
    }

    fn read_and_send(&mut self) -> Result<(), Stopped> {
        for path in self.dirty.take() {
            self.read(&path);
        }
        self.quarantine.replace(self.store.refused());
        let mut events = self.store.take_events();
        let complete = self.root_found && self.store.is_complete();
        // Before the root was read once, nothing is known to be absent.
        let in_sync_changed =
            self.announced != Some(complete) && (self.root_found || self.announced.is_some());
        if in_sync_changed {
            if self.announced.is_none() && !matches!(events.first(), Some(Event::Configurations(_))) {
                events.insert(0, Event::Configurations(self.store.configurations()));
            }
            match events.last_mut() {
                Some(Event::Facts(facts)) => facts.push(Fact::InSync { complete }),
                _ => events.push(Event::Facts(vec![Fact::InSync { complete }])),
            }
            self.announced = Some(complete);
        }
        for event in events {
            self.sender.blocking_send(event).map_err(|_| Stopped)?;
        }
        Ok(())
    }

    fn read(&mut self, path: &Path) {
        let refusal = match read_with_signature(path) {
            Ok((text, signature)) => {
                let rewritten = self.signatures.insert(path.to_owned(), signature) != Some(signature);
                match self.documents(path, &text) {
                    Ok(documents) => {
                        for line in self.store.put(path, documents, rewritten) {
                            tracing::warn!(file = %path.display(), "{line}");
                        }
                        return;
                    }
                    Err(refusal) => refusal,
                }
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                self.signatures.remove(path);
                self.store.remove(path);
                return;
            }
            Err(error) => {
                self.signatures.remove(path);
                Refusal { line: None, reason: error.to_string() }
            }
        };
        let line = self.store.refuse(path, &refusal);
        self.report(path, line);
    }

    fn documents(&self, path: &Path, text: &str) -> Result<Vec<Document>, Refusal> {
        // INVARIANT: only names with a format are ever read.
        let format = Format::of(path).unwrap_or(Format::Yaml);
        // A file that is being rewritten in place is empty for a moment.
        if text.is_empty() && self.store.defines_something(path) {
            let reason = "it is empty; remove the file to remove what it defined".to_owned();
            return Err(Refusal { line: None, reason });
        }
        split(text, format)
    }

    fn report(&self, path: &Path, line: Option<String>) {
        if let Some(line) = line {
            tracing::error!(file = %path.display(), "resource file refused: {line}");
        }
    }

    fn report_missing(&mut self, error: Option<&io::Error>) {
        if !std::mem::replace(&mut self.missing_logged, true) {
            let reason = error.map_or_else(|| "it is gone".to_owned(), ToString::to_string);
            tracing::warn!(directory = %self.root.display(), %reason, "waiting for the resource directory; create it, or set CutoverDatastoreDir");
        }
    }
}
