//! What systemd is told, if it has started the agent: that it is ready, how it stands, and that it makes progress.
//!
//! Ready (`READY=1`) is an agent that has taken this host over: the kernel has been read, the appliers run and the loop answers. It does not
//! wait for the datastore, which may come up later than this host, because what the memory knows is worked with until then. `STATUS=` says
//! whether the datastore is followed. `WATCHDOG=1` is sent while no part is stuck, as in liveness; when it stays away, systemd starts the agent
//! anew, which touches no route.

use super::Observed;
use super::Source;
use sd_notify::NotifyState;
use std::time::Duration;
use tokio::time::Instant;
use tracing::{debug, info};

/// LIMIT: how old the line of `systemctl status` can be.
const SAY_EVERY: Duration = Duration::from_secs(10);
/// How soon the loop is asked again at the start.
const ASK_AGAIN_AFTER: Duration = Duration::from_millis(100);

/// For ever; nothing is told if nobody listens.
pub(super) async fn run(source: Source) {
    if std::env::var_os("NOTIFY_SOCKET").is_none() {
        return std::future::pending().await;
    }
    // LIMIT: twice in the time after which systemd takes the agent for dead, as sd_watchdog_enabled(3) says.
    let watchdog = sd_notify::watchdog_enabled().map(|within| within / 2);
    let (mut is_ready, mut said) = (false, String::new());
    let mut ask_at = Instant::now();
    loop {
        if ask_at <= Instant::now() {
            let observed = source.ask().await;
            let line = line(observed.as_deref());
            if !is_ready && observed.is_some() {
                is_ready = true;
                tell(&[NotifyState::Ready, NotifyState::Status(&line)]);
                info!("Told the service manager that the agent is ready");
            } else if line != said {
                tell(&[NotifyState::Status(&line)]);
            }
            said = line;
            ask_at = Instant::now() + if is_ready { SAY_EVERY } else { ASK_AGAIN_AFTER };
        }
        if watchdog.is_some() {
            let stuck = source.view().stuck();
            if stuck.is_empty() {
                tell(&[NotifyState::Watchdog]);
            } else {
                debug!(?stuck, "no sign of life for the service manager");
            }
        }
        let pause = ask_at.saturating_duration_since(Instant::now());
        tokio::time::sleep(watchdog.map_or(pause, |every| every.min(pause))).await;
    }
}

/// Says that the agent is about to stop.
pub(crate) fn stopping() {
    tell(&[NotifyState::Stopping]);
}

/// Whoever listens may be gone; that is his business.
fn tell(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        debug!(%error, "the service manager cannot be told");
    }
}

/// How everything stands, for people.
fn line(observed: Option<&Observed>) -> String {
    let Some(observed) = observed else { return "the loop does not answer".to_owned() };
    let status = &observed.status;
    let migrating = status.endpoints.iter().filter(|it| it.role != "NO_ROLE").count();
    let datastore = match &status.datastore_trouble {
        Some(trouble) => format!("datastore not followed: {}", trouble.reason),
        None if status.in_sync => "datastore in sync".to_owned(),
        None => "waiting for the datastore".to_owned(),
    };
    let mut line = format!("{datastore}; {} endpoints, {migrating} migrating", status.endpoints.len());
    let troubles = [
        (status.losses.view.count(), "kept that the datastore does not show"),
        (status.refused_routes.len(), "routes refused"),
        (status.unarmed.len(), "watches not armed"),
        (status.stuck.len(), "parts stuck"),
    ];
    for (count, what) in troubles.into_iter().filter(|(count, _)| *count > 0) {
        line.push_str(&format!(", {count} {what}"));
    }
    // It is one line to systemd, whatever a reason says.
    crate::logging::printable(&line).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::{Losses, Trouble};
    use crate::observe::metrics::tests::observed;

    #[test]
    fn the_line_says_how_the_datastore_stands_and_what_is_wrong() {
        let mut seen = observed();
        seen.status.losses = Losses::default();
        assert_eq!(line(Some(&seen)), "datastore in sync; 4 endpoints, 2 migrating");
        seen.status.unarmed = [("tap1".to_owned(), "no".to_owned())].into();
        seen.status.datastore_trouble = Some(Trouble { reason: "two\nlines".into(), for_ms: 1 });
        let expected = r"datastore not followed: two\nlines; 4 endpoints, 2 migrating, 1 watches not armed";
        assert_eq!(line(Some(&seen)), expected);
        assert_eq!(line(None), "the loop does not answer");
    }
}
