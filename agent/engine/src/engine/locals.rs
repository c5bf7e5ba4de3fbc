//! The endpoints of this host, and what has to be looked at again because something about one of them changed.
//!
//! Owns the two sets that keep a round from going through all endpoints: those about which something changed since
//! the last round, and those with something going on. An endpoint can only be changed through here, so neither
//! can be forgotten. It decides nothing; the rest of the engine uses it.

use super::claims::{Claims, Rank};
use crate::labels::KnownLabels;
use crate::machine::{Arming, Machine};
use crate::model::{Endpoint, EndpointKey};
use crate::time::BootTime;
use crate::wanted::Question;
use core::ops::{Deref, DerefMut};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, LazyLock};

/// An endpoint of this host.
#[derive(Clone, Debug)]
pub(super) struct Local {
    pub(super) endpoint: Endpoint,
    /// Since when the datastore does not show it any more, although its tap exists.
    pub(super) held_since: Option<BootTime>,
    /// Known from the last life only: the datastore has not shown it in this one.
    pub(super) unseen: bool,
    /// A full read of the datastore did not show it any more: nobody saw it being deleted.
    pub(super) is_found_missing: bool,
    /// It vanished in a way that looks like a mistake, and is held until somebody says that it is gone.
    pub(super) is_suspect: bool,
    /// The generation that the kernel confirmed as armed.
    pub(super) armed: Option<u64>,
    /// What the ready command said yes to last.
    pub(super) ready: Option<Arc<Question>>,
    pub(super) machine: Kept,
}

/// A machine. Nearly all of them have never done anything, and take no room.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct Kept(Option<Box<Machine>>);

impl From<Machine> for Kept {
    fn from(machine: Machine) -> Self {
        Self((machine != *NEW).then(|| Box::new(machine)))
    }
}

static NEW: LazyLock<Machine> = LazyLock::new(Machine::default);

impl Deref for Kept {
    type Target = Machine;

    fn deref(&self) -> &Machine {
        self.0.as_deref().unwrap_or(&NEW)
    }
}

impl DerefMut for Kept {
    fn deref_mut(&mut self) -> &mut Machine {
        self.0.get_or_insert_default()
    }
}

impl Kept {
    /// Takes no more room than necessary.
    fn settle(&mut self) {
        if self.0.as_deref() == Some(&*NEW) {
            self.0 = None;
        }
    }
}

impl Local {
    pub(super) const fn new(endpoint: Endpoint, machine: Kept) -> Self {
        Self {
            endpoint,
            held_since: None,
            unseen: false,
            is_found_missing: false,
            is_suspect: false,
            armed: None,
            ready: None,
            machine,
        }
    }

    /// The datastore shows other contents. The ready command's answer was about what it was asked, and about nothing that
    /// comes back later.
    pub(super) fn replace(&mut self, endpoint: Endpoint) {
        let asked = |it: &Endpoint| (it.interface.clone(), it.mac, it.prefixes.clone());
        if asked(&self.endpoint) != asked(&endpoint) {
            self.ready = None;
        }
        self.endpoint = endpoint;
    }

    /// Whether there is something to wait for.
    fn is_active(&self) -> bool {
        !self.machine.is_idle() || self.held_since.is_some()
    }

    fn is_remembered(&self) -> bool {
        self.is_active() || self.machine.here.is_some()
    }
}

/// All of them by key.
#[derive(Clone, Debug, Default)]
pub(super) struct Locals {
    by_key: BTreeMap<Arc<EndpointKey>, Local>,
    /// Not idle, or held: few on any host, and the only ones with a watch or a deadline.
    active: BTreeSet<Arc<EndpointKey>>,
    /// These, and those that arrived here by a migration: the only ones with a memory.
    remembered: BTreeSet<Arc<EndpointKey>>,
    /// Changed, or about to be looked at because of something else; also those that are gone.
    dirty: BTreeSet<Arc<EndpointKey>>,
    /// Whoever names an interface, as of when it was looked at last.
    pub(super) interfaces: Claims<String>,
    pub(super) labels: KnownLabels,
    memory_changed: bool,
}

impl Locals {
    pub(super) fn get(&self, key: &EndpointKey) -> Option<&Local> {
        self.by_key.get(key)
    }

    pub(super) fn contains_key(&self, key: &EndpointKey) -> bool {
        self.by_key.contains_key(key)
    }

    #[cfg(test)]
    pub(super) fn is_empty(&self) -> bool {
        self.by_key.is_empty()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (&Arc<EndpointKey>, &Local)> {
        self.by_key.iter()
    }

    pub(super) fn keys(&self) -> impl Iterator<Item = &Arc<EndpointKey>> {
        self.by_key.keys()
    }

    #[cfg(test)]
    pub(super) fn values(&self) -> impl Iterator<Item = &Local> {
        self.by_key.values()
    }

    /// Those with something going on.
    pub(super) fn active(&self) -> impl Iterator<Item = (&Arc<EndpointKey>, &Local)> {
        self.active.iter().filter_map(|key| self.by_key.get_key_value(key))
    }

    /// Those with a memory.
    pub(super) fn remembered(&self) -> impl Iterator<Item = (&Arc<EndpointKey>, &Local)> {
        self.remembered.iter().filter_map(|key| self.by_key.get_key_value(key))
    }

    pub(super) fn is_remembered(&self, key: &EndpointKey) -> bool {
        self.remembered.contains(key)
    }

    /// The one whose watch has this generation.
    pub(super) fn by_generation(&self, generation: u64) -> Option<Arc<EndpointKey>> {
        let has_it =
            |local: &Local| local.machine.arming.is_some_and(|arming| arming.generation == generation);
        self.active().find(|(_, local)| has_it(local)).map(|(key, _)| Arc::clone(key))
    }

    /// The one whose machine was announced at this moment, of which only the latched evidence has told so far.
    pub(super) fn known_by_evidence(&self, announced_at: BootTime) -> Option<Arc<EndpointKey>> {
        let is_it = |local: &Local| local.machine.is_known_by_evidence(announced_at);
        self.active().find(|(_, local)| is_it(local)).map(|(key, _)| Arc::clone(key))
    }

    /// The only way to change one.
    pub(super) fn change<R>(&mut self, key: &EndpointKey, change: impl FnOnce(&mut Local) -> R) -> Option<R> {
        let key = Arc::clone(self.by_key.get_key_value(key)?.0);
        let local = self.by_key.get_mut(&key)?;
        let result = change(local);
        local.machine.settle();
        let (is_active, is_remembered) = (local.is_active(), local.is_remembered());
        self.note(key, is_active, is_remembered);
        Some(result)
    }

    /// Gives one another watch, or none. That is part of bringing it up to date, and no reason to do so again.
    pub(super) fn arm(&mut self, key: &EndpointKey, arming: Option<Arming>) {
        if let Some(local) = self.by_key.get_mut(key) {
            (local.armed, local.machine.arming) = (None, arming);
            self.memory_changed = true;
        }
    }

    pub(super) fn insert(&mut self, key: EndpointKey, local: Local) {
        let (is_active, is_remembered) = (local.is_active(), local.is_remembered());
        let key = Arc::new(key);
        self.by_key.insert(Arc::clone(&key), local);
        self.note(key, is_active, is_remembered);
    }

    pub(super) fn remove(&mut self, key: &EndpointKey) -> Option<Local> {
        let (key, local) = self.by_key.remove_entry(key)?;
        self.note(key, false, false);
        Some(local)
    }

    fn note(&mut self, key: Arc<EndpointKey>, is_active: bool, is_remembered: bool) {
        if is_active {
            _ = self.active.insert(Arc::clone(&key))
        } else {
            _ = self.active.remove(&key)
        }
        let was_remembered = if is_remembered {
            !self.remembered.insert(Arc::clone(&key))
        } else {
            self.remembered.remove(&key)
        };
        self.memory_changed |= is_remembered || was_remembered;
        self.dirty.insert(key);
    }

    /// Something about an interface changed.
    pub(super) fn touch_interface(&mut self, name: &String) {
        self.dirty.extend(self.interfaces.of(name).map(|rank| Arc::clone(&rank.key)));
    }

    /// Something about one that may not even be there changed.
    pub(super) fn touch(&mut self, key: EndpointKey) {
        self.dirty.insert(Arc::new(key));
    }

    /// Something that all of them depend on changed.
    pub(super) fn touch_all(&mut self) {
        self.dirty.extend(self.by_key.keys().cloned());
    }

    /// Everything that changed since the last call.
    pub(super) fn take_dirty(&mut self) -> BTreeSet<Arc<EndpointKey>> {
        core::mem::take(&mut self.dirty)
    }

    /// Whether what has to survive may have changed since the last call.
    pub(super) fn take_memory_changed(&mut self) -> bool {
        core::mem::take(&mut self.memory_changed)
    }

    /// Says that what has to survive may have changed.
    pub(super) fn memory_changed(&mut self) {
        self.memory_changed = true;
    }

    /// How the one with this key stands among those that want the same.
    pub(super) fn rank(&self, key: &Arc<EndpointKey>) -> Option<Rank> {
        let is_held = self.get(key)?.held_since.is_some();
        Some(Rank { is_held, key: Arc::clone(key) })
    }
}

impl core::ops::Index<&EndpointKey> for Locals {
    type Output = Local;

    fn index(&self, key: &EndpointKey) -> &Local {
        &self.by_key[key]
    }
}
