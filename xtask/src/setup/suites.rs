//! Packages of other suites of Debian than the installed one, downloaded and unpacked below the build folder.
//!
//! Nothing is installed and the machine's list of sources stays as it is: apt-get works with a configuration, an index and a
//! folder of its own, and accepts only what Debian has signed.

use crate::step::Step;
use crate::workspace::{has_program, target};
use anyhow::{Context as _, Result, bail};
use std::fs;
use std::path::{Path, PathBuf};

/// Who signs the index.
pub(super) const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";
pub(super) const MIRROR: &str = "http://deb.debian.org/debian";

/// A suite whose list of packages has been fetched.
pub(super) struct Suite {
    /// With which apt works on it.
    configuration: PathBuf,
}

impl Suite {
    /// Fetches the list of packages.
    pub(super) fn fetch(name: &str) -> Result<Self> {
        if !has_program("apt-get") || !has_program("dpkg-deb") || !Path::new(KEYRING).is_file() {
            bail!("this is no Debian");
        }
        let state = target().join("suites").join(name);
        fs::create_dir_all(state.join("lists/partial"))?;
        fs::create_dir_all(state.join("archives/partial"))?;
        // No package is installed, as far as this apt-get knows.
        fs::write(state.join("status"), "")?;
        fs::write(state.join("sources.list"), format!("deb [signed-by={KEYRING}] {MIRROR} {name} main\n"))?;
        let configuration = state.join("apt.conf");
        fs::write(&configuration, apt_configuration(&state))?;
        let suite = Self { configuration };
        suite.apt("apt-get").args(["--quiet=2", "update"]).run()?;
        Ok(suite)
    }

    /// The package that a package which only names another one depends on.
    pub(super) fn named_by(&self, package: &str) -> Result<String> {
        let answer = self.apt("apt-cache").args(["depends", package]).output()?;
        let named = depended_on(&answer).map(str::to_owned);
        named.with_context(|| format!("{package} depends on nothing"))
    }

    /// Downloads packages and unpacks them into a new folder at `to`, which is there only when it is whole and `finish` has had its
    /// way with it.
    pub(super) fn unpack(
        &self,
        packages: &[&str],
        to: &Path,
        finish: impl FnOnce(&Path) -> Result<()>,
    ) -> Result<()> {
        let beside = |suffix| {
            let mut name = to.as_os_str().to_owned();
            name.push(suffix);
            PathBuf::from(name)
        };
        let (downloads, partial) = (beside(".download"), beside(".partial"));
        for folder in [&downloads, &partial] {
            let _ = fs::remove_dir_all(folder);
            fs::create_dir_all(folder)?;
        }
        self.apt("apt-get").within(&downloads).args(["--quiet=2", "download"]).args(packages).run()?;
        for archive in fs::read_dir(&downloads)? {
            let archive = archive?.path();
            // Not said one by one: there are dozens.
            let words = ["--extract".as_ref(), archive.as_os_str(), partial.as_os_str()];
            let unpacked = Step::new("dpkg-deb").args(words).answer();
            unpacked.with_context(|| format!("{} could not be unpacked", archive.display()))?;
        }
        finish(&partial)?;
        // ORDER: a folder of this name is whole.
        fs::rename(&partial, to).context("the unpacked packages could not be moved")?;
        let _ = fs::remove_dir_all(&downloads);
        Ok(())
    }

    fn apt(&self, program: &str) -> Step {
        Step::new(program).env("APT_CONFIG", &self.configuration)
    }
}

/// What the machine's own configuration says besides, such as a proxy, holds here, too.
fn apt_configuration(state: &Path) -> String {
    let state = state.display();
    format!(
        "\
Dir::State \"{state}\";
Dir::State::lists \"{state}/lists\";
Dir::State::status \"{state}/status\";
Dir::Cache \"{state}\";
Dir::Cache::archives \"{state}/archives\";
Dir::Etc::sourcelist \"{state}/sources.list\";
Dir::Etc::sourceparts \"-\";
Acquire::Languages \"none\";
Acquire::IndexTargets::deb::DEP-11::DefaultEnabled \"false\";
Acquire::http::Timeout \"20\";
APT::Sandbox::User \"root\";
// An index that could not be fetched is an error, not a warning.
APT::Update::Error-Mode \"any\";
"
    )
}

/// The first package in an answer of `apt-cache depends`.
fn depended_on(answer: &str) -> Option<&str> {
    answer.lines().find_map(|line| line.trim().strip_prefix("Depends: "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kernel_is_what_its_metapackage_depends_on() {
        let answer = "linux-image-cloud-amd64\n  Depends: linux-image-6.1.0-41-cloud-amd64\n  Suggests: x\n";
        assert_eq!(depended_on(answer), Some("linux-image-6.1.0-41-cloud-amd64"));
        assert_eq!(depended_on("linux-image-cloud-amd64\n"), None);
    }
}
