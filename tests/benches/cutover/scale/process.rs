//! What a process has used, from /proc.

#![expect(unsafe_code, reason = "clock_getcpuclockid(3)")]

use anyhow::{Context as _, Result, ensure};
use cutover_tests::Agent;
use std::fs;
use std::time::Duration;

/// What an agent has used so far.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Usage {
    /// On a processor, all threads together.
    pub(crate) cpu: Duration,
    /// Of its memory.
    pub(crate) resident_mib: f64,
}

impl Usage {
    pub(crate) fn of(agent: &Agent) -> Result<Self> {
        let pid = agent.pid().context("the agent is running")?;
        let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
        let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("VmRSS")?;
        let kib: f64 = resident.trim().trim_end_matches(" kB").parse()?;
        Ok(Self { cpu: cpu(pid)?, resident_mib: kib / 1024.0 })
    }
}

/// KERNEL: the processor clock of a process counts nanoseconds, also those of threads that have ended.
fn cpu(pid: i32) -> Result<Duration> {
    let (mut clock, mut time) = (0, libc::timespec { tv_sec: 0, tv_nsec: 0 });
    // SAFETY: it writes to one variable, which lives until it returns.
    let found = unsafe { libc::clock_getcpuclockid(pid, &raw mut clock) };
    // SAFETY: as above.
    let read = unsafe { libc::clock_gettime(clock, &raw mut time) };
    ensure!(found == 0 && read == 0, "no processor clock of process {pid}");
    Ok(Duration::new(u64::try_from(time.tv_sec)?, u32::try_from(time.tv_nsec)?))
}
