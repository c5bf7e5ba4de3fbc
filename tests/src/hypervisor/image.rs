//! What guests boot: Debian's cloud kernel, its virtio modules, busybox and `cutover-guest`, packed as an initramfs.
//! The kernel package is downloaded once and kept below the build folder; nothing is installed.

use anyhow::{Context as _, Result, bail};
use cutover_initramfs::{BUSYBOX, Modules, Root, entry};
use nix::fcntl::{Flock, FlockArg};
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;
use std::time::SystemTime;

/// The package that always names the newest kernel of the distribution.
const METAPACKAGE: &str = "linux-image-cloud-amd64";

/// Modules that guests need of a kernel that does not have them built in.
const MODULES: [&str; 2] = ["virtio_pci", "virtio_net"];

/// A kernel and an initramfs.
#[derive(Clone, Debug)]
pub struct Image {
    kernel: PathBuf,
    initramfs: PathBuf,
}

impl Image {
    /// The image, made when it is not there or older than what it is made of.
    ///
    /// # Panics
    /// When it cannot be made; the message says what is missing.
    #[must_use]
    pub fn cached() -> &'static Self {
        static IMAGE: OnceLock<Image> = OnceLock::new();
        IMAGE.get_or_init(|| Self::make().unwrap_or_else(|error| panic!("the guest's image: {error:#}")))
    }

    /// The kernel.
    #[must_use]
    pub fn kernel(&self) -> &Path {
        &self.kernel
    }

    /// The initramfs.
    #[must_use]
    pub fn initramfs(&self) -> &Path {
        &self.initramfs
    }

    fn make() -> Result<Self> {
        if std::env::consts::ARCH != "x86_64" {
            bail!("guests are x86-64 and boot programs of this build");
        }
        let guest = beside_this_test("cutover-guest")?;
        let folder = guest.parent().unwrap_or(Path::new(".")).join("guest-image");
        fs::create_dir_all(&folder).with_context(|| folder.display().to_string())?;
        // Other test processes may want the same at the same time.
        let _lock = Flock::lock(File::create(folder.join("lock"))?, FlockArg::LockExclusive)
            .map_err(|(_, error)| error)?;
        let package = fetch_kernel(&folder)?;
        let kernel = entry(&package.join("boot"), "vmlinuz-")?;
        let initramfs = folder.join("initramfs.cpio");
        let newest = [&guest, &kernel, Path::new(BUSYBOX)].map(modified).into_iter().max().flatten();
        if modified(&initramfs) <= newest {
            pack(&folder, &package, &guest, &initramfs)?;
        }
        Ok(Self { kernel, initramfs })
    }
}

/// The unpacked package of the newest kernel; a package that was fetched before is good enough.
fn fetch_kernel(folder: &Path) -> Result<PathBuf> {
    let unpacked = folder.join("kernel");
    if unpacked.join("boot").is_dir() {
        return Ok(unpacked);
    }
    let answer =
        run(Command::new("apt-cache").args(["depends", METAPACKAGE])).context("run apt-get update")?;
    let package =
        depended_on(&answer).with_context(|| format!("{METAPACKAGE} depends on nothing: {answer}"))?;
    let download = folder.join("download");
    let _ = fs::remove_dir_all(&download);
    fs::create_dir_all(&download)?;
    run(Command::new("apt-get").args(["download", "--quiet=2", package]).current_dir(&download))
        .context("run apt-get update")?;
    let archive = entry(&download, "linux-image-")?;
    let partial = folder.join("kernel.partial");
    let _ = fs::remove_dir_all(&partial);
    run(Command::new("dpkg-deb").arg("--extract").args([&archive, &partial]))?;
    fs::rename(&partial, &unpacked)?;
    let _ = fs::remove_dir_all(&download);
    Ok(unpacked)
}

/// The first package in an answer of `apt-cache depends`.
fn depended_on(answer: &str) -> Option<&str> {
    answer.lines().find_map(|line| line.trim().strip_prefix("Depends: "))
}

fn pack(folder: &Path, package: &Path, guest: &Path, initramfs: &Path) -> Result<()> {
    let root = Root::create(&folder.join("root"), &["dev", "proc", "sys"])?;
    root.program(guest, "init")?;
    root.program(Path::new(BUSYBOX), "bin/busybox")?;
    root.modules(&Modules::of(package)?, &MODULES)?;
    root.archive(initramfs)
}

/// A program of this package.
fn beside_this_test(name: &str) -> Result<PathBuf> {
    let own = std::env::current_exe()?;
    let mut candidates = own.ancestors().skip(1).take(2).map(|folder| folder.join(name));
    candidates.find(|path| path.is_file()).with_context(|| format!("no {name} beside {}", own.display()))
}

fn modified(path: &Path) -> Option<SystemTime> {
    fs::metadata(path).and_then(|metadata| metadata.modified()).ok()
}

fn run(command: &mut Command) -> Result<String> {
    let output = command.stdin(Stdio::null()).output().with_context(|| format!("{command:?}"))?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    bail!("{command:?}: {}", String::from_utf8_lossy(&output.stderr).trim())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernel_is_what_the_metapackage_depends_on() {
        let answer = "linux-image-cloud-amd64\n  Depends: linux-image-6.1.0-41-cloud-amd64\n  Suggests: x\n";
        assert_eq!(depended_on(answer), Some("linux-image-6.1.0-41-cloud-amd64"));
        assert_eq!(depended_on("linux-image-cloud-amd64\n"), None);
    }
}
