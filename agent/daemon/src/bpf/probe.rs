//! Trying out once what the agent will do, for `cutover doctor`.
//!
//! Asks the kernel itself, because distributions carry features back and versions say little. What is tried leaves nothing
//! behind: objects go with their descriptors, attaching is tried in a network namespace made for it, and the one pin is
//! removed at once.

use super::attach::{Attach, Attacher, Attachment};
use super::error::OpenError;
use super::locked_memory;
use super::object::Object;
use super::pins::{self, Pins};
use super::syscall::{self, MAP_ARRAY, MAP_RINGBUF};
use nix::sched::{CloneFlags, unshare};
use nix::unistd::Uid;
use std::io;
use std::path::Path;

/// Whether the kernel makes a ring buffer.
///
/// # Errors
/// What it says instead: EINVAL if it has none (before Linux 5.8), EPERM without the privilege.
pub fn ring_buffer() -> io::Result<()> {
    // LIMIT: the kernel wants a power of two of whole pages; 64 KiB is one for every page size.
    syscall::create_map(MAP_RINGBUF, 0, 0, 64 * 1024).map(drop)
}

/// Whether the kernel accepts both programs and all maps.
///
/// # Errors
/// What it does not accept, and why.
pub fn programs() -> Result<(), OpenError> {
    Object::load_unpinned().map(drop)
}

/// Attaches the program to an interface that nobody else sees, in the way that `attach` asks for, and says which one that is.
///
/// # Errors
/// The kernel refuses, or this process may not make network namespaces.
pub fn attaching(attach: Attach) -> Result<Attachment, OpenError> {
    let attempt = || {
        unshare(CloneFlags::CLONE_NEWNET).map_err(|error| OpenError::Namespace { error: error.into() })?;
        let mut object = Object::load_unpinned()?;
        let attacher = Attacher::choose(attach)?;
        attacher.try_on(&mut object, LOOPBACK).map_err(|error| OpenError::TakeOver {
            object: "the loopback of a new network namespace".to_owned(),
            error,
        })?;
        Ok(attacher.attachment())
    };
    // The namespace is the thread's, and goes with it.
    std::thread::scope(|scope| match scope.spawn(attempt).join() {
        Ok(result) => result,
        Err(panic) => std::panic::resume_unwind(panic),
    })
}

/// KERNEL: the first interface of every network namespace.
const LOOPBACK: (&str, u32) = ("lo", 1);

/// Whether something can be pinned where `pin_path` will be.
///
/// # Errors
/// It is not in a BPF file system, somebody else than root can change what is there, or nothing can be pinned there.
pub fn pinning(pin_path: &Path) -> Result<(), OpenError> {
    Pins::check(pin_path)?;
    // The agent runs as root, whoever asks here.
    Pins::at(pin_path).check_owners(Uid::from_raw(0))?;
    let Some(folder) = pin_path.ancestors().find(|path| path.is_dir()) else {
        return Err(OpenError::NoBpffs { path: pin_path.to_owned() });
    };
    let path = folder.join(format!("cutover_doctor_{}", std::process::id()));
    let failed = |step| {
        let path = path.clone();
        move |error| OpenError::Pins { step, path, error }
    };
    let map = syscall::create_map(MAP_ARRAY, 4, 4, 1).map_err(failed("cannot make a map for"))?;
    syscall::pin(&map, &path).map_err(failed("cannot pin"))?;
    pins::remove(&path).map_err(failed("cannot remove"))
}

/// Whether the kernel takes type information along with maps and programs, so that bpftool can print them with names.
///
/// # Errors
/// What it says instead.
pub fn type_information() -> io::Result<()> {
    syscall::load_btf(&INTEGER_TYPE).map(drop)
}

/// BTF of the smallest kind: one integer type (linux/btf.h), in native byte order.
const INTEGER_TYPE: [u32; 11] = {
    const MAGIC_VERSION_FLAGS: [u8; 4] =
        if cfg!(target_endian = "little") { [0x9f, 0xeb, 1, 0] } else { [0xeb, 0x9f, 1, 0] };
    const STRINGS: [u8; 4] = [0, b'i', 0, 0];
    const HEADER_BYTES: u32 = 24;
    const KIND_INTEGER: u32 = 1 << 24;
    [
        u32::from_ne_bytes(MAGIC_VERSION_FLAGS),
        HEADER_BYTES,
        // Types: where, how many bytes; strings: the same.
        0,
        16,
        16,
        4,
        // Name at 1, kind, bytes, 32 bits.
        1,
        KIND_INTEGER,
        4,
        32,
        u32::from_ne_bytes(STRINGS),
    ]
};

/// Raises the limit of locked memory as far as this process may, as loading the programs does where it matters, so that what is tried
/// here does not fail where the agent would not.
pub fn raise_locked_memory() {
    locked_memory::raise();
}

/// Whether the kernel counts maps as locked memory (before Linux 5.11), so that RLIMIT_MEMLOCK matters.
///
/// # Errors
/// When that cannot be found out.
pub fn maps_are_locked_memory() -> io::Result<bool> {
    locked_memory::is_counted()
}
