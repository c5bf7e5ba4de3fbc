//! What a running Felix has in its own environment: the place for settings that must not be this agent's; and what its configuration file
//! says of the mode in which it works.
//!
//! The environment is read from the process; where that is not allowed, from its systemd unit and the unit's drop-ins.

use super::program::{self, Version};
use crate::processes::{Process, Processes};
use crate::settings::{DEFAULT_FILE, in_file};
use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// Where systemd looks for units, the first one first.
const UNIT_FOLDERS: [&str; 4] =
    ["/etc/systemd/system", "/run/systemd/system", "/usr/lib/systemd/system", "/lib/systemd/system"];
/// Its unit, as the packages and the units below dist/ have it.
pub const UNIT: &str = "calico-felix.service";

/// Settings that choose what Felix programs the packet filter with.
const MODE: [&str; 3] = ["BPFEnabled", "NFTablesMode", "IptablesBackend"];

/// A Felix of this network namespace.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Felix {
    /// Its process.
    pub pid: u32,
    /// Settings in its environment, by their names in lower case; nothing if that cannot be known.
    pub environment: Option<BTreeMap<String, String>>,
    /// Settings in its configuration file, in the same way.
    pub file: Option<BTreeMap<String, String>>,
    /// Its version, if its program or its package says it.
    pub version: Option<Version>,
}

impl Felix {
    /// With an environment as /proc shows it.
    pub fn with_environment(pid: u32, environment: &[u8]) -> Self {
        let variables = environment.split(|byte| *byte == 0).map(String::from_utf8_lossy);
        let environment = variables.filter_map(|variable| setting(&variable)).collect();
        Self { pid, environment: Some(environment), ..Self::default() }
    }

    /// What its environment and its file say of the settings that choose its mode; of what is not there, the datastore or its built-in
    /// value counts. Nothing if one of the two cannot be known.
    pub fn mode(&self) -> Option<BTreeMap<String, String>> {
        let (environment, file) = (self.environment.as_ref()?, self.file.as_ref()?);
        let given = |name: &&str| {
            let key = name.to_ascii_lowercase();
            let value = environment.get(&key).or_else(|| file.get(&key))?;
            Some(((*name).to_owned(), value.clone()))
        };
        Some(MODE.iter().filter_map(given).collect())
    }

    /// What a setting is: its environment wins over what it shares with this agent. Nothing if that cannot be known.
    fn bool(&self, name: &str, shared: bool) -> Option<bool> {
        match &self.environment {
            Some(environment) => {
                let own = environment.get(name).and_then(|text| crate::settings::parse_bool(text));
                Some(own.unwrap_or(shared))
            }
            None => None,
        }
    }

    /// Whether it leaves routes to somebody else, given `RouteSyncDisabled` of the file and the resources that both read.
    pub fn leaves_routes(&self, shared: bool) -> Option<bool> {
        self.bool("routesyncdisabled", shared)
    }

    /// Whether it reports endpoint statuses, given `EndpointReportingEnabled` of the file and the resources that both read.
    pub fn reports_endpoints(&self, shared: bool) -> Option<bool> {
        self.bool("endpointreportingenabled", shared)
    }
}

/// A setting of Felix's among variables.
fn setting(variable: &str) -> Option<(String, String)> {
    let (name, value) = variable.split_once('=')?;
    let name = name.to_ascii_lowercase();
    Some((name.strip_prefix("felix_")?.to_owned(), value.to_owned()))
}

/// Every Felix of this network namespace.
pub fn running(proc: &Path) -> Vec<Felix> {
    of_processes(proc, &Processes::of_this_namespace(proc))
}

/// Every Felix among these processes.
pub fn of_processes(proc: &Path, processes: &Processes) -> Vec<Felix> {
    let look = |process: &Process| {
        let environment = fs::read(proc.join(process.pid.to_string()).join("environ"));
        // KERNEL: a process without CAP_SYS_PTRACE may not look at one with more capabilities.
        let felix = environment.map_or_else(
            |_| Felix { pid: process.pid, environment: of_unit(), ..Felix::default() },
            |environment| Felix::with_environment(process.pid, &environment),
        );
        Felix { file: of_file(proc, process), version: program::version(proc, process.pid), ..felix }
    };
    processes.felix().map(look).collect()
}

/// What its configuration file says, which is another one than this agent's if it runs in a container.
fn of_file(proc: &Path, process: &Process) -> Option<BTreeMap<String, String>> {
    let named = process.values_of(&["-c", "--config-file"]).pop();
    let path = Path::new(named.unwrap_or(DEFAULT_FILE));
    let in_its_root = proc.join(process.pid.to_string()).join("root").join(path.strip_prefix("/").ok()?);
    match in_file(&in_its_root) {
        // Both read the same file, where the agent is confined as its unit says.
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => in_file(path).ok(),
        read => read.ok(),
    }
}

/// What the unit gives to Felix; nothing if there is no such unit, or it names other files.
fn of_unit() -> Option<BTreeMap<String, String>> {
    let mut found = UNIT_FOLDERS.iter().map(|folder| Path::new(folder).join(UNIT));
    let unit = fs::read_to_string(found.find(|path| path.exists())?).ok()?;
    let folders = UNIT_FOLDERS.iter().rev().map(|folder| Path::new(folder).join(format!("{UNIT}.d")));
    let mut drop_ins: BTreeMap<std::ffi::OsString, PathBuf> = BTreeMap::new();
    for entry in folders.filter_map(|folder| fs::read_dir(folder).ok()).flatten().flatten() {
        let is_one = entry.path().extension().is_some_and(|extension| extension == "conf");
        if is_one {
            drop_ins.insert(entry.file_name(), entry.path());
        }
    }
    let texts = drop_ins.values().map(fs::read_to_string).collect::<Result<Vec<_>, _>>().ok()?;
    environment_of(std::iter::once(unit).chain(texts))
}

/// `Environment=` of the files of a unit, in their order. Nothing if one names a file with variables.
fn environment_of(files: impl Iterator<Item = String>) -> Option<BTreeMap<String, String>> {
    let mut environment = BTreeMap::new();
    for file in files {
        for line in file.lines().map(str::trim) {
            if line.strip_prefix("EnvironmentFile=").is_some_and(|name| !name.is_empty()) {
                return None;
            }
            match line.strip_prefix("Environment=") {
                Some("") => environment.clear(),
                Some(variables) => {
                    environment.extend(words(variables).iter().filter_map(|word| setting(word)))
                }
                None => {}
            }
        }
    }
    Some(environment)
}

/// Words apart, quoted or not.
fn words(line: &str) -> Vec<String> {
    let (mut words, mut word, mut quote) = (Vec::new(), String::new(), None);
    for character in line.chars() {
        match (quote, character) {
            (Some(open), _) if character == open => quote = None,
            (None, '"' | '\'') => quote = Some(character),
            (None, _) if character.is_whitespace() => words.push(std::mem::take(&mut word)),
            _ => word.push(character),
        }
    }
    words.push(word);
    words.retain(|word| !word.is_empty());
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn its_own_environment_wins_over_what_both_read() {
        let felix = Felix::with_environment(
            1,
            b"PATH=/bin\0FELIX_ROUTESYNCDISABLED=true\0felix_EndpointReportingEnabled=no\0",
        );
        assert_eq!((felix.leaves_routes(false), felix.reports_endpoints(true)), (Some(true), Some(false)));
        let plain = Felix::with_environment(1, b"PATH=/bin\0");
        assert_eq!((plain.leaves_routes(false), plain.reports_endpoints(true)), (Some(false), Some(true)));
        let unknown = Felix { pid: 1, ..Felix::default() };
        assert_eq!(unknown.leaves_routes(true), None);
    }

    #[test]
    fn its_mode_is_what_its_environment_says_and_then_its_file() {
        let file = BTreeMap::from([("nftablesmode", "Disabled"), ("iptablesbackend", "NFT"), ("other", "x")]);
        let file = file.into_iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
        let felix = Felix::with_environment(1, b"FELIX_NFTABLESMODE=Enabled\0");
        assert_eq!(felix.mode(), None, "a file that cannot be read may say anything");
        let mode = Felix { file: Some(file), ..felix }.mode().unwrap();
        let mode: Vec<_> = mode.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        assert_eq!(mode, [("IptablesBackend", "NFT"), ("NFTablesMode", "Enabled")]);
    }

    #[test]
    fn a_drop_in_is_read_as_systemd_does() {
        let unit = "[Service]\nEnvironment=FELIX_LOGSEVERITYSCREEN=INFO\n".to_owned();
        let drop_in = "[Service]\nEnvironment=\"FELIX_ROUTESYNCDISABLED=true\" FELIX_X='a b'\n".to_owned();
        let read = environment_of([unit.clone(), drop_in].into_iter()).unwrap();
        assert_eq!(read["routesyncdisabled"], "true");
        assert_eq!((read["x"].as_str(), read.len()), ("a b", 3));
        let reset = environment_of([unit.clone(), "Environment=\n".to_owned()].into_iter());
        assert_eq!(reset, Some(BTreeMap::new()));
        let elsewhere = environment_of([unit, "EnvironmentFile=/etc/felix.env\n".to_owned()].into_iter());
        assert_eq!(elsewhere, None, "not guessed");
    }
}
