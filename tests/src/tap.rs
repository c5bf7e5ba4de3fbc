//! Taps. [`Tap`] is the device as Nova plugs it into the host; [`OpenTap`] is its other end in the hands of the test,
//! which plays the hypervisor: that gives it a carrier, and a frame sent there arrives on the host's tap as a guest's does.

#![expect(unsafe_code, reason = "ioctl(2) of taps")]

use crate::frames::Frame;
use crate::namespace::Namespace;
use crate::wait;
use cutover_common::MacAddr;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd};
use std::os::unix::fs::OpenOptionsExt as _;
use std::sync::Arc;

/// A persistent tap in a host's namespace. It goes with the namespace, or by [`Tap::remove`].
#[derive(Debug)]
pub struct Tap {
    namespace: Arc<Namespace>,
    name: String,
    ifindex: u32,
}

impl Tap {
    pub(crate) fn plug(namespace: Arc<Namespace>, name: &str, mac: MacAddr) -> Self {
        let mut taps = Self::plug_many(&namespace, &[(name.to_owned(), mac)]);
        taps.pop().expect("one was asked for")
    }

    pub(crate) fn plug_many(namespace: &Arc<Namespace>, taps: &[(String, MacAddr)]) -> Vec<Self> {
        let lines = taps.iter().map(|(name, mac)| {
            format!(
                "tuntap add dev {name} mode tap\n\
                 link set dev {name} address {mac}\n\
                 link set dev {name} up\n"
            )
        });
        namespace.ip(&lines.collect::<String>());
        let index = |name: &str| nix::net::if_::if_nametoindex(name).expect("it was just added");
        namespace.run(|| {
            let plugged = |(name, _): &(String, MacAddr)| Self {
                namespace: Arc::clone(namespace),
                name: name.clone(),
                ifindex: index(name),
            };
            taps.iter().map(plugged).collect()
        })
    }

    /// As [`Self::remove`], many of one host in one go.
    ///
    /// # Panics
    /// When somebody else took one away.
    pub fn remove_many(taps: Vec<Self>) {
        let Some(first) = taps.first() else { return };
        let lines = taps.iter().map(|tap| format!("link del {}\n", tap.name));
        first.namespace.ip(&lines.collect::<String>());
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its number.
    #[must_use]
    pub fn ifindex(&self) -> u32 {
        self.ifindex
    }

    /// A process opens it: it has a carrier from now on, until the [`OpenTap`] goes.
    ///
    /// # Panics
    /// When it is open already, or gone.
    #[must_use]
    pub fn open(&self) -> OpenTap {
        // KERNEL: a process that another test is just starting holds what was closed here until it runs its program.
        let mut opened = self.namespace.run(|| open(&self.name));
        wait::until(wait::SOON, format_args!("nobody holds {}", self.name), || {
            let is_busy = opened.as_ref().is_err_and(|e| e.raw_os_error() == Some(libc::EBUSY));
            if is_busy {
                opened = self.namespace.run(|| open(&self.name));
            }
            !is_busy
        });
        let file = opened.unwrap_or_else(|e| panic!("{}: {e}", self.name));
        wait::until(wait::SOON, format_args!("carrier of {}", self.name), || self.has_carrier());
        OpenTap { file }
    }

    /// Whether something is at the other end.
    #[must_use]
    pub fn has_carrier(&self) -> bool {
        // KERNEL: /sys/class/net shows the namespace of the mount, not of the reader, hence the ioctl.
        self.namespace.run(|| link_flags(&self.name)).is_ok_and(|flags| flags & libc::IFF_RUNNING != 0)
    }

    /// The packet sockets that are bound to it: how many bytes wait in each to be read.
    ///
    /// # Panics
    /// When the kernel does not say so.
    #[must_use]
    pub fn packet_sockets(&self) -> Vec<u64> {
        // KERNEL: columns of /proc/net/packet; the fifth is the number of the interface, the seventh what is to be read.
        let table =
            self.namespace.run(|| fs::read_to_string("/proc/thread-self/net/packet")).expect("a table");
        let fields = table.lines().skip(1).map(|line| line.split_whitespace().collect::<Vec<_>>());
        let of_this = fields.filter(|fields| fields[4] == self.ifindex.to_string());
        of_this.map(|fields| fields[6].parse().expect("a number")).collect()
    }

    /// Takes the device away, as Nova does after a migration.
    ///
    /// # Panics
    /// When somebody else did.
    pub fn remove(self) {
        self.namespace.ip(&format!("link del {}", self.name));
    }
}

/// The other end of a tap.
#[derive(Debug)]
pub struct OpenTap {
    file: File,
}

impl OpenTap {
    /// Sends a frame as the guest does.
    ///
    /// # Panics
    /// When the tap is gone.
    #[track_caller]
    pub fn send(&self, frame: &Frame) {
        self.try_send(frame).expect("the tap is up");
    }

    /// Sends a frame as the guest does.
    ///
    /// # Errors
    /// When the tap is gone or down.
    pub fn try_send(&self, frame: &Frame) -> io::Result<()> {
        (&self.file).write_all(frame.bytes())
    }

    /// Takes one frame that the host sent, if there is one.
    #[must_use]
    pub fn receive(&self) -> Option<Vec<u8>> {
        let mut buffer = vec![0; 65_536];
        let length = (&self.file).read(&mut buffer).ok()?;
        buffer.truncate(length);
        Some(buffer)
    }
}

impl OpenTap {
    /// For copying frames without allocating.
    pub(crate) fn file(&self) -> &File {
        &self.file
    }
}

impl AsFd for OpenTap {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

/// Attaches to the tap of this name in the namespace of this thread, making it when there is none.
pub(crate) fn open(name: &str) -> io::Result<File> {
    let file =
        OpenOptions::new().read(true).write(true).custom_flags(libc::O_NONBLOCK).open("/dev/net/tun")?;
    let mut request = interface_request(name);
    request.ifr_ifru.ifru_flags = i16::try_from(libc::IFF_TAP | libc::IFF_NO_PI).expect("small numbers");
    // SAFETY: TUNSETIFF reads and writes one ifreq, which lives until the call returns.
    let result = unsafe { libc::ioctl(file.as_raw_fd(), libc::TUNSETIFF, &raw mut request) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(file) }
}

/// IFF_* of a link in the namespace of this thread.
fn link_flags(name: &str) -> io::Result<i32> {
    let socket = std::net::UdpSocket::bind("0.0.0.0:0")?;
    let mut request = interface_request(name);
    // SAFETY: SIOCGIFFLAGS reads and writes one ifreq, which lives until the call returns.
    let result = unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCGIFFLAGS, &raw mut request) };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: SIOCGIFFLAGS has filled this member of the union.
    Ok(i32::from(unsafe { request.ifr_ifru.ifru_flags }))
}

fn interface_request(name: &str) -> libc::ifreq {
    // SAFETY: an ifreq of zeros is valid.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    assert!(name.len() < libc::IFNAMSIZ, "{name} is too long for an interface");
    for (target, source) in request.ifr_name.iter_mut().zip(name.bytes()) {
        *target = source.cast_signed() as libc::c_char;
    }
    request
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::packet::PacketSocket;
    use crate::{Lab, frames};

    #[test]
    fn a_plugged_tap_has_no_carrier_until_it_is_opened() {
        let lab = Lab::new();
        let host = lab.host("compute1");
        let tap = host.plug("tapport1", "fe:16:3e:00:00:01".parse().unwrap());
        assert!(!tap.has_carrier());
        let qemu = tap.open();
        assert!(tap.has_carrier());

        let seen = PacketSocket::bind(host.namespace(), "tapport1");
        let announcement = frames::rarp("fa:16:3e:00:00:01".parse().unwrap());
        qemu.send(&announcement);
        wait::until(wait::SOON, "the frame arrives on the host", || {
            seen.receive().is_some_and(|frame| frame == announcement.bytes())
        });

        drop(qemu);
        wait::until(wait::SOON, "no carrier when the process is gone", || !tap.has_carrier());
        let first = tap.ifindex();
        tap.remove();
        assert_eq!(host.ifindex("tapport1"), None);
        let tap = host.plug("tapport1", "fe:16:3e:00:00:01".parse().unwrap());
        assert_ne!(tap.ifindex(), first, "a new device has a new number");
    }
}
