//! inotify: which directories are watched, and what their events mean for files.

use crate::datastore::tree::is_hidden;
use inotify::{Event, EventMask, Inotify, WatchDescriptor, WatchMask};
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::sys::eventfd::EventFd;
use std::collections::HashMap;
use std::ffi::OsStr;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// What has to be looked at.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Hint {
    /// This file was written, or is gone.
    File(PathBuf),
    /// This file became readable or unreadable, nothing else.
    Access(PathBuf),
    /// Directories came or went, or events were lost: everything.
    Everything,
    /// The root directory is gone.
    RootLost,
}

/// Why a wait ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Woken {
    /// Events are there.
    ByEvents,
    /// Nothing happened.
    ByTimeout,
    /// The datastore is no longer wanted.
    ToStop,
}

#[derive(Debug)]
pub(super) struct Notifications {
    inotify: Inotify,
    epoll: Epoll,
    directories: HashMap<WatchDescriptor, PathBuf>,
    /// Directories watched since [`Notifications::begin`].
    fresh: HashMap<WatchDescriptor, PathBuf>,
    _stop: Arc<EventFd>,
}

const INOTIFY: u64 = 0;
const STOP: u64 = 1;
/// LIMIT: room for some hundred events a call; more are fetched by the next one.
const BUFFER_BYTES: usize = 64 * 1024;

impl Notifications {
    pub(super) fn new(stop: Arc<EventFd>) -> io::Result<Self> {
        let inotify = Inotify::init()?;
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
        epoll.add(&inotify, EpollEvent::new(EpollFlags::EPOLLIN, INOTIFY))?;
        epoll.add(&*stop, EpollEvent::new(EpollFlags::EPOLLIN, STOP))?;
        Ok(Self { inotify, epoll, directories: HashMap::new(), fresh: HashMap::new(), _stop: stop })
    }

    pub(super) fn wait(&self, timeout_ms: u16) -> io::Result<Woken> {
        let mut events = [EpollEvent::empty(); 2];
        let count = match self.epoll.wait(&mut events, EpollTimeout::from(timeout_ms)) {
            Ok(count) => count,
            Err(nix::errno::Errno::EINTR) => 0,
            Err(error) => return Err(error.into()),
        };
        Ok(match &events[..count] {
            [] => Woken::ByTimeout,
            some if some.iter().any(|event| event.data() == STOP) => Woken::ToStop,
            _ => Woken::ByEvents,
        })
    }

    /// A walk begins: what it does not watch again is forgotten by [`Notifications::finish`].
    pub(super) fn begin(&mut self) {
        self.fresh.clear();
    }

    /// Watches a directory, also if it is watched already.
    pub(super) fn watch(&mut self, path: &Path) -> io::Result<()> {
        let mask = WatchMask::CLOSE_WRITE
            | WatchMask::MOVED_TO
            | WatchMask::MOVED_FROM
            | WatchMask::CREATE
            | WatchMask::DELETE
            | WatchMask::ATTRIB
            | WatchMask::DELETE_SELF
            | WatchMask::MOVE_SELF
            | WatchMask::ONLYDIR;
        let watch = self.inotify.watches().add(path, mask).map_err(|error| match error.raw_os_error() {
            Some(libc::ENOSPC) => {
                io::Error::other("no inotify watches are left; raise fs.inotify.max_user_watches")
            }
            _ => error,
        })?;
        self.fresh.insert(watch, path.to_owned());
        Ok(())
    }

    /// The walk is over. A directory that was moved away would go on reporting under its old path.
    pub(super) fn finish(&mut self) {
        let before = std::mem::replace(&mut self.directories, std::mem::take(&mut self.fresh));
        for watch in before.into_keys().filter(|watch| !self.directories.contains_key(watch)) {
            // The kernel removes the watches of deleted directories itself.
            let _ = self.inotify.watches().remove(watch);
        }
    }

    /// Everything that has happened since the last call.
    pub(super) fn take(&mut self, root: &Path) -> io::Result<Vec<Hint>> {
        let mut buffer = vec![0; BUFFER_BYTES];
        let mut hints = Vec::new();
        loop {
            let events = match self.inotify.read_events(&mut buffer) {
                Ok(events) => events,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(hints),
                Err(error) => return Err(error),
            };
            let before = hints.len();
            let directories = &self.directories;
            hints.extend(events.filter_map(|event| hint(directories, root, &event)));
            // Events that concern nobody are no reason to stop reading either, but then the next call returns at once.
            if hints.len() == before {
                return Ok(hints);
            }
        }
    }
}

fn hint(directories: &HashMap<WatchDescriptor, PathBuf>, root: &Path, event: &Event<&OsStr>) -> Option<Hint> {
    if event.mask.contains(EventMask::Q_OVERFLOW) {
        return Some(Hint::Everything);
    }
    let directory = directories.get(&event.wd)?;
    if event.mask.intersects(EventMask::DELETE_SELF | EventMask::MOVE_SELF | EventMask::UNMOUNT) {
        return Some(if directory == root { Hint::RootLost } else { Hint::Everything });
    }
    let path = directory.join(event.name?);
    if event.mask.contains(EventMask::ISDIR) {
        return (!is_hidden(&path) && event.mask != EventMask::ATTRIB | EventMask::ISDIR)
            .then_some(Hint::Everything);
    }
    if is_hidden(&path) {
        // A mounted ConfigMap replaces all its files by renaming the link `..data`.
        let swaps = event.name?.as_encoded_bytes().starts_with(b"..");
        return (swaps && event.mask.contains(EventMask::MOVED_TO)).then_some(Hint::Everything);
    }
    if event.mask.contains(EventMask::ATTRIB) {
        return Some(Hint::Access(path));
    }
    // A new file is not finished before it is closed; links are complete when they appear.
    if event.mask.contains(EventMask::CREATE) {
        let metadata = path.symlink_metadata().ok()?;
        let is_link = metadata.file_type().is_symlink() || metadata.nlink() > 1;
        return is_link.then_some(Hint::File(path));
    }
    Some(Hint::File(path))
}
