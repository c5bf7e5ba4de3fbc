//! A program of somebody else's on tcx that ends the processing of every frame it sees: programs behind it, and filters, see none.
//!
//! Owns the loading and attaching of that one program.

use crate::program_cost::{CLASSIFIER, bpf, load_empty};
use std::io;
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd};

// linux/bpf.h: enum bpf_cmd, enum bpf_attach_type, and what a program says that wants no other to see the frame.
const BPF_LINK_CREATE: libc::c_long = 28;
const BPF_TCX_INGRESS: u32 = 46;
const TCX_PASS: i32 = 0;

/// Head of `union bpf_attr` for BPF_LINK_CREATE.
#[repr(C)]
struct LinkRequest {
    program: u32,
    interface: u32,
    attach_type: u32,
    flags: u32,
}

/// Attaches the program behind whatever is on an interface of the network namespace of the calling thread, until the descriptor is closed.
///
/// # Errors
/// Without the privilege, and without tcx (Linux 6.6).
pub fn end_processing(ifindex: u32) -> io::Result<OwnedFd> {
    let program = load_empty(CLASSIFIER, TCX_PASS)?;
    let program = program.as_raw_fd().cast_unsigned();
    let mut request = LinkRequest { program, interface: ifindex, attach_type: BPF_TCX_INGRESS, flags: 0 };
    let link = bpf(BPF_LINK_CREATE, &mut request)?;
    // SAFETY: BPF_LINK_CREATE returns a new descriptor that nobody else knows.
    Ok(unsafe { OwnedFd::from_raw_fd(link) })
}
