//! BGP daemons, a QEMU and a libvirt of other versions than those that are installed, for tests, and the program that makes the book:
//! Debian packages of other suites with the libraries that they need, unpacked below the build folder.
//!
//! What cannot be had is said and left out; tests that want it say so, too.

use super::suites::Suite;
use crate::step::say;
use crate::workspace::target;
use anyhow::{Context as _, Result};
use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};

/// One version of a program.
struct Release {
    /// Its folder, which tests know it by.
    name: &'static str,
    suite: &'static str,
    /// What tests run, as the package has it.
    programs: &'static [&'static str],
    /// Words of a shell that each of them is started with, for data that it looks for elsewhere.
    arguments: &'static str,
    /// The package and the libraries that it needs.
    packages: &'static [&'static str],
}

const BIRD: &[&str] = &["usr/sbin/bird", "usr/sbin/birdc"];
const FRR: &[&str] = &["usr/lib/frr/mgmtd", "usr/lib/frr/zebra", "usr/lib/frr/bgpd", "usr/bin/vtysh"];

/// LIMIT: of suites that are not released yet, such as forky, this is what they had when it was tried. A library with another name
/// makes the release unavailable until the name is changed here.
const RELEASES: [Release; 8] = [
    Release {
        name: "bird-1.6",
        suite: "bullseye",
        programs: &["usr/sbin/bird", "usr/sbin/birdc", "usr/sbin/bird6", "usr/sbin/birdc6"],
        arguments: "",
        packages: &["bird", "libc6", "libreadline8", "libtinfo6"],
    },
    bird_of_trixie("bird-2.17", &with_libraries("bird2")),
    bird_of_trixie("bird-3", &with_libraries("bird3")),
    Release {
        name: "bird-3.4",
        suite: "forky",
        programs: BIRD,
        arguments: "",
        packages: &[
            "bird3",
            "libc6",
            "libcbor0.10",
            "libcom-err2",
            "libfido2-1",
            "libgcc-s1",
            "libgssapi-krb5-2",
            "libk5crypto3",
            "libkeyutils1",
            "libkrb5-3",
            "libkrb5support0",
            "libreadline8t64",
            "libssh-4",
            "libssl3t64",
            "libtinfo6",
            "libudev1",
            "libzstd1",
            "zlib1g",
        ],
    },
    Release {
        name: "frr-10.7",
        suite: "forky",
        programs: FRR,
        arguments: "",
        packages: &[
            "frr",
            "libaudit1",
            "libc6",
            "libcap-ng0",
            "libcap2",
            "libcrypt1",
            "libgcc-s1",
            "libjson-c5",
            "liblua5.5-0",
            "liblzma5",
            "libpam0g",
            "libpcre2-8-0",
            "libreadline8t64",
            "libtinfo6",
            "libunwind8",
            "libxxhash0",
            "libyang5",
        ],
    },
    Release {
        name: "frr-10.3",
        suite: "trixie",
        programs: FRR,
        arguments: "",
        packages: &[
            "frr",
            "libaudit1",
            "libc6",
            "libcap-ng0",
            "libcap2",
            "libcares2",
            "libcrypt1",
            "libelf1t64",
            "libgcc-s1",
            "libjson-c5",
            "liblua5.3-0",
            "liblzma5",
            "libpam0g",
            "libpcre2-8-0",
            "libprotobuf-c1",
            "libreadline8t64",
            "libssl3t64",
            "libsystemd0",
            "libtinfo6",
            "libunwind8",
            "libxxhash0",
            "libyang3",
            "libzstd1",
            "zlib1g",
        ],
    },
    Release {
        name: "qemu-10",
        suite: "trixie",
        programs: &["usr/bin/qemu-system-x86_64"],
        arguments: r#"-L "$here/usr/share/qemu" -L "$here/usr/share/seabios""#,
        packages: &[
            "qemu-system-x86",
            "qemu-system-data",
            "seabios",
            "libaio1t64",
            "libatomic1",
            "libblkid1",
            "libbpf1",
            "libc6",
            "libcap2",
            "libcapstone5",
            "libdaxctl1",
            "libelf1t64",
            "libfdt1",
            "libffi8",
            "libfuse3-4",
            "libgcc-s1",
            "libglib2.0-0t64",
            "libgmp10",
            "libgnutls30t64",
            "libhogweed6t64",
            "libibverbs1",
            "libidn2-0",
            "libjpeg62-turbo",
            "libkmod2",
            "libmount1",
            "libndctl6",
            "libnettle8t64",
            "libnl-3-200",
            "libnl-route-3-200",
            "libnuma1",
            "libp11-kit0",
            "libpcre2-8-0",
            "libpixman-1-0",
            "libpmem1",
            "libpng16-16t64",
            "librdmacm1t64",
            "libsasl2-2",
            "libseccomp2",
            "libselinux1",
            "libslirp0",
            "libssl3t64",
            "libtasn1-6",
            "libudev1",
            "libunistring5",
            "liburing2",
            "libuuid1",
            "libvdeplug2t64",
            "libzstd1",
            "zlib1g",
        ],
    },
    // Run with this folder and that of QEMU as their root, as neither looks for its parts anywhere else.
    Release {
        name: "libvirt-11",
        suite: "trixie",
        programs: &[],
        arguments: "",
        packages: &[
            "libvirt-clients",
            "libvirt-common",
            "libvirt-daemon",
            "libvirt-daemon-driver-qemu",
            "libvirt0",
            "libacl1",
            "libapparmor1",
            "libatomic1",
            "libaudit1",
            "libblkid1",
            "libbrotli1",
            "libbsd0",
            "libc6",
            "libcap-ng0",
            "libcom-err2",
            "libcurl3t64-gnutls",
            "libffi8",
            "libgcc-s1",
            "libglib2.0-0t64",
            "libgmp10",
            "libgnutls30t64",
            "libgssapi-krb5-2",
            "libhogweed6t64",
            "libidn2-0",
            "libjson-c5",
            "libk5crypto3",
            "libkeyutils1",
            "libkrb5-3",
            "libkrb5support0",
            "libldap2",
            "liblzma5",
            "libmd0",
            "libmount1",
            "libnettle8t64",
            "libnghttp2-14",
            "libnghttp3-9",
            "libngtcp2-16",
            "libngtcp2-crypto-gnutls8",
            "libnl-3-200",
            "libnuma1",
            "libp11-kit0",
            "libpcre2-8-0",
            "libpsl5t64",
            "libreadline8t64",
            "librtmp1",
            "libsasl2-2",
            "libselinux1",
            "libssh-4",
            "libssh2-1t64",
            "libssl3t64",
            "libtasn1-6",
            "libtinfo6",
            "libtirpc3t64",
            "libunistring5",
            "libxml2",
            "libzstd1",
            "zlib1g",
        ],
    },
];

const fn bird_of_trixie(name: &'static str, packages: &'static [&'static str]) -> Release {
    Release { name, suite: "trixie", programs: BIRD, arguments: "", packages }
}

/// Debian 12 has no mdBook.
const MDBOOK: Release = Release {
    name: "mdbook-0.4",
    suite: "trixie",
    programs: &["usr/bin/mdbook"],
    arguments: "",
    packages: &["mdbook", "libc6", "libgcc-s1"],
};

/// BIRD of trixie and the libraries of its RPKI over SSH.
const fn with_libraries(package: &'static str) -> [&'static str; 14] {
    [
        package,
        "libc6",
        "libcom-err2",
        "libgcc-s1",
        "libgssapi-krb5-2",
        "libk5crypto3",
        "libkeyutils1",
        "libkrb5-3",
        "libkrb5support0",
        "libreadline8t64",
        "libssh-4",
        "libssl3t64",
        "libtinfo6",
        "zlib1g",
    ]
}

/// Unpacks what is not there yet. Never fails: without these daemons there are fewer tests, without this QEMU the installed one
/// does.
pub(super) fn fetch() {
    for release in &RELEASES {
        if let Err(error) = release.provide() {
            let Release { name, suite, .. } = release;
            say(format_args!("SKIPPED {name} from Debian {suite}, and the tests that run it: {error:#}"));
        }
    }
}

/// The program that makes the book.
pub(super) fn mdbook() -> Result<PathBuf> {
    MDBOOK.provide()?;
    Ok(MDBOOK.folder().join("mdbook"))
}

impl Release {
    fn provide(&self) -> Result<()> {
        if self.folder().is_dir() { self.complete() } else { self.unpack() }
    }

    fn folder(&self) -> PathBuf {
        folder().join(self.name)
    }

    /// Programs that nobody ran when it was unpacked.
    fn complete(&self) -> Result<()> {
        let folder = self.folder();
        let is_missing = |program: &&&str| {
            let name = program.rsplit('/').next().unwrap_or(program);
            !folder.join(name).exists()
        };
        let mut programs = self.programs.iter().filter(is_missing);
        programs.try_for_each(|program| start_with_own_libraries(&folder, program, self.arguments))
    }

    fn unpack(&self) -> Result<()> {
        let suite = Suite::fetch(self.suite)?;
        suite.unpack(self.packages, &self.folder(), |unpacked| {
            let mut programs = self.programs.iter();
            programs.try_for_each(|program| start_with_own_libraries(unpacked, program, self.arguments))
        })
    }
}

/// libyang 5 looks for modules of its own here and nowhere else.
const YANG: &str = "usr/share/yang";

/// Puts a script into the folder that runs the program with the loader and the libraries that came with it. The process is called as
/// the program, by which others find it, and not as the loader.
fn start_with_own_libraries(folder: &Path, program: &str, arguments: &str) -> Result<()> {
    // Before Debian 12, libraries of the base system are not below /usr.
    let libraries = ["lib", "usr/lib"].map(|parent| {
        let triplet = entry(&folder.join(parent), |name| name.ends_with("-linux-gnu")).ok()?;
        Some(format!("{parent}/{triplet}"))
    });
    let libraries: Vec<String> = libraries.into_iter().flatten().collect();
    let is_loader = |name: &str| name.starts_with("ld-linux") && name.contains(".so");
    let loader = libraries.iter().find_map(|libraries| {
        Some(format!("{libraries}/{}", entry(&folder.join(libraries), is_loader).ok()?))
    });
    let loader = loader.context("there is no loader among the packages")?;
    let name = program.rsplit('/').next().unwrap_or(program);
    let mut path = String::new();
    for libraries in &libraries {
        path += &format!("$here/{libraries}:$here/{libraries}/frr:");
    }
    fs::create_dir_all(folder.join("start"))?;
    // KERNEL: a process is called as the file that is executed, which may be a link.
    symlink(format!("../{loader}"), folder.join("start").join(name))?;
    // In a mount namespace of its own. The folder at the root is that of the installed frr, without whose user no release runs.
    let prepared = if folder.join(YANG).join("modules").is_dir() {
        format!("unshare --mount sh -c 'mount --bind \"$0/{YANG}\" /{YANG} && exec \"$@\"' \"$here\" ")
    } else {
        String::new()
    };
    let script = format!(
        "#!/bin/sh\nhere=$(dirname \"$0\")\nexec {prepared}\"$here/start/{name}\" --library-path \"{path}\" \"$here/{program}\" {arguments} \"$@\"\n"
    );
    let path = folder.join(name);
    fs::write(&path, script)?;
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755))?;
    Ok(())
}

/// The name of the first entry that is the right one.
fn entry(folder: &Path, is_right: impl Fn(&str) -> bool) -> Result<String> {
    let names = fs::read_dir(folder).with_context(|| folder.display().to_string())?.flatten();
    let mut names = names.map(|entry| entry.file_name().to_string_lossy().into_owned());
    names.find(|name| is_right(name)).with_context(|| format!("{} lacks what is needed", folder.display()))
}

fn folder() -> PathBuf {
    target().join("daemons")
}
