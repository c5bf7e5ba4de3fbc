//! Programs of somebody else on an interface, each the smallest of its kind.
//!
//! Owns their loading and attaching.

#![expect(unsafe_code, reason = "bpf(2)")]

use crate::program_cost::{CLASSIFIER, XDP, bpf, load_empty};
use std::io;
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd};

// linux/bpf.h: enum bpf_cmd and enum bpf_attach_type.
const BPF_LINK_CREATE: libc::c_long = 28;
const BPF_XDP: u32 = 37;
const BPF_TCX_INGRESS: u32 = 46;
// What a program returns that lets no other one see the frame, and one that lets every frame go on.
const TCX_PASS: i32 = 0;
const XDP_PASS: i32 = 2;

/// Head of `union bpf_attr` for BPF_LINK_CREATE.
#[repr(C)]
struct LinkRequest {
    program: u32,
    interface: u32,
    attach_type: u32,
    flags: u32,
}

/// A program on tcx, behind whatever is there, of an interface of the network namespace of the calling thread, until the descriptor is
/// closed. It ends the processing of every frame it sees: programs behind it, and filters, see none.
///
/// # Errors
/// Without the privilege, and without tcx (Linux 6.6).
pub fn end_of_tcx(ifindex: u32) -> io::Result<OwnedFd> {
    attach(CLASSIFIER, TCX_PASS, BPF_TCX_INGRESS, ifindex)
}

/// A program that takes the place of XDP on an interface of the network namespace of the calling thread, until the descriptor is closed.
///
/// # Errors
/// Without the privilege, and without links for XDP (Linux 5.9).
pub fn xdp(ifindex: u32) -> io::Result<OwnedFd> {
    attach(XDP, XDP_PASS, BPF_XDP, ifindex)
}

fn attach(program_type: u32, result: i32, attach_type: u32, interface: u32) -> io::Result<OwnedFd> {
    let program = load_empty(program_type, result)?;
    let program = program.as_raw_fd().cast_unsigned();
    let mut request = LinkRequest { program, interface, attach_type, flags: 0 };
    let link = bpf(BPF_LINK_CREATE, &mut request)?;
    // SAFETY: BPF_LINK_CREATE returns a new descriptor that nobody else knows.
    Ok(unsafe { OwnedFd::from_raw_fd(link) })
}
