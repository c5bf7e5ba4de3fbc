//! Where values come from: environment, file, resources; each value with its origin.

use super::file::{self, SyntaxError};
use super::go_number::go_duration_s;
use super::resource::FelixConfiguration;
use super::table::{Setting, TABLE};
use serde_json::Value;
use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use thiserror::Error;

/// Where Felix has its file.
pub const DEFAULT_FILE: &str = "/etc/calico/felix.cfg";

/// Prefix of environment variables, in any case.
const ENVIRONMENT_PREFIX: &str = "felix_";

/// Variables that Calico's own clients of etcd read, and the settings that they stand for. Each also has a spelling with
/// [`CLIENT_PREFIX`], which counts more.
const CLIENT_VARIABLES: [(&str, &str); 7] = [
    ("DATASTORE_TYPE", "DatastoreType"),
    ("ETCD_CA_CERT_FILE", "EtcdCaFile"),
    ("ETCD_CERT_FILE", "EtcdCertFile"),
    ("ETCD_ENDPOINTS", "EtcdEndpoints"),
    ("ETCD_KEY_FILE", "EtcdKeyFile"),
    ("ETCD_PASSWORD", "EtcdPassword"),
    ("ETCD_USERNAME", "EtcdUsername"),
];

const CLIENT_PREFIX: &str = "CALICO_";

/// Prefix of annotations that hold raw values.
pub(super) const ANNOTATION_PREFIX: &str = "config.projectcalico.org/";

/// Members of a FelixConfiguration that are spelt differently from their setting.
const ALIASES: [(&str, &str); 4] = [
    ("endpointReportingDelay", "EndpointReportingDelaySecs"),
    ("netlinkTimeout", "NetlinkTimeoutSecs"),
    ("reportingInterval", "ReportingIntervalSecs"),
    ("reportingTTL", "ReportingTTLSecs"),
];

/// The source of a value in force.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Origin {
    /// A variable of the environment.
    Environment(String),
    /// A line of the file.
    File(PathBuf, usize),
    /// A FelixConfiguration resource.
    Resource(String),
    /// Found out from the system.
    System,
    /// Nobody gave a value.
    BuiltIn,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Environment(variable) => write!(f, "environment {variable}"),
            Self::File(path, line) => write!(f, "{}:{line}", path.display()),
            Self::Resource(name) => write!(f, "FelixConfiguration {name}"),
            Self::System => f.write_str("system"),
            Self::BuiltIn => f.write_str("built-in"),
        }
    }
}

/// Text given for a name, and by whom.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Given {
    pub(super) name: String,
    pub(super) text: String,
    pub(super) origin: Origin,
}

/// What does not change while the agent runs, unless it is told to read it again.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Sources {
    pub(super) environment: Vec<Given>,
    pub(super) file: Vec<Given>,
    /// Variables that other programs read, too; the file counts more, as for Felix.
    pub(super) client_environment: Vec<Given>,
    pub(super) system_hostname: String,
}

/// The sources could not be read; the agent cannot start (exit 78).
#[derive(Debug, Error)]
pub enum SourcesError {
    /// The file exists and cannot be read, or is missing although it was asked for by name.
    #[error("{path}: cannot read the configuration file: {error}; make it readable, or name another one with -c", path = path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },
    /// The file is not INI.
    #[error("{path}: {error}", path = path.display())]
    Syntax {
        /// The file.
        path: PathBuf,
        /// Where and why.
        error: SyntaxError,
    },
}

impl Sources {
    /// Reads environment, file and host name of this process. Without a name, a missing [`DEFAULT_FILE`] is fine.
    ///
    /// # Errors
    /// When the file is there but cannot be read or parsed, or was named and is not there.
    pub fn read(path: Option<&Path>) -> Result<Self, SourcesError> {
        let named = path.is_some();
        let path = path.unwrap_or(Path::new(DEFAULT_FILE));
        let bytes = match std::fs::read(path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound && !named => Vec::new(),
            Err(error) => return Err(SourcesError::Unreadable { path: path.to_owned(), error }),
        };
        let variables = std::env::vars_os()
            .filter_map(|(name, text)| Some((name.into_string().ok()?, text.to_string_lossy().into_owned())));
        let hostname = nix::unistd::gethostname().unwrap_or_default();
        Self::new(variables, path, &bytes, &hostname.to_string_lossy())
    }

    /// The same from values, for tests.
    ///
    /// # Errors
    /// When the text of the file cannot be parsed.
    pub fn new(
        environment: impl IntoIterator<Item = (String, String)>,
        path: &Path,
        file: &[u8],
        system_hostname: &str,
    ) -> Result<Self, SourcesError> {
        let entries =
            file::parse(file).map_err(|error| SourcesError::Syntax { path: path.to_owned(), error })?;
        let file = entries.into_iter().map(|entry| Given {
            name: entry.key,
            text: entry.value,
            origin: Origin::File(path.to_owned(), entry.line),
        });
        let variables: Vec<(String, String)> = environment.into_iter().collect();
        Ok(Self {
            client_environment: client_values(&variables),
            environment: environment_values(variables),
            file: file.collect(),
            system_hostname: system_hostname.trim().to_ascii_lowercase(),
        })
    }
}

/// What a configuration file says, by names in lower case. One that does not exist says nothing; there is no answer if it cannot be
/// read or parsed.
pub(crate) fn in_file(path: &Path) -> io::Result<BTreeMap<String, String>> {
    let bytes = match std::fs::read(path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
        Err(error) => return Err(error),
    };
    let entries = file::parse(&bytes).map_err(io::Error::other)?;
    Ok(entries.into_iter().map(|entry| (entry.key.to_ascii_lowercase(), entry.value)).collect())
}

fn environment_values(variables: impl IntoIterator<Item = (String, String)>) -> Vec<Given> {
    let given = variables.into_iter().filter_map(|(variable, text)| {
        let name = variable.to_ascii_lowercase().strip_prefix(ENVIRONMENT_PREFIX)?.to_owned();
        Some(Given { name, text, origin: Origin::Environment(variable) })
    });
    let mut given: Vec<_> = given.collect();
    // Two spellings of one variable: the order of an environment means nothing, that of names does.
    given.sort_by_key(|given| given.origin.to_string());
    given
}

/// The spelling that counts more comes last.
fn client_values(variables: &[(String, String)]) -> Vec<Given> {
    let given = ["", CLIENT_PREFIX].into_iter().flat_map(|prefix| {
        CLIENT_VARIABLES.iter().filter_map(move |(variable, name)| {
            let variable = format!("{prefix}{variable}");
            let (_, text) = variables.iter().find(|(other, _)| *other == variable)?;
            Some(Given {
                name: (*name).to_owned(),
                text: text.clone(),
                origin: Origin::Environment(variable),
            })
        })
    });
    given.collect()
}

/// The values of one resource; annotations come last and so win.
pub(super) fn resource_values(resource: &FelixConfiguration) -> Vec<Given> {
    let origin = Origin::Resource(resource.name.clone());
    let members = resource.spec.iter().filter_map(|(member, value)| {
        let alias = ALIASES.iter().find(|(alias, _)| alias == member);
        let name = alias.map_or(member.as_str(), |(_, name)| *name);
        let text = member_text(value, setting(name).is_some_and(|setting| setting.is_duration))?;
        Some(Given { name: name.to_owned(), text, origin: origin.clone() })
    });
    let annotations = resource.annotations.iter().filter_map(|(key, text)| {
        let name = key.strip_prefix(ANNOTATION_PREFIX)?.to_owned();
        Some(Given { name, text: text.clone(), origin: origin.clone() })
    });
    members.chain(annotations).collect()
}

/// The text that the same value would have in the file. Other lists and objects belong to settings that are not ours.
fn member_text(value: &Value, is_duration: bool) -> Option<String> {
    match value {
        Value::String(text) if is_duration => {
            // What is no duration stays as it is and is refused with the setting's own words.
            Some(go_duration_s(text).map_or_else(|| text.clone(), |seconds| seconds.to_string()))
        }
        Value::String(text) => Some(text.clone()),
        Value::Bool(_) | Value::Number(_) => Some(value.to_string()),
        Value::Array(items) => {
            items.iter().map(timeout_text).collect::<Option<Vec<_>>>().map(|it| it.join(","))
        }
        Value::Null | Value::Object(_) => None,
    }
}

/// An item of `healthTimeoutOverrides`, which the file writes as `name=timeout`.
fn timeout_text(item: &Value) -> Option<String> {
    Some(format!("{}={}", item.get("name")?.as_str()?, item.get("timeout")?.as_str()?))
}

/// The row of a name in any case.
pub(super) fn setting(name: &str) -> Option<&'static Setting> {
    TABLE.iter().find(|setting| setting.name.eq_ignore_ascii_case(name))
}
