//! The head of the tunnel as the kernel hands it to programs (`struct bpf_tunnel_key`).

use aya_ebpf::bindings::{BPF_F_TUNINFO_IPV6, BPF_F_ZERO_CSUM_TX, bpf_tunnel_key};
use aya_ebpf::helpers::{bpf_skb_get_tunnel_key, bpf_skb_set_tunnel_key};
use aya_ebpf::programs::TcContext;
use core::mem::{offset_of, zeroed};
use cutover_common::tunnel::{Address, Forward};

/// Without the addresses of this end, which came with Linux 6.0. Older kernels know no longer one, newer ones take this one, too.
const SHORT: u32 = offset_of!(bpf_tunnel_key, __bindgen_anon_3) as u32;
const WHOLE: u32 = size_of::<bpf_tunnel_key>() as u32;

/// LIMIT: that of the kernel for what it sends itself.
const HOPS: u8 = 64;

/// Which tunnel a packet came through: its identifier, and its sender in the underlay.
#[inline(always)]
pub(crate) fn of(context: &TcContext) -> Option<(u32, Address)> {
    // SAFETY: every field is an integer.
    let mut key: bpf_tunnel_key = unsafe { zeroed() };
    if get(context, &mut key, 0) {
        // SAFETY: it is the field of this family.
        let sender = unsafe { key.__bindgen_anon_1.remote_ipv4 };
        return Some((key.tunnel_id, Address::ipv4(sender.to_be_bytes())));
    }
    // KERNEL: a question about the wrong family is an error.
    if get(context, &mut key, u64::from(BPF_F_TUNINFO_IPV6)) {
        // SAFETY: it is the field of this family.
        let words = unsafe { key.__bindgen_anon_1.remote_ipv6 };
        return Some((key.tunnel_id, Address::ipv6(octets(words))));
    }
    None
}

#[inline(always)]
fn get(context: &TcContext, key: &mut bpf_tunnel_key, flags: u64) -> bool {
    // SAFETY: the context is the kernel's own, and `key` has at least the bytes that it may write.
    unsafe { bpf_skb_get_tunnel_key(context.skb.skb, key, SHORT, flags) == 0 }
}

/// Gives a packet its tunnel; whether the kernel took it.
///
/// KERNEL: without `BPF_F_DONT_FRAGMENT` the outer packet may be fragmented. What the packet was routed by is dropped with this, and with
/// it the path MTU that the kernel would note there, and would hold against the next packet.
#[inline(always)]
pub(crate) fn set(context: &TcContext, forward: &Forward) -> bool {
    // SAFETY: every field is an integer.
    let mut key: bpf_tunnel_key = unsafe { zeroed() };
    key.tunnel_id = forward.tunnel_id;
    key.tunnel_ttl = HOPS;
    let flags = if let Some(peer) = forward.peer.as_ipv4() {
        key.__bindgen_anon_1.remote_ipv4 = u32::from_be_bytes(peer);
        if let Some(local) = forward.local.as_ipv4() {
            key.__bindgen_anon_3.local_ipv4 = u32::from_be_bytes(local);
        }
        // What is inside has check sums of its own.
        u64::from(BPF_F_ZERO_CSUM_TX)
    } else {
        key.__bindgen_anon_1.remote_ipv6 = words(forward.peer.octets);
        key.__bindgen_anon_3.local_ipv6 = words(forward.local.octets);
        // KERNEL: over IPv6 what has none is refused unless the receiver's device says otherwise.
        u64::from(BPF_F_TUNINFO_IPV6)
    };
    put(context, &mut key, WHOLE, flags) || put(context, &mut key, SHORT, flags)
}

#[inline(always)]
fn put(context: &TcContext, key: &mut bpf_tunnel_key, bytes: u32, flags: u64) -> bool {
    // SAFETY: the context is the kernel's own, and `key` has at least the bytes that it reads.
    unsafe { bpf_skb_set_tunnel_key(context.skb.skb, key, bytes, flags) == 0 }
}

/// KERNEL: words of IPv6 addresses are in network byte order.
#[inline(always)]
fn words(octets: [u8; 16]) -> [u32; 4] {
    let [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p] = octets;
    [[a, b, c, d], [e, f, g, h], [i, j, k, l], [m, n, o, p]].map(u32::from_ne_bytes)
}

#[inline(always)]
fn octets(words: [u32; 4]) -> [u8; 16] {
    let [[a, b, c, d], [e, f, g, h], [i, j, k, l], [m, n, o, p]] = words.map(u32::to_ne_bytes);
    [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p]
}
