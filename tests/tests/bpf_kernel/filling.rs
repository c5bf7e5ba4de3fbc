//! Several taps at once: to attach to one, or to detach from it, keeps nobody waiting who is awaited on another one.

use crate::bed::*;
use aya::maps::{HashMap, Map, MapData};
use cutover_common::abi::Watch;
use cutover_daemon::bpf::{Attach, Kernel};
use cutover_tests::{Tap, foreign, kernel, wait};

fn arm_other(bed: &Bed, kernel: &mut Kernel, tap: &Tap, watch: &Watch) {
    bed.inside(|| kernel.arm(tap.ifindex(), OTHER_TAP, watch)).unwrap();
}

/// A host with two taps that are watched, the first one for generation 1 and then the other one for generation 2.
fn both_watched(attach: Attach) -> (Bed, Tap, Tap, Kernel) {
    let bed = Bed::new();
    let (tap, other) = (bed.plug(), bed.plug_other());
    let mut kernel = bed.open(attach);
    bed.arm(&mut kernel, &tap, &watch(1));
    arm_other(&bed, &mut kernel, &other, &watch(2));
    (bed, tap, other, kernel)
}

/// The guest at one of them announces itself, which is latched.
#[track_caller]
fn announce(kernel: &Kernel, tap: &Tap, generation: u64) {
    tap.open().send(&announcement());
    wait_latched(kernel, generation);
}

const TCX: &str = "tcx cutover_tc";
const XDP: &str = "driver id";

/// KERNEL: to attach with tcx takes the lock of links for milliseconds, with XDP it does so only if the program is attached with XDP nowhere
/// else.
#[test]
fn while_a_tap_is_watched_others_get_xdp() {
    if !kernel::has_tcx() {
        return;
    }
    let (bed, tap, other, kernel) = both_watched(Attach::Auto);
    let expect = |first: &[&str], second: &[&str]| {
        for (tap, expected) in [(TAP, first), (OTHER_TAP, second)] {
            let attached = bed.attached_to(tap);
            assert_eq!(attached.matches(" id ").count(), expected.len(), "{tap}: {attached}");
            assert!(expected.iter().all(|part| attached.contains(part)), "{tap}: {attached}");
        }
    };
    expect(&[TCX, XDP], &[XDP]);
    assert_eq!(bed.pins("links"), ["%anchor", TAP, OTHER_TAP]);
    announce(&kernel, &tap, 1);
    announce(&kernel, &other, 2);

    // What was armed stays as it is, also under the next agent, which lets it run its own program.
    drop(kernel);
    let mut kernel = bed.open(Attach::Auto);
    for (tap, name, generation) in [(&tap, TAP, 1), (&other, OTHER_TAP, 2)] {
        kernel.forget_evidence(generation).unwrap();
        bed.inside(|| kernel.arm(tap.ifindex(), name, &watch(generation))).unwrap();
        announce(&kernel, tap, generation);
    }
    expect(&[TCX, XDP], &[XDP]);

    // It goes at once where that keeps nobody waiting, and everything goes in the end.
    bed.inside(|| kernel.disarm(other.ifindex(), Some(OTHER_TAP))).unwrap();
    assert_eq!(kernel.idle(), 0);
    expect(&[TCX, XDP], &[]);
    bed.disarm(&mut kernel, tap.ifindex(), Some(TAP));
    expect(&[], &[]);
    assert_eq!(bed.pins("links"), Vec::<String>::new());
}

/// The one of the first tap goes with the tap; the others are there by then.
#[test]
fn the_first_tap_may_go_before_the_others() {
    if !kernel::has_tcx() {
        return;
    }
    let (bed, tap, other, mut kernel) = both_watched(Attach::Auto);
    let ifindex = tap.ifindex();
    tap.remove();
    bed.disarm(&mut kernel, ifindex, Some(TAP));
    assert_eq!(bed.pins("links"), [OTHER_TAP]);
    let third = bed.plug();
    bed.arm(&mut kernel, &third, &watch(3));
    assert_eq!(bed.pins("links"), [TAP, OTHER_TAP]);
    for (tap, generation) in [(&other, 2), (&third, 3)] {
        announce(&kernel, tap, generation);
    }
    // The last one is detached when nobody is awaited.
    bed.inside(|| kernel.disarm(other.ifindex(), Some(OTHER_TAP))).unwrap();
    assert_eq!(kernel.idle(), 0);
    bed.inside(|| kernel.disarm(third.ifindex(), Some(TAP))).unwrap();
    assert_eq!((kernel.idle(), bed.pins("links")), (1, vec![TAP.to_owned()]));
    bed.detach(&mut kernel);
    assert_eq!(bed.pins("links"), Vec::<String>::new());
}

/// The next agent takes XDP because the operator wants it by now, or because another tap is watched; the anchor has that place on the tap.
#[test]
fn the_anchor_becomes_the_link_of_its_tap() {
    if !kernel::has_tcx() {
        return;
    }
    for attach in [Attach::Xdp, Attach::Auto] {
        let (bed, tap, _other, kernel) = both_watched(Attach::Auto);
        drop(kernel);
        if attach == Attach::Auto {
            // As an agent leaves it that was killed before it was attached to tcx.
            std::fs::remove_file(bed.pin_path.join("links").join(TAP)).unwrap();
        }
        let mut kernel = bed.open(attach);
        bed.arm(&mut kernel, &tap, &watch(1));
        let attached = bed.attached();
        assert!(attached.contains(XDP) && !attached.contains(TCX), "{attached}");
        assert_eq!(bed.pins("links"), [TAP, OTHER_TAP]);
        announce(&kernel, &tap, 1);
        bed.disarm(&mut kernel, tap.ifindex(), Some(TAP));
        assert_eq!(bed.attached(), "");
    }
}

/// An operator who says which way gets that one.
#[test]
fn a_way_that_was_chosen_is_taken() {
    if !kernel::has_tcx() {
        return;
    }
    let (bed, _tap, _other, _kernel) = both_watched(Attach::Tcx);
    assert_eq!(bed.pins("links"), [TAP, OTHER_TAP]);
}

/// Whatever it is, and whichever is there first.
#[test]
fn a_program_of_somebody_else_hides_no_announcement() {
    if !kernel::has_tcx() {
        return;
    }
    for foreign in [foreign::end_of_tcx, foreign::xdp] {
        for is_there_first in [true, false] {
            let bed = Bed::new();
            let (tap, other) = (bed.plug(), bed.plug_other());
            let mut kernel = bed.open(Attach::Auto);
            bed.arm(&mut kernel, &tap, &watch(1));
            let theirs = is_there_first.then(|| bed.inside(|| foreign(other.ifindex())).unwrap());
            arm_other(&bed, &mut kernel, &other, &watch(2));
            // Where ours is there first, somebody else can have no place for XDP.
            let _theirs = theirs.map_or_else(|| bed.inside(|| foreign(other.ifindex())), Ok);
            other.open().send(&announcement());
            wait::until(wait::SOON, format_args!("it is latched ({is_there_first})"), || {
                kernel.evidence(2).unwrap().is_some()
            });
        }
    }
}

/// As Felix limits what a virtual machine sends: with the qdisc `ingress` and a filter at the first place there is.
#[test]
fn a_limit_of_bandwidth_can_be_set_and_hides_no_announcement() {
    if !kernel::has_tcx() {
        return;
    }
    for is_there_first in [true, false] {
        let bed = Bed::new();
        let (tap, other) = (bed.plug(), bed.plug_other());
        let mut kernel = bed.open(Attach::Auto);
        let limit = || {
            for name in [TAP, OTHER_TAP] {
                bed.output("tc", &["qdisc", "add", "dev", name, "ingress"]);
                let filter = "parent ffff: protocol all prio 1 u32 match u32 0 0 classid 1:1";
                let filter: Vec<_> = filter.split(' ').collect();
                bed.output("tc", &[&["filter", "add", "dev", name], &filter[..]].concat());
            }
        };
        if is_there_first {
            limit();
        }
        bed.arm(&mut kernel, &tap, &watch(1));
        arm_other(&bed, &mut kernel, &other, &watch(2));
        if !is_there_first {
            limit();
        }
        for (tap, generation) in [(&tap, 1), (&other, 2)] {
            announce(&kernel, tap, generation);
        }
        for (tap, name) in [(&tap, TAP), (&other, OTHER_TAP)] {
            bed.disarm(&mut kernel, tap.ifindex(), Some(name));
            let filters = bed.output("tc", &["filter", "show", "dev", name, "ingress"]);
            assert!(filters.contains("pref 1 u32"), "{filters}");
        }
    }
}

/// What nobody watches any more does nothing, and is detached when nobody is awaited.
#[test]
fn what_is_left_attached_latches_nothing_and_goes_later() {
    for (attach, attachment) in ways() {
        let bed = Bed::new();
        let (tap, other) = (bed.plug(), bed.plug_other());
        let (qemu, other_qemu) = (tap.open(), other.open());
        let mut kernel = bed.open(attach);
        bed.arm(&mut kernel, &tap, &watch(1));
        arm_other(&bed, &mut kernel, &other, &watch(2));
        qemu.send(&announcement());
        wait_latched(&kernel, 1);
        bed.inside(|| kernel.disarm(tap.ifindex(), Some(TAP))).unwrap();
        assert!(kernel.is_awaiting().unwrap(), "{attachment}");
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
    if !kernel::has_tcx() {
        return;
    }
    let (bed, tap, _other, mut kernel) = both_watched(Attach::Tcx);
    bed.inside(|| kernel.disarm(tap.ifindex(), Some(TAP))).unwrap();
    drop(kernel);
    let mut kernel = bed.open(Attach::Tcx);
    assert_eq!((kernel.idle(), bed.pins("links")), (1, vec![TAP.to_owned(), OTHER_TAP.to_owned()]));
    // The virtual machine may come here again.
    bed.arm(&mut kernel, &tap, &watch(3));
    assert_eq!(kernel.idle(), 0);
    announce(&kernel, &tap, 3);
    bed.disarm(&mut kernel, tap.ifindex(), Some(TAP));
    assert_eq!(bed.pins("links"), [OTHER_TAP]);
}

#[test]
fn a_tap_that_was_renamed_is_armed_as_it_is() {
    for (attach, attachment) in ways() {
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
        wait_latched(&kernel, 2);
    }
}

/// As an agent of before leaves it that was killed between the two steps of its disarming.
#[test]
fn a_link_without_a_watch_goes_at_the_start_if_nobody_is_watched() {
    if !kernel::has_tcx() {
        return;
    }
    let (bed, tap, other, kernel) = both_watched(Attach::Tcx);
    drop(kernel);
    let forget = |ifindex: u32| {
        let map = Map::HashMap(MapData::from_pin(bed.pin_path.join("maps/WATCHES")).unwrap());
        let mut watches: HashMap<_, u32, Watch> = map.try_into().unwrap();
        watches.remove(&ifindex).unwrap();
    };
    forget(tap.ifindex());
    let kernel = bed.open(Attach::Tcx);
    assert_eq!(kernel.idle(), 1);
    assert_eq!(bed.pins("links"), [TAP, OTHER_TAP], "somebody is watched");
    drop(kernel);
    forget(other.ifindex());
    assert_eq!(bed.open(Attach::Tcx).idle(), 0);
    assert_eq!(bed.pins("links"), Vec::<String>::new());
}
