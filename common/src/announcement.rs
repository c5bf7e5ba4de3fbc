//! Announcements: the frames by which a virtual machine says that it runs here.

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
