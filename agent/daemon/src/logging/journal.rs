//! Lines for systemd's journal: each begins with its priority, as sd-daemon(3) wants it. The journal takes that off and keeps it, so that
//! `journalctl -p warning` works, and a syslog daemon that reads the journal has it, too.

use nix::sys::stat::fstat;
use std::fmt;
use std::os::fd::AsFd;
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::registry::LookupSpan;

/// Whether this is a stream to the journal. Standard error may lead elsewhere although systemd has started the agent.
pub(super) fn is_stream(file: impl AsFd, journal_stream: Option<&str>) -> bool {
    let Some((device, inode)) = journal_stream.and_then(|stream| stream.split_once(':')) else {
        return false;
    };
    let Ok(stat) = fstat(file) else { return false };
    (device, inode) == (&stat.st_dev.to_string(), &stat.st_ino.to_string())
}

/// The number that syslog has for a level.
const fn priority(level: Level) -> u8 {
    match level {
        Level::ERROR => 3,
        Level::WARN => 4,
        Level::INFO => 6,
        Level::DEBUG | Level::TRACE => 7,
    }
}

/// Writes lines as another format does, behind their priority if they are for the journal.
#[derive(Debug)]
pub(super) struct Prioritised<Format> {
    pub(super) format: Format,
    pub(super) is_for_journal: bool,
}

impl<S, N, Format> FormatEvent<S, N> for Prioritised<Format>
where
    S: Subscriber + for<'span> LookupSpan<'span>,
    N: for<'writer> FormatFields<'writer> + 'static,
    Format: FormatEvent<S, N>,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        if self.is_for_journal {
            write!(writer, "<{}>", priority(*event.metadata().level()))?;
        }
        self.format.format_event(context, writer, event)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stream_to_the_journal_is_the_one_that_systemd_names() {
        let file = tempfile::tempfile().unwrap();
        let stat = fstat(&file).unwrap();
        assert!(is_stream(&file, Some(&format!("{}:{}", stat.st_dev, stat.st_ino))));
        assert!(!is_stream(&file, Some(&format!("{}:{}", stat.st_dev, stat.st_ino + 1))));
        assert!(!is_stream(&file, Some("8")) && !is_stream(&file, None));
    }
}
