//! One compute host that reads from a cluster, and the keys that a driver would write, spelt out here once more.

use cutover_tests::datastore::{self, endpoint_key, migration_key};
use cutover_tests::etcd::Security;
use cutover_tests::scene::{NORMAL, Node};
use cutover_tests::{Etcd, Lab, Port, wait};
use serde_json::Value;
use std::time::Duration;

/// How long an agent may take to notice that a member is gone, to reach another one, or the same again.
///
/// LIMIT: only failing tests wait this long.
pub(crate) const RECOVERY: Duration = Duration::from_secs(40);

/// The host of these tests.
pub(crate) const HOST: &str = "compute-1";

/// A cluster, a host and a port. Fields go in this order, the lab last.
pub(crate) struct Site {
    pub(crate) node: Node,
    pub(crate) port: Port,
    pub(crate) etcd: Etcd,
    pub(crate) lab: Lab,
}

impl Site {
    /// A ready datastore of one member with the port on this host; the agent is not started yet.
    pub(crate) fn new() -> Self {
        Self::with(1, Security::None)
    }

    pub(crate) fn with(members: usize, security: Security) -> Self {
        let lab = Lab::new();
        let etcd = Etcd::start_with(&lab, members, security);
        let port = Port::new(1);
        let mut node = Node::new(&lab, HOST, &lab.directory(), &port);
        node.agent.set("DatastoreType", "etcdv3");
        node.agent.set("EtcdEndpoints", etcd.endpoints());
        // Whoever looks for the member that is followed, or counts calls, means those of the reader.
        node.agent.set("CutoverPeering", "off");
        node.agent.set("LiveMigrationRouteConvergenceTime", 2);
        let site = Self { node, port, etcd, lab };
        site.set_ready(true);
        site.put_endpoint(&site.port, HOST, "u1");
        site
    }

    /// The same, with the agent running and the port routed.
    pub(crate) fn running() -> Self {
        Self::running_with(1)
    }

    pub(crate) fn running_with(members: usize) -> Self {
        let mut site = Self::with(members, Security::None);
        site.node.agent.start();
        site.node.open();
        site.node.wait_metrics(&site.port, &[NORMAL]);
        site
    }

    pub(crate) fn set_ready(&self, ready: bool) {
        datastore::set_ready(&self.etcd, ready);
    }

    pub(crate) fn put_endpoint(&self, port: &Port, host: &str, uid: &str) {
        self.etcd.put(&endpoint_key(port, host), &port.endpoint_on(host, uid).to_string());
    }

    pub(crate) fn delete_endpoint(&self, port: &Port, host: &str) {
        self.etcd.delete(&endpoint_key(port, host));
    }

    pub(crate) fn put_migration(&self, from: &str, to: &str, uid: &str) {
        let document = self.port.migration(from, to, uid);
        self.etcd.put(&migration_key(&self.port, to), &document.to_string());
    }

    pub(crate) fn delete_migration(&self, to: &str) {
        self.etcd.delete(&migration_key(&self.port, to));
    }

    pub(crate) fn put_configuration(&self, name: &str, spec: &Value) {
        datastore::configure(&self.etcd, name, spec);
    }

    /// Another port of the host, with its tap.
    pub(crate) fn plug(&self, number: u8) -> (Port, cutover_tests::Tap) {
        let port = Port::new(number);
        let tap = self.node.host.plug(&port.interface, port.tap_mac());
        (port, tap)
    }

    /// Waits longer than usual, because the agent has to find its way to a member first.
    #[track_caller]
    pub(crate) fn wait_after_outage(&self, port: &Port, metrics: &[u32]) {
        self.node.wait_metrics_within(RECOVERY, port, metrics);
    }

    /// Waits until the endpoint is a target whose tap is watched.
    #[track_caller]
    pub(crate) fn wait_watched(&self) {
        let watched =
            || self.node.agent.status_of(&self.port).is_some_and(|endpoint| endpoint["watch"].is_u64());
        wait::until(wait::SOON, "the tap is watched", watched);
    }

    /// Nothing was written to the routes of the port since `mark`, and they are there.
    #[track_caller]
    pub(crate) fn assert_untouched_since(&self, mark: cutover_tests::route_watch::Mark) {
        let writes = self.node.watch.since(mark);
        assert_eq!(writes.writes_to(self.node.tap().ifindex()), Vec::<&_>::new());
        assert!(self.node.has_metrics(&self.port, &[NORMAL]));
    }
}
