//! The tap of a virtual machine that is about to leave: its last frame, and nothing else.

use crate::bed::*;
use cutover_daemon::bpf::{LastFrames, Leaving};
use cutover_daemon::clock;
use cutover_tests::{frames, wait};
use std::net::UdpSocket;

/// Waits until the last frame was seen after this moment.
#[track_caller]
fn wait_seen(last_frames: &LastFrames, ifindex: u32, after: u64) {
    wait::until(wait::SOON, "the frame is seen", || last_frames.of(ifindex).is_some_and(|at| at.0 >= after));
}

#[test]
fn the_last_frame_is_noted_and_no_other() {
    let bed = Bed::new();
    let (tap, other) = (bed.plug(), bed.plug_other());
    let (qemu, other_qemu) = (tap.open(), other.open());
    let mut leaving = Leaving::default();
    let last_frames = leaving.last_frames();
    qemu.send(&announcement());
    bed.inside(|| leaving.listen(tap.ifindex())).unwrap();
    bed.inside(|| leaving.listen(tap.ifindex())).unwrap();
    assert_eq!(last_frames.of(tap.ifindex()), None, "what came before is not seen");
    for _ in 0..3 {
        let before = clock::now().0;
        qemu.send(&frames::rarp(MAC));
        qemu.send(&announcement());
        let after = clock::now().0;
        wait_seen(&last_frames, tap.ifindex(), before);
        let seen = last_frames.of(tap.ifindex()).unwrap().0;
        assert!((before..=after).contains(&seen), "{before} {seen} {after}");
    }
    let seen = last_frames.of(tap.ifindex());
    other_qemu.send(&announcement());
    // What the host sends to the virtual machine is none of its frames.
    bed.output("ip", &["address", "add", "10.65.0.1/24", "dev", TAP]);
    bed.output("ip", &["neigh", "replace", "10.65.0.2", "lladdr", &MAC.to_string(), "dev", TAP]);
    bed.inside(|| UdpSocket::bind("10.65.0.1:0").unwrap().send_to(b"x", "10.65.0.2:9")).unwrap();
    wait::until(wait::SOON, "the host's frame is on the tap", || {
        qemu.receive().is_some_and(|frame| frame.starts_with(&MAC.0))
    });
    assert_eq!(last_frames.of(tap.ifindex()), seen);
    bed.inside(|| leaving.cease(tap.ifindex()));
    assert_eq!(last_frames.of(tap.ifindex()), None);
}

/// Neither what runs on the tap nor what comes from it is any different.
#[test]
fn nothing_else_on_the_tap_notices_it() {
    for (attach, _) in ways() {
        let bed = Bed::new();
        let tap = bed.plug();
        let qemu = tap.open();
        let mut kernel = bed.open(attach);
        bed.arm(&mut kernel, &tap, &watch(1));
        let attached = bed.attached();
        let mut leaving = Leaving::default();
        bed.inside(|| leaving.listen(tap.ifindex())).unwrap();
        assert_eq!(bed.attached(), attached);
        let before = clock::now().0;
        qemu.send(&announcement());
        wait_latched(&kernel, 1);
        // KERNEL: generic XDP comes before packet sockets and XDP of the driver makes the packet that they see; both let it pass.
        wait_seen(&leaving.last_frames(), tap.ifindex(), before);
        bed.inside(|| leaving.cease(tap.ifindex()));
        assert_eq!(bed.attached(), attached);
        bed.disarm(&mut kernel, tap.ifindex(), Some(TAP));
    }
}

#[test]
fn it_goes_with_who_listens_and_with_the_tap() {
    let bed = Bed::new();
    let tap = bed.plug();
    let qemu = tap.open();
    let mut leaving = Leaving::default();
    bed.inside(|| leaving.listen(tap.ifindex())).unwrap();
    assert_eq!(tap.packet_sockets().len(), 1);
    drop(leaving);
    // A program that another test starts at this moment has the descriptor until it is there.
    wait::until(wait::SOON, "nobody listens any more", || tap.packet_sockets().is_empty());

    let mut leaving = Leaving::default();
    let last_frames = leaving.last_frames();
    bed.inside(|| leaving.listen(tap.ifindex())).unwrap();
    let before = clock::now().0;
    qemu.send(&announcement());
    wait_seen(&last_frames, tap.ifindex(), before);
    let ifindex = tap.ifindex();
    tap.remove();
    assert!(last_frames.of(ifindex).is_some(), "it is still known when the tap is gone");
    assert!(bed.inside(|| leaving.listen(ifindex)).is_ok(), "as it is");
    bed.inside(|| leaving.cease(ifindex));
    let refused = bed.inside(|| leaving.listen(ifindex)).unwrap_err();
    assert!(refused.to_string().contains("bind it to the tap"), "{refused}");
    assert!(leaving.taps().next().is_none());
}

/// A flood is nothing that waits to be read.
#[test]
fn a_flood_fills_nothing() {
    let bed = Bed::new();
    let tap = bed.plug();
    let qemu = tap.open();
    let mut leaving = Leaving::default();
    bed.inside(|| leaving.listen(tap.ifindex())).unwrap();
    let frame = announcement();
    for _ in 0..10_000 {
        qemu.send(&frame);
    }
    let before = clock::now().0;
    qemu.send(&frame);
    wait_seen(&leaving.last_frames(), tap.ifindex(), before);
    assert_eq!(tap.packet_sockets(), [0], "nothing waits to be read");
}
