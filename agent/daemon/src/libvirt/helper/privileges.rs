//! Gives up what the agent is allowed to do and the helper does not need: every capability, and every way to get one back.

#![expect(unsafe_code, reason = "capset(2)")]

use std::io;

/// `_LINUX_CAPABILITY_VERSION_3`, of linux/capability.h.
const VERSION: u32 = 0x2008_0522;

/// `struct __user_cap_header_struct`; process 0 is the caller.
#[repr(C)]
struct Header {
    version: u32,
    pid: i32,
}

/// `struct __user_cap_data_struct`, which this version has two of.
#[repr(C)]
#[derive(Clone, Copy, Default)]
struct Sets {
    effective: u32,
    permitted: u32,
    inheritable: u32,
}

/// Gives them up for good. To be called by the only thread, since each has its own.
pub(super) fn give_up() -> io::Result<()> {
    nix::sys::prctl::set_no_new_privs()?;
    let (header, none) = (Header { version: VERSION, pid: 0 }, [Sets::default(); 2]);
    // SAFETY: the kernel reads one header and, in this version, two sets, which are there.
    let result = unsafe { libc::syscall(libc::SYS_capset, &raw const header, none.as_ptr()) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
