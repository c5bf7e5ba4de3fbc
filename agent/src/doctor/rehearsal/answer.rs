//! What a daemon on the stage says of itself, in the same words whichever it is.

use super::observed::{Origin, Path, Session};
use super::speaker::Expected;
use ipnet::IpNet;
use std::collections::BTreeMap;

/// What a daemon says of its configuration.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct Told {
    /// Sessions, which AS the other side is to have, and whether it is shut.
    pub(super) sessions: Vec<(Session, Expected, bool)>,
    /// What it said to the configuration, and went on.
    pub(super) complaints: Vec<String>,
    /// What nobody can play.
    pub(super) missing: Vec<String>,
    /// Other protocols that need somebody to talk to.
    pub(super) others: Vec<String>,
}

/// The paths of each destination, and which kind of them was chosen for the kernel.
pub(super) type Table = BTreeMap<IpNet, (Vec<Path>, Option<Origin>)>;
