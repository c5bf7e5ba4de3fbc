//! The classifier against the second implementation of the tests, on frames that a fuzzer makes up.
//!
//! The first three bytes choose the watch and the frame to begin with; the rest changes that frame, so that
//! the fuzzer reaches the last rules without having to invent a whole announcement.
#![no_main]

#[path = "../../tests/frames/mod.rs"]
mod frames;
#[path = "../../tests/reference/mod.rs"]
mod reference;

use cutover_common::abi::Watch;
use cutover_common::{Frame, classify};
use frames::*;
use libfuzzer_sys::{Corpus, fuzz_target};

fuzz_target!(|input: &[u8]| -> Corpus {
    let Some(([choice, ipv4_count, ipv6_count], changes)) = input.split_first_chunk() else {
        return Corpus::Reject;
    };
    let mac = if choice & 4 == 0 { MAC.0 } else { [0; 6] };
    let watch = Watch {
        flags: u32::from(choice & 3),
        mac,
        ipv4_count: *ipv4_count,
        ipv6_count: *ipv6_count,
        ..watch()
    };
    let mut frame = match choice >> 3 & 7 {
        0 => rarp(MAC),
        1 => garp(1, MAC, IPV4),
        2 => garp(2, MAC, SECOND_IPV4),
        3 => advertisement(MAC, IPV6),
        4 => arp_request(MAC, IPV4, OTHER_IPV4),
        5 => tagged(&garp(1, MAC, IPV4), TAG_8021Q, 1),
        6 => tagged(&tagged(&advertisement(MAC, IPV6), TAG_8021AD, 1), TAG_8021Q, 2),
        _ => Vec::new(),
    };
    if frame.is_empty() {
        frame.extend_from_slice(changes);
    } else {
        // Byte pairs: where, and what to add there. A place behind the end cuts the frame instead.
        for [place, change] in changes.as_chunks().0 {
            match frame.get_mut(usize::from(*place)) {
                Some(byte) => *byte = byte.wrapping_add(*change),
                None => frame.truncate(usize::from(*change)),
            }
        }
    }
    assert_eq!(classify(Frame::new(&frame), &watch), reference::classify(&frame, &watch), "{frame:02x?}");
    Corpus::Keep
});
