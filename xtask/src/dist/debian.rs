//! Debian packages, made by `dpkg-deb` from a folder with the files and one with what dpkg has to know of them.

use super::stage::{Stage, mode};
use super::symbols::PROGRAM;
use super::{Effort, Version};
use crate::step::Step;
use crate::workspace;
use anyhow::{Context as _, Result, bail};
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

const MAINTAINER: &str = "The Cutover developers <cutover@example.invalid>";

const DESCRIPTION: &str = "\
routes that follow virtual machines during live migration
 Cutover is an agent for compute hosts whose virtual machines are reached by
 /32 and /128 routes, as with Calico for OpenStack. It sees in the kernel that
 a machine starts running on this host, installs its routes with a better
 priority at once, and goes back to the normal one when the network knows.
 .
 It runs in the place of Calico's Felix, or beside it.
";

/// Changes of the administrator's to these are kept.
const CONFFILES: [&str; 1] = ["etc/default/cutover"];

/// What dpkg runs.
const SCRIPTS: [&str; 4] = ["preinst", "postinst", "prerm", "postrm"];

/// The package with the program.
pub(super) fn package(
    stage: &Stage,
    version: &Version<'_>,
    folder: &Path,
    time: u64,
    effort: Effort,
) -> Result<PathBuf> {
    stage.write_compressed(
        "usr/share/doc/cutover/changelog.Debian.gz",
        changelog(version, time)?.as_bytes(),
    )?;
    let control = control_folder(stage)?;
    let text = format!(
        "Package: cutover\nVersion: {version}\nSection: net\nPriority: optional\nArchitecture: {architecture}\n\
         Maintainer: {MAINTAINER}\nInstalled-Size: {size}\nDepends: {depends}\nSuggests: bird2 | frr, libvirt0\n\
         Description: {DESCRIPTION}",
        architecture = architecture()?,
        size = size(stage)?,
        depends = dependencies(stage)?,
    );
    write(&control.join("control"), &text)?;
    write(&control.join("conffiles"), &CONFFILES.map(|path| format!("/{path}\n")).concat())?;
    for name in SCRIPTS {
        let (from, to) = (workspace::root().join("dist/debian").join(name), control.join(name));
        fs::copy(&from, &to).with_context(|| from.display().to_string())?;
        mode(&to, 0o755)?;
    }
    build(stage, "cutover", version, folder, time, effort)
}

/// The package with the symbols, as Debian's own build tools make it.
pub(super) fn package_of_symbols(
    stage: &Stage,
    build_id: &str,
    version: &Version<'_>,
    folder: &Path,
    time: u64,
) -> Result<PathBuf> {
    let control = control_folder(stage)?;
    let text = format!(
        "Package: cutover-dbgsym\nVersion: {version}\nAuto-Built-Package: debug-symbols\nSection: debug\nPriority: optional\n\
         Architecture: {architecture}\nMaintainer: {MAINTAINER}\nInstalled-Size: {size}\nDepends: cutover (= {version})\n\
         Build-Ids: {build_id}\nDescription: debug symbols for cutover\n",
        architecture = architecture()?,
        size = size(stage)?,
    );
    write(&control.join("control"), &text)?;
    build(stage, "cutover-dbgsym", version, folder, time, Effort::All)
}

fn build(
    stage: &Stage,
    name: &str,
    version: &Version<'_>,
    folder: &Path,
    time: u64,
    effort: Effort,
) -> Result<PathBuf> {
    let sums: Vec<PathBuf> = stage.files()?.into_iter().filter(|path| !path.starts_with(CONTROL)).collect();
    let sums = Step::new("md5sum").within(stage.root()).args(&sums).answer();
    write(&stage.root().join(CONTROL).join("md5sums"), &format!("{}\n", sums.context("md5sum failed")?))?;
    let archive = folder.join(format!("{name}_{version}_{}.deb", architecture()?));
    Step::new("dpkg-deb")
        .env("SOURCE_DATE_EPOCH", time.to_string())
        .args(["--root-owner-group", if effort == Effort::All { "-Zxz" } else { "-Znone" }, "--build"])
        .args([stage.root(), &archive])
        .run()?;
    Ok(archive)
}

const CONTROL: &str = "DEBIAN";

fn control_folder(stage: &Stage) -> Result<PathBuf> {
    let file = stage.place(Path::new(CONTROL).join("control"))?;
    Ok(file.with_file_name(""))
}

fn write(path: &Path, text: &str) -> Result<()> {
    fs::write(path, text).with_context(|| path.display().to_string())?;
    mode(path, 0o644)
}

/// What Debian calls the machine that this is built for.
fn architecture() -> Result<&'static str> {
    match std::env::consts::ARCH {
        "x86_64" => Ok("amd64"),
        "aarch64" => Ok("arm64"),
        other => bail!("nobody has said what Debian calls {other}"),
    }
}

/// In units of 1024 bytes, each file rounded up, as policy counts.
fn size(stage: &Stage) -> Result<u64> {
    let mut size = 0;
    for path in stage.files()?.iter().filter(|path| !path.starts_with(CONTROL)) {
        size += fs::metadata(stage.root().join(path))?.len().div_ceil(1024);
    }
    Ok(size)
}

/// The packages with the libraries that the program is linked with, in the versions that have the symbols that it uses.
fn dependencies(stage: &Stage) -> Result<String> {
    // It wants to be started beside the description of a source package, and looks only at its first lines.
    let folder = stage.root().with_extension("source");
    fs::create_dir_all(folder.join("debian"))?;
    fs::write(folder.join("debian/control"), "Source: cutover\n\nPackage: cutover\nArchitecture: any\n")?;
    let said = Step::new("dpkg-shlibdeps")
        .within(&folder)
        .args(["-O"])
        .args([stage.root().join(PROGRAM)])
        .output()?;
    depends(&said).map(str::to_owned).with_context(|| format!("dpkg-shlibdeps said {said:?}"))
}

/// The list in what `dpkg-shlibdeps -O` prints.
fn depends(said: &str) -> Option<&str> {
    said.lines().find_map(|line| line.strip_prefix("shlibs:Depends=")).filter(|list| !list.is_empty())
}

/// Debian's changelog, which says what was packed when; what changed is in ours.
fn changelog(version: &Version<'_>, time: u64) -> Result<String> {
    let date =
        Step::new("date").env("LC_ALL", "C").args(["--utc", "--rfc-email", &format!("--date=@{time}")]);
    let date = date.answer().context("date failed")?;
    Ok(format!(
        "cutover ({version}) unstable; urgency=medium\n\n  * See CHANGELOG.md.\n\n -- {MAINTAINER}  {date}\n"
    ))
}

/// A version that is not released yet is older than the release, as `~` says to dpkg.
impl std::fmt::Display for Version<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for part in self.upstream.chars() {
            f.write_char(if part == '-' { '~' } else { part })?;
        }
        write!(f, "-{}", self.revision)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_candidate_comes_before_its_release() {
        let version = |upstream| Version { upstream, revision: 2 }.to_string();
        assert_eq!(version("0.1.0"), "0.1.0-2");
        assert_eq!(version("1.0.0-rc.1"), "1.0.0~rc.1-2");
    }

    #[test]
    fn the_libraries_are_those_that_dpkg_names() {
        let said = "shlibs:Depends=libc6 (>= 2.34), libgcc-s1 (>= 4.2)\n";
        assert_eq!(depends(said), Some("libc6 (>= 2.34), libgcc-s1 (>= 4.2)"));
        assert_eq!(depends("shlibs:Depends=\n"), None);
    }
}
