//! What sysctls of the host were before the agent changed them: `sysctls.json` in the run directory.
//!
//! Written by the agent before it changes one, read by `cutover cleanup`, which sets them back. A file of another boot is void,
//! as the settings are.

use super::Sysctls;
use super::table::{self, HostSysctl};
use crate::{atomic_file, clock};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// Name of the file in the run directory.
pub const FILE: &str = "sysctls.json";

#[derive(Serialize, Deserialize, Debug, Default)]
struct Document {
    boot_id: String,
    /// By path below /proc/sys/net.
    before: BTreeMap<String, String>,
}

/// The file.
#[derive(Debug)]
pub struct FormerValues {
    run_dir: PathBuf,
}

impl FormerValues {
    /// Those that are kept in a run directory.
    #[must_use]
    pub fn of(run_dir: &Path) -> Self {
        Self { run_dir: run_dir.to_owned() }
    }

    /// Takes note of a value that is about to be changed. What was noted first stays: it is nobody's of ours.
    pub fn remember(&self, path: &str, value: &str) -> io::Result<()> {
        let mut document = self.load()?;
        if document.before.contains_key(path) {
            return Ok(());
        }
        document.before.insert(path.to_owned(), value.to_owned());
        let text = serde_json::to_vec(&document).map_err(io::Error::other)?;
        atomic_file::replace_json(&self.run_dir.join(FILE), &text)
    }

    /// The settings of the host that the agent changed and nobody else has changed since, each with what it was.
    pub fn to_set_back(&self, sysctls: &Sysctls) -> io::Result<Vec<(HostSysctl, String)>> {
        let before = self.load()?.before;
        let is_ours = |row: &HostSysctl| sysctls.read(row.path).is_ok_and(|value| value == table::FORWARDING);
        let to_set_back = |row: &HostSysctl| {
            let value = before.get(row.path).filter(|value| *value != table::FORWARDING)?;
            is_ours(row).then(|| (*row, value.clone()))
        };
        Ok(table::HOST.iter().filter_map(to_set_back).collect())
    }

    fn load(&self) -> io::Result<Document> {
        let boot_id = clock::boot_id()?;
        let nothing = Document { boot_id: boot_id.clone(), ..Document::default() };
        let text = match fs::read(self.run_dir.join(FILE)) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(nothing),
            Err(error) => return Err(error),
        };
        // The file is replaced as a whole, so one that makes no sense was made by somebody else.
        Ok(serde_json::from_slice(&text)
            .ok()
            .filter(|document: &Document| document.boot_id == boot_id)
            .unwrap_or(nothing))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const IPV4: &str = "ipv4/ip_forward";

    fn host(value: &str) -> (tempfile::TempDir, FormerValues, Sysctls) {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir_all(folder.path().join("net/ipv4")).unwrap();
        fs::write(folder.path().join("net").join(IPV4), value).unwrap();
        let (former, sysctls) = (FormerValues::of(folder.path()), Sysctls::new(&folder.path().join("net")));
        (folder, former, sysctls)
    }

    fn paths(former: &FormerValues, sysctls: &Sysctls) -> Vec<(&'static str, String)> {
        let rows = former.to_set_back(sysctls).unwrap();
        rows.into_iter().map(|(row, value)| (row.path, value)).collect()
    }

    #[test]
    fn what_was_there_first_is_set_back() {
        let (_folder, former, sysctls) = host("1\n");
        assert!(paths(&former, &sysctls).is_empty(), "nobody changed it");
        former.remember(IPV4, "0").unwrap();
        former.remember(IPV4, "2").unwrap();
        assert_eq!(paths(&former, &sysctls), [(IPV4, "0".to_owned())]);
    }

    #[test]
    fn what_somebody_else_changed_since_is_his() {
        let (_folder, former, sysctls) = host("0\n");
        former.remember(IPV4, "0").unwrap();
        assert!(paths(&former, &sysctls).is_empty(), "as it was, whoever did that");
    }

    #[test]
    fn another_boot_or_another_file_says_nothing() {
        let (folder, former, sysctls) = host("1\n");
        for text in [r#"{"boot_id":"another","before":{"ipv4/ip_forward":"0"}}"#, "{\"boot_id"] {
            fs::write(folder.path().join(FILE), text).unwrap();
            assert!(paths(&former, &sysctls).is_empty(), "{text}");
        }
        former.remember(IPV4, "0").unwrap();
        assert_eq!(paths(&former, &sysctls), [(IPV4, "0".to_owned())]);
    }
}
