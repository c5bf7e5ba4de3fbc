//! What a program on the stage may do: what routing daemons need, and not what root can do to the host besides. And how it is ended.

#![expect(unsafe_code, reason = "runs between fork and exec")]

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::io;
use std::os::unix::process::CommandExt as _;
use std::process::{Child, Command};
use std::time::{Duration, Instant};

/// linux/capability.h: CHOWN, DAC_OVERRIDE, DAC_READ_SEARCH, FOWNER, SETGID, SETUID, SETPCAP, NET_BIND_SERVICE, NET_BROADCAST, NET_ADMIN and
/// NET_RAW.
const NEEDED: [libc::c_ulong; 11] = [0, 1, 2, 3, 6, 7, 8, 10, 11, 12, 13];
/// FRR's daemons end without it, because zebra can work in several network namespaces.
const SYS_ADMIN: libc::c_ulong = 21;
/// LIMIT: the kernel has 41 and says which one is the first that it does not know.
const NUMBERS: libc::c_ulong = 64;

/// Leaves a program no other privileges than these, whoever it becomes.
pub(super) fn confined(command: &mut Command, with_sys_admin: bool) {
    let drop_others = move || {
        for number in 0..NUMBERS {
            if NEEDED.contains(&number) || (with_sys_admin && number == SYS_ADMIN) {
                continue;
            }
            // SAFETY: it takes numbers only.
            if unsafe { libc::prctl(libc::PR_CAPBSET_DROP, number, 0, 0, 0) } != 0 {
                let error = io::Error::last_os_error();
                return if error.raw_os_error() == Some(libc::EINVAL) { Ok(()) } else { Err(error) };
            }
        }
        Ok(())
    };
    // SAFETY: between fork and exec this makes system calls only and allocates nothing.
    unsafe { command.pre_exec(drop_others) };
}

/// Ends a program as its unit does. Says whether it has ended in time.
pub(super) fn terminate(child: &mut Child, within: Duration) -> bool {
    // It may have ended by itself.
    let _ = kill(Pid::from_raw(child.id().cast_signed()), Signal::SIGTERM);
    let deadline = Instant::now() + within;
    while matches!(child.try_wait(), Ok(None)) {
        if Instant::now() > deadline {
            return false;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    true
}
