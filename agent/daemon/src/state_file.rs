//! The engine's memory on disk: `state.json` in the run directory, replaced atomically.
//!
//! Lives in /run, because everything in it is void after a reboot: deadlines are on the boot clock, and the
//! kernel has forgotten the routes, too. A file of another boot is ignored. A file that cannot be read is set
//! aside for people to look at and never stops the agent.
//!
//! It also holds what the datastore said about the settings: an agent that is started while its datastore is away works with both.
//!
//! Everything is written each time something changes, so that there is never more than one truth. What that costs is mostly
//! turning machines into text, so the text of those that did not change is kept.

use crate::settings::Told;
use crate::{atomic_file, clock};
use cutover_engine::EndpointKey;
use cutover_engine::memory::{Memory, Remembered};
use serde::Deserialize;
use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// Name of the file in the run directory.
pub(crate) const FILE: &str = "state.json";

/// Layout of the file; another number is another layout.
const VERSION: u32 = 1;

#[derive(Deserialize)]
struct Document {
    version: u32,
    boot_id: String,
    #[serde(default)]
    settings: Option<Told>,
    #[serde(flatten)]
    memory: Memory,
}

/// The file, and what it is to hold.
#[derive(Debug)]
pub struct StateFile {
    path: PathBuf,
    boot_id: String,
    /// Each with its text.
    entries: BTreeMap<EndpointKey, (Remembered, String)>,
    /// Everything but the endpoints.
    others: Memory,
    settings: Option<Told>,
    /// The settings are others than those in the file.
    settings_changed: bool,
    /// The file holds just that.
    is_written: bool,
}

/// What was found at start.
#[derive(Debug, PartialEq, Eq)]
pub enum SavedState {
    /// Nothing, or a file of an earlier boot.
    Nothing,
    /// The memory of the agent's last life, and what the datastore had said about the settings, if that is known.
    Memory(Memory, Option<Told>),
    /// A file that is not ours to understand; it was renamed to this.
    SetAside(PathBuf, String),
}

impl StateFile {
    /// The state file of a run directory.
    ///
    /// # Errors
    /// The kernel's boot identifier cannot be read.
    pub fn new(run_dir: &Path) -> io::Result<Self> {
        let path = run_dir.join(FILE);
        Ok(Self {
            path,
            boot_id: clock::boot_id()?,
            entries: BTreeMap::new(),
            others: Memory::default(),
            settings: None,
            settings_changed: false,
            is_written: false,
        })
    }

    /// Reads what the last life left.
    ///
    /// # Errors
    /// The file exists and cannot be read or renamed at all.
    pub fn load(&mut self) -> io::Result<SavedState> {
        let reason = match self.read()? {
            Ok(saved) => {
                if let SavedState::Memory(_, settings) = &saved {
                    self.settings.clone_from(settings);
                }
                return Ok(saved);
            }
            Err(reason) => reason,
        };
        let aside = self.path.with_extension("json.unreadable");
        fs::rename(&self.path, &aside)?;
        Ok(SavedState::SetAside(aside, reason))
    }

    /// The memory in the file as it is now, for whoever only looks. What cannot be understood would be set aside at a start, and
    /// is nothing here.
    ///
    /// # Errors
    /// The file exists and cannot be read.
    pub fn peek(&self) -> io::Result<Memory> {
        match self.read()? {
            Ok(SavedState::Memory(memory, _)) => Ok(memory),
            _ => Ok(Memory::default()),
        }
    }

    /// What is in the file, or why that cannot be understood.
    fn read(&self) -> io::Result<Result<SavedState, String>> {
        let text = match fs::read(&self.path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Ok(SavedState::Nothing)),
            Err(error) => return Err(error),
        };
        Ok(match serde_json::from_slice::<Document>(&text) {
            Ok(document) if document.boot_id != self.boot_id => Ok(SavedState::Nothing),
            Ok(document) if document.version == VERSION => {
                Ok(SavedState::Memory(document.memory, document.settings))
            }
            Ok(document) => Err(format!("layout {} is not {VERSION}", document.version)),
            Err(error) => Err(error.to_string()),
        })
    }

    /// What the datastore says about the settings, from now on. It is written with the memory.
    pub fn set_settings(&mut self, told: Told) {
        let told = Some(told);
        self.settings_changed |= self.settings != told;
        self.settings = told;
    }

    /// Whether the file has to be written although the memory may be the same.
    #[must_use]
    pub const fn settings_changed(&self) -> bool {
        self.settings_changed
    }

    /// Writes the memory unless the file holds it already.
    ///
    /// ORDER: called before the appliers see the wanted sets that belong to this memory, so that after a
    /// crash the kernel is never ahead of the file, except for what the kernel itself remembers (evidence).
    ///
    /// # Errors
    /// The file cannot be written; the one before is still there.
    pub fn save(&mut self, memory: Memory) -> io::Result<()> {
        let has_changed = self.take(memory)?;
        if self.is_written && !has_changed && !self.settings_changed {
            return Ok(());
        }
        self.is_written = false;
        atomic_file::replace_json(&self.path, self.text()?.as_bytes())?;
        (self.is_written, self.settings_changed) = (true, false);
        Ok(())
    }

    /// Takes the memory over. Says whether it is another one.
    fn take(&mut self, memory: Memory) -> io::Result<bool> {
        let mut others = memory;
        let endpoints = std::mem::take(&mut others.endpoints);
        let mut before = std::mem::take(&mut self.entries);
        let mut has_changed = self.others != others;
        self.others = others;
        for entry in endpoints {
            let known = before.remove(&entry.key).filter(|(known, _)| *known == entry);
            has_changed |= known.is_none();
            let text = match known {
                Some((_, text)) => text,
                None => serde_json::to_string(&entry).map_err(io::Error::other)?,
            };
            self.entries.insert(entry.key.clone(), (entry, text));
        }
        Ok(has_changed || !before.is_empty())
    }

    fn text(&self) -> io::Result<String> {
        let boot_id = serde_json::to_string(&self.boot_id).map_err(io::Error::other)?;
        let settings = serde_json::to_string(&self.settings).map_err(io::Error::other)?;
        let mut text =
            format!("{{\"version\":{VERSION},\"boot_id\":{boot_id},\"settings\":{settings},\"endpoints\":[");
        for (position, (_, entry)) in self.entries.values().enumerate() {
            text.push_str(if position == 0 { "\n" } else { ",\n" });
            text.push_str(entry);
        }
        text.push_str("\n]");
        let Memory { endpoints: _, aftermaths, statuses_elsewhere, departures, arrivals } = &self.others;
        let others = [
            ("aftermaths", serde_json::to_string(aftermaths)),
            ("statuses_elsewhere", serde_json::to_string(statuses_elsewhere)),
            ("departures", serde_json::to_string(departures)),
            ("arrivals", serde_json::to_string(arrivals)),
        ];
        for (name, value) in others {
            text.push_str(&format!(",\n\"{name}\":{}", value.map_err(io::Error::other)?));
        }
        text.push_str("}\n");
        Ok(text)
    }
}

#[cfg(test)]
pub(crate) mod fuzz;

#[cfg(test)]
mod tests {
    use super::*;
    use cutover_engine::machine::{Machine, State};
    use cutover_engine::memory::{Aftermath, Arrival, Departure, StatusElsewhere};
    use cutover_engine::wanted::Tunnel;
    use cutover_engine::{BootTime, Endpoint};
    use std::collections::BTreeSet;

    fn memory() -> Memory {
        let key = EndpointKey {
            host: "b".into(),
            orchestrator: "openstack".into(),
            workload: "openstack/vm1".into(),
            endpoint: "port1".into(),
        };
        let endpoint = Endpoint {
            uid: "e1".into(),
            interface: "tapport1".into(),
            mac: Some("fa:16:3e:00:00:01".parse().unwrap()),
            prefixes: ["10.0.0.1/32".parse().unwrap(), "2001:db8::1/128".parse().unwrap()].into(),
            labels: [("a".to_owned(), "b".to_owned())].into(),
        };
        let machine = Machine { state: State::Live, uid: "u1".into(), ..Machine::default() };
        let elsewhere = EndpointKey { host: "a".into(), ..key.clone() };
        let aftermath = Aftermath {
            port: EndpointKey { endpoint: "port9".into(), ..key.clone() },
            since: BootTime(7),
            reported_at: Some(BootTime(8)),
            reported_before: 7,
            sides: BTreeSet::new(),
            uid: "u1".into(),
            is_ours: true,
            lives_on: [EndpointKey { endpoint: "port9".into(), ..elsewhere.clone() }].into(),
        };
        let departure = Departure {
            endpoint: key.clone(),
            uid: "u2".into(),
            to: elsewhere.clone(),
            began_at: BootTime(5),
            prefixes: ["10.0.0.1/32".parse().unwrap()].into(),
            tunnel: Some(Tunnel { id: 77, peer: "192.0.2.7".parse().unwrap() }),
            is_ready: true,
            is_unready_since: Some(BootTime(8)),
            is_announced: true,
            stopped_at: Some(BootTime(7)),
            has_resumed: true,
            started_at: Some(BootTime(6)),
            ends_at: None,
            tap: Some(3),
            seen_at: Some(BootTime(5)),
            heard_at: Some(BootTime(6)),
            forwarded_at: Some(BootTime(6)),
        };
        let arrival = Arrival {
            endpoint: key.clone(),
            uid: "u1".into(),
            from: elsewhere.clone(),
            began_at: BootTime(4),
            prefixes: ["10.0.0.1/32".parse().unwrap()].into(),
            has_connections: true,
            tunnel_id: 78,
            peer: Some("2001:db8::7".parse().unwrap()),
            is_ready: false,
            stopped_at: Some(BootTime(5)),
            forwarded_at: Some(BootTime(6)),
            is_announced: true,
            has_failed: false,
            ends_at: Some(BootTime(9)),
        };
        Memory {
            departures: vec![departure],
            arrivals: vec![arrival],
            endpoints: vec![Remembered {
                key,
                endpoint,
                machine,
                was_deleted: false,
                withheld: Default::default(),
            }],
            aftermaths: vec![aftermath],
            statuses_elsewhere: vec![StatusElsewhere { endpoint: elsewhere, revision: 9 }],
        }
    }

    #[test]
    fn comes_back_as_it_was() {
        let dir = tempfile::tempdir().unwrap();
        let mut file = StateFile::new(dir.path()).unwrap();
        assert_eq!(file.load().unwrap(), SavedState::Nothing);
        file.save(memory()).unwrap();
        assert_eq!(StateFile::new(dir.path()).unwrap().load().unwrap(), SavedState::Memory(memory(), None));
    }

    #[test]
    fn is_for_root_only_whatever_a_crash_left() {
        use std::os::unix::fs::PermissionsExt as _;
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("state.json.new"), "half").unwrap();
        StateFile::new(dir.path()).unwrap().save(memory()).unwrap();
        let mode = fs::metadata(dir.path().join("state.json")).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }

    #[test]
    fn another_boot_is_another_world() {
        let dir = tempfile::tempdir().unwrap();
        let mut file = StateFile::new(dir.path()).unwrap();
        file.boot_id = "another".into();
        file.save(memory()).unwrap();
        assert_eq!(StateFile::new(dir.path()).unwrap().load().unwrap(), SavedState::Nothing);
    }

    #[test]
    fn an_unreadable_file_is_kept_for_people_and_stops_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let mut file = StateFile::new(dir.path()).unwrap();
        fs::write(dir.path().join("state.json"), "{\"version\": 1, \"boot").unwrap();
        let SavedState::SetAside(aside, _) = file.load().unwrap() else { panic!("not set aside") };
        assert!(fs::read_to_string(aside).unwrap().starts_with("{\"version\""));
        assert_eq!(file.load().unwrap(), SavedState::Nothing);
    }

    #[test]
    fn what_the_datastore_said_about_the_settings_comes_back_too() {
        let dir = tempfile::tempdir().unwrap();
        let mut file = StateFile::new(dir.path()).unwrap();
        file.save(memory()).unwrap();
        let told: Told = serde_json::from_str("{\"default\":{\"DeviceRouteProtocol\":\"80\"}}").unwrap();
        file.set_settings(told.clone());
        assert!(file.settings_changed());
        file.save(memory()).unwrap();
        assert!(!file.settings_changed());
        let mut again = StateFile::new(dir.path()).unwrap();
        assert_eq!(again.load().unwrap(), SavedState::Memory(memory(), Some(told.clone())));
        again.set_settings(told);
        assert!(!again.settings_changed());
        // A resource that is gone says nothing; that nobody has been asked is something else.
        file.set_settings(Told::default());
        file.save(memory()).unwrap();
        assert_eq!(file.load().unwrap(), SavedState::Memory(memory(), Some(Told::default())));
    }

    #[test]
    fn a_file_of_a_version_that_did_not_keep_settings_is_read() {
        let dir = tempfile::tempdir().unwrap();
        let mut file = StateFile::new(dir.path()).unwrap();
        file.save(memory()).unwrap();
        let path = dir.path().join("state.json");
        let text = fs::read_to_string(&path).unwrap();
        assert!(text.contains("\"settings\":null,"));
        fs::write(&path, text.replace("\"settings\":null,", "")).unwrap();
        assert_eq!(file.load().unwrap(), SavedState::Memory(memory(), None));
    }

    pub(super) fn three() -> Memory {
        let entry = |number: u8| {
            let mut entry = memory().endpoints.remove(0);
            entry.key.endpoint = format!("port{number}");
            entry
        };
        Memory { endpoints: (1..=3).map(entry).collect(), ..memory() }
    }

    #[test]
    fn holds_what_was_saved_last_whatever_changed() {
        let dir = tempfile::tempdir().unwrap();
        let mut file = StateFile::new(dir.path()).unwrap();
        let [all, mut changed, mut fewer] = [three(), three(), three()];
        let [mut later, mut reported, mut gone] = [three(), three(), three()];
        gone.departures.clear();
        later.aftermaths[0].since = BootTime(70);
        reported.statuses_elsewhere[0].revision += 1;
        changed.endpoints[1].machine.state = State::TimeWait;
        fewer.endpoints.remove(0);
        for memory in [&all, &later, &gone, &reported, &changed, &fewer, &all, &Memory::default(), &changed] {
            file.save(memory.clone()).unwrap();
            assert_eq!(file.load().unwrap(), SavedState::Memory(memory.clone(), None));
        }
    }

    #[test]
    fn is_not_written_again_with_the_same() {
        let dir = tempfile::tempdir().unwrap();
        let mut file = StateFile::new(dir.path()).unwrap();
        file.save(three()).unwrap();
        fs::remove_file(dir.path().join("state.json")).unwrap();
        file.save(three()).unwrap();
        assert_eq!(file.load().unwrap(), SavedState::Nothing);
    }

    #[test]
    fn what_could_not_be_written_is_written_the_next_time() {
        let dir = tempfile::tempdir().unwrap();
        let mut file = StateFile::new(dir.path()).unwrap();
        file.save(memory()).unwrap();
        let in_the_way = dir.path().join("state.json.new");
        fs::create_dir(&in_the_way).unwrap();
        file.save(three()).unwrap_err();
        assert_eq!(file.load().unwrap(), SavedState::Memory(memory(), None));
        fs::remove_dir(&in_the_way).unwrap();
        file.save(three()).unwrap();
        assert_eq!(file.load().unwrap(), SavedState::Memory(three(), None));
    }
}
