//! The maps that the tunnel's programs share with the agent. Their layout is `cutover_common::tunnel`.

#![expect(unsafe_code, reason = "maps of the kernel")]

use aya_ebpf::bindings::BPF_F_NO_PREALLOC;
use aya_ebpf::btf_maps::lpm_trie::Key;
use aya_ebpf::btf_maps::{HashMap, LpmTrie, PerCpuArray, PerCpuHashMap};
use aya_ebpf::macros::btf_map;
use cutover_common::tunnel::{
    Address, Delivery, FAMILY_BITS, Forward, PREFIXES_MAX, Reception, Receptions, TUNNEL_ID_BITS,
    TUNNELS_MAX, Traffic, TunnelCounter, TunnelCounters,
};

const TUNNELS: usize = TUNNELS_MAX as usize;
const PREFIXES: usize = PREFIXES_MAX as usize;
/// The agent adds every entry, hence from where memory can be allocated: nothing is set aside in advance.
const AS_NEEDED: usize = BPF_F_NO_PREALLOC as usize;

#[btf_map]
static FORWARDS: LpmTrie<Address, Forward, PREFIXES> = LpmTrie::new();

#[btf_map]
static RECEPTIONS: HashMap<u32, Reception, TUNNELS, AS_NEEDED> = HashMap::new();

/// The value means nothing.
#[btf_map]
static DELIVERIES: LpmTrie<Delivery, u32, PREFIXES> = LpmTrie::new();

#[btf_map]
pub(crate) static FORWARDED: PerCpuHashMap<u32, Traffic, TUNNELS, AS_NEEDED> = PerCpuHashMap::new();

#[btf_map]
pub(crate) static RECEIVED: PerCpuHashMap<u32, Traffic, TUNNELS, AS_NEEDED> = PerCpuHashMap::new();

#[btf_map]
static TUNNEL_COUNTERS: PerCpuArray<TunnelCounters, 1> = PerCpuArray::new();

/// The tunnel for what is sent to an address.
#[inline(always)]
pub(crate) fn forward(destination: &Address) -> Option<&'static Forward> {
    FORWARDS.get(&Key::new(FAMILY_BITS + 128, *destination))
}

/// What the agent says about tunnels that packets may come out of.
pub(crate) struct InMaps;

impl Receptions for InMaps {
    #[inline(always)]
    fn reception(&self, tunnel_id: u32) -> Option<&Reception> {
        // SAFETY: the agent replaces receptions as a whole; the kernel frees a replaced one only after the program.
        unsafe { RECEPTIONS.get(tunnel_id) }
    }

    #[inline(always)]
    fn has(&self, delivery: &Delivery) -> bool {
        DELIVERIES.get(&Key::new(TUNNEL_ID_BITS + FAMILY_BITS + 128, *delivery)).is_some()
    }
}

/// Counts a packet of this length in an entry of this CPU, if the agent has made one.
#[inline(always)]
pub(crate) fn count_traffic(
    map: &PerCpuHashMap<u32, Traffic, TUNNELS, AS_NEEDED>,
    tunnel_id: u32,
    bytes: u32,
) {
    let Some(traffic) = map.get_ptr_mut(tunnel_id) else { return };
    // SAFETY: the entry belongs to this CPU, and nothing interrupts a program on its CPU with the same one.
    let traffic = unsafe { &mut *traffic };
    traffic.packets += 1;
    traffic.bytes += u64::from(bytes);
}

/// Counts one packet on this CPU.
#[inline(always)]
pub(crate) fn count(counter: TunnelCounter) {
    let Some(counters) = TUNNEL_COUNTERS.get_ptr_mut(0) else { return };
    // SAFETY: `TunnelCounters` is one u64 for each counter, in the order of their numbers.
    let value = unsafe { counters.cast::<u64>().add(counter as usize) };
    // SAFETY: the entry belongs to this CPU, and nothing interrupts a program on its CPU with the same one.
    unsafe { *value += 1 };
}
