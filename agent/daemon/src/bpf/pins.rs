//! Where things are pinned: paths, folders, and how an interface name becomes the name of a pin.
//!
//! Knows files, and of what is behind them only that a link has to be detached. Refuses to work where somebody else than root can
//! exchange what is pinned: whoever can write to a map makes the agent believe what it likes.

use super::error::OpenError;
use super::syscall::detach_pinned_link;
use crate::lock;
use crate::ownership::Way;
use cutover_common::names::{PIN_DIR_LINKS, PIN_DIR_MAPS, PIN_DIR_PROGRAMS};
use nix::errno::Errno;
use nix::fcntl::Flock;
use nix::sys::statfs::{BPF_FS_MAGIC, statfs};
use nix::unistd::Uid;
use std::collections::BTreeSet;
use std::fs::{self, DirBuilder, File, Metadata};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Sub-folder that remembers, as an empty folder named after the interface number, which clsact qdiscs are
/// ours. A file system of pins holds nothing else than pins and folders, and it forgets at a reboot what the
/// kernel forgets as well.
const DIR_QDISCS: &str = "qdiscs";

/// Sub-folder that remembers, as an empty folder named after it, the version of what the pinned maps hold.
const DIR_ABI: &str = "abi";

/// Name of a pin among those of the links. In the name of a tap's pin a percent sign is followed by digits.
const ANCHOR: &str = "%anchor";

/// Two agents on one set of maps would take each other's announcements.
fn lock(root: &Path, patience: Duration) -> Result<Flock<File>, OpenError> {
    let failed = |error| OpenError::Pins { step: "cannot lock", path: root.to_owned(), error };
    let directory = File::open(root).map_err(failed)?;
    match lock::exclusively(directory, patience) {
        Ok(lock) => Ok(lock),
        Err(Errno::EWOULDBLOCK) => Err(OpenError::Taken { path: root.to_owned() }),
        Err(error) => Err(failed(error.into())),
    }
}

#[derive(Debug)]
pub(super) struct Pins {
    root: PathBuf,
    /// Held by whoever works with these pins; goes with the process, however it ends.
    lock: Option<Flock<File>>,
}

impl Pins {
    /// Makes the folders where they are missing.
    pub(super) fn create(root: &Path) -> Result<Self, OpenError> {
        Self::check(root)?;
        let mut pins = Self::at(root);
        pins.make_folders()?;
        pins.lock = Some(lock(root, lock::PATIENCE)?);
        Ok(pins)
    }

    /// Makes the folders again that somebody removed, and takes the lock if that went with them.
    pub(super) fn make_again(&mut self) -> Result<(), OpenError> {
        Self::check(&self.root)?;
        self.make_folders()?;
        if !self.holds_root() {
            // Who arms taps does not wait here; it comes back.
            self.lock = Some(lock(&self.root, Duration::ZERO)?);
        }
        Ok(())
    }

    /// Takes the lock of pins that are there, to remove them.
    pub(super) fn lock_existing(root: &Path) -> Result<Self, OpenError> {
        let mut pins = Self::at(root);
        if root.exists() {
            pins.check_owners(Uid::effective())?;
            pins.lock = Some(lock(root, lock::PATIENCE)?);
        }
        Ok(pins)
    }

    /// ORDER: nothing is made where somebody else could exchange it, and nothing is used that somebody else has made meanwhile.
    fn make_folders(&self) -> Result<(), OpenError> {
        self.check_owners(Uid::effective())?;
        for folder in self.folders() {
            DirBuilder::new()
                .recursive(true)
                .mode(0o700)
                .create(&folder)
                .map_err(|error| OpenError::Pins { step: "cannot make", path: folder, error })?;
        }
        self.check_owners(Uid::effective())
    }

    /// Whether nobody but root and `user` can change the folders, what is pinned in them, and the way to them.
    pub(super) fn check_owners(&self, user: Uid) -> Result<(), OpenError> {
        let judge = |way: io::Result<Way>| {
            let way = way.map_err(|error| self.cannot_look(error))?;
            let refused = |refusal| OpenError::Unsafe { path: self.root.clone(), refusal };
            way.judge(user).map_err(refused)
        };
        judge(Way::to(&self.root))?;
        for folder in self.folders() {
            // Without the way again, which is long where there are many pins.
            let name = folder.strip_prefix(&self.root).unwrap_or(&folder);
            judge(Way::beyond(&self.root, name))?;
            for pin in entries(&folder).map_err(|error| self.cannot_look(error))? {
                let name = pin.strip_prefix(&folder).unwrap_or(&pin);
                judge(Way::beyond(&folder, name))?;
            }
        }
        Ok(())
    }

    fn cannot_look(&self, error: io::Error) -> OpenError {
        OpenError::Pins { step: "cannot look through", path: self.root.clone(), error }
    }

    /// Whether what is locked is the folder that has its name now.
    fn holds_root(&self) -> bool {
        let identity = |metadata: Metadata| (metadata.dev(), metadata.ino());
        let locked = self.lock.as_ref().and_then(|lock| lock.metadata().ok()).map(identity);
        locked.is_some() && locked == fs::metadata(&self.root).ok().map(identity)
    }

    /// Whether the folders can be there.
    pub(super) fn check(root: &Path) -> Result<(), OpenError> {
        if !is_on_bpffs(root) {
            return Err(OpenError::NoBpffs { path: root.to_owned() });
        }
        let missing = root.ancestors().take_while(|path| !path.exists());
        if missing.filter_map(Path::file_name).any(|name| name.as_encoded_bytes().contains(&b'.')) {
            return Err(OpenError::DotInPinPath { path: root.to_owned() });
        }
        Ok(())
    }

    /// Without making anything.
    pub(super) fn at(root: &Path) -> Self {
        Self { root: root.to_owned(), lock: None }
    }

    pub(super) fn root(&self) -> &Path {
        &self.root
    }

    /// Every folder but the root, in the order in which they are removed.
    pub(super) fn folders(&self) -> [PathBuf; 5] {
        [PIN_DIR_LINKS, DIR_QDISCS, PIN_DIR_PROGRAMS, PIN_DIR_MAPS, DIR_ABI]
            .map(|folder| self.root.join(folder))
    }

    pub(super) fn map(&self, name: &str) -> PathBuf {
        self.root.join(PIN_DIR_MAPS).join(name)
    }

    pub(super) fn program(&self, name: &str) -> PathBuf {
        self.root.join(PIN_DIR_PROGRAMS).join(name)
    }

    pub(super) fn link(&self, interface: &str) -> PathBuf {
        self.root.join(PIN_DIR_LINKS).join(pin_name(interface))
    }

    /// That of the link which is there for others ([`super::links::hold_anchor`]). No tap has a pin of this name.
    pub(super) fn anchor(&self) -> PathBuf {
        self.root.join(PIN_DIR_LINKS).join(ANCHOR)
    }

    pub(super) fn links(&self) -> io::Result<Vec<PathBuf>> {
        entries(&self.root.join(PIN_DIR_LINKS))
    }

    pub(super) fn qdisc(&self, ifindex: u32) -> PathBuf {
        self.root.join(DIR_QDISCS).join(ifindex.to_string())
    }

    /// The version of what the pinned maps hold. Agents before the first mark had that of the first.
    pub(super) fn abi(&self) -> io::Result<BTreeSet<u32>> {
        let marks = entries(&self.root.join(DIR_ABI))?;
        let versions: BTreeSet<u32> =
            marks.iter().filter_map(|path| path.file_name()?.to_str()?.parse().ok()).collect();
        Ok(if versions.is_empty() { BTreeSet::from([1]) } else { versions })
    }

    /// Notes that it is this one, and no other.
    pub(super) fn mark_abi(&self, version: u32) -> io::Result<()> {
        let folder = self.root.join(DIR_ABI);
        let mark = folder.join(version.to_string());
        for other in entries(&folder)?.into_iter().filter(|other| *other != mark) {
            remove(&other)?;
        }
        DirBuilder::new().recursive(true).mode(0o700).create(mark)
    }

    /// Interface numbers whose clsact qdisc was made by an agent.
    pub(super) fn qdiscs(&self) -> io::Result<Vec<u32>> {
        let entries = entries(&self.root.join(DIR_QDISCS))?;
        Ok(entries.iter().filter_map(|path| path.file_name()?.to_str()?.parse().ok()).collect())
    }
}

/// What is in a folder, sorted; nothing if it does not exist.
pub(super) fn entries(folder: &Path) -> io::Result<Vec<PathBuf>> {
    let listing = match fs::read_dir(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        listing => listing?,
    };
    let mut paths = listing.map(|entry| Ok(entry?.path())).collect::<io::Result<Vec<_>>>()?;
    paths.sort();
    Ok(paths)
}

/// Removes a file or an empty folder, which may be gone already.
pub(super) fn remove(path: &Path) -> io::Result<()> {
    let result = if path.is_dir() { fs::remove_dir(path) } else { fs::remove_file(path) };
    match result {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        result => result,
    }
}

/// Detaches a pinned link and removes its pin, which may be gone already.
pub(super) fn remove_link(path: &Path) -> io::Result<()> {
    detach_pinned_link(path)?;
    remove(path)
}

/// KERNEL: names of pins cannot have dots in them (`bpf_lookup`), names of interfaces can.
fn pin_name(interface: &str) -> String {
    interface.replace('%', "%25").replace('.', "%2e")
}

fn is_on_bpffs(path: &Path) -> bool {
    let existing = path.ancestors().find(|path| path.exists());
    existing.is_some_and(|path| statfs(path).is_ok_and(|status| status.filesystem_type() == BPF_FS_MAGIC))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pin_of_a_tap_is_named_after_it() {
        let pins = Pins::at(Path::new("/pins"));
        assert_eq!(pins.link("tap0a1b2c3d-4e"), Path::new("/pins/links/tap0a1b2c3d-4e"));
        assert_eq!(pins.link("tap1.100"), Path::new("/pins/links/tap1%2e100"));
        assert_ne!(pins.link("tap1%2e100"), pins.link("tap1.100"));
    }

    #[test]
    fn an_ordinary_folder_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let error = Pins::create(&folder.path().join("a/b")).unwrap_err();
        assert!(matches!(error, OpenError::NoBpffs { .. }), "{error}");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
    }
}
