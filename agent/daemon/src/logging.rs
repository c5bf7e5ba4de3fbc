//! Log lines: where they go, what they look like, and the ones that operators match.
//!
//! [`init`] sets up standard error as the only sink, as text or JSON; where that is systemd's journal, with priorities. [`log_notice`] turns what the engine has
//! to say into lines whose text and field order are part of the contract.

mod journal;

use cutover_engine::Notice;
use cutover_engine::model::{MigrationSource, MigrationTarget};
use journal::Prioritised;
use std::borrow::Cow;
use std::fmt::{self, Display};
use std::io::IsTerminal as _;
use tracing::field::Field;
use tracing::{debug, error, info, warn};
use tracing_subscriber::field::MakeExt as _;
use tracing_subscriber::filter::{EnvFilter, LevelFilter};
use tracing_subscriber::fmt::format::{Writer, debug_fn};

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
    let stream = std::env::var("JOURNAL_STREAM").ok();
    let is_for_journal = journal::is_stream(std::io::stderr(), stream.as_deref());
    let builder = tracing_subscriber::fmt()
        .fmt_fields(debug_fn(write_field).delimited(" "))
        .with_env_filter(filter(level))
        .with_target(false)
        .with_ansi(std::io::stderr().is_terminal())
        .with_writer(std::io::stderr)
        // A line that cannot be written is lost. Reporting that on standard error, too, would panic.
        .log_internal_errors(false);
    // A second call fails because a subscriber exists; that one goes on.
    let _: Result<(), _> = match format {
        Format::Text => builder.map_event_format(|format| Prioritised { format, is_for_journal }).try_init(),
        // Its writer escapes by itself.
        Format::Json => {
            let builder = builder.json().flatten_event(true);
            builder.map_event_format(|format| Prioritised { format, is_for_journal }).try_init()
        }
    };
}

/// As by default, but nothing that a value says can end the line or speak to a terminal. Values come from a datastore, from programs
/// and from files that others write.
fn write_field(writer: &mut Writer<'_>, field: &Field, value: &dyn fmt::Debug) -> fmt::Result {
    let text = format!("{value:?}");
    match field.name() {
        "message" => write!(writer, "{}", printable(&text)),
        name => write!(writer, "{}={}", name.strip_prefix("r#").unwrap_or(name), printable(&text)),
    }
}

/// A text with everything escaped that is no character to look at: controls, other ends of lines, changes of direction.
#[must_use]
pub fn printable(text: &str) -> Cow<'_, str> {
    let is_hidden = |c: char| {
        c.is_control()
            || matches!(c, '\u{2028}' | '\u{2029}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
    };
    if !text.contains(is_hidden) {
        return Cow::Borrowed(text);
    }
    let mut escaped = String::with_capacity(text.len() + 8);
    for c in text.chars() {
        if is_hidden(c) { escaped.extend(c.escape_default()) } else { escaped.push(c) }
    }
    Cow::Owned(escaped)
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
        Notice::Unresolved { endpoint, uid, source_present: false } => info!(
            id = %endpoint, migrationUid = %uid,
            "LiveMigration is gone without an announcement; waiting for evidence of how it ended"
        ),
        Notice::Unresolved { endpoint, uid, source_present: true } => info!(
            id = %endpoint, migrationUid = %uid,
            "LiveMigration is gone without an announcement; waiting for evidence of how it ended, because the source's endpoint is there: any frame of the virtual machine, or what becomes of the endpoints"
        ),
        Notice::ForwardStarted { endpoint, to, uid, is_held } => info!(
            wep = %endpoint, %to, migrationUid = %uid, held = *is_held,
            "Forwarding what still comes for a virtual machine to where it goes"
        ),
        Notice::HoldGivenUp { endpoint, uid } => warn!(
            wep = %endpoint, migrationUid = %uid,
            "The virtual machine was said to have stopped, and announces itself nowhere: it is taken to run here"
        ),
        Notice::ForwardEnded { endpoint, uid } => {
            info!(wep = %endpoint, migrationUid = %uid, "Forwarding nothing any more");
        }
        Notice::Held { endpoint } => {
            info!(wep = %endpoint, "Endpoint vanished while its tap exists; holding its state");
        }
        Notice::Returned { endpoint } => info!(wep = %endpoint, "Held endpoint is back"),
        Notice::LossSuspected { endpoints, interfaces } => error!(
            endpoints,
            interfaces,
            "The datastore does not show any more what most probably runs here: routes on taps with carrier are kept. \
             cutover status says what, and how to confirm that it is gone"
        ),
        Notice::LossSettled => info!("Nothing is kept any more that the datastore does not show"),
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
        Notice::ChainsMissing { endpoint, interface, missing } => warn!(
            wep = %endpoint, %interface, %missing,
            "Felix has no chains for the tap; the endpoint is not reported up before they are there"
        ),
        Notice::ChainsMissingOfMany { count } => warn!(
            count,
            "Felix has no chains for taps of endpoints; these are not reported up before they are there (cutover status)"
        ),
        Notice::ChainsComplete { endpoint } => info!(wep = %endpoint, "Felix has chains for the tap now"),
        Notice::Finished(record) => info!(
            id = %record.endpoint, migrationUid = %record.uid, arrived = record.arrived,
            "Live migration finished"
        ),
        Notice::Departed { record, .. } => debug!(
            id = %record.endpoint, migrationUid = %record.uid, stopped = record.stopped_at.is_some(),
            forwarded = record.forwarded_at.is_some(), "Live migration away from here is over"
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

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{self, Write};
    use std::sync::{Arc, Mutex};

    #[derive(Clone, Default)]
    struct Sink(Arc<Mutex<Vec<u8>>>);

    impl Write for Sink {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    /// What a line looks like with our fields, and as it is by default.
    fn lines(log: impl Fn()) -> [String; 2] {
        let [ours, default] = [Sink::default(), Sink::default()];
        let builder = || tracing_subscriber::fmt().with_target(false).with_ansi(false).without_time();
        let sink = ours.clone();
        let subscriber = builder()
            .fmt_fields(debug_fn(write_field).delimited(" "))
            .with_writer(move || sink.clone())
            .finish();
        tracing::subscriber::with_default(subscriber, &log);
        let sink = default.clone();
        let subscriber = builder().with_writer(move || sink.clone()).finish();
        tracing::subscriber::with_default(subscriber, &log);
        [ours, default].map(|sink| String::from_utf8(sink.0.lock().unwrap().clone()).unwrap())
    }

    #[test]
    fn lines_look_as_they_do_by_default() {
        let [ours, default] = lines(|| {
            info!(lm = %"m1", uid = "u 1", number = 7, yes = true, debug = ?Some("x"), r#type = %"t", "Text of {}", 1);
        });
        assert_eq!(ours, default);
        assert!(
            ours.ends_with("Text of 1 lm=m1 uid=\"u 1\" number=7 yes=true debug=Some(\"x\") type=t\n"),
            "{ours}"
        );
    }

    #[test]
    fn a_line_for_the_journal_begins_with_its_priority() {
        let sink = Sink::default();
        let written = sink.clone();
        let subscriber = tracing_subscriber::fmt()
            .without_time()
            .with_max_level(LevelFilter::TRACE)
            .map_event_format(|format| Prioritised { format, is_for_journal: true })
            .with_writer(move || sink.clone())
            .finish();
        tracing::subscriber::with_default(subscriber, || {
            error!("e");
            warn!("w");
            info!("i");
            tracing::debug!("d");
        });
        let text = String::from_utf8(written.0.lock().unwrap().clone()).unwrap();
        let begins: Vec<_> = text.lines().map(|line| &line[..3]).collect();
        assert_eq!(begins, ["<3>", "<4>", "<6>", "<7>"], "{text}");
    }

    #[test]
    fn no_value_ends_a_line_or_speaks_to_a_terminal() {
        let evil = "x\u{1b}[2J\n2026 ERROR forged\r\u{9b}31m\u{202e}";
        let [ours, _] = lines(|| warn!(value = %evil, text = evil, "refused: {evil}"));
        assert_eq!(ours.lines().count(), 1, "{ours:?}");
        assert!(!ours.trim_end().contains(|c: char| c.is_control() || c == '\u{202e}'), "{ours:?}");
        assert!(ours.contains("value=x\\u{1b}[2J\\n2026 ERROR forged\\r\\u{9b}31m\\u{202e}"), "{ours}");
    }
}
