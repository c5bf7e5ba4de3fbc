//! Which processors a thread runs on.

use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::unistd::Pid;
use std::time::Duration;

const MYSELF: Pid = Pid::from_raw(0);

/// The first one of those that the calling thread may run on.
///
/// # Panics
/// When the kernel does not say.
#[must_use]
pub fn first() -> CpuSet {
    only(|position| position == 0)
}

/// All others, or the first one if there is no other.
///
/// # Panics
/// When the kernel does not say.
#[must_use]
pub fn others() -> CpuSet {
    let others = only(|position| position > 0);
    if others == CpuSet::new() { first() } else { others }
}

/// The calling thread runs on no other ones from now on.
///
/// # Panics
/// When the kernel refuses.
pub fn stay_on(processors: &CpuSet) {
    sched_setaffinity(MYSELF, processors).expect("they are some of those that it may run on");
}

/// How long a process has had a processor, all of its threads together, in steps of 10 ms.
///
/// # Panics
/// When there is no such process.
#[must_use]
pub fn time_of(pid: i32) -> Duration {
    let text = std::fs::read_to_string(format!("/proc/{pid}/stat")).expect("the process runs");
    // proc_pid_stat(5): utime and stime are the 14th and 15th fields; the name in brackets may hold spaces.
    let fields: Vec<&str> = text.rsplit(") ").next().expect("a name in brackets").split(' ').collect();
    let ticks = |number: usize| fields[number - 3].parse::<u64>().expect("a number");
    Duration::from_millis(10 * (ticks(14) + ticks(15)))
}

fn only(which: impl Fn(usize) -> bool) -> CpuSet {
    let allowed = sched_getaffinity(MYSELF).expect("a thread knows its own processors");
    let mut wanted = CpuSet::new();
    let allowed = (0..CpuSet::count()).filter(|processor| allowed.is_set(*processor).expect("in range"));
    for (position, processor) in allowed.enumerate() {
        if which(position) {
            wanted.set(processor).expect("in range");
        }
    }
    wanted
}
