//! What happens to a frame that was read: judge it by the watch of its tap, latch it, tell the agent.

#![expect(unsafe_code, reason = "helpers of the kernel")]

use crate::maps::{EVENTS, EVIDENCE, SETTINGS, WATCHES, count};
use aya_ebpf::bindings::BPF_NOEXIST;
use aya_ebpf::helpers::bpf_ktime_get_boot_ns;
use cutover_common::abi::{Announcement, Evidence};
use cutover_common::classifier::Sighting;
use cutover_common::{AnnouncementKind, Counter, Verdict};

#[cfg(feature = "log")]
use aya_log_ebpf::debug;
/// The default object holds no log line, nor anything else that formats text.
#[cfg(not(feature = "log"))]
macro_rules! debug {
    ($($part:tt)*) => {};
}

const EEXIST: i32 = 17;

/// Whether a frame of this kind can matter to any watch at all.
///
/// ORDER: asked before the watch is looked up, because it settles nearly every frame of a running guest in a
/// few instructions; only where first frames count does each of them need the look-up.
#[inline(always)]
pub(crate) fn can_matter(sighting: &Sighting<'_>) -> bool {
    !sighting.is_ordinary() || SETTINGS.get(0).is_some_and(|settings| settings.first_frame != 0)
}

/// Judges a frame that arrived on the tap `ifindex`.
#[inline(always)]
pub(crate) fn judge(sighting: &Sighting<'_>, ifindex: u32) {
    // SAFETY: the agent replaces watches as a whole; the kernel frees a replaced one only after the program.
    let Some(watch) = (unsafe { WATCHES.get(ifindex) }) else { return };
    match sighting.judge(watch) {
        Verdict::Ignored => {}
        Verdict::Refused(refusal) => {
            let counter = Counter::of_refused(refusal);
            // ORDER: counted first; a number that was lent to the log line is nothing the verifier can bound.
            count(counter);
            debug!((), "interface {}, generation {}: {}", ifindex, watch.generation, counter.name());
        }
        Verdict::Accepted(kind) => latch(watch.generation, ifindex, kind),
    }
}

/// Latches the first announcement of an arming and sends its record; any later one is only counted.
#[inline(always)]
fn latch(generation: u64, ifindex: u32, kind: AnnouncementKind) {
    // ORDER: a look-up before the insertion, so that a flood never takes the lock of the map.
    if EVIDENCE.get_ptr(generation).is_some() {
        return count(Counter::AlreadyAnnounced);
    }
    // SAFETY: no preconditions.
    let seen_at_ns = unsafe { bpf_ktime_get_boot_ns() };
    let kind_number = kind as u32;
    let evidence = Evidence { seen_at_ns, ifindex, kind: kind_number };
    // INVARIANT: of all CPUs that see an announcement at once, exactly one inserts: that one sends the record.
    match EVIDENCE.insert(generation, evidence, u64::from(BPF_NOEXIST)) {
        Ok(()) => {}
        Err(error) if error == -EEXIST => return count(Counter::AlreadyAnnounced),
        Err(_) => return count(Counter::EvidenceFull),
    }
    let counter = Counter::of_accepted(kind);
    count(counter);
    debug!((), "interface {}, generation {}: {}", ifindex, generation, counter.name());
    if !EVENTS.submit(Announcement { generation, seen_at_ns, ifindex, kind: kind_number }) {
        count(Counter::RingFull);
    }
}
