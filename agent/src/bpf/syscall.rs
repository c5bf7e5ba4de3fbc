//! Two things about pinned links for which aya has no call: asking where they are attached, and detaching them
//! at once.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

// enum bpf_cmd and enum bpf_link_type of linux/bpf.h.
const BPF_OBJ_GET: libc::c_long = 7;
const BPF_OBJ_GET_INFO_BY_FD: libc::c_long = 15;
const BPF_LINK_DETACH: libc::c_long = 34;
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

/// Head of `union bpf_attr` for BPF_OBJ_GET.
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

fn open(path: &Path) -> io::Result<Option<OwnedFd>> {
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
