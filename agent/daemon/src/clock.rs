//! The only file of the agent that reads a clock.

#![expect(unsafe_code, reason = "adjtimex(2)")]

use cutover_engine::BootTime;
use nix::time::{ClockId, clock_gettime};
use std::time::{SystemTime, UNIX_EPOCH};
use std::{fs, io};

/// Now, on CLOCK_BOOTTIME: the clock of `bpf_ktime_get_boot_ns`.
///
/// # Panics
/// Never on Linux 2.6.39 or newer, where the clock always exists.
#[must_use]
pub fn now() -> BootTime {
    #[cfg(test)]
    if let Some(pretended) = pretended() {
        return pretended;
    }
    let time =
        clock_gettime(ClockId::CLOCK_BOOTTIME).expect("CLOCK_BOOTTIME exists on every supported kernel");
    let seconds = u64::try_from(time.tv_sec()).unwrap_or(0);
    let nanoseconds = u64::try_from(time.tv_nsec()).unwrap_or(0);
    BootTime(seconds * 1_000_000_000 + nanoseconds)
}

#[cfg(test)]
thread_local! {
    static BEGAN: std::cell::Cell<Option<tokio::time::Instant>> = const { std::cell::Cell::new(None) };
}

/// From now on this thread's time is tokio's, which a test can let pass at once.
#[cfg(test)]
pub(crate) fn follow_tokio() {
    BEGAN.set(Some(tokio::time::Instant::now()));
}

#[cfg(test)]
fn pretended() -> Option<BootTime> {
    BEGAN.get().map(|began| BootTime(1_800_000_000_000) + began.elapsed())
}

/// Wall-clock time, for people only: no decision depends on it.
#[must_use]
pub fn wall() -> SystemTime {
    SystemTime::now()
}

/// What the wall clock says about a point in time of this boot: nanoseconds since 1970. Times before a step of the
/// wall clock are shown as if it had been right already.
#[must_use]
pub fn wall_unix_ns(at: BootTime) -> u64 {
    let (now, wall) = (now(), wall().duration_since(UNIX_EPOCH).unwrap_or_default());
    let then = (wall + at.since(now)).saturating_sub(now.since(at));
    u64::try_from(then.as_nanos()).unwrap_or(u64::MAX)
}

/// By how many nanoseconds the wall clock may be wrong, as whoever keeps it right has told the kernel; nothing if nobody does.
#[must_use]
pub fn wall_error_ns() -> Option<u64> {
    // SAFETY: every field is an integer; zero `modes` say that nothing is to be changed.
    let mut state: libc::timex = unsafe { std::mem::zeroed() };
    // SAFETY: the kernel writes within the structure, which outlives the call.
    let result = unsafe { libc::adjtimex(&raw mut state) };
    let follows = result >= 0 && result != libc::TIME_ERROR && state.status & libc::STA_UNSYNC == 0;
    let error_us = u64::try_from(state.maxerror).ok().filter(|_| follows);
    error_us.map(|us| us.saturating_mul(1_000))
}

/// Which boot the boot clock counts from.
///
/// # Errors
/// /proc is not there, or not readable.
pub fn boot_id() -> io::Result<String> {
    Ok(fs::read_to_string("/proc/sys/kernel/random/boot_id")?.trim().to_owned())
}

/// Sleeps until then, or for good.
pub(crate) async fn sleep_until(at: Option<BootTime>) {
    match at {
        Some(at) => tokio::time::sleep(at.since(now())).await,
        None => std::future::pending().await,
    }
}

/// Wall-clock time as other programs read it: RFC 3339, UTC, to the second.
#[must_use]
pub fn wall_text() -> String {
    rfc3339(wall().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs()))
}

/// RFC 3339 of seconds since 1970, every day of which has 86400 (POSIX time knows no leap seconds).
#[must_use]
pub fn rfc3339(unix_s: u64) -> String {
    let (mut days, second_of_day) = (unix_s / 86_400, unix_s % 86_400);
    let is_leap =
        |year: u64| year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400));
    let mut year = 1970;
    while days >= 365 + u64::from(is_leap(year)) {
        days -= 365 + u64::from(is_leap(year));
        year += 1;
    }
    let february = 28 + u64::from(is_leap(year));
    let mut month = 1;
    for length in [31, february, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31] {
        if days < length {
            break;
        }
        days -= length;
        month += 1;
    }
    let (hour, minute, second) = (second_of_day / 3600, second_of_day / 60 % 60, second_of_day % 60);
    format!("{year:04}-{month:02}-{:02}T{hour:02}:{minute:02}:{second:02}Z", days + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Values of `date -u -d @<seconds>`.
    #[test]
    fn known_times() {
        for (unix_s, expected) in [
            (0, "1970-01-01T00:00:00Z"),
            (951_782_399, "2000-02-28T23:59:59Z"),
            (951_782_400, "2000-02-29T00:00:00Z"),
            (1_709_210_096, "2024-02-29T12:34:56Z"),
            (1_767_225_599, "2025-12-31T23:59:59Z"),
            (1_767_225_600, "2026-01-01T00:00:00Z"),
            (4_107_542_400, "2100-03-01T00:00:00Z"),
        ] {
            assert_eq!(rfc3339(unix_s), expected);
        }
    }

    #[test]
    fn wall_time_of_this_boot_is_as_far_away_as_boot_time() {
        let (now, second_ns) = (now(), 1_000_000_000);
        let [before, after] = [now.0 - second_ns, now.0 + second_ns].map(|at| wall_unix_ns(BootTime(at)));
        // Between reading the one clock and the other somebody else may have had the processor.
        assert!((after - before).abs_diff(2 * second_ns) < second_ns, "{before} {after}");
        let wall_ns = wall().duration_since(UNIX_EPOCH).unwrap().as_nanos();
        assert!(u128::from(before) < wall_ns);
    }
}
