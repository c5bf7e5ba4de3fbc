//! What a running Felix has in its own environment: the place for settings that must not be this agent's.
//!
//! Read from the process; where that is not allowed, from its systemd unit and the unit's drop-ins.

use crate::processes::{Process, Processes};
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

/// Where systemd looks for units, the first one first.
const UNIT_FOLDERS: [&str; 4] =
    ["/etc/systemd/system", "/run/systemd/system", "/usr/lib/systemd/system", "/lib/systemd/system"];
/// Its unit, as the packages and the units below dist/ have it.
pub const UNIT: &str = "calico-felix.service";

/// A Felix of this network namespace.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Felix {
    /// Its process.
    pub pid: u32,
    /// Settings in its environment, by their names in lower case; nothing if that cannot be known.
    pub environment: Option<BTreeMap<String, String>>,
}

impl Felix {
    /// With an environment as /proc shows it.
    pub fn with_environment(pid: u32, environment: &[u8]) -> Self {
        let variables = environment.split(|byte| *byte == 0).map(String::from_utf8_lossy);
        Self { pid, environment: Some(variables.filter_map(|variable| setting(&variable)).collect()) }
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
        environment.map_or_else(
            |_| Felix { pid: process.pid, environment: of_unit() },
            |environment| Felix::with_environment(process.pid, &environment),
        )
    };
    processes.felix().map(look).collect()
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
        let unknown = Felix { pid: 1, environment: None };
        assert_eq!(unknown.leaves_routes(true), None);
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
