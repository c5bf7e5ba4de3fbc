//! What the programs on the stage see of the host's files: all of it, but nothing can be written, and where daemons have their sockets,
//! logs and locks there is empty memory with the same folders.

use nix::mount::{MsFlags, mount};
use nix::unistd::chown;
use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::os::unix::ffi::OsStringExt as _;
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

const NONE: Option<&str> = None;
/// Where daemons write.
const WRITTEN: [&str; 7] =
    ["/run", "/var/run", "/tmp", "/var/tmp", "/var/log", "/var/lib/frr", "/var/lib/bird"];
/// The devices of the stage. Not among them: consoles, terminals and kmsg, where daemons write what syslog does not take.
const DEVICES: [&str; 5] = ["null", "zero", "full", "random", "urandom"];
/// LIMIT: folders of logs and sockets are not deeper, and nobody needs thousands.
const DEPTH: u32 = 2;
const FOLDERS_MAX: usize = 500;

/// Whatever is mounted from now on is not seen by the host.
pub(super) fn make_private() -> io::Result<()> {
    Ok(mount(NONE, "/", NONE, MsFlags::MS_REC | MsFlags::MS_PRIVATE, NONE)?)
}

/// Takes away everything that could be written to. Files of `kept` stay where they are.
pub(super) fn close(kept: &[PathBuf]) -> io::Result<()> {
    let kept = kept.iter().filter_map(|file| Kept::open(file).transpose()).collect::<io::Result<Vec<_>>>()?;
    mount(Some("proc"), "/proc", Some("proc"), MsFlags::empty(), NONE)?;
    // KERNEL: it shows the interfaces of the network namespace that mounts it. Without it the host's is there, to be read.
    let _ = mount(Some("sysfs"), "/sys", Some("sysfs"), MsFlags::MS_RDONLY, NONE);
    // KERNEL: below it are the network namespace's own; everything else in /proc is the whole host's.
    let sysctls = Path::new("/proc/sys/net");
    mount(Some(sysctls), sysctls, NONE, MsFlags::MS_BIND, NONE)?;
    for place in mounted()? {
        if place.0 != sysctls {
            protect(&place)?;
        }
    }
    for folder in WRITTEN.map(Path::new) {
        if folder.is_dir() && !folder.is_symlink() {
            cover(folder)?;
        }
    }
    for kept in &kept {
        kept.put_back()?;
    }
    own_devices()
}

/// A /dev with nothing in it that anybody outside could see: where /dev/log is not, programs write to the console.
fn own_devices() -> io::Result<()> {
    let devices = DEVICES.map(|name| Path::new("/dev").join(name));
    let opened =
        devices.each_ref().map(|path| OpenOptions::new().read(true).custom_flags(libc::O_PATH).open(path));
    mount(Some("tmpfs"), "/dev", Some("tmpfs"), MsFlags::MS_NOSUID, Some("mode=755,size=1m"))?;
    for (path, opened) in devices.iter().zip(opened) {
        File::create(path)?;
        let opened = opened?;
        let source = format!("/proc/self/fd/{}", opened.as_raw_fd());
        mount(Some(source.as_str()), path, NONE, MsFlags::MS_BIND, NONE)?;
    }
    for (name, target) in [("fd", "/proc/self/fd"), ("stdin", "fd/0"), ("stdout", "fd/1"), ("stderr", "fd/2")]
    {
        std::os::unix::fs::symlink(target, Path::new("/dev").join(name))?;
    }
    fs::create_dir("/dev/shm")
}

/// A file or a folder that would disappear below empty memory.
struct Kept {
    path: PathBuf,
    is_folder: bool,
    fd: OwnedFd,
}

impl Kept {
    /// Nothing for what stays where it is anyway.
    fn open(path: &Path) -> io::Result<Option<Self>> {
        let Ok(path) = fs::canonicalize(path) else { return Ok(None) };
        let is_below = |folder: &&str| fs::canonicalize(folder).is_ok_and(|folder| path.starts_with(folder));
        if WRITTEN.iter().any(is_below) { Self::of(path).map(Some) } else { Ok(None) }
    }

    fn of(path: PathBuf) -> io::Result<Self> {
        let fd: OwnedFd = OpenOptions::new().read(true).custom_flags(libc::O_PATH).open(&path)?.into();
        Ok(Self { is_folder: path.is_dir(), path, fd })
    }

    fn put_back(&self) -> io::Result<()> {
        if self.is_folder {
            fs::create_dir_all(&self.path)?;
        } else if !self.path.exists() {
            fs::create_dir_all(self.path.parent().unwrap_or(&self.path))?;
            File::create(&self.path)?;
        }
        let source = format!("/proc/self/fd/{}", self.fd.as_raw_fd());
        mount(Some(source.as_str()), &self.path, NONE, MsFlags::MS_BIND, NONE)?;
        read_only(&self.path, MsFlags::empty())
    }
}

/// Empty memory with the folders that are there, two levels of them.
fn cover(folder: &Path) -> io::Result<()> {
    let mut folders = Vec::new();
    collect(folder, DEPTH, &mut folders);
    empty(folder)?;
    for (path, metadata) in folders {
        fs::create_dir_all(&path)?;
        fs::set_permissions(&path, fs::Permissions::from_mode(metadata.mode() & 0o7777))?;
        chown(&path, Some(metadata.uid().into()), Some(metadata.gid().into()))?;
    }
    Ok(())
}

/// Empty memory in the place of a folder.
pub(super) fn empty(folder: &Path) -> io::Result<()> {
    let own = fs::metadata(folder)?;
    let options = format!("mode={:o},size=64m,uid={},gid={}", own.mode() & 0o7777, own.uid(), own.gid());
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
    Ok(mount(Some("tmpfs"), folder, Some("tmpfs"), flags, Some(options.as_str()))?)
}

/// A file that can be written to, in the place of the host's; what is beside it stays.
pub(super) fn writable(file: &Path) -> io::Result<()> {
    // Opening something else can do something, or wait for ever; the daemon says what it cannot do.
    if fs::symlink_metadata(file).is_ok_and(|it| !it.is_file()) {
        return Ok(());
    }
    let folder = file.parent().unwrap_or(Path::new("/"));
    let is_covered =
        fs::create_dir_all(folder).and_then(|()| OpenOptions::new().append(true).create(true).open(file));
    if is_covered.is_ok() {
        return Ok(());
    }
    if file.is_file() {
        let own = tempfile_below("/run")?;
        return Ok(mount(Some(&own), file, NONE, MsFlags::MS_BIND, NONE)?);
    }
    let beside = fs::read_dir(folder)?.flatten().map(|entry| entry.path());
    let beside: Vec<PathBuf> = beside.take(FOLDERS_MAX + 1).collect();
    if folder == Path::new("/") || beside.len() > FOLDERS_MAX {
        return Ok(());
    }
    let beside = beside.into_iter().filter(|path| path.is_file() || path.is_dir()).map(Kept::of);
    let beside = beside.collect::<io::Result<Vec<_>>>()?;
    empty(folder)?;
    beside.iter().try_for_each(Kept::put_back)
}

/// A new file in the stage's own memory.
fn tempfile_below(folder: &str) -> io::Result<PathBuf> {
    let mut number = 0;
    loop {
        let path = Path::new(folder).join(format!("cutover-file-{number}"));
        match File::create_new(&path) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => number += 1,
            done => return done.map(|_| path),
        }
    }
}

fn collect(folder: &Path, depth: u32, found: &mut Vec<(PathBuf, fs::Metadata)>) {
    if depth == 0 {
        return;
    }
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let Ok(metadata) = entry.metadata() else { continue };
        if metadata.is_dir() && found.len() < FOLDERS_MAX {
            found.push((entry.path(), metadata));
            collect(&entry.path(), depth - 1, found);
        }
    }
}

/// Mount points with their options.
fn mounted() -> io::Result<Vec<(PathBuf, MsFlags)>> {
    let text = fs::read_to_string("/proc/self/mountinfo")?;
    Ok(text.lines().filter_map(mount_of).collect())
}

/// A line of `mountinfo`: numbers, root, mount point, options.
fn mount_of(line: &str) -> Option<(PathBuf, MsFlags)> {
    let mut words = line.split(' ').skip(4);
    let (place, options) = (words.next()?, words.next()?);
    let flag = |option: &str| match option {
        "nosuid" => MsFlags::MS_NOSUID,
        "nodev" => MsFlags::MS_NODEV,
        "noexec" => MsFlags::MS_NOEXEC,
        "noatime" => MsFlags::MS_NOATIME,
        "nodiratime" => MsFlags::MS_NODIRATIME,
        "relatime" => MsFlags::MS_RELATIME,
        _ => MsFlags::empty(),
    };
    Some((unescaped(place), options.split(',').map(flag).collect()))
}

/// KERNEL: blanks, line ends and backslashes are written as three octal digits.
fn unescaped(text: &str) -> PathBuf {
    let mut bytes = Vec::new();
    let mut rest = text.as_bytes();
    while let [first, others @ ..] = rest {
        let code = others.get(..3).filter(|_| *first == b'\\');
        let code = code.and_then(|digits| u8::from_str_radix(str::from_utf8(digits).ok()?, 8).ok());
        bytes.push(code.unwrap_or(*first));
        rest = if code.is_some() { &others[3..] } else { others };
    }
    PathBuf::from(OsString::from_vec(bytes))
}

fn protect((place, flags): &(PathBuf, MsFlags)) -> io::Result<()> {
    read_only(place, *flags)
}

fn read_only(place: &Path, flags: MsFlags) -> io::Result<()> {
    let flags = flags | MsFlags::MS_REMOUNT | MsFlags::MS_BIND | MsFlags::MS_RDONLY;
    match mount(NONE, place, NONE, flags, NONE) {
        // Something else is mounted over it: nobody can get there.
        Ok(()) | Err(nix::errno::Errno::ENOENT | nix::errno::Errno::EINVAL | nix::errno::Errno::ENOTDIR) => {
            Ok(())
        }
        Err(error) => {
            Err(io::Error::other(format!("{}: cannot make it read-only: {error}", place.display())))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mount_points_are_read() {
        let line =
            r"36 35 98:0 /mnt1 /mnt\0402 rw,noatime,nosuid master:1 - ext3 /dev/root rw,errors=continue";
        let (place, flags) = mount_of(line).unwrap();
        assert_eq!(place, Path::new("/mnt 2"));
        assert_eq!(flags, MsFlags::MS_NOATIME | MsFlags::MS_NOSUID);
        assert_eq!(mount_of(""), None);
    }
}
