//! The filter and its map. Their layout is `cutover_common::leaving`.

#![expect(unsafe_code, reason = "contexts, maps and helpers of the kernel")]

use aya_ebpf::bindings::BPF_F_NO_PREALLOC;
use aya_ebpf::btf_maps::HashMap;
use aya_ebpf::helpers::bpf_ktime_get_boot_ns;
use aya_ebpf::macros::{btf_map, socket_filter};
use aya_ebpf::programs::SkBuffContext;
use cutover_common::leaving::LEAVING_MAX;

/// The agent adds every entry, hence from where memory can be allocated, and removes it: nothing is set aside in advance, and what a
/// running program still holds is not given to another tap.
#[btf_map]
static LAST_FRAMES: HashMap<u32, u64, { LEAVING_MAX as usize }, { BPF_F_NO_PREALLOC as usize }> =
    HashMap::new();

/// How much of the frame the socket gets: nothing, so that none is copied or waits to be read.
const NOTHING: i64 = 0;

/// On a packet socket that is bound to a tap.
#[socket_filter]
fn cutover_leaving(context: SkBuffContext) -> i64 {
    // SAFETY: the kernel hands a valid context to the program.
    let ifindex = unsafe { (*context.skb.skb).ifindex };
    if let Some(last) = LAST_FRAMES.get_ptr_mut(ifindex) {
        // SAFETY: no preconditions.
        let now = unsafe { bpf_ktime_get_boot_ns() };
        // Frames that come on several CPUs at once are nanoseconds apart: whichever is written last will do.
        // SAFETY: the kernel keeps the entry, of eight aligned bytes, for as long as the program runs.
        unsafe { *last = now };
    }
    NOTHING
}
