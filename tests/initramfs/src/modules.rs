//! The modules of an unpacked kernel package, and the order in which they can be loaded. Reads what each module says of itself: the
//! package has no list of dependencies, which the machine that installs it would make.

use crate::{BUSYBOX, entry};
use anyhow::{Context as _, Result, bail, ensure};
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Every module of one kernel.
#[derive(Debug)]
pub struct Modules {
    /// By name, with underscores, as modules call each other.
    files: BTreeMap<String, PathBuf>,
    built_in: BTreeSet<String>,
}

/// A module to load.
#[derive(Debug)]
pub(crate) struct Module {
    pub(crate) name: String,
    pub(crate) bytes: Vec<u8>,
}

impl Modules {
    /// Those of the kernel package that is unpacked at `package`.
    ///
    /// # Errors
    /// When there are none.
    pub fn of(package: &Path) -> Result<Self> {
        // Debian 13 has them below /usr.
        let parent = ["lib/modules", "usr/lib/modules"].map(|parent| package.join(parent));
        let parent = parent.into_iter().find(|parent| parent.is_dir());
        let folder = entry(&parent.with_context(|| format!("no modules in {}", package.display()))?, "")?;
        let mut files = BTreeMap::new();
        find(&folder.join("kernel"), &mut files)?;
        let built_in = fs::read_to_string(folder.join("modules.builtin")).unwrap_or_default();
        let built_in = built_in.lines().filter_map(|line| name_of(Path::new(line))).collect();
        Ok(Self { files, built_in })
    }

    /// These and all that they need, each after what it needs; without what is built in.
    pub(crate) fn in_order(&self, wanted: &[&str]) -> Result<Vec<Module>> {
        let (mut order, mut begun) = (Vec::new(), BTreeSet::new());
        for name in wanted {
            self.add(name, &mut begun, &mut order)?;
        }
        Ok(order)
    }

    fn add(&self, name: &str, begun: &mut BTreeSet<String>, order: &mut Vec<Module>) -> Result<()> {
        if !begun.insert(name.to_owned()) {
            return Ok(());
        }
        let Some(path) = self.files.get(name) else {
            ensure!(self.built_in.contains(name), "this kernel has no module {name}");
            return Ok(());
        };
        let bytes = read(path)?;
        for needed in dependencies(&bytes).with_context(|| path.display().to_string())? {
            self.add(&needed, begun, order)?;
        }
        order.push(Module { name: name.to_owned(), bytes });
        Ok(())
    }
}

fn find(folder: &Path, files: &mut BTreeMap<String, PathBuf>) -> Result<()> {
    for entry in fs::read_dir(folder).with_context(|| folder.display().to_string())? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            find(&entry.path(), files)?;
        } else if let Some(name) = name_of(&entry.path()) {
            files.insert(name, entry.path());
        }
    }
    Ok(())
}

/// What the module in this file is called, if it is one.
fn name_of(path: &Path) -> Option<String> {
    let (name, suffix) = path.file_name()?.to_str()?.split_once(".ko")?;
    matches!(suffix, "" | ".xz").then(|| name.replace('-', "_"))
}

fn read(path: &Path) -> Result<Vec<u8>> {
    if path.extension().is_none_or(|extension| extension != "xz") {
        return fs::read(path).with_context(|| path.display().to_string());
    }
    let output = Command::new(BUSYBOX).args(["unxz", "-c"]).arg(path).stdin(Stdio::null()).output();
    let output = output.context(BUSYBOX)?;
    if !output.status.success() {
        bail!("{}: {}", path.display(), String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(output.stdout)
}

/// The names of the modules that this one needs: one of the strings that it has about itself.
fn dependencies(module: &[u8]) -> Result<Vec<String>> {
    const BEGINNING: &[u8] = b"\0depends=";
    let start = module.windows(BEGINNING.len()).position(|bytes| bytes == BEGINNING);
    let start = start.context("the module does not say what it needs")? + BEGINNING.len();
    let names = module[start..].split(|byte| *byte == 0).next().unwrap_or_default();
    let names = String::from_utf8_lossy(names).into_owned();
    Ok(names.split(',').filter(|name| !name.is_empty()).map(|name| name.replace('-', "_")).collect())
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A package with modules, each with the names of what it needs.
    pub(crate) fn install(package: &Path, modules: &[(&str, &str)]) {
        let folder = package.join("lib/modules/6.1.0-1-cloud-amd64");
        for (path, needed) in modules {
            let path = folder.join("kernel").join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, format!("\u{7f}ELF\0license=GPL\0depends={needed}\0intree=Y\0")).unwrap();
        }
        fs::write(folder.join("modules.builtin"), "kernel/drivers/virtio/virtio_ring.ko\n").unwrap();
    }

    fn names(package: &Path, wanted: &[&str]) -> Result<Vec<String>> {
        Ok(Modules::of(package)?.in_order(wanted)?.into_iter().map(|module| module.name).collect())
    }

    #[test]
    fn what_a_module_needs_comes_first_and_once() {
        let package = tempfile::tempdir().unwrap();
        let modules = [
            ("net/bridge/bridge.ko", "stp,llc"),
            ("net/802/stp.ko", "llc"),
            ("net/llc/llc.ko", ""),
            ("net/virtio-net.ko", "virtio_ring,net-failover"),
            ("net/net_failover.ko", ""),
        ];
        install(package.path(), &modules);
        assert_eq!(names(package.path(), &["bridge", "stp"]).unwrap(), ["llc", "stp", "bridge"]);
        assert_eq!(names(package.path(), &["virtio_net"]).unwrap(), ["net_failover", "virtio_net"]);
        let error = names(package.path(), &["tun"]).unwrap_err().to_string();
        assert_eq!(error, "this kernel has no module tun");
    }

    #[test]
    fn compressed_modules_are_unpacked() {
        let package = tempfile::tempdir().unwrap();
        install(package.path(), &[("net/llc/llc.ko", ""), ("net/802/stp.ko", "nothing")]);
        let plain = entry(&package.path().join("lib/modules"), "").unwrap().join("kernel/net/802/stp.ko");
        fs::remove_file(&plain).unwrap();
        // What `printf 'x\0depends=llc\0y' | xz --check=crc32` writes.
        let compressed = "fd377a585a0000016922de360200210116000000742fe5a301000e7800646570656e64733d6c6c63007900007f674f420001230fdbdf900e9042990d010000000001595a";
        let bytes = (0..compressed.len()).step_by(2);
        let bytes = bytes.map(|at| u8::from_str_radix(&compressed[at..at + 2], 16).unwrap());
        fs::write(plain.with_extension("ko.xz"), bytes.collect::<Vec<u8>>()).unwrap();
        assert_eq!(names(package.path(), &["stp"]).unwrap(), ["llc", "stp"]);
        let modules = Modules::of(package.path()).unwrap();
        assert_eq!(modules.in_order(&["stp"]).unwrap()[1].bytes, b"x\0depends=llc\0y");
    }
}
