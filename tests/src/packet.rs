//! A packet socket: sends frames on any interface of a namespace, and takes the ones that pass. For guests
//! behind a veth, for frames that the host itself sends towards a guest, and for looking on.

#![expect(unsafe_code, reason = "bind(2) of a packet socket")]

use crate::clocks::Clocks;
use crate::frames::Frame;
use crate::namespace::Namespace;
use cutover_common::MacAddr;
use cutover_engine::BootTime;
use nix::sys::socket::{
    AddressFamily, ControlMessageOwned, MsgFlags, SockFlag, SockType, recv, recvmsg, send, setsockopt,
    socket, sockopt,
};
use nix::sys::time::TimeSpec;
use std::io::{self, IoSliceMut};
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::time::Duration;

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

    /// From now on the kernel notes when each frame came to the interface.
    ///
    /// # Panics
    /// Never for a socket.
    #[must_use]
    pub fn with_times(self) -> Self {
        setsockopt(&self.socket, sockopt::ReceiveTimestampns, &true).expect("a socket");
        self
    }

    /// When the first frame came from `mac`, of those that nobody has taken yet. Takes everything up to it.
    ///
    /// # Panics
    /// Without [`Self::with_times`].
    #[must_use]
    pub fn first_from(&self, mac: MacAddr) -> Option<BootTime> {
        let mut head = [0; 14];
        loop {
            let mut control = nix::cmsg_space!(TimeSpec);
            let mut parts = [IoSliceMut::new(&mut head)];
            let flags = MsgFlags::empty();
            let message =
                recvmsg::<()>(self.socket.as_raw_fd(), &mut parts, Some(&mut control), flags).ok()?;
            let time = message.cmsgs().ok()?.find_map(|part| match part {
                ControlMessageOwned::ScmTimestampns(time) => Some(Duration::from(time)),
                _ => None,
            });
            let clocks = Clocks::read();
            if head[6..12] == mac.0 {
                return Some(clocks.on_boot_clock(time.expect("it was asked for")));
            }
        }
    }
}

/// For reading it in another way than [`PacketSocket::receive`].
impl From<PacketSocket> for OwnedFd {
    fn from(packets: PacketSocket) -> Self {
        packets.socket
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Lab, frames, wait};
    use cutover_daemon::clock;

    #[test]
    fn the_kernel_knows_when_a_frame_came_and_from_whom() {
        let lab = Lab::new();
        let host = lab.host("compute1");
        let [ours, other] = ["fa:16:3e:00:00:01", "fa:16:3e:00:00:02"].map(|mac| mac.parse().unwrap());
        let tap = host.plug("tapport1", "fe:16:3e:00:00:01".parse().unwrap());
        let onlooker = PacketSocket::bind(host.namespace(), "tapport1").with_times();
        let open = tap.open();
        open.send(&frames::rarp(other));
        assert_eq!(onlooker.first_from(ours), None);
        let before = clock::now();
        open.send(&frames::rarp(ours));
        let after = clock::now();
        open.send(&frames::rarp(ours));
        let came_at = wait::for_some(wait::SOON, "the frame", || onlooker.first_from(ours));
        // The two clocks are read one after the other.
        let slack = Duration::from_micros(50);
        assert!(
            before.0 <= (came_at + slack).0 && came_at <= after + slack,
            "{before:?} {came_at:?} {after:?}"
        );
        assert!(onlooker.first_from(ours).is_some_and(|next| next > came_at), "each frame is taken once");
    }
}
