//! Which version of Felix a process is, without running anything: what Go's linker wrote into the program, else what the package
//! manager has installed.
//!
//! A program cannot be trusted to end when it is asked for its version, and one in a container is not this host's to run. What the
//! process was started from is read through the kernel, so it is right after an upgrade as well.

use serde::{Deserialize, Serialize};
use std::fs::{self, File};
use std::os::unix::fs::FileExt as _;
use std::path::Path;

/// The package of Calico's own repositories.
const PACKAGE: &str = "calico-felix";
const DPKG_STATUS: &str = "/var/lib/dpkg/status";

/// A version, and how it is known.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Version {
    /// As it is written there.
    pub text: String,
    /// Where.
    pub from: Origin,
}

/// Who says so.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Origin {
    /// The program that runs.
    Program,
    /// The package that is installed, which may be newer than what runs.
    Package,
}

impl Origin {
    /// Its word in metrics.
    pub(crate) const fn word(self) -> &'static str {
        match self {
            Self::Program => "program",
            Self::Package => "package",
        }
    }
}

/// That of a process; nothing if neither its program nor a package says it.
pub(super) fn version(proc: &Path, pid: u32) -> Option<Version> {
    let program = proc.join(pid.to_string()).join("exe");
    let of_program = File::open(program).ok().and_then(|file| of_program(&file));
    let of_package = || of_package(&fs::read_to_string(DPKG_STATUS).ok()?);
    match of_program {
        Some(text) => Some(Version { text, from: Origin::Program }),
        None => Some(Version { text: of_package()?, from: Origin::Package }),
    }
}

/// The version that its build gave to the linker (`-X …/buildinfo.Version=…`, `GitVersion` in older ones), else that of its module.
fn of_program(file: &File) -> Option<String> {
    let modules = modules(&section(file, ".go.buildinfo")?)?;
    let from_linker = modules.split_whitespace().find_map(|word| {
        let (name, value) = word.split_once('=')?;
        let is_it = ["buildinfo.Version", "buildinfo.GitVersion"].iter().any(|end| name.ends_with(end));
        is_it.then(|| value.trim_matches(|quote| matches!(quote, '"' | '\'')))
    });
    let from_module = || {
        let line = modules.lines().find_map(|line| line.strip_prefix("mod\t"))?;
        line.split('\t').nth(1)
    };
    let is_said = |text: &&str| !text.is_empty() && *text != "(devel)" && *text != "<unknown>";
    from_linker.filter(is_said).or_else(|| from_module().filter(is_said)).map(str::to_owned)
}

/// The file format: Go's `debug/buildinfo`, as it is since Go 1.18.
const MAGIC: &[u8] = b"\xff Go buildinf:";
const FLAGS_AT: usize = 15;
const STRINGS_ARE_HERE: u8 = 2;
const HEADER_BYTES: usize = 32;
/// What encloses the description of the modules.
const MARK_BYTES: usize = 16;

/// What Go wrote about the modules and the build.
fn modules(section: &[u8]) -> Option<String> {
    let is_known = section.starts_with(MAGIC) && section.get(FLAGS_AT)? & STRINGS_ARE_HERE != 0;
    if !is_known {
        return None;
    }
    let (_go_version, rest) = string(section.get(HEADER_BYTES..)?)?;
    let (modules, _) = string(rest)?;
    let text = modules.get(MARK_BYTES..modules.len().checked_sub(MARK_BYTES)?)?;
    Some(String::from_utf8_lossy(text).into_owned())
}

/// A string with its length before it, seven bits in a byte.
fn string(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (mut length, mut shift) = (0_usize, 0);
    for (position, byte) in bytes.iter().enumerate().take(4) {
        length |= usize::from(byte & 0x7f) << shift;
        shift += 7;
        if byte & 0x80 == 0 {
            return bytes.get(position + 1..)?.split_at_checked(length);
        }
    }
    None
}

/// LIMIT: programs have some tens of sections with names of some hundred bytes, and what Go writes has some kilobytes.
const SECTIONS_MAX: u16 = 1024;
const SECTION_BYTES_MAX: u64 = 1 << 20;

// elf(5), of 64 bits and little-endian.
const IDENTITY: &[u8] = b"\x7fELF\x02\x01";
const ELF_HEADER_BYTES: usize = 64;
const SECTION_HEADER_BYTES: u16 = 64;

/// The bytes of a section.
fn section(file: &File, wanted: &str) -> Option<Vec<u8>> {
    let header = read(file, 0, ELF_HEADER_BYTES as u64)?;
    if !header.starts_with(IDENTITY) || short(&header, 58)? != SECTION_HEADER_BYTES {
        return None;
    }
    let (table, count, names) = (long(&header, 40)?, short(&header, 60)?, short(&header, 62)?);
    if count > SECTIONS_MAX || names >= count {
        return None;
    }
    let table = read(file, table, u64::from(count) * u64::from(SECTION_HEADER_BYTES))?;
    let sections: Vec<&[u8]> = table.chunks_exact(SECTION_HEADER_BYTES.into()).collect();
    let contents = |section: &[u8]| read(file, long(section, 24)?, long(section, 32)?);
    let names = contents(sections.get(usize::from(names))?)?;
    let is_wanted = |section: &&&[u8]| {
        let name = word(section, 0).and_then(|at| names.get(usize::try_from(at).ok()?..));
        let name = name.and_then(|rest| rest.split(|byte| *byte == 0).next());
        name == Some(wanted.as_bytes())
    };
    contents(sections.iter().find(is_wanted)?)
}

fn read(file: &File, at: u64, length: u64) -> Option<Vec<u8>> {
    let length = usize::try_from(Some(length).filter(|length| *length <= SECTION_BYTES_MAX)?).ok()?;
    let mut bytes = vec![0; length];
    file.read_exact_at(&mut bytes, at).ok()?;
    Some(bytes)
}

fn short(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_le_bytes(*bytes.get(at..)?.first_chunk()?))
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(*bytes.get(at..)?.first_chunk()?))
}

fn long(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_le_bytes(*bytes.get(at..)?.first_chunk()?))
}

/// The version of the package in dpkg's list, if it is installed.
fn of_package(status: &str) -> Option<String> {
    let mut paragraphs = status.split("\n\n");
    let own = format!("Package: {PACKAGE}");
    let paragraph = paragraphs.find(|paragraph| paragraph.lines().next() == Some(own.as_str()))?;
    let field = |name: &str| paragraph.lines().find_map(|line| line.strip_prefix(name));
    let is_installed = field("Status: ")?.split(' ').next_back() == Some("installed");
    field("Version: ").filter(|_| is_installed).map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write as _;

    /// The bytes that Go 1.26 wrote for a program with this description.
    fn build_info(modules: &str) -> Vec<u8> {
        let mark = [0x30; MARK_BYTES];
        let description = [&mark[..], modules.as_bytes(), &mark].concat();
        let length = u16::try_from(description.len()).expect("short");
        let mut bytes = MAGIC.to_vec();
        bytes.extend([8, STRINGS_ARE_HERE]);
        bytes.resize(HEADER_BYTES, 0);
        bytes.push(6);
        bytes.extend(b"go1.26");
        let [low, high] = [length & 0x7f, length >> 7].map(|bits| u8::try_from(bits).expect("short"));
        bytes.extend([low | 0x80, high]);
        bytes.extend(description);
        bytes
    }

    /// A program with nothing but this section and that of names.
    fn program(contents: &[u8]) -> File {
        let names = b"\0.shstrtab\0.go.buildinfo\0";
        let [names_at, contents_at] = [ELF_HEADER_BYTES, ELF_HEADER_BYTES + names.len()];
        let table_at = contents_at + contents.len();
        let mut bytes = IDENTITY.to_vec();
        bytes.resize(ELF_HEADER_BYTES, 0);
        bytes[40..48].copy_from_slice(&(table_at as u64).to_le_bytes());
        for (at, value) in [(58, SECTION_HEADER_BYTES), (60, 3), (62, 1)] {
            bytes[at..at + 2].copy_from_slice(&value.to_le_bytes());
        }
        bytes.extend(names);
        bytes.extend(contents);
        for (name, at, length) in
            [(0_u32, 0, 0), (1, names_at, names.len()), (11, contents_at, contents.len())]
        {
            let mut section = vec![0; SECTION_HEADER_BYTES.into()];
            section[..4].copy_from_slice(&name.to_le_bytes());
            section[24..32].copy_from_slice(&(at as u64).to_le_bytes());
            section[32..40].copy_from_slice(&(length as u64).to_le_bytes());
            bytes.extend(section);
        }
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&bytes).unwrap();
        file
    }

    #[test]
    fn what_the_build_told_the_linker_counts_then_the_module() {
        let linked = |flags: &str| {
            format!("path\tx\nmod\tgithub.com/projectcalico/calico\t(devel)\t\nbuild\t-ldflags=\"{flags}\"\n")
        };
        let pkg = "github.com/projectcalico/calico/pkg/buildinfo";
        for (modules, expected) in [
            (linked(&format!("-X {pkg}.Version=v3.31.2 -X {pkg}.GitRevision=1 -s")), Some("v3.31.2")),
            (linked(&format!("-s -X {pkg}.GitVersion=v3.28.0-12")), Some("v3.28.0-12")),
            (linked("-X github.com/projectcalico/felix/buildinfo.GitVersion=<unknown>"), None),
            (linked("-s -w"), None),
            ("path\tx\nmod\tgithub.com/projectcalico/calico\tv1.11.0\th1:\n".to_owned(), Some("v1.11.0")),
        ] {
            assert_eq!(of_program(&program(&build_info(&modules))).as_deref(), expected, "{modules}");
        }
    }

    #[test]
    fn what_is_no_program_of_go_has_no_version() {
        assert_eq!(of_program(&File::open("/bin/sleep").unwrap()), None);
        assert_eq!(of_program(&program(b"something else")), None);
        let whole = program(&build_info("mod\tx\tv1\n"));
        assert_eq!(of_program(&whole).as_deref(), Some("v1"));
        // However short it is cut, nothing worse happens.
        let length = whole.metadata().unwrap().len();
        for shorter in (0..length).rev() {
            whole.set_len(shorter).unwrap();
            assert_eq!(of_program(&whole), None, "{shorter}");
        }
    }

    #[test]
    fn an_installed_package_says_its_version_and_a_removed_one_does_not() {
        let list = |state: &str| {
            format!(
                "Package: calico-common\nStatus: install ok installed\nVersion: 1\n\n\
                 Package: calico-felix\nStatus: {state}\nArchitecture: amd64\nVersion: 3.31.2\n\nPackage: z\n"
            )
        };
        assert_eq!(of_package(&list("install ok installed")).as_deref(), Some("3.31.2"));
        assert_eq!(of_package(&list("deinstall ok config-files")), None);
        assert_eq!(of_package("Package: calico-common\nStatus: install ok installed\nVersion: 1\n"), None);
    }
}
