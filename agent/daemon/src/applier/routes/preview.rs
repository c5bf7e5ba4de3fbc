//! What the appliers would write, without writing it: the same appliers, whose changes go nowhere.

use super::{RouteApplier, RouteReport};
use crate::applier::MainTable;
use crate::clock;
use crate::netlink::socket::{Outcome, SendError};
use crate::netlink::{Family, ObservedRoute, Owner, RouteChange, RouteEvent};
use cutover_engine::Wanted;
use std::collections::BTreeMap;
use std::sync::Arc;
use tokio::sync::{mpsc, watch};

/// Notes changes, and says that they were made.
#[derive(Debug, Default)]
struct Noting(Vec<RouteChange>);

impl MainTable for Noting {
    fn change(&mut self, changes: &[RouteChange]) -> Result<Outcome, SendError> {
        self.0.extend_from_slice(changes);
        Ok(Outcome::default())
    }
}

/// Both appliers. What they have noted they take for done, as if the kernel had confirmed it.
#[derive(Debug)]
pub struct RoutePreview {
    wanted: watch::Sender<Option<Arc<Wanted>>>,
    appliers: [RouteApplier<Noting>; 2],
}

impl RoutePreview {
    /// With the routes to workload interfaces that there are.
    #[must_use]
    pub fn of(found: &BTreeMap<ObservedRoute, Owner>) -> Self {
        let wanted = watch::Sender::new(None);
        let report = RouteReport::default();
        let appliers = Family::BOTH.map(|family| {
            let nothing_comes = mpsc::channel(1).1;
            let mut applier = RouteApplier::on(
                Noting::default(),
                family,
                wanted.subscribe(),
                nothing_comes,
                report.clone(),
            );
            for (route, owner) in found.iter().filter(|(route, _)| family.has(route)) {
                applier.take_event(RouteEvent::Seen(*route, *owner));
            }
            applier.take_event(RouteEvent::Synced);
            applier
        });
        Self { wanted, appliers }
    }

    /// What would be written to have this in place of what was wanted before, in its order.
    pub async fn changes(&mut self, wanted: Arc<Wanted>) -> Vec<RouteChange> {
        self.wanted.send_replace(Some(wanted));
        let mut changes = Vec::new();
        for applier in &mut self.appliers {
            applier.take_wanted();
            applier.note_difference().await;
            changes.append(&mut applier.table.0);
        }
        changes
    }
}

impl RouteApplier<Noting> {
    /// As [`Self::close_difference`], but at no pace: nobody has to follow.
    async fn note_difference(&mut self) {
        let plan = self.plan(&self.dirty, clock::now());
        self.carry_out(plan, false).await;
        let looked_at = std::mem::take(&mut self.dirty);
        self.keep_what_differs(looked_at);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use cutover_engine::wanted::WantedRoute;

    fn route(metric: u32, protocol: u8) -> WantedRoute {
        let destination = "10.65.0.2/32".parse().unwrap();
        WantedRoute { destination, ifindex: 7, metric, protocol, source: None }
    }

    fn wanted(metric: u32) -> Arc<Wanted> {
        let mut wanted = Wanted::default();
        wanted.routes.insert(route(metric, 3));
        wanted.known_interfaces.insert(7);
        Arc::new(wanted)
    }

    #[tokio::test]
    async fn a_change_is_noted_once_and_counts_as_done() {
        let mut preview = RoutePreview::of(&BTreeMap::from([(route(512, 3), Owner::Ours)]));
        let expected = [RouteChange::Add(route(1024, 3)), RouteChange::Remove(route(512, 3))];
        assert_eq!(preview.changes(wanted(1024)).await, expected);
        assert_eq!(preview.changes(wanted(1024)).await, []);
        assert_eq!(preview.changes(wanted(512)).await.len(), 2, "and back");
    }

    #[tokio::test]
    async fn what_is_there_already_and_what_is_somebody_elses_is_left_alone() {
        let found = BTreeMap::from([(route(1024, 3), Owner::Ours), (route(77, 12), Owner::Other)]);
        assert_eq!(RoutePreview::of(&found).changes(wanted(1024)).await, []);
        let found = BTreeMap::from([(route(1024, 80), Owner::Other)]);
        let changes = RoutePreview::of(&found).changes(wanted(1024)).await;
        assert_eq!(changes, [RouteChange::Replace(route(1024, 3))], "of an agent with another protocol");
    }
}
