//! A host of the lab with a whole Debian and a real systemd: a root that `cargo xtask test package` has made, in which systemd-nspawn boots,
//! with the network of the host. Packages are installed there as on any machine; what is written goes away with it.
//!
//! Fetches and packs nothing. Where a root or the packages are not there, a test says that it was skipped.

use crate::host::Host;
use crate::lab::Lab;
use crate::namespace::Namespace;
use crate::release::build_folder;
use crate::resources::Directory;
use crate::wait;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::fs::{self, File};
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::Arc;
use std::time::Duration;

/// By what systemd counts; the first one's is 252, the other one's 257.
pub const RELEASES: [&str; 2] = ["bookworm", "trixie"];

/// LIMIT: for a busy machine; an idle one needs two seconds.
const BOOT: Duration = Duration::from_secs(60);
/// LIMIT: for a busy machine. What takes longest is to unpack a package, a second or so on an idle one.
const COMMAND: Duration = Duration::from_secs(120);

/// Where the lab's resources are in there.
pub const RESOURCES: &str = "/etc/cutover/resources";

/// Puts an empty folder over the root that all tests share, and boots it in the network namespace that is named.
///
/// systemd-nspawn takes the privileges away that an agent needs, filters system calls, makes /proc/sys read-only and uses the host's
/// hierarchy of cgroups, unless it is told not to. It registers nothing with the host's own systemd, if there is one.
const BOOT_SCRIPT: &str = r#"
set -e
lower=$1 own=$2 name=$3 network=$4 resources=$5 packages=$6
mkdir -p "$own/upper" "$own/work" "$own/root"
mount -t overlay overlay -o "lowerdir=$lower,upperdir=$own/upper,workdir=$own/work" "$own/root"
export SYSTEMD_NSPAWN_UNIFIED_HIERARCHY=1 SYSTEMD_NSPAWN_API_VFS_WRITABLE=yes
exec systemd-nspawn --quiet --settings=no --keep-unit --register=no --directory="$own/root" --machine="$name" \
    --network-namespace-path="$network" --capability=all --system-call-filter="bpf perf_event_open @keyring" \
    --bind="$resources:/etc/cutover/resources" --bind-ro="$packages:/packages" --console=pipe --boot
"#;

/// A booted Debian.
#[derive(Debug)]
pub struct Debian {
    name: String,
    release: &'static str,
    network: Arc<Namespace>,
    nspawn: Child,
    /// The number of its systemd, as it is outside.
    first_pid: i32,
    console: PathBuf,
}

/// Whether this release can be booted and there is something to install. If not, the tests' output says that `what` was not tried.
#[must_use]
pub fn is_there(release: &str, what: &str) -> bool {
    let missing = [root(release), packages()].into_iter().find(|folder| !folder.is_dir());
    if let Some(folder) = &missing {
        // Nobody is left to tell if standard error is closed.
        let _ = writeln!(
            std::io::stderr(),
            "\nSKIPPED on {release}: {what}. {} is not there; `cargo xtask test package` makes it, or says why it cannot",
            folder.display()
        );
    }
    missing.is_none()
}

fn root(release: &str) -> PathBuf {
    build_folder().join("roots").join(release)
}

/// Two revisions of the packages, each in a folder of its own.
fn packages() -> PathBuf {
    build_folder().join("packages")
}

impl Debian {
    /// Boots it, and waits until systemd has started everything.
    ///
    /// # Panics
    /// When it does not come up.
    #[must_use]
    pub fn boot(lab: &Lab, host: &Host, release: &'static str, directory: &Directory) -> Self {
        let own = lab.folder().join(format!("{}-{release}", host.name()));
        fs::create_dir_all(&own).expect("space on the disk");
        let console = own.join("console.log");
        let log = File::create(&console).expect("space on the disk");
        let name = format!("{}{}", lab.prefix(), host.name());
        let mut nspawn = Command::new("unshare")
            .args(["--mount", "sh", "-c", BOOT_SCRIPT, "sh"])
            .args([&root(release), &own])
            .arg(&name)
            .args([&host.namespace().path(), directory.path(), &packages()])
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("a descriptor"))
            .stderr(log)
            .spawn()
            .expect("util-linux is installed");
        let first_pid = wait::for_some(BOOT, "systemd-nspawn starts a systemd", || {
            if let Some(status) = nspawn.try_wait().expect("it is a child") {
                panic!("systemd-nspawn: {status}\n{}", fs::read_to_string(&console).unwrap_or_default());
            }
            first_process(nspawn.id())
        });
        let debian = Self { name, release, network: host.namespace_shared(), nspawn, first_pid, console };
        let is_up = || {
            let state = debian.try_run("systemctl is-system-running");
            ["running", "degraded"].contains(&String::from_utf8_lossy(&state.stdout).trim())
        };
        assert!(wait::holds_within(BOOT, is_up), "not booted:\n{}", debian.console());
        // systemd mounts it by itself, but not in a container.
        debian.run("mount -t bpf bpf /sys/fs/bpf");
        debian
    }

    /// What it has said on its console.
    #[must_use]
    pub fn console(&self) -> String {
        fs::read_to_string(&self.console).unwrap_or_default()
    }

    /// Runs lines of a shell in there.
    #[must_use]
    pub fn try_run(&self, script: &str) -> Output {
        self.command(script).output().expect("util-linux is installed")
    }

    /// As [`Self::try_run`], where every line has to succeed. Returns what was said, on either channel.
    ///
    /// # Panics
    /// When one of them fails.
    #[track_caller]
    pub fn run(&self, script: &str) -> String {
        let output = self.try_run(&format!("exec 2>&1\nset -e\n{script}"));
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(output.status.success(), "{}: {}\n{script}\nsaid:\n{said}", self.release, output.status);
        said
    }

    /// For something that goes on while the test does something else.
    #[must_use]
    pub fn command(&self, script: &str) -> Command {
        let mut command = self.network.command("timeout");
        command.arg(wait::patient(COMMAND).as_secs().to_string());
        command.args(["nsenter", "--target", &self.first_pid.to_string()]);
        command.args(["--mount", "--uts", "--ipc", "--pid", "--cgroup", "--", "/bin/sh", "-c", script]);
        command.env_clear().env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin").env("LC_ALL", "C.UTF-8");
        command.env("DEBIAN_FRONTEND", "noninteractive").stdin(Stdio::null());
        command
    }

    /// Writes a file in there.
    ///
    /// # Panics
    /// When the disk is full.
    pub fn write(&self, path: &str, text: &str) {
        let path = self.path(path);
        fs::create_dir_all(path.parent().expect("a file")).expect("space on the disk");
        fs::write(&path, text).expect("space on the disk");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).expect("it is ours");
    }

    /// A path of it, as seen from outside.
    #[must_use]
    pub fn path(&self, path: &str) -> PathBuf {
        Path::new("/proc").join(self.first_pid.to_string()).join("root").join(path.trim_start_matches('/'))
    }

    /// A property of a unit, as systemd has it.
    #[must_use]
    #[track_caller]
    pub fn property(&self, unit: &str, name: &str) -> String {
        self.run(&format!("systemctl show --property={name} --value {unit}")).trim().to_owned()
    }

    /// Installs a revision of the package, as an administrator does who has downloaded it: one command.
    #[track_caller]
    pub fn install(&self, revision: u32) -> String {
        self.run(&install(revision))
    }
}

/// The command that installs a revision, or goes back to it.
#[must_use]
pub fn install(revision: u32) -> String {
    format!("apt-get install --yes --quiet --allow-downgrades /packages/{revision}/cutover_*.deb")
}

impl Drop for Debian {
    fn drop(&mut self) {
        // The first process takes all others along, and then systemd-nspawn ends, which tidies up.
        let _ = kill(Pid::from_raw(self.first_pid), Signal::SIGKILL);
        let _ = self.nspawn.wait();
        // It leaves this on hosts where /run is on a disk.
        let _ = fs::remove_dir(Path::new("/run/systemd/nspawn/propagate").join(&self.name));
    }
}

/// The child that is the first process of its namespace.
fn first_process(parent: u32) -> Option<i32> {
    let children = fs::read_to_string(format!("/proc/{parent}/task/{parent}/children")).ok()?;
    let is_first = |child: &&str| {
        let status = fs::read_to_string(format!("/proc/{child}/status")).unwrap_or_default();
        status.lines().any(|line| line.starts_with("NSpid:") && line.ends_with("\t1"))
    };
    children.split_whitespace().find(is_first)?.parse().ok()
}
