//! What is attached, what operators see of it, and that it goes without a trace.

use crate::bed::*;
use aya::programs::{ProgramInfo, loaded_programs};
use cutover_daemon::bpf::{Attach, Attachment, OBJECT, cleanup, leftovers};
use cutover_tests::wait;
use std::fs;

#[test]
fn disarming_leaves_nothing_behind() {
    for (attach, attachment) in ways() {
        for name in [Some(TAP), None] {
            let bed = Bed::new();
            let tap = bed.plug();
            let qemu = tap.open();
            let mut kernel = bed.open(attach);
            assert_eq!(bed.attached(), "", "nothing is attached when nothing is armed");
            bed.arm(&mut kernel, &tap, &watch(1));
            assert_ne!(bed.attached(), "", "{attachment}");
            qemu.send(&announcement());
            wait_latched(&kernel, 1);

            bed.disarm(&mut kernel, tap.ifindex(), name);
            assert_eq!(bed.attached(), "", "{attachment} {name:?}");
            assert_eq!(bed.pins("links"), Vec::<String>::new());
            assert_eq!(bed.pins("qdiscs"), Vec::<String>::new());
            assert_eq!(kernel.armed().unwrap(), []);
            assert_eq!(kernel.all_evidence().unwrap().len(), 0);
            bed.disarm(&mut kernel, tap.ifindex(), name);

            bed.arm(&mut kernel, &tap, &watch(2));
            let ifindex = tap.ifindex();
            drop(qemu);
            tap.remove();
            bed.disarm(&mut kernel, ifindex, name);
            assert_eq!(bed.pins("links"), Vec::<String>::new(), "{attachment} {name:?}");
            assert_eq!(bed.pins("qdiscs"), Vec::<String>::new());
            assert_eq!(kernel.armed().unwrap(), []);
        }
    }
}

#[test]
fn each_way_is_visible_where_operators_look() {
    for (attach, attachment) in ways() {
        let bed = Bed::new();
        let tap = bed.plug();
        let mut kernel = bed.open(attach);
        bed.arm(&mut kernel, &tap, &watch(1));
        let (expected, pins): (&[&str], &[&str]) = match attachment {
            Attachment::Tcx => (&["tcx cutover_tc"], &[TAP]),
            Attachment::Tc => (&["clsact/ingress cutover_tc id", "qdisc clsact ffff:"], &[]),
            Attachment::Xdp => (&["driver id"], &[TAP]),
        };
        let attached = bed.attached();
        for part in expected {
            assert!(attached.contains(part), "{part:?} is not in: {attached}");
        }
        assert_eq!(attached.lines().count(), expected.len(), "{attached}");
        assert_eq!(bed.pins("links"), pins);
    }
}

#[test]
fn changing_the_way_replaces_what_is_attached() {
    let bed = Bed::new();
    let tap = bed.plug();
    let qemu = tap.open();
    for (generation, (attach, attachment)) in (1..).zip(ways().chain(ways())) {
        let mut kernel = bed.open(attach);
        bed.arm(&mut kernel, &tap, &watch(generation));
        qemu.send(&announcement());
        wait_latched(&kernel, generation);
        let lines = if attachment == Attachment::Tc { 2 } else { 1 };
        assert_eq!(bed.attached().lines().count(), lines, "{attachment}: {}", bed.attached());
    }
}

#[test]
fn cleanup_removes_every_trace_and_says_what() {
    for (attach, attachment) in ways() {
        let bed = Bed::new();
        let tap = bed.plug();
        let mut kernel = bed.open(attach);
        bed.arm(&mut kernel, &tap, &watch(1));
        drop(kernel);
        let programs = ["cutover_tc", "cutover_xdp"]
            .map(|name| ProgramInfo::from_pin(bed.pin_path.join("programs").join(name)).unwrap().id());
        let listed = bed.inside(|| leftovers(&bed.pin_path)).unwrap();
        assert_ne!(bed.attached(), "", "listing removes nothing");
        let traces = if attachment == Attachment::Tc { "tc filter on tapport1" } else { "/links/tapport1" };
        assert!(listed.iter().any(|line| line.ends_with(traces)), "{listed:#?}");
        assert!(listed.iter().any(|line| line.ends_with("/maps/WATCHES")), "{listed:#?}");

        assert_eq!(bed.inside(|| cleanup(&bed.pin_path, false)).unwrap(), listed);
        assert_eq!(bed.attached(), "");
        assert!(!bed.pin_path.exists());
        // The kernel frees programs after a grace period.
        wait::until(wait::SOON, "the programs are gone", || {
            !loaded_programs().any(|program| program.is_ok_and(|program| programs.contains(&program.id())))
        });
        assert_eq!(bed.inside(|| leftovers(&bed.pin_path)).unwrap(), Vec::<String>::new());
    }
}

#[test]
fn the_object_loads_with_bpftool_and_its_maps_have_names() {
    let bed = Bed::new();
    let object = bed.lab.folder().join("cutover.o");
    fs::write(&object, OBJECT).unwrap();
    fs::create_dir(&bed.pin_path).unwrap();
    let object = object.to_str().unwrap();
    for (command, pin) in [("load", "one"), ("loadall", "all")] {
        bed.output("bpftool", &["prog", command, object, bed.pin_path.join(pin).to_str().unwrap()]);
    }
    assert_eq!(bed.pins("all"), ["cutover_tc", "cutover_xdp"]);
    fs::remove_file(bed.pin_path.join("one")).unwrap();
    fs::remove_dir_all(bed.pin_path.join("all")).unwrap();

    let tap = bed.plug();
    let qemu = tap.open();
    let mut kernel = bed.open(Attach::Auto);
    bed.arm(&mut kernel, &tap, &watch(5));
    qemu.send(&announcement());
    wait_latched(&kernel, 5);
    for (map, fields) in [
        ("WATCHES", &["\"generation\": 5", "\"mac\": [250,22,62,0,0,1", "\"ipv4_count\": 1"][..]),
        ("EVIDENCE", &["\"key\": 5", "\"kind\": 2", "\"seen_at_ns\": "]),
        ("COUNTERS", &["\"accepted_garp_request\": 1", "\"refused_hop_limit\": 0"]),
        ("SETTINGS", &["\"first_frame\": 0"]),
    ] {
        let path = bed.pin_path.join("maps").join(map);
        let dump = bed.output("bpftool", &["map", "dump", "pinned", path.to_str().unwrap()]);
        for field in fields {
            assert!(dump.contains(field), "{field} is not in the dump of {map}: {dump}");
        }
    }
}

#[test]
fn xdp_is_generic_where_the_driver_has_none() {
    let bed = Bed::new();
    bed.host.namespace().ip(&format!("link add {TAP} type bridge\nlink set {TAP} up"));
    let ifindex = bed.host.ifindex(TAP).unwrap();
    let mut kernel = bed.open(Attach::Xdp);
    bed.inside(|| kernel.arm(ifindex, TAP, &watch(1))).unwrap();
    assert!(bed.attached().contains("generic id"), "{}", bed.attached());
}

/// A tap has one of clsact and ingress, and somebody may have needed one first.
#[test]
fn an_ingress_qdisc_of_somebody_else_serves_as_well() {
    let bed = Bed::new();
    let tap = bed.plug();
    let qemu = tap.open();
    bed.output("tc", &["qdisc", "add", "dev", TAP, "ingress"]);
    let qdisc = || bed.output("tc", &["qdisc", "show", "dev", TAP, "ingress"]);
    let before = qdisc();
    let mut kernel = bed.open(Attach::Tc);
    bed.arm(&mut kernel, &tap, &watch(1));
    qemu.send(&announcement());
    wait_latched(&kernel, 1);
    bed.disarm(&mut kernel, tap.ifindex(), Some(TAP));
    assert_eq!(qdisc(), before, "it stays");
    assert!(!bed.attached().contains("cutover_tc"), "{}", bed.attached());
}

#[test]
fn a_tap_that_was_renamed_is_disarmed() {
    for (attach, attachment) in ways() {
        let bed = Bed::new();
        let tap = bed.plug();
        let mut kernel = bed.open(attach);
        bed.arm(&mut kernel, &tap, &watch(1));
        bed.host.namespace().ip(&format!("link set {TAP} down\nlink set {TAP} name tapold"));
        let other = bed.plug();
        bed.disarm(&mut kernel, tap.ifindex(), Some("tapold"));
        bed.host.namespace().ip(&format!("link del {TAP}\nlink set tapold name {TAP}"));
        assert_eq!(bed.attached(), "", "{attachment}");
        assert_eq!(bed.pins("links"), Vec::<String>::new());
        drop(other);
    }
}
