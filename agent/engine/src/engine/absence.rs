//! Nothing that was seen to go is given up before the datastore has been asked once more.
//!
//! A driver deletes an endpoint and creates it again a moment later (W33). If the connection breaks in between, nobody hears of
//! the second half, and it takes seconds until a silent connection counts as broken. So the end of a waiting time is
//! only the time to ask, and while nobody can answer, nothing is given up. Owns what was asked.

use super::Engine;
use super::locals::Local;
use crate::model::EndpointKey;
use crate::time::BootTime;
use std::collections::BTreeSet;

/// What was asked and not answered.
#[derive(Clone, Debug, Default)]
pub(super) struct Absences {
    /// Whether there is somebody who answers.
    can_ask: bool,
    asked: BTreeSet<EndpointKey>,
    /// Asked, but not handed out yet.
    questions: Vec<EndpointKey>,
}

impl Absences {
    pub(super) fn is_asked(&self, key: &EndpointKey) -> bool {
        self.asked.contains(key)
    }

    pub(super) fn answered(&mut self, key: &EndpointKey) -> bool {
        self.asked.remove(key)
    }

    /// Whether `key` counts as absent without an answer. Otherwise it is asked.
    fn ask(&mut self, key: &EndpointKey) -> bool {
        if self.can_ask && self.asked.insert(key.clone()) {
            self.questions.push(key.clone());
        }
        !self.can_ask
    }
}

impl Engine {
    /// The same for a datastore whose connection can break: it answers [`Engine::take_questions`], and says
    /// [`crate::Fact::DatastoreFollowed`] when it is followed again.
    #[must_use]
    pub fn asking(mut self) -> Self {
        self.absences.can_ask = true;
        self
    }

    /// Endpoints of which the datastore has to say whether it has them, since the last call.
    pub fn take_questions(&mut self) -> Vec<EndpointKey> {
        core::mem::take(&mut self.absences.questions)
    }

    pub(super) fn is_known_absent(&mut self, key: &EndpointKey) -> bool {
        self.absences.ask(key)
    }

    /// Whether a machine that is due may go on without its source's endpoint being looked up.
    pub(super) fn is_source_known_absent(&mut self, key: &EndpointKey) -> bool {
        match self.locals.get(key).and_then(|local| unresolved_source(local).cloned()) {
            Some(source) => self.absences.ask(&source),
            None => true,
        }
    }

    pub(super) fn awaits_source(&self, local: &Local) -> bool {
        unresolved_source(local).is_some_and(|source| self.absences.is_asked(source))
    }

    pub(super) fn looked_up(&mut self, now: BootTime, key: &EndpointKey, at: BootTime, exists: bool) {
        if !self.absences.answered(key) {
            return;
        }
        if exists {
            // It is about to be told, or cannot be read. Until then it is as if it had gone just now.
            return self.count_anew(now, key);
        }
        if self.locals.get(key).is_some_and(|local| self.held_until(local).is_some_and(|until| until <= at)) {
            self.give_up(now, key);
        }
        if let Some(target) = self.target_from(key)
            && self.locals.get(&target).is_some_and(|local| unresolved_source(local).is_some())
            && self.is_machine_due(&target, at)
        {
            self.go_on(now, &target);
        }
    }

    /// What has to stay away for some time has not been seen to do so before now.
    pub(super) fn followed_again(&mut self, now: BootTime) {
        self.absences.asked.clear();
        self.absences.questions.clear();
        let active: Vec<_> = self.locals.active().map(|(key, _)| key.clone()).collect();
        for key in active {
            self.locals.change(&key, |local| {
                // What a full read did not show was told in the same moment.
                local.is_found_missing |= local.held_since == Some(now);
                local.held_since = local.held_since.map(|_| now);
                local.machine.source_looked_for_anew(now);
            });
        }
    }

    fn count_anew(&mut self, now: BootTime, key: &EndpointKey) {
        self.locals.change(key, |local| local.held_since = local.held_since.map(|_| now));
        if let Some(target) = self.target_from(key) {
            self.locals.change(&target, |local| local.machine.source_found(now));
        }
    }
}

/// Whose absence says how the migration to an endpoint ended.
fn unresolved_source(local: &Local) -> Option<&EndpointKey> {
    local.machine.unresolved?;
    local.machine.source.as_ref()
}
