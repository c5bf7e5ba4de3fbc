//! Which frames of a virtual machine say that it runs here.
//!
//! One implementation for the tc program, the XDP program, user-space tests and fuzzers: pure, without
//! allocation, and without a path that can panic. It works in two steps, because most frames are settled
//! without knowing who is watched for: [`Sighting::of`] reads the frame, [`Sighting::judge`] compares what
//! was found with a [`Watch`]. [`classify`] is both. It neither counts nor remembers; the programs do.
//!
//! | kind | accepted if |
//! |---|---|
//! | RARP | for IPv4 over Ethernet, from the endpoint's hardware address, whatever the operation |
//! | gratuitous ARP | request or reply for IPv4 over Ethernet, sender and target address equal, not zero and one of the endpoint's, from the endpoint's hardware address |
//! | unsolicited neighbour advertisement | hop limit 255, code 0, Solicited flag clear, target one of the endpoint's addresses |
//! | first frame | [`WATCH_FLAG_FIRST_FRAME`]: the Ethernet source is the endpoint's hardware address and nothing above applies |
//!
//! With [`WATCH_FLAG_ANY`] every RARP and every ARP whose bytes at the place of the two protocol addresses are
//! equal counts, unchecked. An ARP with different addresses, also a probe (RFC 5227), is ordinary traffic.
//!
//! A refused announcement that the endpoint itself sent still counts as its first frame: the frame proves that
//! the virtual machine sends, and being badly formed does not make it less of a proof.
//!
//! Up to two VLAN tags (802.1Q, 802.1ad) are skipped. Tags that the network stack has taken out of the frame
//! are not seen and do not matter. Neither the checksum nor an extension header in front of ICMPv6 is looked
//! at: a frame from a tap may still wait for its checksum, and advertisements have no such headers.

#![expect(unsafe_code, reason = "looks at bytes of a frame as at a header")]

use crate::MacAddr;
use crate::abi::{WATCH_FLAG_ANY, WATCH_FLAG_FIRST_FRAME, Watch};
use crate::announcement::{AnnouncementKind, Refusal, Verdict};
use crate::frame::Frame;

// EtherTypes in the order in which they are on the wire.
const ETHERTYPE_ARP: [u8; 2] = [0x08, 0x06];
const ETHERTYPE_RARP: [u8; 2] = [0x80, 0x35];
const ETHERTYPE_IPV6: [u8; 2] = [0x86, 0xdd];
const ETHERTYPE_8021Q: [u8; 2] = [0x81, 0x00];
const ETHERTYPE_8021AD: [u8; 2] = [0x88, 0xa8];

// How an ARP packet (RFC 826) for IPv4 over Ethernet begins: hardware and protocol type, then their lengths.
const ARP_TYPES: [u8; 4] = [0x00, 0x01, 0x08, 0x00];
const ARP_LENGTHS: [u8; 2] = [6, 4];
const ARP_REQUEST: [u8; 2] = [0, 1];
const ARP_REPLY: [u8; 2] = [0, 2];

const NEXT_HEADER_ICMPV6: u8 = 58;
const ICMPV6_NEIGHBOUR_ADVERTISEMENT: u8 = 136;
const ADVERTISEMENT_FLAG_SOLICITED: u8 = 0x40;
/// Neighbour advertisement up to and including its target (RFC 4861, section 4.4).
const ADVERTISEMENT_BYTES: u16 = 24;

/// How much of a frame the classifier reads at most: Ethernet, two tags, IPv6, neighbour advertisement.
pub const EXAMINED_BYTES_MAX: u32 = 14 + 2 * 4 + 40 + ADVERTISEMENT_BYTES as u32;

/// Decides whether `frame` is the announcement that `watch` waits for.
#[must_use]
#[inline(always)]
pub fn classify(frame: Frame<'_>, watch: &Watch) -> Verdict {
    match Sighting::of(frame) {
        Some(sighting) => sighting.judge(watch),
        None => Verdict::Ignored,
    }
}

/// What there is to know about a frame before it is compared with a watch.
#[derive(Clone, Copy)]
pub struct Sighting<'a> {
    source: &'a [u8; 6],
    content: Content<'a>,
}

#[derive(Clone, Copy)]
enum Content<'a> {
    /// Not an announcement, whoever is watched for.
    Ordinary,
    /// The frame ends before it is clear whether it is an announcement.
    Unclear,
    /// An announcement that ends too early.
    Truncated,
    /// A RARP packet that ends too early.
    TruncatedRarp,
    Rarp(&'a Arp),
    Arp(&'a Arp),
    Advertisement {
        hop_limit: u8,
        packet: &'a Advertisement,
    },
}

impl<'a> Sighting<'a> {
    /// Reads a frame; nothing if it does not even have an Ethernet header.
    #[must_use]
    #[inline(always)]
    pub fn of(frame: Frame<'a>) -> Option<Self> {
        let (header, rest) = frame.split::<14>()?;
        let [_, _, _, _, _, _, source @ .., high, low] = header;
        Some(Self { source, content: Content::behind_tags([*high, *low], rest) })
    }

    /// Whether the frame is no announcement for any watch. It can still be a first frame.
    #[must_use]
    #[inline(always)]
    pub const fn is_ordinary(&self) -> bool {
        matches!(self.content, Content::Ordinary | Content::Unclear)
    }

    /// Whether more bytes of the same frame, if there are any, could change the verdict.
    #[must_use]
    #[inline(always)]
    pub const fn ended_early(&self) -> bool {
        matches!(self.content, Content::Unclear | Content::Truncated | Content::TruncatedRarp)
    }

    /// Decides whether the frame is the announcement that `watch` waits for.
    #[must_use]
    #[inline(always)]
    pub fn judge(&self, watch: &Watch) -> Verdict {
        let verdict = self.content.judge(watch);
        if watch.flags & WATCH_FLAG_FIRST_FRAME != 0
            && !matches!(verdict, Verdict::Accepted(_))
            && watch.knows_mac()
            && watch.has_mac(self.source)
        {
            return Verdict::Accepted(AnnouncementKind::FirstFrame);
        }
        verdict
    }
}

impl<'a> Content<'a> {
    /// The content behind at most two VLAN tags.
    #[inline(always)]
    fn behind_tags(ethertype: [u8; 2], rest: Frame<'a>) -> Self {
        if !is_tag(ethertype) {
            return Self::read(ethertype, rest);
        }
        let Some(([_, _, high, low], rest)) = rest.split::<4>() else { return Self::Unclear };
        let ethertype = [*high, *low];
        if !is_tag(ethertype) {
            return Self::read(ethertype, rest);
        }
        let Some(([_, _, high, low], rest)) = rest.split::<4>() else { return Self::Unclear };
        Self::read([*high, *low], rest)
    }

    #[inline(always)]
    fn read(ethertype: [u8; 2], rest: Frame<'a>) -> Self {
        match ethertype {
            ETHERTYPE_ARP => match Arp::read(rest) {
                None => Self::Truncated,
                Some(arp) if arp.is_ethernet_ipv4() && !arp.addresses_are_equal() => Self::Ordinary,
                Some(arp) => Self::Arp(arp),
            },
            ETHERTYPE_RARP => match Arp::read(rest) {
                None => Self::TruncatedRarp,
                Some(arp) => Self::Rarp(arp),
            },
            ETHERTYPE_IPV6 => Self::read_ipv6(rest),
            _ => Self::Ordinary,
        }
    }

    #[inline(always)]
    fn read_ipv6(rest: Frame<'a>) -> Self {
        let Some((header, payload)) = rest.split::<40>() else { return Self::Unclear };
        let [version, _, _, _, length_high, length_low, next_header, hop_limit, ..] = *header;
        if version >> 4 != 6 || next_header != NEXT_HEADER_ICMPV6 {
            return Self::Ordinary;
        }
        match payload.split::<1>() {
            None => return Self::Unclear,
            Some(([kind], _)) if *kind != ICMPV6_NEIGHBOUR_ADVERTISEMENT => return Self::Ordinary,
            Some(_) => {}
        }
        if u16::from_be_bytes([length_high, length_low]) < ADVERTISEMENT_BYTES {
            return Self::Truncated;
        }
        match Advertisement::read(payload) {
            None => Self::Truncated,
            Some(packet) => Self::Advertisement { hop_limit, packet },
        }
    }

    #[inline(always)]
    fn judge(&self, watch: &Watch) -> Verdict {
        let any = watch.flags & WATCH_FLAG_ANY != 0;
        match *self {
            Self::Ordinary | Self::Unclear => Verdict::Ignored,
            Self::Rarp(_) | Self::TruncatedRarp if any => Verdict::Accepted(AnnouncementKind::Rarp),
            Self::Truncated | Self::TruncatedRarp => Verdict::Refused(Refusal::Truncated),
            Self::Rarp(arp) => arp.judge_rarp(watch),
            Self::Arp(arp) if any => arp.judge_unchecked(),
            Self::Arp(arp) => arp.judge_gratuitous(watch),
            Self::Advertisement { hop_limit, packet } => packet.judge(hop_limit, watch),
        }
    }
}

#[inline(always)]
const fn is_tag(ethertype: [u8; 2]) -> bool {
    matches!(ethertype, ETHERTYPE_8021Q | ETHERTYPE_8021AD)
}

/// An ARP or RARP packet of IPv4 over Ethernet (RFC 826, RFC 903).
#[repr(C)]
struct Arp {
    format: [u8; 6],
    operation: [u8; 2],
    sender_mac: [u8; 6],
    sender_ip: [u8; 4],
    target_mac: [u8; 6],
    target_ip: [u8; 4],
}

impl Arp {
    #[inline(always)]
    fn read(rest: Frame<'_>) -> Option<&Self> {
        let (bytes, _) = rest.split::<{ size_of::<Self>() }>()?;
        // SAFETY: `repr(C)` and made of byte arrays only, so no alignment, no padding and no invalid value.
        Some(unsafe { &*bytes.as_ptr().cast::<Self>() })
    }

    #[inline(always)]
    fn is_ethernet_ipv4(&self) -> bool {
        let [a, b, c, d, e, f] = self.format;
        u32::from_ne_bytes([a, b, c, d]) == u32::from_ne_bytes(ARP_TYPES) && [e, f] == ARP_LENGTHS
    }

    #[inline(always)]
    fn addresses_are_equal(&self) -> bool {
        u32::from_ne_bytes(self.sender_ip) == u32::from_ne_bytes(self.target_ip)
    }

    /// Why the sender is not the endpoint, if so.
    #[inline(always)]
    fn refuse_sender(&self, watch: &Watch) -> Option<Refusal> {
        if !watch.knows_mac() {
            Some(Refusal::UnknownMac)
        } else if !watch.has_mac(&self.sender_mac) {
            Some(Refusal::ForeignMac)
        } else {
            None
        }
    }

    #[inline(always)]
    fn judge_rarp(&self, watch: &Watch) -> Verdict {
        if !self.is_ethernet_ipv4() {
            return Verdict::Refused(Refusal::ArpFormat);
        }
        match self.refuse_sender(watch) {
            Some(refusal) => Verdict::Refused(refusal),
            None => Verdict::Accepted(AnnouncementKind::Rarp),
        }
    }

    #[inline(always)]
    fn judge_gratuitous(&self, watch: &Watch) -> Verdict {
        if !self.is_ethernet_ipv4() {
            return Verdict::Refused(Refusal::ArpFormat);
        }
        let kind = match self.operation {
            ARP_REQUEST => AnnouncementKind::GarpRequest,
            ARP_REPLY => AnnouncementKind::GarpReply,
            _ => return Verdict::Refused(Refusal::ArpOperation),
        };
        if u32::from_ne_bytes(self.sender_ip) == 0 {
            return Verdict::Refused(Refusal::ZeroAddress);
        }
        if let Some(refusal) = self.refuse_sender(watch) {
            return Verdict::Refused(refusal);
        }
        if !watch.has_ipv4(self.sender_ip) {
            return Verdict::Refused(Refusal::ForeignAddress);
        }
        Verdict::Accepted(kind)
    }

    #[inline(always)]
    fn judge_unchecked(&self) -> Verdict {
        if !self.addresses_are_equal() {
            return Verdict::Ignored;
        }
        match self.operation {
            ARP_REPLY => Verdict::Accepted(AnnouncementKind::GarpReply),
            _ => Verdict::Accepted(AnnouncementKind::GarpRequest),
        }
    }
}

/// A neighbour advertisement (RFC 4861, section 4.4) up to its target.
#[repr(C)]
struct Advertisement {
    kind: u8,
    code: u8,
    checksum: [u8; 2],
    flags: u8,
    reserved: [u8; 3],
    target: [u8; 16],
}

const _: () = assert!(size_of::<Advertisement>() == ADVERTISEMENT_BYTES as usize);

impl Advertisement {
    #[inline(always)]
    fn read(payload: Frame<'_>) -> Option<&Self> {
        let (bytes, _) = payload.split::<{ size_of::<Self>() }>()?;
        // SAFETY: `repr(C)` and made of bytes only, so no alignment, no padding and no invalid value.
        Some(unsafe { &*bytes.as_ptr().cast::<Self>() })
    }

    #[inline(always)]
    fn judge(&self, hop_limit: u8, watch: &Watch) -> Verdict {
        let refusal = if self.code != 0 {
            Refusal::AdvertisementCode
        } else if hop_limit != 255 {
            Refusal::HopLimit
        } else if self.flags & ADVERTISEMENT_FLAG_SOLICITED != 0 {
            Refusal::Solicited
        } else if !watch.has_ipv6(self.target) {
            Refusal::ForeignTarget
        } else {
            return Verdict::Accepted(AnnouncementKind::NeighbourAdvertisement);
        };
        Verdict::Refused(refusal)
    }
}

/// Comparisons in whole words: a call of `memcmp` would be a loop for the verifier to walk.
impl Watch {
    #[inline(always)]
    fn knows_mac(&self) -> bool {
        !self.has_mac(&MacAddr::ZERO.0)
    }

    #[inline(always)]
    fn has_mac(&self, mac: &[u8; 6]) -> bool {
        let ([a, b, c, d, e, f], [g, h, i, j, k, l]) = (self.mac, *mac);
        u32::from_ne_bytes([a, b, c, d]) == u32::from_ne_bytes([g, h, i, j])
            && u16::from_ne_bytes([e, f]) == u16::from_ne_bytes([k, l])
    }

    #[inline(always)]
    fn has_ipv4(&self, address: [u8; 4]) -> bool {
        let wanted = u32::from_ne_bytes(address);
        let mut found = false;
        for (position, own) in self.ipv4.iter().enumerate() {
            if position >= usize::from(self.ipv4_count) {
                break;
            }
            found |= u32::from_ne_bytes(*own) == wanted;
        }
        found
    }

    #[inline(always)]
    fn has_ipv6(&self, address: [u8; 16]) -> bool {
        let wanted = u128::from_ne_bytes(address);
        let mut found = false;
        for (position, own) in self.ipv6.iter().enumerate() {
            if position >= usize::from(self.ipv6_count) {
                break;
            }
            found |= u128::from_ne_bytes(*own) == wanted;
        }
        found
    }
}
