//! What whoever is at the other end of the control socket may ask for: the kernel says who that is.

#![expect(unsafe_code, reason = "getsockopt(2) with SO_PEERGROUPS")]

use nix::unistd::Gid;
use std::io;
use std::os::fd::AsRawFd as _;
use tokio::net::UnixStream;

/// LIMIT: what the kernel lets a process have (NGROUPS_MAX).
const GROUPS_MAX: usize = 65_536;

/// From less to more.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) enum Access {
    /// Nothing.
    None,
    /// How things stand.
    Reading,
    /// Everything.
    All,
}

impl Access {
    /// Root may do everything, and members of this group may read. A process counts as what it was when it connected.
    pub(super) fn of(stream: &UnixStream, readers: Option<Gid>) -> io::Result<Self> {
        let peer = stream.peer_cred()?;
        if peer.uid() == 0 {
            return Ok(Self::All);
        }
        let Some(readers) = readers else { return Ok(Self::None) };
        let is_member = peer.gid() == readers.as_raw() || groups(stream)?.contains(&readers.as_raw());
        Ok(if is_member { Self::Reading } else { Self::None })
    }
}

/// The supplementary groups of the peer.
fn groups(stream: &UnixStream) -> io::Result<Vec<libc::gid_t>> {
    let mut groups: Vec<libc::gid_t> = vec![0; 64];
    loop {
        let mut length = libc::socklen_t::try_from(size_of_val(&groups[..])).map_err(io::Error::other)?;
        // SAFETY: the kernel writes at most `length` bytes, which the vector has, and says in `length` how many.
        let result = unsafe {
            libc::getsockopt(
                stream.as_raw_fd(),
                libc::SOL_SOCKET,
                libc::SO_PEERGROUPS,
                groups.as_mut_ptr().cast(),
                &raw mut length,
            )
        };
        let count = usize::try_from(length).map_err(io::Error::other)? / size_of::<libc::gid_t>();
        if result == 0 {
            groups.truncate(count);
            return Ok(groups);
        }
        let error = io::Error::last_os_error();
        // KERNEL: there are more of them than fit, and `length` says how many.
        if error.raw_os_error() != Some(libc::ERANGE) || groups.len() >= GROUPS_MAX {
            return Err(error);
        }
        groups.resize(count.clamp(groups.len() + 1, GROUPS_MAX), 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_kernel_says_who_asks() {
        let (here, _there) = UnixStream::pair().unwrap();
        let mut own: Vec<u32> = nix::unistd::getgroups().unwrap().iter().map(|gid| gid.as_raw()).collect();
        let mut told = groups(&here).unwrap();
        own.sort_unstable();
        told.sort_unstable();
        assert_eq!(told, own);
        let expected = if nix::unistd::geteuid().is_root() { Access::All } else { Access::None };
        assert_eq!(Access::of(&here, None).unwrap(), expected);
        assert!(Access::of(&here, Some(nix::unistd::getegid())).unwrap() >= Access::Reading);
        assert!(Access::None < Access::Reading && Access::Reading < Access::All);
    }
}
