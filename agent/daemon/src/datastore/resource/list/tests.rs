//! Lists as calicoctl and kubectl write them, in both formats, and what only looks like one.

use super::*;
use crate::datastore::ResourceId;
use crate::datastore::resource::Resource;

const ITEMS: &str = r#"
- apiVersion: projectcalico.org/v3
  kind: WorkloadEndpoint
  metadata: {name: node--b-openstack-web-nic0, namespace: openstack}
  spec: {node: node-b, orchestrator: openstack, workload: web, endpoint: nic0, interfaceName: tap7c1f,
         mac: "00:00:5e:00:53:01", ipNetworks: [10.65.0.21/32]}
- apiVersion: projectcalico.org/v3
  kind: LiveMigration
  metadata: {name: m1, namespace: openstack, uid: u1}
  spec: {}
- {apiVersion: v1, kind: Secret}
"#;

fn ids(text: &str, format: Format) -> Vec<String> {
    let entries = parse_all(text, format).unwrap_or_else(|refusal| panic!("{refusal}: {text}"));
    entries
        .iter()
        .filter_map(|entry| ResourceId::of(&entry.parsed.resource))
        .map(|id| id.to_string())
        .collect()
}

fn refusal(text: &str) -> String {
    parse_all(text, Format::Yaml).unwrap_err().to_string()
}

/// The same document in JSON.
fn as_json(yaml: &str) -> String {
    let value: Value = serde_norway::from_str(yaml).unwrap();
    value.to_string()
}

#[test]
fn every_item_of_a_list_counts() {
    let all = ["WorkloadEndpoint node--b-openstack-web-nic0", "LiveMigration m1"];
    for list in [
        format!("apiVersion: v1\nkind: List\nitems:{ITEMS}"),
        format!("kind: List\nmetadata: {{resourceVersion: '7'}}\nitems:{ITEMS}apiVersion: v1\n"),
        format!("apiVersion: projectcalico.org/v3\nkind: WorkloadEndpointList\nitems:{ITEMS}"),
        format!("apiVersion: projectcalico.org/v3\nkind: NetworkPolicyList\nitems:{ITEMS}"),
        ITEMS.to_owned(),
        format!("# written by hand\n\n{ITEMS}"),
    ] {
        assert_eq!(ids(&list, Format::Yaml), all, "{list}");
        assert_eq!(ids(&as_json(&list), Format::Json), all, "{list}");
    }
}

#[test]
fn an_item_has_the_kind_of_its_list() {
    for kind in ["FelixConfiguration", "LiveMigration"] {
        let list = format!(
            "apiVersion: projectcalico.org/v3\nkind: {kind}List\nitems:\n- metadata: {{name: default, uid: u1}}\n"
        );
        assert_eq!(ids(&list, Format::Yaml), [format!("{kind} default")]);
        let [entry] = &parse_all(&list, Format::Yaml).unwrap()[..] else { panic!("one item") };
        let item = entry.item.as_ref().unwrap();
        assert_eq!((&item["kind"], &item["apiVersion"]), (&kind.into(), &"projectcalico.org/v3".into()));
    }
}

#[test]
fn a_list_may_be_empty() {
    for list in [
        "kind: WorkloadEndpointList\nitems: []\n",
        "kind: WorkloadEndpointList\nitems: null\n",
        "[]",
        "kind: List\nitems:\n",
    ] {
        assert!(parse_all(list, Format::Yaml).unwrap().is_empty(), "{list}");
    }
}

#[test]
fn what_is_wrong_with_a_list_is_said() {
    let old =
        format!("kind: List\nitems:{}", ITEMS.replace("projectcalico.org/v3", "crd.projectcalico.org/v1"));
    for (list, reason) in [
        ("kind: WorkloadEndpointList\n", "it is a WorkloadEndpointList without items"),
        ("kind: List\nitem: []\n", "it is a List without items"),
        ("kind: List\nitems: {a: 1}\n", "invalid type"),
        ("kind: List\nitems: [7]\n", "item 1 of the list: it is not a resource"),
        ("- WorkloadEndpoint\n- projectcalico.org/v3\n", "item 1 of the list: it is not a resource"),
        ("kind: List\nitems: [{kind: Secret}, {metadata: {}}]\n", "item 2 of the list: there is no kind"),
        ("kind: List\nitems: [{kind: List, items: []}]\n", "item 1 of the list: it is a List itself"),
        (
            "kind: LiveMigrationList\nitems: [{metadata: {name: m}}]\n",
            "item 1 of the list: there is no apiVersion",
        ),
        (&old, "item 1 of the list: apiVersion \"crd.projectcalico.org/v1\" is not known"),
    ] {
        let refusal = refusal(list);
        assert!(refusal.contains(reason), "{list}: {refusal}");
    }
}

#[test]
fn lists_of_somebody_else_are_no_business_of_ours() {
    for list in
        ["kind: AllowList\n", "kind: AllowList\nitems: nobody\n", "kind: PodList\nitems: [{metadata: {}}]\n"]
    {
        assert!(ids(list, Format::Yaml).is_empty(), "{list}");
    }
}

#[test]
fn a_kind_that_is_nearly_ours_is_refused_by_name() {
    for (kind, meant) in [
        ("workloadendpoint", "WorkloadEndpoint"),
        ("WorkloadEndpoints", "WorkloadEndpoint"),
        ("Livemigration", "LiveMigration"),
        ("felixconfigurations", "FelixConfiguration"),
    ] {
        assert_eq!(refusal(&format!("kind: {kind}\n")), format!("kind {kind:?} is not known; write {meant}"));
    }
    let document = Format::Yaml;
    let [other] = &parse_all("kind: HostEndpoint\n", document).unwrap()[..] else { panic!("one resource") };
    assert_eq!(other.parsed.resource, Resource::Other);
}
