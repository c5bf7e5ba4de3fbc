//! What the kernel programs cost a frame that is no announcement, next to programs that do nothing.
//!
//! Runs them by BPF_PROG_TEST_RUN, a million times in one call, with no watch armed for the interface: what a
//! guest pays for its ordinary traffic while it is watched; and the one of a tap that is about to be left as it does all of its work, for
//! each frame, with a program in its place that refuses the socket every frame as well. Attaches nothing. Called by the bench and by a test
//! that holds the limit.

#![expect(unsafe_code, reason = "bpf(2)")]

use anyhow::Context as _;
use aya::maps::HashMap;
use aya::programs::{SchedClassifier, SocketFilter, Xdp};
use aya::{Ebpf, EbpfLoader};
use cutover_common::names::{MAP_LAST_FRAMES, PROGRAM_LEAVING, PROGRAM_TC, PROGRAM_XDP};
use cutover_daemon::bpf::{LEAVING, OBJECT};
use std::io;
use std::os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd};

/// LIMIT: the most that the kernel averages over.
const REPEAT: u32 = 1_000_000;
/// Each program runs this often, in turns with the other. The best time counts: noise only ever adds.
const ROUNDS: u32 = 9;

// linux/bpf.h: enum bpf_cmd, enum bpf_prog_type, and the opcodes of `r0 = immediate` and `exit`.
const BPF_PROG_LOAD: libc::c_long = 5;
const BPF_PROG_TEST_RUN: libc::c_long = 10;
pub(crate) const CLASSIFIER: u32 = 3;
pub(crate) const XDP: u32 = 6;
const SOCKET_FILTER: u32 = 1;
const LOOPBACK: u32 = 1;
const PROGRAM_TYPES: [u32; 2] = [CLASSIFIER, XDP];
const MOVE_TO_R0: u64 = 0xb7;
const EXIT: u64 = 0x95;

/// One comparison.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Cost {
    /// `cutover_tc`, `cutover_xdp` or `cutover_leaving`.
    pub program: &'static str,
    /// What kind of frame.
    pub frame: &'static str,
    /// One run of a program of the same type that returns at once, in whole nanoseconds.
    pub empty_ns: u32,
    /// One run of ours, in whole nanoseconds.
    pub ours_ns: u32,
}

impl Cost {
    /// How many times the empty program.
    #[must_use]
    pub fn ratio(&self) -> f64 {
        f64::from(self.ours_ns) / f64::from(self.empty_ns)
    }
}

/// Measures both programs with each kind of ordinary frame.
///
/// # Errors
/// Without the privilege to load programs.
pub fn measure() -> anyhow::Result<Vec<Cost>> {
    let mut ebpf = Ebpf::load(OBJECT)?;
    let mut costs = Vec::new();
    for (program, program_type, result) in
        [(PROGRAM_TC, PROGRAM_TYPES[0], -1), (PROGRAM_XDP, PROGRAM_TYPES[1], 2)]
    {
        let empty = load_empty(program_type, result)?;
        let ours = load_ours(&mut ebpf, program)?;
        for (frame, bytes) in ordinary_frames() {
            let [empty_ns, ours_ns] = best_of([&empty, &ours], &bytes)?;
            costs.push(Cost { program, frame, empty_ns, ours_ns });
        }
    }
    let mut leaving = EbpfLoader::new().load(LEAVING)?;
    // KERNEL: a frame of such a run comes from the loopback of the caller's namespace (bpf_prog_test_run_skb).
    let mut last_frames: HashMap<_, u32, u64> =
        leaving.take_map(MAP_LAST_FRAMES).context("no map")?.try_into()?;
    last_frames.insert(LOOPBACK, 0_u64, 0)?;
    let empty = load_empty(SOCKET_FILTER, 0)?;
    let ours = load_ours(&mut leaving, PROGRAM_LEAVING)?;
    for (frame, bytes) in ordinary_frames() {
        let [empty_ns, ours_ns] = best_of([&empty, &ours], &bytes)?;
        costs.push(Cost { program: PROGRAM_LEAVING, frame, empty_ns, ours_ns });
    }
    anyhow::ensure!(last_frames.get(&LOOPBACK, 0)? > 0, "{PROGRAM_LEAVING} has noted nothing");
    Ok(costs)
}

fn best_of(programs: [&OwnedFd; 2], frame: &[u8]) -> io::Result<[u32; 2]> {
    let mut best = [u32::MAX; 2];
    for _ in 0..ROUNDS {
        for (best, program) in best.iter_mut().zip(programs) {
            *best = run(program.as_fd(), frame)?.min(*best);
        }
    }
    Ok(best)
}

fn load_ours(ebpf: &mut Ebpf, name: &str) -> anyhow::Result<OwnedFd> {
    let program = ebpf.program_mut(name).ok_or_else(|| anyhow::anyhow!("no {name} in the object"))?;
    match name {
        PROGRAM_TC => <&mut SchedClassifier>::try_from(&mut *program)?.load()?,
        PROGRAM_LEAVING => <&mut SocketFilter>::try_from(&mut *program)?.load()?,
        _ => <&mut Xdp>::try_from(&mut *program)?.load()?,
    }
    Ok(program.fd()?.as_fd().try_clone_to_owned()?)
}

/// What a guest sends all day.
fn ordinary_frames() -> [(&'static str, Vec<u8>); 4] {
    let ethernet = |ether_type: &[u8], content: &[u8]| {
        let mut frame = [&[0xfe; 6], &[0xfa; 6], ether_type, content].concat();
        frame.resize(120, 0);
        frame
    };
    let mut ipv4 = [0; 20];
    (ipv4[0], ipv4[9]) = (0x45, 6);
    let mut ipv6 = [0; 40];
    (ipv6[0], ipv6[6]) = (0x60, 6);
    let question = [
        0, 1, 8, 0, 6, 4, 0, 1, 0xfa, 0xfa, 0xfa, 0xfa, 0xfa, 0xfa, 10, 0, 0, 1, 0, 0, 0, 0, 0, 0, 10, 0, 0,
        2,
    ];
    [
        ("TCP over IPv4", ethernet(&[0x08, 0x00], &ipv4)),
        ("TCP over IPv6", ethernet(&[0x86, 0xdd], &ipv6)),
        ("TCP over IPv4, 802.1Q", ethernet(&[0x81, 0x00, 0, 7, 0x08, 0x00], &ipv4)),
        ("ARP question", ethernet(&[0x08, 0x06], &question)),
    ]
}

/// Head of `union bpf_attr` for BPF_PROG_LOAD.
#[repr(C)]
struct LoadRequest {
    program_type: u32,
    instruction_count: u32,
    instructions: u64,
    license: u64,
}

/// Head of `union bpf_attr` for BPF_PROG_TEST_RUN.
#[repr(C)]
#[derive(Default)]
struct RunRequest {
    program: u32,
    result: u32,
    data_in_bytes: u32,
    data_out_bytes: u32,
    data_in: u64,
    data_out: u64,
    repeat: u32,
    duration_ns: u32,
}

/// A program of two instructions: it returns `result`.
pub(crate) fn load_empty(program_type: u32, result: i32) -> io::Result<OwnedFd> {
    let instructions = [MOVE_TO_R0 | u64::from(result.cast_unsigned()) << 32, EXIT];
    let mut request = LoadRequest {
        program_type,
        instruction_count: 2,
        instructions: instructions.as_ptr() as u64,
        license: c"GPL".as_ptr() as u64,
    };
    let descriptor = bpf(BPF_PROG_LOAD, &mut request)?;
    // SAFETY: BPF_PROG_LOAD returns a new descriptor that nobody else knows.
    Ok(unsafe { OwnedFd::from_raw_fd(descriptor) })
}

/// The time of one run, as the kernel averages it over [`REPEAT`] of them.
///
/// KERNEL: the time of the whole call says nothing about an XDP program, because it waits for a grace period.
fn run(program: BorrowedFd<'_>, frame: &[u8]) -> io::Result<u32> {
    let mut request = RunRequest {
        program: program.as_raw_fd().cast_unsigned(),
        data_in_bytes: frame.len() as u32,
        data_in: frame.as_ptr() as u64,
        repeat: REPEAT,
        ..RunRequest::default()
    };
    bpf(BPF_PROG_TEST_RUN, &mut request)?;
    Ok(request.duration_ns)
}

pub(crate) fn bpf<T>(command: libc::c_long, request: &mut T) -> io::Result<i32> {
    // SAFETY: `request` is the head of `bpf_attr` for this command, with its size; the addresses in it are those
    // of values that live in the caller. The kernel writes answers into fields within that size.
    let result =
        unsafe { libc::syscall(libc::SYS_bpf, command, std::ptr::from_mut(request), size_of::<T>()) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result as i32) }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// LIMIT: what reading the clock and looking into a map is to what does nothing: 3.3 where it was measured.
    const LEAVING_RATIO_MAX: u32 = 6;

    #[test]
    fn an_ordinary_frame_costs_at_most_twice_an_empty_program() {
        let costs = measure().unwrap();
        for cost in costs.iter().filter(|cost| cost.program == PROGRAM_LEAVING) {
            // It reads the clock and writes the time, each time.
            assert!(cost.empty_ns > 0 && cost.ours_ns <= LEAVING_RATIO_MAX * cost.empty_ns + 1, "{cost:?}");
        }
        for cost in costs.iter().filter(|cost| cost.program != PROGRAM_LEAVING) {
            // The kernel cuts to whole nanoseconds: one may be missing from the time of the empty program.
            assert!(cost.empty_ns > 0 && cost.ours_ns <= 2 * cost.empty_ns + 1, "{cost:?}");
        }
    }
}
