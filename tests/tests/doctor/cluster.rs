//! The etcd cluster: members, permissions, the ready flag, the name of the host.

use crate::{only, problems, report, route_out};
use cutover_tests::datastore::{self, RESOURCES};
use cutover_tests::etcd::Security;
use cutover_tests::scene::Node;
use cutover_tests::{Etcd, Lab, Port};
use serde_json::Value;

const HOST: &str = "compute-1";

struct Site {
    node: Node,
    port: Port,
    etcd: Etcd,
    _lab: Lab,
}

/// A ready datastore with one endpoint of the host. No agent runs.
fn site(members: usize, security: Security) -> Site {
    let lab = Lab::new();
    let etcd = Etcd::start_with(&lab, members, security);
    let port = Port::new(1);
    let mut node = Node::new(&lab, HOST, &lab.directory(), &port);
    node.open();
    route_out(&node.host);
    node.agent.set("DatastoreType", "etcdv3");
    node.agent.set("EtcdEndpoints", etcd.endpoints());
    node.agent.set("EndpointReportingEnabled", true);
    let site = Site { node, port, etcd, _lab: lab };
    site.set_ready(true);
    site.put_endpoint(HOST);
    site
}

impl Site {
    fn set_ready(&self, ready: bool) {
        datastore::set_ready(&self.etcd, ready);
    }

    fn put_endpoint(&self, host: &str) {
        let key = datastore::endpoint_key(&self.port, host);
        self.etcd.put(&key, &self.port.endpoint_on(host, "u1").to_string());
    }

    /// What the findings of a check say.
    fn said(&self, check: &str) -> Vec<String> {
        let report = report(&self.node, &[]);
        let findings = report["findings"].as_array().expect("findings").iter();
        let of_check = findings.filter(|finding| finding["check"] == check);
        of_check.filter_map(|finding| Some(Value::as_str(&finding["what"])?.to_owned())).collect()
    }
}

#[test]
fn a_member_that_is_stopped_is_named_and_the_others_are_fine() {
    let site = site(3, Security::None);
    assert_eq!(problems(&site.node, &[]), only(&[]));
    assert_eq!(site.said("datastore.member").len(), 3);
    site.etcd.kill(1);
    assert_eq!(problems(&site.node, &[]), only(&["datastore.member"]));
    let endpoints = site.etcd.endpoints();
    let dead = endpoints.split(',').nth(1).expect("three members");
    let said = site.said("datastore.member");
    assert_eq!(said.iter().filter(|what| what.contains("answers in")).count(), 2, "{said:?}");
    assert!(said.iter().any(|what| what.contains(dead) && what.contains("cannot")), "{said:?}");
    site.etcd.kill(0);
    site.etcd.kill(2);
    // Nothing is claimed about what only a living cluster knows; settings may be missing, which is said.
    assert_eq!(problems(&site.node, &[]), only(&["datastore.member", "settings.resources"]));
}

#[test]
fn a_datastore_that_is_not_ready_and_a_host_of_another_name_are_found() {
    let site = site(1, Security::None);
    site.set_ready(false);
    assert_eq!(problems(&site.node, &[]), only(&["datastore.ready"]));
    site.set_ready(true);
    site.etcd.delete_all(&format!("{RESOURCES}/workloadendpoints/"));
    assert_eq!(problems(&site.node, &[]), only(&[]));
    site.put_endpoint("Compute-1.example.org");
    assert_eq!(problems(&site.node, &[]), only(&["datastore.host-name"]));
}

#[test]
fn who_may_only_read_cannot_report() {
    let mut site = site(1, Security::None);
    site.etcd.require_password_to_read("felix", "right");
    site.node.agent.set("EtcdUsername", "felix");
    site.node.agent.set("EtcdPassword", "right");
    assert_eq!(problems(&site.node, &[]), only(&["datastore.permission"]));
    // Asking has written nothing.
    assert_eq!(site.etcd.all("/calico/felix/"), []);
    site.node.agent.set("EtcdPassword", "wrong");
    let found = problems(&site.node, &[]);
    assert!(found.contains("datastore.member"), "{found:?}");
    assert!(site.said("datastore.member")[0].contains("log in as EtcdUsername"));
}

#[test]
fn tls_files_are_tried() {
    let mut site = site(1, Security::Tls);
    let files = site.etcd.certificates().clone();
    site.node.agent.set("EtcdCaFile", files.ca.display());
    site.node.agent.set("EtcdCertFile", files.certificate.display());
    site.node.agent.set("EtcdKeyFile", files.key.display());
    assert_eq!(problems(&site.node, &[]), only(&[]));
    site.node.agent.set("EtcdKeyFile", "/nowhere/client.key");
    assert!(problems(&site.node, &[]).contains("datastore.cluster"));
}
