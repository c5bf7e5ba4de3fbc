//! The daemon on the stage, whichever it is.

use super::answer::{Table, Told};
use super::bird::Bird;
use super::frr::Frr;
use super::observed::Session;
use std::io;
use std::time::Duration;

/// A running daemon.
#[derive(Debug)]
pub(super) enum Daemon {
    Bird(Bird),
    Frr(Frr),
}

impl Daemon {
    pub(super) fn version(&self) -> &str {
        match self {
            Self::Bird(bird) => bird.version(),
            Self::Frr(frr) => frr.version(),
        }
    }

    /// 1, 2 or 3 of BIRD.
    pub(super) const fn generation(&self) -> u32 {
        match self {
            Self::Bird(bird) => bird.generation(),
            Self::Frr(_) => 0,
        }
    }

    /// What of the families it has to do with.
    pub(super) const fn families(&self) -> [bool; 2] {
        match self {
            Self::Bird(bird) => bird.families(),
            Self::Frr(_) => [true, true],
        }
    }

    pub(super) fn told(&self) -> io::Result<Told> {
        match self {
            Self::Bird(bird) => bird.told(),
            Self::Frr(frr) => frr.told(),
        }
    }

    pub(super) fn table(&self, sessions: &[Session]) -> io::Result<Table> {
        match self {
            Self::Bird(bird) => bird.table(sessions),
            Self::Frr(frr) => frr.table(),
        }
    }

    /// Says whether it has ended.
    pub(super) fn stop(&mut self) -> bool {
        match self {
            Self::Bird(bird) => bird.stop(),
            Self::Frr(frr) => frr.stop(),
        }
    }

    /// LIMIT: how long it may take until something that was done is everywhere. BIRD does it at once; bgpd collects changes for 50 ms,
    /// and for a second (coalesce-time) before it first tells a neighbour.
    pub(super) const fn patience(&self) -> Duration {
        match self {
            Self::Bird(_) => Duration::from_secs(3),
            Self::Frr(_) => Duration::from_secs(6),
        }
    }

    /// How long nothing may happen before it is over.
    pub(super) const fn quiet(&self) -> Duration {
        match self {
            Self::Bird(_) => Duration::from_millis(200),
            Self::Frr(_) => Duration::from_millis(400),
        }
    }

    /// How long something is waited for that should not happen.
    pub(super) const fn silence(&self) -> Duration {
        match self {
            Self::Bird(_) => Duration::from_millis(700),
            Self::Frr(_) => Duration::from_millis(1800),
        }
    }
}
