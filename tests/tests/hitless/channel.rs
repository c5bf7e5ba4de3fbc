//! The agents' channel is cut, at each step.

use crate::bed::*;
use cutover_daemon::clock;
use cutover_tests::firewall;
use cutover_tests::scene::Node;
use cutover_tests::wait;
use serde_json::Value;

/// Nothing of the channel gets through from now on, until both agents have noticed.
fn cut(bed: &Bed) {
    for node in both(bed) {
        firewall::load(
            node.host.namespace(),
            "table inet cut {
                chain input {
                    type filter hook input priority 0;
                    tcp dport 7179 drop
                    tcp sport 7179 drop
                }
            }",
        );
    }
    wait::until(wait::SOON, "both have noticed", || both(bed).iter().all(|node| !is_connected(node)));
}

fn mend(bed: &Bed) {
    for node in both(bed) {
        firewall::load(node.host.namespace(), "delete table inet cut");
    }
    wait::until(wait::SOON, "they talk again", || both(bed).iter().all(|node| is_connected(node)));
}

fn both(bed: &Bed) -> [&Node; 2] {
    [&bed.scene.source, &bed.scene.target]
}

fn is_connected(node: &Node) -> bool {
    node.agent.status()["peers"]["conversations"][0]["is_connected"] == true
}

/// What the doctor finds about this, with the level of each.
fn finds(node: &Node) -> Vec<(String, String)> {
    let output = node.agent.run(&["doctor", "--json"]);
    let report: Value = serde_json::from_slice(&output.stdout).expect("a report");
    let text = |finding: &Value, name: &str| finding[name].as_str().expect("text").to_owned();
    let findings = report["findings"].as_array().expect("findings").iter();
    let found = findings.map(|finding| (text(finding, "check"), text(finding, "level")));
    found.filter(|(check, _)| check.starts_with("hitless.")).collect()
}

/// BGP does the work alone, and what the source does not know it does not do, until the channel is there again.
#[test]
fn before_the_announcement() {
    let mut bed = Bed::new();
    bed.start_migration();
    cut(&bed);
    bed.arrive();
    bed.scene.target.wait_state(&bed.scene.port, "Live");
    assert_eq!(shown(&bed.scene.source, "forwards").unwrap()["is_active"], false);
    for node in both(&bed) {
        wait::until(wait::SOON, "the doctor says who cannot be talked to", || {
            finds(node).iter().any(|(check, level)| check == "hitless.conversations" && level == "warning")
        });
    }
    mend(&bed);
    wait_for(&bed.scene.source, "forwards", "is_active", true);
    for node in both(&bed) {
        let found = finds(node);
        assert_eq!(found.len(), 5, "{found:?}");
        assert!(found.iter().all(|(_, level)| level == "ok"), "{found:?}");
    }
    reaches_everything(&bed, || {});
    bed.succeed();
    ends(&bed);
}

#[test]
fn while_the_source_forwards() {
    let mut bed = Bed::new();
    bed.start_migration();
    bed.arrive();
    wait_for(&bed.scene.source, "forwards", "is_active", true);
    reaches_everything(&bed, || {
        cut(&bed);
        mend(&bed);
    });
    bed.succeed();
    ends(&bed);
}

/// The migration ends while nobody can say so: each side sees it by itself.
#[test]
fn until_the_migration_is_over() {
    let mut bed = Bed::new();
    bed.start_migration();
    bed.arrive();
    wait_for(&bed.scene.source, "forwards", "is_active", true);
    cut(&bed);
    reaches_everything(&bed, || bed.succeed());
    ends(&bed);
}

/// What is sent meanwhile reaches the virtual machine.
fn reaches_everything(bed: &Bed, meanwhile: impl FnOnce()) {
    let streams = bed.streams();
    let begun_at = clock::now();
    wait::until(wait::SOON, "the stream goes", || streams.iter().all(|stream| stream.answered() > 100));
    meanwhile();
    for stream in streams {
        let record = stream.finish();
        assert_eq!(record.lost_since(begun_at), 0, "of {} datagrams", record.sent());
    }
}

fn ends(bed: &Bed) {
    for node in both(bed) {
        wait_gone(&node.host);
    }
}
