//! An announcement goes to the source's agent before the engine has heard of it: each step less is one for which no packet is lost.
//!
//! Owns which watch's announcement is whose word. The engine says so beforehand, and says the same as soon as it hears of it.

use super::table::Conversation;
use arc_swap::ArcSwap;
use std::collections::BTreeMap;
use std::sync::Arc;

/// Told by the fast path. Copies are about the same.
#[derive(Clone, Debug, Default)]
pub struct Herald(Arc<ArcSwap<BTreeMap<u64, Arc<Conversation>>>>);

impl Herald {
    /// The watch of this generation has seen an announcement. It waits for nobody but, for some instructions, for whoever changes
    /// what is to be said.
    pub fn announced(&self, generation: u64) {
        if let Some(conversation) = self.0.load().get(&generation) {
            conversation.announced(generation);
        }
    }

    /// From now on these, by their generation.
    pub(super) fn set(&self, conversations: BTreeMap<u64, Arc<Conversation>>) {
        self.0.store(Arc::new(conversations));
    }
}
