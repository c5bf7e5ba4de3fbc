//! The two entry points. What they do not know is dropped.

#![expect(unsafe_code, reason = "contexts of the kernel")]

use crate::key;
use crate::maps::{FORWARDED, InMaps, RECEIVED, count, count_traffic, forward};
use aya_ebpf::bindings::{TC_ACT_SHOT, TC_ACT_UNSPEC};
use aya_ebpf::macros::classifier;
use aya_ebpf::programs::TcContext;
use cutover_common::tunnel::{
    Address, ETHER_TYPE_IPV4, ETHER_TYPE_IPV6, TunnelCounter, ipv4_destination, ipv6_destination,
    judge_arrival, judge_departure,
};

/// On clsact, egress of the tunnel's device.
///
/// KERNEL: a device that has its tunnels from metadata drops what has none, so nothing leaves it without this program.
#[classifier]
fn cutover_forward(context: TcContext) -> i32 {
    let forward = match judge_departure(destination(&context), forward) {
        Ok(forward) => forward,
        Err(reason) => return dropped(reason),
    };
    let bytes = context.len();
    if !key::set(&context, forward) {
        return dropped(TunnelCounter::ForwardRefused);
    }
    count(TunnelCounter::Forwarded);
    count_traffic(&FORWARDED, forward.tunnel_id, bytes);
    TC_ACT_UNSPEC
}

/// On clsact, ingress of the tunnel's device.
#[classifier]
fn cutover_receive(context: TcContext) -> i32 {
    match judge_arrival(key::of(&context), || destination(&context), &InMaps) {
        Ok(tunnel_id) => {
            count(TunnelCounter::Received);
            count_traffic(&RECEIVED, tunnel_id, context.len());
            TC_ACT_UNSPEC
        }
        Err(reason) => dropped(reason),
    }
}

#[inline(always)]
fn dropped(reason: TunnelCounter) -> i32 {
    count(reason);
    TC_ACT_SHOT
}

/// Where the packet goes, if it is one of IP. On this device nothing is in front of its head.
#[inline(always)]
fn destination(context: &TcContext) -> Option<Address> {
    // SAFETY: the kernel hands a valid context to the program.
    let protocol = u16::from_be(unsafe { (*context.skb.skb).protocol } as u16);
    match protocol {
        ETHER_TYPE_IPV4 => ipv4_destination(&context.load(0).ok()?),
        ETHER_TYPE_IPV6 => ipv6_destination(&context.load(0).ok()?),
        _ => None,
    }
}
