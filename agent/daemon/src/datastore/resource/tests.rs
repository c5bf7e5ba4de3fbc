//! Documents of every kind, whole and damaged; names; recorded values.

use super::*;
use cutover_engine::model::{MigrationSource, MigrationTarget};
use proptest::prelude::*;

/// The example of the contract, word for word.
const ENDPOINT: &str = r#"
apiVersion: projectcalico.org/v3
kind: WorkloadEndpoint
metadata: {name: compute2-openstack-vm1-port1, namespace: openstack}
spec: {orchestrator: openstack, workload: vm1, node: compute2, endpoint: port1, interfaceName: tapport1,
       mac: "fa:16:3e:00:00:01", ipNetworks: [10.65.0.2/32, "2001:db8::2/128"]}
"#;
const MIGRATION: &str = r#"
apiVersion: projectcalico.org/v3
kind: LiveMigration
metadata: {name: compute2-openstack-vm1-port1, namespace: openstack, uid: 5b1c…}
spec:
  source: {workloadEndpoint: {hostname: compute1, orchestratorID: openstack, workloadID: openstack/vm1, endpointID: port1}}
  target: {workloadEndpoint: {hostname: compute2, orchestratorID: openstack, workloadID: openstack/vm1, endpointID: port1}}
"#;

fn key(host: &str) -> EndpointKey {
    EndpointKey {
        host: host.into(),
        orchestrator: "openstack".into(),
        workload: "openstack/vm1".into(),
        endpoint: "port1".into(),
    }
}

fn endpoint(text: &str) -> (EndpointKey, Endpoint, Vec<String>) {
    match parse(text, Format::Yaml).unwrap() {
        Parsed { resource: Resource::Endpoint(key, endpoint), notices } => (key, endpoint, notices),
        other => panic!("{other:?}"),
    }
}

fn migration(text: &str) -> (String, LiveMigration, Vec<String>) {
    match parse(text, Format::Yaml).unwrap() {
        Parsed { resource: Resource::Migration(name, migration), notices } => (name, migration, notices),
        other => panic!("{other:?}"),
    }
}

fn refusal(text: &str) -> String {
    parse(text, Format::Yaml).unwrap_err().to_string()
}

fn prefixes(endpoint: &Endpoint) -> Vec<String> {
    endpoint.prefixes.iter().map(ToString::to_string).collect()
}

#[test]
fn documents_of_the_contract_are_read() {
    let (key_read, endpoint, notices) = endpoint(ENDPOINT);
    assert_eq!(key_read, key("compute2"));
    assert_eq!(endpoint.interface, "tapport1");
    assert_eq!(endpoint.mac, "fa:16:3e:00:00:01".parse().ok());
    assert_eq!(prefixes(&endpoint), ["10.65.0.2/32", "2001:db8::2/128"]);
    assert!(notices.is_empty());

    let (name, migration, notices) = migration(MIGRATION);
    assert_eq!(name, "compute2-openstack-vm1-port1");
    assert_eq!(migration.uid, "5b1c…");
    assert_eq!(migration.source, Some(MigrationSource::Endpoint(key("compute1"))));
    assert_eq!(migration.target, Some(MigrationTarget::Endpoint(key("compute2"))));
    assert!(notices.is_empty());
}

/// Written by a real Neutron with the unmodified driver; only the security-group labels are left out.
#[test]
fn a_recorded_endpoint_is_read() {
    let recorded = r#"{"kind": "WorkloadEndpoint", "apiVersion": "projectcalico.org/v3", "metadata": {
      "name": "compute1-openstack-88413756--5c54--4b0b--ac6a--ca6cb0a00f9d-5dde02c2--5787--4d4e--af9c--a1f8969999f7",
      "namespace": "openstack", "creationTimestamp": "2026-11-21T00:54:34Z", "uid": "86c19336-96fb-4c19-8457-d965bb0ec193",
      "annotations": {"openstack.projectcalico.org/network-id": "0a5f94b5-86b6-43eb-a708-f7c2b2563141"},
      "labels": {"projectcalico.org/namespace": "openstack", "projectcalico.org/orchestrator": "openstack"}},
     "spec": {"orchestrator": "openstack", "workload": "88413756-5c54-4b0b-ac6a-ca6cb0a00f9d", "node": "compute1",
      "endpoint": "5dde02c2-5787-4d4e-af9c-a1f8969999f7", "interfaceName": "tap5dde02c2-57", "mac": "fa:16:3e:d9:c0:23",
      "ipv4Gateway": "10.65.0.1", "ipv6Gateway": "fd00:65::1", "ipNetworks": ["10.65.0.124/32", "fd00:65::1d3/128"],
      "allowedIps": [], "ipNATs": [{"internalIP": "10.65.0.124", "externalIP": "203.0.113.80"}]}}"#;
    let Parsed { resource: Resource::Endpoint(key, endpoint), notices } =
        parse(recorded, Format::Json).unwrap()
    else {
        panic!("an endpoint")
    };
    assert!(notices.is_empty(), "{notices:?}");
    assert_eq!(key.workload, "openstack/88413756-5c54-4b0b-ac6a-ca6cb0a00f9d");
    assert_eq!(prefixes(&endpoint), ["10.65.0.124/32", "203.0.113.80/32", "fd00:65::1d3/128"]);
    assert_eq!(endpoint.labels["projectcalico.org/namespace"], "openstack");
}

/// W30.
#[test]
fn a_bad_element_costs_only_itself() {
    let networks = r#"[10.65.0.2, "2001:db8::2", 10.65.0.208/29/32, 10.65.0.209/29, nonsense, 7, null, 0.0.0.0/0, 10.65.0.3/33]"#;
    let text = ENDPOINT.replace(r#"[10.65.0.2/32, "2001:db8::2/128"]"#, networks);
    let text = text.replace(
        "ipNetworks",
        "ipNATs: [{externalIP: 192.0.2.9}, {internalIP: 10.0.0.1}, {externalIP: x}], ipNetworks",
    );
    let (_, endpoint, notices) = endpoint(&text);
    assert_eq!(prefixes(&endpoint), ["10.65.0.2/32", "10.65.0.208/29", "192.0.2.9/32", "2001:db8::2/128"]);
    assert_eq!(notices.len(), 8, "{notices:#?}");
    let start = "WorkloadEndpoint compute2-openstack-vm1-port1: ipNetworks element \"10.65.0.208/29/32\" is left out: ";
    assert!(notices[0].starts_with(start), "{}", notices[0]);
}

#[test]
fn an_address_that_no_machine_can_have_is_left_out() {
    let networks = r#"[10.65.0.2, 224.0.0.5/32, 224.0.0.0/4, 127.0.0.1, 127.0.0.0/8, 0.0.0.0/32, 255.255.255.255, "ff02::5/128", "::1", "::/128"]"#;
    let text = ENDPOINT.replace(r#"[10.65.0.2/32, "2001:db8::2/128"]"#, networks);
    let text =
        text.replace("ipNetworks", "ipNATs: [{externalIP: 224.0.0.6}, {externalIP: 192.0.2.9}], ipNetworks");
    let (_, endpoint, notices) = endpoint(&text);
    assert_eq!(prefixes(&endpoint), ["10.65.0.2/32", "192.0.2.9/32"]);
    assert_eq!(notices.len(), 10, "{notices:#?}");
    assert!(notices[0].ends_with("a virtual machine cannot have it"), "{}", notices[0]);
}

#[test]
fn an_endpoint_without_what_it_needs_is_refused() {
    for (from, to, reason) in [
        (r#"[10.65.0.2/32, "2001:db8::2/128"]"#, "[]", "no ipNetworks"),
        (r#"[10.65.0.2/32, "2001:db8::2/128"]"#, "null", "no ipNetworks"),
        (r#"[10.65.0.2/32, "2001:db8::2/128"]"#, "[x]", "none of its ipNetworks"),
        (", namespace: openstack", "", "metadata.namespace"),
        ("interfaceName: tapport1,", "", "no interfaceName"),
        ("interfaceName: tapport1", "interfaceName: ''", "no interfaceName"),
        ("interfaceName: tapport1", "interfaceName: tap4567890123456", "longer than 15"),
        ("interfaceName: tapport1", "interfaceName: tap/../x", "contains '/'"),
        ("interfaceName: tapport1", "interfaceName: 'tap 1'", "contains ' '"),
        ("interfaceName: tapport1", "interfaceName: \"tap\\0\"", "contains '\\0'"),
        ("interfaceName: tapport1", "interfaceName: ..", "not a name"),
        ("interfaceName: tapport1", "interfaceName: .", "not a name"),
        ("node: compute2", "node: ../../etc", "contains '/'"),
        ("workload: vm1", "workload: 'a b'", "contains ' '"),
        ("namespace: openstack", "namespace: a/b", "contains '/'"),
        ("endpoint: port1", &format!("endpoint: {}", "x".repeat(250)), "bytes long"),
        ("projectcalico.org/v3", "projectcalico.org/v4", "apiVersion"),
        ("kind: WorkloadEndpoint\n", "", "no kind"),
        ("spec:", "specification:", "no spec"),
    ] {
        assert!(ENDPOINT.contains(from), "{from}");
        let text = refusal(&ENDPOINT.replace(from, to));
        assert!(text.contains(reason), "{to:?}: {text}");
    }
    assert!(endpoint(&ENDPOINT.replace("tapport1", "tap456789012345")).1.interface.len() == 15);
}

#[test]
fn a_bad_hardware_address_is_left_out() {
    let (_, read, notices) = endpoint(&ENDPOINT.replace("fa:16:3e:00:00:01", "fa:16:3e"));
    assert_eq!((read.mac, notices.len()), (None, 1));
    let (_, read, notices) = endpoint(&ENDPOINT.replace("mac: \"fa:16:3e:00:00:01\", ", ""));
    assert_eq!((read.mac, notices.len()), (None, 0));
}

#[test]
fn what_the_spec_does_not_say_is_in_the_name() {
    let spec = "orchestrator: openstack, workload: vm1, node: compute2, endpoint: port1, ";
    let without = ENDPOINT.replace(spec, "");
    assert_eq!(endpoint(&without).0, key("compute2"));
    let renamed = without.replace("compute2-openstack-vm1-port1", "compute--2-openstack-11--22-port--1");
    let read = endpoint(&renamed).0;
    assert_eq!((read.host.as_str(), read.workload.as_str()), ("compute-2", "openstack/11-22"));
    assert!(refusal(&without.replace("compute2-openstack-vm1-port1", "a-b-c")).contains("four segments"));

    let (read, _, notices) = endpoint(&ENDPOINT.replace("node: compute2", "node: compute3"));
    assert_eq!(read, key("compute3"));
    assert!(notices[0].contains("the spec counts"), "{notices:?}");
}

#[test]
fn every_form_of_a_migration_is_read() {
    let source = "workloadEndpoint: {hostname: compute1, orchestratorID: openstack, workloadID: openstack/vm1, endpointID: port1}";
    let target = "workloadEndpoint: {hostname: compute2, orchestratorID: openstack, workloadID: openstack/vm1, endpointID: port1}";
    let workload = "workload: {hostname: compute1, orchestratorID: openstack, workloadID: openstack/vm1}";
    let expected = MigrationSource::Workload {
        host: "compute1".into(),
        orchestrator: "openstack".into(),
        workload: "openstack/vm1".into(),
    };
    let (_, read, _) = migration(&MIGRATION.replace(source, workload));
    assert_eq!(read.source, Some(expected));

    let (_, read, notices) = migration(&MIGRATION.replace(target, "selector: \"vm == 'one'\""));
    assert!(matches!(read.target, Some(MigrationTarget::Selector(_))), "{read:?}");
    assert!(notices.is_empty());

    for (from, to) in [
        (source, ""),
        (source, "selector: all()"),
        ("hostname: compute1, ", ""),
        (target, "selector: ''"),
        (target, "selector: 'a =='"),
        (target, workload),
        ("hostname: compute2, ", "hostname: '', "),
        ("endpointID: port1}}\n  target", "endpointID: a/b}}\n  target"),
    ] {
        assert!(MIGRATION.contains(from), "{from}");
        let (_, read, notices) = migration(&MIGRATION.replace(from, to));
        assert_eq!(usize::from(read.source.is_none()) + usize::from(read.target.is_none()), 1, "{to:?}");
        assert_eq!(notices.len(), 1, "{to:?}: {notices:?}");
    }
    let (_, read, notices) = migration(MIGRATION.split("spec:").next().unwrap());
    assert_eq!((read.source, read.target, notices.len()), (None, None, 2));
}

#[test]
fn a_migration_cannot_write_lines_into_the_log() {
    for uid in ["a\\nLive migration state transition", "a b", "\\e[2J"] {
        let text = MIGRATION.replace("uid: 5b1c…", &format!("uid: \"{uid}\""));
        let refusal = parse(&text, Format::Yaml).unwrap_err();
        assert!(refusal.reason.starts_with("metadata.uid "), "{refusal}");
        assert!(!refusal.reason.chars().any(char::is_control), "{refusal}");
    }
    let text = r#"{"apiVersion": "projectcalico.org/v3", "kind": "LiveMigration", "metadata": {"name": "m", "uid": "u"}, "spec": {
        "source": {"workload": {"hostname": "a\nb", "orchestratorID": "openstack", "workloadID": "openstack/vm"}},
        "target": {"selector": "all()"}}}"#;
    let parsed = parse(text, Format::Json).unwrap();
    assert!(matches!(parsed.resource, Resource::Migration(_, migration) if migration.source.is_none()));
    assert_eq!(parsed.notices.len(), 1, "{:?}", parsed.notices);
}

#[test]
fn a_migration_without_uid_gets_none() {
    let text = MIGRATION.replace(", uid: 5b1c…", "");
    let (_, first, notices) = migration(&text);
    assert_eq!(first.uid, "");
    assert_eq!(notices.len(), 1);
    assert_eq!(migration(&text).1, first);
    assert!(refusal(&text.replace("name: compute2-openstack-vm1-port1, ", "")).contains("metadata.name"));
}

#[test]
fn configuration_cluster_and_strangers_are_read() {
    let text = "apiVersion: projectcalico.org/v3\nkind: FelixConfiguration\nmetadata:\n  name: default\n  annotations: {a: b}\nspec: {ipv6Support: false, nodeSelector: all()}\n";
    let Resource::Configuration(read) = parse(text, Format::Yaml).unwrap().resource else {
        panic!("a configuration")
    };
    assert_eq!(
        (read.name.as_str(), read.annotations["a"].as_str(), read.has_selector),
        ("default", "b", true)
    );
    assert_eq!(read.spec["ipv6Support"], false);

    for (spec, ready) in [("{datastoreReady: true}", true), ("{datastoreReady: false}", false), ("{}", false)]
    {
        let text = format!("apiVersion: projectcalico.org/v3\nkind: ClusterInformation\nspec: {spec}\n");
        let resource = parse(&text, Format::Yaml).unwrap().resource;
        assert_eq!(resource, Resource::Cluster(ClusterInformation { ready }));
    }
    let other = parse("apiVersion: v1\nkind: Secret\ndata: {}\n", Format::Yaml).unwrap();
    assert_eq!(other, Parsed { resource: Resource::Other, notices: vec![] });
}

#[test]
fn names_are_taken_apart_as_libcalico_does() {
    for (name, segments) in [
        ("a-b-c-d", &["a", "b", "c", "d"][..]),
        ("compute--2-openstack-11--22-p", &["compute-2", "openstack", "11-22", "p"]),
        ("a---b", &["a-", "b"]),
        ("a----b", &["a--b"]),
        ("a-", &["a", ""]),
        ("host.example.org-o-w-e", &["host.example.org", "o", "w", "e"]),
        ("", &[""]),
        ("-a-b", &["-a", "b"]),
    ] {
        assert_eq!(segments_of(name), segments, "{name:?}");
    }
}

prop_compose! {
    // A dash at the beginning of a segment cannot be told from one at the end of the segment before it.
    fn segment()(text in "[a-zA-Z0-9._][a-zA-Z0-9._-]{0,12}") -> String { text }
}

proptest! {
    #[test]
    fn names_read_back(host in segment(), orchestrator in segment(), workload in segment(), endpoint in segment()) {
        let key = EndpointKey { host, orchestrator, workload: format!("openstack/{workload}"), endpoint };
        prop_assert_eq!(parse_name("openstack", &key.to_string()), Some(key));
    }

    #[test]
    fn any_document_is_read_or_refused(text in "[ -~\n]{0,200}") {
        let _ = parse(&text, Format::Yaml);
        let _ = parse(&text, Format::Json);
    }

    /// Whatever stands in the members, nothing dangerous comes out.
    #[test]
    fn what_is_read_is_safe(interface in "[ -~]{0,20}", host in "[ -~]{0,20}", network in "[0-9./:a-f]{0,20}") {
        let text = serde_json::json!({
            "apiVersion": "projectcalico.org/v3", "kind": "WorkloadEndpoint", "metadata": {"namespace": "openstack"},
            "spec": {"orchestrator": "openstack", "workload": "vm1", "node": host, "endpoint": "port1",
                "interfaceName": interface, "ipNetworks": [network, "10.0.0.1"]},
        }).to_string();
        if let Ok(Parsed { resource: Resource::Endpoint(key, endpoint), .. }) = parse(&text, Format::Json) {
            prop_assert!(!key.to_string().contains('/') && key.to_string().len() <= NAME_MAX_BYTES);
            prop_assert!(!endpoint.interface.contains('/') && endpoint.interface.len() <= 15);
            prop_assert!(endpoint.interface != "." && endpoint.interface != "..");
            prop_assert!(endpoint.prefixes.iter().all(|prefix| prefix.prefix_len() > 0 && prefix.trunc() == *prefix));
        }
    }
}
