//! What metrics, health and the service manager are told, put together from what the loop knows.

use super::Agent;
use crate::observe::Observed;
use crate::settings::DatastoreType;

impl Agent {
    pub(super) fn observed(&self) -> Observed {
        Observed {
            status: self.status(),
            tally: self.tally.clone(),
            datastore: match self.settings.datastore_type {
                DatastoreType::Etcdv3 => "etcdv3",
                DatastoreType::Dir => "dir",
            },
            datastore_troubles: self.standing.troubles(),
            routes_attempted: *self.route_report.attempted().borrow(),
            is_remembered: self.remembered,
            netlink_overruns: self.monitor.overruns(),
            full_reads: *self.monitor.full_reads().borrow(),
            status_writes: self.reporting.counts.read(),
        }
    }
}
