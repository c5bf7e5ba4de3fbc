//! Where it is off nothing of it is there, and everything else works.

use crate::bed::*;
use cutover_tests::scene::Scene;

/// TCP and UDP sockets that listen in the host's namespace, without those of the kernel.
fn listening(bed: &Bed) -> String {
    let output = bed.scene.source.host.namespace().command("ss").args(["-Hlntu"]).output().expect("ss");
    String::from_utf8(output.stdout).expect("text")
}

#[test]
fn nothing_listens_and_nothing_is_made() {
    let mut bed = Bed::of(Scene::new());
    assert_eq!(listening(&bed), "");
    let _uid = bed.scene.start_migration();
    bed.arrive();
    bed.scene.target.wait_arrived(&bed.scene.port);
    assert_eq!(listening(&bed), "");
    for host in [&bed.scene.source.host, &bed.scene.target.host] {
        assert!(traces(host).is_empty(), "{:?}", traces(host));
    }
}

#[test]
fn with_one_setting_the_agents_talk_and_forward_nothing() {
    let mut bed = Bed::with(|agent| agent.set("CutoverForward", "off"));
    assert!(listening(&bed).contains(":7179"), "{}", listening(&bed));
    let _uid = bed.scene.start_migration();
    bed.arrive();
    bed.scene.target.wait_arrived(&bed.scene.port);
    for host in [&bed.scene.source.host, &bed.scene.target.host] {
        assert!(traces(host).is_empty(), "{:?}", traces(host));
    }
}

/// An operator who switches it off means what is there, too.
#[test]
fn an_agent_that_is_started_without_it_takes_away_what_the_last_one_forwarded() {
    let mut bed = Bed::new();
    let _uid = bed.start_migration();
    bed.arrive();
    wait_for(&bed.scene.source, "forwards", "is_active", true);
    bed.scene.source.agent.terminate();
    assert!(!traces(&bed.scene.source.host).is_empty(), "it goes on without an agent");
    bed.scene.source.agent.set("CutoverPeering", "off");
    bed.scene.source.agent.start_in_sync();
    wait_gone(&bed.scene.source.host);
}
