//! A process that may lock little memory and cannot change that, as in a unit without `LimitMEMLOCK`. The limit is its own: nobody
//! else's changes.

#![expect(unsafe_code, reason = "runs between fork and exec")]

use std::io;
use std::os::unix::process::CommandExt as _;
use std::process::Command;

/// Number of the capability that lets a process raise its limits (include/uapi/linux/capability.h).
const CAP_SYS_RESOURCE: libc::c_ulong = 24;

/// Lets a command start with this limit.
pub(crate) fn limit(command: &mut Command, bytes: u64) {
    let limit = move || limit_own(bytes);
    // SAFETY: the closure makes two system calls and allocates nothing.
    unsafe { command.pre_exec(limit) };
}

fn limit_own(bytes: u64) -> io::Result<()> {
    let limit = libc::rlimit { rlim_cur: bytes, rlim_max: bytes };
    // SAFETY: setrlimit reads one rlimit, which lives until the call returns.
    let limited = unsafe { libc::setrlimit(libc::RLIMIT_MEMLOCK, &raw const limit) };
    // SAFETY: PR_CAPBSET_DROP takes the number of a capability, and no address.
    let dropped = unsafe { libc::prctl(libc::PR_CAPBSET_DROP, CAP_SYS_RESOURCE, 0, 0, 0) };
    if limited == 0 && dropped == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
