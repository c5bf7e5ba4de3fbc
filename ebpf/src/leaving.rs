//! The kernel side of a tap whose virtual machine is about to leave: a socket's filter that notes when the last frame came.
//!
//! Glue only: it reads no frame and takes none. The filter belongs to a socket of the agent that is given a look at what comes from the
//! tap, and it refuses the socket every frame; what becomes of the frame itself is nothing that it could change. Built for the kernel by
//! the agent's build script; for any other target this file is an empty program.
#![cfg_attr(target_arch = "bpf", no_std)]
#![cfg_attr(target_arch = "bpf", no_main)]

#[cfg(target_arch = "bpf")]
mod bare;
#[cfg(target_arch = "bpf")]
#[path = "leaving/programs.rs"]
mod programs;

#[cfg(not(target_arch = "bpf"))]
fn main() {}
