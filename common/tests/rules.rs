//! Every rule of the classifier, one frame each.

mod frames;

use cutover_common::abi::{WATCH_FLAG_ANY, WATCH_FLAG_FIRST_FRAME, WATCH_IPV4_MAX, WATCH_IPV6_MAX, Watch};
use cutover_common::classifier::EXAMINED_BYTES_MAX;
use cutover_common::{AnnouncementKind as Kind, Frame, MacAddr, Refusal, Verdict, classify};
use frames::*;

const RARP_SEEN: Verdict = Verdict::Accepted(Kind::Rarp);
const REQUEST_SEEN: Verdict = Verdict::Accepted(Kind::GarpRequest);
const REPLY_SEEN: Verdict = Verdict::Accepted(Kind::GarpReply);
const ADVERTISEMENT_SEEN: Verdict = Verdict::Accepted(Kind::NeighbourAdvertisement);
const FIRST_FRAME: Verdict = Verdict::Accepted(Kind::FirstFrame);

const fn refused(refusal: Refusal) -> Verdict {
    Verdict::Refused(refusal)
}

/// Checks a table of (what it is, frame, verdict) against one watch.
fn check(watch: &Watch, table: &[(&str, Vec<u8>, Verdict)]) {
    for (what, frame, verdict) in table {
        assert_eq!(classify(Frame::new(frame), watch), *verdict, "{what}: {frame:02x?}");
    }
}

#[test]
fn rarp_is_accepted_from_the_endpoint_only() {
    let good = rarp(MAC);
    check(
        &watch(),
        &[
            ("RARP", good.clone(), RARP_SEEN),
            ("RARP without padding", good[..arp::END].to_vec(), RARP_SEEN),
            ("RARP reply", with(&good, arp::OPERATION, &[0, 4]), RARP_SEEN),
            ("RARP behind a bridge", with(&good, 6, &OTHER_MAC.0), RARP_SEEN),
            ("foreign RARP", rarp(OTHER_MAC), refused(Refusal::ForeignMac)),
            ("first half differs", with(&good, arp::SENDER_MAC, &[0xfb]), refused(Refusal::ForeignMac)),
            ("second half differs", with(&good, arp::SENDER_MAC + 5, &[9]), refused(Refusal::ForeignMac)),
            ("hardware type", with(&good, arp::HARDWARE_TYPE, &[0, 6]), refused(Refusal::ArpFormat)),
            ("protocol type", with(&good, arp::PROTOCOL_TYPE, &[0x86, 0xdd]), refused(Refusal::ArpFormat)),
            ("hardware length", with(&good, arp::HARDWARE_LENGTH, &[8]), refused(Refusal::ArpFormat)),
            ("protocol length", with(&good, arp::PROTOCOL_LENGTH, &[16]), refused(Refusal::ArpFormat)),
            ("one byte short", good[..arp::END - 1].to_vec(), refused(Refusal::Truncated)),
            ("header only", good[..14].to_vec(), refused(Refusal::Truncated)),
        ],
    );
}

#[test]
fn gratuitous_arp_is_accepted_for_the_endpoints_addresses_only() {
    let (request, reply) = (garp(1, MAC, IPV4), garp(2, MAC, IPV4));
    check(
        &watch(),
        &[
            ("request", request.clone(), REQUEST_SEEN),
            ("reply", reply.clone(), REPLY_SEEN),
            ("second address", garp(1, MAC, SECOND_IPV4), REQUEST_SEEN),
            ("target MAC does not matter", with(&request, arp::TARGET_MAC, &[0xff; 6]), REQUEST_SEEN),
            ("Ethernet source does not matter", with(&request, 6, &OTHER_MAC.0), REQUEST_SEEN),
            ("foreign MAC", garp(1, OTHER_MAC, IPV4), refused(Refusal::ForeignMac)),
            ("foreign address", garp(1, MAC, OTHER_IPV4), refused(Refusal::ForeignAddress)),
            ("foreign address, reply", garp(2, MAC, OTHER_IPV4), refused(Refusal::ForeignAddress)),
            ("0.0.0.0", garp(1, MAC, [0; 4]), refused(Refusal::ZeroAddress)),
            ("operation 3", with(&request, arp::OPERATION, &[0, 3]), refused(Refusal::ArpOperation)),
            ("operation 257", with(&request, arp::OPERATION, &[1, 1]), refused(Refusal::ArpOperation)),
            ("hardware type", with(&request, arp::HARDWARE_TYPE, &[1, 1]), refused(Refusal::ArpFormat)),
            ("protocol type", with(&request, arp::PROTOCOL_TYPE, &[8, 1]), refused(Refusal::ArpFormat)),
            ("hardware length", with(&request, arp::HARDWARE_LENGTH, &[5]), refused(Refusal::ArpFormat)),
            ("protocol length", with(&reply, arp::PROTOCOL_LENGTH, &[3]), refused(Refusal::ArpFormat)),
            ("one byte short", request[..arp::END - 1].to_vec(), refused(Refusal::Truncated)),
        ],
    );
}

#[test]
fn unsolicited_advertisement_is_accepted_for_the_endpoints_addresses_only() {
    let good = advertisement(MAC, IPV6);
    check(
        &watch(),
        &[
            ("global address", good.clone(), ADVERTISEMENT_SEEN),
            ("link-local address", advertisement(MAC, MAC.link_local()), ADVERTISEMENT_SEEN),
            ("without options", with(&good[..na::END], na::PAYLOAD_LENGTH, &[0, 24]), ADVERTISEMENT_SEEN),
            ("router, override", with(&good, na::FLAGS, &[0xa0]), ADVERTISEMENT_SEEN),
            ("traffic class", with(&good, na::VERSION, &[0x6f, 0xff]), ADVERTISEMENT_SEEN),
            ("checksum is not looked at", with(&good, na::CHECKSUM, &[1, 2]), ADVERTISEMENT_SEEN),
            ("source is not looked at", with(&good, na::SOURCE, &OTHER_IPV6), ADVERTISEMENT_SEEN),
            ("foreign target", advertisement(MAC, OTHER_IPV6), refused(Refusal::ForeignTarget)),
            ("first byte", with(&good, na::TARGET, &[0x21]), refused(Refusal::ForeignTarget)),
            ("hop limit 254", with(&good, na::HOP_LIMIT, &[254]), refused(Refusal::HopLimit)),
            ("solicited", with(&good, na::FLAGS, &[0x60]), refused(Refusal::Solicited)),
            ("code", with(&good, na::CODE, &[1]), refused(Refusal::AdvertisementCode)),
            ("one byte short", good[..na::END - 1].to_vec(), refused(Refusal::Truncated)),
            ("type only", good[..=na::TYPE].to_vec(), refused(Refusal::Truncated)),
            ("stated length", with(&good, na::PAYLOAD_LENGTH, &[0, 23]), refused(Refusal::Truncated)),
            ("ends before its type", good[..na::TYPE].to_vec(), Verdict::Ignored),
            ("ends in its IPv6 header", good[..na::TYPE - 1].to_vec(), Verdict::Ignored),
            ("version 4", with(&good, na::VERSION, &[0x40]), Verdict::Ignored),
            ("neighbour solicitation", with(&good, na::TYPE, &[135]), Verdict::Ignored),
            ("extension header", with(&good, na::NEXT_HEADER, &[0]), Verdict::Ignored),
        ],
    );
}

#[test]
fn ordinary_traffic_is_ignored() {
    let [v4, v6] = tcp(MAC);
    let garp = garp(1, MAC, IPV4);
    check(
        &watch(),
        &[
            ("empty", vec![], Verdict::Ignored),
            ("shorter than Ethernet", garp[..13].to_vec(), Verdict::Ignored),
            ("Ethernet header only", v4[..14].to_vec(), Verdict::Ignored),
            ("TCP over IPv4", v4, Verdict::Ignored),
            ("TCP over IPv6", v6, Verdict::Ignored),
            ("ARP request", arp_request(MAC, IPV4, OTHER_IPV4), Verdict::Ignored),
            ("ARP probe", arp_request(MAC, [0; 4], IPV4), Verdict::Ignored),
            (
                "ARP reply",
                with(&arp_request(MAC, IPV4, OTHER_IPV4), arp::OPERATION, &[0, 2]),
                Verdict::Ignored,
            ),
            ("802.3 length", with(&garp, 12, &[0, 28]), Verdict::Ignored),
            (
                "three tags",
                tagged(&tagged(&tagged(&garp, TAG_8021Q, 1), TAG_8021Q, 2), TAG_8021AD, 3),
                Verdict::Ignored,
            ),
            ("ends in its tag", tagged(&garp, TAG_8021Q, 1)[..17].to_vec(), Verdict::Ignored),
            (
                "ends in its second tag",
                tagged(&tagged(&garp, TAG_8021Q, 1), TAG_8021AD, 2)[..21].to_vec(),
                Verdict::Ignored,
            ),
        ],
    );
}

#[test]
fn up_to_two_tags_make_no_difference() {
    let watch = watch();
    for (frame, verdict) in [
        (rarp(MAC), RARP_SEEN),
        (garp(1, MAC, IPV4), REQUEST_SEEN),
        (garp(2, MAC, SECOND_IPV4), REPLY_SEEN),
        (advertisement(MAC, IPV6), ADVERTISEMENT_SEEN),
        (garp(1, OTHER_MAC, IPV4), refused(Refusal::ForeignMac)),
    ] {
        for outer in [TAG_8021Q, TAG_8021AD] {
            let once = tagged(&frame, outer, 7);
            check(&watch, &[("one tag", once.clone(), verdict)]);
            for inner in [TAG_8021Q, TAG_8021AD] {
                check(&watch, &[("two tags", tagged(&once, inner, 8), verdict)]);
            }
        }
    }
}

#[test]
fn an_unknown_mac_leaves_only_advertisements() {
    let unknown = Watch { mac: [0; 6], ..watch() };
    let table = [
        ("RARP", rarp(MAC), refused(Refusal::UnknownMac)),
        ("RARP from zero", rarp(MacAddr::ZERO), refused(Refusal::UnknownMac)),
        ("GARP", garp(1, MAC, IPV4), refused(Refusal::UnknownMac)),
        ("GARP from zero", garp(2, MacAddr::ZERO, IPV4), refused(Refusal::UnknownMac)),
        ("advertisement", advertisement(MAC, IPV6), ADVERTISEMENT_SEEN),
        ("frame from zero", tcp(MacAddr::ZERO)[0].clone(), Verdict::Ignored),
    ];
    check(&unknown, &table);
    check(&Watch { flags: WATCH_FLAG_FIRST_FRAME, ..unknown }, &table);
}

#[test]
fn any_accepts_unchecked_rarp_and_arp_with_equal_addresses() {
    let good = garp(1, OTHER_MAC, OTHER_IPV4);
    check(
        &watch_with(WATCH_FLAG_ANY),
        &[
            ("foreign RARP", rarp(OTHER_MAC), RARP_SEEN),
            ("RARP of another format", with(&rarp(OTHER_MAC), arp::HARDWARE_TYPE, &[9, 9]), RARP_SEEN),
            ("cut RARP", rarp(OTHER_MAC)[..20].to_vec(), RARP_SEEN),
            ("RARP header", rarp(OTHER_MAC)[..14].to_vec(), RARP_SEEN),
            ("foreign GARP", good.clone(), REQUEST_SEEN),
            ("foreign GARP reply", garp(2, OTHER_MAC, OTHER_IPV4), REPLY_SEEN),
            ("0.0.0.0", garp(1, OTHER_MAC, [0; 4]), REQUEST_SEEN),
            ("odd operation", with(&good, arp::OPERATION, &[9, 9]), REQUEST_SEEN),
            ("odd format", with(&good, arp::HARDWARE_TYPE, &[9, 9]), REQUEST_SEEN),
            (
                "odd format, different addresses",
                with(&with(&good, arp::HARDWARE_TYPE, &[9, 9]), arp::TARGET_IP, &IPV4),
                Verdict::Ignored,
            ),
            ("ordinary ARP", arp_request(MAC, IPV4, OTHER_IPV4), Verdict::Ignored),
            ("cut GARP", good[..arp::END - 1].to_vec(), refused(Refusal::Truncated)),
            ("advertisement", advertisement(MAC, IPV6), ADVERTISEMENT_SEEN),
            ("foreign advertisement", advertisement(MAC, OTHER_IPV6), refused(Refusal::ForeignTarget)),
        ],
    );
    check(&Watch { mac: [0; 6], ..watch_with(WATCH_FLAG_ANY) }, &[("no MAC needed", good, REQUEST_SEEN)]);
}

#[test]
fn first_frame_needs_only_the_source_address() {
    let [v4, v6] = tcp(MAC);
    check(
        &watch_with(WATCH_FLAG_FIRST_FRAME),
        &[
            ("TCP over IPv4", v4.clone(), FIRST_FRAME),
            ("TCP over IPv6", v6, FIRST_FRAME),
            ("Ethernet header only", v4[..14].to_vec(), FIRST_FRAME),
            ("ends in its tag", tagged(&v4, TAG_8021Q, 1)[..16].to_vec(), FIRST_FRAME),
            ("no Ethernet header", v4[..13].to_vec(), Verdict::Ignored),
            ("somebody else's", tcp(OTHER_MAC)[0].clone(), Verdict::Ignored),
            ("an announcement keeps its kind", garp(2, MAC, IPV4), REPLY_SEEN),
            ("a refused announcement is a frame, too", garp(1, MAC, OTHER_IPV4), FIRST_FRAME),
            ("a cut one as well", garp(1, MAC, IPV4)[..30].to_vec(), FIRST_FRAME),
            ("a foreign one is refused", garp(1, OTHER_MAC, OTHER_IPV4), refused(Refusal::ForeignMac)),
            ("an ARP probe", arp_request(MAC, [0; 4], IPV4), FIRST_FRAME),
        ],
    );
}

#[test]
fn only_the_addresses_in_use_count() {
    let mut full = watch();
    for position in 0..WATCH_IPV4_MAX {
        full.ipv4[position] = [10, 0, 0, position as u8 + 1];
    }
    for position in 0..WATCH_IPV6_MAX {
        full.ipv6[position] = OTHER_IPV6;
        full.ipv6[position][15] = position as u8 + 1;
    }
    let last_ipv4 = full.ipv4[WATCH_IPV4_MAX - 1];
    let last_ipv6 = full.ipv6[WATCH_IPV6_MAX - 1];
    for (ipv4_count, ipv6_count, arp_verdict, na_verdict) in [
        (32, 32, REQUEST_SEEN, ADVERTISEMENT_SEEN),
        (31, 31, refused(Refusal::ForeignAddress), refused(Refusal::ForeignTarget)),
        (0, 0, refused(Refusal::ForeignAddress), refused(Refusal::ForeignTarget)),
        // A count that the agent never writes must not lead out of the value.
        (255, 255, REQUEST_SEEN, ADVERTISEMENT_SEEN),
    ] {
        let watch = Watch { ipv4_count, ipv6_count, ..full };
        check(&watch, &[("ARP", garp(1, MAC, last_ipv4), arp_verdict)]);
        check(&watch, &[("advertisement", advertisement(MAC, last_ipv6), na_verdict)]);
    }
}

/// The tc program asks the kernel for this many bytes in one piece.
#[test]
fn nothing_is_read_beyond_the_examined_bytes() {
    let twice = tagged(&tagged(&advertisement(MAC, IPV6), TAG_8021Q, 1), TAG_8021AD, 2);
    let cut = &twice[..EXAMINED_BYTES_MAX as usize];
    check(
        &watch(),
        &[
            ("just enough", cut.to_vec(), ADVERTISEMENT_SEEN),
            ("one byte less", cut[..cut.len() - 1].to_vec(), refused(Refusal::Truncated)),
        ],
    );
}
