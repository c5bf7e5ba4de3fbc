//! What is started where Felix runs beside the agent (`CutoverRole = routes`): who follows its chains, and who finds out that both
//! write routes. It says nothing itself.

use super::parts::Parts;
use crate::applier::WantedReceiver;
use crate::felix::Observer;
use crate::felix::rivalry::{self, Deletions, Shared};
use crate::settings::{Role, Settings};
use cutover_engine::Fact;
use tokio::sync::{mpsc, watch};

/// The observer of Felix with the settings that both read.
#[derive(Debug)]
pub(super) struct Beside {
    pub(super) observer: Observer,
    shared: watch::Sender<Shared>,
}

impl Beside {
    /// Nothing in any other role.
    pub(super) fn new(settings: &Settings) -> Option<Self> {
        let beside =
            || Self { observer: Observer::default(), shared: watch::Sender::new(Shared::of(settings)) };
        (settings.cutover_role == Role::Routes).then(beside)
    }

    /// For the applier that writes routes.
    pub(super) fn deletions(&self) -> Deletions {
        Deletions::new(self.observer.clone())
    }

    /// In the network namespace of the calling thread.
    pub(super) fn start(
        &self,
        parts: &mut Parts,
        wanted: WantedReceiver,
        facts: mpsc::UnboundedSender<Fact>,
    ) {
        parts.start("the observer of Felix", self.observer.clone().run(wanted, facts));
        let settings = rivalry::watch_settings(self.observer.clone(), self.shared.subscribe());
        parts.start("the watch over Felix's settings", settings);
    }

    /// Takes changed settings over.
    pub(super) fn configure(&self, settings: &Settings) {
        let now = Shared::of(settings);
        self.shared.send_if_modified(|before| std::mem::replace(before, now) != now);
    }
}
