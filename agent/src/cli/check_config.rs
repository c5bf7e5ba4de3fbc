//! `cutover check-config`: what is in force, why, and what is wrong.

use super::{ConfigFile, DatastorePlace, Failure, accept, datastore, print};
use cutover_daemon::datastore::etcd::{Cluster, Keys, configurations};
use cutover_daemon::datastore::resource::Resource;
use cutover_daemon::datastore::{read_file, resource_files};
use cutover_daemon::logging::printable;
use cutover_daemon::settings::{
    FelixConfiguration, Loaded, Settings, Severity, Sources, TABLE, load, reference,
};
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

/// The settings that a running agent would have, as far as the resources can be read, and one line for each that cannot be used.
pub(super) fn with_resources(sources: &Sources) -> (Loaded, Vec<String>) {
    let found = resources(&load(sources, &[]).settings);
    (load(sources, &found.configurations), found.unreadable.into_iter().chain(found.left_out).collect())
}

/// The settings that a running agent would have.
///
/// # Errors
/// The first thing in the datastore that cannot be read and may say something else.
pub(super) fn certain(sources: &Sources) -> Result<Loaded, String> {
    let found = resources(&load(sources, &[]).settings);
    match found.unreadable.into_iter().next() {
        Some(reason) => Err(reason),
        None => Ok(load(sources, &found.configurations)),
    }
}

/// What the datastore contributes.
#[derive(Default)]
struct Contribution {
    configurations: Vec<FelixConfiguration>,
    /// What may hold more of them.
    unreadable: Vec<String>,
    /// Parts of what was read that do not count.
    left_out: Vec<String>,
}

impl Contribution {
    fn nothing(reason: String) -> Self {
        Self { unreadable: vec![reason], ..Self::default() }
    }
}

fn resources(settings: &Settings) -> Contribution {
    match datastore(settings) {
        Ok(DatastorePlace::Directory(directory)) => from_directory(directory),
        Ok(DatastorePlace::Cluster(cluster)) => {
            from_cluster(&cluster, settings).unwrap_or_else(Contribution::nothing)
        }
        Err(failure) => Contribution::nothing(failure.to_string()),
    }
}

fn from_cluster(cluster: &Cluster, settings: &Settings) -> Result<Contribution, String> {
    let keys = Keys::new(&settings.felix_hostname, &settings.openstack_region);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| format!("cannot start the runtime: {error}"))?;
    let (configurations, unreadable) = runtime
        .block_on(configurations(cluster, &keys))
        .map_err(|error| format!("{error}; FelixConfigurations are left out"))?;
    Ok(Contribution { configurations, unreadable, left_out: Vec::new() })
}

fn from_directory(directory: &Path) -> Contribution {
    let files = match resource_files(directory) {
        Ok(files) => files,
        Err(error) => return Contribution::nothing(error.to_string()),
    };
    let Contribution { configurations: mut resources, mut unreadable, left_out: mut problems } =
        Contribution::default();
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
            Err(refusal) => unreadable.push(format!("{}: {refusal}", path.display())),
        }
    }
    Contribution { configurations: resources, unreadable, left_out: problems }
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
        let (value, source) = (printable(value), printable(source));
        let _ = writeln!(text, "{name:names$}  {value:values$}  {source}");
    }
    for problem in &loaded.problems {
        let _ = writeln!(text, "{}: {}", word(problem.severity), printable(&problem.to_string()));
    }
    for line in unreadable {
        let _ = writeln!(text, "warning: {}", printable(line));
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
