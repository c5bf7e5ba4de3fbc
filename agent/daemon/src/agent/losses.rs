//! Why the datastore does not show what runs here: one look at what it has instead, when something is lost.
//!
//! It looks beside the loop and decides nothing; what was found is for people.

use crate::datastore::whereabouts;
use crate::settings::Settings;
use std::sync::{Arc, Mutex, PoisonError};

/// What was found last. Copies are about the same.
#[derive(Clone, Debug, Default)]
pub(super) struct Hint(Arc<Mutex<Option<String>>>);

impl Hint {
    pub(super) fn text(&self) -> Option<String> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Looks once, however long it takes.
    pub(super) fn look(&self, settings: &Settings) {
        let (hint, settings) = (self.clone(), settings.clone());
        tokio::spawn(async move {
            let found = whereabouts::look(&settings).await;
            let text = found.and_then(|found| found.explain(&settings));
            if let Some(text) = &text {
                tracing::error!("{text}");
            }
            *hint.0.lock().unwrap_or_else(PoisonError::into_inner) = text;
        });
    }
}
