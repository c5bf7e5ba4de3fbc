//! Layout of what the kernel program and the agent share through maps and the ring buffer.
//!
//! Each map has exactly one writer, so neither side can undo what the other wrote: the agent writes watches,
//! the kernel inserts evidence (the agent only removes it), the kernel submits announcements and counts.
//! Every type is `repr(C)` without implicit padding; integers are in the byte order of the host, addresses
//! in network byte order. All fields show up by name in `bpftool map dump`.

/// Version of everything below. It is raised whenever a map or a field of the same size gets another meaning, so that an agent does not
/// take over what one of another version has pinned.
pub const VERSION: u32 = 1;

/// How many IPv4 addresses one watch can match.
///
/// LIMIT: Neutron allows ten address pairs a port by default; with fixed addresses on top, 32 leaves room.
/// Addresses beyond it still get their routes; only an announcement for one of them alone is not recognised.
pub const WATCH_IPV4_MAX: usize = 32;
/// How many IPv6 addresses one watch can match, its link-local address included; see [`WATCH_IPV4_MAX`].
pub const WATCH_IPV6_MAX: usize = 32;
/// How many taps can be watched at once.
///
/// LIMIT: one entry per *migrating* tap; a host that receives thousands of VMs in one moment stays below it.
pub const WATCHES_MAX: u32 = 4096;
/// How many announcements can be latched at once.
///
/// LIMIT: the agent removes the evidence of a watch with the watch, so one for each; twice that, for watches
/// that are replaced while the agent is busy.
pub const EVIDENCE_MAX: u32 = 2 * WATCHES_MAX;
/// Size of the ring buffer in bytes: a power of two and a multiple of the page size.
///
/// LIMIT: one record per armed watch, so room for every watch of a full [`WATCHES_MAX`] at once.
pub const EVENTS_BYTES: u32 = 256 * 1024;

/// Watch flag: accept any RARP and any ARP with equal protocol addresses, whoever's they are
/// (`CutoverValidation = any`).
pub const WATCH_FLAG_ANY: u32 = 1;
/// Watch flag: any frame with the endpoint's source hardware address counts (`CutoverTrigger = first-frame`).
pub const WATCH_FLAG_FIRST_FRAME: u32 = 1 << 1;

/// Value of `WATCHES`: what to look for on one tap. Key: the tap's ifindex.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Watch {
    /// Identifies this arming; unique for as long as the host is up, because it is taken from the boot clock.
    pub generation: u64,
    /// `WATCH_FLAG_*`.
    pub flags: u32,
    /// How many of `ipv4` are in use.
    pub ipv4_count: u8,
    /// How many of `ipv6` are in use.
    pub ipv6_count: u8,
    /// The endpoint's hardware address.
    pub mac: [u8; 6],
    /// Zero; keeps the size a multiple of eight.
    pub reserved: [u8; 4],
    /// The endpoint's IPv4 addresses, network byte order.
    pub ipv4: [[u8; 4]; WATCH_IPV4_MAX],
    /// The endpoint's IPv6 addresses and its link-local address, network byte order.
    pub ipv6: [[u8; 16]; WATCH_IPV6_MAX],
}

/// Value of `SETTINGS`, a map with a single entry: what concerns every watch. Written by the agent only.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Settings {
    /// Not zero while some watch has [`WATCH_FLAG_FIRST_FRAME`]. Without it the programs let ordinary frames
    /// go without looking for a watch.
    pub first_frame: u32,
}

/// Value of `EVIDENCE`: the first accepted announcement of one arming. Key: the watch's generation.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Evidence {
    /// When the program saw the frame, CLOCK_BOOTTIME in nanoseconds.
    pub seen_at_ns: u64,
    /// The tap it arrived on.
    pub ifindex: u32,
    /// An [`crate::AnnouncementKind`].
    pub kind: u32,
}

/// Record of the ring buffer `EVENTS`: an announcement that was accepted and latched just now.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Announcement {
    /// Generation of the watch that accepted it.
    pub generation: u64,
    /// When the program saw the frame, CLOCK_BOOTTIME in nanoseconds.
    pub seen_at_ns: u64,
    /// The tap it arrived on.
    pub ifindex: u32,
    /// An [`crate::AnnouncementKind`].
    pub kind: u32,
}

#[cfg(feature = "user")]
#[expect(unsafe_code, reason = "says that the kernel may copy these as they are")]
mod pod {
    use super::{Announcement, Evidence, Watch};

    // SAFETY: `repr(C)`, made of integers and arrays of integers only, no implicit padding (asserted below).
    unsafe impl aya::Pod for Watch {}
    // SAFETY: as above.
    unsafe impl aya::Pod for Evidence {}
    // SAFETY: as above.
    unsafe impl aya::Pod for Announcement {}
    // SAFETY: as above.
    unsafe impl aya::Pod for super::Settings {}
    // SAFETY: as above.
    unsafe impl aya::Pod for crate::Counters {}
}

// INVARIANT: no implicit padding, or the kernel would refuse (or leak) uninitialised bytes.
const _: () = {
    assert!(size_of::<Watch>() == 8 + 4 + 1 + 1 + 6 + 4 + 4 * WATCH_IPV4_MAX + 16 * WATCH_IPV6_MAX);
    assert!(size_of::<Evidence>() == 16);
    assert!(size_of::<Announcement>() == 24);
};
