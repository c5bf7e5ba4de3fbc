//! One time for everything: what others note on CLOCK_REALTIME (QEMU its events, the kernel its frames), on CLOCK_BOOTTIME.

use cutover_daemon::clock;
use cutover_engine::BootTime;
use std::time::{Duration, UNIX_EPOCH};

/// How often the clocks are read. Whoever reads them may be interrupted between one and the other.
const ATTEMPTS: usize = 5;

/// Both clocks at one moment.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Clocks {
    wall: Duration,
    boot: BootTime,
}

impl Clocks {
    /// Reads them, as close together as it gets.
    pub(crate) fn read() -> Self {
        let attempts = (0..ATTEMPTS).map(|_| {
            let (before, wall, after) = (clock::now(), clock::wall(), clock::now());
            let apart = after.since(before);
            let wall = wall.duration_since(UNIX_EPOCH).unwrap_or_default();
            (apart, Self { wall, boot: before + apart / 2 })
        });
        attempts.min_by_key(|(apart, _)| *apart).expect("there is more than one").1
    }

    /// The boot clock when the wall clock said `wall`, before this moment, if nobody has set it since.
    pub(crate) fn on_boot_clock(self, wall: Duration) -> BootTime {
        let ago = self.wall.saturating_sub(wall);
        BootTime(self.boot.0.saturating_sub(u64::try_from(ago.as_nanos()).unwrap_or(u64::MAX)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_clocks_are_read_at_one_moment() {
        let (before, clocks, after) = (clock::now(), Clocks::read(), clock::now());
        assert!(before <= clocks.boot && clocks.boot <= after);
        assert_eq!(clocks.on_boot_clock(clocks.wall), clocks.boot);
        let ago = Duration::from_millis(250);
        assert_eq!(clocks.boot.since(clocks.on_boot_clock(clocks.wall - ago)), ago);
    }
}
