//! What the applier would write at its start, without writing it: the same preparer, whose changes go nowhere.

use super::preparer::{Preparer, Prepares as _};
use super::{Forwards, InterfaceSettings};
use crate::netlink::{Neighbour, NeighbourChange};
use crate::sysctls::SysctlChange;
use crate::sysctls::table::Keeper;
use cutover_engine::Wanted;
use std::collections::{BTreeMap, BTreeSet};

/// What would be written.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct InterfacePreview {
    /// Settings of the host and of interfaces.
    pub sysctls: Vec<SysctlChange>,
    /// Permanent neighbours.
    pub neighbours: Vec<NeighbourChange>,
    /// What could not be set up, by the name of the interface, or `host`, each with the reason.
    pub unprepared: BTreeMap<String, String>,
}

/// What differs from `wanted`, given the neighbours that there are. Settings are read in the network namespace of the calling thread.
#[must_use]
pub fn preview(
    settings: &InterfaceSettings,
    felix_is_beside: bool,
    neighbours: &BTreeSet<Neighbour>,
    wanted: &Wanted,
) -> InterfacePreview {
    let mut preparer = Preparer::noting(&settings.sysctl_root);
    preparer.kept_by(if felix_is_beside { Keeper::Felix } else { Keeper::Agent });
    // It says in the log what it has written.
    preparer.be_loud(false);
    for neighbour in neighbours {
        preparer.seen(*neighbour);
    }
    let mut unprepared = BTreeMap::new();
    let mut forwards = Forwards::default();
    for (_, interface) in wanted.interfaces.iter() {
        forwards.take(interface);
    }
    if settings.ip_forwarding
        && forwards.any
        && let Err(error) = preparer.prepare_host(forwards.ipv6)
    {
        unprepared.insert("host".to_owned(), error.to_string());
    }
    for (&ifindex, interface) in wanted.interfaces.iter() {
        let lacks = match preparer.prepare(ifindex, interface) {
            Ok(lacks) => lacks,
            Err(error) => Some(error.to_string()),
        };
        unprepared.extend(lacks.map(|lacks| (interface.name.clone(), lacks)));
    }
    let (sysctls, neighbours) = preparer.take_noted();
    InterfacePreview { sysctls, neighbours, unprepared }
}
