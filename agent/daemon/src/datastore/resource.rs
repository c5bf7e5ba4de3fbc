//! Resources as they are written, and what the engine makes of them.
//!
//! Owns the documents WorkloadEndpoint, LiveMigration, FelixConfiguration and ClusterInformation, in YAML or JSON, from a
//! file or from etcd. One bad element costs that element and is reported (W30); a resource of which nothing sensible
//! remains is refused as a whole. It never touches a file.

mod endpoint;
mod list;
mod migration;
mod name;
#[cfg(test)]
mod tests;

pub use list::{Entry, parse_all};
pub use name::{check_key, parse_name, segments_of};

use crate::settings::FelixConfiguration;
use cutover_engine::model::{Endpoint, EndpointKey, LiveMigration};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};
use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;

/// Everything that the agent wants to know from a datastore; other kinds are [`Resource::Other`].
#[derive(Clone, PartialEq, Debug)]
pub enum Resource {
    /// A port of a virtual machine on a host.
    Endpoint(EndpointKey, Endpoint),
    /// A migration; the name identifies it.
    Migration(String, LiveMigration),
    /// Settings.
    Configuration(FelixConfiguration),
    /// State of the datastore itself.
    Cluster(ClusterInformation),
    /// A kind that is none of the agent's business.
    Other,
}

/// What the datastore says about itself.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ClusterInformation {
    /// Whether agents may work; absent counts as not.
    pub ready: bool,
}

/// A resource with what had to be left out of it.
#[derive(Clone, PartialEq, Debug)]
pub struct Parsed {
    /// The resource.
    pub resource: Resource,
    /// One line per element that was left out, naming resource, element and reason.
    pub notices: Vec<String>,
}

/// How a document is written.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Format {
    /// YAML, one document without its `---`.
    Yaml,
    /// JSON, one value.
    Json,
}

impl Format {
    /// The one that the name of a file promises; other files are not resource files.
    pub(super) fn of(path: &Path) -> Option<Self> {
        match path.extension()?.to_str()? {
            "yaml" | "yml" => Some(Self::Yaml),
            "json" => Some(Self::Json),
            _ => None,
        }
    }
}

/// Why a document is not taken.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Refusal {
    /// Line inside the document, from 1, if the reason has one.
    pub line: Option<usize>,
    /// What is wrong.
    pub reason: String,
}

impl Refusal {
    fn of(reason: impl Into<String>) -> Self {
        Self { line: None, reason: reason.into() }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.line {
            Some(line) => write!(f, "line {line}: {}", self.reason),
            None => f.write_str(&self.reason),
        }
    }
}

/// The kinds that the agent knows.
const KINDS: [&str; 4] = ["WorkloadEndpoint", "LiveMigration", "FelixConfiguration", "ClusterInformation"];

#[derive(Deserialize, Default)]
struct Head {
    kind: Option<String>,
    #[serde(rename = "apiVersion")]
    api_version: Option<String>,
}

#[derive(Deserialize)]
struct Envelope<Spec> {
    #[serde(default)]
    metadata: Option<Metadata>,
    spec: Option<Spec>,
}

#[derive(Deserialize, Default)]
struct Metadata {
    name: Option<String>,
    namespace: Option<String>,
    uid: Option<String>,
    labels: Option<BTreeMap<String, String>>,
    annotations: Option<BTreeMap<String, String>>,
}

/// LIMIT: the name of a resource becomes a file name with an ending; 255 bytes is what file systems allow.
const NAME_MAX_BYTES: usize = 240;

/// Where a resource is read from.
#[derive(Clone, Copy)]
enum Content<'content> {
    Text(&'content str, Format),
    /// An item of a list, which has been read already.
    Item(&'content Value),
}

impl Content<'_> {
    fn read<T: DeserializeOwned>(self) -> Result<T, Refusal> {
        match self {
            Self::Text(text, Format::Yaml) => serde_norway::from_str(text).map_err(|error| Refusal {
                line: error.location().map(|location| location.line()),
                reason: error.to_string(),
            }),
            Self::Text(text, Format::Json) => serde_json::from_str(text)
                .map_err(|error| Refusal { line: Some(error.line()), reason: error.to_string() }),
            Self::Item(value) => T::deserialize(value).map_err(|error| Refusal::of(error.to_string())),
        }
    }
}

/// Reads one document that is one resource. A list is none of the agent's kinds here; [`parse_all`] looks into it.
///
/// # Errors
/// When it is not well formed, or when it is one of the agent's kinds without the parts that it needs.
pub fn parse(text: &str, format: Format) -> Result<Parsed, Refusal> {
    interpret(Content::Text(text, format))
}

fn interpret(content: Content<'_>) -> Result<Parsed, Refusal> {
    let head: Head = content.read()?;
    let kind = head
        .kind
        .ok_or_else(|| Refusal::of("there is no kind; write kind: WorkloadEndpoint or another one"))?;
    let mut notices = Vec::new();
    let resource = match kind.as_str() {
        "WorkloadEndpoint" => endpoint::interpret(envelope(content, &head.api_version)?, &mut notices)?,
        "LiveMigration" => migration::interpret(envelope(content, &head.api_version)?, &mut notices)?,
        "FelixConfiguration" => configuration(envelope(content, &head.api_version)?)?,
        "ClusterInformation" => cluster(&envelope(content, &head.api_version)?),
        other => match misspelt(other) {
            Some(meant) => return Err(Refusal::of(format!("kind {other:?} is not known; write {meant}"))),
            None => Resource::Other,
        },
    };
    Ok(Parsed { resource, notices })
}

/// The kind of ours that is meant. Taken for a kind of somebody else's, such a document would go unnoticed.
fn misspelt(kind: &str) -> Option<&'static str> {
    let singular = kind.strip_suffix(['s', 'S']).unwrap_or(kind);
    KINDS.into_iter().find(|known| known.eq_ignore_ascii_case(kind) || known.eq_ignore_ascii_case(singular))
}

fn envelope<Spec: DeserializeOwned>(
    content: Content<'_>,
    api_version: &Option<String>,
) -> Result<Envelope<Spec>, Refusal> {
    match api_version.as_deref() {
        Some("projectcalico.org/v3") => content.read(),
        Some(other) => {
            Err(Refusal::of(format!("apiVersion {other:?} is not known; write projectcalico.org/v3")))
        }
        None => Err(Refusal::of("there is no apiVersion; write apiVersion: projectcalico.org/v3")),
    }
}

fn configuration(envelope: Envelope<Map<String, Value>>) -> Result<Resource, Refusal> {
    let metadata = envelope.metadata.unwrap_or_default();
    let spec = envelope.spec.unwrap_or_default();
    let name = metadata.name.ok_or_else(|| Refusal::of("there is no metadata.name"))?;
    let selector = spec.get("nodeSelector").and_then(Value::as_str);
    let has_selector = selector.is_some_and(|selector| !selector.is_empty());
    let annotations = metadata.annotations.unwrap_or_default();
    Ok(Resource::Configuration(FelixConfiguration { name, annotations, spec, has_selector }))
}

#[derive(Deserialize)]
struct ClusterSpec {
    #[serde(rename = "datastoreReady")]
    ready: Option<bool>,
}

fn cluster(envelope: &Envelope<ClusterSpec>) -> Resource {
    let ready = envelope.spec.as_ref().and_then(|spec| spec.ready).unwrap_or(false);
    Resource::Cluster(ClusterInformation { ready })
}
