//! A folder that is laid out as the root of a host, and which file of the repository goes where.

use crate::step::Step;
use crate::workspace;
use anyhow::{Context as _, Result, bail};
use std::fs;
use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

const DOC: &str = "usr/share/doc/cutover";
const EXAMPLES: &str = "usr/share/doc/cutover/examples";
const UNITS: &str = "usr/lib/systemd/system";

/// Files and folders of the repository, each with the folder that it goes to.
const FILES: [(&str, &str); 14] = [
    ("dist/cutover.service", UNITS),
    ("dist/cutover-beside-felix.service", UNITS),
    ("dist/cutover-libvirt.service", UNITS),
    ("dist/felix.cfg", EXAMPLES),
    ("dist/libvirt", EXAMPLES),
    ("dist/calico-felix.service.d", EXAMPLES),
    ("monitoring", EXAMPLES),
    ("docs", DOC),
    ("README.md", DOC),
    ("CHANGELOG.md", DOC),
    ("ARCHITECTURE.md", DOC),
    ("LICENSE-MIT", DOC),
    ("LICENSE-APACHE", DOC),
    ("LICENSE-GPL2", DOC),
];

/// What is named otherwise there.
const RENAMED: [(&str, &str); 2] = [
    ("dist/cutover.default", "etc/default/cutover"),
    ("dist/debian/copyright", "usr/share/doc/cutover/copyright"),
];

/// What is empty until somebody puts something in. The unit that writes there cannot make it: what it may write has to be there when it starts.
const FOLDERS: [&str; 1] = ["etc/cutover/resources"];

/// The folder.
pub(super) struct Stage {
    root: PathBuf,
}

impl Stage {
    /// An empty one, in place of one that was there.
    pub(super) fn create(root: &Path) -> Result<Self> {
        let _ = fs::remove_dir_all(root);
        let stage = Self { root: root.to_owned() };
        stage.make_folder(root)?;
        Ok(stage)
    }

    pub(super) fn root(&self) -> &Path {
        &self.root
    }

    /// Puts in what is taken from the repository as it is.
    pub(super) fn fill(&self) -> Result<()> {
        for (from, folder) in FILES {
            let name = Path::new(from).file_name().unwrap_or_default();
            self.copy(&workspace::root().join(from), &Path::new(folder).join(name))?;
        }
        for (from, to) in RENAMED {
            self.copy(&workspace::root().join(from), Path::new(to))?;
        }
        for folder in FOLDERS {
            self.make_folder(&self.root.join(folder))?;
        }
        Ok(())
    }

    /// A file, or a folder with all that is in it.
    fn copy(&self, from: &Path, to: &Path) -> Result<()> {
        if from.is_dir() {
            let entries = fs::read_dir(from).with_context(|| from.display().to_string())?;
            for entry in entries {
                let entry = entry?;
                self.copy(&entry.path(), &to.join(entry.file_name()))?;
            }
            return Ok(());
        }
        self.write(to, &fs::read(from).with_context(|| from.display().to_string())?)?;
        // A script stays one.
        let is_program = fs::metadata(from)?.permissions().mode() & 0o100 != 0;
        if is_program { mode(&self.root.join(to), 0o755) } else { Ok(()) }
    }

    /// A file that everybody may read.
    pub(super) fn write(&self, place: impl AsRef<Path>, content: &[u8]) -> Result<()> {
        let path = self.place(place)?;
        fs::write(&path, content).with_context(|| path.display().to_string())?;
        mode(&path, 0o644)
    }

    /// The same, compressed as Debian's policy asks for.
    pub(super) fn write_compressed(&self, place: &str, content: &[u8]) -> Result<()> {
        let Some(plain) = place.strip_suffix(".gz") else { bail!("{place} has no .gz") };
        self.write(plain, content)?;
        // Without name and time the same content makes the same file.
        Step::new("gzip").args(["-9", "--no-name", "--force"]).args([self.root.join(plain)]).quietly()
    }

    /// Where a file goes. Its folder is there then.
    pub(super) fn place(&self, place: impl AsRef<Path>) -> Result<PathBuf> {
        let path = self.root.join(place);
        if let Some(folder) = path.parent() {
            self.make_folder(folder)?;
        }
        Ok(path)
    }

    /// Every file below the root, by its path from there, in order.
    pub(super) fn files(&self) -> Result<Vec<PathBuf>> {
        let (mut files, mut folders) = (Vec::new(), vec![self.root.clone()]);
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(&folder).with_context(|| folder.display().to_string())? {
                let path = entry?.path();
                if path.is_dir() {
                    folders.push(path);
                } else {
                    files.push(path.strip_prefix(&self.root)?.to_owned());
                }
            }
        }
        files.sort();
        Ok(files)
    }

    /// Whatever the mask of whoever packs.
    fn make_folder(&self, path: &Path) -> Result<()> {
        let missing: Vec<&Path> = path.ancestors().take_while(|folder| !folder.is_dir()).collect();
        for folder in missing.into_iter().rev() {
            fs::DirBuilder::new().mode(0o755).create(folder).with_context(|| folder.display().to_string())?;
            if folder.starts_with(&self.root) {
                mode(folder, 0o755)?;
            }
        }
        Ok(())
    }
}

/// Sets the permissions of a file or folder.
pub(super) fn mode(path: &Path, mode: u32) -> Result<()> {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).with_context(|| path.display().to_string())
}
