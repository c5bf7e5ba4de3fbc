//! Which processors a thread of the fast path runs on. It sets that of the calling thread and of nothing else.
//!
//! KERNEL (measured on 6.18): a woken thread of SCHED_FIFO is put on the processor where it ran last. On a kernel without preemption it waits
//! there for the end of whatever system call the processor is in, although others are idle. So no two of these threads share a processor.

use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::unistd::Pid;
use tracing::debug;

/// Lets the calling thread run on its share of the processors that it may run on now, if there are enough for everybody.
pub(super) fn take_share(number: usize, of: usize) {
    const MYSELF: Pid = Pid::from_raw(0);
    let taken = sched_getaffinity(MYSELF).and_then(|allowed| match share(&allowed, number, of)? {
        Some(share) => sched_setaffinity(MYSELF, &share),
        None => Ok(()),
    });
    if let Err(error) = taken {
        debug!(%error, "a thread of the fast path keeps all processors");
    }
}

/// Every `of`th of the processors, beginning with the one of this number; none if there are fewer than that.
fn share(allowed: &CpuSet, number: usize, of: usize) -> nix::Result<Option<CpuSet>> {
    let mut share = CpuSet::new();
    let mut count = 0;
    for processor in 0..CpuSet::count() {
        if allowed.is_set(processor)? {
            if count % of == number {
                share.set(processor)?;
            }
            count += 1;
        }
    }
    Ok((count >= of).then_some(share))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(processors: &[usize]) -> CpuSet {
        let mut set = CpuSet::new();
        for processor in processors {
            set.set(*processor).unwrap();
        }
        set
    }

    #[test]
    fn shares_are_apart_and_make_up_the_whole() {
        let allowed = set(&[1, 2, 5, 6, 1023]);
        assert_eq!(share(&allowed, 0, 2), Ok(Some(set(&[1, 5, 1023]))));
        assert_eq!(share(&allowed, 1, 2), Ok(Some(set(&[2, 6]))));
    }

    #[test]
    fn one_processor_is_shared() {
        assert_eq!(share(&set(&[3]), 0, 2), Ok(None));
        assert_eq!(share(&set(&[3]), 1, 2), Ok(None));
    }
}
