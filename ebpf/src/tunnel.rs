//! The kernel side of the tunnel between the two hosts of a migration: a program for each direction of its device.
//!
//! Glue only: it reads the head of a packet and the tunnel that it came through, asks `cutover-common` what may pass, and gives what goes
//! its tunnel. Everything else on the device is dropped. It never changes a packet, and it never writes a map but to count. Built for
//! the kernel by the agent's build script; for any other target this file is an empty program.
#![cfg_attr(target_arch = "bpf", no_std)]
#![cfg_attr(target_arch = "bpf", no_main)]

#[cfg(target_arch = "bpf")]
mod bare;
#[cfg(target_arch = "bpf")]
#[path = "tunnel/key.rs"]
mod key;
#[cfg(target_arch = "bpf")]
#[path = "tunnel/maps.rs"]
mod maps;
#[cfg(target_arch = "bpf")]
#[path = "tunnel/programs.rs"]
mod programs;

#[cfg(not(target_arch = "bpf"))]
fn main() {}
