//! A packet socket: sends frames on any interface of a namespace, and takes the ones that pass. For guests
//! behind a veth, for frames that the host itself sends towards a guest, and for looking on.

use crate::frames::Frame;
use crate::namespace::Namespace;
use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockType, recv, send, setsockopt, socket, sockopt,
};
use std::io;
use std::os::fd::{AsRawFd as _, OwnedFd};

/// A raw socket bound to one interface.
#[derive(Debug)]
pub struct PacketSocket {
    socket: OwnedFd,
}

impl PacketSocket {
    /// Binds to an interface of a namespace.
    ///
    /// # Panics
    /// Without root, or when there is no such interface.
    #[must_use]
    pub fn bind(namespace: &Namespace, interface: &str) -> Self {
        namespace.run(|| {
            let socket = socket(
                AddressFamily::Packet,
                SockType::Raw,
                SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC,
                None,
            )
            .expect("packet sockets need root");
            setsockopt(&socket, sockopt::RcvBuf, &(4 << 20)).expect("a receive buffer");
            let ifindex = nix::net::if_::if_nametoindex(interface).expect("the interface exists");
            let address = libc::sockaddr_ll {
                sll_family: libc::AF_PACKET.try_into().expect("a small number"),
                sll_protocol: u16::try_from(libc::ETH_P_ALL).expect("a small number").to_be(),
                sll_ifindex: ifindex.cast_signed(),
                sll_hatype: 0,
                sll_pkttype: 0,
                sll_halen: 0,
                sll_addr: [0; 8],
            };
            let length = libc::socklen_t::try_from(size_of_val(&address)).expect("a small number");
            // SAFETY: the address is valid for `length` bytes and only read during the call.
            let result = unsafe { libc::bind(socket.as_raw_fd(), (&raw const address).cast(), length) };
            assert_eq!(result, 0, "bind to {interface}: {}", io::Error::last_os_error());
            Self { socket }
        })
    }

    /// Sends a frame out of the interface.
    ///
    /// # Panics
    /// When the interface is gone or down.
    #[track_caller]
    pub fn send(&self, frame: &Frame) {
        send(self.socket.as_raw_fd(), frame.bytes(), MsgFlags::empty()).expect("the interface is up");
    }

    /// Takes one frame that passed the interface, in either direction, if there is one.
    #[must_use]
    pub fn receive(&self) -> Option<Vec<u8>> {
        let mut buffer = vec![0; 65_536];
        let length = recv(self.socket.as_raw_fd(), &mut buffer, MsgFlags::empty()).ok()?;
        buffer.truncate(length);
        Some(buffer)
    }
}

/// For reading it in another way than [`PacketSocket::receive`].
impl From<PacketSocket> for OwnedFd {
    fn from(packets: PacketSocket) -> Self {
        packets.socket
    }
}
