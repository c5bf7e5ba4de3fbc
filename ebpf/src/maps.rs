//! The maps that the programs share with the agent. Their layout is `cutover_common::abi`.

#![expect(unsafe_code, reason = "maps of the kernel")]

use aya_ebpf::bindings::{BPF_F_NO_PREALLOC, bpf_map_type::BPF_MAP_TYPE_RINGBUF};
use aya_ebpf::btf_maps::{Array, HashMap, PerCpuArray};
use aya_ebpf::helpers::{bpf_ringbuf_reserve, bpf_ringbuf_submit};
use aya_ebpf::macros::btf_map;
use cutover_common::abi::{Announcement, EVENTS_BYTES, EVIDENCE_MAX, Evidence, Settings, WATCHES_MAX, Watch};
use cutover_common::{Counter, Counters};

/// Written by the agent only, hence from where memory can be allocated: nothing is set aside in advance.
#[btf_map]
pub(crate) static WATCHES: HashMap<u32, Watch, { WATCHES_MAX as usize }, { BPF_F_NO_PREALLOC as usize }> =
    HashMap::new();

/// Written while a frame is processed, so its memory is set aside in advance.
#[btf_map]
pub(crate) static EVIDENCE: HashMap<u64, Evidence, { EVIDENCE_MAX as usize }> = HashMap::new();

#[btf_map]
pub(crate) static SETTINGS: Array<Settings, 1> = Array::new();

#[btf_map]
static COUNTERS: PerCpuArray<Counters, 1> = PerCpuArray::new();

#[btf_map]
pub(crate) static EVENTS: Ring<{ EVENTS_BYTES as usize }> = Ring::new();

/// A ring buffer without key and value types.
///
/// KERNEL: a ring buffer has neither, and libbpf (1.1) refuses to create one that declares them.
#[repr(C)]
pub(crate) struct Ring<const BYTES: usize> {
    r#type: *const [i32; BPF_MAP_TYPE_RINGBUF as usize],
    max_entries: *const [i32; BYTES],
}

// SAFETY: the fields only describe the map to the loader; nothing ever reads them.
unsafe impl<const BYTES: usize> Sync for Ring<BYTES> {}

impl<const BYTES: usize> Ring<BYTES> {
    const fn new() -> Self {
        Self { r#type: core::ptr::null(), max_entries: core::ptr::null() }
    }

    /// Writes one record in place; false if there is no room.
    #[inline(always)]
    pub(crate) fn submit(&self, record: Announcement) -> bool {
        let map = core::ptr::from_ref(self).cast_mut().cast();
        // SAFETY: `map` is this ring buffer; the size is the constant size of a record.
        let slot = unsafe { bpf_ringbuf_reserve(map, size_of::<Announcement>() as u64, 0) };
        let slot = slot.cast::<Announcement>();
        if slot.is_null() {
            return false;
        }
        // SAFETY: the kernel reserved a record's size at `slot`, aligned to eight bytes.
        unsafe { slot.write(record) };
        // SAFETY: `slot` was reserved above and is submitted exactly once.
        unsafe { bpf_ringbuf_submit(slot.cast(), 0) };
        true
    }
}

/// Counts one occurrence on this CPU.
#[inline(always)]
pub(crate) fn count(counter: Counter) {
    let Some(counters) = COUNTERS.get_ptr_mut(0) else { return };
    // SAFETY: `Counters` is one u64 for each counter, in the order of their numbers.
    let value = unsafe { counters.cast::<u64>().add(counter as usize) };
    // SAFETY: the entry belongs to this CPU, and nothing interrupts a program on its CPU with the same one.
    unsafe { *value += 1 };
}
