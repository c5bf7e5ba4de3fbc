//! What every object needs that has nothing under it: somewhere to go in a panic, and a licence.

#![expect(unsafe_code, reason = "the licence has a section of its own")]

#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    // No path of the programs panics; the compiler asks for a handler all the same.
    loop {}
}

/// The licence of the object. KERNEL: `bpf_ktime_get_boot_ns` is for GPL-compatible programs only.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
