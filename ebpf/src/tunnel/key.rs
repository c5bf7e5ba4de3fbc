//! The head of the tunnel as the kernel hands it to programs (`struct bpf_tunnel_key`).

#![expect(unsafe_code, reason = "helpers of the kernel")]

use aya_ebpf::bindings::{
    BPF_F_TUNINFO_IPV6, BPF_F_ZERO_CSUM_TX, bpf_tunnel_key, bpf_tunnel_key__bindgen_ty_1,
    bpf_tunnel_key__bindgen_ty_2, bpf_tunnel_key__bindgen_ty_3,
};
use aya_ebpf::helpers::{bpf_skb_get_tunnel_key, bpf_skb_set_tunnel_key};
use aya_ebpf::programs::TcContext;
use core::mem::{MaybeUninit, offset_of};
use cutover_common::tunnel::{Address, Forward};

/// Without the addresses of this end, which came with Linux 6.0. Older kernels know no longer one, newer ones take this one, too.
const SHORT: u32 = offset_of!(bpf_tunnel_key, __bindgen_anon_3) as u32;
const WHOLE: u32 = size_of::<bpf_tunnel_key>() as u32;

/// LIMIT: that of the kernel for what it sends itself.
const HOPS: u8 = 64;

/// Which tunnel a packet came through: its identifier, and its sender in the underlay.
#[inline(always)]
pub(crate) fn of(context: &TcContext) -> Option<(u32, Address)> {
    if let Some(key) = get(context, 0) {
        // SAFETY: the kernel has written the field of this family.
        let sender = unsafe { key.__bindgen_anon_1.remote_ipv4 };
        return Some((key.tunnel_id, Address::ipv4(sender.to_be_bytes())));
    }
    // KERNEL: a question about the wrong family is an error.
    let key = get(context, u64::from(BPF_F_TUNINFO_IPV6))?;
    // SAFETY: the kernel has written the field of this family.
    let words = unsafe { key.__bindgen_anon_1.remote_ipv6 };
    Some((key.tunnel_id, Address::ipv6(octets(words))))
}

#[inline(always)]
fn get(context: &TcContext, flags: u64) -> Option<bpf_tunnel_key> {
    let mut key = MaybeUninit::<bpf_tunnel_key>::uninit();
    // SAFETY: the context is the kernel's own, and `key` has at least the bytes that it may write.
    let result = unsafe { bpf_skb_get_tunnel_key(context.skb.skb, key.as_mut_ptr(), SHORT, flags) };
    // SAFETY: every field is an integer, and nobody reads those that the kernel has not written.
    (result == 0).then(|| unsafe { key.assume_init() })
}

/// Gives a packet its tunnel; whether the kernel took it.
///
/// KERNEL: without `BPF_F_DONT_FRAGMENT` the outer packet may be fragmented. What the packet was routed by is dropped with this, and with
/// it the path MTU that the kernel would note there, and would hold against the next packet.
#[inline(always)]
pub(crate) fn set(context: &TcContext, forward: &Forward) -> bool {
    let (remote, local, flags) = if let Some(peer) = forward.peer.as_ipv4() {
        let local = forward.local.as_ipv4().unwrap_or_default();
        // What is inside has check sums of its own.
        (ipv4_words(peer), ipv4_words(local), u64::from(BPF_F_ZERO_CSUM_TX))
    } else {
        // KERNEL: over IPv6 what has no check sum is refused unless the receiver's device says otherwise.
        let flags = u64::from(BPF_F_TUNINFO_IPV6);
        (ipv6_words(forward.peer.octets), ipv6_words(forward.local.octets), flags)
    };
    let mut key = bpf_tunnel_key {
        tunnel_id: forward.tunnel_id,
        __bindgen_anon_1: bpf_tunnel_key__bindgen_ty_1 { remote_ipv6: remote },
        tunnel_tos: 0,
        tunnel_ttl: HOPS,
        __bindgen_anon_2: bpf_tunnel_key__bindgen_ty_2 { tunnel_ext: 0 },
        tunnel_label: 0,
        __bindgen_anon_3: bpf_tunnel_key__bindgen_ty_3 { local_ipv6: local },
    };
    put(context, &mut key, WHOLE, flags) || put(context, &mut key, SHORT, flags)
}

#[inline(always)]
fn put(context: &TcContext, key: &mut bpf_tunnel_key, bytes: u32, flags: u64) -> bool {
    // SAFETY: the context is the kernel's own, and `key` has at least the bytes that it reads.
    unsafe { bpf_skb_set_tunnel_key(context.skb.skb, key, bytes, flags) == 0 }
}

/// KERNEL: an IPv4 address is the first word, in the byte order of the host.
#[inline(always)]
const fn ipv4_words(octets: [u8; 4]) -> [u32; 4] {
    [u32::from_be_bytes(octets), 0, 0, 0]
}

/// KERNEL: words of IPv6 addresses are in network byte order.
#[inline(always)]
fn ipv6_words(octets: [u8; 16]) -> [u32; 4] {
    let [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p] = octets;
    [[a, b, c, d], [e, f, g, h], [i, j, k, l], [m, n, o, p]].map(u32::from_ne_bytes)
}

#[inline(always)]
fn octets(words: [u32; 4]) -> [u8; 16] {
    let [[a, b, c, d], [e, f, g, h], [i, j, k, l], [m, n, o, p]] = words.map(u32::to_ne_bytes);
    [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p]
}
