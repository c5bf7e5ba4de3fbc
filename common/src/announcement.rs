//! The vocabulary of the classifier: what kind of frame announces a virtual machine, and why one is refused.
//!
//! Owns the numbers of [`AnnouncementKind`], which are part of the map layout. The rules themselves are in
//! [`crate::classifier`].

/// What kind of frame announced the virtual machine. The numbers are part of the map layout.
#[repr(u32)]
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum AnnouncementKind {
    /// Reverse ARP (RFC 903), which the hypervisor sends right before the vCPUs run.
    Rarp = 1,
    /// Gratuitous ARP request (RFC 5944, section 4.6).
    GarpRequest = 2,
    /// Gratuitous ARP reply.
    GarpReply = 3,
    /// Unsolicited neighbour advertisement (RFC 4861, section 7.2.6).
    NeighbourAdvertisement = 4,
    /// Any frame with the endpoint's source hardware address; only with `CutoverTrigger = first-frame`.
    FirstFrame = 5,
}

impl AnnouncementKind {
    /// The kind with this number, as the kernel wrote it into evidence or a record.
    #[must_use]
    pub const fn from_number(number: u32) -> Option<Self> {
        match number {
            1 => Some(Self::Rarp),
            2 => Some(Self::GarpRequest),
            3 => Some(Self::GarpReply),
            4 => Some(Self::NeighbourAdvertisement),
            5 => Some(Self::FirstFrame),
            _ => None,
        }
    }

    /// The words for people.
    #[must_use]
    pub const fn words(self) -> &'static str {
        match self {
            Self::Rarp => "RARP",
            Self::GarpRequest => "gratuitous ARP request",
            Self::GarpReply => "gratuitous ARP reply",
            Self::NeighbourAdvertisement => "neighbour advertisement",
            Self::FirstFrame => "first frame",
        }
    }

    /// The name for counters, in snake case.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Rarp => "rarp",
            Self::GarpRequest => "garp_request",
            Self::GarpReply => "garp_reply",
            Self::NeighbourAdvertisement => "neighbour_advertisement",
            Self::FirstFrame => "first_frame",
        }
    }
}

/// Why a frame that has the form of an announcement does not count.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Refusal {
    /// The frame, or the length its IPv6 header states, ends before the announcement does.
    Truncated,
    /// ARP or RARP for something else than IPv4 over Ethernet, or with other address lengths.
    ArpFormat,
    /// ARP with equal protocol addresses that is neither a request nor a reply.
    ArpOperation,
    /// Gratuitous ARP for 0.0.0.0.
    ZeroAddress,
    /// ARP or RARP while the endpoint's hardware address is unknown, so that nobody can tell whose it is.
    UnknownMac,
    /// The sender hardware address of ARP or RARP is not the endpoint's.
    ForeignMac,
    /// Gratuitous ARP for an address that is not the endpoint's.
    ForeignAddress,
    /// Neighbour advertisement with a code other than 0 (RFC 4861, section 7.1.2).
    AdvertisementCode,
    /// Neighbour advertisement with a hop limit other than 255: it may have been forwarded.
    HopLimit,
    /// Neighbour advertisement that answers a solicitation.
    Solicited,
    /// Neighbour advertisement for an address that is not the endpoint's.
    ForeignTarget,
}

/// What the classifier says about a frame.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Verdict {
    /// Ordinary traffic.
    Ignored,
    /// The virtual machine runs here.
    Accepted(AnnouncementKind),
    /// An announcement that does not count.
    Refused(Refusal),
}
