//! What aya has no call for: asking where a pinned link is attached, detaching it at once, and making objects one at a time
//! to find out what the kernel can do.

#![expect(unsafe_code, reason = "bpf(2), where aya has no function")]

use std::ffi::CString;
use std::io;
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

// enum bpf_cmd and enum bpf_link_type of linux/bpf.h.
const BPF_MAP_CREATE: libc::c_long = 0;
const BPF_OBJ_PIN: libc::c_long = 6;
const BPF_OBJ_GET: libc::c_long = 7;
const BPF_OBJ_GET_INFO_BY_FD: libc::c_long = 15;
const BPF_BTF_LOAD: libc::c_long = 18;
const BPF_LINK_DETACH: libc::c_long = 34;
// enum bpf_map_type.
pub(super) const MAP_ARRAY: u32 = 2;
pub(super) const MAP_RINGBUF: u32 = 27;
const BPF_LINK_TYPE_XDP: u32 = 6;
const BPF_LINK_TYPE_TCX: u32 = 11;

/// What kind of link it is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum LinkKind {
    Tcx,
    Xdp,
}

/// A pinned link.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct PinnedLinkInfo {
    pub(super) kind: LinkKind,
    /// The interface; 0 when it is gone, and the link is only a pin.
    pub(super) ifindex: u32,
}

/// Head of `union bpf_attr` for BPF_MAP_CREATE.
#[repr(C)]
struct NewMap {
    kind: u32,
    key_bytes: u32,
    value_bytes: u32,
    entries_max: u32,
}

/// Head of `union bpf_attr` for BPF_BTF_LOAD.
#[repr(C)]
struct NewBtf {
    btf: u64,
    log: u64,
    btf_bytes: u32,
    log_bytes: u32,
    log_level: u32,
    /// Written by newer kernels; others want zero.
    log_true_bytes: u32,
}

/// Head of `union bpf_attr` for BPF_OBJ_GET and BPF_OBJ_PIN.
#[repr(C)]
struct ObjectPath {
    pathname: u64,
    bpf_fd: u32,
    file_flags: u32,
}

/// Head of `union bpf_attr` for BPF_OBJ_GET_INFO_BY_FD.
#[repr(C)]
struct InfoRequest {
    bpf_fd: u32,
    info_len: u32,
    info: u64,
}

/// `struct bpf_link_info` up to the fields of tcx and XDP links, whose number is in the same place.
#[repr(C)]
#[derive(Default)]
struct LinkInfo {
    kind: u32,
    id: u32,
    prog_id: u32,
    padding: u32,
    ifindex: u32,
    attach_type: u32,
}

/// Asks about the link pinned at `path`; nothing if there is no pin, or it is a link of another kind.
pub(super) fn pinned_link(path: &Path) -> io::Result<Option<PinnedLinkInfo>> {
    let Some(link) = open(path)? else { return Ok(None) };
    let mut info = LinkInfo::default();
    let request = InfoRequest {
        bpf_fd: link.as_raw_fd().cast_unsigned(),
        info_len: size_of::<LinkInfo>() as u32,
        info: &raw mut info as u64,
    };
    bpf(BPF_OBJ_GET_INFO_BY_FD, &request)?;
    let kind = match info.kind {
        BPF_LINK_TYPE_TCX => LinkKind::Tcx,
        BPF_LINK_TYPE_XDP => LinkKind::Xdp,
        _ => return Ok(None),
    };
    Ok(Some(PinnedLinkInfo { kind, ifindex: info.ifindex }))
}

/// Detaches the link pinned at `path`; the pin stays. Nothing happens if there is no link.
///
/// KERNEL: removing the pin alone detaches only after a grace period. BPF_LINK_DETACH came with Linux 5.9;
/// before, there were no links of a kind that this agent pins.
pub(super) fn detach_pinned_link(path: &Path) -> io::Result<()> {
    match open(path)? {
        Some(link) => bpf(BPF_LINK_DETACH, &link.as_raw_fd().cast_unsigned()).map(drop),
        None => Ok(()),
    }
}

/// Makes a map.
pub(super) fn create_map(
    kind: u32,
    key_bytes: u32,
    value_bytes: u32,
    entries_max: u32,
) -> io::Result<OwnedFd> {
    let descriptor = bpf(BPF_MAP_CREATE, &NewMap { kind, key_bytes, value_bytes, entries_max })?;
    // SAFETY: BPF_MAP_CREATE returns a new descriptor that nobody else knows.
    Ok(unsafe { OwnedFd::from_raw_fd(descriptor) })
}

/// Pins an object.
pub(super) fn pin(object: &OwnedFd, path: &Path) -> io::Result<()> {
    let pathname = CString::new(path.as_os_str().as_bytes())?;
    let bpf_fd = object.as_raw_fd().cast_unsigned();
    bpf(BPF_OBJ_PIN, &ObjectPath { pathname: pathname.as_ptr() as u64, bpf_fd, file_flags: 0 }).map(drop)
}

/// Hands type information to the kernel.
pub(super) fn load_btf(btf: &[u32]) -> io::Result<OwnedFd> {
    let btf_bytes = u32::try_from(size_of_val(btf)).map_err(io::Error::other)?;
    let attributes =
        NewBtf { btf: btf.as_ptr() as u64, log: 0, btf_bytes, log_bytes: 0, log_level: 0, log_true_bytes: 0 };
    let descriptor = bpf(BPF_BTF_LOAD, &attributes)?;
    // SAFETY: BPF_BTF_LOAD returns a new descriptor that nobody else knows.
    Ok(unsafe { OwnedFd::from_raw_fd(descriptor) })
}

/// Opens what is pinned at `path`, if there is a pin.
pub(super) fn open(path: &Path) -> io::Result<Option<OwnedFd>> {
    let pathname = CString::new(path.as_os_str().as_bytes())?;
    let attributes = ObjectPath { pathname: pathname.as_ptr() as u64, bpf_fd: 0, file_flags: 0 };
    match bpf(BPF_OBJ_GET, &attributes) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        // SAFETY: BPF_OBJ_GET returns a new descriptor that nobody else knows.
        descriptor => Ok(Some(unsafe { OwnedFd::from_raw_fd(descriptor?) })),
    }
}

fn bpf<T>(command: libc::c_long, attributes: &T) -> io::Result<i32> {
    // SAFETY: `attributes` is the head of `bpf_attr` for this command, with its size; the addresses in it are
    // those of values that live in the caller. The kernel takes missing fields for zero.
    let result =
        unsafe { libc::syscall(libc::SYS_bpf, command, std::ptr::from_ref(attributes), size_of::<T>()) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result as i32) }
}
