//! A disk with little room that a test fills: a tmpfs of its own. It goes with its value.

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use std::fs::{self, File};
use std::io::{ErrorKind, Write as _};
use std::path::{Path, PathBuf};

/// LIMIT: many times what an agent of the lab writes.
const SIZE: &str = "size=2m,mode=0700";

/// A mounted disk.
#[derive(Debug)]
pub struct SmallDisk {
    path: PathBuf,
}

impl SmallDisk {
    /// Mounts one on a new folder.
    ///
    /// # Panics
    /// Without root, or when the folder is there.
    #[must_use]
    pub fn mount(path: PathBuf) -> Self {
        fs::create_dir(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        mount(Some("cutover"), &path, Some("tmpfs"), MsFlags::empty(), Some(SIZE))
            .expect("mounting a tmpfs needs root");
        Self { path }
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// From now on it has so much room.
    ///
    /// # Panics
    /// When the kernel does not give it.
    pub fn enlarge(&self, mebibytes: u32) {
        let size = format!("size={mebibytes}m");
        mount(Some("cutover"), &self.path, Some("tmpfs"), MsFlags::MS_REMOUNT, Some(size.as_str()))
            .expect("it is mounted");
    }

    fn filler(&self) -> PathBuf {
        self.path.join("filler")
    }

    /// Nothing has room on it any more. Names have: new files are empty.
    ///
    /// # Panics
    /// When it is not a lack of space that ends it.
    pub fn fill(&self) {
        let mut file = File::create(self.filler()).expect("a file");
        let error = loop {
            if let Err(error) = file.write_all(&[0; 4096]) {
                break error;
            }
        };
        assert_eq!(error.kind(), ErrorKind::StorageFull, "{error}");
    }

    /// There is room again.
    ///
    /// # Panics
    /// When it was not filled.
    pub fn free(&self) {
        fs::remove_file(self.filler()).expect("it was filled");
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // Whoever still has a file there keeps the rest, not the name.
        let _ = umount2(&self.path, MntFlags::MNT_DETACH);
    }
}

#[test]
fn what_is_full_has_room_again() {
    let lab = crate::Lab::new();
    let disk = SmallDisk::mount(lab.folder().join("disk"));
    let file = disk.path().join("a");
    disk.fill();
    assert_eq!(fs::write(&file, "text").expect_err("it is full").kind(), ErrorKind::StorageFull);
    disk.free();
    fs::write(&file, "text").expect("there is room");
}
