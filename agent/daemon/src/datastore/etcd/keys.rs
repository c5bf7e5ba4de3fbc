//! Every key of Calico's data model in etcd that the agent reads or writes: built and parsed in one place.
//!
//! Resources (v3) have dashes doubled inside their names and nothing else escaped; the status keys (v2) have percent and slash
//! escaped and dashes left alone. The region is part of the namespace of the one and of the path of the other.

use crate::datastore::resource::{check_key, parse_name};
use cutover_engine::model::EndpointKey;

const RESOURCES: &str = "/calico/resources/v3/projectcalico.org/";
const REPORTS: &str = "/calico/felix/v2/";
const ENDPOINTS: &str = "workloadendpoints/";
const MIGRATIONS: &str = "livemigrations/";
const CONFIGURATIONS: &str = "felixconfigurations/";
const CLUSTER: &str = "clusterinformations/default";

/// The keys as one host of one region sees them.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Keys {
    host: String,
    /// Empty without one.
    region: String,
}

/// What a key stands for.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Key {
    /// A LiveMigration of the region, by name.
    Migration(String),
    /// A WorkloadEndpoint of the region, of whichever host.
    Endpoint(EndpointKey),
    /// A FelixConfiguration, by name.
    Configuration(String),
    /// The ClusterInformation.
    Cluster,
    /// The status that a host reports about an endpoint.
    Status(EndpointKey),
}

impl Keys {
    /// For a host, named as Nova names it, and a region, empty for none.
    #[must_use]
    pub fn new(host: impl Into<String>, region: impl Into<String>) -> Self {
        Self { host: host.into(), region: region.into() }
    }

    /// The host.
    #[must_use]
    pub fn host(&self) -> &str {
        &self.host
    }

    /// Namespace of endpoints and migrations.
    #[must_use]
    pub fn namespace(&self) -> String {
        match self.region.as_str() {
            "" => "openstack".to_owned(),
            region => format!("openstack-region-{region}"),
        }
    }

    /// The region as the keys of reports spell it.
    #[must_use]
    pub fn region(&self) -> String {
        match self.region.as_str() {
            "" => "no-region".to_owned(),
            region => format!("region-{region}"),
        }
    }

    /// What the keys of this host's endpoints begin with, and those of no other host.
    #[must_use]
    pub fn own_endpoints(&self) -> String {
        // A host `a` is not mistaken for the beginning of `a-b`, whose dash is doubled, because of the orchestrator.
        let host = self.host.replace('-', "--");
        format!("{RESOURCES}{ENDPOINTS}{}/{host}-openstack-", self.namespace())
    }

    /// What the keys of the endpoints of all hosts begin with.
    #[must_use]
    pub fn endpoints(&self) -> String {
        format!("{RESOURCES}{ENDPOINTS}{}/", self.namespace())
    }

    /// The same in every region.
    #[must_use]
    pub fn all_endpoints() -> String {
        format!("{RESOURCES}{ENDPOINTS}")
    }

    /// Namespace and host of the endpoint of a key, in whichever region.
    #[must_use]
    pub fn namespace_and_host(key: &str) -> Option<(String, String)> {
        let (namespace, name) = key.strip_prefix(&Self::all_endpoints())?.split_once('/')?;
        Some((namespace.to_owned(), parse_name(namespace, name)?.host))
    }

    /// What the keys of all migrations begin with.
    #[must_use]
    pub fn migrations(&self) -> String {
        format!("{RESOURCES}{MIGRATIONS}{}/", self.namespace())
    }

    /// What the keys of all FelixConfigurations begin with.
    #[must_use]
    pub fn configurations(&self) -> String {
        format!("{RESOURCES}{CONFIGURATIONS}")
    }

    /// The ClusterInformation.
    #[must_use]
    pub fn cluster(&self) -> String {
        format!("{RESOURCES}{CLUSTER}")
    }

    /// An endpoint of any host.
    #[must_use]
    pub fn endpoint(&self, endpoint: &EndpointKey) -> String {
        let namespace =
            endpoint.workload.split_once('/').map_or_else(|| self.namespace(), |(ns, _)| ns.to_owned());
        format!("{RESOURCES}{ENDPOINTS}{namespace}/{endpoint}")
    }

    /// A migration by name, which is that of its target's endpoint.
    #[must_use]
    pub fn migration(&self, name: &str) -> String {
        format!("{}{name}", self.migrations())
    }

    /// What the keys of everything that this host reports begin with.
    #[must_use]
    pub fn reports(&self) -> String {
        self.reports_of(&self.host)
    }

    fn reports_of(&self, host: &str) -> String {
        format!("{REPORTS}{}/host/{host}/", self.region())
    }

    /// What the keys of this host's endpoint statuses begin with.
    #[must_use]
    pub fn statuses(&self) -> String {
        format!("{}workload/", self.reports())
    }

    /// The status that the host of `endpoint` reports about it.
    #[must_use]
    pub fn status(&self, endpoint: &EndpointKey) -> String {
        format!(
            "{}workload/{}/{}/endpoint/{}",
            self.reports_of(&endpoint.host),
            escape(&endpoint.orchestrator),
            escape(&endpoint.workload),
            escape(&endpoint.endpoint)
        )
    }

    /// The heartbeat, which expires.
    #[must_use]
    pub fn heartbeat(&self) -> String {
        format!("{}status", self.reports())
    }

    /// The last heartbeat, which does not expire.
    #[must_use]
    pub fn last_heartbeat(&self) -> String {
        format!("{}last_reported_status", self.reports())
    }

    /// What a key stands for; nothing if it is none of the agent's, is of another region, or has no valid name.
    #[must_use]
    pub fn parse(&self, key: &str) -> Option<Key> {
        if let Some(rest) = key.strip_prefix(REPORTS) {
            return self.parse_status(rest);
        }
        let rest = key.strip_prefix(RESOURCES)?;
        let name_in_region = |rest: &str| {
            let name = rest.strip_prefix(self.namespace().as_str())?.strip_prefix('/')?;
            (!name.is_empty() && !name.contains('/')).then(|| name.to_owned())
        };
        if let Some(rest) = rest.strip_prefix(ENDPOINTS) {
            let endpoint = parse_name(&self.namespace(), &name_in_region(rest)?)?;
            check_key(&endpoint).ok()?;
            return Some(Key::Endpoint(endpoint));
        }
        if let Some(rest) = rest.strip_prefix(MIGRATIONS) {
            return name_in_region(rest).map(Key::Migration);
        }
        if let Some(name) = rest.strip_prefix(CONFIGURATIONS) {
            return (!name.is_empty() && !name.contains('/')).then(|| Key::Configuration(name.to_owned()));
        }
        (rest == CLUSTER).then_some(Key::Cluster)
    }

    fn parse_status(&self, rest: &str) -> Option<Key> {
        let mut parts = rest.split('/');
        let mut part = || parts.next();
        let is_ours = part()? == self.region() && part()? == "host";
        let host = part()?;
        let is_workload = part()? == "workload";
        let (orchestrator, workload) = (part()?, part()?);
        let is_endpoint = part()? == "endpoint";
        let endpoint = part()?;
        if !is_ours || !is_workload || !is_endpoint || part().is_some() {
            return None;
        }
        Some(Key::Status(EndpointKey {
            host: host.to_owned(),
            orchestrator: unescape(orchestrator),
            workload: unescape(workload),
            endpoint: unescape(endpoint),
        }))
    }
}

fn escape(segment: &str) -> String {
    segment.replace('%', "%25").replace('/', "%2f")
}

fn unescape(segment: &str) -> String {
    segment.replace("%2f", "/").replace("%25", "%")
}

#[cfg(test)]
pub(super) mod fuzz;

#[cfg(test)]
mod tests {
    use super::*;

    fn endpoint(host: &str, namespace: &str) -> EndpointKey {
        EndpointKey {
            host: host.into(),
            orchestrator: "openstack".into(),
            workload: format!("{namespace}/vm-1"),
            endpoint: "port-1".into(),
        }
    }

    #[test]
    fn resources_without_a_region() {
        let keys = Keys::new("compute-2", "");
        let base = "/calico/resources/v3/projectcalico.org";
        assert_eq!(keys.own_endpoints(), format!("{base}/workloadendpoints/openstack/compute--2-openstack-"));
        let own = endpoint("compute-2", "openstack");
        assert_eq!(keys.endpoint(&own), format!("{}vm--1-port--1", keys.own_endpoints()));
        assert_eq!(keys.parse(&keys.endpoint(&own)), Some(Key::Endpoint(own.clone())));
        assert_eq!(
            keys.migration(&own.to_string()),
            format!("{base}/livemigrations/openstack/compute--2-openstack-vm--1-port--1")
        );
        assert_eq!(keys.parse(&keys.migration("x-y")), Some(Key::Migration("x-y".into())));
        assert_eq!(keys.parse(&keys.cluster()), Some(Key::Cluster));
        assert_eq!(
            keys.parse(&format!("{}node.compute-2", keys.configurations())),
            Some(Key::Configuration("node.compute-2".into()))
        );
    }

    #[test]
    fn a_host_is_not_the_beginning_of_another() {
        let longer = Keys::new("a", "").endpoint(&endpoint("a-b", "openstack"));
        assert!(!longer.starts_with(&Keys::new("a", "").own_endpoints()), "{longer}");
        assert!(longer.starts_with(&Keys::new("a-b", "").own_endpoints()), "{longer}");
    }

    #[test]
    fn another_region_is_somebody_elses() {
        let (none, east) = (Keys::new("h", ""), Keys::new("h", "east"));
        let own = endpoint("h", "openstack-region-east");
        assert_eq!(east.parse(&east.endpoint(&own)), Some(Key::Endpoint(own.clone())));
        assert_eq!(none.parse(&east.endpoint(&own)), None);
        assert_eq!(none.parse(&east.migration("m")), None);
        assert_eq!(none.parse(&east.status(&own)), None);
        assert_eq!(
            east.status(&own),
            "/calico/felix/v2/region-east/host/h/workload/openstack/openstack-region-east%2fvm-1/endpoint/port-1"
        );
    }

    #[test]
    fn reports() {
        let keys = Keys::new("compute-2", "");
        let own = endpoint("compute-2", "openstack");
        assert_eq!(
            keys.status(&own),
            "/calico/felix/v2/no-region/host/compute-2/workload/openstack/openstack%2fvm-1/endpoint/port-1"
        );
        assert_eq!(keys.parse(&keys.status(&own)), Some(Key::Status(own.clone())));
        assert!(keys.status(&own).starts_with(&keys.statuses()));
        assert_eq!(keys.heartbeat(), "/calico/felix/v2/no-region/host/compute-2/status");
        assert_eq!(keys.last_heartbeat(), "/calico/felix/v2/no-region/host/compute-2/last_reported_status");
        let odd = EndpointKey { workload: "openstack/a%2fb".into(), ..own };
        assert_eq!(keys.parse(&keys.status(&odd)), Some(Key::Status(odd)));
    }

    #[test]
    fn what_is_none_of_ours_is_nothing() {
        let keys = Keys::new("h", "");
        for key in [
            "/calico/felix/v2/no-region/host/round-trip-check",
            "/calico/felix/v2/no-region/host/h/status",
            "/calico/resources/v3/projectcalico.org/networkpolicies/openstack/ossg.default.1",
            "/calico/resources/v3/projectcalico.org/workloadendpoints/openstack/h-openstack-vm",
            "/calico/resources/v3/projectcalico.org/workloadendpoints/openstack/",
            "/calico/resources/v3/projectcalico.org/felixconfigurations/",
            "/calico/resources/v3/projectcalico.org/clusterinformations/default/x",
            "",
        ] {
            assert_eq!(keys.parse(key), None, "{key}");
        }
    }
}
