//! What a driver writes and what a virtual machine does, as they were recorded (`tests/recordings`): two lists, each in its order. The
//! model interleaves them with everything else in every way.

use cutover_common::MacAddr;
use cutover_engine::model::{Endpoint, Labels, MigrationSource, MigrationTarget};
use cutover_engine::{EndpointKey, Fact, LiveMigration};
use std::collections::BTreeSet;

/// A host, by its place in [`NAMES`].
pub(crate) type HostId = usize;

pub(crate) const NAMES: [&str; 3] = ["a", "b", "c"];
pub(crate) const A: HostId = 0;
pub(crate) const B: HostId = 1;
pub(crate) const C: HostId = 2;

pub(crate) const TAP: &str = "tap1";
pub(crate) const MAC: MacAddr = MacAddr([0xfa, 0x16, 0x3e, 0, 0, 1]);

/// One write to the datastore.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) enum Write {
    Migration { uid: &'static str, from: HostId, to: HostId },
    MigrationGone { to: HostId },
    Endpoint { host: HostId, uid: &'static str },
    EndpointGone { host: HostId },
}

/// What happens to the virtual machine, or to a tap because of it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) enum Move {
    /// It stops where it runs.
    Stops,
    /// It runs on another host.
    Arrives(HostId),
    /// It goes on where it has been.
    GoesOn(HostId),
    /// It announces itself where it runs.
    Announces,
    TapGoes(HostId),
    TapComes(HostId),
}

/// A write, and when it can be made.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Planned<T> {
    pub(crate) what: T,
    /// So many of the other list have come before.
    pub(crate) after: usize,
    /// The driver makes the next one within half a second.
    pub(crate) is_followed_at_once: bool,
}

/// Both lists.
#[derive(Clone, Debug, Default)]
pub(crate) struct Script {
    pub(crate) writes: Vec<Planned<Write>>,
    pub(crate) moves: Vec<Planned<Move>>,
    endpoints: usize,
}

const UIDS: [&str; 8] = ["e0", "e1", "e2", "e3", "e4", "e5", "e6", "e7"];

impl Script {
    /// The virtual machine runs on `a`; everything else comes after that.
    pub(crate) fn new() -> Self {
        Self::default()
    }

    fn write(&mut self, what: Write, is_followed_at_once: bool) {
        let after = self.moves.len();
        self.writes.push(Planned { what, after, is_followed_at_once });
    }

    fn moves(&mut self, what: Move) {
        let after = self.writes.len();
        self.moves.push(Planned { what, after, is_followed_at_once: false });
    }

    fn new_endpoint(&mut self, host: HostId) -> Write {
        self.endpoints += 1;
        Write::Endpoint { host, uid: UIDS[self.endpoints] }
    }

    /// The last one of a host, written again.
    fn same_endpoint(&self, host: HostId) -> Write {
        let of_host = self.writes.iter().rev().map(|write| write.what);
        of_host
            .into_iter()
            .find(|write| matches!(write, Write::Endpoint { host: other, .. } if *other == host))
            .unwrap_or(Write::Endpoint { host, uid: UIDS[0] })
    }

    /// The driver announces a migration.
    pub(crate) fn begins(mut self, uid: &'static str, from: HostId, to: HostId) -> Self {
        self.write(Write::Migration { uid, from, to }, true);
        let source = self.same_endpoint(from);
        self.write(source, true);
        let target = self.new_endpoint(to);
        self.write(target, false);
        self
    }

    /// The driver sees that another migration is under way now, in place of the one before, of which it writes no end.
    pub(crate) fn replaced_by(mut self, uid: &'static str, from: HostId, to: HostId) -> Self {
        self.write(Write::Migration { uid, from, to }, false);
        self
    }

    /// The virtual machine goes over.
    pub(crate) fn moves_to(mut self, to: HostId, announcements: usize) -> Self {
        self.moves(Move::Stops);
        self.moves(Move::Arrives(to));
        for _ in 0..announcements {
            self.moves(Move::Announces);
        }
        self
    }

    /// The virtual machine stops, and goes on where it is.
    pub(crate) fn stops_in_vain(mut self, at: HostId) -> Self {
        self.moves(Move::Stops);
        self.moves(Move::GoesOn(at));
        self
    }

    /// The driver ends a migration that has succeeded, and creates the target's endpoint anew.
    pub(crate) fn succeeds(mut self, from: HostId, to: HostId) -> Self {
        self.write(Write::MigrationGone { to }, true);
        self.moves(Move::TapGoes(from));
        // Only the end of the migration waits for the virtual machine.
        let waits = self.moves.len() - 1;
        self.write(Write::EndpointGone { host: from }, true);
        self.write(Write::EndpointGone { host: to }, true);
        let target = self.new_endpoint(to);
        self.write(target, false);
        self.waits_for(3, waits);
        self
    }

    /// The same, where the driver writes the target's endpoint again without deleting it.
    pub(crate) fn succeeds_without_a_gap(mut self, from: HostId, to: HostId) -> Self {
        self.write(Write::MigrationGone { to }, true);
        self.moves(Move::TapGoes(from));
        let waits = self.moves.len() - 1;
        self.write(Write::EndpointGone { host: from }, true);
        let target = self.same_endpoint(to);
        self.write(target, false);
        self.waits_for(2, waits);
        self
    }

    /// The driver takes a migration back.
    pub(crate) fn rolled_back(mut self, from: HostId, to: HostId) -> Self {
        self.write(Write::MigrationGone { to }, true);
        self.moves(Move::TapGoes(to));
        let waits = self.moves.len() - 1;
        self.write(Write::EndpointGone { host: from }, true);
        self.write(Write::EndpointGone { host: to }, true);
        let source = self.new_endpoint(from);
        self.write(source, false);
        self.waits_for(3, waits);
        self
    }

    /// The last `count` writes wait for no more moves than these.
    fn waits_for(&mut self, count: usize, moves: usize) {
        let first = self.writes.len() - count;
        for write in &mut self.writes[first..] {
            write.after = moves;
        }
    }

    pub(crate) fn tap_comes(mut self, host: HostId) -> Self {
        self.moves(Move::TapComes(host));
        self
    }
}

pub(crate) fn port(host: HostId) -> EndpointKey {
    EndpointKey {
        host: NAMES[host].into(),
        orchestrator: "openstack".into(),
        workload: "openstack/vm".into(),
        endpoint: "port1".into(),
    }
}

pub(crate) fn number(host: &str) -> HostId {
    NAMES.iter().position(|name| *name == host).expect("one of the hosts")
}

pub(crate) fn prefixes() -> BTreeSet<ipnet::IpNet> {
    ["10.65.0.2/32", "2001:db8::2/128"].iter().map(|text| text.parse().expect("a prefix")).collect()
}

impl Write {
    /// What a host hears of it.
    pub(crate) fn fact(self) -> Fact {
        match self {
            Self::Migration { uid, from, to } => {
                let source = Some(MigrationSource::Endpoint(port(from)));
                let target = Some(MigrationTarget::Endpoint(port(to)));
                let migration = LiveMigration { uid: uid.into(), source, target };
                // The name of the resource is that of the target's endpoint, as a driver chooses it.
                Fact::MigrationWritten(port(to).to_string(), migration)
            }
            Self::MigrationGone { to } => Fact::MigrationRemoved(port(to).to_string()),
            Self::Endpoint { host, uid } => Fact::EndpointWritten(
                port(host),
                Endpoint {
                    uid: uid.into(),
                    interface: TAP.into(),
                    mac: Some(MAC),
                    prefixes: prefixes(),
                    labels: Labels::default(),
                },
            ),
            Self::EndpointGone { host } => Fact::EndpointRemoved(port(host)),
        }
    }

    /// The endpoint's host; nothing for a migration.
    pub(crate) const fn endpoint(self) -> Option<HostId> {
        match self {
            Self::Endpoint { host, .. } | Self::EndpointGone { host } => Some(host),
            Self::Migration { .. } | Self::MigrationGone { .. } => None,
        }
    }
}
