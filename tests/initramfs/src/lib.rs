//! What guests boot: a folder with programs, their shared libraries and kernel modules, packed as an initramfs. The lab makes the
//! image of its virtual machines with it, and `cargo xtask test kernels` that of the kernels to test.
//!
//! Downloads and installs nothing, and starts no guest. Needs busybox, and ldd for programs that are linked.

mod modules;

pub use modules::Modules;

use anyhow::{Context as _, Result, bail, ensure};
use std::fs::{self, File, Permissions};
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Debian's busybox and busybox-static both put it there.
pub const BUSYBOX: &str = "/bin/busybox";

/// Where a guest has its modules: files, and `order`, which names them in the order in which they can be loaded.
const MODULES: &str = "modules";

/// The root folder of a guest.
#[derive(Debug)]
pub struct Root {
    folder: PathBuf,
}

impl Root {
    /// An empty folder at `folder`, in the place of what was there, with these folders in it.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn create(folder: &Path, folders: &[&str]) -> Result<Self> {
        // There need not be one.
        let _ = fs::remove_dir_all(folder);
        for name in folders {
            fs::create_dir_all(folder.join(name)).with_context(|| folder.join(name).display().to_string())?;
        }
        Ok(Self { folder: folder.to_owned() })
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.folder
    }

    /// Copies a file to `place`.
    ///
    /// # Errors
    /// When it cannot be read or the disk is full.
    pub fn copy(&self, from: &Path, place: impl AsRef<Path>) -> Result<()> {
        let to = self.make_room(place.as_ref())?;
        fs::copy(from, to).with_context(|| from.display().to_string())?;
        Ok(())
    }

    /// Copies a program to `place`, and its libraries to where the loader looks for them.
    ///
    /// # Errors
    /// When one of them is missing.
    pub fn program(&self, from: &Path, place: impl AsRef<Path>) -> Result<()> {
        self.copy(from, place)?;
        for library in libraries(from)? {
            self.copy(&library, library.strip_prefix("/").unwrap_or(&library))?;
        }
        Ok(())
    }

    /// Makes a file with this text.
    ///
    /// # Errors
    /// When the disk is full.
    pub fn write(&self, place: impl AsRef<Path>, text: &str) -> Result<()> {
        let to = self.make_room(place.as_ref())?;
        fs::write(&to, text).with_context(|| to.display().to_string())
    }

    /// Makes a file with this text that can be run.
    ///
    /// # Errors
    /// When the disk is full.
    pub fn script(&self, place: impl AsRef<Path>, text: &str) -> Result<()> {
        self.write(&place, text)?;
        let path = self.folder.join(place);
        fs::set_permissions(&path, Permissions::from_mode(0o755)).with_context(|| path.display().to_string())
    }

    /// Copies these modules and all that they need to `modules/`, uncompressed, with their names in `modules/order`. What is built into
    /// the kernel is left out.
    ///
    /// # Errors
    /// When the kernel has no such module.
    pub fn modules(&self, kernel: &Modules, wanted: &[&str]) -> Result<()> {
        let mut order = String::new();
        for module in kernel.in_order(wanted)? {
            let name = format!("{}.ko", module.name);
            let to = self.make_room(&Path::new(MODULES).join(&name))?;
            fs::write(&to, module.bytes).with_context(|| to.display().to_string())?;
            order += &name;
            order.push('\n');
        }
        self.write(Path::new(MODULES).join("order"), &order)
    }

    /// Packs everything as the kernel reads it. A file at `to` is whole.
    ///
    /// # Errors
    /// When busybox fails or the disk is full.
    pub fn archive(&self, to: &Path) -> Result<()> {
        let mut names = Vec::new();
        list(&self.folder, Path::new(""), &mut names)?;
        let partial = to.with_extension("partial");
        let file = File::create(&partial).with_context(|| partial.display().to_string())?;
        let mut child = Command::new(BUSYBOX)
            .args(["cpio", "-o", "-H", "newc"])
            .current_dir(&self.folder)
            .stdin(Stdio::piped())
            .stdout(file)
            .stderr(Stdio::null())
            .spawn()
            .context(BUSYBOX)?;
        let mut input = child.stdin.take().context("busybox takes no input")?;
        let written = input.write_all(names.join("\n").as_bytes());
        drop(input);
        let status = child.wait().context(BUSYBOX)?;
        written.context(BUSYBOX)?;
        ensure!(status.success(), "busybox cpio: {status}");
        fs::rename(&partial, to).with_context(|| to.display().to_string())
    }

    /// The path of `place`, whose folder is there now.
    fn make_room(&self, place: &Path) -> Result<PathBuf> {
        let to = self.folder.join(place);
        if let Some(folder) = to.parent() {
            fs::create_dir_all(folder).with_context(|| folder.display().to_string())?;
        }
        Ok(to)
    }
}

fn list(root: &Path, below: &Path, names: &mut Vec<String>) -> Result<()> {
    for entry in fs::read_dir(root.join(below)).with_context(|| root.join(below).display().to_string())? {
        let entry = entry?;
        let path = below.join(entry.file_name());
        names.push(path.display().to_string());
        if entry.file_type()?.is_dir() {
            list(root, &path, names)?;
        }
    }
    Ok(())
}

/// The shared libraries of a program, with the loader: none of a static one.
fn libraries(program: &Path) -> Result<Vec<PathBuf>> {
    let output = Command::new("ldd").arg(program).output().context("ldd")?;
    let (answer, complaint) =
        (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    if complaint.contains("not a dynamic executable") {
        return Ok(Vec::new());
    }
    if !output.status.success() || answer.contains("not found") {
        bail!("the libraries of {}: {}{}", program.display(), answer.trim(), complaint.trim());
    }
    let paths = answer.split_whitespace().filter(|word| word.starts_with('/')).map(PathBuf::from);
    Ok(paths.collect())
}

/// The one entry of a folder whose name begins like this.
///
/// # Errors
/// When there is none.
pub fn entry(folder: &Path, beginning: &str) -> Result<PathBuf> {
    let entries = fs::read_dir(folder).with_context(|| folder.display().to_string())?;
    entries
        .flatten()
        .find(|entry| entry.file_name().to_string_lossy().starts_with(beginning))
        .map(|entry| entry.path())
        .with_context(|| format!("{}: nothing begins with {beginning:?}", folder.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The names in a cpio archive, as busybox lists them.
    fn names_in(archive: &Path) -> Vec<String> {
        let mut command = Command::new(BUSYBOX);
        command.args(["cpio", "-t"]).stdin(File::open(archive).unwrap());
        let output = command.output().unwrap();
        String::from_utf8_lossy(&output.stdout).lines().map(str::to_owned).collect()
    }

    #[test]
    fn the_archive_has_what_the_guest_runs_and_loads() {
        let folder = tempfile::tempdir().unwrap();
        let own = std::env::current_exe().unwrap();
        let root = Root::create(&folder.path().join("root"), &["proc"]).unwrap();
        root.program(&own, "init").unwrap();
        root.write("etc/text", "text").unwrap();
        root.script("run", "#!/bin/sh\nexit 7\n").unwrap();
        let ran = Command::new(folder.path().join("root/run")).status().unwrap();
        assert_eq!(ran.code(), Some(7));
        let kernel = folder.path().join("kernel");
        modules::tests::install(&kernel, &[("net/tun.ko", "")]);
        root.modules(&Modules::of(&kernel).unwrap(), &["tun"]).unwrap();
        let archive = folder.path().join("initramfs.cpio");
        root.archive(&archive).unwrap();

        let libraries = libraries(&own).unwrap();
        assert!(libraries.iter().any(|path| path.display().to_string().contains("libc.so")), "{libraries:?}");
        let libraries = libraries.iter().map(|path| path.strip_prefix("/").unwrap().display().to_string());
        let names = names_in(&archive);
        let ours = ["init", "proc", "etc/text", "modules/tun.ko", "modules/order"].map(str::to_owned);
        for name in ours.into_iter().chain(libraries) {
            assert!(names.contains(&name), "{name} is missing in {names:?}");
        }
    }

    #[test]
    fn what_is_not_linked_has_no_libraries_and_what_is_not_there_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        assert!(libraries(&folder.path().join("nothing")).is_err());
        let text = folder.path().join("text");
        fs::write(&text, "no program").unwrap();
        assert_eq!(libraries(&text).unwrap(), Vec::<PathBuf>::new(), "as ldd says of it");
    }
}
