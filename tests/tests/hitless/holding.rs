//! From the stop on: nothing is lost at all.

use crate::bed::*;
use cutover_daemon::clock;
use cutover_tests::scene::{SOURCE, TARGET};
use cutover_tests::stream::wait_answered;
use cutover_tests::{frames, wait};
use std::time::Duration;

/// How long the virtual machine runs nowhere: 1,400 datagrams.
const AWAY: Duration = Duration::from_millis(700);

/// Of the target's tap.
fn queue_length(bed: &Bed) -> u32 {
    let interface = bed.scene.port.interface.as_str();
    let mut command = bed.scene.target.host.namespace().command("ip");
    let output = command.args(["link", "show", interface]).output().expect("ip");
    let text = String::from_utf8(output.stdout).expect("text");
    let mut words = text.split_whitespace().skip_while(|word| *word != "qlen");
    words.nth(1).expect("a length").parse().expect("a number")
}

#[test]
fn a_virtual_machine_that_stops_finds_everything_when_it_runs_again() {
    let mut bed = Bed::new();
    let uid = bed.start_migration();
    let at_target = bed.scene.target.tap().open();
    let streams = bed.streams();
    wait::until(wait::SOON, "the stream goes", || streams.iter().all(|stream| stream.answered() > 10));
    let told_at = clock::now();
    bed.tell("pause");
    wait_for(&bed.scene.source, "forwards", "is_active", true);
    // What was in the queue of the source's tap is taken before it stops, as by a guest that is not behind.
    std::thread::sleep(Duration::from_millis(20));
    drop(bed.scene.vm.pause());
    assert_eq!(queue_length(&bed), 10_000);
    // More than the queue of a tap holds by itself.
    std::thread::sleep(AWAY);
    at_target.send(&frames::rarp(bed.scene.port.mac));
    bed.scene.vm.resume(at_target);
    let resumed_at = clock::now();
    wait::until(wait::SOON, "everything is answered", || {
        streams.iter().all(|stream| stream.answered() > 1_000)
    });
    // The routers know, or what comes after the forward would be lost.
    bed.lead_client(&bed.scene.target.host);
    let led_at = clock::now();
    bed.succeed();
    for host in [&bed.scene.source.host, &bed.scene.target.host] {
        wait_gone(host);
    }
    // To make it shorter would lose what is sent at that moment.
    assert_eq!(queue_length(&bed), 10_000);
    wait_answered(&streams, 100);
    for stream in streams {
        let record = stream.finish();
        let lost: Vec<_> = record.lost().collect();
        assert!(
            lost.is_empty(),
            "{} of {} datagrams, from {:?} to {:?}; told of the stop at {told_at}, resumed at {resumed_at}, led to the target at {led_at}",
            lost.len(),
            record.sent(),
            lost.first(),
            lost.last()
        );
        assert!(record.is_in_order());
        assert!(record.longest_silence() >= AWAY, "it was away");
        assert!(record.first_answer_since(resumed_at).is_some());
    }
    let timeline = bed.scene.target.agent.run_ok(&["timeline", &uid]);
    assert!(timeline.contains("stopped"), "{timeline}");
}

#[test]
fn a_virtual_machine_that_goes_on_at_the_source_loses_only_what_was_held() {
    let mut bed = Bed::new();
    let _uid = bed.start_migration();
    let at_target = bed.scene.target.tap().open();
    bed.tell("pause");
    wait_for(&bed.scene.source, "forwards", "is_active", true);
    let at_source = bed.scene.vm.pause().expect("it ran there");
    let streams = bed.streams();
    bed.tell("resume");
    wait_for(&bed.scene.source, "forwards", "is_active", false);
    wait::until(wait::SOON, "no route is left", || {
        !traces(&bed.scene.source.host).iter().any(|line| line.starts_with("table 7179:"))
    });
    let back_at = clock::now();
    bed.scene.vm.resume(at_source);
    drop(at_target);
    bed.scene.driver.roll_back(SOURCE, TARGET);
    wait::until(wait::SOON, "the stream goes on", || streams.iter().all(|stream| stream.answered() > 100));
    for stream in streams {
        assert_eq!(stream.finish().lost_since(back_at), 0);
    }
    for host in [&bed.scene.source.host, &bed.scene.target.host] {
        wait_gone(host);
    }
    // Nobody has the tap open.
    assert_eq!(queue_length(&bed), 1_000);
}

#[test]
fn nobody_is_told_of_what_is_not_being_migrated() {
    let bed = Bed::new();
    let id = bed.scene.port.endpoint.clone();
    let output = bed.scene.source.agent.run(&["migrate", "pause", "--port", &id]);
    let text = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert!(text.contains("knows of no migration away from here"), "{text}");
}
