//! The few bpf(2) commands that measuring a program takes: to load an empty one, to open a pinned one, to run one.

#![expect(unsafe_code, reason = "bpf(2)")]

use nix::time::{ClockId, clock_gettime};
use std::ffi::CString;
use std::io;
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd};
use std::path::Path;
use std::time::Duration;

/// Numbers of commands and program types in linux/bpf.h.
const BPF_PROG_LOAD: libc::c_long = 5;
const BPF_OBJ_GET: libc::c_long = 7;
const BPF_PROG_TEST_RUN: libc::c_long = 10;
const BPF_PROG_TYPE_SCHED_CLS: u32 = 3;
const BPF_PROG_TYPE_XDP: u32 = 6;

/// Where a program is attached.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Hook {
    Tc,
    Xdp,
}

impl Hook {
    const fn program_type(self) -> u32 {
        match self {
            Self::Tc => BPF_PROG_TYPE_SCHED_CLS,
            Self::Xdp => BPF_PROG_TYPE_XDP,
        }
    }

    /// What lets a frame pass: TC_ACT_UNSPEC and XDP_PASS.
    pub(crate) const fn pass(self) -> i32 {
        match self {
            Self::Tc => -1,
            Self::Xdp => 2,
        }
    }
}

/// A program of two instructions: r0 = `pass`; exit.
pub(crate) fn load_empty(hook: Hook) -> io::Result<OwnedFd> {
    #[repr(C)]
    struct Attributes {
        program_type: u32,
        instruction_count: u32,
        instructions: u64,
        licence: u64,
    }
    let value = u64::from(hook.pass().cast_unsigned());
    let instructions: [u64; 2] = [0xb7 | value << 32, 0x95];
    let licence = c"Dual MIT/GPL";
    let attributes = Attributes {
        program_type: hook.program_type(),
        instruction_count: 2,
        instructions: instructions.as_ptr() as u64,
        licence: licence.as_ptr() as u64,
    };
    bpf(BPF_PROG_LOAD, &mut { attributes }).and_then(own)
}

/// The program that is pinned at `path`.
pub(crate) fn open_pinned(path: &Path) -> io::Result<OwnedFd> {
    #[repr(C)]
    struct Attributes {
        path: u64,
        descriptor: u32,
        flags: u32,
    }
    let path = CString::new(path.as_os_str().as_encoded_bytes())?;
    let mut attributes = Attributes { path: path.as_ptr() as u64, descriptor: 0, flags: 0 };
    bpf(BPF_OBJ_GET, &mut attributes).and_then(own)
}

/// What one call of [`run`] found.
pub(crate) struct Run {
    /// What the program returned the last time.
    pub(crate) returned: i32,
    /// Processor time of the calling thread for all runs.
    pub(crate) took: Duration,
}

/// Runs a program `repeat` times on a frame, in one system call.
pub(crate) fn run(program: &OwnedFd, frame: &[u8], repeat: u32) -> io::Result<Run> {
    #[repr(C)]
    #[derive(Default)]
    struct Attributes {
        program: u32,
        returned: u32,
        data_in_bytes: u32,
        data_out_bytes: u32,
        data_in: u64,
        data_out: u64,
        repeat: u32,
        duration_ns: u32,
    }
    let mut attributes = Attributes {
        program: program.as_raw_fd().cast_unsigned(),
        data_in_bytes: u32::try_from(frame.len()).map_err(io::Error::other)?,
        data_in: frame.as_ptr() as u64,
        repeat,
        ..Attributes::default()
    };
    // The kernel's own figure is in whole nanoseconds for one run, which is too coarse.
    let before = processor_time()?;
    bpf(BPF_PROG_TEST_RUN, &mut attributes)?;
    let took = processor_time()? - before;
    Ok(Run { returned: attributes.returned.cast_signed(), took })
}

fn processor_time() -> io::Result<Duration> {
    Ok(clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID)?.into())
}

fn bpf<A>(command: libc::c_long, attributes: &mut A) -> io::Result<i32> {
    // SAFETY: `A` are the first fields that this command has in `union bpf_attr`, the kernel takes the rest for
    // zero, and what they point to outlives the call.
    let result =
        unsafe { libc::syscall(libc::SYS_bpf, command, std::ptr::from_mut(attributes), size_of::<A>()) };
    if result < 0 { Err(io::Error::last_os_error()) } else { i32::try_from(result).map_err(io::Error::other) }
}

fn own(descriptor: i32) -> io::Result<OwnedFd> {
    // SAFETY: called with what the kernel just returned as a new descriptor.
    Ok(unsafe { OwnedFd::from_raw_fd(descriptor) })
}
