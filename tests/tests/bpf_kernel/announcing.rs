//! What a guest sends, and what becomes of it.

#![expect(unsafe_code, reason = "ioctl(2) of taps")]

use crate::bed::*;
use aya::maps::{HashMap, Map, MapData};
use cutover_common::AnnouncementKind;
use cutover_common::abi::{WATCH_FLAG_FIRST_FRAME, Watch};
use cutover_daemon::bpf::{Attach, Attachment, Kernel, Options, cleanup};
use cutover_tests::frames::{self, Frame};
use cutover_tests::{Tap, wait};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use std::fs::OpenOptions;
use std::io::Write as _;
use std::net::Ipv4Addr;
use std::os::fd::{AsFd as _, AsRawFd as _};
use std::path::Path;

#[test]
fn an_announcement_is_latched_and_reported_whatever_the_way() {
    for (attach, attachment) in ways() {
        let bed = Bed::new();
        let tap = bed.plug();
        let qemu = tap.open();
        let mut kernel = bed.open(attach);
        assert_eq!(kernel.attachment(), attachment);
        let mut events = kernel.events().unwrap();
        assert!(kernel.events().is_none(), "the ring buffer has one reader");
        bed.arm(&mut kernel, &tap, &watch(7));
        assert_eq!(kernel.armed().unwrap(), [(tap.ifindex(), watch(7))]);

        let before = cutover_daemon::clock::now().0;
        qemu.send(&frames::garp_request(MAC, Ipv4Addr::new(10, 65, 0, 9)));
        qemu.send(&frames::rarp(TAP_MAC));
        qemu.send(&announcement());
        let record = wait::for_some(wait::SOON, "the announcement", || next(&mut events));
        let evidence = kernel.evidence(7).unwrap().expect("it was reported");
        let after = cutover_daemon::clock::now().0;

        assert_eq!((record.generation, record.ifindex), (7, tap.ifindex()), "{attachment}");
        assert_eq!(record.kind, AnnouncementKind::GarpRequest as u32);
        assert_eq!(
            (evidence.seen_at_ns, evidence.ifindex, evidence.kind),
            (record.seen_at_ns, record.ifindex, record.kind)
        );
        assert!((before..=after).contains(&record.seen_at_ns), "{before} {record:?} {after}");
        assert_eq!(kernel.all_evidence().unwrap().into_iter().collect::<Vec<_>>(), [(7, evidence)]);
        assert_eq!(next(&mut events), None);
        let counted: Vec<_> =
            kernel.counters().read().unwrap().into_iter().filter(|(_, count)| *count > 0).collect();
        assert_eq!(
            counted,
            [("accepted_garp_request", 1), ("refused_foreign_address", 1), ("refused_foreign_mac", 1)]
        );
    }
}

#[test]
fn a_flood_costs_one_record() {
    for (attach, _) in ways() {
        let bed = Bed::new();
        let tap = bed.plug();
        let qemu = tap.open();
        let mut kernel = bed.open(attach);
        let mut events = kernel.events().unwrap();
        bed.arm(&mut kernel, &tap, &watch(1));
        let announcement = announcement();
        for _ in 0..10_000 {
            qemu.send(&announcement);
        }
        wait::until(wait::SOON, "every frame is counted", || {
            let counters = kernel.counters().read().unwrap();
            counters["accepted_garp_request"] + counters["already_announced"] == 10_000
        });
        assert_eq!(kernel.counters().read().unwrap()["accepted_garp_request"], 1);
        assert_eq!(next(&mut events).map(|record| record.generation), Some(1));
        assert_eq!(next(&mut events), None);
    }
}

#[test]
fn arming_again_with_another_generation_is_a_new_watch() {
    let bed = Bed::new();
    let tap = bed.plug();
    let qemu = tap.open();
    let mut kernel = bed.open(Attach::Auto);
    let mut events = kernel.events().unwrap();
    bed.arm(&mut kernel, &tap, &watch(1));
    qemu.send(&announcement());
    assert_eq!(wait::for_some(wait::SOON, "the first", || next(&mut events)).generation, 1);

    bed.arm(&mut kernel, &tap, &watch(1));
    assert!(kernel.evidence(1).unwrap().is_some(), "the same watch keeps its evidence");
    bed.arm(&mut kernel, &tap, &watch(2));
    assert_eq!(kernel.all_evidence().unwrap().len(), 0, "another watch has none yet");
    qemu.send(&announcement());
    assert_eq!(wait::for_some(wait::SOON, "the second", || next(&mut events)).generation, 2);
    assert_eq!(kernel.armed().unwrap(), [(tap.ifindex(), watch(2))]);

    bed.inside(|| kernel.forget_evidence(2)).unwrap();
    kernel.forget_evidence(2).unwrap();
    qemu.send(&announcement());
    assert_eq!(wait::for_some(wait::SOON, "the third", || next(&mut events)).generation, 2);
}

/// Ours runs first, and what is behind it runs as well.
#[test]
fn the_next_program_sees_the_frame_too() {
    for (attach, attachment) in ways().filter(|(_, attachment)| *attachment != Attachment::Xdp) {
        let bed = Bed::new();
        let tap = bed.plug();
        let qemu = tap.open();
        let other_pins = bed.lab.pin_path("other");
        let options = Options { pin_path: other_pins.clone(), attach, debug_log: false };
        let mut other = bed.inside(|| Kernel::open(&options)).unwrap();
        match attachment {
            Attachment::Tcx => bed.arm(&mut other, &tap, &watch(2)),
            _ => attach_behind(&bed, &other_pins, &tap),
        }
        let mut kernel = bed.open(attach);
        bed.arm(&mut kernel, &tap, &watch(1));
        qemu.send(&announcement());
        let latched = || kernel.evidence(1).unwrap().zip(other.evidence(2).unwrap());
        let (ours, others) = wait::for_some(wait::SOON, format_args!("{attachment}: both see it"), latched);
        assert!(ours.seen_at_ns <= others.seen_at_ns, "ours is first");

        bed.disarm(&mut kernel, tap.ifindex(), Some(TAP));
        assert!(bed.attached().contains("cutover_tc"), "somebody else's stays: {}", bed.attached());
        drop(other);
        bed.inside(|| cleanup(&other_pins, false)).unwrap();
    }
}

/// Arms a map by hand and attaches its program as another user of clsact would.
fn attach_behind(bed: &Bed, pins: &Path, tap: &Tap) {
    let map = Map::HashMap(MapData::from_pin(pins.join("maps/WATCHES")).unwrap());
    let mut watches: HashMap<_, u32, Watch> = map.try_into().unwrap();
    watches.insert(tap.ifindex(), watch(2), 0).unwrap();
    let program = pins.join("programs/cutover_tc");
    bed.output("tc", &["qdisc", "add", "dev", TAP, "clsact"]);
    let filter =
        ["filter", "add", "dev", TAP, "ingress", "prio", "9", "bpf", "direct-action", "object-pinned"];
    bed.output("tc", &[&filter[..], &[program.to_str().unwrap()]].concat());
}

#[test]
fn first_frames_count_only_where_they_are_asked_for() {
    let bed = Bed::new();
    let tap = bed.plug();
    let other = bed.host.plug("tapport2", TAP_MAC);
    let (qemu, other_qemu) = (tap.open(), other.open());
    let mut kernel = bed.open(Attach::Auto);
    let ordinary = frames::garp_request(MAC, ADDRESS).bytes().to_vec();
    let ordinary = Frame::raw([&ordinary[..12], &[8, 0], &ordinary[14..]].concat());
    bed.arm(&mut kernel, &tap, &Watch { flags: WATCH_FLAG_FIRST_FRAME, ..watch(1) });
    bed.inside(|| kernel.arm(other.ifindex(), "tapport2", &watch(2))).unwrap();
    for qemu in [&qemu, &other_qemu] {
        qemu.send(&ordinary);
    }
    let evidence = wait::for_some(wait::SOON, "the first frame", || kernel.evidence(1).unwrap());
    assert_eq!(evidence.kind, AnnouncementKind::FirstFrame as u32);
    assert_eq!(kernel.evidence(2).unwrap(), None);

    let setting = || {
        bed.output(
            "bpftool",
            &["map", "dump", "pinned", bed.pin_path.join("maps/SETTINGS").to_str().unwrap()],
        )
    };
    assert!(setting().contains("\"first_frame\": 1"), "{}", setting());
    bed.disarm(&mut kernel, tap.ifindex(), Some(TAP));
    assert!(setting().contains("\"first_frame\": 0"), "{}", setting());
}

/// A tap can hand over a large frame of which only the Ethernet header is in one piece with the buffer.
#[test]
fn a_header_in_pieces_is_put_together() {
    let bed = Bed::new();
    let tap = bed.plug();
    let mut kernel = bed.open(Attach::Auto);
    bed.arm(&mut kernel, &tap, &watch(1));
    let file = bed.inside(|| {
        let file = OpenOptions::new().read(true).write(true).open("/dev/net/tun").unwrap();
        // SAFETY: an ifreq of zeros is valid.
        let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
        for (target, source) in request.ifr_name.iter_mut().zip(TAP.bytes()) {
            *target = source as libc::c_char;
        }
        request.ifr_ifru.ifru_flags = (libc::IFF_TAP | libc::IFF_NO_PI | libc::IFF_VNET_HDR) as i16;
        // SAFETY: TUNSETIFF reads and writes one ifreq, which lives until the call returns.
        let result = unsafe { libc::ioctl(file.as_raw_fd(), libc::TUNSETIFF, &raw mut request) };
        assert_eq!(result, 0, "{}", std::io::Error::last_os_error());
        file
    });
    // struct virtio_net_hdr: no offload, and a header of 14 bytes, which is all that the tap makes linear.
    let mut frame = vec![0, 0, 14, 0, 0, 0, 0, 0, 0, 0];
    frame.extend_from_slice(announcement().bytes());
    frame.resize(8_000, 0);
    (&file).write_all(&frame).unwrap();
    wait::until(wait::SOON, "the announcement is latched", || kernel.evidence(1).unwrap().is_some());
}

#[test]
fn the_object_that_logs_works_as_well() {
    let bed = Bed::new();
    let tap = bed.plug();
    let qemu = tap.open();
    let options = Options { pin_path: bed.pin_path.clone(), attach: Attach::Auto, debug_log: true };
    let mut kernel = bed.inside(|| Kernel::open(&options)).unwrap();
    let log = kernel.log().expect("it was asked for");
    assert!(kernel.log().is_none(), "the log has one reader");
    let has_lines = || {
        let mut descriptors = [PollFd::new(log.as_fd(), PollFlags::POLLIN)];
        poll(&mut descriptors, PollTimeout::ZERO).unwrap() == 1
    };
    assert!(!has_lines());
    bed.arm(&mut kernel, &tap, &watch(1));
    qemu.send(&announcement());
    wait_latched(&kernel, 1);
    wait::until(wait::SOON, "it is logged", has_lines);
}
