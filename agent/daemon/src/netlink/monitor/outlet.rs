//! The way from the monitor to whoever listens.

use crate::netlink::events::{NeighbourEvent, RouteEvent};
use crate::netlink::family::{ByFamily, Family};
use crate::netlink::mirror::Observations;
use cutover_engine::Fact;
use tokio::sync::{mpsc, watch};

#[derive(Debug)]
pub(super) struct Outlet {
    pub(super) facts: mpsc::Sender<Fact>,
    pub(super) routes: ByFamily<mpsc::Sender<RouteEvent>>,
    pub(super) neighbours: mpsc::Sender<NeighbourEvent>,
    pub(super) full_reads: watch::Sender<u64>,
}

impl Outlet {
    /// Facts first: whoever hears of a route can have heard of its link.
    pub(super) async fn deliver(&self, seen: Observations) {
        for fact in seen.facts {
            let _ = self.facts.send(fact).await;
        }
        for event in seen.routes {
            for family in Family::BOTH.into_iter().filter(|family| event.concerns(*family)) {
                let _ = self.routes.of(family).send(event.clone()).await;
            }
        }
        for event in seen.neighbours {
            let _ = self.neighbours.send(event).await;
        }
    }
}
