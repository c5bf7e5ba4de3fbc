//! The kernel side of Cutover: programs that watch the taps of arriving virtual machines.
//!
//! Glue only: it reads frames in place, asks `cutover-common` what they are, latches the first accepted
//! announcement of a watch and tells the agent. It never changes, drops or redirects a frame, and it never
//! writes a watch. Built for the kernel by the agent's build script; for any other target this file is an
//! empty program, so that the workspace can be checked without a BPF toolchain.
#![cfg_attr(target_arch = "bpf", no_std)]
#![cfg_attr(target_arch = "bpf", no_main)]

#[cfg(target_arch = "bpf")]
mod latch;
#[cfg(target_arch = "bpf")]
mod maps;
#[cfg(target_arch = "bpf")]
mod programs;

#[cfg(target_arch = "bpf")]
#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    // No path of the programs panics; the compiler asks for a handler all the same.
    loop {}
}

/// The licence of the object. KERNEL: `bpf_ktime_get_boot_ns` is for GPL-compatible programs only.
#[cfg(target_arch = "bpf")]
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";

#[cfg(not(target_arch = "bpf"))]
fn main() {}
