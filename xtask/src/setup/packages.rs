//! Debian packages that the demo and the tests need. Building needs none.

use crate::step::{Step, say};
use crate::workspace::{has_program, is_root};
use anyhow::{Result, bail};

/// A program, and the package that has it.
pub(crate) type Needed = (&'static str, &'static str);

/// What the demo runs.
pub(crate) const FOR_DEMO: &[Needed] = &[("ip", "iproute2")];

/// What the tests on other kernels run, here and in their guests.
pub(crate) const FOR_KERNELS: &[Needed] = &[
    ("ip", "iproute2"),
    ("bpftool", "bpftool"),
    ("qemu-system-x86_64", "qemu-system-x86"),
    ("busybox", "busybox-static"),
];

/// What the tests and the benches run.
pub(crate) const FOR_TESTS: &[Needed] = &[
    ("ip", "iproute2"),
    ("bpftool", "bpftool"),
    ("etcd", "etcd-server"),
    ("etcdctl", "etcd-client"),
    ("openssl", "openssl"),
    ("bird", "bird2"),
    ("qemu-system-x86_64", "qemu-system-x86"),
    ("busybox", "busybox-static"),
    ("faketime", "faketime"),
    ("vtysh", "frr"),
    ("promtool", "prometheus"),
    ("chromium-headless-shell", "chromium-headless-shell"),
    ("nft", "nftables"),
    ("iptables-nft", "iptables"),
];

/// What packs the program for users.
pub(super) const FOR_PACKING: &[Needed] =
    &[("dpkg-deb", "dpkg"), ("dpkg-shlibdeps", "dpkg-dev"), ("objcopy", "binutils"), ("xz", "xz-utils")];

/// What boots a Debian to install the package on.
pub(super) const FOR_PACKAGE: &[Needed] =
    &[("ip", "iproute2"), ("mmdebstrap", "mmdebstrap"), ("systemd-nspawn", "systemd-container")];

/// Whether packages may be installed.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Consent {
    /// Install what is missing.
    Given,
    /// Say what is missing.
    Withheld,
}

/// Installs what is missing, or says what to do about it.
pub(super) fn install(needed: &[Needed], consent: Consent) -> Result<()> {
    let missing = missing(needed);
    if missing.is_empty() {
        return Ok(());
    }
    let packages = missing.join(" ");
    if !has_program("apt-get") {
        bail!("missing programs: install the packages that your system has for {packages}");
    }
    if consent == Consent::Withheld || !is_root() {
        bail!(
            "missing Debian packages: run, as root, `apt-get install {packages}` or `cargo xtask setup --packages`"
        );
    }
    say(format_args!("installing Debian packages: {packages}"));
    let apt = || Step::new("apt-get").env("DEBIAN_FRONTEND", "noninteractive");
    apt().args(["update", "--quiet=2"]).run()?;
    apt().args(["install", "--yes", "--quiet=2", "--no-install-recommends"]).args(missing).run()
}

fn missing(needed: &[Needed]) -> Vec<&'static str> {
    needed.iter().filter(|(program, _)| !has_program(program)).map(|(_, package)| *package).collect()
}
