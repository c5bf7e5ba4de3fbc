//! A BGP daemon that lost notifications, whoever wrote so much: `cutover status` names it, and what makes it right again.

use cutover_tests::listener::{Listener, OF_ROUTES};
use cutover_tests::scene::{Node, SOURCE};
use cutover_tests::{Lab, Port};
use std::time::Duration;

#[test]
fn a_daemon_that_lost_notifications_is_named_until_it_is_another_process() {
    let lab = Lab::new();
    let mut node = Node::new(&lab, SOURCE, &lab.directory(), &Port::new(1));
    node.agent.start();
    let namespace = node.host.namespace();
    let daemon = Listener::named("zebra", namespace, OF_ROUTES, Duration::ZERO);
    let other = Listener::named("somebody", namespace, OF_ROUTES, Duration::ZERO);
    assert_eq!(node.agent.status()["overruns"].as_array().map(Vec::len), Some(0));
    daemon.stop();
    other.stop();
    let line = |number: u16| format!("route add 10.70.{}.{}/32 dev eth0\n", number / 250, number % 250);
    namespace.ip(&(0..1_000).map(line).collect::<String>());

    let lost = daemon.lost();
    assert!(lost > 0 && other.lost() > 0, "the default buffer holds 256");
    let status = node.agent.status();
    let expected = serde_json::json!([{"daemon": "zebra", "pid": daemon.pid(), "lost": lost}]);
    assert_eq!(status["overruns"], expected);
    let text = node.agent.run_ok(&["status"]);
    let said = format!("  zebra (process {}) was not told of {lost} changes", daemon.pid());
    assert!(text.contains("listeners that lost notifications: 1\n") && text.contains(&said), "{text}");

    drop(daemon);
    let _again = Listener::named("zebra", namespace, OF_ROUTES, Duration::ZERO);
    assert_eq!(node.agent.status()["overruns"].as_array().map(Vec::len), Some(0));
}
