//! What an agent leaves in the kernel, and how the next one takes it over.

use crate::bed::*;
use aya::maps::{HashMap, Map, MapData, MapInfo};
use cutover_common::abi::Watch;
use cutover_daemon::bpf::{Attach, Attachment, Kernel, Options};
use cutover_tests::wait;
use std::fs;
use std::sync::atomic::{AtomicBool, Ordering};

#[test]
fn what_is_armed_survives_the_agent() {
    for (attach, attachment) in ways() {
        let bed = Bed::new();
        let tap = bed.plug();
        let qemu = tap.open();
        let mut kernel = bed.open(attach);
        bed.arm(&mut kernel, &tap, &watch(3));
        let attached = bed.attached();
        drop(kernel);
        assert_eq!(bed.attached(), attached, "{attachment}");
        qemu.send(&announcement());

        let mut kernel = bed.open(attach);
        assert_eq!(kernel.armed().unwrap(), [(tap.ifindex(), watch(3))], "{attachment}");
        wait::until(wait::SOON, "it was latched meanwhile", || kernel.evidence(3).unwrap().is_some());
        let mut events = kernel.events().unwrap();
        assert_eq!(next(&mut events).map(|record| record.generation), Some(3), "{attachment}");
        assert_eq!(next(&mut events), None);
        assert_ne!(bed.attached(), attached, "the program is the new agent's");

        // What was taken over works on, and is not attached twice.
        bed.arm(&mut kernel, &tap, &watch(4));
        qemu.send(&announcement());
        assert_eq!(wait::for_some(wait::SOON, "the next", || next(&mut events)).generation, 4);
        assert_eq!(bed.attached().lines().count(), attached.lines().count());
    }
}

/// Ends the sender also when the test panics: a scope waits for its threads.
struct StopOnDrop<'a>(&'a AtomicBool);

impl Drop for StopOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Every frame is seen although the program is replaced again and again under fire.
#[test]
fn replacing_the_program_loses_no_frame() {
    for (attach, attachment) in ways() {
        let bed = Bed::new();
        let tap = bed.plug();
        let qemu = tap.open();
        let mut kernel = bed.open(attach);
        bed.arm(&mut kernel, &tap, &watch(1));
        // Only one agent at a time has the pins.
        drop(kernel);
        let stop = AtomicBool::new(false);
        let sent = std::thread::scope(|scope| {
            let _stop = StopOnDrop(&stop);
            let sender = scope.spawn(|| {
                let (announcement, mut sent) = (announcement(), 0_u64);
                while !stop.load(Ordering::Relaxed) {
                    qemu.send(&announcement);
                    sent += 1;
                }
                sent
            });
            for _ in 0..5 {
                drop(bed.open(attach));
            }
            stop.store(true, Ordering::Relaxed);
            sender.join().unwrap()
        });
        let kernel = bed.open(attach);
        let counted = || {
            let counters = kernel.counters().read().unwrap();
            counters["accepted_garp_request"] + counters["already_announced"]
        };
        wait::until(
            wait::SOON,
            format_args!("{attachment}: {sent} frames counted, not {}", counted()),
            || counted() == sent,
        );
    }
}

#[test]
fn a_tap_that_comes_back_with_another_number_is_watched_again() {
    for (attach, attachment) in ways() {
        let bed = Bed::new();
        let tap = bed.plug();
        let mut kernel = bed.open(attach);
        bed.arm(&mut kernel, &tap, &watch(1));
        let first = tap.ifindex();
        tap.remove();
        let tap = bed.plug();
        let error = bed.inside(|| kernel.arm(first, TAP, &watch(2))).unwrap_err();
        assert_eq!(error.to_string(), format!("there is no interface {TAP} with number {first}"));

        bed.arm(&mut kernel, &tap, &watch(2));
        bed.disarm(&mut kernel, first, Some(TAP));
        assert_eq!(
            kernel.armed().unwrap(),
            [(tap.ifindex(), watch(2))],
            "{attachment}: only the dead one goes"
        );
        let qemu = tap.open();
        let mut events = kernel.events().unwrap();
        qemu.send(&announcement());
        let record = wait::for_some(wait::SOON, "the announcement", || next(&mut events));
        assert_eq!((record.generation, record.ifindex), (2, tap.ifindex()), "{attachment}");
    }
}

/// The same sizes, and another meaning.
#[test]
fn maps_of_another_version_are_replaced() {
    let bed = Bed::new();
    let tap = bed.plug();
    let mut kernel = bed.open(Attach::Auto);
    bed.arm(&mut kernel, &tap, &watch(1));
    drop(kernel);
    assert_eq!(bed.open(Attach::Auto).armed().unwrap().len(), 1, "the same version goes on");

    let marks = bed.pin_path.join("abi");
    let [mark] = &fs::read_dir(&marks).unwrap().flatten().collect::<Vec<_>>()[..] else {
        panic!("one mark in {}", marks.display())
    };
    fs::create_dir(marks.join("4000000000")).unwrap();
    fs::remove_dir(mark.path()).unwrap();
    assert_eq!(bed.open(Attach::Auto).armed().unwrap(), [], "what the other version armed");
    assert!(mark.path().exists() && !marks.join("4000000000").exists());

    // Agents before the first mark.
    let mut kernel = bed.open(Attach::Auto);
    bed.arm(&mut kernel, &tap, &watch(2));
    drop(kernel);
    fs::remove_dir(mark.path()).unwrap();
    assert_eq!(bed.open(Attach::Auto).armed().unwrap().len(), 1);
}

/// A program that was running when its watch was removed latches for nobody.
#[test]
fn evidence_of_watches_that_are_gone_is_forgotten() {
    let bed = Bed::new();
    let tap = bed.plug();
    let mut kernel = bed.open(Attach::Auto);
    bed.arm(&mut kernel, &tap, &watch(1));
    tap.open().send(&announcement());
    wait::until(wait::SOON, format_args!("the evidence"), || kernel.evidence(1).unwrap().is_some());
    let map = bed.pin_path.join("maps/EVIDENCE");
    for generation in ["2", "3"] {
        let key = [&["key", generation][..], &["0"; 7]].concat();
        let value = [&["value"][..], &["1"; 16]].concat();
        let update = ["map", "update", "pinned", map.to_str().unwrap()];
        bed.output("bpftool", &[&update[..], &key, &value].concat());
    }
    assert_eq!(kernel.all_evidence().unwrap().len(), 3);
    assert_eq!(kernel.forget_stray_evidence().unwrap(), 2);
    let left: Vec<u64> = kernel.all_evidence().unwrap().into_keys().collect();
    assert_eq!(left, [1], "that of a watch that is armed stays");
}

#[test]
fn maps_of_another_layout_are_replaced() {
    let bed = Bed::new();
    let tap = bed.plug();
    fs::create_dir_all(bed.pin_path.join("maps")).unwrap();
    let old = bed.pin_path.join("maps/WATCHES");
    let create = ["map", "create", old.to_str().unwrap(), "type", "hash", "key", "4", "value", "8"];
    bed.output("bpftool", &[&create[..], &["entries", "16", "name", "WATCHES"]].concat());
    let mut kernel = bed.open(Attach::Auto);
    bed.arm(&mut kernel, &tap, &watch(1));
    let identity = |name: &str| {
        let path = bed.pin_path.join("maps").join(name);
        MapInfo::from_pin(path).unwrap().id()
    };
    let names = ["WATCHES", "EVIDENCE", "SETTINGS", "COUNTERS", "EVENTS"];
    let before = names.map(identity);
    drop(kernel);
    let kernel = bed.open(Attach::Auto);
    assert_eq!(names.map(identity), before, "maps of the right layout stay");
    assert_eq!(kernel.armed().unwrap(), [(tap.ifindex(), watch(1))]);
}

#[test]
fn links_that_nobody_watches_are_removed_at_the_start() {
    for (attach, attachment) in ways().filter(|(_, attachment)| *attachment != Attachment::Tc) {
        let bed = Bed::new();
        let tap = bed.plug();
        let mut kernel = bed.open(attach);
        bed.arm(&mut kernel, &tap, &watch(1));
        drop(kernel);
        // As after a crash between the two steps of disarming.
        let map = Map::HashMap(MapData::from_pin(bed.pin_path.join("maps/WATCHES")).unwrap());
        let mut watches: HashMap<_, u32, Watch> = map.try_into().unwrap();
        watches.remove(&tap.ifindex()).unwrap();
        drop(bed.open(attach));
        assert_eq!(bed.attached(), "", "{attachment}");
        assert_eq!(bed.pins("links"), Vec::<String>::new(), "{attachment}");
    }
}

/// Its maps are those of before, so nobody would hear what it sees.
#[test]
fn a_filter_with_other_maps_is_replaced_when_its_tap_is_armed() {
    let (bed, other) = (Bed::new(), Bed::new());
    let tap = bed.plug();
    let qemu = tap.open();
    let mut kernel = bed.open(Attach::Tc);
    let options = Options { pin_path: other.pin_path.clone(), attach: Attach::Tc, debug_log: false };
    let mut before = bed.inside(|| Kernel::open(&options)).unwrap();
    bed.inside(|| before.arm(tap.ifindex(), TAP, &watch(1))).unwrap();
    let attached = bed.attached();
    bed.arm(&mut kernel, &tap, &watch(2));
    assert_ne!(bed.attached(), attached);
    qemu.send(&announcement());
    wait::until(wait::SOON, "it is heard", || kernel.evidence(2).unwrap().is_some());
    assert_eq!(before.evidence(1).unwrap(), None);
    let attached = bed.attached();
    bed.arm(&mut kernel, &tap, &watch(3));
    assert_eq!(bed.attached(), attached, "what is right is left alone");
}

/// With pins of its own and other taps. The one that starts later does not make the other one deaf.
#[test]
fn what_another_agent_has_on_its_taps_is_left_to_it() {
    for (attach, attachment) in ways() {
        let (bed, other) = (Bed::new(), Bed::new());
        let tap = bed.plug();
        let qemu = tap.open();
        let options = Options { pin_path: other.pin_path.clone(), attach: Attach::Tc, debug_log: false };
        let mut first = bed.inside(|| Kernel::open(&options)).unwrap();
        bed.inside(|| first.arm(tap.ifindex(), TAP, &watch(1))).unwrap();
        let attached = bed.attached();
        let second = bed.open(attach);
        assert_eq!(bed.attached(), attached, "{attachment}");
        qemu.send(&announcement());
        wait::until(wait::SOON, "it is heard", || first.evidence(1).unwrap().is_some());
        bed.inside(|| first.disarm(tap.ifindex(), Some(TAP))).unwrap();
        drop(second);
    }
}

#[test]
fn filters_that_nobody_watches_are_removed_at_the_start() {
    for (attach, attachment) in ways() {
        let bed = Bed::new();
        let tap = bed.plug();
        let mut kernel = bed.open(Attach::Tc);
        bed.arm(&mut kernel, &tap, &watch(1));
        drop(kernel);
        let namespace = bed.host.namespace();
        namespace.ip("tuntap add dev tapother mode tap");
        bed.output("tc", &["qdisc", "add", "dev", "tapother", "clsact"]);
        // As after somebody has removed the maps, or an update that replaced them.
        fs::remove_file(bed.pin_path.join("maps/WATCHES")).unwrap();
        // A tap that went while no agent was there.
        fs::create_dir(bed.pin_path.join("qdiscs/4000000")).unwrap();
        drop(bed.open(attach));
        assert_eq!(bed.attached(), "", "{attachment}");
        assert_eq!(bed.pins("qdiscs"), Vec::<String>::new(), "{attachment}");
        let others = bed.output("tc", &["qdisc", "show", "dev", "tapother", "clsact"]);
        assert!(others.contains("clsact"), "what others made stays");
    }
}

#[test]
fn outside_of_a_bpf_file_system_nothing_is_opened() {
    let folder = tempfile::tempdir().unwrap();
    let options = Options { pin_path: folder.path().join("pins"), attach: Attach::Auto, debug_log: false };
    let error = Kernel::open(&options).unwrap_err();
    assert!(error.to_string().contains("mount -t bpf"), "{error}");
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
}
