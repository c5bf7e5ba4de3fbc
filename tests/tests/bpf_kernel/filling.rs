//! Several taps at once: to attach to one, or to detach from it, keeps nobody waiting who is awaited on another one.

use crate::bed::*;
use aya::maps::{HashMap, Map, MapData};
use cutover_agent::bpf::{Attach, Kernel};
use cutover_common::abi::Watch;
use cutover_tests::packet::PacketSocket;
use cutover_tests::tcx_end::end_processing;
use cutover_tests::{Tap, wait};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

fn arm_other(bed: &Bed, kernel: &mut Kernel, tap: &Tap, watch: &Watch) {
    bed.inside(|| kernel.arm(tap.ifindex(), OTHER_TAP, watch)).unwrap();
}

/// KERNEL: to attach with tcx takes the lock of links for milliseconds, to put a filter in its place does not.
#[test]
fn while_a_tap_is_watched_others_get_a_filter() {
    let bed = Bed::new();
    let (tap, other) = (bed.plug(), bed.plug_other());
    let mut kernel = bed.open(Attach::Auto);
    bed.arm(&mut kernel, &tap, &watch(1));
    arm_other(&bed, &mut kernel, &other, &watch(2));
    assert!(bed.attached().contains("tcx cutover_tc"), "{}", bed.attached());
    let attached = bed.attached_to(OTHER_TAP);
    assert!(attached.contains("clsact/ingress cutover_tc") && !attached.contains("tcx"), "{attached}");
    assert_eq!(bed.pins("links"), [TAP]);
    for (tap, generation) in [(&tap, 1), (&other, 2)] {
        tap.open().send(&announcement());
        wait::until(wait::SOON, "it is latched", || kernel.evidence(generation).unwrap().is_some());
    }

    // What was armed stays as it is, also under the next agent.
    drop(kernel);
    let mut kernel = bed.open(Attach::Auto);
    kernel.forget_evidence(2).unwrap();
    arm_other(&bed, &mut kernel, &other, &watch(2));
    let attached = bed.attached_to(OTHER_TAP);
    assert!(attached.contains("clsact/ingress cutover_tc") && !attached.contains("tcx"), "{attached}");
    other.open().send(&announcement());
    wait::until(wait::SOON, "it is latched again", || kernel.evidence(2).unwrap().is_some());
}

/// An operator who says which way gets that one.
#[test]
fn a_way_that_was_chosen_is_taken() {
    let bed = Bed::new();
    let (tap, other) = (bed.plug(), bed.plug_other());
    let mut kernel = bed.open(Attach::Tcx);
    bed.arm(&mut kernel, &tap, &watch(1));
    arm_other(&bed, &mut kernel, &other, &watch(2));
    assert_eq!(bed.pins("links"), [TAP, OTHER_TAP]);
}

/// A filter would never see a frame behind a program that ends its processing, whichever was there first.
#[test]
fn a_program_of_somebody_else_hides_no_announcement() {
    for is_there_first in [true, false] {
        let bed = Bed::new();
        let (tap, other) = (bed.plug(), bed.plug_other());
        let mut kernel = bed.open(Attach::Auto);
        bed.arm(&mut kernel, &tap, &watch(1));
        let arm = |kernel: &mut Kernel| arm_other(&bed, kernel, &other, &watch(2));
        if !is_there_first {
            arm(&mut kernel);
        }
        let _end = bed.inside(|| end_processing(other.ifindex())).unwrap();
        // The agent arms what is armed again every second.
        arm(&mut kernel);
        other.open().send(&announcement());
        wait::until(wait::SOON, format_args!("it is latched ({is_there_first})"), || {
            kernel.evidence(2).unwrap().is_some()
        });
    }
}

/// What nobody watches any more does nothing, and is detached when nobody is awaited.
#[test]
fn what_is_left_attached_latches_nothing_and_goes_later() {
    for (attach, attachment) in WAYS {
        let bed = Bed::new();
        let (tap, other) = (bed.plug(), bed.plug_other());
        let (qemu, other_qemu) = (tap.open(), other.open());
        let mut kernel = bed.open(attach);
        bed.arm(&mut kernel, &tap, &watch(1));
        arm_other(&bed, &mut kernel, &other, &watch(2));
        qemu.send(&announcement());
        wait::until(wait::SOON, "it is latched", || kernel.evidence(1).unwrap().is_some());
        bed.inside(|| kernel.disarm(tap.ifindex(), Some(TAP))).unwrap();
        assert!(kernel.has_idle() && kernel.is_awaiting().unwrap(), "{attachment}");
        qemu.send(&announcement());
        other_qemu.send(&announcement());
        wait::until(wait::SOON, "the other one is latched", || kernel.evidence(2).unwrap().is_some());
        assert_eq!(kernel.all_evidence().unwrap().into_keys().collect::<Vec<_>>(), [2], "{attachment}");
        assert!(!kernel.is_awaiting().unwrap());
        bed.detach(&mut kernel);
        assert_eq!(bed.attached().matches(" id ").count(), 0, "{attachment}: {}", bed.attached());
        assert_ne!(bed.attached_to(OTHER_TAP), "", "{attachment}: what is watched stays");
    }
}

/// The next agent leaves it as well while somebody is watched, and lets it run its own program.
#[test]
fn what_is_left_attached_is_taken_over_and_goes_later() {
    for attach in [Attach::Tcx, Attach::Xdp] {
        let bed = Bed::new();
        let (tap, other) = (bed.plug(), bed.plug_other());
        let mut kernel = bed.open(attach);
        bed.arm(&mut kernel, &tap, &watch(1));
        arm_other(&bed, &mut kernel, &other, &watch(2));
        bed.inside(|| kernel.disarm(tap.ifindex(), Some(TAP))).unwrap();
        drop(kernel);
        let mut kernel = bed.open(attach);
        assert!(kernel.has_idle(), "{attach:?}");
        assert_eq!(bed.pins("links"), [TAP, OTHER_TAP]);
        // The virtual machine may come here again.
        bed.arm(&mut kernel, &tap, &watch(3));
        assert!(!kernel.has_idle());
        tap.open().send(&announcement());
        wait::until(wait::SOON, "it is latched", || kernel.evidence(3).unwrap().is_some());
        bed.disarm(&mut kernel, tap.ifindex(), Some(TAP));
        assert_eq!(bed.pins("links"), [OTHER_TAP]);
    }
}

#[test]
fn a_tap_that_was_renamed_is_armed_as_it_is() {
    for (attach, attachment) in WAYS {
        let bed = Bed::new();
        let tap = bed.plug();
        let qemu = tap.open();
        let mut kernel = bed.open(attach);
        bed.arm(&mut kernel, &tap, &watch(1));
        bed.host.namespace().ip(&format!("link set {TAP} down\nlink set {TAP} name {OTHER_TAP} up"));
        for generation in [1, 2] {
            arm_other(&bed, &mut kernel, &tap, &watch(generation));
        }
        let attached = bed.attached_to(OTHER_TAP);
        assert_eq!(attached.matches(" id ").count(), 1, "{attachment}: {attached}");
        // Its own name may be somebody else's by now.
        let successor = bed.plug();
        bed.arm(&mut kernel, &successor, &watch(3));
        qemu.send(&announcement());
        wait::until(wait::SOON, "it is latched", || kernel.evidence(2).unwrap().is_some());
    }
}

/// KERNEL (`qdisc_graft`): to take a qdisc away takes the transmit queue out of use for a moment, and what is sent to the virtual machine then
/// is lost.
#[test]
fn nothing_that_is_sent_to_the_machine_is_lost_when_its_filter_goes() {
    let bed = Bed::new();
    let tap = bed.plug();
    let mut kernel = bed.open(Attach::Tc);
    bed.arm(&mut kernel, &tap, &watch(1));
    let qemu = tap.open();
    let host = PacketSocket::bind(bed.host.namespace(), TAP);
    let frame = announcement();
    let receive = || std::iter::from_fn(|| qemu.receive()).filter(|it| it == frame.bytes()).count();
    // KERNEL: a carrier is not yet a queue.
    wait::until(wait::SOON, "frames come through", || {
        host.send(&frame);
        receive() > 0
    });
    wait::until(wait::SOON, "no more of these", || receive() == 0);
    let (sent, came, is_over) = (AtomicUsize::new(0), AtomicUsize::new(0), AtomicBool::new(false));
    std::thread::scope(|scope| {
        let _over = OnDrop(&is_over);
        scope.spawn(|| {
            while !is_over.load(Ordering::Relaxed) {
                // LIMIT: a tap has room for 500 frames.
                if sent.load(Ordering::Relaxed) - came.load(Ordering::Relaxed) < 400 {
                    host.send(&frame);
                    sent.fetch_add(1, Ordering::Relaxed);
                }
                came.fetch_add(receive(), Ordering::Relaxed);
            }
        });
        for generation in 2..32 {
            bed.disarm(&mut kernel, tap.ifindex(), Some(TAP));
            bed.arm(&mut kernel, &tap, &watch(generation));
        }
    });
    let sent = sent.into_inner();
    assert!(sent > 100, "only {sent} frames");
    wait::until(
        wait::SOON,
        format_args!("all of {sent} frames, not {}", came.load(Ordering::Relaxed)),
        || {
            came.fetch_add(receive(), Ordering::Relaxed);
            came.load(Ordering::Relaxed) == sent
        },
    );
}

/// Says so also when the test panics: a scope waits for its threads.
struct OnDrop<'a>(&'a AtomicBool);

impl Drop for OnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// The mark of a qdisc goes with the tap.
#[test]
fn marks_of_taps_that_are_gone_go() {
    let bed = Bed::new();
    let tap = bed.plug();
    let qemu = tap.open();
    let mut kernel = bed.open(Attach::Tc);
    bed.arm(&mut kernel, &tap, &watch(1));
    bed.disarm(&mut kernel, tap.ifindex(), Some(TAP));
    assert_eq!(bed.pins("qdiscs"), [tap.ifindex().to_string()]);
    drop(qemu);
    tap.remove();
    let other = bed.plug_other();
    arm_other(&bed, &mut kernel, &other, &watch(2));
    bed.disarm(&mut kernel, other.ifindex(), Some(OTHER_TAP));
    assert_eq!(bed.pins("qdiscs"), Vec::<String>::new());
}

/// As an agent of before leaves it that was killed between the two steps of its disarming.
#[test]
fn a_link_without_a_watch_goes_at_the_start_if_nobody_is_watched() {
    let bed = Bed::new();
    let (tap, other) = (bed.plug(), bed.plug_other());
    let mut kernel = bed.open(Attach::Tcx);
    bed.arm(&mut kernel, &tap, &watch(1));
    arm_other(&bed, &mut kernel, &other, &watch(2));
    drop(kernel);
    let forget = |ifindex: u32| {
        let map = Map::HashMap(MapData::from_pin(bed.pin_path.join("maps/WATCHES")).unwrap());
        let mut watches: HashMap<_, u32, Watch> = map.try_into().unwrap();
        watches.remove(&ifindex).unwrap();
    };
    forget(tap.ifindex());
    let kernel = bed.open(Attach::Tcx);
    assert!(kernel.has_idle());
    assert_eq!(bed.pins("links"), [TAP, OTHER_TAP], "somebody is watched");
    drop(kernel);
    forget(other.ifindex());
    assert!(!bed.open(Attach::Tcx).has_idle());
    assert_eq!(bed.pins("links"), Vec::<String>::new());
}
