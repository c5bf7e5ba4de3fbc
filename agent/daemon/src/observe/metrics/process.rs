//! What the kernel says about this process.

use crate::clock;
use std::fs;

/// One look at it.
#[derive(Clone, Copy, PartialEq, Debug, Default)]
pub(super) struct Process {
    /// Seconds since 1970.
    pub(super) started_at_s: f64,
    pub(super) cpu_s: f64,
    pub(super) resident_bytes: f64,
    pub(super) open_files: f64,
}

/// Nothing if /proc is not there.
pub(super) fn look() -> Option<Process> {
    let stat = fs::read_to_string("/proc/self/stat").ok()?;
    let statm = fs::read_to_string("/proc/self/statm").ok()?;
    let open_files = fs::read_dir("/proc/self/fd").ok()?.count();
    let (ticks_a_second, page_bytes) =
        (sysconf(nix::unistd::SysconfVar::CLK_TCK)?, sysconf(nix::unistd::SysconfVar::PAGE_SIZE)?);
    // KERNEL: fields are counted from the state, the third one, because the name before it may have blanks (proc_pid_stat(5)).
    let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
    let field = |number: usize| fields.get(number - 3)?.parse::<f64>().ok();
    let (user, system, started) = (field(14)?, field(15)?, field(22)?);
    // KERNEL: times of processes count from the boot, on the clock that goes on while the host sleeps.
    let started_at = cutover_engine::BootTime((started / ticks_a_second * 1e9) as u64);
    Some(Process {
        started_at_s: seconds(clock::wall_unix_ns(started_at)),
        cpu_s: (user + system) / ticks_a_second,
        resident_bytes: statm.split_whitespace().nth(1)?.parse::<f64>().ok()? * page_bytes,
        open_files: count(open_files),
    })
}

fn sysconf(variable: nix::unistd::SysconfVar) -> Option<f64> {
    let value = nix::unistd::sysconf(variable).ok()??;
    i32::try_from(value).ok().map(f64::from)
}

fn seconds(ns: u64) -> f64 {
    ns as f64 / 1e9
}

const fn count(number: usize) -> f64 {
    number as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_is_young_small_and_has_files() {
        let process = look().expect("/proc is there");
        let now = clock::wall().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs_f64();
        assert!((now - 86_400.0..=now + 1.0).contains(&process.started_at_s), "{process:?}");
        assert!(process.resident_bytes > 1e6 && process.open_files >= 3.0, "{process:?}");
        assert!(process.cpu_s >= 0.0 && process.cpu_s < 86_400.0, "{process:?}");
    }
}
