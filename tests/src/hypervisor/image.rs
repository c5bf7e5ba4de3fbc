//! What guests boot: Debian's cloud kernel, its virtio modules, busybox and `cutover-guest`, packed as an initramfs.
//! The kernel package is downloaded once and kept below the build folder; nothing is installed.

use nix::fcntl::{Flock, FlockArg};
use std::fs::{self, File};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;
use std::time::SystemTime;

/// The package that always names the newest kernel of the distribution.
const METAPACKAGE: &str = "linux-image-cloud-amd64";

/// Modules in the order in which they can be loaded, below `kernel/`.
const MODULES: [&str; 8] = [
    "drivers/virtio/virtio_ring.ko",
    "drivers/virtio/virtio.ko",
    "drivers/virtio/virtio_pci_legacy_dev.ko",
    "drivers/virtio/virtio_pci_modern_dev.ko",
    "drivers/virtio/virtio_pci.ko",
    "net/core/failover.ko",
    "drivers/net/net_failover.ko",
    "drivers/net/virtio_net.ko",
];

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
        IMAGE.get_or_init(|| Self::make().unwrap_or_else(|error| panic!("the guest's image: {error}")))
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

    fn make() -> Result<Self, String> {
        let guest = beside_this_test("cutover-guest")?;
        let folder = guest.parent().unwrap_or(Path::new(".")).join("guest-image");
        fs::create_dir_all(&folder).map_err(|error| format!("{}: {error}", folder.display()))?;
        // Other test processes may want the same at the same time.
        let lock = File::create(folder.join("lock")).map_err(|error| error.to_string())?;
        let _lock = Flock::lock(lock, FlockArg::LockExclusive).map_err(|(_, error)| error.to_string())?;
        let package = fetch_kernel(&folder)?;
        let kernel = only_entry(&package.join("boot"), "vmlinuz-")?;
        let initramfs = folder.join("initramfs.cpio");
        if modified(&initramfs) <= modified(&guest).max(modified(&kernel)) {
            pack(&folder, &package, &guest, &initramfs)?;
        }
        Ok(Self { kernel, initramfs })
    }
}

/// The unpacked package of the newest kernel; a package that was fetched before is good enough.
fn fetch_kernel(folder: &Path) -> Result<PathBuf, String> {
    let unpacked = folder.join("kernel");
    if unpacked.join("boot").is_dir() {
        return Ok(unpacked);
    }
    let answer = run(Command::new("apt-cache").args(["depends", METAPACKAGE]))?;
    let package = answer
        .lines()
        .find_map(|line| line.trim().strip_prefix("Depends: "))
        .ok_or_else(|| format!("apt-cache knows no {METAPACKAGE}; run apt-get update"))?;
    let download = folder.join("download");
    let _ = fs::remove_dir_all(&download);
    fs::create_dir_all(&download).map_err(|error| error.to_string())?;
    run(Command::new("apt-get").args(["download", "--quiet=2", package]).current_dir(&download))?;
    let archive = only_entry(&download, "linux-image-")?;
    let partial = folder.join("kernel.partial");
    let _ = fs::remove_dir_all(&partial);
    run(Command::new("dpkg-deb").arg("--extract").args([&archive, &partial]))?;
    fs::rename(&partial, &unpacked).map_err(|error| error.to_string())?;
    let _ = fs::remove_dir_all(&download);
    Ok(unpacked)
}

fn pack(folder: &Path, package: &Path, guest: &Path, initramfs: &Path) -> Result<(), String> {
    let root = folder.join("root");
    let _ = fs::remove_dir_all(&root);
    for name in ["bin", "dev", "proc", "sys", "modules"] {
        fs::create_dir_all(root.join(name)).map_err(|error| error.to_string())?;
    }
    copy(guest, &root.join("init"))?;
    for library in libraries(guest)? {
        let relative = library.strip_prefix("/").unwrap_or(&library);
        copy(&library, &root.join(relative))?;
    }
    copy(Path::new("/bin/busybox"), &root.join("bin/busybox"))?;
    let modules = only_entry(&package.join("lib/modules"), "")?.join("kernel");
    let mut order = String::new();
    for module in MODULES {
        let name = module.rsplit('/').next().unwrap_or(module);
        copy(&modules.join(module), &root.join("modules").join(name))?;
        order += &format!("{name}\n");
    }
    fs::write(root.join("modules/order"), order).map_err(|error| error.to_string())?;
    let partial = initramfs.with_extension("partial");
    archive(&root, &partial)?;
    fs::rename(&partial, initramfs).map_err(|error| error.to_string())
}

/// The shared libraries of a program, with the loader.
fn libraries(program: &Path) -> Result<Vec<PathBuf>, String> {
    let answer = run(Command::new("ldd").arg(program))?;
    let paths = answer.split_whitespace().filter(|word| word.starts_with('/')).map(PathBuf::from);
    Ok(paths.collect())
}

/// A cpio archive of everything below `root`, as the kernel reads it.
fn archive(root: &Path, to: &Path) -> Result<(), String> {
    let mut names = Vec::new();
    list(root, Path::new(""), &mut names).map_err(|error| error.to_string())?;
    let file = File::create(to).map_err(|error| error.to_string())?;
    let mut child = Command::new("busybox")
        .args(["cpio", "-o", "-H", "newc"])
        .current_dir(root)
        .stdin(Stdio::piped())
        .stdout(file)
        .stderr(Stdio::null())
        .spawn()
        .map_err(|error| format!("busybox: {error}"))?;
    let mut input = child.stdin.take().ok_or("busybox takes no input")?;
    let written = input.write_all(names.join("\n").as_bytes());
    drop(input);
    let status = child.wait().map_err(|error| error.to_string())?;
    written.map_err(|error| error.to_string())?;
    if status.success() { Ok(()) } else { Err(format!("busybox cpio: {status}")) }
}

fn list(root: &Path, below: &Path, names: &mut Vec<String>) -> std::io::Result<()> {
    for entry in fs::read_dir(root.join(below))? {
        let entry = entry?;
        let path = below.join(entry.file_name());
        names.push(path.display().to_string());
        if entry.file_type()?.is_dir() {
            list(root, &path, names)?;
        }
    }
    Ok(())
}

fn copy(from: &Path, to: &Path) -> Result<(), String> {
    if let Some(folder) = to.parent() {
        fs::create_dir_all(folder).map_err(|error| error.to_string())?;
    }
    fs::copy(from, to).map_err(|error| format!("{}: {error}", from.display()))?;
    Ok(())
}

/// The one entry of a folder whose name begins like this.
fn only_entry(folder: &Path, beginning: &str) -> Result<PathBuf, String> {
    let entries = fs::read_dir(folder).map_err(|error| format!("{}: {error}", folder.display()))?;
    entries
        .flatten()
        .find(|entry| entry.file_name().to_string_lossy().starts_with(beginning))
        .map(|entry| entry.path())
        .ok_or_else(|| format!("{}: nothing begins with {beginning:?}", folder.display()))
}

/// A program of this package.
fn beside_this_test(name: &str) -> Result<PathBuf, String> {
    let own = std::env::current_exe().map_err(|error| error.to_string())?;
    let mut candidates = own.ancestors().skip(1).take(2).map(|folder| folder.join(name));
    candidates.find(|path| path.is_file()).ok_or_else(|| format!("no {name} beside {}", own.display()))
}

fn modified(path: &Path) -> Option<SystemTime> {
    fs::metadata(path).and_then(|metadata| metadata.modified()).ok()
}

fn run(command: &mut Command) -> Result<String, String> {
    let output = command.stdin(Stdio::null()).output().map_err(|error| format!("{command:?}: {error}"))?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    Err(format!("{command:?}: {}", String::from_utf8_lossy(&output.stderr).trim()))
}
