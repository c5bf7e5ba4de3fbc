//! Liveness and readiness of an agent whose cluster goes, and of one whose part is stuck.

use cutover_tests::crowd::Crowd;
use cutover_tests::datastore;
use cutover_tests::resources::felix_configuration;
use cutover_tests::scene::{Node, SOURCE};
use cutover_tests::{Agent, Driver, Etcd, Lab, Port, http, wait};
use serde_json::json;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

const ADDRESS: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 9099);
/// LIMIT: only failing tests wait this long for an agent to notice that its cluster is away, or back.
const NOTICED: Duration = Duration::from_secs(40);

#[test]
fn an_agent_without_its_cluster_lives_and_is_not_ready() {
    let lab = Lab::new();
    let host = lab.host("compute1");
    let etcd = Etcd::start(&lab);
    let mut agent = Agent::new(&lab, &host, &lab.directory()).on_etcd(&etcd);
    agent.set("HealthEnabled", true);
    agent.start();
    let ask = |path| http::get_soon(host.namespace(), ADDRESS, path);
    let not_ready = ask("/readiness");
    assert_eq!(not_ready.code, 503, "nobody has said that the datastore is ready: {}", not_ready.body);
    assert_eq!(ask("/liveness").code, 200);
    datastore::set_ready(&etcd, true);
    wait::until(NOTICED, "ready", || ask("/readiness").code == 200);
    etcd.kill(0);
    wait::until(NOTICED, "not ready", || ask("/readiness").code == 503);
    let body = ask("/readiness").body;
    assert!(body.contains("reporting non-ready") && body.contains("lost: "), "{body}");
    assert_eq!(ask("/liveness").code, 200);
    etcd.restart(0);
    wait::until(NOTICED, "ready again", || ask("/readiness").code == 200);
}

/// LIMIT: the lock can be free again before anything comes to it on a busy machine; then it is held once more.
const ATTEMPTS: u32 = 5;

#[test]
fn a_part_that_does_not_come_back_from_the_kernel_is_not_live() {
    const APPLIER: &str = "the IPv4 route applier";
    let lab = Lab::new();
    let directory = lab.directory();
    let port = Port::new(1);
    let mut node = Node::new(&lab, SOURCE, &directory, &port);
    node.agent.set("HealthEnabled", true);
    // The others may be as slow as a busy machine makes them.
    node.agent.set("HealthTimeoutOverrides", format!("{APPLIER}=20ms"));
    Driver::new(&directory, &port).bind(SOURCE);
    node.agent.start();
    node.open();
    node.wait_settled(&port);
    let liveness = || http::get_soon(node.host.namespace(), ADDRESS, "/liveness");
    let was_named = (0..ATTEMPTS).any(|attempt| {
        let metric = 3000 + attempt;
        let priorities = json!({"ipv4NormalRoutePriority": metric, "ipv6NormalRoutePriority": metric});
        let crowd = Crowd::gather(&lab);
        let mut refusal = None;
        crowd.disperse_during(|| {
            directory.put(&felix_configuration("default", &priorities));
            wait::until(wait::SOON, "somebody is stuck, or it is over", || {
                let answer = liveness();
                refusal = refusal.take().or((answer.code == 503).then_some(answer.body));
                refusal.is_some() || node.watch.metrics_to(port.ipv4()) == [metric]
            });
        });
        node.wait_metrics(&port, &[metric]);
        refusal.is_some_and(|body| {
            let line = body.lines().find(|line| line.starts_with(APPLIER)).unwrap_or_default();
            line.contains("20ms (override)") && line.contains("timed out")
        })
    });
    assert!(was_named, "{APPLIER} has always been live");
    wait::until(wait::SOON, "everybody lives", || liveness().code == 200);
}
