//! The only file of the agent that reads a clock.

use cutover_engine::BootTime;
use nix::time::{ClockId, clock_gettime};

/// Now, on CLOCK_BOOTTIME: the clock of `bpf_ktime_get_boot_ns`.
///
/// # Panics
/// Never on Linux 2.6.39 or newer, where the clock always exists.
#[must_use]
pub fn now() -> BootTime {
    let time =
        clock_gettime(ClockId::CLOCK_BOOTTIME).expect("CLOCK_BOOTTIME exists on every supported kernel");
    let seconds = u64::try_from(time.tv_sec()).unwrap_or(0);
    let nanoseconds = u64::try_from(time.tv_nsec()).unwrap_or(0);
    BootTime(seconds * 1_000_000_000 + nanoseconds)
}

/// Wall-clock time, for people only: no decision depends on it.
#[must_use]
pub fn wall() -> std::time::SystemTime {
    std::time::SystemTime::now()
}
