//! The program on the taps of virtual machines that are about to leave, which notes when the last frame came.
//!
//! It is the filter of a packet socket that is bound to the tap, because a virtual machine runs there and what it sends must not depend
//! on this: the socket is only given a look, the filter refuses it every frame, and both go with the agent. Neither qdisc nor XDP nor
//! tcx is touched, so nobody else's programs meet it, and it is the same on every kernel.
//!
//! KERNEL: to listen takes no lock of links and waits for no grace period (`packet_do_bind`); to cease does wait for one, without that
//! lock (`packet_release`). `PACKET_IGNORE_OUTGOING` (4.20) keeps what is sent to the virtual machine from being copied for the socket.

#![expect(unsafe_code, reason = "a packet socket with options that no library has")]

use super::error::{AttachError, ListenError, OpenError};
use super::locked_memory;
use super::maps::found;
use super::object::{self, LEAVING};
use aya::Ebpf;
use aya::maps::{HashMap, MapData, MapError};
use aya::programs::{Program, SocketFilter};
use cutover_common::names::{MAP_LAST_FRAMES, PROGRAM_LEAVING};
use cutover_engine::BootTime;
use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd, RawFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// linux/if_packet.h.
const PACKET_IGNORE_OUTGOING: libc::c_int = 23;

/// The taps that are listened to, in the network namespace of the calling thread. Nothing is loaded before the first one, and what
/// is loaded stays: to load it again for each migration would take longer than everything else about it.
#[derive(Default)]
pub struct Leaving {
    loaded: Option<Ebpf>,
    sockets: BTreeMap<u32, OwnedFd>,
    last_frames: LastFrames,
}

impl Leaving {
    /// Listens to a tap: from now on the time of its last frame is noted. Until one comes, none is known.
    ///
    /// # Errors
    /// When the kernel refuses; then the tap is not listened to.
    pub fn listen(&mut self, ifindex: u32) -> Result<(), ListenError> {
        if self.sockets.contains_key(&ifindex) {
            return Ok(());
        }
        if self.loaded.is_none() {
            let (ebpf, map) = load().map_err(locked_memory::explain)?;
            self.loaded = Some(ebpf);
            *self.last_frames.lock() = Some(map);
        }
        // ORDER: the entry has to be there before the first frame meets the program.
        self.last_frames.begin(ifindex)?;
        let socket =
            self.program()?.fd().map_err(AttachError::from).map(|program| open(program.as_fd(), ifindex));
        match socket {
            Ok(Ok(socket)) => {
                self.sockets.insert(ifindex, socket);
                Ok(())
            }
            Ok(Err((step, error))) => {
                self.last_frames.end(ifindex)?;
                Err(ListenError::Socket { step, ifindex, error })
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Listens no more, and forgets when the last frame came. It takes a grace period of RCU.
    pub fn cease(&mut self, ifindex: u32) {
        if self.sockets.remove(&ifindex).is_some()
            && let Err(error) = self.last_frames.end(ifindex)
        {
            tracing::debug!(ifindex, %error, "a tap's entry stays in the map until it is listened to again");
        }
    }

    /// The numbers of the taps that are listened to.
    pub fn taps(&self) -> impl Iterator<Item = u32> {
        self.sockets.keys().copied()
    }

    /// Reads when the last frames came.
    #[must_use]
    pub fn last_frames(&self) -> LastFrames {
        self.last_frames.clone()
    }

    fn program(&mut self) -> Result<&mut SocketFilter, AttachError> {
        let program = self.loaded.as_mut().and_then(|ebpf| ebpf.program_mut(PROGRAM_LEAVING));
        program.and_then(|it| it.try_into().ok()).ok_or(AttachError::NotLoaded(PROGRAM_LEAVING))
    }
}

impl fmt::Debug for Leaving {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Leaving").field("sockets", &self.sockets).finish_non_exhaustive()
    }
}

fn load() -> Result<(Ebpf, Map), OpenError> {
    let mut ebpf = object::load(LEAVING, |_| {})?;
    let name = PROGRAM_LEAVING;
    let Some(Program::SocketFilter(program)) = ebpf.program_mut(name) else {
        return Err(OpenError::WrongObject { name });
    };
    program.load().map_err(|error| OpenError::Program { name, error: Box::new(error) })?;
    let map = ebpf.take_map(MAP_LAST_FRAMES).ok_or(OpenError::WrongObject { name: MAP_LAST_FRAMES })?;
    Ok((ebpf, map.try_into()?))
}

/// A socket that is shown what comes from an interface, and takes none of it. The error says which step failed.
fn open(program: BorrowedFd<'_>, ifindex: u32) -> Result<OwnedFd, (&'static str, io::Error)> {
    let failed = |step| move |error| (step, error);
    // ORDER: for no protocol, so that nothing comes before the filter is there.
    // SAFETY: no memory is handed over.
    let socket = unsafe {
        libc::socket(libc::AF_PACKET, libc::SOCK_RAW | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK, 0)
    };
    let socket = checked(socket).map_err(failed("open a packet socket"))?;
    // SAFETY: the kernel has just returned it, and nobody else knows it.
    let socket = unsafe { OwnedFd::from_raw_fd(socket) };
    set_option(&socket, libc::SOL_PACKET, PACKET_IGNORE_OUTGOING, 1)
        .map_err(failed("keep what is sent away from it"))?;
    set_option(&socket, libc::SOL_SOCKET, libc::SO_ATTACH_BPF, program.as_raw_fd())
        .map_err(failed("attach the program to it"))?;
    let address = libc::sockaddr_ll {
        sll_family: libc::AF_PACKET as u16,
        sll_protocol: (libc::ETH_P_ALL as u16).to_be(),
        sll_ifindex: ifindex.cast_signed(),
        sll_hatype: 0,
        sll_pkttype: 0,
        sll_halen: 0,
        sll_addr: [0; 8],
    };
    let length = size_of_val(&address) as libc::socklen_t;
    // SAFETY: the address is one of the socket's family, with its length.
    let bound = unsafe { libc::bind(socket.as_raw_fd(), std::ptr::from_ref(&address).cast(), length) };
    checked(bound).map_err(failed("bind it to the tap"))?;
    Ok(socket)
}

fn set_option(
    socket: &OwnedFd,
    level: libc::c_int,
    option: libc::c_int,
    value: libc::c_int,
) -> io::Result<()> {
    let length = size_of_val(&value) as libc::socklen_t;
    // SAFETY: both options take an integer, which is handed over with its length.
    let result = unsafe {
        libc::setsockopt(socket.as_raw_fd(), level, option, std::ptr::from_ref(&value).cast(), length)
    };
    checked(result).map(drop)
}

fn checked(result: RawFd) -> io::Result<RawFd> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

type Map = HashMap<MapData, u32, u64>;

/// Reads when the last frames came. Cheap to clone, and waits for nobody who listens or ceases to.
#[derive(Clone, Default)]
pub struct LastFrames(Arc<Mutex<Option<Map>>>);

impl LastFrames {
    fn lock(&self) -> MutexGuard<'_, Option<Map>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// When the last frame came from a tap; nothing if it is not listened to, or none has come since it is.
    #[must_use]
    pub fn of(&self, ifindex: u32) -> Option<BootTime> {
        let read = found(self.lock().as_ref()?.get(&ifindex, 0));
        // What cannot be read is not known.
        read.ok().flatten().filter(|ns| *ns > 0).map(BootTime)
    }

    fn begin(&self, ifindex: u32) -> Result<(), MapError> {
        self.lock().as_mut().map_or(Ok(()), |map| map.insert(ifindex, 0_u64, 0))
    }

    fn end(&self, ifindex: u32) -> Result<(), MapError> {
        self.lock().as_mut().map_or(Ok(()), |map| found(map.remove(&ifindex)).map(drop))
    }
}

impl fmt::Debug for LastFrames {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("LastFrames")
    }
}
