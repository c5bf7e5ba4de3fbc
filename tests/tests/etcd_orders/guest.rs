//! One virtual machine on its way through a script: what is written about it, where it runs, and since when.

use super::orders::{HostNumber, Script, Step};
use super::stage::{FAR, host_name};
use cutover_common::MacAddr;
use cutover_daemon::clock;
use cutover_engine::BootTime;
use cutover_tests::datastore;
use cutover_tests::etcd::Write;
use cutover_tests::resources::new_uid;
use cutover_tests::{OpenTap, Port, Tap};
use ipnet::IpNet;
use std::collections::{BTreeMap, BTreeSet};

/// A time at which a machine was on a host.
#[derive(Clone, Debug)]
pub(crate) struct Stay {
    pub(crate) host: HostNumber,
    /// When it was announced or, at home, when everything was in place.
    pub(crate) from: BootTime,
    pub(crate) how: Arrival,
    /// When it went on or stopped.
    pub(crate) to: Option<BootTime>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Arrival {
    /// It has always been here.
    Home,
    Announced,
    Silent,
}

/// A machine.
pub(crate) struct Guest {
    pub(crate) number: u16,
    pub(crate) script: Script,
    pub(crate) port: Port,
    pub(crate) taps: BTreeMap<HostNumber, Tap>,
    pub(crate) open: Option<OpenTap>,
    pub(crate) stays: Vec<Stay>,
    /// When the migration to a host was removed last.
    pub(crate) ended_at: BTreeMap<HostNumber, BootTime>,
    /// From when to when a host may have routes although the machine is not there: its endpoint was written before
    /// anything said that it is a target.
    pub(crate) unaware: Vec<(HostNumber, BootTime, Option<BootTime>)>,
    /// Hosts with an endpoint and its uid.
    pub(crate) endpoints: BTreeMap<HostNumber, String>,
    /// Migrations by target, with the source.
    pub(crate) migrations: BTreeMap<HostNumber, HostNumber>,
    /// Hosts that a migration was to, ever since their endpoint was written.
    pub(crate) targets: BTreeSet<HostNumber>,
}

impl Guest {
    pub(crate) fn new(number: u16, script: Script) -> Self {
        let [high, low] = number.to_be_bytes();
        let mut port = Port::new(1);
        port.workload = format!("vm{number:05}");
        port.endpoint = format!("port{number:05}");
        port.interface = format!("tapport{number:05}");
        port.mac = MacAddr([0xfa, 0x16, 0x3e, 1, high, low]);
        port.addresses = vec![
            IpNet::new([10, 66, high, low].into(), 32).expect("a full prefix"),
            IpNet::new([0x2001, 0xdb8, 0x66, 0, 0, 0, 0, number].into(), 128).expect("a full prefix"),
        ];
        Self {
            number,
            script,
            port,
            taps: BTreeMap::new(),
            open: None,
            stays: Vec::new(),
            ended_at: BTreeMap::new(),
            unaware: Vec::new(),
            endpoints: BTreeMap::new(),
            migrations: BTreeMap::new(),
            targets: BTreeSet::new(),
        }
    }

    /// Where it runs.
    pub(crate) fn lives(&self) -> Option<&Stay> {
        self.stays.last().filter(|stay| stay.to.is_none())
    }

    pub(crate) fn lives_on(&self, host: HostNumber) -> bool {
        self.lives().is_some_and(|stay| stay.host == host)
    }

    /// Whether the agent of a host has to wait for its announcement.
    pub(crate) fn awaited_on(&self, host: HostNumber) -> bool {
        let arrived = self.lives().is_some_and(|stay| stay.host == host && stay.how == Arrival::Announced);
        !arrived
            && self.endpoints.contains_key(&host)
            && self.migrations.get(&host).is_some_and(|from| *from != host)
    }

    /// It goes on to another host, or nowhere.
    pub(crate) fn leave(&mut self) {
        if let Some(stay) = self.stays.last_mut() {
            stay.to.get_or_insert(clock::now());
        }
    }

    /// What a step writes into etcd. `at` is a moment before it is written.
    pub(crate) fn write(&mut self, step: Step, at: BootTime) -> Write {
        let write = match step {
            Step::Begins { attempt, from, to } => {
                self.migrations.insert(to, from);
                self.targets.insert(to);
                let uid = format!("{:05}-attempt-{attempt}", self.number);
                let document = self.port.migration(&host_name(from), &host_name(to), &uid);
                Write { key: self.migration_key(to), value: Some(document.to_string()) }
            }
            Step::Ends(to) => {
                self.migrations.remove(&to);
                self.ended_at.insert(to, at);
                Write { key: self.migration_key(to), value: None }
            }
            Step::Written(host) => {
                let uid = self.endpoints.entry(host).or_insert_with(new_uid).clone();
                let document = self.port.endpoint_on(&host_name(host), &uid);
                Write { key: self.endpoint_key(host), value: Some(document.to_string()) }
            }
            Step::Gone(host) => {
                self.endpoints.remove(&host);
                self.targets.remove(&host);
                Write { key: self.endpoint_key(host), value: None }
            }
            Step::FarStatusGone => Write { key: self.status_key(FAR), value: None },
            event => panic!("{event:?} is not written"),
        };
        self.note_unaware(at);
        write
    }

    /// Keeps account of hosts that nothing tells that the machine is not there.
    fn note_unaware(&mut self, at: BootTime) {
        for host in self.endpoints.keys().copied().filter(|host| *host != FAR) {
            let is_unaware = !self.targets.contains(&host);
            let open = self.unaware.iter_mut().find(|(on, _, to)| *on == host && to.is_none());
            match (is_unaware, open) {
                (true, None) => self.unaware.push((host, at, None)),
                (false, Some((_, _, to))) => *to = Some(at),
                _ => {}
            }
        }
        for (host, _, to) in &mut self.unaware {
            if !self.endpoints.contains_key(host) {
                to.get_or_insert(at);
            }
        }
    }

    pub(crate) fn endpoint_key(&self, host: HostNumber) -> String {
        datastore::endpoint_key(&self.port, &host_name(host))
    }

    pub(crate) fn migration_key(&self, to: HostNumber) -> String {
        datastore::migration_key(&self.port, &host_name(to))
    }

    pub(crate) fn status_key(&self, host: HostNumber) -> String {
        datastore::status_key(&self.port, &host_name(host))
    }
}
