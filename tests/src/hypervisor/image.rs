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

/// Debian's busybox and busybox-static both put it there.
const BUSYBOX: &str = "/bin/busybox";

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
        if std::env::consts::ARCH != "x86_64" {
            return Err("guests are x86-64 and boot programs of this build".to_owned());
        }
        let guest = beside_this_test("cutover-guest")?;
        let folder = guest.parent().unwrap_or(Path::new(".")).join("guest-image");
        fs::create_dir_all(&folder).map_err(|error| format!("{}: {error}", folder.display()))?;
        // Other test processes may want the same at the same time.
        let lock = File::create(folder.join("lock")).map_err(|error| error.to_string())?;
        let _lock = Flock::lock(lock, FlockArg::LockExclusive).map_err(|(_, error)| error.to_string())?;
        let package = fetch_kernel(&folder)?;
        let kernel = only_entry(&package.join("boot"), "vmlinuz-")?;
        let initramfs = folder.join("initramfs.cpio");
        let newest = [&guest, &kernel, Path::new(BUSYBOX)].map(modified).into_iter().max().flatten();
        if modified(&initramfs) <= newest {
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
    let answer = run(Command::new("apt-cache").args(["depends", METAPACKAGE]));
    let answer = answer.map_err(|error| format!("{error}; run apt-get update"))?;
    let package =
        depended_on(&answer).ok_or_else(|| format!("{METAPACKAGE} depends on nothing: {answer}"))?;
    let download = folder.join("download");
    let _ = fs::remove_dir_all(&download);
    fs::create_dir_all(&download).map_err(|error| error.to_string())?;
    let fetched =
        run(Command::new("apt-get").args(["download", "--quiet=2", package]).current_dir(&download));
    fetched.map_err(|error| format!("{error}; run apt-get update"))?;
    let archive = only_entry(&download, "linux-image-")?;
    let partial = folder.join("kernel.partial");
    let _ = fs::remove_dir_all(&partial);
    run(Command::new("dpkg-deb").arg("--extract").args([&archive, &partial]))?;
    fs::rename(&partial, &unpacked).map_err(|error| error.to_string())?;
    let _ = fs::remove_dir_all(&download);
    Ok(unpacked)
}

/// The first package in an answer of `apt-cache depends`.
fn depended_on(answer: &str) -> Option<&str> {
    answer.lines().find_map(|line| line.trim().strip_prefix("Depends: "))
}

fn pack(folder: &Path, package: &Path, guest: &Path, initramfs: &Path) -> Result<(), String> {
    let root = folder.join("root");
    let _ = fs::remove_dir_all(&root);
    for name in ["bin", "dev", "proc", "sys", "modules"] {
        fs::create_dir_all(root.join(name)).map_err(|error| error.to_string())?;
    }
    for (program, place) in [(guest, "init"), (Path::new(BUSYBOX), "bin/busybox")] {
        copy(program, &root.join(place))?;
        for library in libraries(program)? {
            let relative = library.strip_prefix("/").unwrap_or(&library);
            copy(&library, &root.join(relative))?;
        }
    }
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

/// The shared libraries of a program, with the loader: none of a static one.
fn libraries(program: &Path) -> Result<Vec<PathBuf>, String> {
    let mut command = Command::new("ldd");
    let output = command.arg(program).output().map_err(|error| format!("ldd: {error}"))?;
    let (answer, complaint) =
        (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    if complaint.contains("not a dynamic executable") {
        return Ok(Vec::new());
    }
    if !output.status.success() || answer.contains("not found") {
        return Err(format!("the libraries of {}: {}{}", program.display(), answer.trim(), complaint.trim()));
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    fn pack_in(folder: &Path) -> PathBuf {
        let package = folder.join("kernel");
        for module in MODULES {
            let path = package.join("lib/modules/6.1.0-1-cloud-amd64/kernel").join(module);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, module).unwrap();
        }
        let initramfs = folder.join("initramfs.cpio");
        let guest = std::env::current_exe().unwrap();
        pack(folder, &package, &guest, &initramfs).unwrap();
        initramfs
    }

    /// The names in a cpio archive, as busybox lists them.
    fn names_in(archive: &Path) -> Vec<String> {
        let mut command = Command::new("busybox");
        command.args(["cpio", "-t"]).stdin(File::open(archive).unwrap());
        let output = command.output().unwrap();
        String::from_utf8_lossy(&output.stdout).lines().map(str::to_owned).collect()
    }

    #[test]
    fn the_archive_has_what_the_guest_runs_and_loads() {
        let folder = tempfile::tempdir().unwrap();
        let names = names_in(&pack_in(folder.path()));
        let libraries = libraries(&std::env::current_exe().unwrap()).unwrap();
        assert!(libraries.iter().any(|path| path.display().to_string().contains("libc.so")), "{libraries:?}");
        let libraries = libraries.iter().map(|path| path.strip_prefix("/").unwrap().display().to_string());
        let modules = MODULES.map(|module| format!("modules/{}", module.rsplit('/').next().unwrap()));
        for name in
            ["init".to_owned(), "bin/busybox".to_owned(), "modules/order".to_owned(), "proc".to_owned()]
                .into_iter()
                .chain(modules)
                .chain(libraries)
        {
            assert!(names.contains(&name), "{name} is missing in {names:?}");
        }
        let order = fs::read_to_string(folder.path().join("root/modules/order")).unwrap();
        assert_eq!(order.lines().next(), Some("virtio_ring.ko"));
        assert_eq!(order.lines().count(), MODULES.len());
    }

    #[test]
    fn what_is_not_linked_has_no_libraries_and_what_is_not_there_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        assert!(libraries(&folder.path().join("nothing")).is_err());
        let text = folder.path().join("text");
        fs::write(&text, "no program").unwrap();
        assert_eq!(libraries(&text), Ok(Vec::new()), "as ldd says of it");
    }

    #[test]
    fn the_kernel_is_what_the_metapackage_depends_on() {
        let answer = "linux-image-cloud-amd64\n  Depends: linux-image-6.1.0-41-cloud-amd64\n  Suggests: x\n";
        assert_eq!(depended_on(answer), Some("linux-image-6.1.0-41-cloud-amd64"));
        assert_eq!(depended_on("linux-image-cloud-amd64\n"), None);
    }
}
