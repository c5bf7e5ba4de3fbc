//! The priority of the fast path for every contender, so that they differ in what they do only, and so that whatever
//! else runs on the machine matters less.

use anyhow::{Context as _, Result};
use std::io;

/// That of the fast path's thread.
const RAISED: libc::c_int = -20;
const ORDINARY: libc::c_int = 0;

/// While it lives, the calling thread has the priority, and so has every thread and process that it starts.
pub(crate) struct Raised(());

impl Raised {
    pub(crate) fn new() -> Result<Self> {
        set(RAISED).context("raising the priority")?;
        Ok(Self(()))
    }
}

impl Drop for Raised {
    fn drop(&mut self) {
        // Lowering it is always allowed.
        let _ = set(ORDINARY);
    }
}

fn set(niceness: libc::c_int) -> io::Result<()> {
    // SAFETY: no pointers; `PRIO_PROCESS` with 0 means the calling thread on Linux.
    let result = unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, niceness) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
