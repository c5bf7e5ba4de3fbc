//! Two compute hosts with agents on one etcd, and keys as the driver sees them, with revisions and leases.

use cutover_daemon::datastore::etcd::Keys;
use cutover_engine::EndpointKey;
use cutover_tests::datastore;
use cutover_tests::etcd::Security;
use cutover_tests::resources::new_uid;
use cutover_tests::scene::{Node, SOURCE, TARGET};
use cutover_tests::{Etcd, Lab, Port, wait};
use serde_json::Value;
use std::time::Duration;

/// When the status of a port that lives elsewhere has gone: it stays until all who wait for the port have heard of it.
pub(crate) const TIDIED: Duration = Duration::from_secs(40);

/// Fields go in this order, the lab last.
pub(crate) struct Cloud {
    pub(crate) source: Node,
    pub(crate) target: Node,
    pub(crate) etcd: Etcd,
    pub(crate) port: Port,
    pub(crate) keys: Keys,
    /// Everything else.
    _lab: Lab,
}

/// What etcd keeps of a key.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Pair {
    pub(crate) created: i64,
    pub(crate) modified: i64,
    /// Writes since it was created.
    pub(crate) writes: i64,
    pub(crate) lease: i64,
}

impl Cloud {
    /// A datastore that is ready, with reporting turned on as the driver does it, and the port bound to the source,
    /// where a hypervisor has its tap open. No agent runs yet.
    pub(crate) fn new() -> Self {
        Self::in_region("")
    }

    pub(crate) fn in_region(region: &str) -> Self {
        Self::with(region, 1)
    }

    pub(crate) fn with(region: &str, members: usize) -> Self {
        let lab = Lab::new();
        let etcd = Etcd::start_with(&lab, members, Security::None);
        let directory = lab.directory();
        let port = Port::new(1);
        let [mut source, target] = [SOURCE, TARGET].map(|name| {
            let mut node = Node::new(&lab, name, &directory, &port);
            node.agent.set("DatastoreType", "etcdv3");
            node.agent.set("EtcdEndpoints", etcd.endpoints());
            node.agent.set("LiveMigrationRouteConvergenceTime", 2);
            if !region.is_empty() {
                node.agent.set("OpenstackRegion", region);
            }
            node
        });
        source.open();
        let cloud = Self { source, target, etcd, port, keys: Keys::new(SOURCE, region), _lab: lab };
        datastore::set_up(&cloud.etcd);
        cloud.bind(SOURCE);
        cloud
    }

    /// As [`Self::new`], with both agents running and the source's port reported.
    pub(crate) fn running() -> Self {
        let mut cloud = Self::new();
        cloud.source.agent.spawn();
        cloud.target.agent.start_in_sync();
        cloud.source.agent.wait_answering();
        cloud.wait_status(SOURCE, "up");
        cloud
    }

    /// Writes the FelixConfiguration for all hosts.
    pub(crate) fn configure(&self, spec: &Value) {
        datastore::configure(&self.etcd, "default", spec);
    }

    /// `+WEP`.
    pub(crate) fn bind(&self, host: &str) {
        let mut document = self.port.endpoint_on(host, &new_uid());
        document["metadata"]["namespace"] = self.keys.namespace().into();
        self.put(&self.keys.endpoint(&self.endpoint(host)), &document);
    }

    /// `-WEP`.
    pub(crate) fn unbind(&self, host: &str) {
        self.etcd.delete(&self.keys.endpoint(&self.endpoint(host)));
    }

    /// `+LM`, `+WEP(target)`.
    pub(crate) fn start_migration(&self) {
        self.announce(SOURCE, TARGET);
        self.bind(TARGET);
    }

    /// `+LM`.
    pub(crate) fn announce(&self, source: &str, target: &str) {
        let document = self.port.migration(source, target, &new_uid());
        self.put(&self.migration_key(target), &document);
    }

    /// `=LM`.
    pub(crate) fn announce_again(&self, target: &str) {
        let key = self.migration_key(target);
        self.etcd.put(&key, &self.etcd.value(&key).expect("it is under way"));
    }

    /// `-LM`.
    pub(crate) fn withdraw(&self, target: &str) {
        self.etcd.delete(&self.migration_key(target));
    }

    pub(crate) fn migration_key(&self, target: &str) -> String {
        self.keys.migration(&self.endpoint(target).to_string())
    }

    pub(crate) fn endpoint(&self, host: &str) -> EndpointKey {
        EndpointKey {
            host: host.into(),
            orchestrator: "openstack".into(),
            workload: format!("{}/{}", self.keys.namespace(), self.port.workload),
            endpoint: self.port.endpoint.clone(),
        }
    }

    pub(crate) fn status_key(&self, host: &str) -> String {
        self.keys.status(&self.endpoint(host))
    }

    pub(crate) fn status(&self, host: &str) -> Option<String> {
        self.etcd.value(&self.status_key(host))
    }

    pub(crate) fn node(&self, host: &str) -> &Node {
        if host == SOURCE { &self.source } else { &self.target }
    }

    /// Waits until the status of the port on a host has this value.
    #[track_caller]
    pub(crate) fn wait_status(&self, host: &str, status: &str) {
        let value = format!("{{\"status\":\"{status}\"}}");
        if !wait::holds_within(wait::SOON, || self.status(host).as_ref() == Some(&value)) {
            panic!("{host}: {:?}, not {status}\n{}", self.status(host), self.node(host).agent.log_text());
        }
    }

    /// Waits until the status of the port on a host was written after revision `before`.
    #[track_caller]
    pub(crate) fn wait_written_after(&self, host: &str, before: i64) -> Pair {
        let key = self.status_key(host);
        let written = || self.pair(&key).filter(|pair| pair.modified > before);
        let mut found = None;
        if !wait::holds_within(wait::SOON, || {
            found = written();
            found.is_some()
        }) {
            panic!("{host} wrote nothing after {before}\n{}", self.node(host).agent.log_text());
        }
        found.expect("it was found")
    }

    /// The status key of the port on a host.
    #[track_caller]
    pub(crate) fn status_pair(&self, host: &str) -> Pair {
        self.pair(&self.status_key(host)).expect("a status")
    }

    /// What etcd keeps of a key.
    pub(crate) fn pair(&self, key: &str) -> Option<Pair> {
        let answer = self.etcdctl(&["get", key]);
        let found = answer["kvs"].as_array()?.first()?.clone();
        let number = |name: &str| found[name].as_i64().unwrap_or(0);
        Some(Pair {
            created: number("create_revision"),
            modified: number("mod_revision"),
            writes: number("version"),
            lease: number("lease"),
        })
    }

    /// Whether a key existed at a revision.
    pub(crate) fn existed(&self, key: &str, revision: i64) -> bool {
        let answer = self.etcdctl(&["get", key, "--rev", &revision.to_string()]);
        answer["kvs"].as_array().is_some_and(|found| !found.is_empty())
    }

    /// The life that a lease was granted for, in seconds.
    pub(crate) fn granted_s(&self, lease: i64) -> i64 {
        let answer = self.etcdctl(&["lease", "timetolive", &format!("{lease:x}")]);
        answer["granted-ttl"].as_i64().expect("a lease")
    }

    /// What etcd's own client prints, run on a compute host.
    fn etcdctl(&self, arguments: &[&str]) -> Value {
        let mut command = self.source.host.namespace().command("etcdctl");
        command.env("ETCDCTL_API", "3").args(["--endpoints", &self.etcd.endpoints(), "-w", "json"]);
        let output = command.args(arguments).output().expect("etcdctl is installed");
        assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        serde_json::from_slice(&output.stdout).expect("JSON")
    }

    fn put(&self, key: &str, document: &Value) {
        self.etcd.put(key, &document.to_string());
    }
}
