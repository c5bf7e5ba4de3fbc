//! Router advertisements, by which FRR learns who is at the other end of an interface that a session is configured for by its name
//! (unnumbered).

use nix::sys::socket::sockopt::Ipv6MulticastHops;
use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, SockaddrIn6, sendto, setsockopt, socket,
};
use std::io;
use std::net::{Ipv6Addr, SocketAddrV6};
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::time::Duration;

const EVERY: Duration = Duration::from_secs(1);
/// RFC 4861: everybody on the link, and nobody behind it.
const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
const HOPS: i32 = 255;
/// Type, code, checksum (the kernel's), hop limit, flags, lifetime in seconds, two timers.
const ADVERTISEMENT: [u8; 16] = [134, 0, 0, 0, 64, 0, 7, 8, 0, 0, 0, 0, 0, 0, 0, 0];

/// Advertises through an interface until the process ends.
pub(super) fn start(interface: u32) {
    std::thread::spawn(move || {
        // Without them the session does not come up, which is said.
        let Ok(socket) = open() else { return };
        let everybody = SockaddrIn6::from(SocketAddrV6::new(ALL_NODES, 0, 0, interface));
        loop {
            let _ = sendto(socket.as_raw_fd(), &ADVERTISEMENT, &everybody, MsgFlags::empty());
            std::thread::sleep(EVERY);
        }
    });
}

fn open() -> io::Result<OwnedFd> {
    let kind = (AddressFamily::Inet6, SockType::Raw, SockFlag::SOCK_CLOEXEC, SockProtocol::IcmpV6);
    let socket = socket(kind.0, kind.1, kind.2, kind.3)?;
    setsockopt(&socket, Ipv6MulticastHops, &HOPS)?;
    Ok(socket)
}
