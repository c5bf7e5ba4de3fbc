//! Follows what Felix has programmed, in whichever backend, and tells the engine about each interface.

use super::backend::Backend;
use super::nf_tables::{self, Changes, FollowError};
use super::program::{Origin as VersionOrigin, Version};
use super::{legacy, rivalry};
use crate::applier::WantedReceiver;
use crate::clock;
use crate::logging::one_line;
use cutover_engine::chains::{Chains, Pieces};
use cutover_engine::{BootTime, Fact};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::mpsc::{self, UnboundedSender};
use tracing::{error, info};

/// LIMIT: how often it is tried to follow nf_tables again after that failed.
const FOLLOW_AGAIN_AFTER: Duration = Duration::from_secs(5);

/// What is known of Felix, for `cutover status` and the doctor.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Report {
    /// Where its chains were found.
    pub backends: Vec<String>,
    /// Why its chains cannot be seen.
    pub unreadable: Option<String>,
    /// How the two get in each other's way.
    pub conflicts: Vec<String>,
    /// Every Felix that runs, with the settings that decide who does what.
    #[serde(default)]
    pub running: Vec<Running>,
}

/// A Felix that runs, as its environment and what it shares with this agent say.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Running {
    /// Its process.
    pub pid: u32,
    /// Its `RouteSyncDisabled`; nothing if that cannot be known.
    pub route_sync_disabled: Option<bool>,
    /// Its `EndpointReportingEnabled`; nothing if that cannot be known.
    pub endpoint_reporting_enabled: Option<bool>,
    /// Its version; nothing if that cannot be known.
    #[serde(default)]
    pub version: Option<Version>,
    /// What its environment and its file say of the settings that choose its mode (`BPFEnabled`, `NFTablesMode`, `IptablesBackend`); nothing
    /// if that cannot be known. Where it really has its chains is in [`Report::backends`].
    #[serde(default)]
    pub mode: Option<BTreeMap<String, String>>,
}

/// What is said of whatever cannot be read.
const NOT_KNOWN: &str = "not known";

impl Running {
    /// Its version in words.
    #[must_use]
    pub fn version_text(&self) -> String {
        match &self.version {
            Some(Version { text, from: VersionOrigin::Program }) => format!("version {text}"),
            Some(Version { text, from: VersionOrigin::Package }) => {
                format!("version not known, the package is {text}")
            }
            None => format!("version {NOT_KNOWN}"),
        }
    }

    /// What it runs with, in words.
    #[must_use]
    pub fn settings_text(&self) -> String {
        let word =
            |value: Option<bool>| value.map_or_else(|| NOT_KNOWN.to_owned(), |value| value.to_string());
        let mut text = format!(
            "RouteSyncDisabled {}, EndpointReportingEnabled {}",
            word(self.route_sync_disabled),
            word(self.endpoint_reporting_enabled)
        );
        match &self.mode {
            None => text.push_str(", mode as set not known"),
            Some(mode) => mode.iter().for_each(|(name, value)| text.push_str(&format!(", {name} {value}"))),
        }
        text
    }
}

impl Report {
    /// Where it has its chains, in words.
    #[must_use]
    pub fn chains_text(&self) -> String {
        if self.backends.is_empty() {
            "has no chains here".to_owned()
        } else {
            format!("has chains in {}", self.backends.join(", "))
        }
    }
}

/// The observer. Cheap to clone: a handle on what it knows.
#[derive(Clone, Debug, Default)]
pub struct Observer {
    state: Arc<Mutex<State>>,
}

#[derive(Debug, Default)]
struct State {
    nf_tables: BTreeMap<String, Chains>,
    legacy: BTreeMap<String, Chains>,
    backends: BTreeSet<Backend>,
    nf_tables_trouble: Option<String>,
    legacy_trouble: Option<String>,
    conflicts: BTreeMap<rivalry::Kind, String>,
    deleted_at: Option<BootTime>,
    running: Vec<Running>,
}

impl Observer {
    fn lock(&self) -> MutexGuard<'_, State> {
        // Every change of the state is whole before anything can panic.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What is known now.
    #[must_use]
    pub fn report(&self) -> Report {
        let state = self.lock();
        let mut backends = state.backends.clone();
        if !state.legacy.is_empty() {
            backends.insert(Backend::Legacy);
        }
        let troubles = [&state.nf_tables_trouble, &state.legacy_trouble];
        let troubles: Vec<&str> = troubles.into_iter().flatten().map(String::as_str).collect();
        Report {
            backends: backends.iter().map(ToString::to_string).collect(),
            unreadable: (!troubles.is_empty()).then(|| troubles.join("; ")),
            conflicts: state.conflicts.values().cloned().collect(),
            running: state.running.clone(),
        }
    }

    /// Notes which Felixes run. What there is to say of it is said as a conflict.
    pub(crate) fn note_running(&self, running: Vec<Running>) {
        self.lock().running = running;
    }

    /// Notes that the two get in each other's way, or do not any more. Said when it begins and when it changes.
    pub(crate) fn note_conflict(&self, kind: rivalry::Kind, conflict: Option<String>) {
        let mut state = self.lock();
        let before = match &conflict {
            Some(text) => state.conflicts.insert(kind, text.clone()),
            None => state.conflicts.remove(&kind),
        };
        match conflict {
            Some(text) if before.as_ref() != Some(&text) => error!("{text}"),
            None if before.is_some() => info!(what = %kind, "Felix does not get in the way any more"),
            _ => {}
        }
    }

    /// Notes that a route of ours was deleted under our hands.
    pub(crate) fn note_deletion(&self, conflict: String) {
        self.lock().deleted_at = Some(clock::now());
        // Once for all routes: the first one is as good as any.
        if !self.lock().conflicts.contains_key(&rivalry::Kind::Deletions) {
            self.note_conflict(rivalry::Kind::Deletions, Some(conflict));
        }
    }

    /// Forgets the deletions if the last one is that long ago.
    pub(crate) fn forget_deletion_after(&self, a_while: Duration) {
        let is_over = self.lock().deleted_at.is_some_and(|at| clock::now().since(at) >= a_while);
        if is_over {
            self.lock().deleted_at = None;
            self.note_conflict(rivalry::Kind::Deletions, None);
        }
    }

    /// Follows Felix's chains in the network namespace of the calling thread, for ever.
    pub async fn run(self, wanted: WantedReceiver, facts: UnboundedSender<Fact>) {
        let by_notification = self.follow_nf_tables(&facts);
        let by_polling = legacy::poll(wanted, |seen| self.take_legacy(seen, &facts));
        tokio::join!(by_notification, by_polling);
    }

    async fn follow_nf_tables(&self, facts: &UnboundedSender<Fact>) {
        loop {
            let result = nf_tables::follow(|changes| self.take_nf_tables(changes, facts)).await;
            if let Err(error) = result {
                self.note_unreadable(&error);
            }
            tokio::time::sleep(FOLLOW_AGAIN_AFTER).await;
        }
    }

    /// What was known stays: what cannot be asked about is not gone.
    fn note_unreadable(&self, error: &FollowError) {
        let text = one_line(error).to_string();
        let mut state = self.lock();
        if state.nf_tables_trouble.as_ref() != Some(&text) {
            error!(
                error = text,
                "Felix's chains cannot be seen; endpoints without known chains are not reported up"
            );
            state.nf_tables_trouble = Some(text);
        }
    }

    fn take_nf_tables(&self, changes: Changes, facts: &UnboundedSender<Fact>) {
        let mut state = self.lock();
        if state.nf_tables_trouble.take().is_some() {
            info!("Felix's chains are seen again");
        }
        state.backends = changes.backends;
        for (interface, chains) in changes.interfaces {
            state.change(interface, facts, |state, interface| {
                replace(&mut state.nf_tables, interface, chains)
            });
        }
    }

    fn take_legacy(&self, seen: Result<legacy::ChainsByInterface, String>, facts: &UnboundedSender<Fact>) {
        let mut state = self.lock();
        let seen = match seen {
            Ok(seen) => seen,
            Err(text) => {
                if state.legacy_trouble.as_ref() != Some(&text) {
                    error!(error = text, "Felix's chains in the legacy tables cannot be seen");
                    state.legacy_trouble = Some(text);
                }
                return;
            }
        };
        state.legacy_trouble = None;
        let interfaces: BTreeSet<String> = state.legacy.keys().chain(seen.keys()).cloned().collect();
        for interface in interfaces {
            let chains = seen.get(&interface).copied().unwrap_or_default();
            state.change(interface, facts, |state, interface| replace(&mut state.legacy, interface, chains));
        }
    }
}

/// Where there are chains of Felix's, looked at once.
pub(super) async fn look(within: Duration) -> Result<Report, String> {
    let (sender, mut first) = mpsc::unbounded_channel();
    let follow = nf_tables::follow(|changes| {
        // Only the first one is waited for.
        let _: Result<(), _> = sender.send(changes.backends);
    });
    let mut backends = tokio::select! {
        Some(backends) = first.recv() => backends,
        ended = follow => return Err(ended.map_or_else(|error| one_line(&error).to_string(), |()| "it ended".into())),
        () = tokio::time::sleep(within) => return Err("no answer".into()),
    };
    if !legacy::look_once().await?.is_empty() {
        backends.insert(Backend::Legacy);
    }
    Ok(Report { backends: backends.iter().map(ToString::to_string).collect(), ..Report::default() })
}

impl State {
    /// Changes what is known of an interface, and tells if that makes a difference.
    fn change(
        &mut self,
        interface: String,
        facts: &UnboundedSender<Fact>,
        change: impl FnOnce(&mut Self, &str),
    ) {
        let before = self.chains(&interface);
        change(self, &interface);
        let chains = self.chains(&interface);
        if chains != before {
            // The receiver is gone only while the agent stops.
            let _: Result<(), _> = facts.send(Fact::ChainsSeen { interface, chains });
        }
    }

    fn chains(&self, interface: &str) -> Chains {
        let of = |seen: &BTreeMap<String, Chains>| seen.get(interface).copied().unwrap_or_default();
        let (one, other) = (of(&self.nf_tables), of(&self.legacy));
        let fuller = |one: Pieces, other: Pieces| nf_tables::fuller(one, other);
        Chains { ipv4: fuller(one.ipv4, other.ipv4), ipv6: fuller(one.ipv6, other.ipv6) }
    }
}

fn replace(seen: &mut BTreeMap<String, Chains>, interface: &str, chains: Chains) {
    if chains.is_empty() {
        seen.remove(interface);
    } else {
        seen.insert(interface.to_owned(), chains);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use cutover_engine::chains::Piece;

    fn changes(ipv4: Pieces) -> Changes {
        let chains = Chains { ipv4, ipv6: Pieces::default() };
        Changes { interfaces: vec![("tap1".into(), chains)], backends: [Backend::Nftables].into() }
    }

    #[test]
    fn only_what_differs_is_told_and_the_fuller_backend_counts() {
        let (sender, mut facts) = mpsc::unbounded_channel();
        let observer = Observer::default();
        let mut told = || match facts.try_recv().ok()? {
            Fact::ChainsSeen { interface, chains } => Some((interface, chains.ipv4)),
            other => panic!("{other:?}"),
        };
        let half = Pieces::default().with(Piece::ToChain);
        observer.take_nf_tables(changes(half), &sender);
        assert_eq!(told(), Some(("tap1".into(), half)));
        observer.take_nf_tables(changes(half), &sender);
        assert_eq!(told(), None);
        let all = Chains { ipv4: Pieces::ALL, ipv6: Pieces::default() };
        observer.take_legacy(Ok([("tap1".to_owned(), all)].into()), &sender);
        assert_eq!(told(), Some(("tap1".into(), Pieces::ALL)));
        assert_eq!(observer.report().backends, ["nftables", "iptables (legacy)"]);
        observer.take_legacy(Err("no such program".into()), &sender);
        assert_eq!((told(), observer.report().unreadable), (None, Some("no such program".into())));
        observer.take_legacy(Ok(legacy::ChainsByInterface::new()), &sender);
        assert_eq!(told(), Some(("tap1".into(), half)));
        observer.take_nf_tables(changes(Pieces::default()), &sender);
        assert_eq!((told(), observer.report().unreadable), (Some(("tap1".into(), Pieces::default())), None));
    }
}
