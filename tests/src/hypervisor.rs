//! Real virtual machines: a [`Hypervisor`] is a QEMU process on a lab host with the taps of one guest open, started
//! cold or waiting for a guest to arrive, and steered by QMP. No KVM: guests are emulated (TCG), so they are slow, but
//! what they send on their taps and when is what any QEMU and any Linux guest sends.

mod image;
mod program;
mod qmp;

pub use image::Image;
pub use qmp::{Event, Qmp, QmpError};

use crate::host::Host;
use crate::lab::Lab;
use crate::resources::Port;
use crate::{stream, wait};
use cutover_daemon::clock;
use cutover_engine::BootTime;
use ipnet::IpNet;
use program::Qemu;
use serde_json::{Value, json};
use std::fs;
use std::net::{IpAddr, Ipv6Addr};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;

/// How long a guest may take to boot on a loaded machine; it takes about a second on an idle one.
const BOOT: Duration = Duration::from_secs(60);

/// Ports of the hosts where guests arrive. Hosts have network namespaces of their own; guests on one host need different
/// ones.
const FIRST_PORT: u16 = 4444;
const PORTS: u16 = 10_000;

/// How long a migration that is not throttled may take on a loaded machine.
pub const MIGRATION: Duration = Duration::from_secs(60);

/// How QEMU and the guest announce themselves after a migration.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Announcing {
    /// QEMU's RARP, and the guest's own gratuitous ARP and neighbour advertisements (virtio's GUEST_ANNOUNCE).
    #[default]
    Full,
    /// QEMU's RARP only, as with a guest that has no such driver.
    QemuOnly,
    /// Nobody says anything.
    Silent,
}

/// What a guest is like. The same on both sides of a migration.
#[derive(Clone, Debug)]
pub struct Guest {
    /// Its interfaces.
    pub ports: Vec<Port>,
    /// Who announces it.
    pub announcing: Announcing,
}

impl Guest {
    /// A guest with one interface.
    #[must_use]
    pub fn new(port: &Port) -> Self {
        Self::with_ports(std::slice::from_ref(port))
    }

    /// A guest with several.
    #[must_use]
    pub fn with_ports(ports: &[Port]) -> Self {
        Self { ports: ports.to_vec(), announcing: Announcing::default() }
    }

    /// The same, announced in another way.
    #[must_use]
    pub fn announced_by(mut self, announcing: Announcing) -> Self {
        self.announcing = announcing;
        self
    }

    /// Every address that it has; a floating one, which nobody translates here, is one of its own.
    #[must_use]
    pub fn addresses(&self) -> Vec<IpAddr> {
        self.routed().iter().map(IpNet::addr).collect()
    }

    /// Every prefix that is routed to it.
    #[must_use]
    pub fn routed(&self) -> Vec<IpNet> {
        self.ports.iter().flat_map(Port::routed).collect()
    }
}

/// A QEMU process. It ends with this value.
#[derive(Debug)]
pub struct Hypervisor {
    child: Option<Child>,
    qmp: Qmp,
    console: PathBuf,
    /// Where a guest would arrive.
    arrival: String,
    announcing: Announcing,
}

/// The numbers of one finished migration, as QEMU tells them.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Migrated {
    /// From the request to the end.
    pub total: Duration,
    /// How long the guest did not run anywhere, by QEMU's own estimate, whole milliseconds.
    pub downtime: Duration,
}

impl Hypervisor {
    /// Starts a QEMU on a host whose taps are plugged, and returns while the guest boots.
    ///
    /// # Panics
    /// When QEMU does not start.
    #[must_use]
    pub fn start(lab: &Lab, host: &Host, guest: &Guest) -> Self {
        Self::spawn(lab, host, guest, &[])
    }

    /// Starts a QEMU that waits for the guest to arrive from another one.
    ///
    /// # Panics
    /// When QEMU does not start.
    #[must_use]
    pub fn expect_arrival(lab: &Lab, host: &Host, guest: &Guest) -> Self {
        Self::spawn(lab, host, guest, &["-incoming", "defer"])
    }

    fn spawn(lab: &Lab, host: &Host, guest: &Guest, more: &[&str]) -> Self {
        let image = Image::cached();
        static NEXT: AtomicU16 = AtomicU16::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("{}-{}-{number}", host.name(), guest.ports[0].interface);
        let socket = lab.folder().join(format!("{name}.qmp"));
        let console = lab.folder().join(format!("{name}.console"));
        let qemu = Qemu::find();
        let mut command = host.namespace().command(&qemu.program);
        command.args(["-accel", "tcg,thread=single", "-cpu", "qemu64", "-m", qemu.memory, "-nodefaults"]);
        command.args(["-display", "none", "-no-reboot", "-kernel"]).arg(image.kernel());
        command.arg("-initrd").arg(image.initramfs());
        command.args(["-append", &command_line(&guest.ports)]);
        command.arg("-serial").arg(format!("file:{}", console.display()));
        command.arg("-qmp").arg(format!("unix:{},server=on,wait=off", socket.display()));
        for (number, port) in guest.ports.iter().enumerate() {
            let announce = if guest.announcing == Announcing::Full { "on" } else { "off" };
            command.args([
                "-netdev",
                &format!("tap,id=net{number},ifname={},script=no,downscript=no,vhost=off", port.interface),
                "-device",
                &format!(
                    "virtio-net-pci,netdev=net{number},mac={},romfile=,guest_announce={announce}{}",
                    port.mac, qemu.network
                ),
            ]);
        }
        let child = launch(command.args(more), &socket);
        let qmp = Qmp::connect(&socket);
        let arrival = format!("tcp:{}:{}", host.ipv4(), FIRST_PORT + number % PORTS);
        let hypervisor = Self { child: Some(child), qmp, console, arrival, announcing: guest.announcing };
        hypervisor.set_up_announcing();
        hypervisor
    }

    /// What the monitor of this QEMU says and takes.
    #[must_use]
    pub fn qmp(&self) -> &Qmp {
        &self.qmp
    }

    /// What the guest has written to its console.
    #[must_use]
    pub fn console(&self) -> String {
        fs::read_to_string(&self.console).unwrap_or_default()
    }

    /// Waits until the guest answers on its echo port.
    ///
    /// # Panics
    /// When it does not; the message has its console.
    #[track_caller]
    pub fn wait_booted(&self) {
        let said = || self.console().lines().any(|line| line.starts_with("cutover-guest: "));
        let booted = wait::holds_within(BOOT, || said() && self.console().ends_with('\n'));
        let console = self.console();
        assert!(booted && console.contains("cutover-guest: ready"), "the guest does not boot:\n{console}");
    }

    /// QEMU announces a guest when it has arrived, so this counts on the target.
    fn set_up_announcing(&self) {
        let rounds = if self.announcing == Announcing::Silent { 0 } else { 5 };
        self.qmp.must("migrate-set-parameters", json!({"announce-rounds": rounds}));
        self.qmp.must(
            "migrate-set-capabilities",
            json!({"capabilities": [{"capability": "events", "state": true}]}),
        );
    }

    /// Makes post-copy possible; to be called on both sides before the migration.
    ///
    /// # Panics
    /// When QEMU or the kernel cannot.
    pub fn allow_postcopy(&self) {
        self.qmp.must(
            "migrate-set-capabilities",
            json!({"capabilities": [{"capability": "postcopy-ram", "state": true}]}),
        );
    }

    /// Begins to move the guest to `target` at most at this rate. Returns at once.
    ///
    /// # Panics
    /// When QEMU refuses.
    pub fn begin_migration(&self, target: &Self, bytes_per_second: u64) {
        target.qmp.must("migrate-incoming", json!({"uri": target.arrival}));
        self.qmp
            .must("migrate-set-parameters", json!({"max-bandwidth": bytes_per_second, "downtime-limit": 50}));
        self.qmp.must("migrate", json!({"uri": target.arrival}));
    }

    /// Makes the guest stay paused before it goes on over there, until [`Self::continue_migration`]; to be called on the source before
    /// the migration.
    ///
    /// # Panics
    /// When QEMU cannot.
    pub fn pause_before_switchover(&self) {
        self.qmp.must(
            "migrate-set-capabilities",
            json!({"capabilities": [{"capability": "pause-before-switchover", "state": true}]}),
        );
    }

    /// Ends that pause.
    ///
    /// # Panics
    /// When the migration is not paused.
    pub fn continue_migration(&self) {
        self.qmp.must("migrate-continue", json!({"state": "pre-switchover"}));
    }

    /// The guest stops and goes on where it is, without any migration. Says when it did, as QEMU notes it.
    ///
    /// # Panics
    /// When QEMU refuses.
    #[must_use]
    pub fn pause_in_place(&self, pause: Duration) -> (BootTime, BootTime) {
        let since = clock::now();
        self.qmp.must("stop", json!({}));
        let stopped_at = self.qmp.wait_event_since(wait::SOON, "STOP", since).at;
        stream::sleep_until(stopped_at + pause);
        self.qmp.must("cont", json!({}));
        (stopped_at, self.qmp.wait_event_since(wait::SOON, "RESUME", since).at)
    }

    /// The guest goes on over there now, whatever has not been copied yet.
    ///
    /// # Panics
    /// When QEMU refuses.
    pub fn switch_to_postcopy(&self) {
        self.qmp.must("migrate-start-postcopy", json!({}));
    }

    /// Ends the migration that was begun here; the guest stays.
    ///
    /// # Panics
    /// When QEMU refuses, or when the migration succeeds all the same.
    #[track_caller]
    pub fn cancel_migration(&self) {
        self.qmp.must("migrate_cancel", json!({}));
        self.wait_status("cancelled");
    }

    /// The guest goes on here after a switch-over that the other side did not survive, as libvirt does it.
    ///
    /// # Panics
    /// When QEMU refuses.
    pub fn take_back(&self) {
        self.qmp.must("cont", json!({}));
    }

    /// Changes the rate of a migration that is under way.
    ///
    /// # Panics
    /// When QEMU refuses.
    pub fn set_bandwidth(&self, bytes_per_second: u64) {
        self.qmp.must("migrate-set-parameters", json!({"max-bandwidth": bytes_per_second}));
    }

    /// What `query-migrate` says: `active`, `completed`, `failed`, `cancelled`, …
    #[must_use]
    pub fn migration_status(&self) -> String {
        let answer = self.qmp.must("query-migrate", json!({}));
        answer["status"].as_str().unwrap_or("none").to_owned()
    }

    /// How much of the guest's memory has gone to the other side.
    #[must_use]
    pub fn copied(&self) -> u64 {
        self.qmp.must("query-migrate", json!({}))["ram"]["transferred"].as_u64().unwrap_or_default()
    }

    /// Waits until `query-migrate` says this.
    ///
    /// # Panics
    /// When it does not.
    #[track_caller]
    pub fn wait_status(&self, status: &str) {
        wait::until(MIGRATION, format_args!("the migration is {status}"), || {
            self.migration_status() == status
        });
    }

    /// Waits for the end of the migration that was begun here.
    ///
    /// # Panics
    /// When it does not succeed.
    #[track_caller]
    pub fn wait_migrated(&self) -> Migrated {
        let mut answer = Value::Null;
        let in_time = wait::holds_within(MIGRATION, || {
            answer = self.qmp.must("query-migrate", json!({}));
            let ended = ["failed", "cancelled"].iter().any(|end| answer["status"] == *end);
            // QEMU says that it is complete before it has worked out how long it took.
            ended || (answer["status"] == "completed" && answer["total-time"].as_u64() > Some(0))
        });
        assert!(in_time && answer["status"] == "completed", "the migration ended with {answer}");
        let millis = |name: &str| Duration::from_millis(answer[name].as_u64().unwrap_or_default());
        Migrated { total: millis("total-time"), downtime: millis("downtime") }
    }

    /// Where the queues of the guest's devices are, as QEMU sees them: one whose guest waits for QEMU while QEMU waits for the
    /// guest stands still. Says so if QEMU does not answer.
    #[must_use]
    pub fn queues(&self) -> String {
        let Ok(devices) = self.qmp.execute("x-query-virtio", json!({})) else {
            return "QEMU does not answer".to_owned();
        };
        let mut text = String::new();
        for device in devices.as_array().into_iter().flatten() {
            for (queue, name) in ["receive", "transmit"].into_iter().enumerate() {
                let question = json!({"path": device["path"], "queue": queue});
                let state = self.qmp.execute("x-query-virtio-queue-status", question);
                text += &format!("{name}: {}\n", state.unwrap_or_default());
            }
        }
        text
    }

    /// Whether the guest's processor runs in this QEMU.
    #[must_use]
    pub fn is_running(&self) -> bool {
        self.qmp.must("query-status", json!({}))["running"] == Value::Bool(true)
    }

    /// SIGKILL: host failure as far as the guest is concerned.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

impl Drop for Hypervisor {
    fn drop(&mut self) {
        if std::thread::panicking() {
            show(&self.console(), &self.queues());
        }
        self.kill();
    }
}

#[expect(clippy::print_stderr, reason = "the test harness shows it with the failure")]
fn show(console: &str, queues: &str) {
    eprintln!("--- console ---\n{console}\n--- queues ---\n{queues}");
}

fn launch(command: &mut Command, socket: &std::path::Path) -> Child {
    let log = socket.with_extension("log");
    let file = fs::File::create(&log).expect("space on the disk");
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(file)
        .spawn()
        .expect("a QEMU of `cargo xtask setup`");
    let there = || socket.exists() || child.try_wait().is_ok_and(|ended| ended.is_some());
    let in_time = wait::holds_within(wait::SOON, there);
    let said = fs::read_to_string(&log).unwrap_or_default();
    assert!(in_time && socket.exists(), "QEMU does not start: {said}");
    child
}

/// The kernel's command line: what `cutover-guest` reads, and what makes the boot short.
pub(crate) fn command_line(ports: &[Port]) -> String {
    // A guest that is not scheduled while it tries out its timer finds it broken, and panics.
    let mut line =
        "console=ttyS0 quiet panic=-1 no_timer_check random.trust_cpu=on mitigations=off".to_owned();
    for port in ports {
        line += &format!(" cutover.port={},{}", port.mac, link_local(port));
        for address in port.routed() {
            line += &format!(",{}", address.addr());
        }
    }
    line
}

/// The tap's own link-local address, which is the guest's IPv6 gateway (RFC 4291, appendix A).
fn link_local(port: &Port) -> Ipv6Addr {
    let [a, b, c, d, e, f] = port.tap_mac().0;
    let pair = |high: u8, low: u8| u16::from_be_bytes([high, low]);
    Ipv6Addr::new(0xfe80, 0, 0, 0, pair(a ^ 2, b), pair(c, 0xff), pair(0xfe, d), pair(e, f))
}
