//! Which processors a thread runs on.

use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::unistd::Pid;

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
