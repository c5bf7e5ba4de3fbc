//! The engine's memory on disk: `state.json` in the run directory, replaced atomically.
//!
//! Lives in /run, because everything in it is void after a reboot: deadlines are on the boot clock, and the
//! kernel has forgotten the routes, too. A file of another boot is ignored. A file that cannot be read is set
//! aside for people to look at and never stops the agent.

use crate::clock;
use cutover_engine::memory::Memory;
use serde::{Deserialize, Serialize};
use std::fs;
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

/// Layout of the file; another number is another layout.
const VERSION: u32 = 1;

#[derive(Serialize, Deserialize)]
struct Document {
    version: u32,
    boot_id: String,
    #[serde(flatten)]
    memory: Memory,
}

/// The file, and what was last written to it.
#[derive(Debug)]
pub struct StateFile {
    path: PathBuf,
    boot_id: String,
    last: Option<Vec<u8>>,
}

/// What was found at start.
#[derive(Debug, PartialEq, Eq)]
pub enum Found {
    /// Nothing, or a file of an earlier boot.
    Nothing,
    /// The memory of the agent's last life.
    Memory(Memory),
    /// A file that is not ours to understand; it was renamed to this.
    SetAside(PathBuf, String),
}

impl StateFile {
    /// The state file of a run directory.
    ///
    /// # Errors
    /// The kernel's boot identifier cannot be read.
    pub fn new(run_dir: &Path) -> io::Result<Self> {
        Ok(Self { path: run_dir.join("state.json"), boot_id: clock::boot_id()?, last: None })
    }

    /// Reads what the last life left.
    ///
    /// # Errors
    /// The file exists and cannot be read or renamed at all.
    pub fn load(&self) -> io::Result<Found> {
        let text = match fs::read(&self.path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Found::Nothing),
            Err(error) => return Err(error),
        };
        let reason = match serde_json::from_slice::<Document>(&text) {
            Ok(document) if document.boot_id != self.boot_id => return Ok(Found::Nothing),
            Ok(document) if document.version == VERSION => return Ok(Found::Memory(document.memory)),
            Ok(document) => format!("layout {} is not {VERSION}", document.version),
            Err(error) => error.to_string(),
        };
        let aside = self.path.with_extension("json.unreadable");
        fs::rename(&self.path, &aside)?;
        Ok(Found::SetAside(aside, reason))
    }

    /// Writes the memory unless the file holds it already.
    ///
    /// ORDER: called before the appliers see the wanted sets that belong to this memory, so that after a
    /// crash the kernel is never ahead of the file, except for what the kernel itself remembers (evidence).
    ///
    /// # Errors
    /// The file cannot be written; the one before is still there.
    pub fn save(&mut self, memory: &Memory) -> io::Result<()> {
        let document = Document { version: VERSION, boot_id: self.boot_id.clone(), memory: memory.clone() };
        let text = serde_json::to_vec_pretty(&document).map_err(io::Error::other)?;
        if self.last.as_ref() == Some(&text) {
            return Ok(());
        }
        let beside = self.path.with_extension("json.new");
        // One that a crash left behind would keep its mode.
        match fs::remove_file(&beside) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let mut file = fs::OpenOptions::new().create_new(true).write(true).mode(0o600).open(&beside)?;
        file.write_all(&text)?;
        fs::rename(&beside, &self.path)?;
        self.last = Some(text);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use cutover_engine::machine::{Machine, State};
    use cutover_engine::memory::Remembered;
    use cutover_engine::{Endpoint, EndpointKey};

    fn memory() -> Memory {
        let key = EndpointKey {
            host: "b".into(),
            orchestrator: "openstack".into(),
            workload: "openstack/vm1".into(),
            endpoint: "port1".into(),
        };
        let endpoint = Endpoint {
            interface: "tapport1".into(),
            mac: Some("fa:16:3e:00:00:01".parse().unwrap()),
            prefixes: ["10.0.0.1/32".parse().unwrap(), "2001:db8::1/128".parse().unwrap()].into(),
            labels: [("a".to_owned(), "b".to_owned())].into(),
        };
        let machine = Machine { state: State::Live, uid: "u1".into(), ..Machine::default() };
        Memory { endpoints: vec![Remembered { key, endpoint, machine }] }
    }

    #[test]
    fn comes_back_as_it_was() {
        let dir = tempfile::tempdir().unwrap();
        let mut file = StateFile::new(dir.path()).unwrap();
        assert_eq!(file.load().unwrap(), Found::Nothing);
        file.save(&memory()).unwrap();
        assert_eq!(StateFile::new(dir.path()).unwrap().load().unwrap(), Found::Memory(memory()));
    }

    #[test]
    fn is_for_root_only_whatever_a_crash_left() {
        use std::os::unix::fs::PermissionsExt as _;
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("state.json.new"), "half").unwrap();
        StateFile::new(dir.path()).unwrap().save(&memory()).unwrap();
        let mode = fs::metadata(dir.path().join("state.json")).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }

    #[test]
    fn another_boot_is_another_world() {
        let dir = tempfile::tempdir().unwrap();
        let mut file = StateFile::new(dir.path()).unwrap();
        file.boot_id = "another".into();
        file.save(&memory()).unwrap();
        assert_eq!(StateFile::new(dir.path()).unwrap().load().unwrap(), Found::Nothing);
    }

    #[test]
    fn an_unreadable_file_is_kept_for_people_and_stops_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let file = StateFile::new(dir.path()).unwrap();
        fs::write(dir.path().join("state.json"), "{\"version\": 1, \"boot").unwrap();
        let Found::SetAside(aside, _) = file.load().unwrap() else { panic!("not set aside") };
        assert!(fs::read_to_string(aside).unwrap().starts_with("{\"version\""));
        assert_eq!(file.load().unwrap(), Found::Nothing);
    }
}
