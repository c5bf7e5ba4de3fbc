//! The kernel object: the copies embedded in the agent, and the programs once they are loaded.

use super::error::OpenError;
use super::layout::MAPS;
use super::locked_memory;
use super::pins::{self, Pins};
use super::syscall;
use crate::allocator;
use aya::maps::Map;
use aya::programs::{Program, SchedClassifier, Xdp};
use aya::{Ebpf, EbpfLoader};
use aya_log::EbpfLogger;
use cutover_common::names::{PROGRAM_TC, PROGRAM_XDP};
use log::Log;
use std::fmt;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};

/// The kernel object as it is loaded unless the agent logs at debug.
pub static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/cutover-ebpf"));
/// The same with log lines.
static LOGGING: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/cutover-ebpf-debug"));
/// The programs of the tunnel.
pub(super) static TUNNEL: &[u8] =
    aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/cutover-ebpf-tunnel"));
/// The program of a tap that is about to be left.
pub static LEAVING: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/cutover-ebpf-leaving"));

/// Makes the maps of an object, and gets its programs ready to be loaded.
///
/// A new [`EbpfLoader`] (aya 0.14) reads the types of the whole kernel, needed or not: many small pieces, some 20 MB of them for a moment, which the
/// allocator would keep.
pub(super) fn load(bytes: &[u8], configure: impl FnOnce(&mut EbpfLoader<'_>)) -> Result<Ebpf, OpenError> {
    let mut loader = EbpfLoader::new();
    configure(&mut loader);
    let loaded = loader.load(bytes).map_err(|error| OpenError::Object(Box::new(error)));
    drop(loader);
    allocator::give_back();
    loaded
}

pub(super) struct Object {
    ebpf: Ebpf,
    log: Option<KernelLog>,
}

impl Object {
    /// Loads both programs, with the maps that are pinned or new ones, which are pinned then.
    pub(super) fn load(pins: &Pins, debug_log: bool) -> Result<Self, OpenError> {
        let pin = |loader: &mut EbpfLoader<'_>| {
            for name in MAPS {
                loader.map_pin_path(name, pins.map(name));
            }
        };
        Self::try_load(pin, debug_log).map_err(locked_memory::explain)
    }

    /// The same with maps of its own, which go with it.
    pub(super) fn load_unpinned() -> Result<Self, OpenError> {
        Self::try_load(|_| {}, false).map_err(locked_memory::explain)
    }

    fn try_load(configure: impl FnOnce(&mut EbpfLoader<'_>), debug_log: bool) -> Result<Self, OpenError> {
        let bytes = if debug_log { LOGGING } else { OBJECT };
        let mut ebpf = load(bytes, configure)?;
        let refused = |name| move |error| OpenError::Program { name, error: Box::new(error) };
        tc_of(&mut ebpf)?.load().map_err(refused(PROGRAM_TC))?;
        xdp_of(&mut ebpf)?.load().map_err(refused(PROGRAM_XDP))?;
        let log = if debug_log { Some(KernelLog { logger: EbpfLogger::init(&mut ebpf)? }) } else { None };
        Ok(Self { ebpf, log })
    }

    /// The pinned maps, kept open to pin them again.
    pub(super) fn open_pinned_maps(pins: &Pins) -> Result<Vec<(&'static str, OwnedFd)>, OpenError> {
        let open = |name| {
            let path = pins.map(name);
            let failed = |error| OpenError::Pins { step: "cannot open", path: path.clone(), error };
            let map = syscall::open(&path).map_err(failed)?;
            map.map(|map| (name, map)).ok_or_else(|| failed(io::ErrorKind::NotFound.into()))
        };
        MAPS.into_iter().map(open).collect()
    }

    /// Whether everything that is pinned by a fixed name is where it was.
    pub(super) fn is_pinned(pins: &Pins) -> bool {
        let maps = MAPS.into_iter().map(|name| pins.map(name));
        let programs = [PROGRAM_TC, PROGRAM_XDP].map(|name| pins.program(name));
        maps.chain(programs).chain(pins.folders()).all(|path| path.exists())
    }

    /// Pins the programs in the place of those of an earlier agent.
    pub(super) fn pin(&mut self, pins: &Pins) -> Result<(), OpenError> {
        for name in [PROGRAM_TC, PROGRAM_XDP] {
            let path = pins.program(name);
            pins::remove(&path).map_err(|error| OpenError::Pins {
                step: "cannot remove",
                path: path.clone(),
                error,
            })?;
            let program = self.ebpf.program_mut(name).ok_or(OpenError::WrongObject { name })?;
            program.pin(&path).map_err(|error| OpenError::Pin { path, error })?;
        }
        Ok(())
    }

    pub(super) fn tc(&mut self) -> Option<&mut SchedClassifier> {
        tc_of(&mut self.ebpf).ok()
    }

    pub(super) fn xdp(&mut self) -> Option<&mut Xdp> {
        xdp_of(&mut self.ebpf).ok()
    }

    pub(super) fn take_map(&mut self, name: &'static str) -> Result<Map, OpenError> {
        self.ebpf.take_map(name).ok_or(OpenError::WrongObject { name })
    }

    pub(super) fn take_log(&mut self) -> Option<KernelLog> {
        self.log.take()
    }
}

impl fmt::Debug for Object {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Object").field("log", &self.log.is_some()).finish_non_exhaustive()
    }
}

fn tc_of(ebpf: &mut Ebpf) -> Result<&mut SchedClassifier, OpenError> {
    match ebpf.program_mut(PROGRAM_TC) {
        Some(Program::SchedClassifier(program)) => Ok(program),
        _ => Err(OpenError::WrongObject { name: PROGRAM_TC }),
    }
}

fn xdp_of(ebpf: &mut Ebpf) -> Result<&mut Xdp, OpenError> {
    match ebpf.program_mut(PROGRAM_XDP) {
        Some(Program::Xdp(program)) => Ok(program),
        _ => Err(OpenError::WrongObject { name: PROGRAM_XDP }),
    }
}

/// Log lines of the kernel program. Its descriptor is readable when there are some.
pub struct KernelLog {
    logger: EbpfLogger<&'static dyn Log>,
}

impl KernelLog {
    /// Hands every waiting line to the logger of the process.
    pub fn flush(&mut self) {
        self.logger.flush();
    }
}

impl AsRawFd for KernelLog {
    fn as_raw_fd(&self) -> RawFd {
        self.logger.as_fd().as_raw_fd()
    }
}

impl AsFd for KernelLog {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.logger.as_fd()
    }
}

impl fmt::Debug for KernelLog {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("KernelLog")
    }
}
