//! What the guests boot: an initramfs with the agent, the test programs, what those run, and the modules of the kernel.

use super::PLAN;
use crate::setup::Kernel;
use crate::step::Step;
use crate::workspace::{program, target};
use anyhow::{Context as _, Result};
use cutover_initramfs::{BUSYBOX, Modules, Root};
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

/// Everything that the tests and the agent ask of a kernel and that Debian has as a module.
const MODULES: [&str; 8] = ["tun", "veth", "bridge", "dummy", "cls_bpf", "cls_u32", "sch_ingress", "vxlan"];

/// Programs that tests run, in the versions of this machine.
const PROGRAMS: [&str; 3] = ["ip", "tc", "bpftool"];

/// Names of routing protocols and the like, where old and new versions of iproute2 have them.
const NAMES: [&str; 2] = ["/etc/iproute2", "/usr/share/iproute2"];

/// Test programs by name.
pub(super) type Tests = BTreeMap<String, PathBuf>;

/// Packs what this kernel boots.
pub(super) fn make(kernel: &Kernel, tests: &Tests) -> Result<PathBuf> {
    let folders = ["dev", "proc", "sys", "run", "tmp", "root"];
    let root = Root::create(&kernel.folder().join("root"), &folders)?;
    root.script("init", include_str!("init.sh"))?;
    root.program(Path::new(BUSYBOX), "bin/busybox")?;
    for name in PROGRAMS {
        let path = program(name).with_context(|| format!("{name} is not installed"))?;
        root.program(&path, Path::new("usr/sbin").join(name))?;
    }
    for folder in NAMES.map(Path::new).into_iter().filter(|folder| folder.is_dir()) {
        for entry in fs::read_dir(folder)?.flatten().filter(|entry| entry.path().is_file()) {
            root.copy(&entry.path(), entry.path().strip_prefix("/")?)?;
        }
    }
    // As cargo lays them out: a test finds the agent, and its build folder, from where it is itself.
    add_built(&root, &target().join("debug/cutover"), "target/debug/cutover")?;
    for (name, path) in tests {
        add_built(&root, path, &format!("target/debug/deps/{name}"))?;
    }
    let plan = PLAN.iter().map(|part| format!("{} {}\n", part.program, part.arguments.join(" ")));
    root.write("plan", &plan.collect::<String>())?;
    root.modules(&Modules::of(&kernel.package())?, &MODULES)?;
    let initramfs = kernel.folder().join("initramfs.cpio");
    root.archive(&initramfs)?;
    Ok(initramfs)
}

/// A program of this build, without what only a debugger wants, which is most of it.
fn add_built(root: &Root, path: &Path, place: &str) -> Result<()> {
    root.program(path, place)?;
    // Without it the guest takes longer to boot, and nothing else changes.
    let place = root.path().join(place);
    Step::new("strip").args(["--strip-debug".as_ref(), place.as_os_str()]).answer();
    Ok(())
}
