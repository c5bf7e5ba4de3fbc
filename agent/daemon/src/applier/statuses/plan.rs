//! From what is wanted and what is there to the writes that are left, the most urgent ones first.
//!
//! Pure. Remembers which writes were done that had been due although the value was there already; everything
//! else follows from the comparison. The publishers call it and carry the steps out.

use cutover_engine::model::EndpointKey;
use cutover_engine::shared::{Difference, SharedMap};
use cutover_engine::wanted::{Status, WantedStatus};
use cutover_engine::{BootTime, Fact, Wanted};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// The names that the store holds, with the status in each; nothing for a value that is something else.
pub(super) type Observed = BTreeMap<String, Option<String>>;

/// How a store names the status of an endpoint.
pub(super) type Name = Box<dyn Fn(&EndpointKey) -> String + Send + Sync>;

/// One write that is left.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct StatusWrite {
    /// Name in the store.
    pub(super) name: String,
    pub(super) action: Action,
    /// How many endpoints had come when it was planned.
    come: u64,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Action {
    Write {
        endpoint: Arc<EndpointKey>,
        status: &'static str,
        /// What [`Fact::StatusWritten`] has to repeat.
        due_since: Option<BootTime>,
        /// The uid of the migration that the write is about, for the log.
        migration: Option<Arc<str>>,
    },
    Remove,
}

impl Action {
    /// What is there afterwards.
    pub(super) const fn status(&self) -> Option<&'static str> {
        match self {
            Self::Write { status, .. } => Some(*status),
            Self::Remove => None,
        }
    }
}

/// A step that is left, for a look.
pub(super) struct Left<'a> {
    pub(super) name: &'a String,
    action: &'a Action,
    urgency: Urgency,
    come: u64,
}

impl Left<'_> {
    /// Whether nobody waits for it.
    pub(super) fn can_wait(&self) -> bool {
        self.urgency == Urgency::Write
    }

    pub(super) fn to_step(&self) -> StatusWrite {
        StatusWrite { name: self.name.clone(), action: self.action.clone(), come: self.come }
    }
}

/// How urgent a step is; the order of the variants is the order of the steps.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Urgency {
    /// Nova waits for it before it starts a migration.
    Awaited,
    /// A port is out of service until it is written.
    Due,
    Write,
    /// ORDER: last. Neutron takes any removed status for a failure of the port, so whatever says that a port
    /// is well is written before.
    Remove,
}

/// Plans for one store. What is left to write is brought up to date with what changed.
pub(super) struct Planner {
    name: Name,
    /// What was wanted when it was last compared.
    taken: SharedMap<Arc<EndpointKey>, WantedStatus>,
    unknown_may_go: bool,
    /// Everything has to be compared, not only what is wanted otherwise than before.
    is_stale: bool,
    /// The most urgent ones first.
    left: BTreeMap<(Urgency, String), Action>,
    /// The writes that were due and have been done, by endpoint.
    done: BTreeMap<Arc<EndpointKey>, BootTime>,
    /// Names that were wanted in this life and are not any more: their endpoints are gone for good.
    given_up: BTreeSet<String>,
    /// How many endpoints have come so far.
    come: u64,
}

impl Planner {
    /// A planner for a store with such names.
    pub(super) fn new(name: impl Fn(&EndpointKey) -> String + Send + Sync + 'static) -> Self {
        Self {
            name: Box::new(name),
            taken: SharedMap::default(),
            unknown_may_go: false,
            is_stale: true,
            left: BTreeMap::new(),
            done: BTreeMap::new(),
            given_up: BTreeSet::new(),
            come: 0,
        }
    }

    /// What is known of the store is not what it was: nothing is left before it has been compared anew.
    pub(super) fn forget(&mut self) {
        self.left.clear();
        self.is_stale = true;
    }

    /// Brings what is left to write up to date.
    pub(super) fn compare(&mut self, wanted: &Wanted, observed: &Observed) {
        let before = std::mem::replace(&mut self.taken, wanted.statuses.clone());
        let taken = self.taken.clone();
        let is_stale =
            std::mem::take(&mut self.is_stale) || self.unknown_may_go != wanted.unknown_statuses_may_go;
        self.unknown_may_go = wanted.unknown_statuses_may_go;
        for Difference { key: endpoint, before, now } in taken.differences(&before) {
            self.come += u64::from(before.is_none());
            let name = (self.name)(endpoint);
            if now.is_some() {
                self.given_up.remove(&name);
            } else {
                self.done.remove(endpoint);
                self.given_up.insert(name);
            }
            if !is_stale {
                self.look_at(endpoint, observed);
            }
        }
        if is_stale {
            self.compare_all(observed);
        }
    }

    fn compare_all(&mut self, observed: &Observed) {
        self.left.clear();
        let mut named = BTreeSet::new();
        for (endpoint, status) in self.taken.iter() {
            let name = (self.name)(endpoint);
            if let Some((urgency, action)) = self.write(endpoint, status, observed.get(&name)) {
                self.left.insert((urgency, name.clone()), action);
            }
            named.insert(name);
        }
        let unwanted = observed.keys().filter(|name| !named.contains(*name) && self.may_go(name));
        let removals: Vec<_> =
            unwanted.map(|name| ((Urgency::Remove, name.clone()), Action::Remove)).collect();
        self.left.extend(removals);
        self.given_up.retain(|name| observed.contains_key(name));
    }

    /// At first, what nobody wants may belong to an endpoint that the driver has taken away for a moment, or that
    /// cannot be read.
    fn may_go(&self, name: &str) -> bool {
        self.unknown_may_go || self.given_up.contains(name)
    }

    fn look_at(&mut self, endpoint: &Arc<EndpointKey>, observed: &Observed) {
        let name = (self.name)(endpoint);
        for urgency in [Urgency::Awaited, Urgency::Due, Urgency::Write, Urgency::Remove] {
            self.left.remove(&(urgency, name.clone()));
        }
        let step = match self.taken.get(endpoint.as_ref()) {
            Some(status) => self.write(endpoint, status, observed.get(&name)),
            None => (observed.contains_key(&name) && self.may_go(&name))
                .then_some((Urgency::Remove, Action::Remove)),
        };
        if let Some((urgency, action)) = step {
            self.left.insert((urgency, name), action);
        }
    }

    /// The names about which something is left to do, the most urgent ones first.
    pub(super) fn left(&self) -> impl Iterator<Item = Left<'_>> {
        self.left.iter().map(|((urgency, name), action)| Left {
            name,
            action,
            urgency: *urgency,
            come: self.come,
        })
    }

    fn write(
        &self,
        endpoint: &Arc<EndpointKey>,
        wanted: &WantedStatus,
        observed: Option<&Option<String>>,
    ) -> Option<(Urgency, Action)> {
        let status = match wanted.status {
            Status::Up => "up",
            Status::Down => "down",
            Status::AsReported => return None,
        };
        let due_since = wanted.due_since.filter(|since| self.done.get(endpoint) != Some(since));
        let is_there = observed.and_then(Option::as_deref) == Some(status);
        if is_there && due_since.is_none() {
            return None;
        }
        let urgency = match (wanted.is_awaited, due_since) {
            (true, _) => Urgency::Awaited,
            (false, Some(_)) => Urgency::Due,
            (false, None) => Urgency::Write,
        };
        let (endpoint, migration) = (Arc::clone(endpoint), wanted.migration.clone());
        Some((urgency, Action::Write { endpoint, status, due_since, migration }))
    }

    /// A step was carried out. Returns what the engine has to know.
    pub(super) fn done(&mut self, step: &StatusWrite, at: BootTime, observed: &mut Observed) -> Option<Fact> {
        match &step.action {
            Action::Remove => {
                observed.remove(&step.name);
                self.left.remove(&(Urgency::Remove, step.name.clone()));
                self.given_up.remove(&step.name);
                // One that has come meanwhile may have this name.
                self.is_stale |= step.come != self.come;
                None
            }
            Action::Write { endpoint, status, due_since, .. } => {
                observed.insert(step.name.clone(), Some((*status).to_owned()));
                if !self.taken.contains_key(endpoint.as_ref()) {
                    self.given_up.insert(step.name.clone());
                } else if let Some(due_since) = due_since {
                    self.done.insert(Arc::clone(endpoint), *due_since);
                }
                // What is wanted may have changed since.
                self.look_at(endpoint, observed);
                let due_since = (*due_since)?;
                Some(Fact::StatusWritten { endpoint: EndpointKey::clone(endpoint), due_since, at })
            }
        }
    }
}

#[cfg(test)]
mod tests;
