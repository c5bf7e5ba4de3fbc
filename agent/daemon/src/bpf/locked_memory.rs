//! The limit of locked memory (RLIMIT_MEMLOCK). Kernels before 5.11 count BPF maps and programs as locked memory of the user, all of
//! his processes together, and refuse to make them above the limit with "operation not permitted", which leads nowhere.
//!
//! Loading the programs raises the limit where it may (aya does that). What is here finds out whether the limit is in the way, and
//! raises it for attempts that load nothing. On newer kernels the limit does not matter.

#![expect(unsafe_code, reason = "getrlimit(2) and setrlimit(2)")]

use super::error::{OpenError, is_refused};
use super::syscall::{self, MAP_ARRAY};
use std::io;

/// Raises the limit as far as this process may: to infinity with CAP_SYS_RESOURCE, else to the hard limit.
pub(super) fn raise() {
    const INFINITE: libc::rlimit =
        libc::rlimit { rlim_cur: libc::RLIM_INFINITY, rlim_max: libc::RLIM_INFINITY };
    if set(&INFINITE).is_err()
        && let Ok(limit) = limit()
    {
        // Up to the hard limit anybody may; if not, what comes next says so.
        let _ = set(&libc::rlimit { rlim_cur: limit.rlim_max, ..limit });
    }
}

/// Whether the kernel counts maps as locked memory of the user.
///
/// # Errors
/// When that cannot be found out: nothing can be made, whether because of the limit or without the privilege.
pub(super) fn is_counted() -> io::Result<bool> {
    let before = limit()?;
    set(&libc::rlimit { rlim_cur: 0, ..before })?;
    let made = syscall::create_map(MAP_ARRAY, 4, 4, 1);
    set(&before)?;
    match made {
        Ok(_) => Ok(false),
        // It is the limit only if it works without.
        Err(error) => syscall::create_map(MAP_ARRAY, 4, 4, 1).map(|_| true).map_err(|_| error),
    }
}

/// The error that says what to do, if it is the limit that an attempt failed at.
pub(super) fn explain(error: OpenError) -> OpenError {
    let Ok(libc::rlimit { rlim_cur: limit, .. }) = limit() else { return error };
    if limit == libc::RLIM_INFINITY || !is_refused(&error) {
        return error;
    }
    // What other processes of the user have made may leave no room for the smallest map.
    match is_counted() {
        Ok(true) => OpenError::LockedMemory { limit },
        Err(_) if is_old() => OpenError::LockedMemory { limit },
        _ => error,
    }
}

/// KERNEL: since 5.11 maps are counted for the cgroup.
fn is_old() -> bool {
    let release = nix::sys::utsname::uname().map(|name| name.release().to_string_lossy().into_owned());
    release.ok().and_then(|release| version(&release)).is_some_and(|version| version < (5, 11))
}

/// Major and minor number.
fn version(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(|number| number.parse().ok());
    Some((numbers.next()??, numbers.next()??))
}

fn limit() -> io::Result<libc::rlimit> {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: getrlimit writes one rlimit, which lives until the call returns.
    let result = unsafe { libc::getrlimit(libc::RLIMIT_MEMLOCK, &raw mut limit) };
    if result == 0 { Ok(limit) } else { Err(io::Error::last_os_error()) }
}

fn set(limit: &libc::rlimit) -> io::Result<()> {
    // SAFETY: setrlimit reads one rlimit, which lives until the call returns.
    let result = unsafe { libc::setrlimit(libc::RLIMIT_MEMLOCK, std::ptr::from_ref(limit)) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read() {
        assert_eq!(version("5.10.0-32-cloud-amd64"), Some((5, 10)));
        assert_eq!(version("6.12.117+deb13-cloud-amd64"), Some((6, 12)));
        assert_eq!(version("linux"), None);
    }
}
