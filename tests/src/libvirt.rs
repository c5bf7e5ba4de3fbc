//! libvirt on lab hosts: a [`Libvirt`] is libvirtd with QEMU in namespaces of its own, so that two of them on one machine know nothing
//! of each other and nothing outlives them. Domains boot what the lab's guests boot, have no disk and only the interfaces of the ports
//! that they are given, and move from one to the other as Nova moves them.
//!
//! Owns the namespaces and what is mounted there. It fetches nothing: without the packages that `cargo xtask setup` unpacks, a test
//! says that it was skipped.

use crate::host::Host;
use crate::hypervisor::{Image, Qmp, command_line};
use crate::lab::Lab;
use crate::release::build_folder;
use crate::resources::Port;
use crate::script;
use crate::wait;
use cutover_initramfs::BUSYBOX;
use std::fs;
use std::io::Write as _;
use std::net::Ipv4Addr;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::Arc;
use std::time::Duration;

/// LIMIT: at its first domain, libvirt starts QEMU several times to see what it can do. On a busy machine.
pub const BEGUN: Duration = Duration::from_secs(90);

/// Folders of `cargo xtask setup` that are the daemon's root together, the first one on top.
const FOLDERS: [&str; 2] = ["libvirt-11", "qemu-10"];

/// Makes a root out of them, and stays as what everything else in the namespaces is a child of.
///
/// KERNEL: the first process of a PID namespace takes everything with it when it ends, and is the parent of what has lost its own. The
/// shell waits for those as well while it waits for `sleep`.
const FIRST_PROCESS: &str = r#"
set -e
lower=$1 own=$2 cutover=$3 name=$4 folder=$5
echo "$name" >/proc/sys/kernel/hostname
mkdir -p "$own/upper" "$own/work" "$own/root"
mount -t overlay overlay -o "lowerdir=$lower,upperdir=$own/upper,workdir=$own/work" "$own/root"
cd "$own/root"
for usual in lib lib64 bin sbin; do [ -e $usual ] || ln -s usr/$usual $usual; done
mkdir -p proc sys dev run tmp image var/log/libvirt/qemu var/lib/libvirt var/cache/libvirt etc/libvirt
[ -e var/run ] || ln -s ../run var/run
mount -t proc proc proc
mount -t sysfs sysfs sys
mount --rbind /dev dev
mount -t tmpfs tmpfs run
touch cutover && mount --bind "$cutover" cutover
mkdir -p "$own/root$folder" && mount --bind "$folder" "$own/root$folder"
cp "$own/etc/passwd" "$own/etc/group" etc/
cp "$own/etc/libvirtd.conf" "$own/etc/qemu.conf" etc/libvirt/
touch "$own/ready"
sleep infinity
"#;

/// Becomes the agent in that root, where libvirt and its library are: the same process, in a mount namespace of its own.
///
/// KERNEL: a process that is not in the PID namespace of a `proc` has no `/proc/self` there, so it gets another one.
const AGENT: &str = r#"
set -e
root=$1 folder=$2
shift 2
mount -t proc proc "$root/proc"
mount --bind /sys/fs/bpf "$root/sys/fs/bpf"
mkdir -p "$root$folder"
mount --bind "$folder" "$root$folder"
exec /usr/sbin/chroot "$root" /cutover "$@"
"#;

const PASSWD: &str = "root:x:0:0:root:/:/bin/sh\nlibvirt-qemu:x:64055:64055::/:/bin/false\n";
const GROUP: &str = "root:x:0:\nkvm:x:104:\nlibvirt:x:105:\nlibvirt-qemu:x:64055:\n";
/// What needs other parts of a host is off.
const QEMU_CONF: &str = "user = \"+0\"\ngroup = \"+0\"\ndynamic_ownership = 0\nremember_owner = 0\n\
    security_driver = \"none\"\nstdio_handler = \"file\"\nnamespaces = []\ncgroup_controllers = []\n";

/// What `virsh` is told first.
const CONNECT: [&str; 3] = ["--quiet", "--connect", "qemu:///system"];

/// Where the second monitor of a domain's QEMU is, in the root of its host.
const MONITOR: &str = "tmp/monitor";

/// libvirtd on a host.
#[derive(Debug)]
pub struct Libvirt {
    host: Arc<crate::namespace::Namespace>,
    address: Ipv4Addr,
    /// Of the lab.
    folder: PathBuf,
    own: PathBuf,
    /// Keeps the namespaces.
    first: Child,
    /// The number of the first process in the namespaces, as it is outside.
    first_pid: i32,
    daemon: Option<Child>,
    /// `cutover libvirt follow`.
    follower: Option<Child>,
}

/// Whether libvirt can be run here. If not, the tests' output says that `what` was not tried, captured or not.
#[must_use]
pub fn is_there(what: &str) -> bool {
    let missing = FOLDERS.iter().find(|folder| !build_folder().join("daemons").join(folder).is_dir());
    if let Some(folder) = missing {
        // Nobody is left to tell if standard error is closed.
        let _ = writeln!(
            std::io::stderr(),
            "\nSKIPPED: {what}. {folder} is not unpacked; `cargo xtask setup` does that, or says why it cannot"
        );
    }
    missing.is_none()
}

impl Libvirt {
    /// Starts libvirtd on a host, and waits until it answers. `cutover` is the program that will be `/cutover` in its root.
    ///
    /// # Panics
    /// When it does not start.
    #[must_use]
    pub fn start(lab: &Lab, host: &Host, cutover: &Path) -> Self {
        let own = lab.folder().join(format!("{}-libvirt", host.name()));
        let etc = own.join("etc");
        fs::create_dir_all(&etc).expect("space on the disk");
        let libvirtd_conf = format!(
            "listen_tls = 0\nlisten_tcp = 1\nauth_tcp = \"none\"\nauth_unix_ro = \"none\"\nauth_unix_rw = \"none\"\n\
             host_uuid = \"6c1b1b3e-0000-4000-8000-0000000000{:02x}\"\n",
            host.ipv4().octets()[3]
        );
        for (name, text) in [
            ("passwd", PASSWD),
            ("group", GROUP),
            ("qemu.conf", QEMU_CONF),
            ("libvirtd.conf", &libvirtd_conf),
        ] {
            fs::write(etc.join(name), text).expect("space on the disk");
        }
        let lower: Vec<String> =
            FOLDERS.map(|folder| build_folder().join("daemons").join(folder).display().to_string()).into();
        let mut command = host.namespace().command("unshare");
        command.args([
            "--mount",
            "--uts",
            "--pid",
            "--fork",
            "--kill-child",
            "sh",
            "-c",
            FIRST_PROCESS,
            "sh",
        ]);
        command.arg(lower.join(":")).arg(&own).arg(cutover).arg(host.name()).arg(lab.folder());
        let log = fs::File::create(own.join("first.log")).expect("space on the disk");
        let first =
            command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).spawn().expect("util-linux");
        let in_time = wait::holds_within(wait::SOON, || own.join("ready").exists());
        let said = fs::read_to_string(own.join("first.log")).unwrap_or_default();
        assert!(in_time, "no root for libvirt: {said}");
        let first_pid = only_child(first.id());
        let mut libvirt = Self {
            host: host.namespace_shared(),
            address: host.ipv4(),
            folder: lab.folder().to_owned(),
            own,
            first,
            first_pid,
            daemon: None,
            follower: None,
        };
        let image = Image::cached();
        for (name, file) in [("kernel", image.kernel()), ("initramfs", image.initramfs())] {
            fs::copy(file, libvirt.inside(&format!("image/{name}"))).expect("space on the disk");
        }
        libvirt.start_daemon();
        libvirt
    }

    /// Starts the daemon after [`Self::kill_daemon`], and waits until it answers.
    ///
    /// # Panics
    /// When it does not, or when it runs.
    pub fn start_daemon(&mut self) {
        assert!(self.daemon.is_none(), "it runs");
        let log = fs::File::options().append(true).create(true).open(self.own.join("libvirtd.log"));
        let mut command = self.command("/usr/sbin/libvirtd");
        command.arg("--listen").stdin(Stdio::null()).stdout(Stdio::null());
        self.daemon = Some(command.stderr(log.expect("space on the disk")).spawn().expect("util-linux"));
        let in_time = wait::holds_within(BEGUN, || self.virsh(&["version"]).status.success());
        let said = fs::read_to_string(self.own.join("libvirtd.log")).unwrap_or_default();
        assert!(in_time, "libvirtd does not answer: {said}");
    }

    /// SIGKILL for the daemon; domains go on.
    pub fn kill_daemon(&mut self) {
        if let Some(mut daemon) = self.daemon.take() {
            self.signal_daemon("KILL");
            // What it was started with stops with it, and does not go on with it.
            let _ = daemon.kill();
            let _ = daemon.wait();
        }
    }

    /// Gives the daemon's sockets the names that those of virtqemud have, which Debian does not build. It is the same program
    /// with fewer drivers. To be called once, and not before a restart.
    ///
    /// # Panics
    /// When it does not run.
    pub fn pass_for_virtqemud(&self) {
        for suffix in ["", "-ro"] {
            let [old, new] = ["libvirt-sock", "virtqemud-sock"]
                .map(|name| self.inside(&format!("run/libvirt/{name}{suffix}")));
            fs::rename(old, new).expect("it runs");
        }
    }

    /// Sends the daemon a signal, by its name.
    ///
    /// # Panics
    /// When it does not run.
    pub fn signal_daemon(&self, signal: &str) {
        self.signal("run/libvirtd.pid", signal);
    }

    /// SIGKILL for the QEMU of a domain.
    ///
    /// # Panics
    /// When it does not run.
    pub fn kill_guest(&self, name: &str) {
        self.signal(&format!("run/libvirt/qemu/{name}.pid"), "KILL");
    }

    fn signal(&self, pid_file: &str, signal: &str) {
        // The number is that of the namespace.
        let pid = fs::read_to_string(self.inside(pid_file)).expect("it runs");
        let mut command = Command::new("nsenter");
        command.args(["--target", &self.first_pid.to_string(), "--pid", "kill", "-s", signal, pid.trim()]);
        let status = command.status().expect("util-linux");
        assert!(status.success(), "kill: {status}");
    }

    /// A command in the namespaces and the root of this host.
    #[must_use]
    pub fn command(&self, program: &str) -> Command {
        let mut command = self.host.command("nsenter");
        command.args(["--target", &self.first_pid.to_string(), "--mount", "--uts", "--pid", "--"]);
        command.arg("chroot").arg(self.root()).arg(program);
        command.env("LC_ALL", "C");
        command
    }

    fn root(&self) -> PathBuf {
        self.own.join("root")
    }

    /// A file in the root of this host, as seen from outside.
    #[must_use]
    pub fn inside(&self, path: &str) -> PathBuf {
        let root = self.root();
        let root = root.strip_prefix("/").expect("the lab's folder has a whole path");
        Path::new("/proc").join(self.first_pid.to_string()).join("root").join(root).join(path)
    }

    /// A program that is `/cutover` in the root of this host, for whoever can start programs only by their path.
    ///
    /// # Panics
    /// When the disk is full.
    #[must_use]
    pub fn cutover(&self) -> PathBuf {
        let script = self.own.join("cutover");
        // The environment may be empty, and the search path with it.
        let text = format!(
            "#!/bin/sh\nexec nsenter --target {} --mount --uts -- /usr/sbin/chroot {} /cutover \"$@\"\n",
            self.first_pid,
            self.root().display()
        );
        script::install(&script, &text);
        script
    }

    /// A program that is a whole agent of this host: `/cutover` in its root, where libvirt's library and sockets are, with the lab's
    /// folder and the pins of BPF where they are for everybody else.
    ///
    /// # Panics
    /// When the disk is full.
    #[must_use]
    pub fn agent(&self) -> PathBuf {
        let script = self.own.join("agent");
        let text = format!(
            "#!/bin/sh\nexec nsenter --target {} --mount --uts -- unshare --mount sh -c '{AGENT}' sh {} {} \"$@\"\n",
            self.first_pid,
            self.root().display(),
            self.folder.display()
        );
        script::install(&script, &text);
        script
    }

    /// Processes that [`Self::cutover`] has become, by their numbers.
    #[must_use]
    pub fn helpers(&self) -> Vec<i32> {
        let namespace = |pid: i32| fs::read_link(format!("/proc/{pid}/ns/mnt")).ok();
        let own = namespace(self.first_pid);
        let is_one = |pid: &i32| {
            let words = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            words.starts_with(b"/cutover\0") && namespace(*pid) == own
        };
        let processes = fs::read_dir("/proc").into_iter().flatten().flatten();
        let numbers = processes.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
        numbers.filter(is_one).collect()
    }

    /// Runs `virsh`.
    ///
    /// # Panics
    /// When it cannot be started.
    #[must_use]
    pub fn virsh(&self, arguments: &[&str]) -> Output {
        self.command("/usr/bin/virsh").args(CONNECT).args(arguments).output().expect("util-linux")
    }

    /// Runs `virsh`, which has to succeed. Returns what it printed.
    ///
    /// # Panics
    /// When it fails.
    #[track_caller]
    pub fn must(&self, arguments: &[&str]) -> String {
        let output = self.virsh(arguments);
        let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(output.status.success(), "virsh {arguments:?}: {err}");
        out.trim().to_owned()
    }

    /// Boots a domain, and waits until its guest has.
    ///
    /// # Panics
    /// When it does not.
    pub fn boot(&self, name: &str, uuid: &str) {
        self.boot_with(name, uuid, &[]);
    }

    /// Puts the package's hook where libvirt looks for it, and starts the daemon anew, which looks only then. `configuration` is what the
    /// agent of this host is configured with.
    ///
    /// # Panics
    /// When the daemon does not start.
    pub fn install_hook(&mut self, configuration: &Path) {
        for folder in ["etc/libvirt/hooks/qemu.d", "etc/calico"] {
            fs::create_dir_all(self.inside(folder)).expect("space on the disk");
        }
        let hook = Path::new(env!("CARGO_MANIFEST_DIR")).join("../dist/libvirt/cutover");
        fs::copy(hook, self.inside("etc/libvirt/hooks/qemu.d/cutover")).expect("space on the disk");
        fs::copy(configuration, self.inside("etc/calico/felix.cfg")).expect("space on the disk");
        symlink("/cutover", self.inside("usr/bin/cutover")).expect("space on the disk");
        // The root has no shell of its own, and this one needs no library.
        fs::copy(BUSYBOX, self.inside("usr/bin/sh")).expect("busybox-static, and space on the disk");
        self.kill_daemon();
        self.start_daemon();
    }

    /// Starts `cutover libvirt follow`, as the package's unit does.
    ///
    /// # Panics
    /// When it cannot be started.
    pub fn start_follower(&mut self) {
        let log = fs::File::create(self.own.join("follower.log")).expect("space on the disk");
        let mut command = self.command("/usr/bin/cutover");
        command.args(["libvirt", "follow"]).stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        self.follower = Some(command.spawn().expect("util-linux"));
    }

    /// What it has logged.
    #[must_use]
    pub fn follower_log(&self) -> String {
        fs::read_to_string(self.own.join("follower.log")).unwrap_or_default()
    }

    /// As [`Self::boot`], with an interface for each of these ports, whose taps are plugged on this host.
    ///
    /// # Panics
    /// When it does not.
    pub fn boot_with(&self, name: &str, uuid: &str, ports: &[Port]) {
        self.boot_from(&domain(name, uuid, ports));
    }

    /// As [`Self::boot_with`]; what the hook has to know of the ports is in the domain's metadata.
    ///
    /// # Panics
    /// When it does not.
    pub fn boot_described(&self, name: &str, uuid: &str, ports: &[Port]) {
        let metadata = format!("<metadata>{}</metadata>\n  <memory", metadata(ports));
        self.boot_from(&domain(name, uuid, ports).replacen("<memory", &metadata, 1));
    }

    fn boot_from(&self, xml: &str) {
        fs::write(self.inside("tmp/domain.xml"), xml).expect("space on the disk");
        self.must(&["create", "/tmp/domain.xml"]);
        let console = || fs::read_to_string(self.inside("tmp/console")).unwrap_or_default();
        wait::until(BEGUN, "the guest has booted", || console().contains("cutover-guest: "));
    }

    /// The second monitor of the domain that runs here. The first is libvirt's.
    ///
    /// # Panics
    /// When there is none.
    #[must_use]
    pub fn monitor(&self) -> Qmp {
        Qmp::connect(&self.inside(MONITOR))
    }

    /// Begins to move a domain as Nova does, one daemon to the other. Returns at once.
    ///
    /// # Panics
    /// When `virsh` cannot be started.
    #[must_use]
    pub fn begin_migration(&self, name: &str, target: &Self, more: &[&str]) -> Child {
        let mut command = self.command("/usr/bin/virsh");
        command.args(CONNECT).args(["migrate", "--live", "--p2p", name]).args(more);
        command.arg(format!("qemu+tcp://{}/system", target.address));
        command.args(["--migrateuri", &format!("tcp://{}", target.address)]);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().expect("util-linux")
    }

    /// Ends the migration that is under way. Returns at once.
    ///
    /// # Panics
    /// When `virsh` cannot be started.
    #[must_use]
    pub fn cancel_migration(&self, name: &str) -> Child {
        let mut command = self.command("/usr/bin/virsh");
        command.args(CONNECT).args(["domjobabort", name]).stdout(Stdio::null()).spawn().expect("util-linux")
    }

    /// Moves a domain.
    ///
    /// # Panics
    /// When that fails.
    #[track_caller]
    pub fn migrate(&self, name: &str, target: &Self) {
        let output = self.begin_migration(name, target, &[]).wait_with_output().expect("a child");
        assert!(output.status.success(), "no migration: {}", String::from_utf8_lossy(&output.stderr));
    }
}

impl Drop for Libvirt {
    fn drop(&mut self) {
        // Everything in its namespaces goes with it.
        let _ = self.first.kill();
        let _ = self.first.wait();
        for mut child in self.daemon.take().into_iter().chain(self.follower.take()) {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// What docs/libvirt.md has operators write. The id of a port is its endpoint.
fn metadata(ports: &[Port]) -> String {
    let port = |port: &Port| {
        let addresses: String = port
            .addresses
            .iter()
            .map(|net| format!("<cutover:address>{}</cutover:address>", net.addr()))
            .collect();
        format!("<cutover:port mac='{}' id='{}'>{addresses}</cutover:port>", port.mac, port.endpoint)
    };
    let ports: String = ports.iter().map(port).collect();
    format!("<cutover:ports xmlns:cutover='urn:cutover:libvirt:1'>{ports}</cutover:ports>")
}

fn only_child(parent: u32) -> i32 {
    let children = format!("/proc/{parent}/task/{parent}/children");
    let children = fs::read_to_string(children).expect("it runs");
    children.split_whitespace().next().and_then(|child| child.parse().ok()).expect("it has a child")
}

/// With interfaces as Nova describes those of Calico's ports: taps that somebody else has plugged.
fn domain(name: &str, uuid: &str, ports: &[Port]) -> String {
    let interface = |port: &Port| {
        format!(
            "<interface type='ethernet'>
      <mac address='{}'/>
      <target dev='{}' managed='no'/>
      <model type='virtio'/>
      <driver name='qemu'/>
      <rom enabled='no'/>
    </interface>",
            port.mac, port.interface
        )
    };
    let interfaces: String = ports.iter().map(interface).collect();
    let line = command_line(ports);
    format!(
        "<domain type='qemu' xmlns:qemu='http://libvirt.org/schemas/domain/qemu/1.0'>
  <name>{name}</name>
  <uuid>{uuid}</uuid>
  <memory unit='MiB'>128</memory>
  <vcpu>1</vcpu>
  <os>
    <type arch='x86_64' machine='pc'>hvm</type>
    <kernel>/image/kernel</kernel>
    <initrd>/image/initramfs</initrd>
    <cmdline>{line}</cmdline>
  </os>
  <features><acpi/></features>
  <cpu mode='custom' match='exact'><model>qemu64</model></cpu>
  <devices>
    <emulator>/usr/bin/qemu-system-x86_64</emulator>
    <memballoon model='none'/>
    <controller type='usb' model='none'/>
    <serial type='file'><source path='/tmp/console'/></serial>
    {interfaces}
  </devices>
  <qemu:commandline>
    <qemu:arg value='-qmp'/>
    <qemu:arg value='unix:/{MONITOR},server=on,wait=off'/>
  </qemu:commandline>
</domain>
"
    )
}
