//! For how long a process has waited for a processor: time in which the machine had other things to do, and in which nobody can expect
//! anything of it. Looks at one process and changes nothing.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::time::Duration;

/// A measurement that goes on.
#[derive(Clone, Debug)]
pub struct Starved {
    pid: i32,
    /// What each of its threads had waited before.
    before: BTreeMap<String, Duration>,
}

impl Starved {
    /// Of a process, from now on.
    #[must_use]
    pub fn from_now_on(pid: i32) -> Self {
        Self { pid, before: waited(pid) }
    }

    /// How long that thread of it has waited that did so longest. Nothing where it has ended, and on a kernel that does not count
    /// (`CONFIG_SCHED_INFO`).
    #[must_use]
    pub fn time(&self) -> Duration {
        let now = waited(self.pid).into_iter();
        let since = |(thread, waited): (String, Duration)| {
            waited.saturating_sub(self.before.get(&thread).copied().unwrap_or_default())
        };
        now.map(since).max().unwrap_or_default()
    }
}

/// What each thread has waited since it began.
fn waited(pid: i32) -> BTreeMap<String, Duration> {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    let of = |path: &Path| run_delay(&fs::read_to_string(path.join("schedstat")).ok()?);
    tasks
        .filter_map(|task| Some((task.file_name().to_string_lossy().into_owned(), of(&task.path())?)))
        .collect()
}

/// KERNEL: time on a processor, time that it waited for one, both in nanoseconds, and how often it got one
/// (Documentation/scheduler/sched-stats.rst).
fn run_delay(schedstat: &str) -> Option<Duration> {
    schedstat.split_whitespace().nth(1)?.parse().ok().map(Duration::from_nanos)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{processors, wait};
    use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
    use std::thread;

    #[test]
    fn the_second_number_is_what_it_waited() {
        assert_eq!(run_delay("3 88365 1\n"), Some(Duration::from_nanos(88_365)));
        assert_eq!(run_delay(""), None);
        assert_eq!(Starved::from_now_on(i32::MAX).time(), Duration::ZERO, "no such process");
    }

    #[test]
    fn who_shares_a_processor_waits_for_it() {
        let stop = AtomicBool::new(false);
        let pid = std::process::id().cast_signed();
        thread::scope(|scope| {
            let starved = Starved::from_now_on(pid);
            for _ in 0..2 {
                scope.spawn(|| {
                    processors::stay_on(&processors::first());
                    while !stop.load(Relaxed) {
                        std::hint::spin_loop();
                    }
                });
            }
            let is_seen = wait::holds_within(wait::SOON, || starved.time() >= Duration::from_millis(20));
            stop.store(true, Relaxed);
            assert!(is_seen, "{:?}", starved.time());
        });
    }
}
