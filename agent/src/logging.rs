//! Log lines: where they go, what they look like, and the ones that operators match.
//!
//! [`init`] sets up standard error as the only sink, as text or JSON. [`log_notice`] turns what the engine has
//! to say into lines whose text and field order are part of the contract.

use cutover_engine::Notice;
use cutover_engine::model::{MigrationSource, MigrationTarget};
use std::fmt::Display;
use std::io::IsTerminal as _;
use tracing::{info, warn};
use tracing_subscriber::filter::{EnvFilter, LevelFilter};

/// How log lines look.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Format {
    /// One line of text.
    #[default]
    Text,
    /// One JSON object a line.
    Json,
}

impl From<crate::settings::LogFormat> for Format {
    fn from(format: crate::settings::LogFormat) -> Self {
        match format {
            crate::settings::LogFormat::Text => Self::Text,
            crate::settings::LogFormat::Json => Self::Json,
        }
    }
}

/// Sends everything at `level` and above to standard error. Only the first call of a process has an effect.
pub fn init(format: Format, level: LevelFilter) {
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter(level))
        .with_target(false)
        .with_ansi(std::io::stderr().is_terminal())
        .with_writer(std::io::stderr)
        // A line that cannot be written is lost. Reporting that on standard error, too, would panic.
        .log_internal_errors(false);
    // A second call fails because a subscriber exists; that one goes on.
    let _: Result<(), _> = match format {
        Format::Text => builder.try_init(),
        Format::Json => builder.json().flatten_event(true).try_init(),
    };
}

/// At debug level without what the libraries under etcd's client say about every frame; trace has that, too.
fn filter(level: LevelFilter) -> EnvFilter {
    const CHATTY: [&str; 6] = ["h2", "hyper", "hyper_util", "rustls", "tonic", "tower"];
    let mut directives = level.to_string();
    if level == LevelFilter::DEBUG {
        directives.extend(CHATTY.map(|target| format!(",{target}=info")));
    }
    EnvFilter::new(directives)
}

/// Writes the line that belongs to a notice.
pub fn log_notice(notice: &Notice) {
    match notice {
        Notice::MigrationWritten { name, migration } => {
            let source = migration.source.as_ref().map_or_else(|| "-".to_owned(), source_name);
            let target = migration.target.as_ref().map_or_else(|| "-".to_owned(), target_name);
            info!(
                lm = %name, uid = %migration.uid, %source, %target,
                "LiveMigrationCalculator: LiveMigration created/updated"
            );
        }
        Notice::MigrationRemoved { name, uid } => {
            info!(lm = %name, %uid, "LiveMigrationCalculator: LiveMigration deleted");
        }
        Notice::RoleEmitted { endpoint, role, uid } => {
            info!(wep = %endpoint, %role, %uid, "LiveMigrationCalculator: emitting role for WEP");
        }
        Notice::Transition { endpoint, transition } => info!(
            from = %transition.from, id = %endpoint, input = transition_input(transition),
            migrationUid = %transition.uid, to = %transition.to,
            "Live migration state transition"
        ),
        Notice::Unresolved { endpoint, uid } => info!(
            id = %endpoint, migrationUid = %uid,
            "LiveMigration is gone without an announcement; waiting for evidence of how it ended"
        ),
        Notice::Held { endpoint } => {
            info!(wep = %endpoint, "Endpoint vanished while its tap exists; holding its state");
        }
        Notice::Returned { endpoint } => info!(wep = %endpoint, "Held endpoint is back"),
        Notice::Removed { endpoint } => info!(wep = %endpoint, "Endpoint removed"),
        Notice::InterfaceConflict { endpoint, winner, interface } => warn!(
            wep = %endpoint, %winner, %interface,
            "Two endpoints claim one interface; the second gets nothing until the first is gone"
        ),
        Notice::NotAWorkloadInterface { endpoint, interface } => warn!(
            wep = %endpoint, %interface,
            "The interface has none of the prefixes of InterfacePrefix; the endpoint gets nothing"
        ),
        Notice::PrefixConflict { endpoint, winner, prefix } => warn!(
            wep = %endpoint, %winner, %prefix,
            "Two endpoints of this host claim one address; the second gets no route to it"
        ),
        Notice::Finished(record) => info!(
            id = %record.endpoint, migrationUid = %record.uid, arrived = record.arrived,
            "Live migration finished"
        ),
    }
}

/// `input` is a static string in the contract; tracing shows it without quotes only as a displayed value.
fn transition_input(transition: &cutover_engine::machine::Transition) -> impl tracing::Value {
    tracing::field::display(transition.input.name())
}

fn source_name(source: &MigrationSource) -> String {
    match source {
        MigrationSource::Endpoint(key) => key.to_string(),
        MigrationSource::Workload { host, orchestrator, workload } => {
            format!("{host}/{orchestrator}/{workload}")
        }
    }
}

fn target_name(target: &MigrationTarget) -> String {
    match target {
        MigrationTarget::Endpoint(key) => key.to_string(),
        MigrationTarget::Selector(selector) => format!("{:?}", selector.to_string()),
    }
}

/// What this thread logs at WARN and above while `work` runs, one line each.
#[cfg(test)]
pub(crate) fn warnings(work: impl FnOnce()) -> Vec<String> {
    use std::io::{Read as _, Seek as _};
    let mut file = tempfile::tempfile().expect("a temporary file");
    let writer = std::sync::Arc::new(file.try_clone().expect("a descriptor"));
    let subscriber = tracing_subscriber::fmt().with_max_level(LevelFilter::WARN).with_writer(writer).finish();
    tracing::subscriber::with_default(subscriber, work);
    let mut text = String::new();
    file.rewind().expect("a file");
    file.read_to_string(&mut text).expect("text");
    text.lines().map(str::to_owned).collect()
}

/// An error with everything that caused it, in one line.
#[must_use]
pub fn one_line(error: &dyn std::error::Error) -> impl Display {
    let mut line = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let text = error.to_string();
        if !line.contains(&text) {
            line.push_str(": ");
            line.push_str(&text);
        }
        cause = error.source();
    }
    line
}
