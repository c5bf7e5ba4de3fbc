//! The agent works with what its memory knows: from when on, with which settings, and the word about it once it has lasted.

use crate::control;
use crate::settings::{self, Settings, Severity, Sources, Told};
use cutover_engine::BootTime;
use cutover_engine::time::milliseconds;
use cutover_engine::view::RecallView;
use std::time::Duration;
use tracing::{info, warn};

/// LIMIT: a datastore that can be reached has been read by then, and nobody needs to know how an ordinary start goes.
const SAY_AFTER: Duration = Duration::from_secs(2);

/// Whether it was said, and when it has to be.
#[derive(Debug)]
pub(super) struct Recall {
    since: BootTime,
    due: Option<BootTime>,
    is_told: bool,
}

impl Recall {
    pub(super) fn since(now: BootTime) -> Self {
        Self { since: now, due: Some(now + SAY_AFTER), is_told: false }
    }

    /// For `cutover status`.
    pub(super) fn show(&self, now: BootTime, view: Option<RecallView>) -> Option<control::Recall> {
        let for_ms = milliseconds(now.since(self.since));
        view.map(|view| control::Recall { view, for_ms })
    }

    pub(super) const fn deadline(&self) -> Option<BootTime> {
        self.due
    }

    /// Says once that it goes on, and once that it is over. `view` is nothing when there is no memory, or no need for it any more.
    pub(super) fn say(&mut self, now: BootTime, view: Option<RecallView>) {
        match view {
            Some(view) if self.due.is_some_and(|due| due <= now) => {
                (self.due, self.is_told) = (None, true);
                warn!(
                    endpoints = view.endpoints,
                    watched = view.watched,
                    "Datastore not in sync; working with what state.json knows: announcements raise routes, nothing is taken away"
                );
            }
            Some(_) => {}
            None => {
                self.due = None;
                if std::mem::take(&mut self.is_told) {
                    info!("What state.json knows is not needed any more");
                }
            }
        }
    }
}

/// The settings with what the datastore had said about them in the last life; nothing if that is not known, or cannot be used with
/// what environment and file say now.
pub(super) fn settings(sources: &Sources, told: Option<&Told>) -> Option<Settings> {
    let loaded = settings::load(sources, &told?.configurations());
    for problem in loaded.problems.iter().filter(|problem| problem.severity == Severity::Fatal) {
        warn!(%problem, "what state.json knows waits for the datastore");
    }
    let is_usable = loaded.fatal().next().is_none();
    is_usable.then_some(loaded.settings)
}
