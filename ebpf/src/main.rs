//! The kernel side of Cutover: programs that watch the taps of arriving virtual machines.
//!
//! Glue only: it reads frames in place, asks `cutover-common` what they are, latches the first accepted
//! announcement of a watch and tells the agent. It never changes, drops or redirects a frame, and it never
//! writes a watch. Built for the kernel by the agent's build script; for any other target this file is an
//! empty program, so that the workspace can be checked without a BPF toolchain.
#![cfg_attr(target_arch = "bpf", no_std)]
#![cfg_attr(target_arch = "bpf", no_main)]

#[cfg(target_arch = "bpf")]
mod bare;
#[cfg(target_arch = "bpf")]
mod latch;
#[cfg(target_arch = "bpf")]
mod maps;
#[cfg(target_arch = "bpf")]
mod programs;

#[cfg(not(target_arch = "bpf"))]
fn main() {}
