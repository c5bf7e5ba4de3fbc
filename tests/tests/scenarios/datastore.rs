//! The directory of resources: what is half-written or wrong is refused by name and changes nothing, and
//! nothing else stops because of it.

use cutover_tests::resources::{file_name, new_uid};
use cutover_tests::scene::{NORMAL, Node, SOURCE, TARGET};
use cutover_tests::{Directory, Driver, Lab, Port, wait};
use std::fs;
use std::time::Duration;

const QUIET: Duration = Duration::from_millis(700);

fn settled() -> (Lab, Directory, Port, Node) {
    let lab = Lab::new();
    let directory = lab.directory();
    let port = Port::new(1);
    let mut node = Node::new(&lab, SOURCE, &directory, &port);
    node.agent.set("CutoverEndpointGrace", 1);
    Driver::new(&directory, &port).bind(SOURCE);
    node.agent.start();
    node.open();
    node.wait_settled(&port);
    node.agent.wait_up(&port);
    (lab, directory, port, node)
}

fn assert_unmoved(node: &Node, port: &Port, what: &str) {
    wait::throughout(QUIET, what, || node.has_metrics(port, &[NORMAL]));
}

/// The last good version stays in force, however long the bad one lies there.
#[test]
fn an_invalid_file_leaves_the_last_good_version_in_force() {
    let (_lab, directory, port, node) = settled();
    let document = port.endpoint_on(SOURCE, "u");
    let name = file_name(&document);
    for (what, text) in [
        ("empty", String::new()),
        ("no JSON", "{\"kind\": \"WorkloadEndpoint\", ".to_owned()),
        ("no resource", "[1, 2, 3]\n".to_owned()),
        ("bad MAC", document.to_string().replace("fa:16:3e:00:00:01", "fa:16:3e:00:00")),
        ("bad address", document.to_string().replace("10.65.0.2/32", "10.65.0.299/32")),
    ] {
        let log = node.agent.log().mark();
        directory.put_text(&name, &text);
        if what != "empty" {
            node.agent.log().wait_after(log, wait::SOON, &[&name]);
        }
        if what != "bad address" {
            assert_unmoved(&node, &port, what);
        }
        directory.put(&document);
    }
    node.wait_metrics(&port, &[NORMAL]);
    for to in port.routed().into_iter().filter(|to| *to != port.ipv4()) {
        node.watch.history().moments(to).iter().skip(1).for_each(|moment| {
            assert!(!moment.routes.is_empty(), "{to} was lost for a moment");
        });
    }
}

/// A file that is being written is not an event until it is whole.
#[test]
fn a_half_written_migration_begins_when_it_is_whole() {
    let lab = Lab::new();
    let directory = lab.directory();
    let port = Port::new(1);
    let mut node = Node::new(&lab, TARGET, &directory, &port);
    node.agent.start();
    Driver::new(&directory, &port).bind(TARGET);
    node.wait_metrics(&port, &[NORMAL]);

    let document = port.migration(SOURCE, TARGET, &new_uid());
    let text = format!("{document:#}\n");
    let (beginning, rest) = text.split_at(text.len() / 2);
    directory.put_beginning(&file_name(&document), beginning);
    assert_unmoved(&node, &port, "half of a migration suppresses nothing");
    directory.put_rest(&file_name(&document), rest);
    node.wait_metrics(&port, &[]);
    node.wait_state(&port, "Target");
}

/// Half of an endpoint in place of the whole one does not take the routes of its VM away.
#[test]
fn a_half_written_endpoint_keeps_its_routes() {
    let (_lab, directory, port, node) = settled();
    let mark = node.watch.mark();
    let document = port.endpoint_on(SOURCE, "u");
    let text = format!("{document:#}\n");
    let (beginning, rest) = text.split_at(text.len() / 3);
    directory.put_beginning(&file_name(&document), beginning);
    // Longer than the grace time: a refused file is not a removed one.
    wait::throughout(Duration::from_secs(2), "routed", || node.has_metrics(&port, &[NORMAL]));
    directory.put_rest(&file_name(&document), rest);
    assert_unmoved(&node, &port, "whole again");
    assert_eq!(node.watch.since(mark).writes_to(node.tap().ifindex()), Vec::<&_>::new());
}

/// YAML, several documents in one file, sub-folders; and one bad document does not take its neighbours along.
#[test]
fn yaml_and_sub_folders_are_read() {
    let lab = Lab::new();
    let directory = lab.directory();
    let ports = [Port::new(1), Port::new(2)];
    let mut node = Node::new(&lab, SOURCE, &directory, &ports[0]);
    let _second = node.host.plug(&ports[1].interface, ports[1].tap_mac());
    node.agent.start();
    let text: String = ports
        .iter()
        .map(|port| {
            format!(
                "---\napiVersion: projectcalico.org/v3\nkind: WorkloadEndpoint\n\
                 metadata: {{name: {name}, namespace: openstack}}\n\
                 spec: {{orchestrator: openstack, workload: {workload}, node: {SOURCE}, endpoint: {endpoint},\n\
                 \x20 interfaceName: {interface}, mac: \"{mac}\",\n\
                 \x20 ipNetworks: [{four}, \"{six}\"]}}\n",
                name = port.name_on(SOURCE),
                workload = port.workload,
                endpoint = port.endpoint,
                interface = port.interface,
                mac = port.mac,
                four = port.ipv4(),
                six = port.ipv6(),
            )
        })
        .collect();
    let folder = directory.path().join("rack1").join("endpoints");
    fs::create_dir_all(&folder).expect("a folder");
    directory.put_text("rack1/endpoints/all.yaml", &text);
    for port in &ports {
        node.wait_metrics(port, &[NORMAL]);
    }
    // A new file in the sub-folder is noticed, too, and so is its end. As long as a file cannot be read nobody
    // knows which routes it asks for, so none is removed.
    directory.put_text("rack1/endpoints/broken.yaml", "kind: [unclosed\n");
    node.agent.log().wait(wait::SOON, &["broken.yaml"]);
    directory.delete_file("rack1/endpoints/broken.yaml");
    directory.delete_file("rack1/endpoints/all.yaml");
    for port in &ports {
        node.wait_metrics(port, &[]);
    }
}

/// A file that cannot be read at the start does not stop the others, and does not cost any VM its route.
#[test]
fn a_start_with_an_unreadable_file_keeps_the_routes_that_are_there() {
    let (_lab, directory, port, mut node) = settled();
    let mark = node.watch.mark();
    node.agent.kill();
    let document = port.endpoint_on(SOURCE, "u");
    directory.put_text(&file_name(&document), "{\"kind\": \"WorkloadEndpoint\", ");
    let other = Port::new(2);
    let second = node.host.plug(&other.interface, other.tap_mac());
    directory.put(&other.endpoint_on(SOURCE, "v"));
    node.agent.start();
    node.wait_metrics(&other, &[NORMAL]);
    // Much longer than the grace that left-over routes have.
    wait::throughout(Duration::from_secs(4), "routed", || node.has_metrics(&port, &[NORMAL]));
    directory.put(&document);
    wait::until(wait::SOON, "read again", || node.agent.status_of(&port).is_some());
    for to in port.routed() {
        node.watch.since(mark).assert_never_without(to);
    }
    drop(second);
}
