//! Connections that are signed with a password (RFC 2385), which nix does not know.

#![expect(unsafe_code, reason = "setsockopt(2) with TCP_MD5SIG")]

use nix::sys::socket::SockaddrLike;
use std::io;
use std::os::fd::{AsRawFd as _, OwnedFd};

/// KERNEL: `TCP_MD5SIG_MAXKEYLEN`.
const PASSWORD_BYTES_MAX: usize = 80;

/// `struct tcp_md5sig` of linux/tcp.h.
#[repr(C)]
struct Signature {
    address: libc::sockaddr_storage,
    flags: u8,
    prefix_bits: u8,
    password_bytes: u16,
    interface: u32,
    password: [u8; PASSWORD_BYTES_MAX],
}

/// Signs what is exchanged with `peer`.
pub(super) fn sign<A: SockaddrLike>(socket: &OwnedFd, peer: &A, password: &str) -> io::Result<()> {
    let mut key = [0; PASSWORD_BYTES_MAX];
    let too_long = || io::Error::other("a password of more than 80 bytes");
    key.get_mut(..password.len()).ok_or_else(too_long)?.copy_from_slice(password.as_bytes());
    let mut address = std::mem::MaybeUninit::<libc::sockaddr_storage>::zeroed();
    let bytes = usize::try_from(peer.len()).unwrap_or(0).min(size_of::<libc::sockaddr_storage>());
    // SAFETY: both are at least that long, the address by its own account, and they do not overlap.
    unsafe {
        std::ptr::copy_nonoverlapping(peer.as_ptr().cast::<u8>(), address.as_mut_ptr().cast::<u8>(), bytes)
    };
    let signature = Signature {
        // SAFETY: zeroes are a value of this plain structure, and so is what was copied over them.
        address: unsafe { address.assume_init() },
        flags: 0,
        prefix_bits: 0,
        password_bytes: u16::try_from(password.len()).unwrap_or_default(),
        interface: 0,
        password: key,
    };
    let length = libc::socklen_t::try_from(size_of::<Signature>()).unwrap_or_default();
    let value = (&raw const signature).cast();
    // SAFETY: the structure is the one that the option takes, with its length, and lives until the call is over.
    let result =
        unsafe { libc::setsockopt(socket.as_raw_fd(), libc::IPPROTO_TCP, libc::TCP_MD5SIG, value, length) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
