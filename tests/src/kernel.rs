//! What the kernel under test has, by its version: the agent asks the kernel itself, and tests must not believe the agent. What
//! a kernel does not have is said so that nobody can miss it, and left out by the test that wants it.
//!
//! Only mainline's and Debian's kernels are known here; others carry features back.

use nix::sys::utsname::uname;
use std::io::Write as _;
use std::panic::Location;

/// Major and minor number.
pub type Version = (u32, u32);

/// tcx, and links for it.
pub const TCX: Version = (6, 6);
/// Memory of maps is counted for the cgroup, and no longer as locked memory of the user.
pub const MAPS_COUNTED_BY_CGROUP: Version = (5, 11);

/// A program can say from which address a tunnel begins (`local_ipv4` of bpf_tunnel_key).
pub const TUNNEL_FROM: Version = (6, 0);

/// The kernel that this process runs on.
///
/// # Panics
/// When its version does not begin with two numbers.
#[must_use]
pub fn version() -> Version {
    let release = uname().expect("a kernel has a name").release().to_string_lossy().into_owned();
    parse(&release).unwrap_or_else(|| panic!("the version of the kernel is {release:?}"))
}

fn parse(release: &str) -> Option<Version> {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(|number| number.parse().ok());
    Some((numbers.next()??, numbers.next()??))
}

/// Whether the kernel has what came with `since`.
#[must_use]
pub fn has(since: Version) -> bool {
    version() >= since
}

/// Whether there is tcx. If not, the tests' output says where it was not tried, captured or not.
#[track_caller]
#[must_use]
pub fn has_tcx() -> bool {
    has_or_say(TCX, "tcx")
}

/// The same for tunnels that begin at an address of choice.
#[track_caller]
#[must_use]
pub fn has_tunnel_from() -> bool {
    has_or_say(TUNNEL_FROM, "tunnels that begin at an address of choice")
}

#[track_caller]
fn has_or_say(since: Version, what: &str) -> bool {
    let is_there = has(since);
    if !is_there {
        // Nobody is left to tell if standard error is closed.
        let _ = writeln!(
            std::io::stderr(),
            "\nSKIPPED with {what}, which this kernel does not have: {}",
            place(Location::caller())
        );
    }
    is_there
}

/// The test of this thread, if it has a thread of its own, and the line.
fn place(caller: &Location<'_>) -> String {
    match std::thread::current().name() {
        Some(test) if test != "main" => format!("{test}, {}:{}", caller.file(), caller.line()),
        _ => format!("{}:{}", caller.file(), caller.line()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_compared_as_numbers() {
        assert_eq!(parse("5.10.0-32-cloud-amd64"), Some((5, 10)));
        assert_eq!(parse("6.12.117+deb13-cloud-amd64"), Some((6, 12)));
        assert_eq!(parse("7.0-rc1"), Some((7, 0)));
        assert_eq!(parse("linux"), None);
        assert!((6, 12) >= TCX && (5, 10) < TCX);
        assert!(has((1, 0)) && !has((99, 0)));
    }

    #[test]
    fn what_is_left_out_is_named() {
        let place = place(Location::caller());
        assert!(place.contains("what_is_left_out_is_named, ") && place.contains("kernel.rs:"), "{place}");
    }
}
