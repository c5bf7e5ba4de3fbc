//! The newest wanted sets on their way to the appliers.
//!
//! What the memory of the last life knows goes to those only who may do something because of it: add routes and watches, and end what is
//! forwarded no more. For everybody else nothing is wanted before the datastore is in sync.

use crate::applier::WantedReceiver;
use cutover_engine::Wanted;
use std::sync::Arc;
use tokio::sync::watch;

#[derive(Debug)]
pub(super) struct Published {
    /// Also what is only known from memory.
    all: watch::Sender<Option<Arc<Wanted>>>,
    in_sync: watch::Sender<Option<Arc<Wanted>>>,
}

impl Published {
    pub(super) fn new() -> Self {
        Self { all: watch::Sender::new(None), in_sync: watch::Sender::new(None) }
    }

    /// For whoever takes [`Wanted::is_recalled`] into account.
    pub(super) fn for_recall(&self) -> WantedReceiver {
        self.all.subscribe()
    }

    pub(super) fn subscribe(&self) -> WantedReceiver {
        self.in_sync.subscribe()
    }

    pub(super) fn newest(&self) -> Option<Arc<Wanted>> {
        self.all.borrow().clone()
    }

    pub(super) fn publish(&self, wanted: Wanted) {
        let wanted = Some(Arc::new(wanted));
        if wanted.as_ref().is_some_and(|wanted| !wanted.is_recalled) {
            self.in_sync.send_replace(wanted.clone());
        }
        self.all.send_replace(wanted);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_only_known_from_memory_is_for_those_who_add() {
        let published = Published::new();
        let (everybody, adding) = (published.subscribe(), published.for_recall());
        published.publish(Wanted { is_recalled: true, ..Wanted::default() });
        assert!(everybody.borrow().is_none() && adding.borrow().is_some());
        published.publish(Wanted::default());
        assert_eq!(*everybody.borrow(), *adding.borrow());
        assert!(everybody.borrow().is_some());
    }
}
