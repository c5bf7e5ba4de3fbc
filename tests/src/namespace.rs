//! A network namespace with a name, so that `nsenter --net=` finds it. Owns the name and the mount behind it;
//! does not know what is configured inside.

#![expect(unsafe_code, reason = "runs between fork and exec")]

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, setns, unshare};
use nix::unistd::gettid;
use std::fs::{self, File};
use std::io::Write as _;
use std::os::fd::{AsFd as _, AsRawFd as _, BorrowedFd};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Once;
use std::thread;

/// Where named namespaces are kept, as by `ip netns`.
pub const DIRECTORY: &str = "/run/netns";

/// A network namespace that exists as long as this value.
#[derive(Debug)]
pub struct Namespace {
    name: String,
    file: File,
}

impl Namespace {
    /// A new, empty namespace with its loopback up.
    ///
    /// # Panics
    /// Without the privilege, or when the name is taken.
    #[must_use]
    pub fn create(name: &str) -> Self {
        static ONCE: Once = Once::new();
        ONCE.call_once(share_directory);
        let path = Path::new(DIRECTORY).join(name);
        File::create_new(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        let file = thread::scope(|scope| scope.spawn(|| unshare_onto(&path)).join())
            .expect("a new network namespace needs root");
        let namespace = Self { name: name.to_owned(), file };
        namespace.ip("link set lo up");
        namespace
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What to give to `nsenter --net=`.
    #[must_use]
    pub fn path(&self) -> PathBuf {
        Path::new(DIRECTORY).join(&self.name)
    }

    /// Does `work` in a thread inside of the namespace. Sockets made there stay there.
    ///
    /// # Panics
    /// When `work` does, with its panic.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        let result = thread::scope(|scope| {
            scope
                .spawn(|| {
                    setns(&self.file, CloneFlags::CLONE_NEWNET).expect("entering a namespace needs root");
                    work()
                })
                .join()
        });
        result.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }

    /// A command that will run in the namespace. Unlike `ip netns exec` it leaves /sys and the pins alone.
    #[must_use]
    pub fn command(&self, program: impl AsRef<Path>) -> Command {
        let mut command = Command::new(program.as_ref());
        let namespace = self.file.as_raw_fd();
        let enter = move || {
            // SAFETY: the descriptor is open in the child as it was in the parent when the command was made,
            // and is only used before exec closes it.
            let namespace = unsafe { BorrowedFd::borrow_raw(namespace) };
            setns(namespace, CloneFlags::CLONE_NEWNET).map_err(std::io::Error::from)
        };
        // SAFETY: the closure makes one system call and allocates nothing.
        unsafe { command.pre_exec(enter) };
        command
    }

    /// Runs lines of `ip` commands in one process.
    ///
    /// # Panics
    /// When one of them fails.
    #[track_caller]
    pub fn ip(&self, script: &str) {
        if let Err(error) = self.try_ip(script) {
            panic!("{}: ip said {error} to\n{script}", self.name);
        }
    }

    /// As [`Self::ip`], for commands that may fail.
    ///
    /// # Errors
    /// What `ip` wrote to standard error.
    pub fn try_ip(&self, script: &str) -> Result<(), String> {
        let mut child = self
            .command("ip")
            .args(["-batch", "-"])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("iproute2 is installed");
        // A child that does not read has something to say on standard error.
        let _ = child.stdin.take().expect("it was piped").write_all(script.as_bytes());
        let output = child.wait_with_output().map_err(|error| error.to_string())?;
        if output.status.success() {
            Ok(())
        } else {
            Err(String::from_utf8_lossy(&output.stderr).into_owned())
        }
    }

    /// What a sysctl of the namespace is, by its path below /proc/sys. `None` when it does not exist.
    #[must_use]
    pub fn sysctl(&self, path: &str) -> Option<String> {
        let path = Path::new("/proc/sys").join(path);
        self.run(|| fs::read_to_string(path).ok()).map(|text| text.trim().to_owned())
    }

    /// Sets a sysctl of the namespace.
    ///
    /// # Panics
    /// When the kernel refuses.
    #[track_caller]
    pub fn set_sysctl(&self, path: &str, value: &str) {
        let path = Path::new("/proc/sys").join(path);
        self.run(|| fs::write(&path, value)).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    }

    /// For `setns`.
    #[must_use]
    pub fn descriptor(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        remove(&self.path());
    }
}

/// Makes the folder a mount of its own that is shared, unless it is one, as `ip netns add` does.
///
/// KERNEL: the first `ip netns add` on a machine mounts the folder onto itself, with all the mounts in it. Names that are mounted
/// by then stay mounted below, where nobody can unmount them, so they can never be removed (EBUSY). Whoever does it first is safe.
fn share_directory() {
    fs::create_dir_all(DIRECTORY).expect("creating /run/netns needs root");
    let share =
        || mount(None::<&str>, DIRECTORY, None::<&str>, MsFlags::MS_SHARED | MsFlags::MS_REC, None::<&str>);
    // KERNEL: EINVAL says that it is no mount yet. Two test processes at once make two, one upon the other, which harms nobody.
    if share().is_err() {
        let onto_itself = MsFlags::MS_BIND | MsFlags::MS_REC;
        mount(Some(DIRECTORY), DIRECTORY, None::<&str>, onto_itself, None::<&str>).expect("a bind mount");
        share().expect("it is a mount now");
    }
}

/// Takes the name away; the kernel takes the namespace when nothing in it is open any more.
pub(crate) fn remove(path: &Path) {
    // The mount may be absent when creation failed half-way; the file may be gone when somebody swept.
    let _ = umount2(path, MntFlags::MNT_DETACH);
    let _ = fs::remove_file(path);
}

/// Moves this thread to a new namespace and gives it a name.
fn unshare_onto(path: &Path) -> File {
    unshare(CloneFlags::CLONE_NEWNET).expect("unshare");
    let own = format!("/proc/self/task/{}/ns/net", gettid());
    mount(Some(own.as_str()), path, None::<&str>, MsFlags::MS_BIND, None::<&str>).expect("bind mount");
    File::open(path).expect("it was just mounted")
}
