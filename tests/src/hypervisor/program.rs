//! Which QEMU guests run in, and what that one has to be told so that it does not lose them. Starts nothing.

use crate::release::build_folder;
use std::path::PathBuf;

/// The guest's memory: 128 MiB and 8 KiB.
///
/// LIMIT: QEMU before 9.0 loses writes of emulated guests that migrate, if their memory is a multiple of 64 pages: it clears
/// dirty bits and leaves the processor's TLB as it is. One guest in twenty did not survive that. Only for the installed QEMU.
const MEMORY_OF_OLD: &str = "131080K";

/// The guest tells the device of every packet.
///
/// LIMIT: when QEMU before 9.0 loses the write that asks to be told again, the guest's transmit queue stands still for ever.
/// One migration in some hundred ended like that. Only for the installed QEMU.
const NETWORK_OF_OLD: &str = ",event_idx=off";

/// A QEMU and what it needs to be told.
pub(super) struct Qemu {
    pub(super) program: PathBuf,
    pub(super) memory: &'static str,
    pub(super) network: &'static str,
}

impl Qemu {
    /// QEMU 10 of Debian 13, which `cargo xtask setup` has unpacked, or else the installed one, with what keeps most guests
    /// of QEMU 7.2 alive.
    ///
    /// LIMIT: measured without an agent, 128 MiB, 500 datagrams in a second, taps with long queues, on a busy machine. QEMU 7.2.22 of
    /// Debian 12 lost ten guests in some 650 migrations: the kernel panicked, hung or found "is not a head!" in its queue, or it
    /// waited for QEMU while QEMU waited for it. 10.0.13 lost none in 500; nor did 7.2.22 told what it is told here.
    pub(super) fn find() -> Self {
        let newer = build_folder().join("daemons/qemu-10/qemu-system-x86_64");
        if newer.is_file() {
            return Self { program: newer, memory: "128M", network: "" };
        }
        Self { program: "qemu-system-x86_64".into(), memory: MEMORY_OF_OLD, network: NETWORK_OF_OLD }
    }
}
