//! The two entry points. Both always let the frame pass.

#![expect(unsafe_code, reason = "contexts of the kernel")]

use crate::latch::{can_matter, judge};
use aya_ebpf::bindings::{TC_ACT_UNSPEC, xdp_action::XDP_PASS};
use aya_ebpf::macros::{classifier, xdp};
use aya_ebpf::programs::{TcContext, XdpContext};
use cutover_common::Frame;
use cutover_common::classifier::{EXAMINED_BYTES_MAX, Sighting};

/// On tcx and on clsact, ingress of a tap.
///
/// KERNEL: TC_ACT_UNSPEC (-1) means "go on with the next program" on both: it is TCX_NEXT for tcx (6.6), and
/// for a direct-action filter of clsact the next filter is asked (`cls_bpf_exec_opcode`).
#[classifier]
fn cutover_tc(context: TcContext) -> i32 {
    watch_tc(&context);
    TC_ACT_UNSPEC
}

/// On a tap, in native or generic mode.
#[xdp]
fn cutover_xdp(context: XdpContext) -> u32 {
    // SAFETY: the kernel keeps the packet between the two addresses as it is while the program runs.
    let frame = unsafe { Frame::between(context.data() as *const u8, context.data_end() as *const u8) };
    if let Some(sighting) = Sighting::of(frame)
        && can_matter(&sighting)
    {
        judge(&sighting, context.ingress_ifindex() as u32);
    }
    XDP_PASS
}

#[inline(always)]
fn watch_tc(context: &TcContext) {
    let Some(sighting) = Sighting::of(linear_part(context)) else { return };
    if sighting.ended_early() && is_longer_than_linear_part(context) {
        return watch_tc_pulled(context);
    }
    if can_matter(&sighting) {
        judge(&sighting, ifindex(context));
    }
}

/// Reads a frame again whose header is not in one piece.
#[inline(always)]
fn watch_tc_pulled(context: &TcContext) {
    // A frame that is shorter than what is asked for is pulled as a whole; one that cannot be pulled is
    // judged by what can be read of it.
    let _ = context.pull_data(context.len().min(EXAMINED_BYTES_MAX));
    if let Some(sighting) = Sighting::of(linear_part(context))
        && can_matter(&sighting)
    {
        judge(&sighting, ifindex(context));
    }
}

#[inline(always)]
fn linear_part(context: &TcContext) -> Frame<'_> {
    // SAFETY: the kernel keeps the packet between the two addresses as it is until it is pulled, and the
    // borrow of the context does not outlive that.
    unsafe { Frame::between(context.data() as *const u8, context.data_end() as *const u8) }
}

#[inline(always)]
fn is_longer_than_linear_part(context: &TcContext) -> bool {
    context.len() as usize > context.data_end() - context.data()
}

#[inline(always)]
fn ifindex(context: &TcContext) -> u32 {
    // SAFETY: the kernel hands a valid context to the program.
    unsafe { (*context.skb.skb).ifindex }
}
