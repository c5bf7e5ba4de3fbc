//! Properties that the classifier has for every frame, not only for those somebody thought of.

mod frames;
mod reference;

use cutover_common::abi::{WATCH_FLAG_ANY, WATCH_FLAG_FIRST_FRAME, Watch};
use cutover_common::{AnnouncementKind, Frame, Verdict, classify};
use frames::*;
use proptest::prelude::*;

fn verdict(frame: &[u8], watch: &Watch) -> Verdict {
    classify(Frame::new(frame), watch)
}

/// An acceptable announcement and the offset behind the last byte that it needs.
fn accepted_frame() -> impl Strategy<Value = (Vec<u8>, usize)> {
    prop_oneof![
        Just((rarp(MAC), arp::END)),
        Just((garp(1, MAC, IPV4), arp::END)),
        Just((garp(2, MAC, SECOND_IPV4), arp::END)),
        Just((advertisement(MAC, IPV6), na::END)),
        Just((advertisement(MAC, MAC.link_local()), na::END)),
    ]
}

fn any_watch() -> impl Strategy<Value = Watch> {
    (0_u32..4, any::<bool>(), any::<u8>(), any::<u8>()).prop_map(|(flags, known, ipv4_count, ipv6_count)| {
        let mac = if known { MAC.0 } else { [0; 6] };
        Watch { flags, mac, ipv4_count, ipv6_count, ..watch() }
    })
}

/// Bytes that get past the first checks more often than chance would have it.
fn any_frame() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        proptest::collection::vec(any::<u8>(), 0..14),
        frame_of(prop_oneof![Just(TAG_8021Q), Just(TAG_8021AD)]),
        untagged_frame(),
    ]
}

fn untagged_frame() -> impl Strategy<Value = Vec<u8>> {
    let other = any::<[u8; 2]>().prop_filter("a tag", |other| ![TAG_8021Q, TAG_8021AD].contains(other));
    prop_oneof![
        frame_of(prop_oneof![Just(ARP), Just(RARP), Just(IPV6_TYPE), other]),
        (accepted_frame(), any::<prop::sample::Index>(), any::<u8>()).prop_map(
            |((frame, needed), place, byte)| {
                // The EtherType stays, so that the frame stays untagged.
                with(&frame, 14 + place.index(needed - 14), &[byte])
            }
        ),
    ]
}

fn frame_of(ethertype: impl Strategy<Value = [u8; 2]>) -> impl Strategy<Value = Vec<u8>> {
    (proptest::collection::vec(any::<u8>(), 14..120), ethertype)
        .prop_map(|(frame, ethertype)| with(&frame, 12, &ethertype))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 4_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_second_implementation_agrees(frame in any_frame(), watch in any_watch()) {
        prop_assert_eq!(verdict(&frame, &watch), reference::classify(&frame, &watch));
    }

    #[test]
    fn a_cut_announcement_is_never_accepted((frame, needed) in accepted_frame(), cut in any::<prop::sample::Index>()) {
        prop_assert!(matches!(verdict(&frame, &watch()), Verdict::Accepted(_)));
        let shorter = &frame[..cut.index(needed)];
        prop_assert!(!matches!(verdict(shorter, &watch()), Verdict::Accepted(_)));
    }

    #[test]
    fn what_follows_an_announcement_makes_no_difference(
        (frame, _) in accepted_frame(),
        rest in proptest::collection::vec(any::<u8>(), 0..64),
    ) {
        prop_assert_eq!(verdict(&[frame.clone(), rest].concat(), &watch()), verdict(&frame, &watch()));
    }

    #[test]
    fn a_tag_makes_no_difference(frame in untagged_frame(), watch in any_watch(), tag in prop_oneof![Just(TAG_8021Q), Just(TAG_8021AD)], vlan: u8) {
        let once = tagged(&frame, tag, vlan);
        prop_assert_eq!(verdict(&once, &watch), verdict(&frame, &watch));
        prop_assert_eq!(verdict(&tagged(&once, tag, vlan), &watch), verdict(&frame, &watch));
    }

    #[test]
    fn another_sender_is_refused(operation in 1_u8..=2, mac: [u8; 6]) {
        prop_assume!(mac != MAC.0);
        let refused = Verdict::Refused(cutover_common::Refusal::ForeignMac);
        for frame in [garp(operation, MAC, IPV4), rarp(MAC)] {
            prop_assert_eq!(verdict(&with(&frame, arp::SENDER_MAC, &mac), &watch()), refused);
        }
    }

    #[test]
    fn another_address_is_refused(operation in 1_u8..=2, ipv4: [u8; 4], ipv6: [u8; 16]) {
        prop_assume!(ipv4 != IPV4 && ipv4 != SECOND_IPV4 && ipv6 != IPV6 && ipv6 != MAC.link_local());
        for frame in [garp(operation, MAC, ipv4), advertisement(MAC, ipv6)] {
            prop_assert!(matches!(verdict(&frame, &watch()), Verdict::Refused(_)));
        }
    }

    /// The flag turns other verdicts into a first frame of the endpoint's source, and changes nothing else.
    #[test]
    fn first_frame_only_adds(frame in any_frame(), watch in any_watch()) {
        let without = verdict(&frame, &Watch { flags: watch.flags & !WATCH_FLAG_FIRST_FRAME, ..watch });
        let with = verdict(&frame, &Watch { flags: watch.flags | WATCH_FLAG_FIRST_FRAME, ..watch });
        if with != without {
            prop_assert_eq!(with, Verdict::Accepted(AnnouncementKind::FirstFrame));
            prop_assert!(!matches!(without, Verdict::Accepted(_)));
            prop_assert_eq!(&frame[6..12], &MAC.0);
        }
    }

    /// What the strict rules accept, the loose ones accept as the same kind.
    #[test]
    fn any_accepts_whatever_strict_accepts((frame, _) in accepted_frame(), offset in any::<prop::sample::Index>(), byte: u8) {
        let changed = with(&frame, offset.index(frame.len()), &[byte]);
        if let accepted @ Verdict::Accepted(_) = verdict(&changed, &watch()) {
            prop_assert_eq!(verdict(&changed, &watch_with(WATCH_FLAG_ANY)), accepted);
        }
    }
}
