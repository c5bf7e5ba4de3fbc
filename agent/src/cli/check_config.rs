//! `cutover check-config`: what is in force, why, and what is wrong.

use super::{ConfigFile, DatastorePlace, Failure, accept, datastore, print};
use crate::datastore::etcd::{Cluster, Keys, configurations};
use crate::datastore::resource::{FelixConfiguration, Resource};
use crate::datastore::{read_file, resource_files};
use crate::settings::{Loaded, Settings, Severity, Sources, TABLE, load, reference};
use serde_json::json;
use std::fmt::Write as _;
use std::path::Path;

/// Arguments of `cutover check-config`.
#[derive(Debug, clap::Args)]
pub struct CheckConfigArguments {
    /// Where the settings are.
    #[command(flatten)]
    pub file: ConfigFile,
    /// Print JSON instead of a table
    #[arg(long)]
    pub json: bool,
    /// Print the reference page of all settings
    #[arg(long, hide = true, conflicts_with = "json")]
    pub markdown: bool,
}

/// Prints the effective settings.
///
/// # Errors
/// When the agent could not start with them.
pub fn run(arguments: &CheckConfigArguments) -> Result<(), Failure> {
    if arguments.markdown {
        return print(&reference::markdown());
    }
    let sources = arguments.file.sources()?;
    let (loaded, unreadable) = with_resources(&sources);
    print(&if arguments.json { as_json(&loaded, &unreadable) } else { as_table(&loaded, &unreadable) })?;
    // What the agent would refuse to start with, for the same reason.
    datastore(&accept(loaded)?.settings).map(drop)
}

/// The settings that a running agent would have, as far as the resources can be read.
pub(super) fn effective(sources: &Sources) -> Loaded {
    with_resources(sources).0
}

/// The same, and one line for each resource that cannot be used.
pub(super) fn with_resources(sources: &Sources) -> (Loaded, Vec<String>) {
    let (resources, unusable) = resources(&load(sources, &[]).settings);
    (load(sources, &resources), unusable)
}

/// What the datastore contributes, and why some of it does not.
fn resources(settings: &Settings) -> (Vec<FelixConfiguration>, Vec<String>) {
    match datastore(settings) {
        Ok(DatastorePlace::Directory(directory)) => from_directory(directory),
        Ok(DatastorePlace::Cluster(cluster)) => {
            from_cluster(&cluster, settings).unwrap_or_else(|problem| (Vec::new(), vec![problem]))
        }
        Err(failure) => (Vec::new(), vec![failure.to_string()]),
    }
}

fn from_cluster(
    cluster: &Cluster,
    settings: &Settings,
) -> Result<(Vec<FelixConfiguration>, Vec<String>), String> {
    let keys = Keys::new(&settings.felix_hostname, &settings.openstack_region);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| format!("cannot start the runtime: {error}"))?;
    runtime
        .block_on(configurations(cluster, &keys))
        .map_err(|error| format!("{error}; FelixConfigurations are left out"))
}

fn from_directory(directory: &Path) -> (Vec<FelixConfiguration>, Vec<String>) {
    let files = match resource_files(directory) {
        Ok(files) => files,
        Err(error) => return (Vec::new(), vec![error.to_string()]),
    };
    let mut resources: Vec<FelixConfiguration> = Vec::new();
    let mut problems = Vec::new();
    for path in files {
        match read_file(&path) {
            Ok((_, documents)) => {
                for document in documents {
                    problems.extend(
                        document.parsed.notices.iter().map(|notice| format!("{}: {notice}", path.display())),
                    );
                    if let Resource::Configuration(new) = document.parsed.resource {
                        if resources.iter().any(|known| known.name == new.name) {
                            problems.push(format!(
                                "{}: FelixConfiguration {} is defined before, too, and refused here",
                                path.display(),
                                new.name
                            ));
                        } else {
                            resources.push(new);
                        }
                    }
                }
            }
            Err(refusal) => problems.push(format!("{}: {refusal}", path.display())),
        }
    }
    (resources, problems)
}

fn as_table(loaded: &Loaded, unreadable: &[String]) -> String {
    let rows: Vec<[String; 3]> = TABLE
        .iter()
        .map(|setting| {
            let value = (setting.show)(&loaded.settings);
            let value = if value.is_empty() { "-".to_owned() } else { value };
            [setting.name.to_owned(), value, loaded.origins[setting.name].to_string()]
        })
        .collect();
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let (names, values) = (width(0), width(1));
    let mut text = format!("{:names$}  {:values$}  SOURCE\n", "NAME", "VALUE");
    for [name, value, source] in &rows {
        let _ = writeln!(text, "{name:names$}  {value:values$}  {source}");
    }
    for problem in &loaded.problems {
        let _ = writeln!(text, "{}: {problem}", word(problem.severity));
    }
    for line in unreadable {
        let _ = writeln!(text, "warning: {line}");
    }
    text
}

fn as_json(loaded: &Loaded, unreadable: &[String]) -> String {
    let settings = TABLE.iter().map(|setting| {
        let value = (setting.show)(&loaded.settings);
        json!({
            "name": setting.name,
            "value": (!value.is_empty()).then_some(value),
            "source": loaded.origins[setting.name].to_string(),
            "default": (!setting.default.is_empty()).then_some(setting.default),
        })
    });
    let problems = loaded.problems.iter().map(|problem| {
        json!({
            "severity": word(problem.severity),
            "setting": problem.setting,
            "source": problem.origin.to_string(),
            "text": problem.text,
        })
    });
    let unreadable = unreadable.iter().map(|text| json!({ "severity": "warning", "text": text }));
    let settings: Vec<_> = settings.collect();
    let problems: Vec<_> = problems.chain(unreadable).collect();
    format!("{:#}\n", json!({ "settings": settings, "problems": problems }))
}

const fn word(severity: Severity) -> &'static str {
    match severity {
        Severity::Notice => "notice",
        Severity::Warning => "warning",
        Severity::Fatal => "error",
    }
}
