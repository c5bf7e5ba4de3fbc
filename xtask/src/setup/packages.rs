//! Debian packages that the build, the demo and the tests need. Installed only when told to.

use crate::SetupOptions;
use crate::step::{Step, say};
use crate::workspace::{has_program, is_root};
use anyhow::{Result, bail};
use std::path::Path;

/// How it is found out whether a package is there.
#[derive(Clone, Copy)]
enum Sign {
    Program(&'static str),
    File(&'static str),
}

/// What is needed to build: etcd's client is generated from its protocol descriptions.
const FOR_BUILDING: [(Sign, &str); 2] = [
    (Sign::Program("protoc"), "protobuf-compiler"),
    (Sign::File("/usr/include/google/protobuf/descriptor.proto"), "libprotobuf-dev"),
];

/// What the demo and the tests run.
const FOR_RUNNING: [(Sign, &str); 5] = [
    (Sign::Program("ip"), "iproute2"),
    (Sign::Program("bpftool"), "bpftool"),
    (Sign::Program("etcd"), "etcd-server"),
    (Sign::Program("etcdctl"), "etcd-client"),
    (Sign::Program("openssl"), "openssl"),
];

/// Installs everything that is missing when told to; otherwise says what to do about it.
pub(super) fn install(options: SetupOptions) -> Result<()> {
    let missing = missing();
    if missing.is_empty() {
        return Ok(());
    }
    let packages = missing.join(" ");
    let told_to = options.packages || std::env::var("CI").is_ok_and(|ci| ci == "true" || ci == "1");
    if !has_program("apt-get") {
        bail!("missing programs: install the packages that your system has for {packages}");
    }
    if !told_to || !is_root() {
        bail!(
            "missing Debian packages: run `apt-get install {packages}`, or this chore as root with --packages"
        );
    }
    say(format_args!("installing Debian packages: {packages}"));
    let apt = || Step::new("apt-get").env("DEBIAN_FRONTEND", "noninteractive");
    apt().args(["update", "--quiet=2"]).run()?;
    apt().args(["install", "--yes", "--quiet=2", "--no-install-recommends"]).args(missing).run()
}

fn missing() -> Vec<&'static str> {
    let is_there = |sign: Sign| match sign {
        Sign::Program(name) => has_program(name),
        Sign::File(path) => Path::new(path).is_file(),
    };
    let needed = FOR_BUILDING.iter().chain(&FOR_RUNNING);
    needed.filter(|(sign, _)| !is_there(*sign)).map(|(_, package)| *package).collect()
}
