//! Everything of a host is gone from the datastore at once: its virtual machines keep their routes until somebody confirms it.
//! Whoever leaves as virtual machines do needs no word.

use cutover_tests::scene::{NORMAL, Node, SOURCE};
use cutover_tests::{Directory, Lab, OpenTap, Port, Tap, wait};
use serde_json::Value;
use std::time::Duration;

/// Much longer than the grace time.
const LONG: Duration = Duration::from_secs(3);

struct Site {
    directory: Directory,
    ports: [Port; 2],
    documents: [Value; 2],
    node: Node,
    second: Option<(Tap, OpenTap)>,
    // ORDER: last, because it looks for what the others leave behind.
    _lab: Lab,
}

/// A host with two virtual machines.
fn settled() -> Site {
    let lab = Lab::new();
    let directory = lab.directory();
    let ports = [Port::new(1), Port::new(2)];
    let mut node = Node::new(&lab, SOURCE, &directory, &ports[0]);
    node.agent.set("CutoverEndpointGrace", 1);
    let documents = [0, 1].map(|number| ports[number].endpoint_on(SOURCE, "u"));
    documents.iter().for_each(|document| directory.put(document));
    node.agent.start();
    node.open();
    let tap = node.host.plug(&ports[1].interface, ports[1].tap_mac());
    let open = tap.open();
    node.wait_settled(&ports[0]);
    node.wait_metrics(&ports[1], &[NORMAL]);
    Site { directory, ports, documents, node, second: Some((tap, open)), _lab: lab }
}

impl Site {
    fn empty_the_directory(&self) {
        for name in self.directory.files() {
            self.directory.delete_file(&name);
        }
    }

    fn assert_kept(&self, what: &str) {
        let kept = || self.ports.iter().all(|port| self.node.has_metrics(port, &[NORMAL]));
        wait::throughout(LONG, what, kept);
    }

    fn release(&self, count: &str) -> Option<i32> {
        self.node.agent.run(&["release", count]).status.code()
    }
}

#[test]
fn an_emptied_directory_costs_no_route_until_it_is_confirmed() {
    let site = settled();
    site.empty_the_directory();
    site.assert_kept("routed without endpoints");
    let status = site.node.agent.status();
    let names = site.documents.each_ref().map(|document| document["metadata"]["name"].clone());
    assert_eq!(status["losses"]["endpoints"], Value::from(names.to_vec()), "{status:#}");
    site.node.agent.log().wait(wait::SOON, &["ERROR", "routes on taps with carrier are kept"]);
    site.node.agent.log().wait(wait::SOON, &["The datastore has no endpoints of any host"]);
    let table = site.node.agent.run_ok(&["status"]);
    assert!(table.contains("cutover release 2"), "{table}");

    assert_eq!(site.release("3"), Some(1), "another number than the operator has seen");
    site.assert_kept("nothing was released");
    assert_eq!(site.release("2"), Some(0));
    site.ports.iter().for_each(|port| site.node.wait_metrics(port, &[]));
    site.node.agent.log().wait(wait::SOON, &["Nothing is kept any more"]);
}

#[test]
fn endpoints_that_come_back_find_their_routes() {
    let site = settled();
    let mark = site.node.watch.mark();
    site.empty_the_directory();
    site.assert_kept("routed without endpoints");
    site.documents.iter().for_each(|document| site.directory.put(document));
    site.node.agent.log().wait(wait::SOON, &["Nothing is kept any more"]);
    site.assert_kept("routed as before");
    for port in &site.ports {
        for to in port.routed() {
            site.node.watch.since(mark).assert_never_without(to);
        }
    }
}

/// With a wrong name every endpoint is another host's.
#[test]
fn an_agent_with_the_wrong_host_name_takes_no_route_away() {
    let mut site = settled();
    site.node.agent.kill();
    site.node.agent.set("FelixHostname", SOURCE.to_uppercase());
    let mark = site.node.watch.mark();
    site.node.agent.start();
    site.assert_kept("routed under another name");
    let hint = format!("FelixHostname = {SOURCE}");
    site.node.agent.log().wait(wait::SOON, &["The datastore has endpoints of the host", &hint]);
    assert_eq!(site.node.agent.status()["losses"]["interfaces"].as_array().map(Vec::len), Some(2));

    site.node.agent.kill();
    site.node.agent.set("FelixHostname", SOURCE);
    site.node.agent.start();
    site.node.wait_settled(&site.ports[0]);
    site.node.wait_metrics(&site.ports[1], &[NORMAL]);
    for port in &site.ports {
        for to in port.routed() {
            site.node.watch.since(mark).assert_never_without(to);
        }
    }
}

/// The same endpoints vanish, but nobody is at their taps any more.
#[test]
fn a_host_is_drained_without_a_word() {
    let mut site = settled();
    // One lets go of its tap, the other takes it along.
    site.node.qemu = None;
    let (tap, open) = site.second.take().expect("it has two");
    drop(open);
    tap.remove();
    // KERNEL: a lost carrier can be told of a second late (link watch), which is the grace time here. A driver takes longer.
    for port in &site.ports {
        let is_down = |endpoint: Value| endpoint["status"] == "down";
        wait::until(wait::SOON, "seen", || site.node.agent.status_of(port).is_some_and(is_down));
    }
    site.empty_the_directory();
    site.ports.iter().for_each(|port| site.node.wait_metrics(port, &[]));
    assert_eq!(site.node.agent.status()["losses"]["endpoints"], Value::from(Vec::<Value>::new()));
    assert!(!site.node.agent.log_text().contains("are kept"));
}

/// One at a time, as a driver deletes what somebody wants gone, though its virtual machine still runs.
#[test]
fn one_endpoint_after_the_other_is_deleted_without_a_word() {
    let site = settled();
    for (port, document) in site.ports.iter().zip(&site.documents) {
        site.directory.delete(document);
        site.node.wait_metrics(port, &[]);
    }
    assert!(!site.node.agent.log_text().contains("are kept"));
}
