//! A wall clock (CLOCK_REALTIME) of one process alone that a test can set, by Debian's libfaketime. The clocks that count
//! from the boot go on as they do: setting the time does not touch them in a real kernel either.

use crate::agent::Agent;
use std::fs;
use std::path::PathBuf;

const LIBRARY: &str = "faketime/libfaketimeMT.so.1";

/// The clock of one agent.
#[derive(Debug)]
pub struct WallClock {
    file: PathBuf,
}

impl WallClock {
    /// A clock that is right for now, for the next start of the agent.
    ///
    /// # Panics
    /// When Debian's faketime is not installed.
    #[must_use]
    pub fn of(agent: &mut Agent) -> Self {
        let folders = fs::read_dir("/usr/lib").expect("a folder").flatten();
        let library = folders.map(|folder| folder.path().join(LIBRARY)).find(|path| path.is_file());
        let library = library.expect("Debian's faketime is installed");
        let clock = Self { file: agent.configuration().with_extension("clock") };
        clock.set_ahead_s(0);
        agent.set_environment("LD_PRELOAD", library.display());
        agent.set_environment("FAKETIME_TIMESTAMP_FILE", clock.file.display());
        for name in
            ["FAKETIME_NO_CACHE", "FAKETIME_DONT_FAKE_MONOTONIC", "FAKETIME_DISABLE_SHM", "NO_FAKE_STAT"]
        {
            agent.set_environment(name, 1);
        }
        clock
    }

    /// From now on it is this far ahead of the machine's clock, or behind it.
    ///
    /// # Panics
    /// When the disk is full.
    pub fn set_ahead_s(&self, seconds: i64) {
        let text = format!("{seconds:+}\n");
        // The process must not read half of it.
        let next = self.file.with_extension("next");
        fs::write(&next, text).and_then(|()| fs::rename(&next, &self.file)).expect("space on the disk");
    }
}

/// Removes what the library leaves behind for a process that did not end by itself.
pub(crate) fn remove_leftovers(process: u32) {
    for name in [format!("faketime_shm_{process}"), format!("sem.faketime_sem_{process}")] {
        // Most agents have no clock of their own.
        let _ = fs::remove_file(PathBuf::from("/dev/shm").join(name));
    }
}
