//! Where threads of the fast path wait for something to do.

use super::untold::Untold;
use aya::maps::{MapData, RingBuf};
use nix::errno::Errno;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::sys::eventfd::{EfdFlags, EventFd};
use std::io;
use tracing::debug;

/// What epoll says: there may be a record, the bell rings, or an announcement has waited for too long.
const RECORD: u64 = 0;
const BELL: u64 = 1;
const OVERDUE: u64 = 2;

/// Each record of the ring buffer, and the bell, wakes one of the threads that sleep here.
#[derive(Debug)]
pub(super) struct Sleep {
    epoll: Epoll,
    /// Wakes one to spin again, or all to end.
    bell: EventFd,
}

impl Sleep {
    pub(super) fn on(ring: &RingBuf<MapData>, untold: &Untold) -> io::Result<Self> {
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
        let bell = EventFd::from_flags(EfdFlags::EFD_NONBLOCK | EfdFlags::EFD_CLOEXEC)?;
        let readable = |word| EpollEvent::new(EpollFlags::EPOLLIN, word);
        // KERNEL: whoever finds that the record was taken goes on sleeping.
        epoll.add(ring, readable(RECORD))?;
        epoll.add(&bell, readable(BELL))?;
        epoll.add(untold.timer(), readable(OVERDUE))?;
        Ok(Self { epoll, bell })
    }

    /// Sleeps until there may be something to do; returns whether an announcement has waited for too long. At the end the bell is left ringing,
    /// for the others.
    pub(super) fn sleep(&self, is_end: impl Fn() -> bool) -> nix::Result<bool> {
        let mut events = [EpollEvent::empty(); 3];
        match self.epoll.wait(&mut events, EpollTimeout::NONE) {
            Ok(count) => {
                let has = |word| events[..count].iter().any(|event| event.data() == word);
                if has(BELL)
                    && !is_end()
                    && let Err(error) = self.bell.read()
                {
                    debug!(%error, "a bell of the fast path was silent");
                }
                Ok(has(OVERDUE))
            }
            Err(Errno::EINTR) => Ok(false),
            Err(error) => Err(error),
        }
    }

    pub(super) fn ring_bell(&self) {
        if let Err(error) = self.bell.write(1) {
            debug!(%error, "a bell of the fast path is already ringing");
        }
    }
}
