//! Hundreds of statuses to write at once: nobody who is waited for stands in the queue.

use super::cloud::Cloud;
use cutover_common::MacAddr;
use cutover_tests::scene::{SOURCE, TARGET};
use cutover_tests::{Port, Tap, wait};
use serde_json::json;
use std::time::Duration;

const MANY: u16 = 400;

/// Where at the latest the one that is waited for stands among all: 16 writes are under way at once, each that ends lets
/// another one begin, and etcd may take a few of those before an earlier one. Last in the order of names, it would be number 400.
const AMONG_THE_FIRST: usize = 32;

/// How long all of them may take on a loaded machine, one by one or not.
const ALL: Duration = Duration::from_secs(30);

fn port(number: u16) -> Port {
    let [high, low] = number.to_be_bytes();
    let mut port = Port::new(7);
    port.endpoint = format!("another{number:05}");
    port.interface = format!("tapx{number:05}");
    port.mac = MacAddr([0xfa, 0x16, 0x3e, 7, high, low]);
    port.addresses = vec![format!("10.70.{high}.{low}/32").parse().expect("a prefix")];
    port
}

impl Cloud {
    /// Endpoints of the target's host, with taps that nobody has open.
    fn crowd(&self) -> Vec<Tap> {
        let ports: Vec<Port> = (0..MANY).map(port).collect();
        let pairs = ports.iter().map(|port| {
            let key = self.key_of(port, TARGET);
            (key, port.endpoint_on(TARGET, "5b1c0000-0000-4000-8000-000000000001").to_string())
        });
        self.etcd.put_many(pairs.collect());
        let names: Vec<_> = ports.iter().map(|port| (port.interface.clone(), port.tap_mac())).collect();
        self.target.host.plug_many(&names)
    }

    fn key_of(&self, port: &Port, host: &str) -> String {
        let endpoint = cutover_engine::EndpointKey {
            endpoint: port.endpoint.clone(),
            workload: format!("{}/{}", self.keys.namespace(), port.workload),
            ..self.endpoint(host)
        };
        self.keys.endpoint(&endpoint)
    }

    /// The statuses that were written on the target's host, in the order of revisions.
    fn written_on_target(&self) -> Vec<String> {
        let written = self.etcd.written("/calico/felix/");
        let keys = written.into_iter().filter(|write| write.value.is_some()).map(|write| write.key);
        keys.filter(|key| key.contains("/compute2/workload/")).collect()
    }

    fn wait_all_written(&self) {
        wait::until(ALL, "every status", || self.written_on_target().len() > usize::from(MANY));
    }
}

/// Everything is ready by the time that reporting is turned on, so everything is due at the same time.
#[test]
fn a_target_is_reported_before_hundreds_of_others() {
    let mut cloud = Cloud::new();
    let _taps = cloud.crowd();
    cloud.configure(&json!({"endpointReportingEnabled": false, "interfacePrefix": "tap"}));
    cloud.start_migration();
    cloud.target.agent.start_in_sync();
    let is_armed = || cloud.target.agent.status_of(&cloud.port).is_some_and(|shown| shown["status"] == "up");
    wait::until(wait::SOON, "the target is ready", is_armed);
    cloud.configure(&json!({"endpointReportingEnabled": true, "interfacePrefix": "tap"}));
    cloud.wait_all_written();
    let (written, awaited) = (cloud.written_on_target(), cloud.status_key(TARGET));
    let position = written.iter().position(|key| *key == awaited).expect("it is among them");
    assert!(position < AMONG_THE_FIRST, "written as number {position} of {}", written.len());
    assert_eq!(cloud.status(TARGET).as_deref(), Some("{\"status\":\"up\"}"));
}

/// A start on a full host of which nothing has been reported yet: the target is not ready at first, but by the time that it
/// is, it is written next.
#[test]
fn a_target_does_not_wait_for_the_rest_of_a_full_host_at_start() {
    let mut cloud = Cloud::new();
    let _taps = cloud.crowd();
    cloud.start_migration();
    // Then it says of every status when it was written.
    cloud.target.agent.set("LogSeverityScreen", "DEBUG");
    cloud.target.agent.start();
    cloud.wait_all_written();
    let (awaited, log) = (cloud.status_key(TARGET), cloud.target.agent.log());
    let tap = cloud.port.interface.as_str();
    let place = |parts: &[&str]| {
        let line = log.wait(wait::SOON, parts);
        log.lines().iter().position(|other| other.text == line.text).expect("it is there")
    };
    let ready = place(&["Watch armed", tap]).max(place(&["interface prepared", tap]));
    let reported = place(&["Endpoint status reported", "status=up", &awaited]);
    let lines = log.lines();
    let others = lines.get(ready..reported).expect("it is not reported before it is ready").iter();
    let others = others.filter(|line| line.text.contains("Endpoint status reported")).count();
    assert!(others < AMONG_THE_FIRST, "{others} others were reported since it was ready");
    assert_eq!(cloud.status(SOURCE), None, "no agent runs there");
}
