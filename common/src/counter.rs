//! What the programs count: every outcome that a frame of announcement form can have.
//!
//! The programs write the counters, one set a CPU; the agent adds the sets up and publishes them under the
//! names given here. Numbers and names are stable: a new counter goes to the end.

use crate::announcement::{AnnouncementKind, Refusal};

/// An enumeration of counters, and the value of the map that has them.
macro_rules! counters {
    (
        $(#[doc = $counter_doc:literal])+ $counter:ident;
        $(#[doc = $counters_doc:literal])+ $counters:ident;
        $($(#[doc = $doc:literal])+ $variant:ident = $field:ident,)+
    ) => {
        $(#[doc = $counter_doc])+
        #[repr(u32)]
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
        pub enum $counter {
            $($(#[doc = $doc])+ $variant,)+
        }

        $(#[doc = $counters_doc])+
        #[repr(C)]
        #[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
        pub struct $counters {
            $($(#[doc = $doc])+ pub $field: u64,)+
        }

        impl $counter {
            /// Every counter in the order of its number.
            pub const ALL: &[Self] = &[$(Self::$variant,)+];
            /// How many counters there are.
            pub const COUNT: usize = Self::ALL.len();

            /// The name for people and metrics, in snake case.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$variant => stringify!($field),)+
                }
            }
        }

        impl $counters {
            /// The value of one counter.
            #[must_use]
            pub const fn value(&self, counter: $counter) -> u64 {
                match counter {
                    $($counter::$variant => self.$field,)+
                }
            }
        }

        // INVARIANT: the programs address counters by number within the value.
        const _: () = assert!(size_of::<$counters>() == $counter::COUNT * size_of::<u64>());
    };
}

pub(crate) use counters;

counters! {
    /// One counter. The number is its position in [`Counters`].
    Counter;
    /// Value of `COUNTERS`: every counter of one CPU. The map has a single entry, so that its dump shows
    /// each counter by name.
    Counters;
    /// A RARP was latched.
    AcceptedRarp = accepted_rarp,
    /// A gratuitous ARP request was latched.
    AcceptedGarpRequest = accepted_garp_request,
    /// A gratuitous ARP reply was latched.
    AcceptedGarpReply = accepted_garp_reply,
    /// An unsolicited neighbour advertisement was latched.
    AcceptedNeighbourAdvertisement = accepted_neighbour_advertisement,
    /// A first frame was latched.
    AcceptedFirstFrame = accepted_first_frame,
    /// See [`Refusal::Truncated`].
    RefusedTruncated = refused_truncated,
    /// See [`Refusal::ArpFormat`].
    RefusedArpFormat = refused_arp_format,
    /// See [`Refusal::ArpOperation`].
    RefusedArpOperation = refused_arp_operation,
    /// See [`Refusal::ZeroAddress`].
    RefusedZeroAddress = refused_zero_address,
    /// See [`Refusal::UnknownMac`].
    RefusedUnknownMac = refused_unknown_mac,
    /// See [`Refusal::ForeignMac`].
    RefusedForeignMac = refused_foreign_mac,
    /// See [`Refusal::ForeignAddress`].
    RefusedForeignAddress = refused_foreign_address,
    /// See [`Refusal::AdvertisementCode`].
    RefusedAdvertisementCode = refused_advertisement_code,
    /// See [`Refusal::HopLimit`].
    RefusedHopLimit = refused_hop_limit,
    /// See [`Refusal::Solicited`].
    RefusedSolicited = refused_solicited,
    /// See [`Refusal::ForeignTarget`].
    RefusedForeignTarget = refused_foreign_target,
    /// An announcement was acceptable, but the watch has its evidence already.
    AlreadyAnnounced = already_announced,
    /// An announcement was latched, but the ring buffer had no room for its record.
    RingFull = ring_full,
    /// An announcement was acceptable, but there was no room to latch it.
    EvidenceFull = evidence_full,
}

impl Counter {
    /// The counter of accepted announcements of a kind.
    #[must_use]
    #[inline(always)]
    pub const fn of_accepted(kind: AnnouncementKind) -> Self {
        match kind {
            AnnouncementKind::Rarp => Self::AcceptedRarp,
            AnnouncementKind::GarpRequest => Self::AcceptedGarpRequest,
            AnnouncementKind::GarpReply => Self::AcceptedGarpReply,
            AnnouncementKind::NeighbourAdvertisement => Self::AcceptedNeighbourAdvertisement,
            AnnouncementKind::FirstFrame => Self::AcceptedFirstFrame,
        }
    }

    /// The counter of announcements refused for a reason.
    #[must_use]
    #[inline(always)]
    pub const fn of_refused(refusal: Refusal) -> Self {
        match refusal {
            Refusal::Truncated => Self::RefusedTruncated,
            Refusal::ArpFormat => Self::RefusedArpFormat,
            Refusal::ArpOperation => Self::RefusedArpOperation,
            Refusal::ZeroAddress => Self::RefusedZeroAddress,
            Refusal::UnknownMac => Self::RefusedUnknownMac,
            Refusal::ForeignMac => Self::RefusedForeignMac,
            Refusal::ForeignAddress => Self::RefusedForeignAddress,
            Refusal::AdvertisementCode => Self::RefusedAdvertisementCode,
            Refusal::HopLimit => Self::RefusedHopLimit,
            Refusal::Solicited => Self::RefusedSolicited,
            Refusal::ForeignTarget => Self::RefusedForeignTarget,
        }
    }
}

#[cfg(test)]
#[expect(unsafe_code, reason = "a test looks at counters as at numbers")]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_positions_and_names_are_unique() {
        let mut names = std::collections::BTreeSet::new();
        for (position, counter) in Counter::ALL.iter().enumerate() {
            assert_eq!(*counter as usize, position);
            assert!(names.insert(counter.name()), "{counter:?}");
        }
    }

    #[test]
    fn a_counter_is_found_by_its_number() {
        for counter in Counter::ALL {
            let mut words = [0_u64; Counter::COUNT];
            words[*counter as usize] = 7;
            // SAFETY: both are `COUNT` u64 in a row (asserted above); every bit pattern is valid.
            let counters: Counters = unsafe { core::mem::transmute(words) };
            assert_eq!(counters.value(*counter), 7, "{counter:?}");
        }
    }
}
